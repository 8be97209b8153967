//! Alerts verified by the official library of Standard Webhooks, in a receiver written with it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use serde_json::Value;
use tributary::{act::ExpansionRow, time::EventTime};

use crate::{
    PATIENCE,
    alerts_support::{SECRET, Time, advance, appears, options, row, start, turns, units, until},
    needs,
};

/// The receiver in Python; it ends with the test.
struct Official {
    process: Child,
    lines: mpsc::Receiver<Value>,
    address: SocketAddr,
}

impl Official {
    fn start(python: &str, statuses: &[&str]) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/receiver.py");
        let mut process = Command::new(python)
            .args([program, SECRET])
            .args(statuses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let port: u16 = output.next().unwrap().unwrap().parse().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { process, lines, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    fn next(&self) -> Value {
        self.lines.recv_timeout(PATIENCE).expect("a message in time")
    }
}

impl Drop for Official {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_library_verifies_what_is_sent() {
    let Some(python) = needs::python() else { return };
    let data = tempfile::tempdir().unwrap();
    let official = Official::start(&python, &["500", "200"]);
    // The library compares with the real time.
    let time = Time::new(chrono::Utc::now().timestamp());
    let handle = start(options(data.path(), official.address), &time).await;
    let first = ExpansionRow { occurred_at: EventTime::from_seconds(time.now()), ..row("m1", 100, 200) };
    let second = ExpansionRow { mrr_after: units(300), mrr_delta: units(200), ..first.clone() };

    handle.offer(vec![appears(first.clone())]).await.unwrap();
    let failed = official.next();
    until("the failure to be noted", || handle.counts().failed == 1).await;
    advance(&handle, &time, 5).await;
    let delivered = official.next();
    handle.offer(vec![turns(first, second)]).await.unwrap();
    let correction = official.next();
    handle.shutdown().await;

    for line in [&failed, &delivered, &correction] {
        assert_eq!(line["verified"], true, "{line}");
    }
    assert_eq!((&failed["status"], &delivered["status"]), (&Value::from(500), &Value::from(200)));
    assert_eq!(failed["id"], delivered["id"]);
    let message = &delivered["message"];
    assert_eq!(message["type"], "mrr.expansion");
    let expansion = &message["data"]["expansion"];
    assert_eq!((&expansion["mrr_delta"], &expansion["customer_id"]), (&"100.000000".into(), &"cus_1".into()));
    assert_eq!(correction["message"]["type"], "mrr.expansion.corrected");
    assert_eq!(correction["message"]["data"]["corrects"], delivered["id"]);
    assert_eq!(correction["message"]["data"]["expansion"]["mrr_after"], "300.000000");
}

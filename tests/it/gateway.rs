//! The webhook gateway over HTTP: what is answered 200 is in the log, and nothing else ever gets there.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};
use tributary::{
    gateway::{self, Error, Handle, Options, WEBHOOK_PATH},
    log::{self, EventLog, NewRecord, Position, Record},
    stripe::{
        Admission, Redactor,
        signature::{Secret, sign},
    },
    time::EventTime,
};

use crate::{PATIENCE, needs};

const SECRET: &str = "whsec_gateway_test";

/// What the gateway's clock shows.
const NOW: i64 = 1_790_000_000;

/// A log in memory that can fail and can be made to wait.
struct MemoryLog {
    records: Mutex<Vec<NewRecord>>,
    appends: AtomicUsize,
    fails: AtomicBool,
    open: watch::Sender<bool>,
}

impl MemoryLog {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            appends: AtomicUsize::new(0),
            fails: AtomicBool::new(false),
            open: watch::Sender::new(true),
        })
    }

    fn bodies(&self) -> Vec<Bytes> {
        self.records.lock().unwrap().iter().map(|record| record.body.clone()).collect()
    }

    fn appends(&self) -> usize {
        self.appends.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn identity(&self) -> Result<String, log::Error> {
        Ok("memory".to_owned())
    }

    async fn partitions(&self) -> Result<u32, log::Error> {
        Ok(1)
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, log::Error> {
        self.appends.fetch_add(1, Ordering::SeqCst);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        if self.fails.load(Ordering::SeqCst) {
            return Err(log::Error::Unavailable("switched off".to_owned()));
        }
        let mut all = self.records.lock().unwrap();
        let first = all.len() as u64;
        let positions = (0..records.len() as u64).map(|n| Position { partition: 0, offset: first + n }).collect();
        all.extend(records);
        Ok(positions)
    }

    async fn read(&self, _: u32, _: u64, _: usize, _: Duration) -> Result<Vec<Record>, log::Error> {
        Ok(Vec::new())
    }

    async fn end_offsets(&self) -> Result<Vec<u64>, log::Error> {
        Ok(vec![self.records.lock().unwrap().len() as u64])
    }
}

fn options() -> Options {
    Options::new(SocketAddr::from(([127, 0, 0, 1], 0)), vec![Secret::new(SECRET)])
}

async fn start_at(options: Options, log: &Arc<MemoryLog>, now: i64) -> Result<Handle, Error> {
    let admission = Admission::new(Redactor::builtin().unwrap(), "acct_own".into());
    let clock = Arc::new(move || EventTime::from_seconds(now));
    gateway::start(options, Arc::clone(log) as Arc<dyn EventLog>, Arc::new(admission), clock).await
}

async fn start(options: Options, log: &Arc<MemoryLog>) -> Handle {
    start_at(options, log, NOW).await.unwrap()
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

fn url(gateway: &Handle) -> String {
    format!("http://{}{WEBHOOK_PATH}", gateway.local_addr())
}

fn event(n: usize) -> Vec<u8> {
    let customer = json!({
        "id": format!("cus_{n}"), "object": "customer", "created": NOW - 60, "livemode": true, "currency": "eur",
        "email": "ada@example.com", "name": "Ada Lovelace", "phone": "+43 1 2345678", "balance": 0,
    });
    json!({
        "id": format!("evt_{n}"), "object": "event", "type": "customer.created", "created": NOW - 1,
        "livemode": true, "api_version": "2025-03-31.basil", "data": { "object": customer },
    })
    .to_string()
    .into_bytes()
}

fn header(body: &[u8], secret: &str, age: i64) -> String {
    sign(body, &Secret::new(secret), EventTime::from_seconds(NOW - age))
}

async fn post(gateway: &Handle, body: Vec<u8>, signature: &str) -> Response {
    client().post(url(gateway)).header("Stripe-Signature", signature).body(body).send().await.unwrap()
}

async fn post_signed(gateway: &Handle, body: Vec<u8>) -> Response {
    let signature = header(&body, SECRET, 0);
    post(gateway, body, &signature).await
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn what_is_answered_200_is_in_the_log_by_then_and_without_anything_personal() {
    let log = MemoryLog::new();
    let gateway = start(options(), &log).await;
    join_all((0..100).map(|n| {
        let (gateway, log) = (&gateway, &log);
        async move {
            assert_eq!(post_signed(gateway, event(n)).await.status(), StatusCode::OK);
            let id = format!("\"evt_{n}\"");
            assert!(log.bodies().iter().any(|body| String::from_utf8_lossy(body).contains(&id)), "{id}");
        }
    }))
    .await;
    let stored = String::from_utf8(log.bodies().concat()).unwrap();
    for personal in ["ada@example.com", "Lovelace", "2345678"] {
        assert!(!stored.contains(personal), "{personal} was stored");
    }
    let status = client().get(format!("http://{}/status", gateway.local_addr())).send().await.unwrap();
    let status = status.text().await.unwrap();
    assert!(!status.contains("Lovelace"));
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["received"], &status["appended"]), (&json!(100), &json!(100)));
    assert_eq!(status["dropped_paths"]["customer.email"], 100, "{status}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn nothing_unsigned_altered_old_or_too_large_reaches_the_log() {
    let log = MemoryLog::new();
    let gateway = start(Options { max_body_bytes: 10_000, ..options() }, &log).await;
    let body = event(1);
    let good = header(&body, SECRET, 0);
    let mut altered = body.clone();
    *altered.last_mut().unwrap() = b' ';
    let large = vec![b' '; 10_001];
    let bad_request = StatusCode::BAD_REQUEST;
    for (body, header, expected) in [
        (altered, good.clone(), bad_request),
        (body.clone(), String::new(), bad_request),
        (body.clone(), "t=1,v0=00".to_owned(), bad_request),
        (body.clone(), header(&body, "whsec_other", 0), bad_request),
        (body.clone(), header(&body, SECRET, 301), bad_request),
        (body.clone(), header(&body, SECRET, -301), bad_request),
        (large.clone(), header(&large, SECRET, 0), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let response = post(&gateway, body, &header).await;
        assert_eq!(response.status(), expected, "{header}");
        let text = response.text().await.unwrap();
        assert!(text.len() < 80 && !text.contains("evt_") && !text.contains("whsec_"), "{text}");
    }
    assert_eq!(log.appends(), 0);
    let refused = gateway.status().refused;
    assert_eq!((refused.signature_malformed, refused.signature_mismatch), (2, 2));
    assert_eq!((refused.signature_time, refused.body_too_large), (2, 1));
    assert_eq!(post(&gateway, body, &good).await.status(), StatusCode::OK);
    gateway.shutdown().await;
}

#[tokio::test]
async fn during_a_roll_of_secrets_both_are_accepted() {
    let log = MemoryLog::new();
    let gateway =
        start(Options { secrets: vec![Secret::new("whsec_new"), Secret::new(SECRET)], ..options() }, &log).await;
    for secret in ["whsec_new", SECRET] {
        let body = event(1);
        let signature = header(&body, secret, 0);
        assert_eq!(post(&gateway, body, &signature).await.status(), StatusCode::OK);
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn while_the_log_fails_nothing_is_acknowledged_and_then_it_goes_on() {
    let log = MemoryLog::new();
    let gateway = start(options(), &log).await;
    log.fails.store(true, Ordering::SeqCst);
    let response = post_signed(&gateway, event(1)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(log.bodies().len(), 0);
    log.fails.store(false, Ordering::SeqCst);
    assert_eq!(post_signed(&gateway, event(1)).await.status(), StatusCode::OK);
    let status = gateway.status();
    assert_eq!((status.received, status.appended, status.refused.log_unavailable), (2, 1, 1));
    gateway.shutdown().await;
}

#[tokio::test]
async fn more_requests_at_once_than_allowed_are_put_off_and_the_others_answered() {
    let log = MemoryLog::new();
    let options = Options { max_in_flight: 2, ..options() };
    let gateway = Arc::new(start(options, &log).await);
    log.open.send_replace(false);
    let in_work: Vec<_> = (0..2)
        .map(|n| {
            let gateway = Arc::clone(&gateway);
            tokio::spawn(async move { post_signed(&gateway, event(n)).await.status() })
        })
        .collect();
    until("both appends to begin", || log.appends() == 2).await;
    let put_off = post_signed(&gateway, event(2)).await;
    assert_eq!(put_off.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(put_off.headers().contains_key("retry-after"));
    log.open.send_replace(true);
    for answer in join_all(in_work).await {
        assert_eq!(answer.unwrap(), StatusCode::OK);
    }
    let status = gateway.status();
    assert_eq!((status.appended, status.refused.busy, log.bodies().len()), (2, 1, 2));
}

#[tokio::test]
async fn a_log_or_a_body_that_is_too_slow_is_answered_in_time() {
    let log = MemoryLog::new();
    let gateway = start(Options { request_timeout: Duration::from_millis(200), ..options() }, &log).await;
    log.open.send_replace(false);
    assert_eq!(post_signed(&gateway, event(1)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    log.open.send_replace(true);

    let mut stream = TcpStream::connect(gateway.local_addr()).await.unwrap();
    let head = format!("POST {WEBHOOK_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf of");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(gateway.status().refused.body_slow, 1);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_signed_body_that_cannot_be_read_is_kept_as_a_rejection_without_its_content() {
    let log = MemoryLog::new();
    let gateway = start(options(), &log).await;
    for body in [&b"ada@example.com"[..], b"{\"email\":\"ada@example.com\"}", b"\xff\xfe"] {
        assert_eq!(post_signed(&gateway, body.to_vec()).await.status(), StatusCode::OK);
    }
    let bodies = log.bodies();
    assert_eq!(bodies.len(), 3);
    for body in &bodies {
        let body: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(body["object"], "tributary.rejection");
        assert!(!body.to_string().contains("ada@"));
    }
    assert_eq!(gateway.status().rejected.values().sum::<u64>(), 3);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_answers_what_is_in_work() {
    let log = MemoryLog::new();
    let gateway = start(options(), &log).await;
    log.open.send_replace(false);
    let (url, body) = (url(&gateway), event(1));
    let signature = header(&body, SECRET, 0);
    let request = tokio::spawn(client().post(url).header("Stripe-Signature", signature).body(body).send());
    until("the append to begin", || log.appends() == 1).await;
    let shutdown = tokio::spawn(gateway.shutdown());
    log.open.send_replace(true);
    assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::OK);
    shutdown.await.unwrap();
    assert_eq!(log.bodies().len(), 1);
}

#[tokio::test]
async fn without_a_secret_it_does_not_start() {
    let log = MemoryLog::new();
    for secrets in [Vec::new(), vec![Secret::new(" ")]] {
        let error = start_at(Options { secrets, ..options() }, &log, NOW).await.unwrap_err();
        assert!(matches!(error, Error::NoSecret) && error.to_string().contains("TRIBUTARY_WEBHOOK_SECRET"));
    }
    for max_body_bytes in [0, log::MAX_RECORD_BYTES + 1] {
        let error = start_at(Options { max_body_bytes, ..options() }, &log, NOW).await.unwrap_err();
        assert!(matches!(error, Error::Limit(_)));
    }
}

#[tokio::test]
async fn it_answers_health_checks_and_nothing_else() {
    let log = MemoryLog::new();
    let gateway = start(options(), &log).await;
    let get = async |path: &str| {
        client().get(format!("http://{}{path}", gateway.local_addr())).send().await.unwrap().status()
    };
    assert_eq!(get("/healthz").await, StatusCode::OK);
    assert_eq!(get(WEBHOOK_PATH).await, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(get("/").await, StatusCode::NOT_FOUND);
    gateway.shutdown().await;
}

/// Runs `sign_event.py` and returns the status it was answered with.
fn send_with_the_sdk(python: &str, url: &str, body: &[u8], arguments: &[&str]) -> u16 {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/sign_event.py");
    let mut process = Command::new(python)
        .args([program, url])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(body).unwrap();
    let output = process.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("a status on standard output")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_signed_by_stripes_own_sdk_are_accepted_and_only_while_fresh() {
    let Some(python) = needs::python() else { return };
    let log = MemoryLog::new();
    // The SDK signs with the real time.
    let gateway = start_at(options(), &log, chrono::Utc::now().timestamp()).await.unwrap();
    let url = url(&gateway);
    let not_ascii = String::from_utf8(event(1)).unwrap().replace("Ada Lovelace", "Ада Лавлейс 💶");
    let not_ascii = not_ascii.into_bytes();
    let statuses = tokio::task::spawn_blocking(move || {
        [
            send_with_the_sdk(&python, &url, &event(0), &[SECRET]),
            send_with_the_sdk(&python, &url, &not_ascii, &[SECRET]),
            send_with_the_sdk(&python, &url, &event(2), &["whsec_new", "--also", SECRET]),
            send_with_the_sdk(&python, &url, &event(3), &["whsec_new"]),
            send_with_the_sdk(&python, &url, &event(4), &[SECRET, "--age", "400"]),
        ]
    });
    assert_eq!(statuses.await.unwrap(), [200, 200, 200, 400, 400]);
    assert_eq!(log.bodies().len(), 3);
    gateway.shutdown().await;
}

//! Appends new subscriptions to the log that a configuration names: `cargo bench --bench append -- CONFIG DATA_DIR FIRST
//! COUNT [RATE]`.
//!
//! Customers FIRST to FIRST + COUNT − 1 get one subscription each, now; RATE of them a second, or as fast as it goes. With
//! a rate, prints for each of them, a line each, when the log had it: microseconds since 1970. The log holds it by then.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and times"
)]

mod events;

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tributary::{
    config::Config,
    log::{self, EventLog},
    stripe::{
        admission::{Admission, AdmissionCounts},
        redaction::Redactor,
    },
};

use events::subscription;

/// Events appended at once when there is no rate.
const BATCH: u32 = 4_000;
/// How often events are appended when there is one.
const TICK: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [config, data_dir, first, count, rate @ ..] = arguments.as_slice() else {
        println!("NOT RUN: say where and how many: cargo bench --bench append -- CONFIG DATA_DIR FIRST COUNT [RATE]");
        return;
    };
    let config = Config::load(Some(Path::new(config)), Path::new(data_dir)).unwrap();
    let log = log::open(&config.log(Path::new(data_dir)).unwrap()).await.unwrap();
    let admission = Admission::new(Redactor::builtin().unwrap(), config.account());
    let (first, count): (u32, u32) = (first.parse().unwrap(), count.parse().unwrap());
    match rate {
        [] => {
            for from in (0..count).step_by(BATCH as usize) {
                append(&*log, &admission, first + from, BATCH.min(count - from)).await;
            }
        }
        [rate, ..] => print!("{}", at_rate(&*log, &admission, first, count, rate.parse().unwrap()).await),
    }
}

/// Appends what is due, tick by tick; the times at which the log had the events.
async fn at_rate(log: &dyn EventLog, admission: &Admission, first: u32, count: u32, rate: f64) -> String {
    let mut times = String::new();
    let mut ticks = tokio::time::interval(TICK);
    let began = Instant::now();
    let mut done = 0;
    while done < count {
        ticks.tick().await;
        let due = count.min((began.elapsed().as_secs_f64() * rate) as u32);
        if due > done {
            append(log, admission, first + done, due - done).await;
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
            for _ in done..due {
                writeln!(times, "{at}").unwrap();
            }
            done = due;
        }
    }
    times
}

async fn append(log: &dyn EventLog, admission: &Admission, first: u32, count: u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut counts = AdmissionCounts::default();
    let records = (first..first + count)
        .map(|id| admission.admit(subscription(id, now as i64, 0, 1, 1).as_bytes(), &mut counts))
        .collect();
    log.append(records).await.unwrap();
    assert_eq!(counts.events, u64::from(count), "every event was admitted");
}

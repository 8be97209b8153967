//! The ledger alone, and beside the decoding it follows: `cargo bench --bench ledger [CUSTOMERS [MONTHS]]`.
//!
//! Prints the cost of an event that changes nothing and of one that moves recurring revenue, the memory of a live
//! subscription with a year of monthly history, and on a simulated account the ledger's share of the time that decoding
//! and ledger take together. One thread; memory is what the allocator was asked for.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and times"
)]
#![allow(unsafe_code, reason = "an allocator that counts")]

mod events;

use std::{
    alloc::{GlobalAlloc, Layout},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use tikv_jemallocator::Jemalloc;
use tributary::{
    ledger::{Arrival, Delta, Ledger, Rules},
    simulate::{Options, simulate},
    stripe::{
        admission::{LogRecord, read_record},
        counts::UnknownCounts,
        ids::AccountId,
        types::Event,
    },
    time::EventTime,
};

use events::subscription;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on unchanged to the allocator that the program has.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { Jemalloc.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Events of one call of the ledger, as in a backlog.
const BATCH: usize = 20_000;
/// 2024-01-01.
const START: i64 = 1_704_067_200;

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let customers = numbers.first().copied().unwrap_or(20_000);
    let months = numbers.get(1).copied().unwrap_or(18);
    one_by_one(customers);
    account(customers, months);
}

/// Subscriptions with one item: created, renewed a year long, then one more seat each month for half a year.
fn one_by_one(customers: u32) {
    let mut ledger = Ledger::new(Rules::default());
    let before = HELD.load(Ordering::Relaxed);
    let mut rounds = Rounds::default();
    let created = rounds.run(&mut ledger, customers, |id| subscription(id, START, 0, 1, 1));
    let mut renewed = Duration::ZERO;
    for month in 1..=12 {
        renewed += rounds.run(&mut ledger, customers, |id| subscription(id, START, month, 1, 1));
    }
    let held = HELD.load(Ordering::Relaxed) - before;
    let mut moved = Duration::ZERO;
    for month in 13..=18 {
        moved += rounds.run(&mut ledger, customers, |id| subscription(id, START, month, month - 11, month - 12));
    }
    assert_eq!(rounds.entries, u64::from(customers) * 7, "every creation and every seat is an entry");
    let customers = f64::from(customers);
    println!("{customers:.0} subscriptions, one customer each");
    println!("  created                        {:8.2} µs an event", micros(created) / customers);
    println!("  renewed, changes nothing       {:8.2} µs an event", micros(renewed) / customers / 12.0);
    println!("  one seat more, moves MRR       {:8.2} µs an event", micros(moved) / customers / 6.0);
    println!("  a year of monthly history      {:8.0} bytes a subscription", held as f64 / customers);
}

#[derive(Default)]
struct Rounds {
    entries: u64,
    appended: i64,
}

impl Rounds {
    /// Gives every customer one event; the time the ledger took.
    fn run(&mut self, ledger: &mut Ledger, customers: u32, body: impl Fn(u32) -> String) -> Duration {
        let mut took = Duration::ZERO;
        let ids: Vec<u32> = (0..customers).collect();
        for batch in ids.chunks(BATCH) {
            let events: Vec<Event> = batch.iter().map(|id| decode(body(*id).as_bytes())).collect();
            self.appended += 1;
            let appended_at = EventTime::from_millis(START * 1_000 + self.appended);
            let (delta, spent) = apply(ledger, &events, appended_at);
            took += spent;
            self.entries += delta.entries.len() as u64;
        }
        took
    }
}

/// A simulated account, decoded and applied.
fn account(customers: u32, months: u32) {
    let mut ledger = Ledger::new(Rules::default());
    let mut lines: Vec<Vec<u8>> = Vec::with_capacity(BATCH);
    let (mut decoding, mut applying) = (Duration::ZERO, Duration::ZERO);
    let (mut events, mut entries, mut bytes) = (0_u64, 0_u64, 0_u64);
    let options = Options { customers, months, ..Options::default() };
    let mut batch = |lines: &mut Vec<Vec<u8>>| {
        let began = Instant::now();
        let decoded: Vec<Event> = lines.iter().map(|line| decode(line)).collect();
        decoding += began.elapsed();
        let (delta, spent) = apply(&mut ledger, &decoded, EventTime::from_seconds(START));
        applying += spent;
        events += decoded.len() as u64;
        entries += delta.entries.len() as u64;
        bytes += lines.iter().map(|line| line.len() as u64).sum::<u64>();
        lines.clear();
    };
    simulate(&options, &mut |line| {
        lines.push(line.to_vec());
        if lines.len() == BATCH {
            batch(&mut lines);
        }
        Ok(())
    })
    .unwrap();
    batch(&mut lines);
    let share = applying.as_secs_f64() / (applying + decoding).as_secs_f64();
    println!("{customers} customers, {months} months: {events} events of {} bytes, {entries} entries", bytes / events);
    println!("  decoding alone                 {:8.0} events a second", events as f64 / decoding.as_secs_f64());
    println!("  ledger alone                   {:8.0} events a second", events as f64 / applying.as_secs_f64());
    println!("  ledger alone                   {:8.0} entries a second", entries as f64 / applying.as_secs_f64());
    println!("  ledger's share of the two      {:8.1} %", share * 100.0);
}

fn apply(ledger: &mut Ledger, events: &[Event], appended_at: EventTime) -> (Delta, Duration) {
    let arrivals: Vec<Arrival<'_>> = events.iter().map(|event| Arrival { event, appended_at }).collect();
    let began = Instant::now();
    let delta = ledger.apply(&arrivals).unwrap();
    (delta, began.elapsed())
}

fn decode(body: &[u8]) -> Event {
    let mut unknown = UnknownCounts::default();
    match read_record(body, &AccountId::from("self"), &mut unknown).unwrap() {
        LogRecord::Event(event) => *event,
        LogRecord::Rejection { reason, .. } => panic!("{reason}"),
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

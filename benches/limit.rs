//! How fast records can be had at all: `cargo bench --bench limit -- BROKERS TOPIC`.
//!
//! Polls a topic from its beginning to its present end with rdkafka and parses each record into an envelope, the object
//! itself unread; one thread, nothing else. Prints events per second. The engine's own speed is a share of this.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and times"
)]

use std::{
    borrow::Cow,
    hint::black_box,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longer than a broker takes to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[allow(dead_code, reason = "parsed, not read")]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    created: i64,
    livemode: bool,
    #[serde(borrow)]
    data: &'a RawValue,
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let (Some(brokers), Some(topic)) = (arguments.next(), arguments.next()) else {
        println!("NOT RUN: say which: cargo bench --bench limit -- BROKERS TOPIC");
        return;
    };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "tributary-bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE).unwrap();
    let mut assignment = TopicPartitionList::new();
    let mut waiting = 0;
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(&topic, partition.id(), PATIENCE).unwrap();
        assignment.add_partition_offset(&topic, partition.id(), Offset::Offset(low)).unwrap();
        waiting += high - low;
    }
    let began = Instant::now();
    consumer.assign(&assignment).unwrap();
    let (mut events, mut bytes) = (0_i64, 0);
    while events < waiting {
        let message = consumer.poll(PATIENCE).unwrap().unwrap();
        let body = message.payload().unwrap_or_default();
        black_box(serde_json::from_slice::<Envelope<'_>>(body).ok());
        bytes += body.len();
        events += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{events} events of {} bytes polled and parsed: {:.0} events a second",
        bytes as i64 / events.max(1),
        events as f64 / seconds
    );
}

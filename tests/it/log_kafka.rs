//! What only the log on Kafka promises: what the brokers refuse, remove or fail to answer is an error that says so,
//! within bounded time.

use std::time::{Duration, Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminOptions, NewPartitions},
    config::ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use tributary::log::{self, Error, Options, kafka};

use crate::{
    PATIENCE,
    log_support::{BOUND, Broker, PARTITIONS, Place, admin, kafka_options, read_some, record},
};

fn options_of(place: &Place) -> &kafka::Options {
    match &place.options {
        Options::Kafka(options) => options,
        Options::Embedded { .. } => panic!("not Kafka"),
    }
}

async fn refusal(options: kafka::Options) -> Error {
    log::open(&Options::Kafka(options)).await.err().expect("an error")
}

#[tokio::test]
async fn a_missing_topic_is_refused_by_name() {
    let Some(place) = Place::kafka() else { return };
    let error = refusal(kafka::Options { create: false, ..options_of(&place).clone() }).await;
    assert!(matches!(error, Error::Configuration(_)));
    assert!(error.to_string().contains(&options_of(&place).topic), "{error}");
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_an_error_within_bounded_time() {
    // Nobody listens on port 1; the other is a listener that says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let brokers = ["127.0.0.1:1".to_owned(), silent.local_addr().unwrap().to_string()];
    let started = Instant::now();
    let errors = brokers.each_ref().map(|brokers| refusal(kafka_options(brokers, "any", true)));
    for (error, brokers) in futures::future::join_all(errors).await.into_iter().zip(brokers) {
        assert!(matches!(error, Error::Unavailable(_)) && error.to_string().contains(&brokers), "{error}");
    }
    assert!(started.elapsed() < BOUND);
}

#[tokio::test]
async fn wrong_properties_are_refused_by_name() {
    for (name, value) in [("no.such.property", "1"), ("linger.ms", "secret"), ("acks", "0")] {
        let mut options = kafka_options("127.0.0.1:1", "any", false);
        options.properties.insert(name.into(), value.into());
        let error = refusal(options).await;
        assert!(matches!(error, Error::Configuration(_)), "{error}");
        assert!(error.to_string().contains(name) && !error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_removed_is_gone_and_said_to_be() {
    let Some(place) = Place::kafka() else { return };
    let log = place.open().await;
    let positions = log.append((0..10).map(|n| record("one", &format!("{n}"))).collect()).await.unwrap();
    let partition = positions[0].partition;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&options_of(&place).topic, partition.cast_signed(), Offset::Offset(4)).unwrap();
    admin(options_of(&place)).delete_records(&before, &AdminOptions::new()).await.unwrap();

    let gone = Error::Gone { partition, offset: 3, begins: 4, ends: 10 };
    assert_eq!(log.read(partition, 3, 10, PATIENCE).await.unwrap_err(), gone);
    assert_eq!(log.read(partition, 4, 1, PATIENCE).await.unwrap()[0].body, "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_transactions_of_others_are_not_read() {
    let Some(place) = Place::kafka() else { return };
    let log = place.open().await;
    let options = options_of(&place);
    let other: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &options.brokers)
        .set("transactional.id", &options.topic)
        .create()
        .unwrap();
    other.init_transactions(PATIENCE).unwrap();
    for (body, commit) in [("committed", true), ("aborted", false), ("committed later", true)] {
        other.begin_transaction().unwrap();
        other.send(BaseRecord::to(&options.topic).partition(0).key("k").payload(body)).map_err(|e| e.0).unwrap();
        other.flush(PATIENCE).unwrap();
        match commit {
            true => other.commit_transaction(PATIENCE).unwrap(),
            false => other.abort_transaction(PATIENCE).unwrap(),
        }
    }
    let mut next = 0;
    for body in ["committed", "committed later"] {
        let read = log.read(0, next, 1, PATIENCE).await.unwrap().remove(0);
        assert_eq!(read.body, body);
        next = read.offset + 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_more_partitions_is_another_log() {
    let Some(place) = Place::kafka() else { return };
    let log = place.open().await;
    let identity = log.identity().await.unwrap();
    let more = NewPartitions::new(&options_of(&place).topic, PARTITIONS as usize * 2);
    let limits = AdminOptions::new().operation_timeout(Some(PATIENCE));
    admin(options_of(&place)).create_partitions([&more], &limits).await.unwrap()[0].as_ref().unwrap();
    assert!(matches!(log.identity().await, Err(Error::Configuration(_))));
    assert_ne!(place.open().await.identity().await.unwrap(), identity);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_falls_silent_is_an_error_and_its_return_is_met() {
    let Some(broker) = Broker::start() else { return };
    let address = broker.address.clone();
    let log = log::open(&Options::Kafka(kafka_options(&address, "silent", true))).await.unwrap();
    let first = log.append(vec![record("one", "before")]).await.unwrap()[0];
    assert_eq!(read_some(&*log, first, 1).await[0].body, "before");

    broker.signal("-STOP");
    let started = Instant::now();
    let (appended, read, ends) = tokio::join!(
        log.append(vec![record("one", "meanwhile")]),
        log.read(first.partition, first.offset + 1, 1, PATIENCE),
        log.end_offsets(),
    );
    assert!(matches!(appended, Err(Error::Unavailable(_))), "{appended:?}");
    assert!(matches!(read, Err(Error::Unavailable(_))), "{read:?}");
    assert!(matches!(ends, Err(Error::Unavailable(_))), "{ends:?}");
    assert!(started.elapsed() < BOUND, "after {:?}", started.elapsed());

    broker.signal("-CONT");
    let back = tokio::time::timeout(PATIENCE, async {
        loop {
            match log.append(vec![record("one", "after")]).await {
                Ok(positions) => break positions[0],
                Err(Error::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(other) => panic!("{other}"),
            }
        }
    });
    let after = back.await.unwrap();
    assert_eq!(read_some(&*log, after, 1).await[0].body, "after");
    let ends = log.end_offsets().await.unwrap();
    assert_eq!(ends[after.partition as usize], after.offset + 1);
}

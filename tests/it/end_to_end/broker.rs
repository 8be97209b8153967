//! A broker that dies and comes back, and a topic that is created anew, while the engine runs.

use super::{
    crash::durable,
    same::{NOT_IN_EVERY_ACCOUNT, assert_same_tables},
    support::{Running, Said, Site, until, within},
};
use crate::{
    PATIENCE,
    log_support::{Broker, admin, kafka_options},
};

const TOPIC: &str = "events";

/// A site whose log is a topic of the broker.
fn site(broker: &Broker) -> Site {
    let site = Site::new();
    let config = format!(
        "[log]\ntransport = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{TOPIC}\"\npartitions = 3\n\n\
         [engine]\ncheckpoint_seconds = 1\n",
        broker.address
    );
    site.write("tributary.toml", &config);
    site.simulate("events.jsonl", "--customers 80 --months 5 --seed 43");
    site
}

fn until_durable(site: &Site, data: &str, records: usize) {
    until("what was appended to be durable", || (durable(site, data) == records as i64).then_some(()));
}

#[test]
fn an_engine_waits_for_a_broker_that_died_and_goes_on_when_it_is_back() {
    let Some(broker) = Broker::start() else { return };
    let site = site(&broker);
    let events = site.read("events.jsonl");
    let lines: Vec<&str> = events.lines().collect();
    let (first, second) = lines.split_at(lines.len() / 2);
    site.ingest("data", &first.join("\n"));
    let mut engine = Running::start(&site, "--data-dir data", &[]);
    engine.word_after("port=");
    until_durable(&site, "data", first.len());

    let again = broker.kill();
    until("the engine to miss the broker", || {
        engine.said().contains("the event log is not available; trying again").then_some(())
    });
    assert_eq!(durable(&site, "data"), first.len() as i64, "the tables are there");
    let refused = Said::of(site.command("run --once --data-dir other").output().unwrap());
    assert!(refused.code == 1 && refused.words().contains("not available"), "{}", refused.err);
    broker.start_again(again);
    site.write("rest.jsonl", &second.join("\n"));
    let ingested = within(PATIENCE, || {
        site.command("ingest rest.jsonl --data-dir data").output().unwrap().status.success().then_some(())
    });
    ingested.expect("the broker to take events");
    // What an ingest that failed had appended already is there twice; nobody counts it twice.
    let read = within(PATIENCE, || {
        let sql = "SELECT count(DISTINCT event_id) FROM events_archive";
        (site.number("data", sql) == lines.len() as i64).then_some(())
    });
    read.expect("the second half to be read");
    let said = engine.stop();
    assert!(!said.contains("ERROR"), "{said}");

    site.run("run --once --data-dir data");
    site.run("run --once --data-dir calm");
    assert_same_tables((&site, "data"), (&site, "calm"), &NOT_IN_EVERY_ACCOUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_stops_when_its_topic_is_created_anew_and_a_start_refuses_the_other_one() {
    let Some(broker) = Broker::start() else { return };
    let site = site(&broker);
    let events = site.read("events.jsonl");
    let records = events.lines().count();
    site.ingest("data", &events);
    let mut engine = Running::start(&site, "--data-dir data", &[]);
    engine.word_after("port=");
    until_durable(&site, "data", records);

    let options = kafka_options(&broker.address, TOPIC, true);
    let limits = rdkafka::admin::AdminOptions::new();
    admin(&options).delete_topics(&[TOPIC], &limits).await.unwrap()[0].as_ref().unwrap();
    let stopped = engine.ended();
    let words = stopped.words();
    assert_eq!(stopped.code, 1, "{words}");
    let says = ["has no topic events; create it or check its name", "the topic events was created anew"];
    assert!(says.iter().any(|says| words.contains(says)), "{words}");

    // With as many partitions, and the same records in them, so that every offset is there.
    site.ingest("other", &events);
    let refused = Said::of(site.command("run --once --data-dir data").output().unwrap());
    let words = refused.words();
    assert!(refused.code == 1 && words.contains("the event log is not the one these tables were made from"), "{words}");
    assert_eq!(durable(&site, "data"), records as i64, "nothing was touched");
}

//! The whole path over Apache Kafka.

use tributary::log::Options;

use super::{
    support::{Said, Site},
    truth::assert_equals_truth,
};
use crate::log_support::Place;

#[tokio::test]
async fn kafka_carries_the_same_run() {
    let Some(place) = Place::kafka() else { return };
    let Options::Kafka(options) = &place.options else { panic!("not Kafka") };
    let site = Site::new();
    let config = format!(
        "[log]\ntransport = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{}\"\npartitions = 3\n",
        options.brokers, options.topic
    );
    site.write("tributary.toml", &config);
    site.simulate("events.jsonl", "--customers 150 --months 6 --seed 7 --disorder 0.1 --truth truth");
    let events = site.read("events.jsonl");
    let lines: Vec<&str> = events.lines().collect();
    let (first, second) = lines.split_at(lines.len() / 2);

    site.ingest("data", &first.join("\n"));
    let said = site.run("run --once --data-dir data").err;
    assert!(said.contains(&format!("{} records read", first.len())), "{said}");
    site.ingest("data", &second.join("\n"));
    let said = site.run("run --once --data-dir data").err;
    assert!(said.contains(&format!("{} records read", second.len())), "it goes on where it was: {said}");
    assert_equals_truth(&site, "data", "truth");
    assert_eq!(site.number("data", "SELECT count(DISTINCT partition) FROM events_archive"), 3);
    assert_eq!(site.number("data", "SELECT count(*) FROM events_archive"), lines.len() as i64);
    assert!(!site.path("data/log").exists(), "there is no embedded log beside it");
    let said = site.run("run --once --data-dir data").err;
    assert!(said.starts_with("0 records read"), "nothing is read again: {said}");

    place.delete().await;
    site.ingest("other", &first.join("\n"));
    let refused = Said::of(site.command("run --once --data-dir data").output().unwrap());
    assert_eq!(refused.code, 1, "another topic of the same name was taken for the old one: {}", refused.err);
    let words = refused.words();
    assert!(words.contains("the event log is not the one these tables were made from"), "{words}");
    assert_equals_truth(&site, "data", "truth");
}

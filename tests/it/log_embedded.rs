//! What only the embedded log promises: processes that are killed and files that are torn lose nothing that was
//! acknowledged, and files it cannot read are refused in words.

use std::{collections::HashMap, fs, path::Path};

use rusqlite::Connection;
use tributary::log::{
    self, Error, EventLog, Options, Record,
    embedded::{EmbeddedLog, FILE_NAME},
};

use crate::log_support::{BATCH, PARTITIONS, Place, line, read_all, record};

fn dir_of(place: &Place) -> &Path {
    match &place.options {
        Options::Embedded { dir, .. } => dir,
        Options::Kafka(_) => panic!("not embedded"),
    }
}

async fn all_of(log: &dyn EventLog) -> Vec<Record> {
    let ends = log.end_offsets().await.unwrap();
    let records = read_all(log, ends.iter().sum::<u64>() as usize).await;
    // Dense: as many records as the ends say, and `read_all` saw them increase.
    for (partition, end) in ends.iter().enumerate() {
        let last = records.iter().filter(|r| r.partition as usize == partition).map(|r| r.offset + 1).max();
        assert_eq!(last.unwrap_or(0), *end);
    }
    records
}

/// Batches of other processes are there as a whole or not at all.
fn assert_whole_batches(records: &[Record]) {
    let mut batches: HashMap<(String, String), usize> = HashMap::new();
    for record in records {
        let body = std::str::from_utf8(&record.body).unwrap();
        let (key, n) = body.split_once(' ').unwrap();
        let (writer, _) = key.rsplit_once('-').unwrap();
        *batches.entry((writer.to_owned(), n.to_owned())).or_default() += 1;
    }
    for (batch, records) in batches {
        assert_eq!(records, BATCH, "{batch:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_a_process_that_appends_loses_nothing_it_acknowledged() {
    let place = Place::embedded();
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        // One that goes on appending beside it, so that the survivors' files are in use.
        let survivor = place.spawn("append", &format!("survivor{round}"), 20);
        let mut victim = place.spawn("append", &format!("victim{round}"), 1_000_000);
        for _ in 0..20 + 37 * round {
            acknowledged.push(victim.next_line().unwrap());
        }
        victim.process.kill().unwrap();
        victim.process.wait().unwrap();
        // What it had said before it died counts as well.
        acknowledged.extend(std::iter::from_fn(|| victim.next_line()));
        acknowledged.extend(survivor.finish());

        let log = place.open().await;
        let records = all_of(&*log).await;
        assert_whole_batches(&records);
        let there: std::collections::HashSet<_> = records.iter().map(line).collect();
        for acknowledged in &acknowledged {
            assert!(there.contains(acknowledged), "{acknowledged} is lost");
        }
        let file = Connection::open(dir_of(&place).join(FILE_NAME)).unwrap();
        let check: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_write_shows_no_half_batch_and_takes_nothing_before_it() {
    let place = Place::embedded();
    let log = place.open().await;
    let wal_name = format!("{FILE_NAME}-wal");
    let snapshot = |name: &str| fs::read(dir_of(&place).join(name)).unwrap();

    let first: Vec<_> = (0..BATCH).map(|i| record(&format!("w-{i}"), &format!("w-{i} 0"))).collect();
    log.append(first).await.unwrap();
    let whole = snapshot(&wal_name).len();
    // Each of another page, so that the transaction is torn between its pages too.
    let second: Vec<_> =
        (0..BATCH).map(|i| record(&format!("w-{i}"), &format!("w-{i} 1{}", " ".repeat(40_000)))).collect();
    log.append(second).await.unwrap();
    let (database, wal) = (snapshot(FILE_NAME), snapshot(&wal_name));
    assert!(wal.len() > whole + 100_000);

    let mut seen = std::collections::BTreeSet::new();
    for (n, cut) in (whole..=wal.len()).rev().step_by(4099).chain([whole, whole + 1, wal.len() - 1]).enumerate() {
        for garbage in [0, 5000] {
            let torn = Place::embedded();
            fs::create_dir_all(dir_of(&torn)).unwrap();
            fs::write(dir_of(&torn).join(FILE_NAME), &database).unwrap();
            let rest = std::iter::repeat_n(n as u8, garbage);
            let tail: Vec<u8> = wal[..cut].iter().copied().chain(rest).collect();
            fs::write(dir_of(&torn).join(&wal_name), tail).unwrap();

            let log = torn.open().await;
            let records = all_of(&*log).await;
            assert!(records.len() == BATCH || records.len() == 2 * BATCH, "{} records, cut at {cut}", records.len());
            assert_eq!(records.len() == 2 * BATCH, cut == wal.len());
            seen.insert(records.len());
            // And it goes on from there.
            let ends = log.end_offsets().await.unwrap();
            let at = log.append(vec![record("w-0", "w-0 2")]).await.unwrap()[0];
            assert_eq!(at.offset, ends[at.partition as usize]);
        }
    }
    assert_eq!(seen.len(), 2, "both outcomes were met");
}

#[tokio::test]
async fn a_log_keeps_the_partitions_it_was_created_with() {
    let place = Place::embedded();
    drop(place.open().await);
    let log = EmbeddedLog::open(dir_of(&place), PARTITIONS * 2).await.unwrap();
    assert_eq!(log.partitions().await.unwrap(), PARTITIONS);
    for partitions in [0, 1_000_000] {
        assert!(matches!(EmbeddedLog::open(dir_of(&place), partitions).await, Err(Error::Configuration(_))));
    }
}

async fn refusal(place: &Place) -> String {
    match log::open(&place.options).await {
        Err(Error::Configuration(text)) => text,
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_refused_in_words() {
    let at = |place: &Place| {
        fs::create_dir_all(dir_of(place)).unwrap();
        dir_of(place).join(FILE_NAME)
    };

    let newer = Place::embedded();
    drop(newer.open().await);
    Connection::open(at(&newer)).unwrap().execute("UPDATE meta SET value = 2 WHERE name = 'format'", []).unwrap();
    assert!(refusal(&newer).await.contains("use a newer Tributary"));

    let another = Place::embedded();
    Connection::open(at(&another)).unwrap().execute("CREATE TABLE other (x)", []).unwrap();
    assert!(refusal(&another).await.contains("is not an event log"));

    let text = Place::embedded();
    fs::write(at(&text), "not a database, but long enough to be taken for the header of one, ".repeat(10)).unwrap();
    assert!(refusal(&text).await.contains("damaged or no event log"));

    let nowhere = Place::embedded();
    fs::write(dir_of(&nowhere), "a file where the directory should be").unwrap();
    assert!(refusal(&nowhere).await.contains("cannot create"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_may_create_the_log_at_once() {
    let place = Place::embedded();
    let others: Vec<_> = (0..6).map(|n| place.spawn("append", &format!("p{n}"), 1)).collect();
    let said: usize = others.into_iter().map(|o| o.finish().len()).sum();
    assert_eq!(said, 6 * BATCH);
    assert_eq!(all_of(&*place.open().await).await.len(), 6 * BATCH);
}

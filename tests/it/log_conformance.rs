//! What every event log promises, whatever its transport: each promise here is checked on both.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tributary::log::{Error, EventLog, MAX_RECORD_BYTES, NewRecord, Position, partition_of};

use crate::{
    PATIENCE,
    log_support::{BATCH, BOUND, Place, line, read_all, read_some, record},
};

macro_rules! promises {
    ($($promise:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(crate::log_support::Place::embedded()).await;
            })*
        }
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                if let Some(place) = crate::log_support::Place::kafka() {
                    super::$promise(place).await;
                }
            })*
        }
    };
}

promises! {
    what_was_appended_is_there_after_reopening
    any_bytes_come_back_as_they_were
    records_of_a_key_stay_in_order_in_the_partition_of_their_hash
    reading_resumes_from_any_offset_of_any_partition
    end_offsets_are_where_the_next_records_go
    append_times_never_go_backwards
    a_record_up_to_the_limit_passes_and_a_larger_one_is_refused
    a_slow_reader_misses_nothing
    concurrent_appends_all_get_places_of_their_own
    several_processes_append_and_read_at_once
    reading_at_the_end_waits_and_wakes
    an_offset_beyond_the_end_is_an_error
    an_unknown_partition_is_an_error
    the_identity_stays_on_reopening_and_changes_on_recreation
}

fn keyed(count: usize) -> Vec<NewRecord> {
    (0..count).map(|n| record(&format!("key {}", n % 17), &format!("body {n}"))).collect()
}

async fn what_was_appended_is_there_after_reopening(place: Place) {
    let log = place.open().await;
    let batch = keyed(100);
    let positions = log.append(batch.clone()).await.unwrap();
    assert_eq!(positions.len(), 100);
    drop(log);

    let log = place.open().await;
    let read: HashMap<_, _> =
        read_all(&*log, 100).await.into_iter().map(|r| ((r.partition, r.offset), (r.key, r.body))).collect();
    assert_eq!(read.len(), 100);
    for (position, appended) in positions.iter().zip(batch) {
        assert_eq!(read[&(position.partition, position.offset)], (appended.key, appended.body));
    }
    // What comes after goes after.
    let ends = log.end_offsets().await.unwrap();
    for position in log.append(keyed(10)).await.unwrap() {
        assert!(position.offset >= ends[position.partition as usize]);
    }
}

async fn any_bytes_come_back_as_they_were(place: Place) {
    let log = place.open().await;
    assert_eq!(log.append(Vec::new()).await.unwrap(), []);
    let all: Vec<u8> = (0..=255).collect();
    let odd = [(&all[..], &b""[..]), (b"", &all), (b"\0", b"\0\0"), ("ключ".as_bytes(), "событие 🎉".as_bytes())];
    let batch: Vec<_> = odd
        .iter()
        .map(|(k, b)| NewRecord { key: Bytes::copy_from_slice(k), body: Bytes::copy_from_slice(b) })
        .collect();
    let positions = log.append(batch).await.unwrap();
    for (position, (key, body)) in positions.into_iter().zip(odd) {
        let read = read_some(&*log, position, 1).await.remove(0);
        assert_eq!((&read.key[..], &read.body[..]), (key, body));
    }
}

async fn records_of_a_key_stay_in_order_in_the_partition_of_their_hash(place: Place) {
    let log = place.open().await;
    let partitions = log.partitions().await.unwrap();
    for start in 0..20 {
        let batch: Vec<_> =
            (0..50).map(|n| record(&format!("key {}", n % 7), &format!("{:06}", start * 50 + n))).collect();
        let keys: Vec<_> = batch.iter().map(|r| r.key.clone()).collect();
        for (position, key) in log.append(batch).await.unwrap().iter().zip(keys) {
            assert_eq!(position.partition, partition_of(&key, partitions));
        }
    }
    let mut last: HashMap<Bytes, Bytes> = HashMap::new();
    for read in read_all(&*log, 1000).await {
        if let Some(before) = last.insert(read.key, read.body.clone()) {
            assert!(before < read.body, "{before:?} lies before {:?}", read.body);
        }
    }
}

async fn reading_resumes_from_any_offset_of_any_partition(place: Place) {
    let log = place.open().await;
    let positions = log.append(keyed(400)).await.unwrap();
    let bodies: HashMap<_, _> =
        positions.iter().zip(keyed(400)).map(|(p, r)| ((p.partition, p.offset), r.body)).collect();
    // On, back and across, in small steps and in large ones.
    for (i, at) in positions.iter().enumerate().step_by(41).chain(positions.iter().enumerate().rev().step_by(97)) {
        let most = 1 + i % 40;
        let read = log.read(at.partition, at.offset, most, PATIENCE).await.unwrap();
        assert!(!read.is_empty() && read.len() <= most);
        assert_eq!(read[0].offset, at.offset);
        for record in read {
            assert_eq!(bodies[&(record.partition, record.offset)], record.body);
        }
    }
    assert_eq!(log.read(0, 0, 0, PATIENCE).await.unwrap().len(), 0, "none were asked for");
}

async fn end_offsets_are_where_the_next_records_go(place: Place) {
    let log = place.open().await;
    let mut ends = log.end_offsets().await.unwrap();
    assert_eq!(ends, vec![0; log.partitions().await.unwrap() as usize]);
    for round in 1..5 {
        for position in log.append(keyed(10 * round)).await.unwrap() {
            let end = &mut ends[position.partition as usize];
            assert_eq!(position.offset, *end);
            *end += 1;
        }
        assert_eq!(log.end_offsets().await.unwrap(), ends);
        // Another reader sees the same.
        assert_eq!(place.open().await.end_offsets().await.unwrap(), ends);
    }
}

async fn append_times_never_go_backwards(place: Place) {
    let log = place.open().await;
    for _ in 0..20 {
        log.append(keyed(5)).await.unwrap();
    }
    let mut last = HashMap::new();
    for read in read_all(&*log, 100).await {
        assert!(read.appended_at.seconds() > 1_700_000_000);
        if let Some(before) = last.insert(read.partition, read.appended_at) {
            assert!(before <= read.appended_at);
        }
    }
}

async fn a_record_up_to_the_limit_passes_and_a_larger_one_is_refused(place: Place) {
    let log = place.open().await;
    let large = |bytes: usize| {
        // Random, so that compression does not help.
        let body: Vec<u8> = (0..bytes - 4).map(|_| rand::random()).collect();
        NewRecord { key: Bytes::from_static(b"4444"), body: body.into() }
    };
    let batch = vec![large(MAX_RECORD_BYTES), record("4444", "small"), large(MAX_RECORD_BYTES - 1)];
    let positions = log.append(batch.clone()).await.unwrap();
    let read = read_some(&*log, positions[0], 3).await;
    for (read, appended) in read.iter().zip(&batch) {
        assert!(read.body == appended.body, "{} bytes came back as {}", appended.body.len(), read.body.len());
    }
    let refused = log.append(vec![record("4444", "before"), large(MAX_RECORD_BYTES + 1)]).await;
    assert_eq!(refused, Err(Error::TooLarge { bytes: MAX_RECORD_BYTES + 1 }));
    // The whole batch was.
    assert_eq!(log.end_offsets().await.unwrap()[positions[0].partition as usize], positions[2].offset + 1);
}

async fn a_slow_reader_misses_nothing(place: Place) {
    const BATCHES: u64 = 100;
    let (log, reading) = (place.open().await, place.open().await);
    let (written, mut progress) = tokio::sync::watch::channel(0);
    let writer = tokio::spawn(async move {
        for n in 0..BATCHES {
            log.append((0..10).map(|i| record("one", &format!("{:06}", n * 10 + i))).collect()).await.unwrap();
            written.send_replace(n);
        }
    });
    let partition = partition_of(b"one", reading.partitions().await.unwrap());
    let mut next = 0;
    while next < BATCHES * 10 {
        let read = reading.read(partition, next, 7, PATIENCE).await.unwrap();
        assert!(!read.is_empty());
        for record in read {
            assert_eq!(record.offset, next);
            assert_eq!(record.body, format!("{next:06}"));
            next += 1;
        }
        // Slower than the writer, until that has ended.
        let _ = progress.changed().await;
    }
    writer.await.unwrap();
}

async fn concurrent_appends_all_get_places_of_their_own(place: Place) {
    let log = place.open().await;
    let appends = (0..200).map(|n| {
        let log: Arc<dyn EventLog> = log.clone();
        tokio::spawn(async move {
            let body = format!("body {n}");
            (log.append(vec![record(&format!("key {n}"), &body)]).await.unwrap()[0], body)
        })
    });
    let mut bodies = HashMap::new();
    for append in appends.collect::<Vec<_>>() {
        let (position, body) = append.await.unwrap();
        assert!(bodies.insert((position.partition, position.offset), body).is_none(), "{position:?} given twice");
    }
    for read in read_all(&*log, 200).await {
        assert_eq!(read.body, bodies[&(read.partition, read.offset)]);
    }
}

async fn several_processes_append_and_read_at_once(place: Place) {
    const APPENDS: usize = 60;
    const WRITERS: usize = 3;
    let log = place.open().await;
    let reader = place.spawn("read", "reader", WRITERS * APPENDS * BATCH);
    let writers: Vec<_> = (0..WRITERS).map(|w| place.spawn("append", &format!("writer{w}"), APPENDS)).collect();

    let mut read: Vec<_> = read_all(&*log, WRITERS * APPENDS * BATCH).await;
    let mut last: HashMap<(u32, &Bytes), &Bytes> = HashMap::new();
    for record in &read {
        if let Some(before) = last.insert((record.partition, &record.key), &record.body) {
            assert!(before < &record.body, "{before:?} lies before {:?}", record.body);
        }
    }
    read.sort_by_key(|r| (r.partition, r.offset));
    let mut read: Vec<String> = read.iter().map(line).collect();
    let mut read_by_the_other = reader.finish();
    let mut acknowledged: Vec<String> = writers.into_iter().flat_map(|w| w.finish()).collect();
    for lines in [&mut read, &mut read_by_the_other, &mut acknowledged] {
        lines.sort_unstable();
    }
    assert_eq!(read, acknowledged);
    assert_eq!(read, read_by_the_other);
}

async fn reading_at_the_end_waits_and_wakes(place: Place) {
    let (log, other) = (place.open().await, place.open().await);
    let first = log.append(vec![record("one", "first")]).await.unwrap()[0];
    let end = Position { offset: first.offset + 1, ..first };

    let short = Duration::from_millis(300);
    let started = tokio::time::Instant::now();
    assert_eq!(log.read(end.partition, end.offset, 10, short).await.unwrap().len(), 0);
    assert!(started.elapsed() >= short && started.elapsed() < BOUND);

    // Woken by an append of this handle, then by one of another.
    for (n, appending) in [&log, &other].into_iter().enumerate() {
        let from = end.offset + n as u64;
        let (reading, body) = (log.clone(), format!("awaited {n}"));
        let waiting = tokio::spawn(async move { reading.read(end.partition, from, 10, PATIENCE).await });
        assert!(log.read(end.partition, from, 10, short).await.unwrap().is_empty());
        assert!(!waiting.is_finished());
        let started = tokio::time::Instant::now();
        appending.append(vec![record("one", &body)]).await.unwrap();
        let read = waiting.await.unwrap().unwrap();
        assert_eq!(read[0].body, body);
        assert!(started.elapsed() < BOUND / 3, "woken after {:?}", started.elapsed());
    }
}

async fn an_offset_beyond_the_end_is_an_error(place: Place) {
    let log = place.open().await;
    let at = log.append(vec![record("one", "first"), record("one", "second")]).await.unwrap()[1];
    for beyond in [1, 1000, 1 << 60] {
        let offset = at.offset + 1 + beyond;
        let gone = Error::Gone { partition: at.partition, offset, begins: 0, ends: at.offset + 1 };
        assert_eq!(log.read(at.partition, offset, 10, PATIENCE).await.unwrap_err(), gone);
    }
    // The log is none the worse for it.
    assert_eq!(read_some(&*log, at, 1).await[0].body, "second");
}

async fn an_unknown_partition_is_an_error(place: Place) {
    let log = place.open().await;
    let partitions = log.partitions().await.unwrap();
    assert!(matches!(log.read(partitions, 0, 1, PATIENCE).await, Err(Error::Configuration(_))));
}

async fn the_identity_stays_on_reopening_and_changes_on_recreation(place: Place) {
    let log = place.open().await;
    let identity = log.identity().await.unwrap();
    assert_eq!(place.open().await.identity().await.unwrap(), identity);

    place.delete().await;
    // The handle that was open does not go on as if nothing had happened.
    assert!(matches!(log.identity().await, Err(Error::Configuration(_))));
    assert!(matches!(log.append(keyed(1)).await, Err(Error::Configuration(_))));
    let created = place.open().await;
    assert_ne!(created.identity().await.unwrap(), identity);
    created.append(keyed(1)).await.unwrap();
    assert!(matches!(log.identity().await, Err(Error::Configuration(_))));
    let refused = tokio::time::timeout(PATIENCE, async {
        loop {
            match log.read(0, 0, 1, Duration::ZERO).await {
                Err(Error::Configuration(_)) => break,
                Ok(_) | Err(Error::Unavailable(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    refused.await.unwrap();
}

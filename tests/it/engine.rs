//! The engine with a log and a clock of the test's own: what comes while a checkpoint is written is not in it, and so much
//! is read meanwhile and no more, so that behind a slow disk the log waits, and not memory; and it merges small files
//! however short its lives are.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{runtime::Runtime, sync::watch};
use tributary::{
    engine::{Engine, MAX_RECORDS_AN_EPOCH, Options},
    ledger::Rules,
    log::{self, EventLog, NewRecord, Position, Record},
    serve::view::HOT_ROWS_LIMIT,
    sink::{TableSpec, commits, delta::DeltaTable},
    storage::Home,
    tables,
    time::EventTime,
};

use crate::{
    PATIENCE,
    delta::{at, select},
};

/// A log that counts the records which were read from it.
struct Counted {
    log: Arc<dyn EventLog>,
    read: AtomicU64,
}

#[async_trait]
impl EventLog for Counted {
    async fn identity(&self) -> Result<String, log::Error> {
        self.log.identity().await
    }

    async fn partitions(&self) -> Result<u32, log::Error> {
        self.log.partitions().await
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, log::Error> {
        self.log.append(records).await
    }

    async fn read(&self, partition: u32, from: u64, max: usize, wait: Duration) -> Result<Vec<Record>, log::Error> {
        let records = self.log.read(partition, from, max, wait).await?;
        self.read.fetch_add(records.len() as u64, Ordering::SeqCst);
        Ok(records)
    }

    async fn end_offsets(&self) -> Result<Vec<u64>, log::Error> {
        self.log.end_offsets().await
    }
}

/// Holds up who asks for the time, which a checkpoint does right before it is decided.
#[derive(Default)]
struct Gate {
    /// Whether somebody waits, and whether it is open.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(_, open)| !*open).unwrap());
    }

    fn wait_for_somebody(&self) {
        let state = self.state.lock().unwrap();
        let (state, waited) = self.changed.wait_timeout_while(state, PATIENCE, |(waits, _)| !*waits).unwrap();
        drop(state);
        assert!(!waited.timed_out(), "no checkpoint began");
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

fn options(data_dir: &Path) -> Options {
    Options {
        home: Home::directory(data_dir).unwrap(),
        workshop: None,
        take_over: false,
        account: "acct_own".into(),
        skip: Arc::default(),
        rules: Rules::default(),
        pipelines: Vec::new(),
        parameters: BTreeMap::new(),
        settings: BTreeMap::new(),
        zone: chrono_tz::UTC,
        allowed_lateness: Duration::ZERO,
        checkpoint_interval: Duration::ZERO,
        memory: None,
    }
}

fn records(count: usize) -> Vec<NewRecord> {
    (0..count).map(|n| NewRecord { key: Bytes::from(format!("key {n}")), body: Bytes::from_static(b"{}") }).collect()
}

#[test]
fn while_a_checkpoint_is_written_epochs_go_on_until_as_many_rows_wait_as_one_may_have() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let place = log::Options::Embedded { dir: dir.path().join("log"), partitions: 2 };
    let log = runtime.block_on(log::open(&place)).unwrap();
    runtime.block_on(log.append(records(10))).unwrap();
    let counted = Arc::new(Counted { log: Arc::clone(&log), read: AtomicU64::new(0) });

    let gate = Arc::new(Gate::default());
    let (stop, stopped) = watch::channel(false);
    let (tell, told) = mpsc::channel();
    let engine = {
        let (gate, counted, options) = (Arc::clone(&gate), Arc::clone(&counted), options(dir.path()));
        thread::spawn(move || {
            let clock = Arc::new(move || {
                gate.pass();
                EventTime::from_seconds(1_790_000_000)
            });
            Runtime::new().unwrap().block_on(async {
                let mut engine = Engine::open(options, counted, None, clock, "nonce".to_owned()).await.unwrap();
                tell.send(engine.progress()).unwrap();
                engine.run(stopped).await.unwrap();
            });
        })
    };
    let progress = told.recv().unwrap();
    gate.wait_for_somebody();
    assert_eq!(counted.read.load(Ordering::SeqCst), 10);
    // What waits when the rows are too many, what the epoch brought that made them so, and what was read ahead.
    let most = 10 + HOT_ROWS_LIMIT + 2 * MAX_RECORDS_AN_EPOCH;
    let mut sent = 10;
    while sent < most + 2 * MAX_RECORDS_AN_EPOCH {
        runtime.block_on(log.append(records(MAX_RECORDS_AN_EPOCH))).unwrap();
        sent += MAX_RECORDS_AN_EPOCH;
    }
    let reads = |records: usize| {
        let began = Instant::now();
        while progress.borrow().records < records as u64 {
            assert!(began.elapsed() < PATIENCE, "{:?}", *progress.borrow());
            thread::sleep(Duration::from_millis(10));
        }
    };
    reads(HOT_ROWS_LIMIT);
    // Twenty times as long as the engine ever waits before it looks again.
    thread::sleep(Duration::from_millis(20 * 25));
    let read = counted.read.load(Ordering::SeqCst);
    assert!(read <= most as u64, "{read} records were read");
    assert_eq!(progress.borrow().checkpoints, 0);

    gate.open();
    reads(sent);
    stop.send_replace(true);
    engine.join().unwrap();
    assert_eq!(counted.read.load(Ordering::SeqCst), sent as u64);
    let commits = runtime.block_on(commits::open(&at(&dir.path().join("tables")))).unwrap();
    let sql = "SELECT offsets FROM t WHERE number = 1";
    let first = runtime.block_on(select(&commits, sql));
    let offsets: u64 = first.trim_matches(['[', ']']).split(',').map(|offset| offset.parse::<u64>().unwrap()).sum();
    assert_eq!(offsets, 10, "what came while it was written is not in the first checkpoint");
}

/// Data files of the table of rejections.
async fn files(data_dir: &Path) -> usize {
    let table = tables::get("rejected_events").unwrap();
    let (name, schema, key) = (table.name.clone(), Arc::clone(&table.schema), table.key.clone());
    let spec = TableSpec { name, schema, key, partition_by: Vec::new() };
    DeltaTable::open_or_create(&at(&data_dir.join("tables")), spec).await.unwrap().files()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_are_merged_however_short_the_lives_of_engines_are() {
    let dir = tempfile::tempdir().unwrap();
    let place = log::Options::Embedded { dir: dir.path().join("log"), partitions: 1 };
    let log = log::open(&place).await.unwrap();
    let clock = Arc::new(|| EventTime::from_seconds(1_790_000_000));
    for (life, checkpoints) in [30, 19, 1].into_iter().enumerate() {
        let before = files(dir.path()).await;
        let nonce = format!("life {life}");
        let opened = Engine::open(options(dir.path()), Arc::clone(&log), None, clock.clone(), nonce).await;
        let mut engine = opened.unwrap();
        for _ in 0..checkpoints {
            // What cannot be read is a row too.
            log.append(records(1)).await.unwrap();
            engine.drain().await.unwrap();
        }
        engine.close().await;
        let after = files(dir.path()).await;
        println!("{before} files, {after} after {checkpoints} checkpoints more");
        assert_eq!(after, if life < 2 { before + checkpoints } else { 1 });
    }
}

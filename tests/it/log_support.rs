//! What the tests of the event log share: a log of either transport in a place of its own, and other processes that
//! use the same log.
//!
//! Kafka's tests run when `TRIBUTARY_TEST_KAFKA` names a broker (`scripts/with-kafka.sh` sets it); see [`crate::needs`].

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    config::ClientConfig,
};
use tempfile::TempDir;
use tributary::log::{self, EventLog, NewRecord, Options, Position, Record, kafka};

use crate::{PATIENCE, needs};

/// Of every log here, unless a test says otherwise.
pub(crate) const PARTITIONS: u32 = 4;

/// More than the limits of a client add up to, less than a read here may wait.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// A log in a place of its own.
pub(crate) struct Place {
    pub(crate) options: Options,
    _dir: Option<TempDir>,
}

impl Place {
    pub(crate) fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::Embedded { dir: dir.path().join("data"), partitions: PARTITIONS };
        Self { options, _dir: Some(dir) }
    }

    /// `None` where tests are to run without Kafka.
    pub(crate) fn kafka() -> Option<Self> {
        let brokers = needs::kafka()?;
        let topic = format!("test-{:016x}", rand::random::<u64>());
        Some(Self { options: Options::Kafka(kafka_options(&brokers, &topic, true)), _dir: None })
    }

    pub(crate) async fn open(&self) -> Arc<dyn EventLog> {
        log::open(&self.options).await.unwrap()
    }

    /// Deletes the log; opening it creates another one.
    pub(crate) async fn delete(&self) {
        match &self.options {
            Options::Embedded { dir, .. } => std::fs::remove_dir_all(dir).unwrap(),
            Options::Kafka(options) => {
                let limits = AdminOptions::new().operation_timeout(Some(PATIENCE));
                admin(options).delete_topics(&[&options.topic], &limits).await.unwrap()[0].as_ref().unwrap();
            }
        }
    }

    /// Starts another process that does `role` on this log.
    pub(crate) fn spawn(&self, role: &str, name: &str, count: usize) -> Other {
        let place = match &self.options {
            Options::Embedded { dir, .. } => dir.display().to_string(),
            Options::Kafka(options) => format!("{} {}", options.brokers, options.topic),
        };
        let module = module_path!().split_once("::").unwrap().1;
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", &format!("{module}::other_process")])
            .env("LOG_TEST_ROLE", format!("{role} {name} {count}"))
            .env("LOG_TEST_PLACE", place)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Other { process, lines }
    }
}

pub(crate) fn kafka_options(brokers: &str, topic: &str, create: bool) -> kafka::Options {
    kafka::Options {
        brokers: brokers.to_owned(),
        topic: topic.to_owned(),
        create,
        partitions: PARTITIONS,
        replication: None,
        properties: Default::default(),
    }
}

pub(crate) fn admin(options: &kafka::Options) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &options.brokers).create().unwrap()
}

/// A broker of a test's own, which can be stopped in the middle of a sentence.
pub(crate) struct Broker {
    pub(crate) address: String,
    state: TempDir,
}

impl Broker {
    /// `None` where tests are to run without Kafka.
    pub(crate) fn start() -> Option<Self> {
        // Where the shared one runs, another one can.
        needs::kafka()?;
        let state = tempfile::tempdir().unwrap();
        let address = Self::script(&state, "start");
        Some(Self { address, state })
    }

    fn script(state: &TempDir, command: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka.sh");
        let ran = Command::new(script).arg(command).env("TRIBUTARY_KAFKA_DIR", state.path()).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    }

    fn pid(&self) -> String {
        fs::read_to_string(self.state.path().join("pid")).unwrap().trim().to_owned()
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid()]).status().unwrap().success());
    }

    /// Ends it as a power cut would; how to start it again.
    pub(crate) fn kill(&self) -> Command {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid())).unwrap();
        let mut words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(OsStr::from_bytes);
        let log = fs::File::options().append(true).open(self.state.path().join("log")).unwrap();
        let mut again = Command::new(words.next().unwrap());
        again.args(words).stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        self.signal("-KILL");
        again
    }

    /// Starts it again on what it had on disk.
    pub(crate) fn start_again(&self, mut again: Command) {
        let child = again.spawn().unwrap();
        fs::write(self.state.path().join("pid"), child.id().to_string()).unwrap();
        // Whoever is asked whether it still runs must not hear of a child that nobody waited for.
        std::thread::spawn(move || {
            let mut child = child;
            child.wait()
        });
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.pid()]).status();
        Self::script(&self.state, "stop");
    }
}

/// Another process at work.
pub(crate) struct Other {
    pub(crate) process: Child,
    lines: BufReader<ChildStdout>,
}

impl Other {
    /// The next line it said, without what the test harness says; `None` when it has ended.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some(said) = line.trim_end().strip_prefix("> ") {
                return Some(said.to_owned());
            }
            line.clear();
        }
        None
    }

    /// All that it still has to say; it must end well.
    pub(crate) fn finish(mut self) -> Vec<String> {
        let said = std::iter::from_fn(|| self.next_line()).collect();
        assert!(self.process.wait().unwrap().success());
        said
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How many records an appending process puts into each batch.
pub(crate) const BATCH: usize = 3;

/// The other process. `append`: batches of [`BATCH`], and a line `partition offset body` for each record that was
/// acknowledged. `read`: every partition from 0 until `count` records are there, and the same lines.
#[test]
#[ignore = "not a test: the other process of tests, which start it"]
fn other_process() {
    let Ok(role) = env::var("LOG_TEST_ROLE") else { return };
    let place = env::var("LOG_TEST_PLACE").unwrap();
    let options = match place.split_once(' ') {
        Some((brokers, topic)) => Options::Kafka(kafka_options(brokers, topic, false)),
        None => Options::Embedded { dir: place.into(), partitions: PARTITIONS },
    };
    let mut role = role.split(' ');
    let (role, name, count) = (role.next().unwrap(), role.next().unwrap(), role.next().unwrap().parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let log = log::open(&options).await.unwrap();
        match role {
            "append" => {
                for n in 0..count {
                    let batch: Vec<_> =
                        (0..BATCH).map(|i| record(&format!("{name}-{i}"), &format!("{name}-{i} {n:06}"))).collect();
                    let bodies: Vec<_> = batch.iter().map(|r| r.body.clone()).collect();
                    let positions = log.append(batch).await.unwrap();
                    say(positions.iter().zip(&bodies).map(|(p, b)| (p.partition, p.offset, b)));
                }
            }
            "read" => {
                let records = read_all(&*log, count).await;
                say(records.iter().map(|r| (r.partition, r.offset, &r.body)));
            }
            other => panic!("no role {other}"),
        }
    });
}

/// Past the harness, which captures what is printed. One write, so that no half line is ever acknowledged.
fn say<'a>(records: impl Iterator<Item = (u32, u64, &'a Bytes)>) {
    let lines: String =
        records.map(|(p, o, body)| format!("> {p} {o} {}\n", std::str::from_utf8(body).unwrap())).collect();
    std::io::stdout().lock().write_all(lines.as_bytes()).unwrap();
}

pub(crate) fn record(key: &str, body: &str) -> NewRecord {
    NewRecord { key: Bytes::copy_from_slice(key.as_bytes()), body: Bytes::copy_from_slice(body.as_bytes()) }
}

/// The line that [`other_process`] says of a record.
pub(crate) fn line(record: &Record) -> String {
    format!("{} {} {}", record.partition, record.offset, std::str::from_utf8(&record.body).unwrap())
}

/// Reads every partition in turn, from 0, until `count` records are there.
pub(crate) async fn read_all(log: &dyn EventLog, count: usize) -> Vec<Record> {
    let mut next = vec![0; log.partitions().await.unwrap() as usize];
    let mut records = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while records.len() < count {
        assert!(tokio::time::Instant::now() < deadline, "{} of {count} records", records.len());
        for (partition, next) in next.iter_mut().enumerate() {
            let wait = Duration::from_millis(20);
            for record in log.read(partition as u32, *next, 100, wait).await.unwrap() {
                assert!(record.offset >= *next, "offsets increase");
                *next = record.offset + 1;
                records.push(record);
            }
        }
    }
    records
}

/// Reads `count` records of one partition.
pub(crate) async fn read_some(log: &dyn EventLog, from: Position, count: usize) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    while records.len() < count {
        let next = records.last().map_or(from.offset, |r| r.offset + 1);
        let more = log.read(from.partition, next, count - records.len(), PATIENCE).await.unwrap();
        assert!(!more.is_empty(), "{} of {count} records", records.len());
        records.extend(more);
    }
    records
}

//! The log of a single machine: one SQLite file, `log.sqlite`, in the data directory. Nothing to set up.
//!
//! ```text
//! meta     name TEXT PRIMARY KEY, value         format, identity (random), partitions
//! records  id INTEGER PRIMARY KEY               partition << 48 | offset
//!          appended_at INTEGER                  milliseconds since 1970, never backwards within a partition
//!          key BLOB, body BLOB
//! ```
//!
//! Promises: what [`append`](EmbeddedLog::append) returned has been synchronised to the disk; a batch is there as a
//! whole or not at all; offsets of a partition begin at 0 and have no gaps; any number of processes may append and
//! read at once (write-ahead log: readers never wait for writers, writers take turns). One thread a process does the
//! writing and puts what waits for it into one transaction, so that many small appends share one synchronisation.
//! Not for network file systems: SQLite's shared memory does not work there. Nothing is ever deleted.

mod file;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::Instant,
};

use self::file::{LogFile, create_or_check, explain, open_for_reading, open_for_writing};
use super::{Error, EventLog, NewRecord, Position, Record, checked_bytes, partition_of};
use crate::time::EventTime;

/// The file in the data directory.
pub const FILE_NAME: &str = "log.sqlite";

/// The most partitions of a log: more than any machine has cores, few enough to ask each for its end.
pub const MAX_PARTITIONS: u32 = 1024;

/// Bits of a record's id that hold its offset: room for 2^48 records a partition.
const OFFSET_BITS: u32 = 48;

/// What may wait for the writing thread, in bytes. Beyond it `append` waits: back pressure instead of memory.
const MAX_WAITING_BYTES: u32 = 64 * 1024 * 1024;

/// What a waiting record costs beside its key and body.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// How many appends may wait for the writing thread; beyond it `append` waits.
const MAX_WAITING_APPENDS: usize = 4096;

/// A transaction takes no further waiting append when it holds this much, so that the first one is not held up.
const MAX_GROUP_BYTES: usize = 8 * 1024 * 1024;

/// A read ends when it holds this much, whatever `max` says.
const MAX_READ_BYTES: usize = 32 * 1024 * 1024;

/// How often a waiting `read` looks for records of other processes.
const POLL: Duration = Duration::from_millis(5);

/// Reading connections kept open; more are opened while more reads run at once.
const IDLE_READERS: usize = 8;

/// Copies the log in `dir` into `target`, which is created, as it is at one moment: other processes may go on with it.
///
/// # Errors
/// [`Error::Configuration`] when there is no log or it cannot be written.
pub async fn copy(dir: &Path, target: &Path) -> Result<(), Error> {
    let (from, target) = (dir.join(FILE_NAME), target.to_owned());
    blocking(move || {
        let failed = |path: &Path, e: std::io::Error| Error::Configuration(format!("{}: {e}", path.display()));
        fs::create_dir_all(&target).map_err(|e| failed(&target, e))?;
        let to = target.join(FILE_NAME);
        let connection = open_for_reading(&from).map_err(|e| explain(&from, &e))?;
        // SQLite's own way to a copy that is consistent while others write.
        connection.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(|e| explain(&to, &e))?;
        for path in [&to, &target] {
            fs::File::open(path).and_then(|file| file.sync_all()).map_err(|e| failed(path, e))?;
        }
        Ok(())
    })
    .await
}

/// The embedded log, opened. See the module's text.
pub struct EmbeddedLog {
    file: LogFile,
    identity: String,
    partitions: u32,
    queue: mpsc::Sender<Append>,
    space: Arc<Semaphore>,
    /// Changes with each commit of this process.
    committed: Arc<watch::Sender<u64>>,
    readers: Arc<Readers>,
}

/// Records on their way to the writing thread.
struct Append {
    records: Vec<NewRecord>,
    bytes: usize,
    done: oneshot::Sender<Result<Vec<Position>, Error>>,
    _space: OwnedSemaphorePermit,
}

impl EmbeddedLog {
    /// Opens the log in `dir`; creates directory and log if absent, then with `partitions`. A log that exists keeps
    /// the number it was created with.
    ///
    /// # Errors
    /// [`Error::Configuration`] when the directory cannot be used, the file is no log, or a newer Tributary wrote it;
    /// [`Error::Unavailable`] when other processes keep it locked.
    pub async fn open(dir: &Path, partitions: u32) -> Result<Self, Error> {
        let dir = dir.to_owned();
        blocking(move || Self::open_blocking(&dir, partitions)).await
    }

    fn open_blocking(dir: &Path, partitions: u32) -> Result<Self, Error> {
        if partitions == 0 || partitions > MAX_PARTITIONS {
            let text = format!("{partitions} partitions asked for; use 1 to {MAX_PARTITIONS}");
            return Err(Error::Configuration(text));
        }
        fs::create_dir_all(dir).map_err(|e| Error::Configuration(format!("cannot create {}: {e}", dir.display())))?;
        let path = dir.join(FILE_NAME);
        let mut writer = open_for_writing(&path).map_err(|e| explain(&path, &e))?;
        let (identity, partitions) = create_or_check(&mut writer, &path, partitions)?;
        let file = LogFile::of(path)?;
        // The directory entry of a new log must be as durable as what the log will hold.
        fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::Unavailable(e.to_string()))?;

        let (queue, waiting) = mpsc::channel(MAX_WAITING_APPENDS);
        let committed = Arc::new(watch::Sender::new(0));
        let writing = Writer { connection: writer, file: file.clone(), partitions, committed: committed.clone() };
        thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writing.run(waiting))
            .map_err(|e| Error::Unavailable(format!("no thread for writing: {e}")))?;
        Ok(Self {
            readers: Arc::new(Readers { path: file.path.clone(), idle: Mutex::default() }),
            file,
            identity,
            partitions,
            queue,
            space: Arc::new(Semaphore::new(MAX_WAITING_BYTES as usize)),
            committed,
        })
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    async fn identity(&self) -> Result<String, Error> {
        self.file.check()?;
        Ok(self.identity.clone())
    }

    async fn partitions(&self) -> Result<u32, Error> {
        Ok(self.partitions)
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, Error> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = checked_bytes(&records)? + records.len() * RECORD_OVERHEAD_BYTES;
        // A batch larger than the whole space goes alone.
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(MAX_WAITING_BYTES);
        let stopped = || Error::Unavailable("its writing thread has stopped; restart this process".into());
        let space = self.space.clone().acquire_many_owned(permits).await.map_err(|_| stopped())?;
        let (done, answer) = oneshot::channel();
        let append = Append { records, bytes, done, _space: space };
        self.queue.send(append).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn read(&self, partition: u32, from: u64, max: usize, wait: Duration) -> Result<Vec<Record>, Error> {
        if partition >= self.partitions {
            let text = format!("there is no partition {partition}: the log has {}", self.partitions);
            return Err(Error::Configuration(text));
        }
        if max == 0 {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + wait;
        let mut committed = self.committed.subscribe();
        loop {
            committed.mark_unchanged();
            self.file.check()?;
            let records = self.readers.run(move |c, path| read_once(c, path, partition, from, max)).await?;
            if !records.is_empty() || Instant::now() >= deadline {
                return Ok(records);
            }
            let next_look = deadline.min(Instant::now() + POLL);
            // The sender lives in `self`, so `changed` cannot fail here.
            let _ = tokio::time::timeout_at(next_look, committed.changed()).await;
        }
    }

    async fn end_offsets(&self) -> Result<Vec<u64>, Error> {
        self.file.check()?;
        let partitions = self.partitions;
        let ends = move |c: &Connection, path: &Path| {
            // One transaction, so that the ends belong together.
            let transaction = c.unchecked_transaction().map_err(|e| explain(path, &e))?;
            let ends = (0..partitions).map(|p| Ok(end_of(&transaction, p)?.offset));
            ends.collect::<rusqlite::Result<_>>().map_err(|e| explain(path, &e))
        };
        self.readers.run(ends).await
    }
}

/// The one thread of a process that writes.
struct Writer {
    connection: Connection,
    file: LogFile,
    partitions: u32,
    committed: Arc<watch::Sender<u64>>,
}

impl Writer {
    /// Until every [`EmbeddedLog`] handle is gone and the queue is empty.
    fn run(mut self, mut waiting: mpsc::Receiver<Append>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut bytes = first.bytes;
            let mut group = vec![first];
            while bytes < MAX_GROUP_BYTES
                && let Ok(next) = waiting.try_recv()
            {
                bytes += next.bytes;
                group.push(next);
            }
            match self.write(&group) {
                Ok(positions) => {
                    self.committed.send_modify(|n| *n += 1);
                    for (append, positions) in group.into_iter().zip(positions) {
                        // A caller that no longer listens was not promised anything.
                        let _ = append.done.send(Ok(positions));
                    }
                }
                Err(error) => {
                    for append in group {
                        let _ = append.done.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// One transaction for the whole group; the positions of each append.
    fn write(&mut self, group: &[Append]) -> Result<Vec<Vec<Position>>, Error> {
        self.file.check()?;
        self.insert(group).map_err(|e| explain(&self.file.path, &e))
    }

    fn insert(&mut self, group: &[Append]) -> rusqlite::Result<Vec<Vec<Position>>> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let now = now_millis();
        let mut ends: Vec<Option<End>> = vec![None; self.partitions as usize];
        let mut all = Vec::with_capacity(group.len());
        {
            let mut insert = transaction.prepare_cached("INSERT INTO records VALUES (?1, ?2, ?3, ?4)")?;
            for append in group {
                let mut positions = Vec::with_capacity(append.records.len());
                for record in &append.records {
                    let partition = partition_of(&record.key, self.partitions);
                    let slot = &mut ends[partition as usize];
                    let end = match slot {
                        Some(end) => end,
                        None => slot.insert(end_of(&transaction, partition)?),
                    };
                    // A clock that was set back must not take the watermark with it.
                    end.appended_at = end.appended_at.max(now);
                    let id = id_of(partition, end.offset);
                    insert.execute(params![id, end.appended_at, &record.key[..], &record.body[..]])?;
                    positions.push(Position { partition, offset: end.offset });
                    end.offset += 1;
                }
                all.push(positions);
            }
        }
        transaction.commit()?;
        Ok(all)
    }
}

/// Where a partition ends.
#[derive(Clone, Copy)]
struct End {
    /// The next record's.
    offset: u64,
    /// The last record's, in milliseconds.
    appended_at: i64,
}

fn end_of(connection: &Connection, partition: u32) -> rusqlite::Result<End> {
    let last = "SELECT id, appended_at FROM records WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1";
    let bounds = params![id_of(partition, 0), id_of(partition + 1, 0) - 1];
    let end = connection
        .prepare_cached(last)?
        .query_row(bounds, |row| Ok(End { offset: offset_of(row.get(0)?) + 1, appended_at: row.get(1)? }))
        .optional()?;
    Ok(end.unwrap_or(End { offset: 0, appended_at: i64::MIN }))
}

fn read_once(c: &Connection, path: &Path, partition: u32, from: u64, max: usize) -> Result<Vec<Record>, Error> {
    let sql = "SELECT id, appended_at, key, body FROM records WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
    let read = || -> rusqlite::Result<Vec<Record>> {
        let mut statement = c.prepare_cached(sql)?;
        let mut rows = statement.query(params![id_of(partition, from), id_of(partition + 1, 0) - 1])?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < max
            && bytes < MAX_READ_BYTES
            && let Some(row) = rows.next()?
        {
            let key = Bytes::copy_from_slice(row.get_ref(2)?.as_blob()?);
            let body = Bytes::copy_from_slice(row.get_ref(3)?.as_blob()?);
            bytes += key.len() + body.len();
            let (offset, appended_at) = (offset_of(row.get(0)?), EventTime::from_millis(row.get(1)?));
            records.push(Record { partition, offset, appended_at, key, body });
        }
        Ok(records)
    };
    let records = read().map_err(|e| explain(path, &e))?;
    let begins = match records.first() {
        Some(first) if first.offset == from => return Ok(records),
        Some(first) => first.offset,
        None => 0,
    };
    let ends = end_of(c, partition).map_err(|e| explain(path, &e))?.offset;
    // Offsets have no gaps: only the end may be asked for without being there.
    if records.is_empty() && from <= ends {
        return Ok(records);
    }
    Err(Error::Gone { partition, offset: from, begins, ends })
}

fn id_of(partition: u32, offset: u64) -> i64 {
    // An offset that is asked for may be anything; the largest there can be is beyond every end as well.
    let offset = i64::try_from(offset.min((1 << OFFSET_BITS) - 1)).unwrap_or(i64::MAX);
    (i64::from(partition) << OFFSET_BITS) | offset
}

fn offset_of(id: i64) -> u64 {
    u64::from_ne_bytes(id.to_ne_bytes()) & ((1 << OFFSET_BITS) - 1)
}

#[allow(clippy::disallowed_methods, reason = "the log is the rim: it stamps what it takes in")]
fn now_millis() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

/// Connections that only read, used by one read at a time.
struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// Runs `work` with a connection, off the runtime's threads.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection, &Path) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let readers = Arc::clone(self);
        blocking(move || {
            let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => open_for_reading(&readers.path).map_err(|e| explain(&readers.path, &e))?,
            };
            let result = work(&connection, &readers.path)?;
            let mut idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_READERS {
                idle.push(connection);
            }
            Ok(result)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|e| Err(Error::Unavailable(format!("its task has ended: {e}"))))
}

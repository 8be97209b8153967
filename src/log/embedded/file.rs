//! The file of the embedded log: opening it with the right settings, its format, and what SQLite's errors mean.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params, types::FromSql};

use crate::log::Error;

/// The format this code writes, and the newest it reads.
const FORMAT: i64 = 1;

/// Five events of 3 KB fill a page well; SQLite's 4 KB would leave a quarter of each empty.
const PAGE_BYTES: u32 = 16 * 1024;

/// The write-ahead log is folded into the file when it holds this much: often enough to stay small, seldom enough
/// that its synchronisations do not show.
const WAL_PAGES: u32 = 32 * 1024 * 1024 / PAGE_BYTES;

/// How long a process waits for the others' transactions, each of which takes milliseconds.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// How often a waiting process looks again: SQLite's own steps grow to 100 ms, which would starve a busy neighbour.
const BUSY_STEP: Duration = Duration::from_millis(1);

pub(super) fn open_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_handler(Some(wait_for_others))?;
    Ok(connection)
}

pub(super) fn open_for_writing(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_for_others))?;
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    // Two processes that create the log at once: here SQLite answers "busy" without asking the handler.
    let mut tries = 0;
    while let Err(error) = connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())) {
        if !is_busy(&error) || !wait_for_others(tries) {
            return Err(error);
        }
        tries += 1;
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Only macOS knows these: its fsync alone does not reach the disk.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", i64::from(WAL_PAGES * PAGE_BYTES))?;
    Ok(connection)
}

/// SQLite's busy handler: false gives up.
fn wait_for_others(tries: i32) -> bool {
    thread::sleep(BUSY_STEP);
    BUSY_STEP * tries.unsigned_abs() < BUSY_LIMIT
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Creates the tables if there are none; returns the identity and the number of partitions.
pub(super) fn create_or_check(
    connection: &mut Connection,
    path: &Path,
    partitions: u32,
) -> Result<(String, u32), Error> {
    let explained = |e| explain(path, &e);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explained)?;
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(explained)?;
    if tables == 0 {
        let create = "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
             CREATE TABLE records (id INTEGER PRIMARY KEY, appended_at INTEGER NOT NULL, key BLOB NOT NULL, body BLOB NOT NULL);
             INSERT INTO meta VALUES ('identity', lower(hex(randomblob(16))));";
        transaction.execute_batch(create).map_err(explained)?;
        let number = "INSERT INTO meta VALUES (?1, ?2)";
        transaction.execute(number, params!["format", FORMAT]).map_err(explained)?;
        transaction.execute(number, params!["partitions", partitions]).map_err(explained)?;
    }
    let format = meta::<i64>(&transaction, "format");
    match format {
        Ok(FORMAT) => {}
        Ok(newer) if newer > FORMAT => {
            let path = path.display();
            let text = format!("{path} has format {newer}, this Tributary reads up to {FORMAT}; use a newer Tributary");
            return Err(Error::Configuration(text));
        }
        Ok(_) | Err(_) => {
            return Err(Error::Configuration(format!("{} is not an event log; move it away", path.display())));
        }
    }
    let identity = meta(&transaction, "identity").map_err(explained)?;
    let partitions = meta(&transaction, "partitions").map_err(explained)?;
    transaction.commit().map_err(explained)?;
    Ok((identity, partitions))
}

fn meta<T: FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
}

/// The file that was opened. A deleted file goes on taking records that nobody will ever read, so it is checked
/// that the path still leads to it.
#[derive(Clone)]
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
}

impl LogFile {
    pub(super) fn of(path: PathBuf) -> Result<Self, Error> {
        let found = fs::metadata(&path).map_err(|e| Error::Configuration(format!("{}: {e}", path.display())))?;
        Ok(Self { path, device: found.dev(), inode: found.ino() })
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        match fs::metadata(&self.path) {
            Ok(found) if found.ino() == self.inode && found.dev() == self.device => Ok(()),
            Ok(_) | Err(_) => Err(Error::Configuration(format!(
                "{} was deleted or replaced while it was open; restart to use what is there now",
                self.path.display()
            ))),
        }
    }
}

/// SQLite's error, by remedy.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> Error {
    let path = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::Unavailable(format!("other processes kept {path} locked for {} s", BUSY_LIMIT.as_secs()))
        }
        Some(ErrorCode::DiskFull) => Error::Unavailable(format!("no space left for {path}; make room")),
        Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory) => Error::Unavailable(format!("{path}: {error}")),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            Error::Configuration(format!("{path} is damaged or no event log ({error}); restore it or move it away"))
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            Error::Configuration(format!("{path} cannot be opened for writing ({error}); check its permissions"))
        }
        _ => Error::Configuration(format!("{path}: {error}")),
    }
}

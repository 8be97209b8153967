//! A copy of a data directory that belongs together, also while an engine runs on it.
//!
//! Between two epochs, right after a checkpoint, everything that the checkpoint consists of is linked into a directory
//! beside it, which takes milliseconds: files are written once and replaced, never changed. What is linked is then copied
//! at leisure. The embedded log, which is changed in place, is copied by SQLite; that is done last, so that the copy has
//! every record that the checkpoint has read.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Error, Request, requests, swap};
use crate::{
    log::{self, embedded},
    storage::Home,
    stream::checkpoint,
};

/// What of a data directory is linked and copied. Not the lock, nor requests.
const PARTS: [&str; 6] = ["engine/gen", "engine/checkpoints", "engine/blobs", "tables", "models", "outbox"];

/// The one of [`PARTS`] with the manifests. Those that pruning emptied are left out: a start reads the newest, and the
/// older ones down to the first that is empty or not there.
const MANIFESTS: &str = PARTS[1];

/// How the name of a directory of links begins; a random text of [`ID_DIGITS`] hexadecimal digits follows.
const PREFIX: &str = "backup-";
const ID_DIGITS: usize = 32;

/// Files of a data directory that are copied if they are there.
const FILES: [&str; 2] = ["postgres.password", "tributary.toml"];

/// Says that a directory is a whole backup.
const MARK: &str = "backup.json";

/// The format that this program writes, and the only one it reads.
const FORMAT: u32 = 1;

/// What a backup holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backup {
    format: u32,
    /// The newest checkpoint in it.
    pub checkpoint: u64,
    /// Whether the embedded log is in it. Kafka's is not.
    pub log: bool,
}

/// Copies a data directory to `target`, which must not exist. `id` is a random text.
///
/// # Errors
/// When there is no checkpoint yet, or files cannot be read or written; `target` is then not there.
pub async fn backup(home: &Home, target: &Path, log: &log::Options, id: &str) -> Result<Backup, Error> {
    let instead = "copy the bucket's prefix with a tool of the store while no engine runs, or turn its versioning on";
    let data_dir = home.only_local("`tributary backup`", instead)?;
    if target.exists() {
        return Err(Error::NotEmpty(target.to_owned()));
    }
    if checkpoint::peek(home.checkpoints().as_ref()).await?.is_none() {
        return Err(Error::NothingToBackUp(data_dir.to_owned()));
    }
    let into = format!("{PREFIX}{id}");
    let snapshot = data_dir.join(&into);
    fs::create_dir(&snapshot).map_err(failed("create", &snapshot))?;
    // As long as it is locked, no start of an engine takes it for one that was left behind.
    let _held = File::open(&snapshot).ok().filter(|dir| dir.try_lock().is_ok());
    let copied = match take(home, id, into).await {
        Ok(()) => copy(data_dir, &snapshot, target, log).await,
        Err(error) => Err(error),
    };
    let removed = remove(&snapshot);
    // What is not whole takes room, which may be what there was too little of.
    if copied.is_err()
        && let Err(error) = remove(&beside(target, "partial"))
    {
        tracing::warn!(%error, "what was copied of the backup cannot be removed");
    }
    let copied = copied?;
    removed?;
    Ok(copied)
}

/// Links a checkpoint into a directory: by the engine that runs, or here when none does.
async fn take(home: &Home, id: &str, into: String) -> Result<(), Error> {
    match requests::ask(home, id, &Request::Snapshot { into: into.clone() }).await? {
        Some(answer) if !answer.done => Err(Error::Incomplete(answer.message)),
        Some(_) => Ok(()),
        None => {
            let _lock = checkpoint::lock(&home.engine_dir())?;
            swap::settle(home.data_dir())?;
            link(home.data_dir(), &into)
        }
    }
}

/// Removes the links that a backup left behind when it was killed. One that lives holds a lock on its directory.
pub(super) fn remove_left_over(data_dir: &Path) {
    for entry in fs::read_dir(data_dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).unwrap_or_default();
        let named_so = id.len() == ID_DIGITS && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !named_so || !path.is_dir() || path.join(MARK).exists() {
            continue;
        }
        let free = File::open(&path).is_ok_and(|dir| dir.try_lock().is_ok());
        if free && let Err(error) = remove(&path) {
            tracing::warn!(%error, "what a backup left behind cannot be removed");
        }
    }
}

async fn copy(data_dir: &Path, snapshot: &Path, target: &Path, log: &log::Options) -> Result<Backup, Error> {
    let partial = beside(target, "partial");
    remove(&partial)?;
    copy_tree(snapshot, &partial)?;
    for name in FILES {
        let from = data_dir.join(name);
        if from.is_file() {
            copy_file(&from, &partial.join(name))?;
        }
    }
    let manifest = checkpoint::peek(Home::directory(&partial)?.checkpoints().as_ref()).await?;
    let checkpoint = manifest.ok_or_else(|| Error::NothingToBackUp(data_dir.to_owned()))?.number;
    let embedded = match log {
        log::Options::Embedded { dir, .. } => {
            embedded::copy(dir, &partial.join("log")).await?;
            true
        }
        log::Options::Kafka(_) => false,
    };
    let backup = Backup { format: FORMAT, checkpoint, log: embedded };
    let mark = partial.join(MARK);
    let text = serde_json::to_vec(&backup).map_err(|error| Error::Internal(error.to_string()))?;
    fs::write(&mark, text).map_err(failed("write", &mark))?;
    sync(&mark)?;
    sync(&partial)?;
    fs::rename(&partial, target).map_err(failed("rename", &partial))?;
    Ok(backup)
}

/// Makes a data directory of a backup; it must not exist or be empty.
///
/// # Errors
/// When `source` is no whole backup, or files cannot be read or written; the data directory is then as it was.
pub async fn restore(source: &Path, home: &Home) -> Result<Backup, Error> {
    let instead = "copy what was kept of the bucket back to the prefix, or leave [storage] out to restore a directory";
    let data_dir = home.only_local("`tributary restore`", instead)?;
    let mark = source.join(MARK);
    let no_backup = |reason: String| Error::NoBackup { path: source.to_owned(), reason };
    let text = fs::read(&mark).map_err(|error| no_backup(format!("{MARK}: {error}")))?;
    let backup: Backup = serde_json::from_slice(&text).map_err(|error| no_backup(format!("{MARK}: {error}")))?;
    if backup.format != FORMAT {
        return Err(no_backup(format!("it has format {}, this program reads {FORMAT}", backup.format)));
    }
    let occupied = fs::read_dir(data_dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(Error::NotEmpty(data_dir.to_owned()));
    }
    let found =
        checkpoint::peek(Home::directory(source)?.checkpoints().as_ref()).await?.map(|manifest| manifest.number);
    if found != Some(backup.checkpoint) {
        return Err(no_backup(format!("its newest checkpoint is {found:?}, not {}", backup.checkpoint)));
    }
    let partial = beside(data_dir, "partial");
    remove(&partial)?;
    copy_tree(source, &partial)?;
    let copied_mark = partial.join(MARK);
    fs::remove_file(&copied_mark).map_err(failed("remove", &copied_mark))?;
    sync(&partial)?;
    if data_dir.is_dir() {
        fs::remove_dir(data_dir).map_err(failed("remove", data_dir))?;
    }
    fs::rename(&partial, data_dir).map_err(failed("rename", &partial))?;
    Ok(backup)
}

/// Links what a data directory consists of into a directory within it. Nothing may change it meanwhile, except the
/// outbox, each of whose files is replaced as a whole.
pub(super) fn link(data_dir: &Path, into: &str) -> Result<(), Error> {
    for part in PARTS {
        let from = data_dir.join(part);
        if from.is_dir() {
            tree(&from, &data_dir.join(into).join(part), &|from, to| {
                if part == MANIFESTS && fs::metadata(from).is_ok_and(|file| file.len() == 0) {
                    return Ok(());
                }
                match fs::hard_link(from, to) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    linked => linked.map_err(failed("link", from)),
                }
            })?;
        }
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    tree(from, to, &copy_file)
}

/// Does `each` for every file below a directory, which is made again elsewhere.
fn tree(from: &Path, to: &Path, each: &impl Fn(&Path, &Path) -> Result<(), Error>) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(failed("create", to))?;
    for entry in fs::read_dir(from).map_err(failed("read", from))? {
        let entry = entry.map_err(failed("read", from))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { tree(&path, &target, each)? } else { each(&path, &target)? }
    }
    sync(to)
}

fn copy_file(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map_err(failed("copy", from))?;
    sync(to)
}

fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path))
}

fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// A name beside a directory, on the same file system.
fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    dir.with_file_name(name)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Directory { action, path, source }
}

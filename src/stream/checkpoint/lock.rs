//! The lock of a local directory: a file `engine.lock` that the live engine holds.
//!
//! The system lets go of it when a process dies, but not while it is stopped or hangs. Then the file is *replaced*: who
//! holds the lock of a file that no longer has the name holds nothing, and finds out by its generation.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::Error;

const FILE: &str = "engine.lock";

/// Who looks whether an engine runs holds the lock for an instant, at which no start must fail.
const LOCK_TRIES: u32 = 20;
const LOCK_STEP: std::time::Duration = std::time::Duration::from_millis(10);

/// Keeps other engines out of a local directory until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
    path: PathBuf,
    keeps_out: bool,
}

impl DirectoryLock {
    /// Whether no other engine can live; one whose lock was replaced can.
    #[must_use]
    pub fn keeps_out(&self) -> bool {
        self.keeps_out
    }

    /// Checks that nobody has replaced it.
    ///
    /// # Errors
    /// [`Error::Locked`] when somebody has; [`Error::Store`] when it cannot be looked at.
    pub fn check(&self) -> Result<(), Error> {
        if is_at(&self.file, &self.path).map_err(failed)? { Ok(()) } else { Err(locked(&self.path)) }
    }
}

/// Locks a local directory, which is created if absent.
///
/// # Errors
/// [`Error::Locked`] while another engine lives.
pub fn lock(dir: &Path) -> Result<DirectoryLock, Error> {
    fs::create_dir_all(dir).map_err(failed)?;
    let path = dir.join(FILE);
    for _ in 0..LOCK_TRIES {
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            // It may have been replaced before it was locked.
            Ok(()) if is_at(&file, &path).map_err(failed)? => return Ok(DirectoryLock { file, path, keeps_out: true }),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_STEP),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    Err(locked(&path))
}

/// Locks a local directory whoever holds the lock, by another file in its place. `nonce` is a random text.
///
/// # Errors
/// [`Error::Store`] when the file cannot be written.
pub fn replace_lock(dir: &Path, nonce: &str) -> Result<DirectoryLock, Error> {
    fs::create_dir_all(dir).map_err(failed)?;
    let path = dir.join(FILE);
    let aside = dir.join(format!("{FILE}.{nonce}"));
    let file = File::options().create_new(true).write(true).open(&aside).map_err(failed)?;
    // It is locked before it has the name, so that nobody can come in between.
    file.try_lock().map_err(|error| failed(error.into()))?;
    fs::rename(&aside, &path).map_err(failed)?;
    Ok(DirectoryLock { file, path, keeps_out: false })
}

/// Whether somebody has locked a local directory.
///
/// # Errors
/// [`Error::Store`] when the lock cannot be looked at.
pub fn is_locked(dir: &Path) -> Result<bool, Error> {
    let file = match File::options().write(true).open(dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Whether a path names an open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((own.dev(), own.ino()) == (found.dev(), found.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn locked(path: &Path) -> Error {
    Error::Locked { dir: path.parent().unwrap_or(path).display().to_string() }
}

fn failed(source: io::Error) -> Error {
    object_store::Error::Generic { store: FILE, source: source.into() }.into()
}

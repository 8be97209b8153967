//! Checkpoints: the one place where the engine decides what has happened.
//!
//! One engine owns a checkpoint directory. It claims a **generation** there, and from then on every checkpoint is one
//! **manifest**, created only if its number is free: that file *is* the decision, and all else (Delta commits, new
//! state) follows from it and can be done again. After a crash the newest manifest says where to go on.
//!
//! Promises: of two engines that live at once at most one goes on deciding; a decision is on disk before
//! [`Checkpoints::decide`] returns, and so is every blob it refers to; no name is ever used for two contents.
//! Applying a decision to tables is the sinks' work; dispatching alerts is `act`'s. Both ask [`Ownership`] right before.
//!
//! An engine that claims while another may live **seals** what is decided: it decides the newest manifest once more,
//! under the next number. A request of the other one that is still under way then finds that number taken.
//!
//! ```text
//! gen/<g>.json                  one for each start of an engine
//! checkpoints/<n/10000>/<n>.json   one for each decision; old ones are emptied, never deleted
//! blobs/<g>/<seq>-<name>        state and changes that manifests refer to
//! ```

mod lock;
mod manifest;
mod ownership;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, path::Path};

pub use self::{
    lock::{DirectoryLock, is_locked, lock, replace_lock},
    manifest::{BlobRef, FORMAT, Manifest, StagedFile, TableWork, Work},
    ownership::Ownership,
};
use self::{manifest::sha256_hex, ownership::Claim};
use crate::storage::Location;

/// How many of the newest manifests keep their body and their blobs: the newest to recover from, and the one before
/// it to look at when the newest is in doubt.
pub const KEPT_MANIFESTS: usize = 2;

/// Manifests in one directory, so that finding the newest one stays quick although names are never deleted.
const MANIFESTS_PER_DIRECTORY: u64 = 10_000;

/// How often a claim tries the next number when others claim or decide at the same moment; more is no accident.
const MAX_CLAIMS: u32 = 16;

/// How many objects are looked up or deleted at once.
const CONCURRENT_REQUESTS: usize = 8;

/// What can go wrong with checkpoints, by what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Stop the other engine.
    #[error(
        "another engine is running on {dir}; stop it first, or give this one a data directory of its own. If it hangs \
         and cannot be stopped, `tributary run --take-over` goes on in its place"
    )]
    Locked {
        /// The checkpoint directory.
        dir: String,
    },
    /// This engine must stop: it no longer owns the directory.
    #[error(
        "a newer engine (generation {newer}, {by}) has taken over from this one (generation {own}); this one must stop"
    )]
    Superseded {
        /// This engine's generation.
        own: u64,
        /// One that is newer.
        newer: u64,
        /// Its process and host.
        by: String,
    },
    /// Start again: an engine that was being replaced decided in the last moment.
    #[error("checkpoint {number} was decided by another engine; start again to go on from it")]
    Overtaken {
        /// The manifest in question.
        number: u64,
    },
    /// Restore a backup, or rebuild.
    #[error(
        "{name} is damaged: {reason}; restore the data directory from a backup, or make tables and checkpoints again \
         with `tributary rebuild`"
    )]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Use the right version of the program, or rebuild.
    #[error(
        "{name} has format {found}, this program reads format {FORMAT}; run the version that wrote it, or make tables \
         and checkpoints again with `tributary rebuild`"
    )]
    Format {
        /// The file.
        name: String,
        /// Its format.
        found: u32,
    },
    /// Make room, mend permissions or the network, and start again.
    #[error("the checkpoint store does not work: {0}; mend it and start again")]
    Store(#[from] object_store::Error),
    /// A mistake in this program.
    #[error("internal error in checkpoints: {0}; please report it")]
    Bug(String),
}

/// The checkpoint directory, owned by this engine. Who decides in a task of its own shares it: the lock is held until
/// the last of them has let go of it.
#[derive(Debug)]
pub struct Checkpoints {
    store: Arc<dyn ObjectStore>,
    ownership: Ownership,
    nonce: String,
    blobs: AtomicU64,
    /// Manifests that still have their body, oldest first.
    kept: Mutex<VecDeque<Arc<Manifest>>>,
    /// Whether an older engine may still decide: what it has stored for that must stay until it no longer can.
    contested: AtomicBool,
    /// Dropping it lets the next engine in; the system does so too when the process dies.
    _lock: Option<DirectoryLock>,
}

impl Checkpoints {
    /// Takes ownership of a local directory, which is created if absent. `nonce` is a random text, another one for
    /// every start of an engine.
    ///
    /// # Errors
    /// [`Error::Locked`] while another engine lives; [`Error::Damaged`] and [`Error::Format`] when the newest
    /// manifest cannot be read.
    pub async fn claim(dir: &std::path::Path, nonce: impl Into<String>) -> Result<Self, Error> {
        let lock = lock(dir)?;
        let location = Location::directory(dir).map_err(|error| Error::Bug(error.to_string()))?;
        Self::claim_locked(location.store(), lock, nonce).await
    }

    /// Takes ownership of a store whose writes are durable when they return. `lock` keeps other engines out of it, or
    /// has replaced the lock of one that may still live: see [`DirectoryLock::keeps_out`].
    ///
    /// # Errors
    /// As [`claim`](Self::claim), without `Locked`.
    pub async fn claim_locked(
        store: Arc<dyn ObjectStore>,
        lock: DirectoryLock,
        nonce: impl Into<String>,
    ) -> Result<Self, Error> {
        let contested = !lock.keeps_out();
        Self::claim_store(store, Some(lock), contested, nonce.into()).await
    }

    /// Takes ownership of a store that no lock protects. Two engines may then live at once for a moment; the older one
    /// stops before it writes.
    ///
    /// # Errors
    /// As [`claim`](Self::claim), without `Locked`.
    pub async fn claim_shared(store: Arc<dyn ObjectStore>, nonce: impl Into<String>) -> Result<Self, Error> {
        Self::claim_store(store, None, true, nonce.into()).await
    }

    async fn claim_store(
        store: Arc<dyn ObjectStore>,
        lock: Option<DirectoryLock>,
        contested: bool,
        nonce: String,
    ) -> Result<Self, Error> {
        let mut generation = newest_number(store.as_ref(), &Path::from("gen")).await?.map_or(1, |newest| newest + 1);
        let mut claims = 0;
        loop {
            let claim = Claim::new(generation, nonce.clone());
            let body = serde_json::to_vec(&claim).map_err(|error| Error::Bug(error.to_string()))?;
            if create(store.as_ref(), &generation_path(generation), body.into()).await? {
                break;
            }
            claims += 1;
            if claims == MAX_CLAIMS {
                let by = "others claim all the time".to_owned();
                return Err(Error::Superseded { own: generation - 1, newer: generation, by });
            }
            generation += 1;
        }
        let ownership = Ownership::new(Arc::clone(&store), generation);
        let (kept, blobs) = (Mutex::default(), AtomicU64::new(0));
        let contested = AtomicBool::new(contested);
        let checkpoints = Self { store, ownership, nonce, blobs, kept, contested, _lock: lock };
        if checkpoints.contested.load(Ordering::Relaxed) {
            checkpoints.seal().await?;
        } else {
            let kept = kept_manifests(checkpoints.store.as_ref()).await?;
            *checkpoints.kept() = kept;
            checkpoints.delete_orphans().await?;
        }
        Ok(checkpoints)
    }

    /// Decides the newest manifest once more under the next number, so that no older engine can decide any more: it
    /// checks its generation before each decision, so that only one is under way, and that is seen here or refused.
    async fn seal(&self) -> Result<(), Error> {
        for _ in 0..MAX_CLAIMS {
            let kept = kept_manifests(self.store.as_ref()).await?;
            let newest = kept.back().cloned();
            *self.kept() = kept;
            let Some(newest) = newest else { return Ok(()) };
            let number = newest.number + 1;
            let seal = Manifest {
                number,
                generation: self.generation(),
                nonce: self.nonce.clone(),
                repeats: Some(newest.speaks_of()),
                ..newest.as_ref().clone()
            };
            if create(self.store.as_ref(), &manifest_path(number), seal.encode()?.into()).await? {
                self.kept().push_back(Arc::new(seal));
                return self.settle().await;
            }
        }
        Err(self.overtaken(self.next_number()).await)
    }

    /// No older engine can decide any more: what it stored for that goes.
    async fn settle(&self) -> Result<(), Error> {
        if self.contested.load(Ordering::Relaxed) {
            self.delete_orphans().await?;
            self.contested.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Manifest>>> {
        // Each change is one step, so that a panic elsewhere does not spoil it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a number that should have been free is not.
    async fn overtaken(&self, number: u64) -> Error {
        match self.ownership.check().await {
            Err(superseded) => superseded,
            Ok(()) => Error::Overtaken { number },
        }
    }

    /// What others ask before they carry out what was decided here.
    #[must_use]
    pub fn ownership(&self) -> Ownership {
        self.ownership.clone()
    }

    /// This engine's generation, from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.ownership.generation()
    }

    /// The newest manifest: where to go on. `None` before the first.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Manifest>> {
        self.kept().back().cloned()
    }

    /// The number of the next manifest.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.latest().map_or(1, |manifest| manifest.number + 1)
    }

    /// Checks that this engine still owns the directory: before deciding, dispatching and maintaining.
    ///
    /// # Errors
    /// [`Error::Superseded`] when it does not.
    pub async fn check_generation(&self) -> Result<(), Error> {
        self.ownership.check().await
    }

    /// Stores bytes that the next manifest will refer to, durable when it returns. `name` is for people: lower-case
    /// letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn put_blob(&self, name: &str, bytes: Bytes) -> Result<BlobRef, Error> {
        let sequence = self.blobs.fetch_add(1, Ordering::Relaxed);
        let path = format!("{}/{sequence:010}-{name}", blob_directory(self.generation()));
        let sha256 = hash(bytes.clone()).await?;
        let length = bytes.len() as u64;
        if !create(self.store.as_ref(), &Path::from(path.as_str()), bytes).await? {
            return Err(Error::Bug(format!("{path} exists already, but the generation is this engine's own")));
        }
        Ok(BlobRef { path, bytes: length, sha256 })
    }

    /// Reads a blob back, and makes sure that it is what was stored.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not.
    pub async fn read_blob(&self, blob: &BlobRef) -> Result<Bytes, Error> {
        self.ownership.read_blob(blob).await
    }

    /// Makes `manifest` the newest decision; its generation and nonce are filled in. When this returns it is on disk
    /// and will be carried out, by this engine or by the next one. After any error the caller must stop and start
    /// again from what is stored: the decision may have been made.
    ///
    /// # Errors
    /// [`Error::Superseded`] and [`Error::Overtaken`] when another engine was quicker; [`Error::Damaged`] when a
    /// blob that the manifest refers to is not there.
    pub async fn decide(&self, mut manifest: Manifest) -> Result<Arc<Manifest>, Error> {
        let number = self.next_number();
        if manifest.number != number {
            return Err(Error::Bug(format!("manifest {} was to be decided, but {number} is next", manifest.number)));
        }
        manifest.generation = self.generation();
        manifest.nonce.clone_from(&self.nonce);
        manifest.repeats = None;
        self.check_blobs(&manifest).await?;
        let body = Bytes::from(manifest.encode()?);
        self.check_generation().await?;
        if !create(self.store.as_ref(), &manifest_path(number), body).await? {
            return Err(self.overtaken(number).await);
        }
        let manifest = Arc::new(manifest);
        self.kept().push_back(Arc::clone(&manifest));
        self.settle().await?;
        Ok(manifest)
    }

    /// Empties the bodies of manifests older than the last [`KEPT_MANIFESTS`] and deletes the blobs that only they
    /// refer to. Call it when the newest manifest has been applied.
    ///
    /// # Errors
    /// [`Error::Superseded`]; [`Error::Store`], and it can be called again.
    pub async fn prune(&self) -> Result<(), Error> {
        self.check_generation().await?;
        loop {
            let kept: Vec<Arc<Manifest>> = self.kept().iter().cloned().collect();
            let [old, newer @ ..] = &*kept else { return Ok(()) };
            if newer.len() < KEPT_MANIFESTS {
                return Ok(());
            }
            let needed: BTreeSet<&BlobRef> = newer.iter().flat_map(|manifest| manifest.blobs()).collect();
            let unneeded = old.blobs().filter(|blob| !needed.contains(blob)).map(|blob| blob.path.clone());
            // Blobs first: after a crash in between, the body still says what is left to delete.
            self.delete(unneeded.collect()).await?;
            self.store.put(&manifest_path(old.number), Bytes::new().into()).await?;
            self.kept().pop_front();
        }
    }

    async fn check_blobs(&self, manifest: &Manifest) -> Result<(), Error> {
        // Those of the last manifest were checked when it was decided.
        let latest = self.latest();
        let known: BTreeSet<&BlobRef> = latest.iter().flat_map(|manifest| manifest.blobs()).collect();
        let new: Vec<_> = manifest.blobs().filter(|blob| !known.contains(blob)).cloned().collect();
        futures::stream::iter(new)
            .map(|blob| async move {
                let damaged = |reason: &str| Error::Damaged { name: blob.path.clone(), reason: reason.to_owned() };
                match self.store.head(&Path::from(blob.path.as_str())).await {
                    Ok(found) if found.size == blob.bytes => Ok(()),
                    Ok(_) => Err(damaged("its size is wrong")),
                    Err(object_store::Error::NotFound { .. }) => Err(damaged("it is missing")),
                    Err(error) => Err(error.into()),
                }
            })
            .buffer_unordered(CONCURRENT_REQUESTS)
            .try_collect()
            .await
    }

    /// Deletes what earlier generations stored and no kept manifest refers to: they ended before deciding.
    async fn delete_orphans(&self) -> Result<(), Error> {
        let own = blob_directory(self.generation());
        let kept: Vec<Arc<Manifest>> = self.kept().iter().cloned().collect();
        let needed: BTreeSet<&str> =
            kept.iter().flat_map(|manifest| manifest.blobs()).map(|blob| blob.path.as_str()).collect();
        let found: Vec<_> = self.store.list(Some(&Path::from("blobs"))).try_collect().await?;
        let orphans = found.into_iter().map(|blob| blob.location.to_string());
        // Numbers of generations have one length, so that they sort as texts.
        let orphans = orphans.filter(|path| *path < own && !needed.contains(path.as_str()));
        self.delete(orphans.collect()).await
    }

    async fn delete(&self, paths: Vec<String>) -> Result<(), Error> {
        futures::stream::iter(paths)
            .map(|path| async move {
                match self.store.delete(&Path::from(path)).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            })
            .buffer_unordered(CONCURRENT_REQUESTS)
            .try_collect()
            .await
    }
}

/// The newest manifest of a store that another process may own: for readers. `None` before the first.
///
/// # Errors
/// [`Error::Damaged`] and [`Error::Format`] when it cannot be read.
pub async fn peek(store: &dyn ObjectStore) -> Result<Option<Manifest>, Error> {
    match newest_manifest(store).await? {
        Some(number) => read_manifest(store, number).await.map(Some),
        None => Ok(None),
    }
}

/// Reads a blob of a store that another process may own, and makes sure that it is what was stored.
///
/// # Errors
/// [`Error::Damaged`] when it is not, or has gone with its manifest.
pub async fn peek_blob(store: &dyn ObjectStore, blob: &BlobRef) -> Result<Bytes, Error> {
    read_checked(store, blob).await
}

async fn read_checked(store: &dyn ObjectStore, blob: &BlobRef) -> Result<Bytes, Error> {
    let damaged = |reason: &str| Error::Damaged { name: blob.path.clone(), reason: reason.to_owned() };
    let bytes = match store.get(&Path::from(blob.path.as_str())).await {
        Ok(found) => found.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => return Err(damaged("it is missing")),
        Err(error) => return Err(error.into()),
    };
    if bytes.len() as u64 != blob.bytes {
        return Err(damaged("its size is wrong"));
    }
    if hash(bytes.clone()).await? != blob.sha256 {
        return Err(damaged("its checksum does not match"));
    }
    Ok(bytes)
}

/// Creates an object; `false` when the name is taken by something else. A store that retries a request by itself may
/// answer "exists" to the writer whose first try had won, so what is there is compared with what was written.
async fn create(store: &dyn ObjectStore, path: &Path, body: Bytes) -> Result<bool, Error> {
    match store.put_opts(path, body.clone().into(), PutMode::Create.into()).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(store.get(path).await?.bytes().await? == body),
        Err(error) => Err(error.into()),
    }
}

async fn kept_manifests(store: &dyn ObjectStore) -> Result<VecDeque<Arc<Manifest>>, Error> {
    let mut kept = VecDeque::new();
    let Some(newest) = newest_manifest(store).await? else {
        return Ok(kept);
    };
    kept.push_front(Arc::new(read_manifest(store, newest).await?));
    // Older ones matter only for pruning; the first that was emptied, or cannot be read, ends the row.
    for number in (1..newest).rev() {
        match read_manifest(store, number).await {
            Ok(manifest) => kept.push_front(Arc::new(manifest)),
            Err(Error::Store(error)) if !matches!(error, object_store::Error::NotFound { .. }) => {
                return Err(error.into());
            }
            Err(_) => break,
        }
    }
    Ok(kept)
}

async fn read_manifest(store: &dyn ObjectStore, number: u64) -> Result<Manifest, Error> {
    let path = manifest_path(number);
    let manifest = Manifest::decode(path.as_ref(), &store.get(&path).await?.bytes().await?)?;
    if manifest.number == number {
        Ok(manifest)
    } else {
        Err(Error::Damaged { name: path.to_string(), reason: format!("it says it is number {}", manifest.number) })
    }
}

async fn newest_manifest(store: &dyn ObjectStore) -> Result<Option<u64>, Error> {
    let mut directories = store.list_with_delimiter(Some(&Path::from("checkpoints"))).await?.common_prefixes;
    directories.sort_unstable();
    // A crash can leave the newest directory without a manifest in it.
    for directory in directories.iter().rev() {
        if let Some(newest) = newest_number(store, directory).await? {
            return Ok(Some(newest));
        }
    }
    Ok(None)
}

/// The greatest `<number>.json` directly in `directory`.
async fn newest_number(store: &dyn ObjectStore, directory: &Path) -> Result<Option<u64>, Error> {
    let objects = store.list_with_delimiter(Some(directory)).await?.objects;
    let numbers = objects.iter().filter_map(|object| object.location.filename()?.strip_suffix(".json")?.parse().ok());
    Ok(numbers.max())
}

fn blob_directory(generation: u64) -> String {
    format!("blobs/{generation:020}")
}

fn generation_path(generation: u64) -> Path {
    Path::from(format!("gen/{generation:020}.json"))
}

fn manifest_path(number: u64) -> Path {
    Path::from(format!("checkpoints/{:016}/{number:020}.json", number / MANIFESTS_PER_DIRECTORY))
}

/// State can be many megabytes, too long for a thread that serves others.
async fn hash(bytes: Bytes) -> Result<String, Error> {
    let hashed = tokio::task::spawn_blocking(move || sha256_hex(&bytes)).await;
    hashed.map_err(|error| Error::Bug(error.to_string()))
}

//! What a checkpoint captures between two epochs, and how it becomes durable beside the epochs that follow: stored and
//! staged, decided, applied.
//!
//! All that is captured is of one place in the log, and nothing that comes later gets into it. The decision is made when
//! everything that it refers to is on disk; until then only files that nothing refers to have been written.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    CHECKPOINTS_A_MAINTENANCE, Error,
    blobs::{merged, pipeline_state},
    checkpoint::EngineState,
    saved::{SavedState, Whole},
    store::{NewRows, Store, make_durable},
};
use crate::{
    sink::{self, commits, delta::DeltaTable},
    stream::checkpoint::{BlobRef, Checkpoints, Manifest, Ownership},
    time::Clock,
};

/// Bytes of state that may wait for the disk beside the epochs: with more, the epochs wait until these are stored.
const MAX_CAPTURED_BYTES: usize = 64 * 1024 * 1024;

/// Bytes of states that one checkpoint writes as a whole again if they can wait: epochs wait while they are put together.
/// Pipelines that follow the same events would else all do it in the same checkpoint.
const WHOLE_BYTES_AGAIN: u64 = 8 * 1024 * 1024;

/// The state of the engine itself.
const ENGINE: &str = "engine";

/// Blobs that are stored at once: each waits for the disk.
const BLOBS_AT_ONCE: usize = 8;

/// The tables with the checkpoint, and the one that says which versions belong together.
pub(super) type Applied = (BTreeMap<String, DeltaTable>, DeltaTable);

/// See the module's text.
pub(super) struct Captured {
    /// Without what is only known when all is stored: the state, what is new in the tables, and the time.
    pub(super) manifest: Manifest,
    pub(super) rows: BTreeMap<String, NewRows>,
    pub(super) blobs: StateBlobs,
    pub(super) engine: EngineState,
}

/// A checkpoint that is decided and applied.
pub(super) struct Durable {
    pub(super) saved: SavedState,
    pub(super) applied: Applied,
}

impl Captured {
    /// Stores, decides and applies it. After an error the engine must stop: the decision may have been made.
    pub(super) async fn make_durable(
        self,
        checkpoints: &Checkpoints,
        clock: &Clock,
        (tables, commits): Applied,
    ) -> Result<Durable, Error> {
        let Self { mut manifest, rows, blobs, mut engine } = self;
        manifest.tables = make_durable(rows, checkpoints, &tables).await?;
        let mut saved = blobs.finish(checkpoints).await?;
        for status in &mut engine.pipelines {
            status.state_bytes = saved.bytes(&pipeline_state(&status.name));
        }
        let engine = serde_json::to_vec(&engine).map_err(|error| Error::Internal(error.to_string()))?;
        saved.put_whole(ENGINE, checkpoints.put_blob(ENGINE, engine.into()).await?);
        manifest.state = saved.blobs().clone();
        manifest.committed_at = clock();
        let manifest = checkpoints.decide(manifest).await?;
        let ownership = checkpoints.ownership();
        let mut applied = apply(&ownership, &manifest, (tables, commits)).await?;
        // By the number, so that engines which live shortly maintain too.
        if manifest.number.is_multiple_of(CHECKPOINTS_A_MAINTENANCE) {
            applied = maintain(&ownership, &manifest, applied).await?;
        }
        checkpoints.prune().await?;
        Ok(Durable { saved, applied })
    }
}

/// The state of a checkpoint: what the one before keeps, and what changed since.
pub(super) struct StateBlobs {
    before: SavedState,
    /// What changed and is stored, and what waits for the disk; of each whether it is everything.
    stored: Vec<(String, BlobRef, bool)>,
    waiting: Vec<(String, Bytes, bool)>,
    waiting_bytes: usize,
    /// Bytes of states that are written as a whole again.
    again: u64,
}

impl StateBlobs {
    pub(super) fn new(before: SavedState) -> Self {
        Self { before, stored: Vec::new(), waiting: Vec::new(), waiting_bytes: 0, again: 0 }
    }

    /// Whether a state is to be written as a whole. Those that can wait take turns.
    pub(super) fn wants_whole(&mut self, name: &str) -> bool {
        let (whole, bytes) = self.before.wants_whole(name);
        let is_whole = match whole {
            Whole::Not => false,
            Whole::Soon => self.again < WHOLE_BYTES_AGAIN,
            Whole::Now => true,
        };
        self.again += if is_whole { bytes } else { 0 };
        is_whole
    }

    /// Adds a state, or what changed of it.
    pub(super) fn put(&mut self, name: String, bytes: Bytes, whole: bool) {
        self.waiting_bytes += bytes.len();
        self.waiting.push((name, bytes, whole));
    }

    /// Stores what waits if it is more than may.
    pub(super) async fn make_room(&mut self, checkpoints: &Checkpoints) -> Result<(), Error> {
        if self.waiting_bytes > MAX_CAPTURED_BYTES { self.store(checkpoints).await } else { Ok(()) }
    }

    /// Everything so far is stored when it returns.
    async fn store(&mut self, checkpoints: &Checkpoints) -> Result<(), Error> {
        let puts = std::mem::take(&mut self.waiting).into_iter().map(|(name, bytes, whole)| async move {
            let blob = checkpoints.put_blob(&name, bytes).await?;
            Ok::<_, Error>((name, blob, whole))
        });
        let stored: Vec<_> = stream::iter(puts).buffered(BLOBS_AT_ONCE).try_collect().await?;
        self.stored.extend(stored);
        self.waiting_bytes = 0;
        Ok(())
    }

    /// What this checkpoint keeps: everything is stored when it returns.
    async fn finish(mut self, checkpoints: &Checkpoints) -> Result<SavedState, Error> {
        self.store(checkpoints).await?;
        let Self { before: mut saved, stored, .. } = self;
        let is_whole = |name: &String| stored.iter().any(|(stored, _, whole)| *whole && stored == name);
        for name in saved.scattered().into_iter().filter(|name| !is_whole(name)) {
            let mut changes = Vec::new();
            for blob in saved.parts(&name).skip(1) {
                changes.push(checkpoints.read_blob(blob).await?);
            }
            let blob = checkpoints.put_blob(&name, merged(&name, changes)?).await?;
            saved.put_merged(&name, blob);
        }
        for (name, blob, whole) in stored {
            if whole {
                saved.put_whole(&name, blob);
            } else {
                saved.put_changes(&name, blob);
            }
        }
        Ok(saved)
    }
}

/// Brings the tables to a manifest and publishes which versions belong together.
pub(super) async fn apply(
    ownership: &Ownership,
    manifest: &Manifest,
    (mut tables, mut commits): Applied,
) -> Result<Applied, sink::Error> {
    sink::apply::apply(ownership, manifest, tables.values_mut()).await?;
    commits::publish(&mut commits, ownership, manifest, &tables).await?;
    Ok((tables, commits))
}

/// Merges small files and deletes what nobody needs, when nothing decided is unapplied.
async fn maintain(
    ownership: &Ownership,
    manifest: &Manifest,
    (mut tables, mut commits): Applied,
) -> Result<Applied, sink::Error> {
    for (name, table) in &mut tables {
        table.maintain(ownership, &Store::staged_files(manifest, name)).await?;
    }
    commits.maintain(ownership, &BTreeSet::new()).await?;
    Ok((tables, commits))
}

//! What a checkpoint decides: one self-contained document, and the plain types it is made of.
//!
//! A manifest names everything that has to happen for it: state files with checksums, and for each table the work
//! that Delta does not have yet. It never says "remove this file": changes of keyed tables are listed by key, and
//! are planned against the table as it is when they are applied. Sinks know these types; nothing here knows sinks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::Error;
use crate::time::EventTime;

/// The format that this version of the program writes, and the only one that it reads.
pub const FORMAT: u32 = 1;

/// A file of a table, written and on disk, but not part of the table until a commit adds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StagedFile {
    /// Relative to the table; never used for another file.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// How many rows it holds.
    pub rows: u64,
    /// When it was written, in milliseconds since 1970.
    pub written_at_ms: i64,
    /// The values of the table's partition columns, as Delta spells them; `None` is NULL.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Delta's column statistics, as JSON.
    pub stats: Option<String>,
}

/// An immutable object under the checkpoint directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct BlobRef {
    /// Relative to the checkpoint directory.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

/// What one checkpoint adds to one table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Work {
    /// The manifest that first decided it.
    pub number: u64,
    /// Files to add to an appended table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub appends: Vec<StagedFile>,
    /// Changes of a keyed table: an Arrow IPC stream of the table's columns and `__op`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<BlobRef>,
}

/// What a manifest knows of one table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TableWork {
    /// Which making of the table this is about: a table that was made anew is another one.
    pub incarnation: String,
    /// The manifest up to which Delta had everything when this one was decided; 0 before the first.
    pub applied_through: u64,
    /// What Delta may not have yet, oldest first.
    pub pending: Vec<Work>,
}

/// The decision of a checkpoint.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// From 1, each one more than the last.
    pub number: u64,
    /// Who decided it; set by [`super::Checkpoints::decide`].
    pub generation: u64,
    /// Tells one decider from another; set by [`super::Checkpoints::decide`].
    pub nonce: String,
    /// The number under which the same was decided before, when this one only seals it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u64>,
    /// The event log that the offsets belong to.
    pub log_identity: String,
    /// For every partition of the log, the offset of the next record to read.
    pub offsets: Vec<u64>,
    /// The watermark at these offsets, if there is one yet.
    pub watermark: Option<EventTime>,
    /// When it was decided.
    pub committed_at: EventTime,
    /// For every pipeline, a fingerprint of all that decides its results.
    pub fingerprints: BTreeMap<String, String>,
    /// The engine's state, by name.
    pub state: BTreeMap<String, BlobRef>,
    /// Every table of the engine, by name, also those without work.
    pub tables: BTreeMap<String, TableWork>,
}

impl Manifest {
    /// The number under which what it says was decided first.
    #[must_use]
    pub fn speaks_of(&self) -> u64 {
        self.repeats.unwrap_or(self.number)
    }

    /// Every blob that it refers to.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobRef> {
        let changes = self.tables.values().flat_map(|table| &table.pending).filter_map(|work| work.changes.as_ref());
        self.state.values().chain(changes)
    }

    /// The staged files that `table` may not have yet.
    pub fn staged_files(&self, table: &str) -> impl Iterator<Item = &StagedFile> {
        self.tables.get(table).into_iter().flat_map(|table| &table.pending).flat_map(|work| &work.appends)
    }

    /// The work for `table` that a table of this incarnation, which has everything up to `applied_through`, lacks.
    /// Work for an earlier incarnation went with it.
    #[must_use]
    pub fn unapplied(&self, table: &str, incarnation: &str, applied_through: u64) -> Vec<Work> {
        let known = self.tables.get(table).filter(|known| known.incarnation == incarnation);
        let pending = known.map_or(&[][..], |known| &known.pending);
        pending.iter().filter(|work| work.number > applied_through).cloned().collect()
    }

    /// As it is stored: the checksum covers the manifest's exact text.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        let bug = |error: serde_json::Error| Error::Bug(format!("a manifest cannot be written as JSON: {error}"));
        let manifest = serde_json::value::to_raw_value(self).map_err(bug)?;
        let sha256 = sha256_hex(manifest.get().as_bytes());
        serde_json::to_vec(&Envelope { format: FORMAT, sha256, manifest }).map_err(bug)
    }

    /// Reads what [`encode`](Self::encode) wrote; `name` is for messages.
    pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Damaged { name: name.to_owned(), reason };
        let Format { format } = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if format != FORMAT {
            return Err(Error::Format { name: name.to_owned(), found: format });
        }
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if sha256_hex(envelope.manifest.get().as_bytes()) != envelope.sha256 {
            return Err(damaged("its checksum does not match".to_owned()));
        }
        serde_json::from_str(envelope.manifest.get()).map_err(|error| damaged(error.to_string()))
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    format: u32,
    sha256: String,
    manifest: Box<RawValue>,
}

/// Read before the rest, which a newer format may have changed.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

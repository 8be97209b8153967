//! Carrying out a manifest on the tables.
//!
//! [`apply`] is the normal way, [`recover`] the first thing after a start: it also checks that tables and manifest
//! belong together, and then does the same. Both can be repeated at will.

use std::{collections::BTreeMap, io::Cursor};

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{Error, delta::DeltaTable};
use crate::stream::checkpoint::{Checkpoints, Manifest, Ownership, TableWork, Work};

/// Tables that are written at once: each waits for the store, but takes a core for its rows, which epochs need too.
pub const TABLES_AT_ONCE: usize = 4;

/// Brings `tables` to the state that `manifest` decided; tables that have it already are left alone. Keyed tables may
/// be passed less often than appended ones: what was decided meanwhile is then applied in one go, the last change of
/// a key winning.
///
/// # Errors
/// See [`Error`]; [`Error::Checkpoint`] when another engine has taken over. After one, some tables may have the
/// checkpoint and others not; [`recover`] mends that.
pub async fn apply(
    ownership: &Ownership,
    manifest: &Manifest,
    tables: impl IntoIterator<Item = &mut DeltaTable>,
) -> Result<(), Error> {
    let applied = tables.into_iter().map(|table| apply_one(ownership, manifest, table));
    stream::iter(applied).buffer_unordered(TABLES_AT_ONCE).try_collect().await
}

/// Checks that `tables` belong to the newest manifest, and brings them to its state. Pass every table that goes on,
/// also those that the manifest does not know yet; one that was deliberately made anew is added afterwards. Tables
/// that the manifest knows and that are not passed are left alone.
///
/// # Errors
/// [`Error::Diverged`] when a table is ahead of the manifest, has lost commits, or was made anew; nothing is changed
/// then.
pub async fn recover(checkpoints: &Checkpoints, tables: &mut BTreeMap<String, DeltaTable>) -> Result<(), Error> {
    let manifest = checkpoints.latest();
    let newest = manifest.as_ref().map_or(0, |manifest| manifest.number);
    for (name, table) in tables.iter() {
        let diverged = |reason| Error::Diverged { table: name.clone(), reason };
        let applied = table.applied_through();
        if applied > newest {
            return Err(diverged(format!("it has checkpoint {applied}, but the newest manifest is {newest}")));
        }
        let Some(known) = manifest.as_ref().and_then(|manifest| manifest.tables.get(name)) else {
            continue;
        };
        if known.incarnation != table.incarnation() {
            return Err(diverged("the manifest is about an earlier table of that name".to_owned()));
        }
        if applied < known.applied_through {
            let once = known.applied_through;
            return Err(diverged(format!("it has checkpoint {applied}, but once had checkpoint {once}")));
        }
    }
    let Some(manifest) = manifest else { return Ok(()) };
    apply(&checkpoints.ownership(), &manifest, tables.values_mut()).await
}

/// What a manifest that is to be decided after `previous` says about `table`: what is still unapplied, and `new` work.
#[must_use]
pub fn table_work(previous: Option<&Manifest>, table: &DeltaTable, new: Option<Work>) -> TableWork {
    let (incarnation, applied_through) = (table.incarnation().to_owned(), table.applied_through());
    let mut pending = previous
        .map_or_else(Vec::new, |manifest| manifest.unapplied(&table.spec().name, &incarnation, applied_through));
    pending.extend(new);
    TableWork { incarnation, applied_through, pending }
}

/// Changes of a keyed table as the bytes of a blob; see [`DeltaTable::upsert`] for their columns.
///
/// # Errors
/// When the batches differ in their columns.
pub fn encode_changes(changes: &[RecordBatch]) -> Result<Bytes, ArrowError> {
    let Some(first) = changes.first() else {
        return Err(ArrowError::InvalidArgumentError("there are no changes".to_owned()));
    };
    let mut writer = StreamWriter::try_new(Vec::new(), &first.schema())?;
    changes.iter().try_for_each(|batch| writer.write(batch))?;
    writer.into_inner().map(Bytes::from)
}

async fn apply_one(ownership: &Ownership, manifest: &Manifest, table: &mut DeltaTable) -> Result<(), Error> {
    let name = table.spec().name.clone();
    let pending = manifest.unapplied(&name, table.incarnation(), table.applied_through());
    if pending.is_empty() {
        return Ok(());
    }
    let bug = |reason: String| Error::Bug { table: name.clone(), reason };
    if table.spec().key.is_empty() {
        if pending.iter().any(|work| work.changes.is_some()) {
            return Err(bug("it is appended, but the manifest has changes by key".to_owned()));
        }
        let files: Vec<_> = pending.into_iter().flat_map(|work| work.appends).collect();
        ownership.check().await?;
        table.append(manifest.number, &files).await?;
        return Ok(());
    }
    let mut changes = Vec::new();
    for work in pending {
        if !work.appends.is_empty() {
            return Err(bug("it is keyed, but the manifest appends files".to_owned()));
        }
        if let Some(blob) = work.changes {
            let bytes = ownership.read_blob(&blob).await?;
            let batches = StreamReader::try_new(Cursor::new(bytes), None).and_then(Iterator::collect);
            changes.extend::<Vec<_>>(batches.map_err(|error: ArrowError| bug(format!("{}: {error}", blob.path)))?);
        }
    }
    ownership.check().await?;
    table.upsert(manifest.number, &changes).await?;
    Ok(())
}

//! Which versions of the tables belong together.
//!
//! Delta commits one table at a time, so a reader could see one table before a checkpoint and another after it. The
//! `commits` table is written last: its newest row names, for every table, the version to read.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, TimeUnit},
};

use super::{Error, TableSpec, delta::DeltaTable};
use crate::{
    storage::Location,
    stream::checkpoint::{Manifest, Ownership},
};

/// The name of the table.
pub const NAME: &str = "commits";

/// Its definition: `number`, `committed_at`, and as JSON `tables` (name → Delta version) and `offsets` (of the log's
/// partitions).
#[must_use]
pub fn spec() -> TableSpec {
    let schema = Schema::new(vec![
        Field::new("number", DataType::Int64, false),
        Field::new("committed_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("tables", DataType::Utf8, false),
        Field::new("offsets", DataType::Utf8, false),
    ]);
    TableSpec { name: NAME.to_owned(), schema: Arc::new(schema), key: Vec::new(), partition_by: Vec::new() }
}

/// Opens or creates the table under `root`.
///
/// # Errors
/// See [`DeltaTable::open_or_create`].
pub async fn open(root: &Location) -> Result<DeltaTable, Error> {
    DeltaTable::open_or_create(root, spec()).await
}

/// Publishes the tables as they are, which is as `manifest` decided; nothing happens when that was done before.
///
/// # Errors
/// See [`DeltaTable::append`]; [`Error::Checkpoint`] when another engine has taken over.
pub async fn publish(
    commits: &mut DeltaTable,
    ownership: &Ownership,
    manifest: &Manifest,
    tables: &BTreeMap<String, DeltaTable>,
) -> Result<(), Error> {
    let published = commits.applied_through();
    if published > manifest.number {
        let reason = format!("it has checkpoint {published}, but the newest manifest is {}", manifest.number);
        return Err(Error::Diverged { table: NAME.to_owned(), reason });
    }
    if published == manifest.number {
        return Ok(());
    }
    let bug = |reason: String| Error::Bug { table: NAME.to_owned(), reason };
    let versions: BTreeMap<&str, u64> = tables.iter().map(|(name, table)| (name.as_str(), table.version())).collect();
    let versions = serde_json::to_string(&versions).map_err(|error| bug(error.to_string()))?;
    let offsets = serde_json::to_string(&manifest.offsets).map_err(|error| bug(error.to_string()))?;
    let number = i64::try_from(manifest.number).map_err(|error| bug(error.to_string()))?;
    let row = RecordBatch::try_new(
        spec().schema,
        vec![
            Arc::new(Int64Array::from(vec![number])),
            Arc::new(TimestampMicrosecondArray::from(vec![manifest.committed_at.micros()]).with_timezone("UTC")),
            Arc::new(StringArray::from(vec![versions])),
            Arc::new(StringArray::from(vec![offsets])),
        ],
    );
    let staged = commits.stage(&[row.map_err(|error| bug(error.to_string()))?]).await?;
    ownership.check().await?;
    commits.append(manifest.number, &staged).await?;
    Ok(())
}

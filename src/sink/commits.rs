//! Which versions of the tables belong together.
//!
//! Delta commits one table at a time, so a reader could see one table before a checkpoint and another after it. The
//! `commits` table is written last: its newest row names, for every table, the version to read.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, TimeUnit},
};

use datafusion::{
    error::DataFusionError,
    logical_expr::{col, lit},
    prelude::SessionContext,
};

use super::{
    Error, TableSpec,
    delta::{self, DeltaTable},
    storage,
};
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

/// A row of the table: what a checkpoint has made of all tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// The manifest that was applied.
    pub number: u64,
    /// The version of every table.
    pub versions: BTreeMap<String, u64>,
}

/// The newest row, for a process that does not own the tables; `None` before the first.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Bug`] when the row is not one that this program writes.
pub async fn newest(root: &Location) -> Result<Option<Commit>, Error> {
    let Some((table, number)) = delta::read_applied(root, NAME).await? else { return Ok(None) };
    if number == 0 {
        return Ok(None);
    }
    let bug = |reason: String| Error::Bug { table: NAME.to_owned(), reason };
    let row = i64::try_from(number).map_err(|error| bug(error.to_string()))?;
    let read = async {
        // One file has it, and the files say which numbers they have.
        let rows = SessionContext::new().read_table(table)?.filter(col("number").eq(lit(row)))?;
        rows.select_columns(&["tables"])?.collect().await
    };
    let rows = read.await.map_err(|error: DataFusionError| storage(NAME, error.into()))?;
    let text = rows.iter().find(|batch| batch.num_rows() > 0);
    let text = text.ok_or_else(|| bug(format!("it has checkpoint {number}, but no row of it")))?;
    let text = text.column(0).as_string_opt::<i32>().ok_or_else(|| bug("`tables` is no text".to_owned()))?;
    let versions = serde_json::from_str(text.value(0)).map_err(|error| bug(error.to_string()))?;
    Ok(Some(Commit { number, versions }))
}

//! How a table lies on disk: where, with which properties and types, and what this program accepts there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use deltalake::{
    DeltaTableError,
    delta_datafusion::{DeltaScanConfig, DeltaScanNext},
    kernel::{
        StructType,
        engine::arrow_conversion::{TryIntoArrow, TryIntoKernel},
    },
    logstore::{StorageConfig, default_logstore},
    operations::create::CreateBuilder,
    protocol::SaveMode,
    table::state::DeltaTableState,
    writer::RecordBatchWriter,
};
use parquet::{
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

use super::{Error, TableSpec, scan::Scan, storage};
use crate::storage::Location;

/// Commits between two checkpoints of a table's own log; a reader opens at most so many small files.
const COMMITS_PER_LOG_CHECKPOINT: &str = "100";

/// How long old log entries, and files that left the table, stay for those who read an older snapshot. A commit lists
/// the entries (720 in an hour of a commit every five seconds), and a keyed table of a million rows can leave behind
/// gigabytes an hour.
const RETENTION: &str = "interval 1 hours";

/// Makes Delta forget old transactions, and us write their work again.
const FORGETS_TRANSACTIONS: &str = "delta.setTransactionRetentionDuration";

/// What this writer does not know how to keep.
const FOREIGN_FEATURES: [&str; 2] = ["delta.enableDeletionVectors", "delta.columnMapping.mode"];

/// Opens the table `<root>/<spec.name>`, or creates it with the lowest protocol.
pub(super) async fn open_or_create(root: &Location, spec: &TableSpec) -> Result<deltalake::DeltaTable, Error> {
    let mut table = locate(root, &spec.name);
    let failed = |source| storage(&spec.name, source);
    if table.verify_deltatable_existence().await.map_err(failed)? {
        // What Delta cannot hold is told of before anything else.
        delta_schema(spec)?;
        table.load().await.map_err(failed)?;
        return Ok(table);
    }
    create(&table, spec, SaveMode::ErrorIfExists).await
}

/// Makes the table `<root>/<spec.name>` anew: one commit that takes all files out and gives it these columns.
pub(super) async fn make_anew(root: &Location, spec: &TableSpec) -> Result<deltalake::DeltaTable, Error> {
    create(&locate(root, &spec.name), spec, SaveMode::Overwrite).await
}

async fn create(
    table: &deltalake::DeltaTable,
    spec: &TableSpec,
    mode: SaveMode,
) -> Result<deltalake::DeltaTable, Error> {
    CreateBuilder::new()
        .with_log_store(table.log_store())
        .with_save_mode(mode)
        .with_table_name(&spec.name)
        .with_columns(delta_schema(spec)?.fields().cloned())
        .with_partition_columns(&spec.partition_by)
        .with_configuration([
            ("delta.checkpointInterval", Some(COMMITS_PER_LOG_CHECKPOINT)),
            ("delta.logRetentionDuration", Some(RETENTION)),
            ("delta.deletedFileRetentionDuration", Some(RETENTION)),
        ])
        .await
        .map_err(|source| storage(&spec.name, source))
}

/// Whether a snapshot is one that this program can go on from.
pub(super) fn check(state: &DeltaTableState, spec: &TableSpec) -> Result<(), Error> {
    let mismatch = |reason: String| Error::Mismatch { table: spec.name.clone(), reason };
    let configuration = state.metadata().configuration();
    if configuration.contains_key(FORGETS_TRANSACTIONS) {
        return Err(mismatch(format!("{FORGETS_TRANSACTIONS} is set, which loses track of what is applied")));
    }
    if let Some(feature) = FOREIGN_FEATURES.iter().find(|feature| configuration.contains_key(**feature)) {
        return Err(mismatch(format!("{feature} is set, which this program does not write")));
    }
    if state.log_data().iter().any(|file| file.deletion_vector_descriptor().is_some()) {
        return Err(mismatch("another program deleted rows with deletion vectors".to_owned()));
    }
    if state.metadata().partition_columns() != spec.partition_by.as_slice() {
        return Err(mismatch(format!("it is partitioned by {:?}", state.metadata().partition_columns())));
    }
    difference(&state.snapshot().arrow_schema(), &spec.schema).map_or(Ok(()), |reason| Err(mismatch(reason)))
}

/// The table `<root>/<name>`, not loaded: it need not exist. A commit is an object that is created only if its name is
/// free, on a directory as on S3: Delta's log store for such stores is made here, because by itself Delta knows one
/// only for URLs of files.
pub(super) fn locate(root: &Location, name: &str) -> deltalake::DeltaTable {
    let location = root.child(name);
    let log_store = default_logstore(location.store(), location.root(), location.url(), &StorageConfig::default());
    deltalake::DeltaTable::new(log_store)
}

/// The plain Arrow types of the table: no views, no dictionaries, so that rows in memory can be put beside them.
pub(super) fn provider(table: &deltalake::DeltaTable) -> Result<Arc<dyn TableProvider>, DeltaTableError> {
    let mut config = DeltaScanConfig::new().with_wrap_partition_values(false);
    config.schema_force_view_types = false;
    let scan = DeltaScanNext::new(table.snapshot()?.snapshot().clone(), config)?;
    Ok(Arc::new(Scan::new(scan, table)))
}

/// Writes files for the table that grow to `target_bytes`.
pub(super) fn writer(table: &deltalake::DeltaTable, target_bytes: u64) -> Result<RecordBatchWriter, DeltaTableError> {
    let properties = WriterProperties::builder()
        .set_created_by(concat!("tributary ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let writer = RecordBatchWriter::for_table(table)?;
    Ok(writer.with_writer_properties(properties).with_target_file_size(target_bytes))
}

/// Delta's own schema for the table, if it keeps every column exactly as it is.
fn delta_schema(spec: &TableSpec) -> Result<StructType, Error> {
    let invalid = |reason: String| Error::Spec { table: spec.name.clone(), reason };
    let columns: StructType = spec.schema.as_ref().try_into_kernel().map_err(|error| invalid(format!("{error}")))?;
    let kept: Schema = (&columns).try_into_arrow().map_err(|error| invalid(format!("{error}")))?;
    if let Some(reason) = difference(&Arc::new(kept), &spec.schema) {
        return Err(invalid(format!("Delta keeps other types: {reason}")));
    }
    if spec.schema.fields().iter().any(|field| matches!(field.data_type(), DataType::Timestamp(_, None))) {
        return Err(invalid("an instant without a zone needs a newer protocol; use UTC".to_owned()));
    }
    for name in spec.key.iter().chain(&spec.partition_by) {
        if spec.schema.field_with_name(name).is_err() {
            return Err(invalid(format!("there is no column {name}")));
        }
    }
    for name in &spec.partition_by {
        let kind = spec.schema.field_with_name(name).map(arrow::datatypes::Field::data_type);
        let plain = matches!(
            kind,
            Ok(DataType::Utf8 | DataType::Date32 | DataType::Int32 | DataType::Int64 | DataType::Boolean)
        );
        if !plain {
            return Err(invalid(format!("column {name} cannot divide a table: use text, dates, integers or booleans")));
        }
    }
    Ok(columns)
}

/// How the columns of a table differ from the expected ones, if they do.
fn difference(found: &SchemaRef, expected: &SchemaRef) -> Option<String> {
    let columns = |schema: &SchemaRef| -> BTreeMap<String, (usize, DataType, bool)> {
        let fields = schema.fields().iter().enumerate();
        fields.map(|(at, field)| (field.name().clone(), (at, field.data_type().clone(), field.is_nullable()))).collect()
    };
    let (found, expected) = (columns(found), columns(expected));
    let describe = |column: Option<&(usize, DataType, bool)>| match column {
        Some((at, kind, true)) => format!("column {} of type {kind}, nullable", at + 1),
        Some((at, kind, false)) => format!("column {} of type {kind}, not null", at + 1),
        None => "missing".to_owned(),
    };
    let names: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let name = names.into_iter().find(|name| found.get(*name) != expected.get(*name))?;
    Some(format!("`{name}` is {}, expected {}", describe(found.get(name)), describe(expected.get(name))))
}

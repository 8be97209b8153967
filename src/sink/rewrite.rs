//! Reading and writing again the files of a table: without the rows that changes touch, or merged when they are small.
//!
//! Written by hand because `deltalake`'s own MERGE and OPTIMIZE commit by themselves, on a snapshot that they may
//! exchange underway, where a table that is written exactly once needs to plan and commit on one snapshot that it has
//! checked. It is also what lets an upsert leave alone the files that hold none of its keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array},
    compute::{cast, filter_record_batch, take, take_record_batch},
    datatypes::{DataType, Field, SchemaRef},
    error::ArrowError,
};
use bytes::Bytes;
use deltalake::{
    DeltaTableError, ObjectStore,
    kernel::{Action, Add, LogicalFileView},
    table::state::DeltaTableState,
    writer::DeltaWriter,
};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, path::Path};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

use super::{keyed::Changes, layout::writer};

/// The size that files of a keyed table grow to: small, because an upsert writes whole files again.
pub(super) const KEYED_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// The size that files of an appended table grow to: what other engines like to read.
pub(super) const APPENDED_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Small files of one partition that are worth merging.
const MERGED_FILES_AT_LEAST: usize = 8;

/// Files read and written again at once: each takes one core, and memory for a file in both forms.
const REWRITES_AT_ONCE: usize = 4;

/// Rows decoded in one piece.
const BATCH_ROWS: usize = 16_384;

type Result<T, E = DeltaTableError> = std::result::Result<T, E>;

/// An active file of a snapshot.
#[derive(Clone)]
pub(super) struct ActiveFile {
    view: LogicalFileView,
    pub(super) path: Path,
    pub(super) bytes: u64,
    partition: Partition,
}

/// The values of the partition columns, in order, as Delta spells them.
type Partition = Vec<Option<String>>;

/// Files to be written again as one or more new ones.
struct Bin {
    partition: Partition,
    files: Vec<(ActiveFile, Option<Keep>)>,
    added: Option<RecordBatch>,
}

/// For every piece of [`BATCH_ROWS`] rows of a file, which rows stay.
type Keep = Vec<Option<BooleanArray>>;

/// The active files of `state`.
pub(super) fn files(state: &DeltaTableState) -> Vec<ActiveFile> {
    let partition_by = state.metadata().partition_columns();
    let file = |view: LogicalFileView| {
        let mut values = view.partition_values_map();
        ActiveFile {
            path: view.object_store_path(),
            bytes: u64::try_from(view.size()).unwrap_or_default(),
            partition: partition_by
                .iter()
                .map(|column| values.remove(column).flatten().filter(|text| !text.is_empty()))
                .collect(),
            view,
        }
    };
    state.log_data().iter().map(file).collect()
}

/// Rewrites on one snapshot of a table.
pub(super) struct Rewrite {
    pub(super) table: deltalake::DeltaTable,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) schema: SchemaRef,
    pub(super) partition_by: Vec<String>,
    pub(super) files: Vec<ActiveFile>,
    pub(super) target_bytes: u64,
}

impl Rewrite {
    /// Writes the files that `changes` need; the actions replace those they make obsolete.
    pub(super) async fn upsert(self: Arc<Self>, changes: Arc<Changes>) -> Result<Vec<Action>> {
        let hit = self.hit(&changes).await?;
        let removes: Vec<_> = hit.iter().map(|(file, _)| Action::Remove(file.view.remove_action(true))).collect();
        let mut bins = self.bins(hit.into_iter().map(|(file, keep)| (file, Some(keep))).collect());
        for (partition, rows) in self.by_partition(&changes.puts)? {
            let size = |bin: &Bin| bin.files.iter().map(|(file, _)| file.bytes).sum::<u64>();
            let smallest = bins.iter_mut().filter(|bin| bin.partition == partition).min_by_key(|bin| size(bin));
            match smallest {
                Some(bin) => bin.added = Some(rows),
                None => bins.push(Bin { partition, files: Vec::new(), added: Some(rows) }),
            }
        }
        let adds = self.write(bins).await?;
        Ok(removes.into_iter().chain(adds.into_iter().map(Action::Add)).collect())
    }

    /// Merges small files, where there are many; no actions when there is nothing worth doing.
    pub(super) async fn compact(self: Arc<Self>) -> Result<Vec<Action>> {
        let mut small: BTreeMap<&Partition, Vec<&ActiveFile>> = BTreeMap::new();
        for file in self.files.iter().filter(|file| file.bytes < self.target_bytes / 2) {
            small.entry(&file.partition).or_default().push(file);
        }
        let merged = small.into_values().filter(|files| files.len() >= MERGED_FILES_AT_LEAST).flatten();
        let mut bins = self.bins(merged.map(|file| (file.clone(), None)).collect());
        bins.retain(|bin| bin.files.len() > 1);
        let files = bins.iter().flat_map(|bin| &bin.files);
        let mut actions: Vec<_> = files.map(|(file, _)| Action::Remove(file.view.remove_action(false))).collect();
        let adds = self.write(bins).await?;
        actions.extend(adds.into_iter().map(|add| Action::Add(Add { data_change: false, ..add })));
        Ok(actions)
    }

    /// The files that hold a touched key, and what stays of them.
    async fn hit(self: &Arc<Self>, changes: &Arc<Changes>) -> Result<Vec<(ActiveFile, Keep)>> {
        let partitions = match changes.partitions() {
            Some(columns) if !self.partition_by.is_empty() => Some(spelled(columns)?),
            _ => None,
        };
        let possible =
            self.files.iter().filter(|file| partitions.as_ref().is_none_or(|set| set.contains(&file.partition)));
        let searches = possible.cloned().map(|file| {
            let (this, changes) = (Arc::clone(self), Arc::clone(changes));
            blocking(async move { Ok(this.untouched(&file, &changes).await?.map(|keep| (file, keep))) })
        });
        let found: Vec<_> = futures::stream::iter(searches).buffered(REWRITES_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn untouched(&self, file: &ActiveFile, changes: &Changes) -> Result<Option<Keep>> {
        let mut keep = Vec::new();
        for batch in self.read(file, Some(changes.key())).await? {
            let batch = batch?;
            let keys = changes.key().iter().map(|name| self.column(&batch, file, name));
            keep.push(changes.untouched(&keys.collect::<Result<Vec<_>>>()?)?);
        }
        Ok(keep.iter().any(Option::is_some).then_some(keep))
    }

    /// Files of one partition together, up to the target size.
    fn bins(&self, mut files: Vec<(ActiveFile, Option<Keep>)>) -> Vec<Bin> {
        files.sort_by(|(a, _), (b, _)| (&a.partition, a.bytes).cmp(&(&b.partition, b.bytes)));
        let mut bins: Vec<Bin> = Vec::new();
        let mut filled = 0;
        for (file, keep) in files {
            filled += file.bytes;
            match bins.last_mut() {
                Some(bin) if bin.partition == file.partition && filled <= self.target_bytes => {
                    bin.files.push((file, keep));
                }
                _ => {
                    filled = file.bytes;
                    bins.push(Bin { partition: file.partition.clone(), files: vec![(file, keep)], added: None });
                }
            }
        }
        bins
    }

    async fn write(self: &Arc<Self>, bins: Vec<Bin>) -> Result<Vec<Add>> {
        let writes = bins.into_iter().map(|bin| {
            let this = Arc::clone(self);
            blocking(async move { this.write_bin(bin).await })
        });
        let written: Vec<_> = futures::stream::iter(writes).buffered(REWRITES_AT_ONCE).try_collect().await?;
        Ok(written.into_iter().flatten().collect())
    }

    async fn write_bin(&self, bin: Bin) -> Result<Vec<Add>> {
        let mut writer = writer(&self.table, self.target_bytes)?;
        for (file, keep) in &bin.files {
            for (at, batch) in self.read(file, None).await?.enumerate() {
                let mut batch = batch?;
                if let Some(keep) = keep.as_ref().and_then(|keep| keep.get(at)?.as_ref()) {
                    if keep.len() != batch.num_rows() {
                        return Err(DeltaTableError::generic(format!("{} changed while it was read", file.path)));
                    }
                    batch = filter_record_batch(&batch, keep)?;
                }
                let columns = self.schema.fields().iter().map(|field| self.column(&batch, file, field.name()));
                let columns = columns.collect::<Result<Vec<_>>>()?;
                writer.write(RecordBatch::try_new(Arc::clone(&self.schema), columns)?).await?;
            }
        }
        if let Some(rows) = bin.added {
            writer.write(rows).await?;
        }
        writer.flush().await
    }

    /// Decodes a file in pieces of [`BATCH_ROWS`]: all columns, or those named.
    async fn read(
        &self,
        file: &ActiveFile,
        names: Option<&[String]>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, ArrowError>> + use<>> {
        let bytes: Bytes = self.store.get(&file.path).await?.bytes().await?;
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.with_batch_size(BATCH_ROWS);
        if let Some(names) = names {
            let fields = reader.schema().fields().iter().enumerate();
            let roots = fields.filter(|(_, field)| names.contains(field.name())).map(|(at, _)| at);
            let mask = ProjectionMask::roots(reader.parquet_schema(), roots);
            reader = reader.with_projection(mask);
        }
        Ok(reader.build()?)
    }

    /// A column of the table: from the file's rows, or what the file's directory says.
    fn column(&self, batch: &RecordBatch, file: &ActiveFile, name: &str) -> Result<ArrayRef> {
        let field = self.schema.field_with_name(name)?;
        if let Some(at) = self.partition_by.iter().position(|column| column == name) {
            return constant(file.partition[at].as_deref(), field, batch.num_rows());
        }
        let column = batch.column_by_name(name).ok_or_else(|| {
            DeltaTableError::generic(format!("{} has no column {name}: another program wrote it", file.path))
        })?;
        Ok(if column.data_type() == field.data_type() { Arc::clone(column) } else { cast(column, field.data_type())? })
    }

    fn by_partition(&self, rows: &RecordBatch) -> Result<Vec<(Partition, RecordBatch)>> {
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if self.partition_by.is_empty() {
            return Ok(vec![(Partition::new(), rows.clone())]);
        }
        let columns = self.partition_by.iter().map(|name| rows.column_by_name(name).cloned());
        let columns = columns.collect::<Option<Vec<_>>>().ok_or_else(|| DeltaTableError::generic("no such column"))?;
        let mut members: BTreeMap<Partition, Vec<u32>> = BTreeMap::new();
        let texts = texts(&columns)?;
        for (at, row) in (0_u32..).zip(0..rows.num_rows()) {
            members.entry(text_row(&texts, row)).or_default().push(at);
        }
        let part = |(partition, members): (Partition, Vec<u32>)| {
            Ok((partition, take_record_batch(rows, &UInt32Array::from(members))?))
        };
        members.into_iter().map(part).collect()
    }
}

/// Runs work that is mostly computing, off the threads that serve others.
pub(super) async fn blocking<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
    done.map_err(|error| DeltaTableError::generic(error.to_string()))?
}

/// The distinct rows of the columns, as Delta spells them.
fn spelled(columns: &[ArrayRef]) -> Result<BTreeSet<Partition>> {
    let texts = texts(columns)?;
    let rows = texts.first().map_or(0, Array::len);
    Ok((0..rows).map(|at| text_row(&texts, at)).collect())
}

fn texts(columns: &[ArrayRef]) -> Result<Vec<StringArray>> {
    let text = |column: &ArrayRef| Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone());
    columns.iter().map(text).collect()
}

/// Delta has no empty text in a partition: it is NULL.
fn text_row(texts: &[StringArray], at: usize) -> Partition {
    let value =
        |text: &StringArray| (text.is_valid(at) && !text.value(at).is_empty()).then(|| text.value(at).to_owned());
    texts.iter().map(value).collect()
}

fn constant(text: Option<&str>, field: &Field, rows: usize) -> Result<ArrayRef> {
    let one = cast(&StringArray::from(vec![text]), field.data_type())?;
    Ok(take(&one, &UInt32Array::from(vec![0; rows]), None)?)
}

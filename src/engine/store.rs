//! Every table the engine writes, in its three forms: what Delta has, what readers see, and what the next checkpoint
//! will make durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Int8Array, RecordBatch},
    compute::concat_batches,
    datatypes::{DataType, Field, Schema, SchemaRef},
};

use datafusion::{catalog::TableProvider, prelude::SessionContext};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinHandle;

use super::{Error, collect_one, recovery::conform};
use crate::{
    serve::{LiveTable, UserTable},
    sink::{
        self, TableSpec,
        apply::{TABLES_AT_ONCE, encode_changes, table_work},
        delta::DeltaTable,
    },
    stream::{
        Tables,
        checkpoint::{Checkpoints, Manifest, StagedFile, TableWork, Work},
        pipeline::RowDelta,
    },
    tables::OP_COLUMN,
};

/// Rows of an appended table that are written to a file at once, beside the epochs: bounds what waits in memory. When
/// as many came before the file is there, they wait for it.
const ROWS_A_FILE: usize = 50_000;

pub(crate) struct StoredTable {
    pub(crate) live: Arc<LiveTable>,
    schema: SchemaRef,
    key: Vec<String>,
    comment: String,
    /// Rows since the last checkpoint.
    new_rows: usize,
    waiting: Vec<RecordBatch>,
    /// Of an appended table.
    waiting_rows: usize,
    /// A file on its way, and those that are there.
    staging: Option<Staging>,
    staged: Vec<StagedFile>,
}

/// The rows of a table as readers see them.
pub(crate) struct Reader {
    live: Arc<LiveTable>,
    schema: SchemaRef,
}

impl Reader {
    /// All of them, in the types of the contract.
    pub(crate) async fn content(&self) -> Result<RecordBatch, Error> {
        let live = Arc::clone(&self.live);
        let rows = collect_one(SessionContext::new().read_table(live)?).await?;
        conform(&rows, &self.schema)
    }
}

/// Files on their way.
type Staging = JoinHandle<Result<Vec<StagedFile>, sink::Error>>;

/// What is new in a table since the last checkpoint: of an appended table rows, files on their way and files that are
/// there, of a keyed one changes.
pub(crate) struct NewRows {
    rows: Vec<RecordBatch>,
    staging: Option<Staging>,
    staged: Vec<StagedFile>,
}

impl NewRows {
    /// As work of the next manifest, if it is any, once it is on disk.
    async fn make_durable(self, checkpoints: &Checkpoints, table: &DeltaTable) -> Result<Option<Work>, Error> {
        let number = checkpoints.next_number();
        let Self { rows, staging, staged: mut appends } = self;
        if !table.spec().key.is_empty() {
            if rows.is_empty() {
                return Ok(None);
            }
            let name = format!("changes-{}", table.spec().name);
            let blob = checkpoints.put_blob(&name, encode_changes(&rows)?).await?;
            return Ok(Some(Work { number, appends, changes: Some(blob) }));
        }
        appends.extend(staged(staging).await?);
        if !rows.is_empty() {
            appends.extend(table.stage(&rows).await?);
        }
        Ok((!appends.is_empty()).then_some(Work { number, appends, changes: None }))
    }
}

/// What the next manifest says about every table. What is new is on disk when it returns.
pub(crate) async fn make_durable(
    new: BTreeMap<String, NewRows>,
    checkpoints: &Checkpoints,
    tables: &BTreeMap<String, DeltaTable>,
) -> Result<BTreeMap<String, TableWork>, Error> {
    let latest = checkpoints.latest();
    let durable = |(name, rows): (String, NewRows)| {
        let latest = latest.as_deref();
        async move {
            let table = tables.get(&name);
            let table = table.ok_or_else(|| Error::Internal(format!("there is no Delta table {name}")))?;
            let work = rows.make_durable(checkpoints, table).await?;
            Ok::<_, Error>((name, table_work(latest, table, work)))
        }
    };
    let is_keyed = |name: &String| tables.get(name).is_some_and(|table| !table.spec().key.is_empty());
    let (blobs, files): (Vec<_>, Vec<_>) = new.into_iter().partition(|(name, _)| is_keyed(name));
    let mut works = BTreeMap::new();
    for rows in [files, blobs] {
        let rows = stream::iter(rows.into_iter().map(durable)).buffer_unordered(TABLES_AT_ONCE);
        works.extend(rows.try_collect::<Vec<_>>().await?);
    }
    Ok(works)
}

/// The files that were on their way, once they are there.
async fn staged(staging: Option<Staging>) -> Result<Vec<StagedFile>, Error> {
    match staging {
        Some(staging) => Ok(staging.await.map_err(|error| Error::Internal(error.to_string()))??),
        None => Ok(Vec::new()),
    }
}

/// All tables by name. The Delta side is kept apart because recovery and maintenance take it as a whole.
pub(crate) struct Store {
    pub(crate) delta: BTreeMap<String, DeltaTable>,
    tables: BTreeMap<String, StoredTable>,
    new_bytes: usize,
}

/// What a table is, for opening it.
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) schema: SchemaRef,
    pub(crate) key: Vec<String>,
    pub(crate) comment: String,
    /// Whether it may be made anew when what is on disk has other columns.
    pub(crate) derived: bool,
}

impl Definition {
    pub(crate) fn spec(&self) -> TableSpec {
        TableSpec {
            name: self.name.clone(),
            schema: Arc::clone(&self.schema),
            key: self.key.clone(),
            partition_by: Vec::new(),
        }
    }
}

impl StoredTable {
    fn new(definition: Definition, provider: Arc<dyn TableProvider>) -> Result<Self, Error> {
        let Definition { schema, key, comment, .. } = definition;
        let live = Arc::new(LiveTable::new(Arc::clone(&schema), key.clone(), provider)?);
        Ok(Self {
            live,
            schema,
            key,
            comment,
            new_rows: 0,
            waiting: Vec::new(),
            waiting_rows: 0,
            staging: None,
            staged: Vec::new(),
        })
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// For who reads it on another thread.
    pub(crate) fn reader(&self) -> Reader {
        Reader { live: Arc::clone(&self.live), schema: Arc::clone(&self.schema) }
    }

    fn take_new(&mut self) -> NewRows {
        (self.new_rows, self.waiting_rows) = (0, 0);
        NewRows {
            rows: std::mem::take(&mut self.waiting),
            staging: self.staging.take(),
            staged: std::mem::take(&mut self.staged),
        }
    }

    /// Whether it has the columns and the key of a definition.
    pub(crate) fn fits(&self, definition: &Definition) -> bool {
        let same = |(a, b): (&Arc<Field>, &Arc<Field>)| {
            a.name() == b.name() && a.data_type() == b.data_type() && a.is_nullable() == b.is_nullable()
        };
        let (old, new) = (self.schema.fields(), definition.schema.fields());
        self.key == definition.key && old.len() == new.len() && old.iter().zip(new.iter()).all(same)
    }
}

impl Store {
    pub(crate) fn new(delta: BTreeMap<String, DeltaTable>, definitions: Vec<Definition>) -> Result<Self, Error> {
        let mut tables = BTreeMap::new();
        for definition in definitions {
            let name = definition.name.clone();
            let provider =
                delta.get(&name).ok_or_else(|| Error::Internal(format!("table {name} was not opened")))?.provider();
            tables.insert(name, StoredTable::new(definition, provider)?);
        }
        Ok(Self { delta, tables, new_bytes: 0 })
    }

    /// Adds a table, or puts it in the place of another of its name.
    pub(crate) fn insert(&mut self, delta: DeltaTable, definition: Definition) -> Result<(), Error> {
        let name = definition.name.clone();
        self.tables.insert(name.clone(), StoredTable::new(definition, delta.provider())?);
        self.delta.insert(name, delta);
        Ok(())
    }

    /// Forgets a table; what is on disk stays.
    pub(crate) fn remove(&mut self, name: &str) {
        self.tables.remove(name);
        self.delta.remove(name);
    }

    fn get_mut(&mut self, name: &str) -> Result<&mut StoredTable, Error> {
        self.tables.get_mut(name).ok_or_else(|| Error::Internal(format!("there is no table {name}")))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&StoredTable> {
        self.tables.get(name)
    }

    /// The most rows of one table that the next checkpoint will make durable.
    pub(crate) fn new_rows(&self) -> usize {
        self.tables.values().map(|table| table.new_rows).max().unwrap_or_default()
    }

    /// Memory of the rows that the next checkpoint will make durable.
    pub(crate) fn new_bytes(&self) -> usize {
        self.new_bytes
    }

    /// Adds rows to an appended table.
    pub(crate) async fn append(&mut self, name: &str, rows: RecordBatch) -> Result<(), Error> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.new_bytes += rows.get_array_memory_size();
        let table = self.get_mut(name)?;
        table.live.push(&rows)?;
        table.new_rows += rows.num_rows();
        table.waiting_rows += rows.num_rows();
        table.waiting.push(rows);
        if table.waiting_rows >= ROWS_A_FILE {
            self.stage(name).await?;
        }
        Ok(())
    }

    /// Applies changes to a keyed table.
    pub(crate) fn change(&mut self, name: &str, delta: &RowDelta) -> Result<(), Error> {
        if delta.is_empty() {
            return Ok(());
        }
        self.new_bytes += delta.removed.get_array_memory_size() + delta.added.get_array_memory_size();
        let table = self.get_mut(name)?;
        let changes = changes(&table.schema, delta)?;
        table.live.put(&changes)?;
        table.new_rows += changes.num_rows();
        table.waiting.push(changes);
        Ok(())
    }

    /// Begins to write what waits to a file, once the one before is there.
    async fn stage(&mut self, name: &str) -> Result<(), Error> {
        let table = self.tables.get_mut(name).ok_or_else(|| Error::Internal(format!("there is no table {name}")))?;
        let delta = self.delta.get(name).ok_or_else(|| Error::Internal(format!("there is no Delta table {name}")))?;
        table.staged.extend(staged(table.staging.take()).await?);
        table.staging = Some(tokio::spawn(delta.stage(&std::mem::take(&mut table.waiting))));
        table.waiting_rows = 0;
        Ok(())
    }

    /// The names of the tables.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.tables.keys()
    }

    /// Whether there is anything that the next checkpoint will make durable.
    pub(crate) fn has_new(&self) -> bool {
        self.tables
            .values()
            .any(|table| !table.waiting.is_empty() || !table.staged.is_empty() || table.staging.is_some())
    }

    /// Takes what is new in every table since this was last called.
    pub(crate) fn take_new(&mut self) -> BTreeMap<String, NewRows> {
        self.new_bytes = 0;
        let take = |(name, table): (&String, &mut StoredTable)| (name.clone(), table.take_new());
        self.tables.iter_mut().map(take).collect()
    }

    /// The newest marks: what a checkpoint that is taken now will have made durable.
    pub(crate) fn marks(&self) -> BTreeMap<String, u64> {
        self.tables.iter().map(|(name, table)| (name.clone(), table.live.mark())).collect()
    }

    /// Shows readers the Delta snapshots, without the rows in memory up to `marks`.
    pub(crate) fn committed(&self, marks: &BTreeMap<String, u64>) -> Result<(), Error> {
        for (name, table) in &self.tables {
            if let Some(delta) = self.delta.get(name) {
                table.live.commit(delta.provider(), marks.get(name).copied().unwrap_or_default())?;
            }
        }
        Ok(())
    }

    /// Some tables as queries read them now, the newest rows included, whatever the epochs that follow bring.
    pub(crate) fn frozen(&self, names: &BTreeSet<String>) -> Tables {
        let frozen = |name: &String| {
            Some((name.clone(), Arc::new(self.tables.get(name)?.live.frozen()) as Arc<dyn TableProvider>))
        };
        names.iter().filter_map(frozen).collect()
    }

    /// The tables as people see them.
    pub(crate) fn user_tables(&self) -> Vec<UserTable> {
        self.tables
            .iter()
            .map(|(name, table)| user_table(name, &table.comment, &table.schema, Arc::clone(&table.live) as _))
            .collect()
    }

    /// Staged files that a manifest refers to, by table: maintenance must spare them.
    pub(crate) fn staged_files(manifest: &Manifest, table: &str) -> std::collections::BTreeSet<String> {
        manifest.staged_files(table).map(|file| file.path.clone()).collect()
    }
}

/// A table with its comments.
pub(crate) fn user_table(name: &str, comment: &str, schema: &SchemaRef, provider: Arc<dyn TableProvider>) -> UserTable {
    let mut table = UserTable::new(name, provider);
    table.comment = Some(comment.to_owned());
    table.column_comments = schema
        .fields()
        .iter()
        .filter_map(|field| Some((field.name().clone(), field.metadata().get("comment")?.clone())))
        .collect();
    table
}

/// Deletes of the rows that went, then puts of those that are there now: of one key the last one counts.
fn changes(schema: &SchemaRef, delta: &RowDelta) -> Result<RecordBatch, Error> {
    let rows = concat_batches(schema, [&delta.removed, &delta.added])?;
    let operations = Int8Array::from_iter_values(
        std::iter::repeat_n(-1, delta.removed.num_rows()).chain(std::iter::repeat_n(1, delta.added.num_rows())),
    );
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(OP_COLUMN, DataType::Int8, false)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(operations) as ArrayRef);
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

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
use futures::future::try_join_all;
use tokio::task::JoinHandle;

use super::{Error, collect_one, recovery::conform};
use crate::{
    serve::{LiveTable, UserTable},
    sink::{
        self, TableSpec,
        apply::{encode_changes, table_work},
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
    staging: Option<JoinHandle<Result<Vec<StagedFile>, sink::Error>>>,
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

    /// Waits for the file that is on its way.
    async fn staged(&mut self) -> Result<(), Error> {
        if let Some(staging) = self.staging.take() {
            let files = staging.await.map_err(|error| Error::Internal(error.to_string()))?;
            self.staged.extend(files?);
        }
        Ok(())
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
        table.staged().await?;
        table.staging = Some(tokio::spawn(delta.stage(&std::mem::take(&mut table.waiting))));
        table.waiting_rows = 0;
        Ok(())
    }

    /// What the next manifest says about every table. Everything that waits is on disk when it returns.
    pub(crate) async fn work(&mut self, checkpoints: &Checkpoints) -> Result<BTreeMap<String, TableWork>, Error> {
        let number = checkpoints.next_number();
        let names: Vec<String> = self.tables.keys().cloned().collect();
        for name in &names {
            let table = self.get_mut(name)?;
            if table.key.is_empty() && table.waiting_rows > 0 {
                self.stage(name).await?;
            }
        }
        let mut new: BTreeMap<&String, Work> = BTreeMap::new();
        let mut changes = Vec::new();
        for name in &names {
            let table = self.get_mut(name)?;
            if table.key.is_empty() {
                table.staged().await?;
                let appends = std::mem::take(&mut table.staged);
                if !appends.is_empty() {
                    new.insert(name, Work { number, appends, changes: None });
                }
            } else if !table.waiting.is_empty() {
                let rows = encode_changes(&std::mem::take(&mut table.waiting))?;
                changes.push(async move {
                    let blob = checkpoints.put_blob(&format!("changes-{name}"), rows).await?;
                    Ok::<_, Error>((name, Work { number, appends: Vec::new(), changes: Some(blob) }))
                });
            }
        }
        new.extend(try_join_all(changes).await?);
        let mut all = BTreeMap::new();
        for name in &names {
            let delta =
                self.delta.get(name).ok_or_else(|| Error::Internal(format!("there is no Delta table {name}")))?;
            all.insert(name.clone(), table_work(checkpoints.latest(), delta, new.remove(name)));
        }
        self.new_bytes = 0;
        self.tables.values_mut().for_each(|table| table.new_rows = 0);
        Ok(all)
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

    /// Some tables as queries read them, the newest rows included.
    pub(crate) fn providers(&self, names: &BTreeSet<String>) -> Tables {
        let live =
            |name: &String| Some((name.clone(), Arc::clone(&self.tables.get(name)?.live) as Arc<dyn TableProvider>));
        names.iter().filter_map(live).collect()
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

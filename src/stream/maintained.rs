//! Pipelines at work without an engine: given the changes of what they read, epoch by epoch, they keep their tables as
//! an engine would. Tests of pipelines, their history, and the new version of one beside the old all run through this.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::concat_batches,
    datatypes::SchemaRef,
    row::{OwnedRow, RowConverter, SortField},
};
use datafusion::{catalog::TableProvider, datasource::MemTable};

use super::{
    Error,
    epoch::EpochEnd,
    late::LateChange,
    pipeline::{Pipeline, RowDelta},
    snapshot::Tables,
    together::{self, Keeper},
};

/// A pipeline that failed.
#[derive(Debug, thiserror::Error)]
#[error("pipeline {name}: {source}")]
pub struct Failed {
    /// Which.
    pub name: String,
    /// Why.
    pub source: Error,
}

/// The rows of a table, as changes leave them.
#[derive(Debug)]
pub struct Content {
    schema: SchemaRef,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    /// Of a table that is only ever added to.
    Appended(Vec<RecordBatch>),
    Keyed(Box<Keyed>),
}

#[derive(Debug)]
struct Keyed {
    key: Vec<usize>,
    keys: RowConverter,
    whole: RowConverter,
    rows: BTreeMap<OwnedRow, OwnedRow>,
}

impl Content {
    /// No rows. `key` are the columns that identify one; a table without them is only ever added to.
    ///
    /// # Errors
    /// When rows of this schema cannot be compared: a bug.
    pub fn new(schema: SchemaRef, key: Vec<usize>) -> Result<Self, Error> {
        let rows = if key.is_empty() {
            Rows::Appended(Vec::new())
        } else {
            let sort = |columns: &mut dyn Iterator<Item = usize>| {
                RowConverter::new(columns.map(|i| SortField::new(schema.field(i).data_type().clone())).collect())
            };
            let (keys, whole) = (sort(&mut key.iter().copied())?, sort(&mut (0..schema.fields().len()))?);
            Rows::Keyed(Box::new(Keyed { key, keys, whole, rows: BTreeMap::new() }))
        };
        Ok(Self { schema, rows })
    }

    /// Takes one change in.
    ///
    /// # Errors
    /// When it takes a row back that is not there, or adds one whose key is taken: a broken contract.
    pub fn apply(&mut self, delta: &RowDelta) -> Result<(), Error> {
        let broken = |what: &str| Error::Internal(format!("a change {what}"));
        match &mut self.rows {
            Rows::Appended(_) if delta.removed.num_rows() > 0 => Err(broken("removes rows of a table that only grows")),
            Rows::Appended(batches) => {
                batches.push(delta.added.clone());
                Ok(())
            }
            Rows::Keyed(keyed) => {
                for (key, row) in keyed.pairs(&delta.removed)? {
                    if keyed.rows.remove(&key) != Some(row) {
                        return Err(broken("takes back a row that is not there"));
                    }
                }
                for (key, row) in keyed.pairs(&delta.added)? {
                    if keyed.rows.insert(key, row).is_some() {
                        return Err(broken("adds a row whose key is taken"));
                    }
                }
                Ok(())
            }
        }
    }

    /// The rows that have the keys of these.
    ///
    /// # Errors
    /// When the batch is of another table: a bug.
    pub fn with_keys_of(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let Rows::Keyed(keyed) = &self.rows else { return Ok(RecordBatch::new_empty(Arc::clone(&self.schema))) };
        let pairs = keyed.pairs(batch)?;
        let found = pairs.iter().filter_map(|(key, _)| keyed.rows.get(key)).map(OwnedRow::row);
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), keyed.whole.convert_rows(found)?)?)
    }

    /// All rows; those of a keyed table in the order of their keys.
    ///
    /// # Errors
    /// When they cannot be put together: a bug.
    pub fn batch(&self) -> Result<RecordBatch, Error> {
        Ok(match &self.rows {
            Rows::Appended(batches) => concat_batches(&self.schema, batches)?,
            Rows::Keyed(keyed) => {
                let rows = keyed.whole.convert_rows(keyed.rows.values().map(OwnedRow::row))?;
                RecordBatch::try_new(Arc::clone(&self.schema), rows)?
            }
        })
    }
}

impl Keyed {
    fn pairs(&self, batch: &RecordBatch) -> Result<Vec<(OwnedRow, OwnedRow)>, Error> {
        let columns: Vec<ArrayRef> = self.key.iter().map(|i| Arc::clone(batch.column(*i))).collect();
        let (keys, rows) = (self.keys.convert_columns(&columns)?, self.whole.convert_columns(batch.columns())?);
        Ok(keys.iter().zip(rows.iter()).map(|(key, row)| (key.owned(), row.owned())).collect())
    }
}

/// See the module's text.
pub struct Maintained {
    pipelines: Vec<Pipeline>,
    tables: BTreeMap<String, Content>,
}

impl Maintained {
    /// Freshly planned pipelines, each after those it reads.
    ///
    /// # Errors
    /// When rows of a pipeline cannot be compared: a bug.
    pub fn new(pipelines: Vec<Pipeline>) -> Result<Self, Error> {
        let tables = pipelines
            .iter()
            .map(|p| Ok((p.name().to_owned(), Content::new(Arc::clone(p.schema()), p.key().to_vec())?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self { pipelines, tables })
    }

    /// One epoch: what changed in the relations, and how it ended. What changed in the pipelines' own tables is added to
    /// `changed`. A pipeline that is due on its schedule is run if `tables` has all relations that it reads, as they are
    /// after the change; else it stays due.
    ///
    /// # Errors
    /// The first pipeline that fails. The others may be ahead then: everything must be made again.
    pub fn advance(
        &mut self,
        changed: &mut BTreeMap<String, RowDelta>,
        end: &EpochEnd,
        tables: &Tables,
    ) -> Result<(), Failed> {
        let mut keeper = Own { given: tables, tables: &mut self.tables };
        let outcomes = together::advance(self.pipelines.iter_mut().collect(), changed, end, &mut keeper)?;
        let failed = outcomes.into_iter().find_map(|outcome| Some((outcome.name, outcome.failed?)));
        failed.map_or(Ok(()), |(name, source)| Err(Failed { name, source }))
    }

    /// What came after its window had closed in the last epoch, with the pipeline whose window that was.
    pub fn take_late(&mut self) -> Vec<(String, LateChange)> {
        let of = |pipeline: &mut Pipeline| {
            let name = pipeline.name().to_owned();
            pipeline.take_late().into_iter().map(move |late| (name.clone(), late))
        };
        self.pipelines.iter_mut().flat_map(of).collect()
    }

    /// The pipelines, each after those it reads.
    #[must_use]
    pub fn pipelines(&self) -> &[Pipeline] {
        &self.pipelines
    }

    /// The pipelines with their state, each after those it reads, and what they say by now.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Pipeline>, BTreeMap<String, Content>) {
        (self.pipelines, self.tables)
    }

    /// What a pipeline says by now.
    #[must_use]
    pub fn table(&self, pipeline: &str) -> Option<&Content> {
        self.tables.get(pipeline)
    }
}

/// The pipelines' own tables, beside those that were given.
struct Own<'a> {
    given: &'a Tables,
    tables: &'a mut BTreeMap<String, Content>,
}

impl Keeper for Own<'_> {
    type Error = Failed;

    fn sources(&self, pipeline: &Pipeline) -> Result<Option<Tables>, Error> {
        let mut sources = Tables::new();
        for name in pipeline.sources() {
            let table: Arc<dyn TableProvider> = match (self.given.get(name), self.tables.get(name)) {
                (Some(table), _) => Arc::clone(table),
                (None, Some(content)) => {
                    let rows = content.batch()?;
                    Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?)
                }
                (None, None) => return Ok(None),
            };
            sources.insert(name.clone(), table);
        }
        Ok(Some(sources))
    }

    fn keep(&mut self, name: &str, delta: &RowDelta) -> Result<(), Failed> {
        let table = self.tables.get_mut(name);
        table.map_or(Ok(()), |table| table.apply(delta)).map_err(|source| Failed { name: name.to_owned(), source })
    }
}

/// Of planned pipelines, those that `name` needs: itself and what it reads, directly or not, but not what is `given`.
#[must_use]
pub fn needed(planned: Vec<Pipeline>, name: &str, given: &BTreeSet<String>) -> Vec<Pipeline> {
    let mut wanted = BTreeSet::from([name.to_owned()]);
    let mut needed: Vec<Pipeline> = Vec::new();
    for pipeline in planned.into_iter().rev() {
        if wanted.contains(pipeline.name()) && !given.contains(pipeline.name()) {
            wanted.extend(pipeline.sources().iter().cloned());
            needed.push(pipeline);
        }
    }
    needed.reverse();
    needed
}

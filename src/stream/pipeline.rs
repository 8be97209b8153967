//! A pipeline at work: its query cut into cached plans, its state, and the change each epoch makes to its output.
//!
//! The promise: what [`Pipeline::advance`] has emitted so far, added up, is what the file's SQL says of the
//! relations so far.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch},
    compute::{CastOptions, cast_with_options, filter_record_batch},
    datatypes::SchemaRef,
    row::{OwnedRow, RowConverter, SortField},
};
use datafusion::{common::ScalarValue, execution::context::SessionContext, logical_expr::LogicalPlan};

use super::{
    Error,
    aggregate::Aggregate,
    class::{Class, Relation, classify},
    file::{FileError, PipelineFile},
    keyed::Keyed,
    leaf::{Cell, CellTable},
    planning::{
        check_scope_and_mode, context, fingerprint, key_columns, logical_plan, output_schema, query_error, refused,
        scans,
    },
    query::Linear,
};

/// The most groups that may have to be computed again together because one of them changed: what follows a GROUP BY
/// takes about ten milliseconds over 20,000 groups, which an epoch can bear.
pub const MAX_GROUPS_OF_A_PARTITION: usize = 20_000;

/// What an epoch changed in a relation. An updated row is in both batches.
#[derive(Clone, Debug)]
pub struct RowDelta {
    /// Rows that are no longer there, as they were.
    pub removed: RecordBatch,
    /// Rows that are there now.
    pub added: RecordBatch,
}

impl RowDelta {
    /// No change.
    #[must_use]
    pub fn none(schema: &SchemaRef) -> Self {
        Self { removed: RecordBatch::new_empty(Arc::clone(schema)), added: RecordBatch::new_empty(Arc::clone(schema)) }
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.removed.num_rows() == 0 && self.added.num_rows() == 0
    }
}

enum Runtime {
    Stateless(Linear),
    Aggregate(Box<Aggregate>),
    Keyed(Box<Keyed>),
}

/// A planned pipeline with its state.
pub struct Pipeline {
    file: PipelineFile,
    fingerprint: String,
    schema: SchemaRef,
    key: Vec<usize>,
    cells: BTreeMap<String, Cell>,
    streams: BTreeSet<String>,
    runtime: Runtime,
    /// Whether the state is as it was saved.
    saved: bool,
}

/// What `tributary explain` says of a pipeline.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// `stateless`, `aggregate` or `keyed`.
    pub class: &'static str,
    /// What it reads.
    pub sources: Vec<String>,
    /// The columns that identify an output row.
    pub key: Vec<String>,
    /// The columns of the GROUP BY, or those by which a keyed pipeline keeps its rows.
    pub group_by: Vec<String>,
    /// What is computed again when something changes.
    pub recomputes: String,
    /// Groups, or keys with rows, kept now.
    pub groups: usize,
}

impl Pipeline {
    /// Plans a file over the given relations.
    ///
    /// # Errors
    /// A [`FileError`] that points at what cannot be planned or maintained, and says how to write it instead.
    pub async fn plan(
        file: PipelineFile,
        parameters: Vec<(String, ScalarValue)>,
        relations: &BTreeMap<String, Relation>,
    ) -> Result<Self, Box<FileError>> {
        let context = context().map_err(|error| query_error(&file, &error))?;
        let mut cells = BTreeMap::new();
        for (name, relation) in relations {
            let cell = Cell::default();
            context
                .register_table(name.as_str(), Arc::new(CellTable::new(Arc::clone(&relation.schema), cell.clone())))
                .map_err(|error| query_error(&file, &error))?;
            cells.insert(name.clone(), cell);
        }
        let fingerprint = fingerprint(&file, &parameters);
        let plan = logical_plan(&context, &file, parameters).await.map_err(|error| query_error(&file, &error))?;
        let schema = output_schema(&file, &plan)?;
        let key = key_columns(&file, &schema)?;
        let mut streams = BTreeSet::new();
        scans(&plan, &mut streams).map_err(|error| query_error(&file, &error))?;
        let optimize = |plan: &LogicalPlan| context.state().optimize(plan);
        let class = classify(plan, relations, &optimize).map_err(|refusal| refused(&file, &refusal))?;
        check_scope_and_mode(&file, &class, relations, &streams)?;
        let runtime = runtime(&context, class).await.map_err(|error| match error {
            Error::Query(error) => query_error(&file, &error),
            other => file.error(other.to_string(), "SELECT", "this query", None),
        })?;
        cells.retain(|name, _| streams.contains(name));
        Ok(Self { file, fingerprint, schema, key, cells, streams, runtime, saved: false })
    }

    /// The table it writes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.file.metadata.name
    }

    /// Its file.
    #[must_use]
    pub fn file(&self) -> &PipelineFile {
        &self.file
    }

    /// Its output's columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns of its output that identify a row.
    #[must_use]
    pub fn key(&self) -> &[usize] {
        &self.key
    }

    /// The relations it reads.
    #[must_use]
    pub fn sources(&self) -> &BTreeSet<String> {
        &self.streams
    }

    /// Changes whenever the answer or the state could: with the SQL, the parameters, the engine, the zones.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Brings the output up to date with what changed in its sources. `small` holds the whole content of the small
    /// relations, after the change.
    ///
    /// # Errors
    /// When a value overflows, a cast fails, a limit is passed or the grain is not unique. The state may then be
    /// ahead of what was emitted: the pipeline must be rebuilt.
    pub async fn advance(
        &mut self,
        deltas: &BTreeMap<String, RowDelta>,
        small: &BTreeMap<String, RecordBatch>,
    ) -> Result<RowDelta, Error> {
        self.saved = false;
        let (before, after) = match &mut self.runtime {
            Runtime::Stateless(query) => {
                let before = query.of(&self.cells, deltas, |delta| &delta.removed).await?;
                let after = query.of(&self.cells, deltas, |delta| &delta.added).await?;
                (before, after)
            }
            Runtime::Aggregate(aggregate) => aggregate.advance(&self.cells, deltas, small).await?,
            Runtime::Keyed(keyed) => keyed.advance(&self.cells, deltas, small).await?,
        };
        let before = fit(&before, &self.schema)?;
        let after = fit(&after, &self.schema)?;
        difference(&before, &after, &self.key, self.name())
    }

    /// The state as one batch, if there is any.
    ///
    /// # Errors
    /// When it cannot be written as Arrow: a bug.
    pub fn save(&self) -> Result<Option<RecordBatch>, Error> {
        match &self.runtime {
            Runtime::Stateless(_) => Ok(None),
            Runtime::Aggregate(aggregate) => aggregate.groups.save().map(Some),
            Runtime::Keyed(keyed) => keyed.save().map(Some),
        }
    }

    /// Whether the state is still what [`Self::mark_saved`] was told of.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        self.saved
    }

    /// What [`Self::save`] gave is kept, or what [`Self::load`] took.
    pub fn mark_saved(&mut self) {
        self.saved = true;
    }

    /// Puts back a saved state into a freshly planned pipeline of the same fingerprint. `small` is as in
    /// [`Self::advance`], at the time of saving.
    ///
    /// # Errors
    /// When the batch is not the state of this pipeline.
    pub async fn load(&mut self, saved: &RecordBatch, small: &BTreeMap<String, RecordBatch>) -> Result<(), Error> {
        match &mut self.runtime {
            Runtime::Stateless(_) => Ok(()),
            Runtime::Aggregate(aggregate) => aggregate.load(saved, &self.cells, small).await,
            Runtime::Keyed(keyed) => keyed.load(saved, &self.cells, small).await,
        }
    }

    /// How it is maintained.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let (class, group_by, recomputes, groups) = match &self.runtime {
            Runtime::Stateless(_) => ("stateless", Vec::new(), "the changed rows".to_owned(), 0),
            Runtime::Aggregate(aggregate) => {
                ("aggregate", aggregate.key_names().to_vec(), aggregate.recomputes(), aggregate.groups.len())
            }
            Runtime::Keyed(keyed) => ("keyed", keyed.key_names().to_vec(), keyed.recomputes(), keyed.keys()),
        };
        Explanation {
            class,
            sources: self.streams.iter().cloned().collect(),
            key: self.key.iter().map(|i| self.schema.field(*i).name().clone()).collect(),
            group_by,
            recomputes,
            groups,
        }
    }
}

async fn runtime(context: &SessionContext, class: Class) -> Result<Runtime, Error> {
    Ok(match class {
        Class::Stateless(plan) => Runtime::Stateless(Linear::new(context, &plan).await?),
        Class::Aggregate(grouping) => Runtime::Aggregate(Box::new(Aggregate::new(context, *grouping).await?)),
        Class::Keyed(parts) => Runtime::Keyed(Box::new(Keyed::new(context, *parts).await?)),
    })
}

/// Casts columns to the types of the table; a value that does not fit is an error, never a null.
pub(super) fn fit(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let options = CastOptions { safe: false, ..Default::default() };
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast_with_options(column, field.data_type(), &options))
        .collect::<Result<Vec<ArrayRef>, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// The rows of `before` that are not in `after`, and the other way round; `key` are the columns that identify a row.
///
/// # Errors
/// [`Error::Grain`] when two rows have one key.
pub fn difference(before: &RecordBatch, after: &RecordBatch, key: &[usize], name: &str) -> Result<RowDelta, Error> {
    let schema = after.schema();
    let fields = |columns: &mut dyn Iterator<Item = usize>| {
        columns.map(|i| SortField::new(schema.field(i).data_type().clone())).collect::<Vec<_>>()
    };
    let whole = RowConverter::new(fields(&mut (0..schema.fields().len())))?;
    let keys = RowConverter::new(fields(&mut key.iter().copied()))?;
    let key_rows = |batch: &RecordBatch| {
        let columns: Vec<ArrayRef> = key.iter().map(|i| Arc::clone(batch.column(*i))).collect();
        keys.convert_columns(&columns)
    };
    let (before_rows, before_keys) = (whole.convert_columns(before.columns())?, key_rows(before)?);
    let (after_rows, after_keys) = (whole.convert_columns(after.columns())?, key_rows(after)?);
    let mut known: HashMap<OwnedRow, usize> = HashMap::with_capacity(before.num_rows());
    for row in 0..before.num_rows() {
        if known.insert(before_keys.row(row).owned(), row).is_some() {
            return Err(Error::Grain(name.to_owned()));
        }
    }
    let mut seen = std::collections::HashSet::with_capacity(after.num_rows());
    let mut removed = vec![true; before.num_rows()];
    let mut added = vec![true; after.num_rows()];
    for (row, added) in added.iter_mut().enumerate() {
        let key = after_keys.row(row).owned();
        if let Some(old) = known.get(&key)
            && before_rows.row(*old) == after_rows.row(row)
        {
            removed[*old] = false;
            *added = false;
        }
        if !seen.insert(key) {
            return Err(Error::Grain(name.to_owned()));
        }
    }
    Ok(RowDelta {
        removed: filter_record_batch(before, &BooleanArray::from(removed))?,
        added: filter_record_batch(after, &BooleanArray::from(added))?,
    })
}

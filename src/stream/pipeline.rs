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
    compute::{CastOptions, cast_with_options, concat_batches, filter_record_batch},
    datatypes::SchemaRef,
    row::{OwnedRow, RowConverter, SortField},
};
use datafusion::{
    common::{DataFusionError, ScalarValue},
    execution::{TaskContext, context::SessionContext},
    logical_expr::LogicalPlan,
    physical_plan::{ExecutionPlan, collect, execution_plan::reset_plan_states},
};

use super::{
    Error,
    class::{Class, Grouping, Relation, classify},
    file::{FileError, PipelineFile},
    groups::Groups,
    leaf::{Cell, CellTable},
    planning::{
        check_scope_and_mode, context, fingerprint, key_columns, logical_plan, output_schema, query_error, refused,
        scans,
    },
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

/// A plan that is executed again and again over the rows in its cells.
struct Query {
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
}

impl Query {
    async fn new(context: &SessionContext, plan: &LogicalPlan) -> Result<Self, DataFusionError> {
        let plan = context.state().create_physical_plan(plan).await?;
        Ok(Self { plan, task: context.task_ctx() })
    }

    async fn run(&self) -> Result<RecordBatch, Error> {
        let plan = reset_plan_states(Arc::clone(&self.plan))?;
        let schema = plan.schema();
        let batches = collect(plan, Arc::clone(&self.task)).await?;
        Ok(concat_batches(&schema, &batches)?)
    }
}

enum Runtime {
    Stateless { query: Query },
    Aggregate(Box<Aggregate>),
}

/// A GROUP BY at work.
struct Aggregate {
    input: Query,
    /// The relations that `input` reads.
    reads: BTreeSet<String>,
    suffix: Query,
    views: Vec<Query>,
    /// What the views show, once they have been looked at.
    shown: Option<Vec<RecordBatch>>,
    grouping: Grouping,
    groups: Groups,
    /// The answer, where it is computed as a whole.
    last: Option<RecordBatch>,
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
}

/// What `tributary explain` says of a pipeline.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// `stateless` or `aggregate`.
    pub class: &'static str,
    /// What it reads.
    pub sources: Vec<String>,
    /// The columns that identify an output row.
    pub key: Vec<String>,
    /// The columns of the GROUP BY.
    pub group_by: Vec<String>,
    /// What is computed again when a group changes.
    pub recomputes: String,
    /// Groups kept now.
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
        let context = context();
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
        scans(&plan, &mut streams);
        let class = classify(plan, relations).map_err(|refusal| refused(&file, &refusal))?;
        check_scope_and_mode(&file, &class, relations, &streams)?;
        let runtime = runtime(&context, class).await.map_err(|error| match error {
            Error::Query(error) => query_error(&file, &error),
            other => file.error(other.to_string(), "SELECT", "this query", None),
        })?;
        cells.retain(|name, _| streams.contains(name));
        Ok(Self { file, fingerprint, schema, key, cells, streams, runtime })
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
        let (before, after) = match &mut self.runtime {
            Runtime::Stateless { query } => {
                let before = feed(&self.cells, deltas, |delta| &delta.removed, query).await?;
                let after = feed(&self.cells, deltas, |delta| &delta.added, query).await?;
                (before, after)
            }
            Runtime::Aggregate(aggregate) => aggregate.advance(&self.cells, deltas, small).await?,
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
            Runtime::Stateless { .. } => Ok(None),
            Runtime::Aggregate(aggregate) => aggregate.groups.save().map(Some),
        }
    }

    /// Puts back a saved state into a freshly planned pipeline of the same fingerprint. `small` is as in
    /// [`Self::advance`], at the time of saving.
    ///
    /// # Errors
    /// When the batch is not the state of this pipeline.
    pub async fn load(&mut self, saved: &RecordBatch, small: &BTreeMap<String, RecordBatch>) -> Result<(), Error> {
        match &mut self.runtime {
            Runtime::Stateless { .. } => Ok(()),
            Runtime::Aggregate(aggregate) => aggregate.load(saved, &self.cells, small).await,
        }
    }

    /// How it is maintained.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let key = self.key.iter().map(|i| self.schema.field(*i).name().clone()).collect();
        let sources = self.streams.iter().cloned().collect();
        match &self.runtime {
            Runtime::Stateless { .. } => Explanation {
                class: "stateless",
                sources,
                key,
                group_by: Vec::new(),
                recomputes: "the changed rows".to_owned(),
                groups: 0,
            },
            Runtime::Aggregate(aggregate) => Explanation {
                class: "aggregate",
                sources,
                key,
                group_by: aggregate.grouping.key_names.clone(),
                recomputes: aggregate.recomputes(),
                groups: aggregate.groups.len(),
            },
        }
    }
}

impl Aggregate {
    async fn new(context: &SessionContext, grouping: Grouping) -> Result<Self, Error> {
        let mut views = Vec::with_capacity(grouping.views.len());
        for view in &grouping.views {
            views.push(Query::new(context, &view.plan).await?);
        }
        let mut reads = BTreeSet::new();
        scans(&grouping.input, &mut reads);
        Ok(Self {
            input: Query::new(context, &grouping.input).await?,
            reads,
            suffix: Query::new(context, &grouping.suffix).await?,
            views,
            shown: None,
            groups: Groups::new(&grouping)?,
            grouping,
            last: None,
        })
    }

    /// What the answer was for all that changes, and what it is now.
    async fn advance(
        &mut self,
        cells: &BTreeMap<String, Cell>,
        deltas: &BTreeMap<String, RowDelta>,
        small: &BTreeMap<String, RecordBatch>,
    ) -> Result<(RecordBatch, RecordBatch), Error> {
        let touched = |side: fn(&RowDelta) -> &RecordBatch| {
            self.reads.iter().filter_map(|name| deltas.get(name)).any(|delta| side(delta).num_rows() > 0)
        };
        let nothing = || RecordBatch::new_empty(self.input.plan.schema());
        let removed =
            if touched(|d| &d.removed) { feed(cells, deltas, |d| &d.removed, &self.input).await? } else { nothing() };
        let added =
            if touched(|d| &d.added) { feed(cells, deltas, |d| &d.added, &self.input).await? } else { nothing() };
        let shown = self.look(cells, small).await?;
        let all = self.grouping.partition.is_empty() || self.shown.as_ref() != Some(&shown);
        let empty = RecordBatch::new_empty(self.suffix.plan.schema());
        if removed.num_rows() == 0 && added.num_rows() == 0 && self.shown.as_ref() == Some(&shown) {
            return Ok((empty.clone(), empty));
        }

        let removed_slots = self.groups.locate(&removed)?;
        let added_slots = self.groups.locate(&added)?;
        let before = match self.last.take() {
            Some(rows) => rows,
            None => self.answer(all, &removed, &added).await?,
        };
        self.groups.update(&added, &added_slots, 1)?;
        self.groups.update(&removed, &removed_slots, -1)?;
        self.groups.bury(&added_slots)?;
        self.groups.bury(&removed_slots)?;
        let together = self.groups.largest_partition(&added)?;
        if together > MAX_GROUPS_OF_A_PARTITION {
            return Err(Error::Limit(format!(
                "what follows the GROUP BY needs {together} groups at once: at most {MAX_GROUPS_OF_A_PARTITION} are \
                 re-read on a change; partition its windows and joins by a group key, or group more coarsely"
            )));
        }
        self.show(shown)?;
        let after = self.answer(all, &removed, &added).await?;
        if self.grouping.partition.is_empty() {
            self.last = Some(after.clone());
        }
        Ok((before, after))
    }

    /// What the views show of the small relations.
    async fn look(
        &self,
        cells: &BTreeMap<String, Cell>,
        small: &BTreeMap<String, RecordBatch>,
    ) -> Result<Vec<RecordBatch>, Error> {
        for name in &self.grouping.small {
            if let (Some(cell), Some(rows)) = (cells.get(name), small.get(name)) {
                cell.set(vec![rows.clone()]);
            }
        }
        let mut shown = Vec::with_capacity(self.views.len());
        for (query, view) in self.views.iter().zip(&self.grouping.views) {
            let rows = query.run().await?;
            shown.push(RecordBatch::try_new(Arc::clone(&view.schema), rows.columns().to_vec())?);
        }
        Ok(shown)
    }

    fn show(&mut self, shown: Vec<RecordBatch>) -> Result<(), Error> {
        for (view, rows) in self.grouping.views.iter().zip(&shown) {
            view.rows.set(vec![rows.clone()]);
        }
        self.shown = Some(shown);
        Ok(())
    }

    /// The suffix over all groups, or over the partitions that hold the given input rows.
    async fn answer(&self, all: bool, removed: &RecordBatch, added: &RecordBatch) -> Result<RecordBatch, Error> {
        let slots = if all { self.groups.all() } else { self.groups.affected(&[removed, added])? };
        over_groups(&self.suffix, &self.grouping, self.groups.read(&slots)?).await
    }

    async fn load(
        &mut self,
        saved: &RecordBatch,
        cells: &BTreeMap<String, Cell>,
        small: &BTreeMap<String, RecordBatch>,
    ) -> Result<(), Error> {
        self.groups.load(saved)?;
        let shown = self.look(cells, small).await?;
        self.show(shown)?;
        if self.grouping.partition.is_empty() {
            self.last = Some(over_groups(&self.suffix, &self.grouping, self.groups.read(&self.groups.all())?).await?);
        }
        Ok(())
    }

    /// For people.
    fn recomputes(&self) -> String {
        let Grouping { partition, key_names, small, .. } = &self.grouping;
        let mut text = if partition.is_empty() {
            format!("what follows the GROUP BY, over all groups (at most {MAX_GROUPS_OF_A_PARTITION})")
        } else {
            let by: Vec<_> = partition.iter().map(|i| key_names[*i].as_str()).collect();
            format!("what follows the GROUP BY, for the changed ({})", by.join(", "))
        };
        if !small.is_empty() {
            text += &format!("; everything when what it sees of {} changes", small.join(", "));
        }
        text
    }
}

async fn runtime(context: &SessionContext, class: Class) -> Result<Runtime, Error> {
    Ok(match class {
        Class::Stateless(plan) => Runtime::Stateless { query: Query::new(context, &plan).await? },
        Class::Aggregate(grouping) => Runtime::Aggregate(Box::new(Aggregate::new(context, *grouping).await?)),
    })
}

/// Runs a linear plan over one side of the changes.
async fn feed(
    cells: &BTreeMap<String, Cell>,
    deltas: &BTreeMap<String, RowDelta>,
    side: impl Fn(&RowDelta) -> &RecordBatch,
    query: &Query,
) -> Result<RecordBatch, Error> {
    let mut any = false;
    for (name, cell) in cells {
        let rows = deltas.get(name).map(&side).filter(|rows| rows.num_rows() > 0);
        any |= rows.is_some();
        cell.set(rows.into_iter().cloned().collect());
    }
    if any { query.run().await } else { Ok(RecordBatch::new_empty(query.plan.schema())) }
}

async fn over_groups(suffix: &Query, grouping: &Grouping, rows: RecordBatch) -> Result<RecordBatch, Error> {
    if rows.num_rows() == 0 {
        return Ok(RecordBatch::new_empty(suffix.plan.schema()));
    }
    grouping.groups.set(vec![rows]);
    suffix.run().await
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

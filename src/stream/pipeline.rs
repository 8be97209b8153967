//! A pipeline at work: its query cut into cached plans, its state, and the change each epoch makes to its output.
//!
//! The promise: what [`Pipeline::advance`] has emitted so far, added up, is what the file's SQL says of the
//! relations so far.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch},
    compute::{CastOptions, cast_with_options, filter_record_batch},
    datatypes::SchemaRef,
    row::{Row, RowConverter, SortField},
};
use datafusion::{
    common::{HashMap, HashSet, ScalarValue},
    execution::context::SessionContext,
    logical_expr::LogicalPlan,
};

use super::{
    Error,
    aggregate::Aggregate,
    batch,
    caught::caught,
    class::{Class, Relation, classify},
    epoch::EpochEnd,
    file::{AS_OF, Emit, FileError, PipelineFile},
    gate::Gate,
    grain::Grain,
    keyed::Keyed,
    late::LateChange,
    leaf::{Cell, CellTable},
    planning::{
        check_scope_and_mode, context, fingerprint, key_columns, logical_plan, output_schema, query_error, refused,
        scans,
    },
    query::Linear,
    snapshot::{self, Answer, Run, Snapshot, Tables},
    windows,
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
    Snapshot(Box<Snapshot>),
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
    /// The keys of its rows, where two of one would not meet when they are computed again.
    grain: Option<Grain>,
    /// Through which its rows go, where they are emitted on close.
    gate: Option<Gate>,
    /// The calls of TUMBLE and HOP, for people.
    windows: Vec<String>,
    /// Whether the state is as it was saved.
    saved: bool,
    /// Whether it was saved before, or loaded.
    based: bool,
}

/// A pipeline's state as a checkpoint keeps it.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// Of its class, if that has any: everything, and then what changed, in order.
    pub state: Vec<RecordBatch>,
    /// Whether `state` begins with everything, and not with what changed since [`Pipeline::save`] was last called.
    pub whole: bool,
    /// The rows that it holds: those of open windows where it emits on close, those of the last answer where it runs on a
    /// schedule.
    pub held: Option<RecordBatch>,
}

/// What `tributary explain` says of a pipeline.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// `stateless`, `aggregate`, `keyed` or `snapshot`.
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
    /// Rows of its state: a group is one, a key may have many.
    pub state_rows: usize,
    /// The calls of TUMBLE and HOP in it, with the windows that a row lies in.
    pub windows: Vec<String>,
    /// Where it runs on a schedule: the boundary of the last run, in microseconds since 1970.
    pub last_run: Option<i64>,
    /// Where it emits on close: rows that wait, and changes that came too late.
    pub on_close: Option<OnClose>,
}

/// A pipeline that emits on close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OnClose {
    /// Rows that wait for their windows to close.
    pub held_rows: usize,
    /// Changes of rows that had been released, since it was built.
    pub late_changes: u64,
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
        let shown = file.clone();
        let planned = async { Ok(Self::planned(file, parameters, relations).await) };
        caught(&shown.metadata.name, planned)
            .await
            .unwrap_or_else(|panicked| Err(shown.error(panicked.to_string(), "SELECT", "in this query", None)))
    }

    async fn planned(
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
        let mut bound = parameters.clone();
        if file.metadata.schedule.is_some() {
            bound.push((AS_OF.to_owned(), batch::instant(0)));
        }
        let plan = logical_plan(&context, &file, bound).await.map_err(|error| {
            if file.metadata.schedule.is_none() && file.text.contains("$as_of") {
                let message = "`$as_of` is the boundary of a schedule, and there is none".to_owned();
                let hint = "let it run again every day with schedule: daily (hourly, weekly, monthly)";
                return file.error(message, "$as_of", "here", Some(hint));
            }
            query_error(&file, &error)
        })?;
        let schema = output_schema(&file, &plan)?;
        let key = key_columns(&file, &schema)?;
        let gate = match file.metadata.emit {
            Emit::OnUpdate => None,
            Emit::OnClose => Some(Gate::new(&file, &schema, &key)?),
        };
        let windows = windows::described(&plan).map_err(|error| query_error(&file, &error))?;
        let mut streams = BTreeSet::new();
        scans(&plan, &mut streams).map_err(|error| query_error(&file, &error))?;
        // What a function in FROM makes is no relation.
        streams.retain(|name| relations.contains_key(name));
        let runtime = if let Some(schedule) = file.metadata.schedule {
            snapshot::check(&plan).map_err(|refusal| refused(&file, &refusal))?;
            Runtime::Snapshot(Box::new(Snapshot::new(schedule, parameters, &schema)))
        } else {
            let optimize = |plan: &LogicalPlan| context.state().optimize(plan);
            let runs = snapshot::check(&plan).is_ok();
            let class = classify(plan, relations, &optimize).map_err(|mut refusal| {
                if runs {
                    refusal.offer_a_schedule();
                }
                refused(&file, &refusal)
            })?;
            check_scope_and_mode(&file, &class, relations, &streams)?;
            runtime(&context, class).await.map_err(|error| match error {
                Error::Query(error) => query_error(&file, &error),
                other => file.error(other.to_string(), "SELECT", "this query", None),
            })?
        };
        cells.retain(|name, _| streams.contains(name));
        let grain = grain(&runtime, &schema, &key)
            .map_err(|error| file.error(error.to_string(), "grain:", "by this grain", None))?;
        let (saved, based) = (false, false);
        Ok(Self { file, fingerprint, schema, key, cells, streams, runtime, grain, gate, windows, saved, based })
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

    /// Whether an epoch concerns it: with what changed, because windows may close, or because it is to be run.
    #[must_use]
    pub fn has_work(&self, deltas: &BTreeMap<String, RowDelta>, end: &EpochEnd) -> bool {
        match &self.runtime {
            Runtime::Snapshot(snapshot) => snapshot.due(end).is_some(),
            _ => self.reads_any(deltas) || self.gate.as_ref().is_some_and(|gate| gate.is_behind(&end.complete)),
        }
    }

    /// Whether anything that it reads has changed.
    fn reads_any(&self, deltas: &BTreeMap<String, RowDelta>) -> bool {
        self.streams.iter().any(|source| deltas.contains_key(source))
    }

    /// Whether it is run on a schedule, by [`Self::run`], and not maintained.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        matches!(self.runtime, Runtime::Snapshot(_))
    }

    /// Whether time alone can change its table: its windows close, or it runs on a schedule.
    #[must_use]
    pub fn follows_time(&self) -> bool {
        self.file.metadata.follows_time()
    }

    /// Runs it, if by the end of an epoch it is due on its schedule, over the tables that it reads as they are then.
    ///
    /// # Errors
    /// When the query fails, a limit is passed or the grain is not unique.
    pub async fn run(&mut self, end: &EpochEnd, sources: &Tables) -> Result<RowDelta, Error> {
        match self.begin_run(end, sources.clone()) {
            Some(run) => self.end_run(run.answer().await?),
            None => Ok(RowDelta::none(&self.schema)),
        }
    }

    /// The same apart from it: what is to be run over these tables, whose answer [`Self::end_run`] takes.
    #[must_use]
    pub fn begin_run(&self, end: &EpochEnd, sources: Tables) -> Option<Run> {
        let Runtime::Snapshot(snapshot) = &self.runtime else { return None };
        Some(snapshot.at(&self.file, snapshot.due(end)?, sources))
    }

    /// How the answer of a run changes the table.
    ///
    /// # Errors
    /// When the grain is not unique.
    pub fn end_run(&mut self, answer: Answer) -> Result<RowDelta, Error> {
        let Runtime::Snapshot(snapshot) = &mut self.runtime else { return Ok(RowDelta::none(&self.schema)) };
        self.saved = false;
        snapshot.take(answer, &self.key, &self.file.metadata.name)
    }

    /// Brings the output up to date with what an epoch changed in its sources.
    ///
    /// # Errors
    /// When a value overflows, a cast fails, a limit is passed, the grain is not unique or the query panics. The state
    /// may then be ahead of what was emitted: the pipeline must be rebuilt.
    pub async fn advance(&mut self, deltas: &BTreeMap<String, RowDelta>, end: &EpochEnd) -> Result<RowDelta, Error> {
        let name = self.name().to_owned();
        caught(&name, self.advanced(deltas, end)).await
    }

    async fn advanced(&mut self, deltas: &BTreeMap<String, RowDelta>, end: &EpochEnd) -> Result<RowDelta, Error> {
        let change = if self.reads_any(deltas) {
            self.saved = false;
            self.change(deltas, &end.small).await?
        } else {
            RowDelta::none(&self.schema)
        };
        let Some(gate) = &mut self.gate else { return Ok(change) };
        let released = gate.pass(&change, end)?;
        self.saved &= released.is_empty();
        Ok(released)
    }

    /// What came after its window had closed in the last epoch, if it emits on close and nobody has taken it.
    pub fn take_late(&mut self) -> Vec<LateChange> {
        self.gate.as_mut().map(Gate::take_late).unwrap_or_default()
    }

    /// How what changed in the sources changes the answer.
    async fn change(
        &mut self,
        deltas: &BTreeMap<String, RowDelta>,
        small: &BTreeMap<String, RecordBatch>,
    ) -> Result<RowDelta, Error> {
        let (before, after) = match &mut self.runtime {
            Runtime::Stateless(query) => {
                let before = query.of(&self.cells, deltas, |delta| &delta.removed).await?;
                let after = query.of(&self.cells, deltas, |delta| &delta.added).await?;
                (before, after)
            }
            Runtime::Aggregate(aggregate) => aggregate.advance(&self.cells, deltas, small).await?,
            Runtime::Keyed(keyed) => keyed.advance(&self.cells, deltas, small).await?,
            Runtime::Snapshot(_) => return Ok(RowDelta::none(&self.schema)),
        };
        let before = fit(&before, &self.schema)?;
        let after = fit(&after, &self.schema)?;
        let change = difference(&before, &after, &self.key, self.name())?;
        if let Some(grain) = &mut self.grain {
            grain.follow(&change, &self.file.metadata.name)?;
        }
        Ok(change)
    }

    /// The state, as far as there is any: everything where it is `whole` or never was saved, else what changed since it
    /// was last saved.
    ///
    /// # Errors
    /// When it cannot be written as Arrow: a bug.
    pub fn save(&mut self, whole: bool) -> Result<Saved, Error> {
        let whole = whole || !self.based;
        let (mut state, mut held) = (None, None);
        match &mut self.runtime {
            Runtime::Stateless(_) => {}
            Runtime::Aggregate(aggregate) => state = Some(aggregate.groups.save(whole)?),
            Runtime::Keyed(keyed) => state = Some(keyed.save(whole)?),
            Runtime::Snapshot(snapshot) => held = snapshot.save()?,
        }
        if let Some(grain) = &mut self.grain {
            state = Some(grain.save(state.as_ref(), whole)?);
        }
        if let Some(gate) = &self.gate {
            held = Some(gate.save()?);
        }
        Ok(Saved { state: state.into_iter().collect(), whole, held })
    }

    /// Whether the state is still what [`Self::mark_saved`] was told of.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        self.saved
    }

    /// What [`Self::save`] gave is kept, or what [`Self::load`] took.
    pub fn mark_saved(&mut self) {
        self.saved = true;
        self.based = true;
    }

    /// Puts back a saved state into a freshly planned pipeline of the same fingerprint. `end` is that of the epoch after
    /// which it was saved.
    ///
    /// # Errors
    /// When it is not the state of this pipeline.
    pub async fn load(&mut self, saved: &Saved, end: &EpochEnd) -> Result<(), Error> {
        let name = self.name().to_owned();
        caught(&name, self.loaded(saved, end)).await
    }

    async fn loaded(&mut self, saved: &Saved, end: &EpochEnd) -> Result<(), Error> {
        if let Some(gate) = &mut self.gate {
            gate.load(saved.held.as_ref(), end)?;
        }
        if let (Runtime::Snapshot(snapshot), Some(held)) = (&mut self.runtime, &saved.held) {
            snapshot.load(held)?;
        }
        if !saved.whole {
            return Ok(());
        }
        let state = match &mut self.grain {
            Some(grain) => Cow::Owned(grain.load(&saved.state)?),
            None => Cow::Borrowed(&*saved.state),
        };
        match &mut self.runtime {
            Runtime::Aggregate(aggregate) => aggregate.load(&state, &self.cells, &end.small).await,
            Runtime::Keyed(keyed) => keyed.load(&state, &self.cells, &end.small).await,
            Runtime::Stateless(_) | Runtime::Snapshot(_) => Ok(()),
        }
    }

    /// How it is maintained.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let (class, group_by, recomputes, groups, state_rows) = match &self.runtime {
            Runtime::Stateless(_) => ("stateless", Vec::new(), "the changed rows".to_owned(), 0, 0),
            Runtime::Aggregate(aggregate) => {
                let groups = aggregate.groups.len();
                ("aggregate", aggregate.key_names().to_vec(), aggregate.recomputes(), groups, groups)
            }
            Runtime::Keyed(keyed) => {
                ("keyed", keyed.key_names().to_vec(), keyed.recomputes(), keyed.keys(), keyed.kept())
            }
            Runtime::Snapshot(snapshot) => {
                let runs = format!("nothing; the query runs {}", snapshot.schedule().as_str());
                ("snapshot", Vec::new(), runs, 0, snapshot.rows())
            }
        };
        let last_run = match &self.runtime {
            Runtime::Snapshot(snapshot) => snapshot.last_run(),
            _ => None,
        };
        let of_gate = |gate: &Gate| OnClose { held_rows: gate.held_rows(), late_changes: gate.late_changes() };
        Explanation {
            class,
            sources: self.streams.iter().cloned().collect(),
            key: self.key.iter().map(|i| self.schema.field(*i).name().clone()).collect(),
            group_by,
            recomputes,
            groups,
            state_rows,
            windows: self.windows.clone(),
            last_run,
            on_close: self.gate.as_ref().map(of_gate),
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

/// Keeps the keys of a pipeline's rows, unless two of one key always meet when they are computed again.
fn grain(runtime: &Runtime, schema: &SchemaRef, key: &[usize]) -> Result<Option<Grain>, Error> {
    let meet = match runtime {
        Runtime::Stateless(_) => false,
        Runtime::Aggregate(aggregate) => aggregate.keeps_together(key, schema),
        Runtime::Keyed(keyed) => keyed.keeps_together(key, schema),
        // Its answers are compared whole.
        Runtime::Snapshot(_) => true,
    };
    if meet { Ok(None) } else { Grain::new(schema, key).map(Some) }
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
    let mut known: HashMap<Row<'_>, usize> = HashMap::with_capacity(before.num_rows());
    for (row, key) in before_keys.iter().enumerate() {
        if known.insert(key, row).is_some() {
            return Err(Error::Grain(name.to_owned()));
        }
    }
    let mut seen: HashSet<Row<'_>> = HashSet::with_capacity(after.num_rows());
    let mut removed = vec![true; before.num_rows()];
    let mut added = vec![true; after.num_rows()];
    for (row, added) in added.iter_mut().enumerate() {
        let key = after_keys.row(row);
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

#[cfg(test)]
pub(super) mod tests;

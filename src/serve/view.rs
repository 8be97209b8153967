//! One table as people see it now: the committed snapshot, overlaid with the rows that are still in memory.
//!
//! The engine gives new rows to [`LiveTable::push`] or [`LiveTable::put`] as soon as it has them, and the new snapshot
//! to [`LiveTable::commit`] once they are durable; in the same instant exactly those rows leave memory, so a query sees
//! every row once. A query takes one consistent view of the table when it starts to run. When to commit is the engine's
//! decision: it watches [`LiveTable::hot_rows`] against [`HOT_ROWS_LIMIT`].

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::{
    array::{Array, AsArray, Int8Array, UInt32Array},
    compute::{CastOptions, cast_with_options, concat_batches, take_record_batch},
    datatypes::{DataType, Field, Int8Type, Schema, SchemaRef},
    record_batch::RecordBatch,
    row::{RowConverter, SortField},
};
use async_trait::async_trait;
use datafusion::{
    catalog::Session,
    common::{Column, NullEquality},
    datasource::{MemTable, TableProvider, TableType, provider_as_source},
    error::{DataFusionError, Result as PlanResult},
    logical_expr::{Expr, JoinType, LogicalPlanBuilder, TableProviderFilterPushDown, cast, col},
    physical_plan::ExecutionPlan,
};

use super::{Error, scan::LiveScanExec};

pub use crate::tables::OP_COLUMN;

/// The row is new, or replaces the one of the same key.
pub const PUT: i8 = 1;
/// The row of this key is gone; only the key columns of the change matter.
pub const DELETE: i8 = -1;

/// Rows one table should hold in memory at most: overlaying so many takes a query some 0.2 s and 100 MB. At the limit
/// the engine takes a checkpoint; until it has, rows are still accepted, for none may be lost.
pub const HOT_ROWS_LIMIT: usize = 250_000;

/// A table whose newest rows are in memory. Cheap to query when nothing is.
#[derive(Debug)]
pub struct LiveTable {
    schema: SchemaRef,
    /// `schema` with every column nullable (a delete carries its key alone) and, for a keyed table, [`OP_COLUMN`].
    change_schema: SchemaRef,
    /// Indices of the key columns; empty for an appended table.
    key: Vec<usize>,
    held: Mutex<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    committed: Arc<dyn TableProvider>,
    /// Oldest first, each with its mark.
    hot: VecDeque<(u64, RecordBatch)>,
    hot_rows: usize,
    last_mark: u64,
    /// Counts changes of any kind, so that a view built meanwhile is not kept.
    version: u64,
    /// The view of the present version, if a query has asked for it.
    view: Option<Arc<View>>,
}

/// What one query sees of a table.
#[derive(Debug)]
struct View {
    committed: Arc<dyn TableProvider>,
    /// Keys whose committed row must not be seen.
    hidden: Option<RecordBatch>,
    /// Rows to add.
    rows: Vec<RecordBatch>,
}

impl LiveTable {
    /// A table of `schema` whose durable part is `committed`. With `key` columns, rows are put by key; without, they
    /// are appended.
    ///
    /// # Errors
    /// [`Error::Shape`] when a key column is not in `schema` or `committed` lacks a column of it.
    pub fn new(schema: SchemaRef, key: Vec<String>, committed: Arc<dyn TableProvider>) -> Result<Self, Error> {
        let index = |name: &String| schema.index_of(name).map_err(|_| Error::Shape(format!("no key column {name}")));
        let key = key.iter().map(index).collect::<Result<Vec<_>, _>>()?;
        check_columns(&schema, &committed)?;
        let mut fields: Vec<Field> =
            schema.fields().iter().map(|field| Field::new(field.name(), field.data_type().clone(), true)).collect();
        if !key.is_empty() {
            fields.push(Field::new(OP_COLUMN, DataType::Int8, true));
        }
        let held = Held { committed, hot: VecDeque::new(), hot_rows: 0, last_mark: 0, version: 0, view: None };
        Ok(Self { schema, change_schema: Arc::new(Schema::new(fields)), key, held: Mutex::new(held) })
    }

    /// Shows `rows` from now on. Returns their mark, for [`Self::commit`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the table is keyed, or a column is missing or cannot be converted to its declared type.
    pub fn push(&self, rows: &RecordBatch) -> Result<u64, Error> {
        if !self.key.is_empty() {
            return Err(Error::Shape("a keyed table takes changes, not rows to append".into()));
        }
        let rows = conform(rows, &self.change_schema)?;
        // Fails here, at the caller, and not in somebody's query.
        RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec()).map_err(shape)?;
        Ok(self.add(rows))
    }

    /// Applies `changes`, rows of this table with an [`OP_COLUMN`]: of several changes of a key, in this batch or over
    /// time, the last one counts. Returns their mark, for [`Self::commit`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the table is not keyed, a column is missing or cannot be converted to its declared type,
    /// or an operation is neither [`PUT`] nor [`DELETE`].
    pub fn put(&self, changes: &RecordBatch) -> Result<u64, Error> {
        if self.key.is_empty() {
            return Err(Error::Shape("an appended table takes rows, not changes by key".into()));
        }
        let changes = conform(changes, &self.change_schema)?;
        let operations = operations(&changes);
        if operations.null_count() > 0 || !operations.values().iter().all(|op| [PUT, DELETE].contains(op)) {
            return Err(Error::Shape(format!("{OP_COLUMN} must be {PUT} or {DELETE}")));
        }
        let puts = rows_where(&changes, |row| operations.value(row) == PUT)?;
        self.stamped(&puts).map_err(shape)?;
        Ok(self.add(changes))
    }

    /// Makes `committed` the durable part and, in the same instant, drops the rows it now holds: those with a mark up
    /// to and including `mark` (0: none).
    ///
    /// # Errors
    /// [`Error::Shape`] when `committed` lacks a column; the view is then unchanged.
    pub fn commit(&self, committed: Arc<dyn TableProvider>, mark: u64) -> Result<(), Error> {
        check_columns(&self.schema, &committed)?;
        let mut held = self.held();
        held.committed = committed;
        while let Some((_, rows)) = held.hot.pop_front_if(|(hot, _)| *hot <= mark) {
            held.hot_rows -= rows.num_rows();
        }
        held.touch();
        Ok(())
    }

    /// The table as it is now, which stays so: for a query that goes on beside the epochs.
    #[must_use]
    pub fn frozen(&self) -> Self {
        Self {
            schema: Arc::clone(&self.schema),
            change_schema: Arc::clone(&self.change_schema),
            key: self.key.clone(),
            held: Mutex::new(self.held().clone()),
        }
    }

    /// Rows in memory, replaced ones included.
    #[must_use]
    pub fn hot_rows(&self) -> usize {
        self.held().hot_rows
    }

    /// The mark of the newest rows; 0 before the first.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.held().last_mark
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Every critical section leaves `Held` consistent at each step, so a panic elsewhere does not spoil it.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, rows: RecordBatch) -> u64 {
        let mut held = self.held();
        if rows.num_rows() > 0 {
            held.last_mark += 1;
            held.hot_rows += rows.num_rows();
            let mark = held.last_mark;
            held.hot.push_back((mark, rows));
            held.touch();
        }
        held.last_mark
    }

    /// The present view. Built outside the lock, so that no query delays the engine.
    fn view(&self) -> PlanResult<Arc<View>> {
        let (committed, hot, version) = {
            let held = self.held();
            if let Some(view) = &held.view {
                return Ok(Arc::clone(view));
            }
            let hot: Vec<RecordBatch> = held.hot.iter().map(|(_, rows)| rows.clone()).collect();
            (Arc::clone(&held.committed), hot, held.version)
        };
        let (hidden, rows) = self.overlay(&hot)?;
        let view = Arc::new(View { committed, hidden, rows });
        let mut held = self.held();
        if held.version == version {
            held.view = Some(Arc::clone(&view));
        }
        Ok(view)
    }

    /// The keys that hide committed rows, and the rows to add, of hot batches in their order.
    fn overlay(&self, hot: &[RecordBatch]) -> PlanResult<(Option<RecordBatch>, Vec<RecordBatch>)> {
        if hot.is_empty() {
            return Ok((None, Vec::new()));
        }
        if self.key.is_empty() {
            let rows = hot.iter().map(|rows| self.stamped(rows)).collect::<PlanResult<_>>()?;
            return Ok((None, rows));
        }
        let changes = concat_batches(&self.change_schema, hot)?;
        let keys = changes.project(&self.key)?;
        let sort_fields = keys.columns().iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let encoded = RowConverter::new(sort_fields)?.convert_columns(keys.columns())?;
        let mut seen = HashSet::with_capacity(encoded.num_rows());
        let newest: Vec<bool> = {
            let backwards: Vec<bool> = (0..encoded.num_rows()).rev().map(|row| seen.insert(encoded.row(row))).collect();
            backwards.into_iter().rev().collect()
        };
        let operations = operations(&changes);
        let hidden = rows_where(&keys, |row| newest[row])?;
        let puts = rows_where(&changes, |row| newest[row] && operations.value(row) == PUT)?;
        Ok((Some(hidden), vec![self.stamped(&puts)?]))
    }

    /// The table's own columns of `rows`, under the declared schema.
    fn stamped(&self, rows: &RecordBatch) -> PlanResult<RecordBatch> {
        let columns = rows.columns()[..self.schema.fields().len()].to_vec();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// `view` as a plan with the columns of the table in their order.
    fn plan(&self, view: &View) -> PlanResult<LogicalPlanBuilder> {
        let stored = view.committed.schema();
        let columns = self.schema.fields().iter().map(|field| {
            let column = col(Column::new_unqualified(field.name()));
            match stored.field_with_name(field.name()) {
                Ok(stored) if stored.data_type() == field.data_type() => column,
                _ => cast(column, field.data_type().clone()).alias(field.name()),
            }
        });
        let mut plan = LogicalPlanBuilder::scan("stored", provider_as_source(Arc::clone(&view.committed)), None)?
            .project(columns)?
            .alias("committed")?;
        if let Some(hidden) = &view.hidden {
            let names: Vec<String> = hidden.schema().fields().iter().map(|field| field.name().clone()).collect();
            let of = |table: &str| names.iter().map(|name| Column::new(Some(table), name)).collect::<Vec<_>>();
            // The hidden keys are the side that is held in memory, so a large table streams past them.
            plan = memory("hot_keys", vec![hidden.clone()], hidden.schema())?.join_detailed(
                plan.build()?,
                JoinType::RightAnti,
                (of("hot_keys"), of("committed")),
                None,
                NullEquality::NullEqualsNull,
            )?;
        }
        if !view.rows.is_empty() {
            plan = plan.union(memory("hot_rows", view.rows.clone(), Arc::clone(&self.schema))?.build()?)?;
        }
        Ok(plan)
    }
}

#[async_trait]
impl TableProvider for LiveTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters become part of the plan of [`Self::scan`]; the optimiser knows which of them may pass the overlay.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> PlanResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Exact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let view = self.view()?;
        let mut plan = self.plan(&view)?;
        for filter in filters {
            plan = plan.filter(filter.clone())?;
        }
        let schema = match projection {
            None => Arc::clone(&self.schema),
            Some(columns) => {
                let chosen: Vec<Expr> =
                    columns.iter().map(|index| Expr::from(plan.schema().qualified_field(*index))).collect();
                plan = plan.project(chosen)?;
                Arc::new(self.schema.project(columns)?)
            }
        };
        if limit.is_some() {
            plan = plan.limit(0, limit)?;
        }
        let physical = session.create_physical_plan(&plan.build()?).await?;
        Ok(Arc::new(LiveScanExec::new(physical, schema)?))
    }
}

impl Held {
    fn touch(&mut self) {
        self.version += 1;
        self.view = None;
    }
}

fn memory(name: &str, rows: Vec<RecordBatch>, schema: SchemaRef) -> PlanResult<LogicalPlanBuilder> {
    let table = MemTable::try_new(schema, vec![rows])?;
    LogicalPlanBuilder::scan(name, provider_as_source(Arc::new(table)), None)
}

/// The operations of conformed changes: the last column.
fn operations(changes: &RecordBatch) -> Int8Array {
    changes.column(changes.num_columns() - 1).as_primitive::<Int8Type>().clone()
}

fn rows_where(batch: &RecordBatch, keep: impl Fn(usize) -> bool) -> Result<RecordBatch, DataFusionError> {
    let kept: UInt32Array = (0..batch.num_rows()).filter(|row| keep(*row)).map(|row| row as u32).collect();
    Ok(take_record_batch(batch, &kept)?)
}

/// `batch` with the columns of `schema`, found by name and converted where their types differ.
fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let columns = schema.fields().iter().map(|field| {
        let column =
            batch.column_by_name(field.name()).ok_or_else(|| Error::Shape(format!("no column {}", field.name())))?;
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        cast_with_options(column, field.data_type(), &strict)
            .map_err(|error| Error::Shape(format!("column {}: {error}", field.name())))
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?).map_err(shape)
}

fn check_columns(schema: &SchemaRef, committed: &Arc<dyn TableProvider>) -> Result<(), Error> {
    let stored = committed.schema();
    match schema.fields().iter().find(|field| stored.column_with_name(field.name()).is_none()) {
        Some(field) => Err(Error::Shape(format!("the snapshot has no column {}", field.name()))),
        None => Ok(()),
    }
}

fn shape(error: impl std::fmt::Display) -> Error {
    Error::Shape(error.to_string())
}

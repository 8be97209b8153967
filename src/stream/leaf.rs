//! The leaf of every cached plan: a table whose rows are whatever its cell holds when the plan is executed.
//!
//! A plan is built once and executed for every epoch. `MemTable` freezes its rows when planning, so it cannot be
//! used; and the leaf reports no statistics, because exact ones would fold `count(*)`, `min` and `max` to constants
//! of the cached plan.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{Result, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableType},
    physical_expr::EquivalenceProperties,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
        ReplaceChildrenOptions,
        execution_plan::{Boundedness, EmissionType},
        memory::MemoryStream,
    },
};

/// The rows that the next execution reads.
#[derive(Clone, Default, Debug)]
pub(crate) struct Cell(Arc<Mutex<Vec<RecordBatch>>>);

impl Cell {
    /// Replaces the rows.
    pub(crate) fn set(&self, batches: Vec<RecordBatch>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = batches;
    }

    fn get(&self) -> Vec<RecordBatch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Rows for some cells.
pub(super) type Input = Vec<(Cell, RecordBatch)>;

/// What one execution reads in the place of the rows in some cells: an extension of its session's configuration. So a plan
/// can be executed over several sets of rows at once.
#[derive(Debug)]
pub(super) struct InPlace(pub(super) Input);

impl InPlace {
    fn of(&self, cell: &Cell) -> Option<&RecordBatch> {
        self.0.iter().find(|(other, _)| Arc::ptr_eq(&other.0, &cell.0)).map(|(_, rows)| rows)
    }
}

/// A table over a [`Cell`].
#[derive(Debug)]
pub(crate) struct CellTable {
    schema: SchemaRef,
    cell: Cell,
}

impl CellTable {
    pub(crate) fn new(schema: SchemaRef, cell: Cell) -> Self {
        Self { schema, cell }
    }
}

#[async_trait]
impl TableProvider for CellTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        Ok(Arc::new(CellExec {
            cell: self.cell.clone(),
            projection: projection.cloned(),
            properties: Arc::new(PlanProperties::new(
                EquivalenceProperties::new(schema),
                Partitioning::UnknownPartitioning(1),
                EmissionType::Incremental,
                Boundedness::Bounded,
            )),
        }))
    }
}

#[derive(Debug)]
struct CellExec {
    cell: Cell,
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for CellExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CellExec")
    }
}

impl ExecutionPlan for CellExec {
    fn name(&self) -> &str {
        "CellExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let given = task.session_config().get_extension::<InPlace>();
        let batches = match given.as_ref().and_then(|given| given.of(&self.cell)) {
            Some(rows) => vec![rows.clone()],
            None => self.cell.get(),
        };
        let schema = self.properties.eq_properties.schema();
        Ok(Box::pin(MemoryStream::try_new(
            batches
                .into_iter()
                .map(|batch| match &self.projection {
                    Some(columns) => batch.project(columns),
                    None => Ok(batch),
                })
                .collect::<Result<_, _>>()?,
            Arc::clone(schema),
            None,
        )?))
    }
}

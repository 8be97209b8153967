//! The operator that reads one view of a live table: a whole physical plan behind one leaf.
//!
//! The plan was optimised when it was made. As a leaf the optimiser of the query around it leaves it alone: DataFusion
//! cannot optimise a join twice (it fails once dynamic filters are in place). The leaf also gives batches the schema
//! the table declares, because files, memory and unions each have their own idea of metadata and nullability.

use std::{fmt, sync::Arc};

use arrow::{
    datatypes::SchemaRef,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{
    common::{Statistics, tree_node::TreeNodeRecursion},
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, displayable,
        execution_plan::reset_plan_states,
        statistics::{StatisticsArgs, StatisticsContext},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;

/// Runs `plan` and delivers its rows under `schema`.
#[derive(Debug)]
pub(super) struct LiveScanExec {
    plan: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl LiveScanExec {
    /// Fails where the type of a column of `plan` is not the one `schema` declares.
    pub(super) fn new(plan: Arc<dyn ExecutionPlan>, schema: SchemaRef) -> Result<Self> {
        let inner = plan.properties();
        let equivalences = inner.eq_properties.clone().with_new_schema(Arc::clone(&schema))?;
        let properties = Arc::new(PlanProperties::clone(inner).with_eq_properties(equivalences));
        Ok(Self { plan, schema, properties })
    }
}

impl DisplayAs for LiveScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = displayable(self.plan.as_ref()).indent(false).to_string();
        let operators: Vec<&str> = plan.lines().map(str::trim).collect();
        write!(f, "LiveScanExec: {}", operators.join(" < "))
    }
}

impl ExecutionPlan for LiveScanExec {
    fn name(&self) -> &str {
        "LiveScanExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { Err(DataFusionError::Internal("LiveScanExec is a leaf".into())) }
    }

    /// Joins remember what they have read; a plan that runs again (a recursive query) must forget it.
    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = reset_plan_states(Arc::clone(&self.plan))?;
        Ok(Arc::new(Self::new(plan, Arc::clone(&self.schema))?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = Arc::clone(&self.schema);
        let rows = self.plan.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            let count = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            Ok(RecordBatch::try_new_with_options(Arc::clone(&schema), batch.columns().to_vec(), &count)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        StatisticsContext::new().compute(self.plan.as_ref(), args)
    }
}

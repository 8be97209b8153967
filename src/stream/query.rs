//! Plans at work: executed again and again over the rows in their cells.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::resume_unwind,
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    compute::{SortOptions, concat_batches},
};
use datafusion::{
    common::{
        DataFusionError,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    execution::{SessionState, TaskContext, context::SessionContext},
    logical_expr::LogicalPlan,
    physical_expr::{LexOrdering, PhysicalSortExpr, expressions::Column},
    physical_plan::{ExecutionPlan, execute_stream, execution_plan::reset_plan_states, sorts::sort::SortExec},
};
use futures::TryStreamExt;
use tokio::{runtime::Handle, task::JoinSet};

use super::{
    Error,
    class::View,
    frames::by_columns,
    kept::Bytes,
    leaf::{Cell, InPlace, Input},
    pipeline::RowDelta,
    planning::scans,
};
use crate::threads;

/// The most rows that one run may yield: a few gigabytes. A join that multiplies rows stops its pipeline, not the engine.
const MAX_ROWS_OF_AN_ANSWER: usize = 20_000_000;

/// Fewer keys than this are not worth a second thread: starting the plan takes longer.
const MIN_KEYS_A_THREAD: usize = 256;

/// Some keys, divided among the cores.
pub(super) fn shares(keys: &[Bytes]) -> impl Iterator<Item = &[Bytes]> {
    keys.chunks(keys.len().div_ceil(threads::count()).max(MIN_KEYS_A_THREAD))
}

/// A plan that is executed again and again over the rows in its cells.
pub(super) struct Query {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
}

impl Query {
    pub(super) async fn new(context: &SessionContext, plan: &LogicalPlan) -> Result<Self, DataFusionError> {
        Self::of(&context.state(), plan).await
    }

    /// The same, at the time that a session's state says.
    pub(super) async fn of(state: &SessionState, plan: &LogicalPlan) -> Result<Self, DataFusionError> {
        let plan = state.create_physical_plan(plan).await?;
        Ok(Self { plan: by_columns(without_ties(plan)?)?, task: state.task_ctx() })
    }

    pub(super) async fn run(&self) -> Result<RecordBatch, Error> {
        run(&self.plan, Arc::clone(&self.task)).await
    }

    /// Runs once over each of some inputs, on all cores; all that comes, in order.
    pub(super) async fn run_over(&self, mut inputs: Vec<Input>) -> Result<RecordBatch, Error> {
        if inputs.len() <= 1 {
            let Some(input) = inputs.pop() else { return Ok(RecordBatch::new_empty(self.plan.schema())) };
            input.into_iter().for_each(|(cell, rows)| cell.set(vec![rows]));
            return self.run().await;
        }
        let runtime = Handle::current();
        let mut runs = JoinSet::new();
        for (i, input) in inputs.into_iter().enumerate() {
            let config = self.task.session_config().clone().with_extension(Arc::new(InPlace(input)));
            // Functions are found by name only when a plan is made.
            let task = TaskContext::new(
                self.task.task_id(),
                self.task.session_id(),
                config,
                HashMap::new(),
                HashMap::new(),
                HashMap::new(),
                HashMap::new(),
                self.task.runtime_env(),
            );
            let (plan, runtime) = (Arc::clone(&self.plan), runtime.clone());
            runs.spawn_blocking(move || (i, runtime.block_on(run(&plan, Arc::new(task)))));
        }
        let (mut answers, mut rows) = (BTreeMap::new(), 0);
        while let Some(ended) = runs.join_next().await {
            let (i, answer) = ended.map_err(|error| match error.try_into_panic() {
                // As where there is one thread.
                Ok(panic) => resume_unwind(panic),
                Err(error) => Error::Internal(error.to_string()),
            })?;
            let answer = answer?;
            rows += answer.num_rows();
            check_answer(rows)?;
            answers.insert(i, answer);
        }
        Ok(concat_batches(&self.plan.schema(), answers.values())?)
    }
}

async fn run(plan: &Arc<dyn ExecutionPlan>, task: Arc<TaskContext>) -> Result<RecordBatch, Error> {
    let plan = reset_plan_states(Arc::clone(plan))?;
    let schema = plan.schema();
    let mut stream = execute_stream(plan, task)?;
    let (mut batches, mut rows) = (Vec::new(), 0);
    while let Some(batch) = stream.try_next().await? {
        rows += batch.num_rows();
        check_answer(rows)?;
        batches.push(batch);
    }
    Ok(concat_batches(&schema, &batches)?)
}

fn check_answer(rows: usize) -> Result<(), Error> {
    if rows > MAX_ROWS_OF_AN_ANSWER {
        return Err(Error::Limit(format!(
            "the query yields more than {MAX_ROWS_OF_AN_ANSWER} rows at once: join by more columns"
        )));
    }
    Ok(())
}

/// Sorts by all columns where a plan sorts by some, so that rows which tie there come in the same order however many
/// others are sorted with them. What a query says of a key is then a function of the key's rows alone.
fn without_ties(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    plan.transform_up(|node| {
        let Some(sort) = node.downcast_ref::<SortExec>() else {
            return Ok(Transformed::no(node));
        };
        let rest = sort.input().schema();
        let rest = rest.fields().iter().enumerate().filter(|(_, field)| !field.data_type().is_nested());
        let rest = rest.map(|(i, field)| PhysicalSortExpr {
            expr: Arc::new(Column::new(field.name(), i)),
            options: SortOptions::default(),
        });
        let Some(by) = LexOrdering::new(sort.expr().iter().cloned().chain(rest)) else {
            return Ok(Transformed::no(node));
        };
        let whole = SortExec::new(by, Arc::clone(sort.input())).with_fetch(sort.fetch());
        Ok(Transformed::yes(Arc::new(whole.with_preserve_partitioning(sort.preserve_partitioning())) as _))
    })
    .data()
}

/// A linear plan: what it yields for a set of changes depends on no other row.
pub(super) struct Linear {
    query: Query,
    /// The relations that it reads.
    reads: BTreeSet<String>,
}

impl Linear {
    pub(super) async fn new(context: &SessionContext, plan: &LogicalPlan) -> Result<Self, DataFusionError> {
        let mut reads = BTreeSet::new();
        scans(plan, &mut reads)?;
        Ok(Self { query: Query::new(context, plan).await?, reads })
    }

    fn nothing(&self) -> RecordBatch {
        RecordBatch::new_empty(self.query.plan.schema())
    }

    /// What it yields for one side of the changes.
    pub(super) async fn of(
        &self,
        cells: &BTreeMap<String, Cell>,
        deltas: &BTreeMap<String, RowDelta>,
        side: fn(&RowDelta) -> &RecordBatch,
    ) -> Result<RecordBatch, Error> {
        let mut any = false;
        for name in &self.reads {
            let rows = deltas.get(name).map(side).filter(|rows| rows.num_rows() > 0);
            any |= rows.is_some();
            if let Some(cell) = cells.get(name) {
                cell.set(rows.into_iter().cloned().collect());
            }
        }
        if any { self.query.run().await } else { Ok(self.nothing()) }
    }
}

/// What a query sees of the small relations it reads.
pub(super) struct Views {
    queries: Vec<Query>,
    views: Vec<View>,
    small: Vec<String>,
    /// What they show, once they have been looked at.
    shown: Option<Vec<RecordBatch>>,
}

impl Views {
    pub(super) async fn new(
        context: &SessionContext,
        views: Vec<View>,
        small: Vec<String>,
    ) -> Result<Self, DataFusionError> {
        let mut queries = Vec::with_capacity(views.len());
        for view in &views {
            queries.push(Query::new(context, &view.plan).await?);
        }
        Ok(Self { queries, views, small, shown: None })
    }

    /// The small relations.
    pub(super) fn small(&self) -> &[String] {
        &self.small
    }

    /// What they show now.
    pub(super) async fn look(
        &self,
        cells: &BTreeMap<String, Cell>,
        small: &BTreeMap<String, RecordBatch>,
    ) -> Result<Vec<RecordBatch>, Error> {
        for name in &self.small {
            if let (Some(cell), Some(rows)) = (cells.get(name), small.get(name)) {
                cell.set(vec![rows.clone()]);
            }
        }
        let mut shown = Vec::with_capacity(self.views.len());
        for (query, view) in self.queries.iter().zip(&self.views) {
            let rows = query.run().await?;
            shown.push(RecordBatch::try_new(Arc::clone(&view.schema), rows.columns().to_vec())?);
        }
        Ok(shown)
    }

    /// Whether that is what the query has seen.
    pub(super) fn have_shown(&self, shown: &[RecordBatch]) -> bool {
        self.shown.as_deref() == Some(shown)
    }

    /// From now on the query sees this.
    pub(super) fn show(&mut self, shown: Vec<RecordBatch>) {
        for (view, rows) in self.views.iter().zip(&shown) {
            view.rows.set(vec![rows.clone()]);
        }
        self.shown = Some(shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{
        caught::caught,
        leaf::CellTable,
        pipeline::tests::{panicking_context, row, schema},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_on_one_of_many_cores_is_one_of_the_query() {
        let (context, cell) = (panicking_context(), Cell::default());
        context.register_table("given", Arc::new(CellTable::new(schema(), cell.clone()))).unwrap();
        let plan = context.sql("SELECT panics(id) AS id FROM given").await.unwrap().into_optimized_plan().unwrap();
        let query = Query::new(&context, &plan).await.unwrap();
        let inputs = ["a", "b"].map(|id| vec![(cell.clone(), row(id))]);
        let said = caught("p", query.run_over(inputs.to_vec())).await.unwrap_err();
        assert!(matches!(&said, Error::Panicked(name) if name == "p"), "{said}");
    }
}

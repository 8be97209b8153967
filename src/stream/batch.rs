//! A pipeline's file run once over whole tables, by stock DataFusion: what the maintained pipeline promises to equal.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{array::RecordBatch, compute::concat_batches, datatypes::SchemaRef};
use datafusion::{catalog::TableProvider, common::ScalarValue};

use super::{
    Error,
    file::{AS_OF, PipelineFile},
    pipeline::fit,
    planning::{context, logical_plan},
    query::Query,
};
use crate::time::EventTime;

/// What the SQL of `file` says of `sources`, in the columns of its table. `as_of` is the boundary of its schedule, in
/// microseconds since 1970, where it has one.
///
/// # Errors
/// When the query is wrong, or fails on these rows.
pub async fn run(
    file: &PipelineFile,
    mut parameters: Vec<(String, ScalarValue)>,
    as_of: Option<i64>,
    schema: &SchemaRef,
    sources: &BTreeMap<String, Arc<dyn TableProvider>>,
) -> Result<RecordBatch, Error> {
    if file.metadata.schedule.is_some() && as_of.is_none() {
        // Before the first event there is no boundary at which it would have run.
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    }
    let context = context()?;
    for (name, table) in sources {
        context.register_table(name.as_str(), Arc::clone(table))?;
    }
    if let Some(as_of) = as_of {
        parameters.push((AS_OF.to_owned(), instant(as_of)));
        let plan = logical_plan(&context, file, parameters).await?;
        let mut state = context.state();
        // now() and its like become constants when a query is planned.
        state.execution_props_mut().query_execution_start_time = Some(EventTime::from_micros(as_of).to_utc());
        let rows = Query::of(&state, &plan).await?.run().await?;
        return fit(&rows, schema);
    }
    let plan = logical_plan(&context, file, parameters).await?;
    let rows = context.execute_logical_plan(plan).await?;
    let columns = Arc::clone(rows.schema().inner());
    let rows = concat_batches(&columns, &rows.collect().await?)?;
    fit(&rows, schema)
}

/// An instant as queries have it.
pub(super) fn instant(micros: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()))
}

//! A pipeline's file run once over whole tables, by stock DataFusion: what the maintained pipeline promises to equal.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{array::RecordBatch, compute::concat_batches, datatypes::SchemaRef};
use datafusion::{
    catalog::TableProvider,
    common::{DataFusionError, ScalarValue},
};

use super::{
    file::PipelineFile,
    pipeline::fit,
    planning::{context, logical_plan},
};

/// What the SQL of `file` says of `sources`, in the columns of its table.
///
/// # Errors
/// When the query is wrong, or fails on these rows.
pub async fn run(
    file: &PipelineFile,
    parameters: Vec<(String, ScalarValue)>,
    schema: &SchemaRef,
    sources: &BTreeMap<String, Arc<dyn TableProvider>>,
) -> Result<RecordBatch, DataFusionError> {
    let context = context()?;
    for (name, table) in sources {
        context.register_table(name.as_str(), Arc::clone(table))?;
    }
    let plan = logical_plan(&context, file, parameters).await?;
    let rows = context.execute_logical_plan(plan).await?;
    let columns = Arc::clone(rows.schema().inner());
    let rows = concat_batches(&columns, &rows.collect().await?)?;
    fit(&rows, schema).map_err(|error| DataFusionError::External(Box::new(error)))
}

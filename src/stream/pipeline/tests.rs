//! Small pipelines for the tests of this room, and such as panic.

use std::path::Path;

use arrow::{
    array::StringArray,
    datatypes::{DataType, Field, Schema},
};
use datafusion::{
    common::DataFusionError,
    logical_expr::{ColumnarValue, Volatility, create_udf},
};

use super::*;

pub(in crate::stream) fn schema() -> SchemaRef {
    let fields = [("account", DataType::Utf8), ("livemode", DataType::Boolean), ("id", DataType::Utf8)];
    Arc::new(Schema::new(fields.map(|(name, of)| Field::new(name, of, false)).to_vec()))
}

pub(in crate::stream) fn row(id: &str) -> RecordBatch {
    let columns: [ArrayRef; 3] = [
        Arc::new(StringArray::from(vec!["acct_1"])),
        Arc::new(BooleanArray::from(vec![true])),
        Arc::new(StringArray::from(vec![id])),
    ];
    RecordBatch::try_new(schema(), columns.to_vec()).unwrap()
}

/// A pipeline that gives the rows of `source` as they are; `when` is more of its metadata.
pub(in crate::stream) async fn copying(name: &str, source: &str, when: &str) -> Pipeline {
    let text = format!(
        "/*---\nname: {name}\ndescription: d\nowner: o\nmode: upsert\n{when}grain: [account, livemode, id]\n\
         time_column: id\ncolumns: {{ id: {{ description: d }} }}\n---*/\nSELECT account, livemode, id FROM {source}"
    );
    let file = PipelineFile::parse(Path::new(&format!("{name}.sql")), text).unwrap();
    let relation = Relation { schema: schema(), appended: false, small: false };
    Pipeline::plan(file, Vec::new(), &BTreeMap::from([(source.to_owned(), relation)])).await.unwrap()
}

/// A context with a function that panics over any row.
pub(in crate::stream) fn panicking_context() -> SessionContext {
    let panics = |_: &[ColumnarValue]| -> Result<ColumnarValue, DataFusionError> { panic!("over a row of cus_1") };
    let panics = create_udf("panics", vec![DataType::Utf8], DataType::Utf8, Volatility::Immutable, Arc::new(panics));
    let context = context().unwrap();
    context.register_udf(panics);
    context
}

/// A pipeline over `source` whose query panics over any row.
pub(in crate::stream) async fn panicking(name: &str, source: &str) -> Pipeline {
    let (mut pipeline, context) = (copying(name, source, "").await, panicking_context());
    let table = CellTable::new(schema(), pipeline.cells[source].clone());
    context.register_table(source, Arc::new(table)).unwrap();
    let plan = context.sql(&format!("SELECT account, livemode, panics(id) AS id FROM {source}")).await.unwrap();
    let plan = plan.into_optimized_plan().unwrap();
    pipeline.runtime = Runtime::Stateless(Linear::new(&context, &plan).await.unwrap());
    pipeline
}

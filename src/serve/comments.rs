//! What `pg_catalog` does not know by itself: comments of tables and columns, which schema an unqualified name means,
//! the version clients expect to hear, and what there is none of.
//!
//! The numbers (OIDs) that `pg_catalog` gives the tables stay the same while the tables do, so they are read once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, Int32Array, StringArray},
    compute::cast,
    datatypes::{DataType, Int32Type},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, SchemaProvider},
    common::ScalarValue,
    datasource::{MemTable, TableProvider},
    error::{DataFusionError, Result},
    logical_expr::{ColumnarValue, ScalarUDF, Signature, SimpleScalarUDF, Volatility},
    prelude::SessionContext,
};

use super::catalog::{LIVE_SCHEMA, TEST_SCHEMA, UserTable};

/// The version of PostgreSQL whose behaviour clients may expect.
pub(super) const POSTGRES_VERSION: &str = "16.6";

const PG_CATALOG: &str = "pg_catalog";
const PG_DESCRIPTION: &str = "pg_description";
/// `pg_class`'s own number, which says in `pg_description` that a row is about a table.
const PG_CLASS_OID: i32 = 1259;

/// (number of a table, number of a column or 0 for the table itself) → what is said about it.
type Comments = HashMap<(i32, i32), String>;

/// Adds comments, visibility and version to `context`, whose `pg_catalog` is set up and whose `tables` are registered.
pub(super) async fn describe(
    context: &SessionContext,
    database: &Arc<dyn CatalogProvider>,
    tables: &[UserTable],
) -> Result<()> {
    let numbers = context
        .sql(
            "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace",
        )
        .await?
        .collect()
        .await?;
    let mut comments = Comments::new();
    let mut qualified_only = HashSet::new();
    for batch in &numbers {
        let oids = cast(batch.column(0), &DataType::Int32)?;
        let (schemas, names) = (cast(batch.column(1), &DataType::Utf8)?, cast(batch.column(2), &DataType::Utf8)?);
        let (oids, schemas) = (oids.as_primitive::<Int32Type>(), schemas.as_string::<i32>());
        for (row, name) in names.as_string::<i32>().iter().enumerate() {
            let (oid, schema) = (oids.value(row), schemas.value(row));
            if ![LIVE_SCHEMA, PG_CATALOG].contains(&schema) {
                qualified_only.insert(oid);
            }
            let table = tables.iter().find(|table| Some(table.name.as_str()) == name);
            if let Some(table) = table.filter(|_| [LIVE_SCHEMA, TEST_SCHEMA].contains(&schema)) {
                comments.extend(table.comment.iter().map(|comment| ((oid, 0), comment.clone())));
                let columns = table.provider.schema();
                comments.extend(table.column_comments.iter().filter_map(|(column, comment)| {
                    Some(((oid, columns.index_of(column).ok()? as i32 + 1), comment.clone()))
                }));
            }
        }
    }
    let schema =
        database.schema(PG_CATALOG).ok_or_else(|| DataFusionError::Internal(format!("{PG_CATALOG} is not set up")))?;
    let descriptions = descriptions(&schema, &comments).await?;
    database.register_schema(PG_CATALOG, Arc::new(Described { schema, descriptions }))?;
    let comments = Arc::new(comments);
    context.register_udf(comment_function("obj_description", Arc::clone(&comments), false));
    context.register_udf(comment_function("col_description", comments, true));
    context.register_udf(visible_function(qualified_only));
    context.register_udf(version_function());
    context.register_udf(unknown_function("pg_table_size", DataType::Int64));
    context.register_udf(unknown_function("pg_size_pretty", DataType::Utf8));
    // Drivers look for types of extensions, and there are none.
    context.register_udf(unknown_function("to_regtype", DataType::Int32));
    Ok(())
}

/// `pg_description` with our comments in place of those of PostgreSQL's own objects.
async fn descriptions(schema: &Arc<dyn SchemaProvider>, comments: &Comments) -> Result<Arc<dyn TableProvider>> {
    let stock = schema
        .table(PG_DESCRIPTION)
        .await?
        .ok_or_else(|| DataFusionError::Internal(format!("no {PG_DESCRIPTION}")))?
        .schema();
    let columns = stock.fields().iter().map(|field| {
        let column: ArrayRef = match field.name().as_str() {
            "objoid" => Arc::new(Int32Array::from_iter_values(comments.keys().map(|(oid, _)| *oid))),
            "classoid" => Arc::new(Int32Array::from_iter_values(comments.keys().map(|_| PG_CLASS_OID))),
            "objsubid" => Arc::new(Int32Array::from_iter_values(comments.keys().map(|(_, column)| *column))),
            _ => Arc::new(StringArray::from_iter_values(comments.values())),
        };
        Ok(cast(&column, field.data_type())?)
    });
    let rows = RecordBatch::try_new(Arc::clone(&stock), columns.collect::<Result<_>>()?)?;
    Ok(Arc::new(MemTable::try_new(stock, vec![vec![rows]])?))
}

/// A `pg_catalog` whose `pg_description` is ours.
#[derive(Debug)]
struct Described {
    schema: Arc<dyn SchemaProvider>,
    descriptions: Arc<dyn TableProvider>,
}

#[async_trait]
impl SchemaProvider for Described {
    fn table_names(&self) -> Vec<String> {
        self.schema.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if name.eq_ignore_ascii_case(PG_DESCRIPTION) {
            return Ok(Some(Arc::clone(&self.descriptions)));
        }
        self.schema.table(name).await
    }

    fn table_exist(&self, name: &str) -> bool {
        self.schema.table_exist(name)
    }
}

/// `obj_description(oid [, 'pg_class'])`, or `col_description(oid, column)` when `of_column`.
fn comment_function(name: &str, comments: Arc<Comments>, of_column: bool) -> ScalarUDF {
    let lookup = move |arguments: &[ColumnarValue]| {
        let arguments = ColumnarValue::values_to_arrays(arguments)?;
        let numbers = |index: usize| {
            let array = arguments.get(index).ok_or_else(|| DataFusionError::Plan("too few arguments".into()))?;
            Ok::<_, DataFusionError>(cast(array, &DataType::Int32)?)
        };
        let oids = numbers(0)?;
        let columns = if of_column { Some(numbers(1)?) } else { None };
        let found = oids.as_primitive::<Int32Type>().iter().enumerate().map(|(row, oid)| {
            let column = columns.as_ref().map_or(0, |columns| columns.as_primitive::<Int32Type>().value(row));
            comments.get(&(oid?, column))
        });
        Ok(ColumnarValue::Array(Arc::new(found.collect::<StringArray>())))
    };
    stable_function(name, Signature::variadic_any(Volatility::Stable), DataType::Utf8, lookup)
}

/// `pg_table_is_visible(oid)`: whether an unqualified name can mean the table.
fn visible_function(qualified_only: HashSet<i32>) -> ScalarUDF {
    let visible = move |arguments: &[ColumnarValue]| {
        let oids = cast(&ColumnarValue::values_to_arrays(arguments)?[0], &DataType::Int32)?;
        let visible = oids.as_primitive::<Int32Type>().iter().map(|oid| oid.map(|oid| !qualified_only.contains(&oid)));
        Ok(ColumnarValue::Array(Arc::new(visible.collect::<BooleanArray>())))
    };
    stable_function("pg_table_is_visible", Signature::any(1, Volatility::Stable), DataType::Boolean, visible)
}

/// `version()` in the form that drivers parse.
fn version_function() -> ScalarUDF {
    let text = format!("PostgreSQL {POSTGRES_VERSION} (Tributary {})", env!("CARGO_PKG_VERSION"));
    let version = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::from(text.as_str())));
    stable_function("version", Signature::nullary(Volatility::Stable), DataType::Utf8, version)
}

/// A function of one argument about something that does not exist here, such as the pages of a table: always NULL.
fn unknown_function(name: &str, returns: DataType) -> ScalarUDF {
    let null = ScalarValue::try_from(&returns).unwrap_or(ScalarValue::Null);
    let unknown = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(null.clone()));
    stable_function(name, Signature::any(1, Volatility::Stable), returns, unknown)
}

fn stable_function(
    name: &str,
    signature: Signature,
    returns: DataType,
    function: impl Fn(&[ColumnarValue]) -> Result<ColumnarValue> + Send + Sync + 'static,
) -> ScalarUDF {
    ScalarUDF::from(SimpleScalarUDF::new_with_signature(name, signature, returns, Arc::new(function)))
}

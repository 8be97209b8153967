//! Rows as JSON, as `tributary query` writes them and as they are kept within a column of text.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Schema},
    error::ArrowError,
    json,
};

/// One object a line. Decimals are texts: no reader of JSON then turns money into floats. What is null is left out.
///
/// # Errors
/// When a column has no form in JSON.
pub fn json_lines(rows: &RecordBatch) -> Result<String, ArrowError> {
    let mut lines = Vec::new();
    let mut writer = json::LineDelimitedWriter::new(&mut lines);
    writer.write(&exact(rows)?)?;
    writer.finish()?;
    String::from_utf8(lines).map_err(|error| ArrowError::JsonError(error.to_string()))
}

fn exact(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut fields: Vec<FieldRef> = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        if matches!(field.data_type(), DataType::Decimal128(..) | DataType::Decimal256(..)) {
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
            columns.push(cast(column, &DataType::Utf8)?);
        } else {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

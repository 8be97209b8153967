//! Values as texts that can be compared and shown, whatever made them.

use arrow::{
    array::{Array, ArrayRef, RecordBatch},
    datatypes::DataType,
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};

/// The text of every value of a column, `None` for null. Decimals have no trailing zeros, floats the digits that a sum
/// keeps in whatever order it is added up.
pub(crate) fn texts(array: &ArrayRef) -> Result<Vec<Option<String>>, ArrowError> {
    let options = FormatOptions::default().with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.fZ"));
    let formatter = ArrayFormatter::try_new(array, &options)?;
    let text = |row: usize| {
        let text = formatter.value(row).to_string();
        match array.data_type() {
            DataType::Decimal128(..) if text.contains('.') => {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            }
            DataType::Float64 => text.parse::<f64>().map_or(text, |value| format!("{value:.11e}")),
            _ => text,
        }
    };
    Ok((0..array.len()).map(|row| array.is_valid(row).then(|| text(row))).collect())
}

/// The texts of some columns, row by row.
pub(crate) fn cells(batch: &RecordBatch, columns: &[&str]) -> Result<Vec<Vec<Option<String>>>, ArrowError> {
    let missing = |name: &str| ArrowError::SchemaError(format!("there is no column `{name}`"));
    let columns = columns
        .iter()
        .map(|name| texts(batch.column_by_name(name).ok_or_else(|| missing(name))?))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect())
}

/// Some cells of a row with their columns' names.
pub(crate) fn named(columns: &[&str], row: &[Option<String>], which: &[usize]) -> String {
    which.iter().map(|i| format!("{} = {}", columns[*i], shown(&row[*i]))).collect::<Vec<_>>().join(", ")
}

/// A cell for people.
pub(crate) fn shown(cell: &Option<String>) -> &str {
    cell.as_deref().unwrap_or("null")
}

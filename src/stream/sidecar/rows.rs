//! The rows and instants of a test, from texts to batches, exactly.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, ListBuilder, RecordBatch, StringArray, StringBuilder},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, SchemaRef, TimestampMicrosecondType},
};

use crate::tables::{self, OP_COLUMN};

/// The account of rows that name none; their mode is live.
const ACCOUNT: &str = "acct_test";

/// A row as it is written: values by column, as texts so that decimals stay exact. A list is its elements, separated by
/// commas.
pub(super) type Row = BTreeMap<String, Option<String>>;

/// Rows as they are written as a batch. A column that is left out is null where it may be, and else empty, zero, false
/// or 1970; the key must be given.
pub(super) fn given_rows(schema: &SchemaRef, key: &[String], rows: &[Row]) -> Result<RecordBatch, String> {
    let known = |column: &String| column == OP_COLUMN || schema.index_of(column).is_ok();
    if let Some(unknown) = rows.iter().flat_map(Row::keys).find(|column| !known(column)) {
        return Err(format!("there is no column `{unknown}`"));
    }
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            let values = rows
                .iter()
                .map(|row| match row.get(field.name()) {
                    Some(None) if !field.is_nullable() => Err(format!("`{}` cannot be null", field.name())),
                    Some(value) => Ok(value.clone()),
                    None => left_out(field, key),
                })
                .collect::<Result<Vec<_>, _>>()?;
            column(field, &values)
        })
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| error.to_string())
}

fn left_out(field: &Field, key: &[String]) -> Result<Option<String>, String> {
    let value = match (field.name().as_str(), field.data_type()) {
        ("account", _) => ACCOUNT,
        ("livemode", _) => "true",
        (name, _) if key.iter().any(|column| column == name) => return Err(format!("a row lacks its key `{name}`")),
        _ if field.is_nullable() => return Ok(None),
        (_, DataType::Boolean) => "false",
        (_, DataType::Utf8 | DataType::List(_)) => "",
        (_, DataType::Date32 | DataType::Timestamp(..)) => "1970-01-01",
        _ => "0",
    };
    Ok(Some(value.to_owned()))
}

/// Texts as the values of a column, exactly.
fn column(field: &Field, values: &[Option<String>]) -> Result<ArrayRef, String> {
    if let DataType::List(item) = field.data_type() {
        let mut lists = ListBuilder::new(StringBuilder::new()).with_field(Arc::clone(item));
        for value in values {
            for element in value.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|e| !e.is_empty()) {
                lists.values().append_value(element);
            }
            lists.append(value.is_some());
        }
        return Ok(Arc::new(lists.finish()));
    }
    if let DataType::Decimal128(_, scale) = field.data_type() {
        let places = |text: &str| text.split_once('.').map_or(0, |(_, places)| places.trim_end_matches('0').len());
        let scale = usize::try_from(*scale).unwrap_or_default();
        if let Some(text) = values.iter().flatten().find(|text| places(text) > scale) {
            return Err(format!("`{}` has {scale} decimal places, `{text}` more", field.name()));
        }
    }
    let texts = StringArray::from(values.to_vec());
    let options = CastOptions { safe: false, ..Default::default() };
    cast_with_options(&texts, field.data_type(), &options).map_err(|error| format!("`{}`: {error}", field.name()))
}

/// An instant as it is written.
pub(super) fn instant(text: &str) -> Result<i64, String> {
    let field = Field::new("at_time", tables::timestamptz(), false);
    let read = column(&field, &[Some(text.to_owned())])?;
    Ok(read.as_primitive::<TimestampMicrosecondType>().value(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::cells::texts;

    #[test]
    fn decimals_are_read_exactly_or_not_at_all() {
        let field = Field::new("amount", DataType::Decimal128(28, 6), true);
        let read = |text: &str| {
            column(&field, &[Some(text.to_owned())]).and_then(|array| texts(&array).map_err(|e| e.to_string()))
        };
        assert_eq!(read("1234567890123456.789012").unwrap(), [Some("1234567890123456.789012".to_owned())]);
        assert_eq!(read("5.500").unwrap(), [Some("5.5".to_owned())]);
        assert_eq!(read("100").unwrap(), [Some("100".to_owned())]);
        assert!(read("0.1234567").unwrap_err().contains("6 decimal places"));
        assert!(read("ten").unwrap_err().contains("amount"));
    }
}

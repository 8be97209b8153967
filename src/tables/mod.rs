//! The tables Tributary writes: their columns, keys and descriptions come from the contract in
//! `schemas/tables.yml`; [`rows`] turns typed rows of the ledger into Arrow batches of exactly those columns, and
//! [`read`] reads them back; [`json_lines`] writes any rows for people and programs.
//!
//! Nothing here decides what a table contains.

mod batch;
mod json;
pub mod read;
pub mod rows;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::Deserialize;

pub use self::json::json_lines;

/// The column that tells a put (1) from a delete (−1) in batches of changes to a keyed table.
pub const OP_COLUMN: &str = "__op";

/// What can be wrong with the contract.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not parse.
    #[error("schemas/tables.yml: {0}")]
    Parse(String),
    /// A type word is unknown.
    #[error("schemas/tables.yml: `{0}` is not a column type")]
    Type(String),
    /// No such table.
    #[error("there is no table `{0}` in schemas/tables.yml")]
    Unknown(String),
    /// A row is not one that this program wrote.
    #[error("row {row} of {table} cannot be read: `{column}` is not what was written there")]
    Row {
        /// The table.
        table: &'static str,
        /// The column.
        column: String,
        /// The row's place among those that were read.
        row: usize,
    },
    /// Rows could not be turned into Arrow.
    #[error("rows do not fit their table: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}

/// Who writes a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The engine itself.
    Engine,
    /// The pipeline of the same name.
    Pipeline,
    /// Nobody: it is worked out when it is read.
    View,
}

/// One table of the contract.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// One sentence for people.
    pub description: String,
    /// Who writes it.
    pub source: Source,
    /// Columns in order, descriptions in the metadata key `comment`.
    pub schema: SchemaRef,
    /// What identifies a row; empty for appended tables.
    pub key: Vec<String>,
    /// Whether readers see a computed `is_final`: once the window of a row is over, only what comes late changes it.
    pub has_is_final: bool,
}

impl Table {
    /// Whether rows are only ever added.
    #[must_use]
    pub fn is_appended(&self) -> bool {
        self.key.is_empty()
    }
}

#[derive(Deserialize)]
struct ContractFile {
    tables: serde_yaml_ng::Mapping,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableEntry {
    source: Source,
    description: String,
    #[serde(default)]
    key: Vec<String>,
    columns: serde_yaml_ng::Mapping,
    #[serde(default)]
    computed: BTreeMap<String, ColumnEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnEntry {
    r#type: String,
    #[serde(default)]
    nullable: bool,
    description: String,
}

/// Every table, in the contract's order.
///
/// # Errors
/// When the built-in contract is broken; a test keeps that from happening.
pub fn all() -> Result<&'static [Table], &'static Error> {
    static TABLES: LazyLock<Result<Vec<Table>, Error>> =
        LazyLock::new(|| parse(include_str!("../../schemas/tables.yml")));
    TABLES.as_deref()
}

/// The table of that name.
///
/// # Errors
/// [`Error::Unknown`] when there is none.
pub fn get(name: &str) -> Result<&'static Table, Error> {
    all()
        .map_err(|error| Error::Parse(error.to_string()))?
        .iter()
        .find(|table| table.name == name)
        .ok_or_else(|| Error::Unknown(name.to_owned()))
}

fn parse(text: &str) -> Result<Vec<Table>, Error> {
    let file: ContractFile = serde_yaml_ng::from_str(text).map_err(|e| Error::Parse(e.to_string()))?;
    file.tables
        .into_iter()
        .map(|(name, entry)| {
            let name = word(&name)?;
            let entry: TableEntry =
                serde_yaml_ng::from_value(entry).map_err(|e| Error::Parse(format!("{name}: {e}")))?;
            let fields = entry
                .columns
                .into_iter()
                .map(|(column, value)| {
                    let column = word(&column)?;
                    let value: ColumnEntry =
                        serde_yaml_ng::from_value(value).map_err(|e| Error::Parse(format!("{name}.{column}: {e}")))?;
                    Ok(Field::new(column, data_type(&value.r#type)?, value.nullable)
                        .with_metadata([("comment".to_owned(), value.description)].into()))
                })
                .collect::<Result<Vec<_>, Error>>()?;
            Ok(Table {
                name,
                description: entry.description,
                source: entry.source,
                schema: Arc::new(Schema::new(fields)),
                key: entry.key,
                has_is_final: entry.computed.contains_key("is_final"),
            })
        })
        .collect()
}

fn word(value: &serde_yaml_ng::Value) -> Result<String, Error> {
    value.as_str().map(str::to_owned).ok_or_else(|| Error::Parse("a name is not text".to_owned()))
}

/// The type of every instant in a table.
#[must_use]
pub fn timestamptz() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The type of every list in a table.
#[must_use]
pub fn text_list() -> DataType {
    DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)))
}

fn data_type(word: &str) -> Result<DataType, Error> {
    Ok(match word {
        "text" => DataType::Utf8,
        "boolean" => DataType::Boolean,
        "bigint" => DataType::Int64,
        "double" => DataType::Float64,
        "date" => DataType::Date32,
        "timestamptz" => timestamptz(),
        "text[]" => text_list(),
        "decimal(28,6)" => DataType::Decimal128(28, 6),
        "decimal(38,12)" => DataType::Decimal128(38, 12),
        other => return Err(Error::Type(other.to_owned())),
    })
}

/// The contract's word for a type of a column.
#[must_use]
pub fn type_word(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "text".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(..) => "timestamptz".to_owned(),
        DataType::List(_) => "text[]".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_parses_and_every_table_begins_with_its_scope() {
        for table in all().unwrap() {
            assert_eq!(table.schema.field(0).name(), "account", "{}", table.name);
            assert_eq!(table.schema.field(1).name(), "livemode", "{}", table.name);
            for key in &table.key {
                let field = table.schema.field_with_name(key).unwrap();
                assert!(!field.is_nullable(), "{}.{key} is a key and may be null", table.name);
            }
            assert!(table.key.is_empty() || table.key[..2] == ["account", "livemode"], "{}", table.name);
        }
    }
}

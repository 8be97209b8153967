//! Rows on standard output: a table for people, JSON lines or CSV for programs.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    csv,
    datatypes::{DataType, Field, Schema, SchemaRef},
    util::{
        display::{ArrayFormatter, FormatOptions},
        pretty::pretty_format_batches_with_options,
    },
};
use clap::ValueEnum;
use miette::IntoDiagnostic;

use super::rim;
use crate::tables;

/// How rows are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Output {
    /// A table for people
    Table,
    /// One JSON object a line
    Json,
    /// With a line of column names
    Csv,
}

/// Instants as in PostgreSQL.
fn format() -> FormatOptions<'static> {
    FormatOptions::default().with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"))
}

/// Writes a line of text.
pub(super) fn say(text: impl Display) -> miette::Result<()> {
    writeln!(io::stdout().lock(), "{text}").map_err(rim::output_report)
}

/// Writes all rows.
pub(super) fn print(schema: &SchemaRef, batches: &[RecordBatch], output: Output) -> miette::Result<()> {
    let mut out = io::stdout().lock();
    match output {
        Output::Table => {
            let batches =
                if batches.is_empty() { vec![RecordBatch::new_empty(Arc::clone(schema))] } else { batches.to_vec() };
            let table = pretty_format_batches_with_options(&batches, &format()).into_diagnostic()?;
            writeln!(out, "{table}").map_err(rim::output_report)?;
        }
        Output::Json => {
            for batch in batches {
                let text = tables::json_lines(batch).into_diagnostic()?;
                out.write_all(text.as_bytes()).map_err(rim::output_report)?;
            }
        }
        Output::Csv => {
            let names = RecordBatch::new_empty(Arc::clone(schema));
            for (i, batch) in std::iter::once(&names).chain(batches).enumerate() {
                let mut text = Vec::new();
                csv::WriterBuilder::new()
                    .with_header(i == 0)
                    .build(&mut text)
                    .write(&flat(batch)?)
                    .into_diagnostic()?;
                out.write_all(&text).map_err(rim::output_report)?;
            }
        }
    }
    out.flush().map_err(rim::output_report)
}

/// Lists as texts: CSV has no lists.
fn flat(batch: &RecordBatch) -> miette::Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    let format = format();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if !field.data_type().is_nested() {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
            continue;
        }
        let formatter = ArrayFormatter::try_new(column, &format).into_diagnostic()?;
        let texts: StringArray =
            (0..batch.num_rows()).map(|row| (!column.is_null(row)).then(|| formatter.value(row).to_string())).collect();
        fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
        columns.push(Arc::new(texts));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).into_diagnostic()
}

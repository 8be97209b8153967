//! Answers as rows by key, and what stock DataFusion says.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::{cast, concat_batches},
    datatypes::{DataType, Float64Type, SchemaRef},
    ipc::{reader::StreamReader, writer::StreamWriter},
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{datasource::MemTable, prelude::SessionContext};
use tributary::stream::{
    self, Tables,
    conversion::SharedRates,
    pipeline::{Pipeline, RowDelta},
};

/// How far apart two floats may be that are the same: sums in another order.
const RELATIVE: f64 = 1e-9;

#[derive(Clone, Debug)]
enum Value {
    Exact(String),
    Float(f64),
}

impl Value {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Float(a), Self::Float(b)) if a.is_finite() && b.is_finite() => {
                // What cancels out leaves a little of the size of what was cancelled.
                (a - b).abs() <= RELATIVE * a.abs().max(b.abs()).max(1.0)
            }
            (Self::Float(a), Self::Float(b)) => a == b || (a.is_nan() && b.is_nan()),
            _ => false,
        }
    }
}

/// The rows of a pipeline's output, by its key.
#[derive(Clone)]
pub(super) struct Answer {
    key: Vec<usize>,
    rows: BTreeMap<Vec<String>, Vec<Value>>,
    /// As they came from batch.
    batch: RecordBatch,
}

impl Answer {
    pub(super) fn new(pipeline: &Pipeline) -> Self {
        let batch = RecordBatch::new_empty(Arc::clone(pipeline.schema()));
        Self { key: pipeline.key().to_vec(), rows: BTreeMap::new(), batch }
    }

    pub(super) fn of(pipeline: &Pipeline, batch: RecordBatch) -> Self {
        let name = pipeline.name();
        Self::unless_doubled(pipeline, batch).unwrap_or_else(|row| panic!("{name}: twice in batch: {row}"))
    }

    /// `Err` with a row whose key another has.
    pub(super) fn unless_doubled(pipeline: &Pipeline, batch: RecordBatch) -> Result<Self, String> {
        let mut answer = Self::new(pipeline);
        for row in values(&batch) {
            let said = format!("{row:?}");
            if answer.rows.insert(answer.key_of(&row), row).is_some() {
                return Err(said);
            }
        }
        answer.batch = batch;
        Ok(answer)
    }

    fn key_of(&self, row: &[Value]) -> Vec<String> {
        self.key.iter().map(|i| format!("{:?}", row[*i])).collect()
    }

    /// Adds what a pipeline emitted.
    pub(super) fn add(&mut self, delta: &RowDelta, said: &str) {
        for row in values(&delta.removed) {
            let held = self.rows.remove(&self.key_of(&row));
            assert!(
                held.as_ref().is_some_and(|held| same(held, &row)),
                "{said}: removed {row:?}, but there was {held:?}"
            );
        }
        for row in values(&delta.added) {
            let key = self.key_of(&row);
            assert!(self.rows.insert(key.clone(), row).is_none(), "{said}: {key:?} was added twice");
        }
    }

    pub(super) fn assert_equals(&self, expected: &Self, said: &str) {
        for (key, row) in &expected.rows {
            let held = self.rows.get(key);
            assert!(held.is_some_and(|held| same(held, row)), "{said}: batch has {row:?}, the pipeline {held:?}");
        }
        if let Some((key, row)) = self.rows.iter().find(|(key, _)| !expected.rows.contains_key(*key)) {
            panic!("{said}: the pipeline has {key:?} {row:?}, batch has not");
        }
    }

    /// How many keys have another row, or only one of both a row.
    pub(super) fn differing(&self, other: &Self) -> u64 {
        let keys: BTreeSet<_> = self.rows.keys().chain(other.rows.keys()).collect();
        let differs = |key: &&&Vec<String>| match (self.rows.get(**key), other.rows.get(**key)) {
            (Some(a), Some(b)) => !same(a, b),
            _ => true,
        };
        keys.iter().filter(differs).count() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn rows(&self) -> RecordBatch {
        self.batch.clone()
    }
}

fn same(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is(b))
}

fn values(batch: &RecordBatch) -> Vec<Vec<Value>> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    (0..batch.num_rows())
        .map(|row| {
            let of = |(array, shown): (&Arc<dyn Array>, &ArrayFormatter<'_>)| match array.data_type() {
                DataType::Float64 if array.is_valid(row) => {
                    Value::Float(array.as_primitive::<Float64Type>().value(row))
                }
                _ => Value::Exact(shown.value(row).to_string()),
            };
            batch.columns().iter().zip(&columns).map(of).collect()
        })
        .collect()
}

/// Stock DataFusion over some tables, with the functions that pipelines have.
pub(super) struct Batch(SessionContext);

impl Batch {
    pub(super) fn over(tables: &BTreeMap<String, RecordBatch>) -> Self {
        let context = SessionContext::new();
        for function in stream::functions() {
            context.register_udf(function);
        }
        context.register_udf(stream::conversion::to_currency(SharedRates::default(), 0));
        stream::windows::register(&context).unwrap();
        let batch = Self(context);
        for (name, rows) in tables {
            batch.register(name, rows.clone());
        }
        batch
    }

    pub(super) fn register(&self, name: &str, rows: RecordBatch) {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap();
        self.0.register_table(name, Arc::new(table)).unwrap();
    }

    /// The columns that a query gives, if it can be planned.
    pub(super) async fn columns(&self, sql: &str) -> Result<Vec<String>, String> {
        let query = self.0.sql(sql).await.map_err(|error| error.to_string())?;
        Ok(query.schema().fields().iter().map(|field| field.name().clone()).collect())
    }

    /// Tables as a query on a schedule reads them.
    pub(super) async fn providers(&self, names: &BTreeSet<String>) -> Tables {
        let mut tables = Tables::new();
        for name in names {
            tables.insert(name.clone(), self.0.table_provider(name.as_str()).await.unwrap());
        }
        tables
    }

    pub(super) async fn answer(&self, pipeline: &Pipeline) -> Answer {
        self.answer_to(pipeline, &pipeline.file().text).await
    }

    /// What other words for the query of a pipeline say.
    pub(super) async fn answer_to(&self, pipeline: &Pipeline, sql: &str) -> Answer {
        Answer::of(pipeline, self.rows_of(pipeline, sql).await)
    }

    /// The rows that a query gives, in the columns of a pipeline's table.
    pub(super) async fn rows_of(&self, pipeline: &Pipeline, sql: &str) -> RecordBatch {
        let query = self.0.sql(sql).await.unwrap();
        let rows = query.collect().await.unwrap_or_else(|error| panic!("{}: {error}", pipeline.name()));
        let rows: Vec<RecordBatch> = rows.iter().map(|rows| conform(rows, pipeline.schema())).collect();
        concat_batches(pipeline.schema(), &rows).unwrap()
    }
}

fn conform(rows: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let columns = rows.columns().iter().zip(schema.fields()).map(|(c, f)| cast(c, f.data_type()).unwrap()).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

/// A batch as a checkpoint writes it down and a start reads it.
pub(super) fn by_way_of_bytes(batch: &RecordBatch) -> RecordBatch {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    let bytes = writer.into_inner().unwrap();
    StreamReader::try_new(Cursor::new(bytes), None).unwrap().next().unwrap().unwrap()
}

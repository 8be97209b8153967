//! Changes of a keyed table: which keys they touch, and what is left of each key.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, Int8Array, RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef},
    row::{RowConverter, SortField},
};
use datafusion::common::HashMap;

use super::TableSpec;

pub use crate::tables::OP_COLUMN as OP;

/// The columns of a table's changes: the table's own, which may be NULL in a delete, and [`OP`].
#[must_use]
pub fn change_schema(table: &SchemaRef) -> SchemaRef {
    let columns = table.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let op = Field::new(OP, DataType::Int8, false);
    Arc::new(Schema::new(columns.chain([op]).collect::<Vec<_>>()))
}

/// Changes with one row for each key.
#[derive(Debug)]
pub(super) struct Changes {
    /// The rows to put, with the table's columns, in the order of their keys.
    pub(super) puts: RecordBatch,
    /// Every key that is put or deleted, in row format.
    touched: HashMap<Box<[u8]>, u32>,
    converter: RowConverter,
    key: Vec<String>,
    /// The keys' values of the partition columns, if the key contains them all.
    partitions: Option<Vec<ArrayRef>>,
}

impl Changes {
    /// Takes the last row of each key. The error says what is wrong with the batches.
    pub(super) fn consolidate(spec: &TableSpec, batches: &[RecordBatch]) -> Result<Self, String> {
        let schema = change_schema(&spec.schema);
        let batches = batches.iter().map(|batch| RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec()));
        let batches = batches.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let all = concat_batches(&schema, &batches).map_err(wrong)?;
        if spec.key.is_empty() {
            return Err("the table has no key".to_owned());
        }
        let keys = columns(&all, &spec.key)?;
        if let Some(at) = keys.iter().position(|column| column.null_count() > 0) {
            return Err(format!("key column {} is NULL", spec.key[at]));
        }
        let fields = keys.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(wrong)?;
        let rows = converter.convert_columns(&keys).map_err(wrong)?;
        let mut touched: HashMap<Box<[u8]>, u32> = HashMap::with_capacity(all.num_rows());
        for (at, row) in (0_u32..).zip(&rows) {
            touched.insert(Box::from(row.as_ref()), at);
        }
        let op = all.column(spec.schema.fields().len());
        let op = op.as_any().downcast_ref::<Int8Array>().ok_or("`__op` is not Int8")?;
        if let Some(other) = op.iter().find(|op| !matches!(op, Some(1 | -1))) {
            return Err(format!("`__op` is {other:?}, it must be 1 or -1"));
        }
        let mut last: Vec<(&[u8], u32)> = touched.iter().map(|(key, at)| (key.as_ref(), *at)).collect();
        last.sort_unstable();
        let puts: UInt32Array = last.iter().map(|(_, at)| *at).filter(|at| op.value(*at as usize) == 1).collect();
        let puts = take_record_batch(&all, &puts).map_err(wrong)?;
        let puts =
            RecordBatch::try_new(Arc::clone(&spec.schema), puts.columns()[..spec.schema.fields().len()].to_vec());
        let of_key = spec.partition_by.iter().all(|column| spec.key.contains(column));
        let partitions = if of_key { Some(columns(&all, &spec.partition_by)?) } else { None };
        Ok(Self { puts: puts.map_err(wrong)?, touched, converter, key: spec.key.clone(), partitions })
    }

    /// The key's columns.
    pub(super) fn key(&self) -> &[String] {
        &self.key
    }

    /// Which of the rows, given by their key columns, no change touches. `None`: all of them.
    pub(super) fn untouched(&self, keys: &[ArrayRef]) -> Result<Option<BooleanArray>, arrow::error::ArrowError> {
        let rows = self.converter.convert_columns(keys)?;
        let untouched: BooleanArray = rows.iter().map(|row| Some(!self.touched.contains_key(row.as_ref()))).collect();
        Ok((untouched.false_count() > 0).then_some(untouched))
    }

    /// The values of the table's partition columns in all changes; `None` when a key can lie in any partition.
    pub(super) fn partitions(&self) -> Option<&[ArrayRef]> {
        self.partitions.as_deref()
    }
}

fn columns(batch: &RecordBatch, names: &[String]) -> Result<Vec<ArrayRef>, String> {
    let column =
        |name: &String| batch.column_by_name(name).cloned().ok_or_else(|| format!("there is no column {name}"));
    names.iter().map(column).collect()
}

fn wrong(error: arrow::error::ArrowError) -> String {
    format!("changes do not have the table's columns and `{OP}`: {error}")
}

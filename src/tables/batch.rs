//! Building a record batch row by row against a table's schema.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int64Builder, ListBuilder,
        RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
    },
    datatypes::{DataType, SchemaRef},
};

use super::{Error, Table};

/// One cell to be appended.
pub(crate) enum Cell<'a> {
    Null,
    Text(&'a str),
    Boolean(bool),
    Bigint(i64),
    Double(f64),
    /// The raw value at the column's scale.
    Decimal(i128),
    /// Microseconds since 1970.
    Instant(i64),
    /// Days since 1970.
    Date(i32),
    Texts(Vec<&'a str>),
}

enum Column {
    Text(StringBuilder),
    Boolean(BooleanBuilder),
    Bigint(Int64Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder, DataType),
    Instant(TimestampMicrosecondBuilder),
    Date(Date32Builder),
    Texts(ListBuilder<StringBuilder>),
}

impl Column {
    fn new(data_type: &DataType, rows: usize) -> Result<Self, Error> {
        Ok(match data_type {
            DataType::Utf8 => Self::Text(StringBuilder::with_capacity(rows, rows * 24)),
            DataType::Boolean => Self::Boolean(BooleanBuilder::with_capacity(rows)),
            DataType::Int64 => Self::Bigint(Int64Builder::with_capacity(rows)),
            DataType::Float64 => Self::Double(Float64Builder::with_capacity(rows)),
            DataType::Decimal128(..) => Self::Decimal(
                Decimal128Builder::with_capacity(rows).with_data_type(data_type.clone()),
                data_type.clone(),
            ),
            DataType::Timestamp(..) => {
                Self::Instant(TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(data_type.clone()))
            }
            DataType::Date32 => Self::Date(Date32Builder::with_capacity(rows)),
            DataType::List(field) => {
                Self::Texts(ListBuilder::with_capacity(StringBuilder::new(), rows).with_field(Arc::clone(field)))
            }
            other => return Err(Error::Type(other.to_string())),
        })
    }

    fn push(&mut self, cell: Cell<'_>) -> Result<(), Error> {
        match (self, cell) {
            (Self::Text(b), Cell::Text(v)) => b.append_value(v),
            (Self::Text(b), Cell::Null) => b.append_null(),
            (Self::Boolean(b), Cell::Boolean(v)) => b.append_value(v),
            (Self::Boolean(b), Cell::Null) => b.append_null(),
            (Self::Bigint(b), Cell::Bigint(v)) => b.append_value(v),
            (Self::Bigint(b), Cell::Null) => b.append_null(),
            (Self::Double(b), Cell::Double(v)) => b.append_value(v),
            (Self::Decimal(b, _), Cell::Decimal(v)) => b.append_value(v),
            (Self::Decimal(b, _), Cell::Null) => b.append_null(),
            (Self::Instant(b), Cell::Instant(v)) => b.append_value(v),
            (Self::Instant(b), Cell::Null) => b.append_null(),
            (Self::Date(b), Cell::Date(v)) => b.append_value(v),
            (Self::Texts(b), Cell::Texts(values)) => b.append_value(values.into_iter().map(Some)),
            (column, _) => return Err(Error::Type(format!("cell does not fit a {} column", column.name()))),
        }
        Ok(())
    }

    fn name(&self) -> String {
        match self {
            Self::Text(_) => "text".to_owned(),
            Self::Boolean(_) => "boolean".to_owned(),
            Self::Bigint(_) => "bigint".to_owned(),
            Self::Double(_) => "double".to_owned(),
            Self::Decimal(_, data_type) => data_type.to_string(),
            Self::Instant(_) => "timestamptz".to_owned(),
            Self::Date(_) => "date".to_owned(),
            Self::Texts(_) => "text[]".to_owned(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(b) => Arc::new(b.finish()),
            Self::Boolean(b) => Arc::new(b.finish()),
            Self::Bigint(b) => Arc::new(b.finish()),
            Self::Double(b) => Arc::new(b.finish()),
            Self::Decimal(b, _) => Arc::new(b.finish()),
            Self::Instant(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Texts(b) => Arc::new(b.finish()),
        }
    }
}

/// Collects rows of one table.
pub(crate) struct BatchBuilder {
    schema: SchemaRef,
    columns: Vec<Column>,
}

impl BatchBuilder {
    /// For about `rows` rows of `table`.
    pub(crate) fn new(table: &Table, rows: usize) -> Result<Self, Error> {
        let columns =
            table.schema.fields().iter().map(|f| Column::new(f.data_type(), rows)).collect::<Result<_, _>>()?;
        Ok(Self { schema: Arc::clone(&table.schema), columns })
    }

    /// With room for so many bytes of text in a column of long ones, which would be copied again and again as it grows.
    pub(crate) fn with_text(mut self, column: &str, rows: usize, bytes: usize) -> Result<Self, Error> {
        self.columns[self.schema.index_of(column)?] = Column::Text(StringBuilder::with_capacity(rows, bytes));
        Ok(self)
    }

    /// Appends one row: one cell for each column, in order.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell<'_>; N]) -> Result<(), Error> {
        if N != self.columns.len() {
            return Err(Error::Type(format!("{N} cells for {} columns", self.columns.len())));
        }
        self.columns.iter_mut().zip(cells).try_for_each(|(column, cell)| column.push(cell))
    }

    /// The rows so far as one batch.
    pub(crate) fn finish(mut self) -> Result<RecordBatch, Error> {
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        Ok(RecordBatch::try_new(self.schema, arrays)?)
    }
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl From<bool> for Cell<'_> {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i64> for Cell<'_> {
    fn from(value: i64) -> Self {
        Self::Bigint(value)
    }
}

impl From<f64> for Cell<'_> {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl From<crate::money::Amount> for Cell<'_> {
    fn from(value: crate::money::Amount) -> Self {
        Self::Decimal(value.micros())
    }
}

impl From<crate::time::EventTime> for Cell<'_> {
    fn from(value: crate::time::EventTime) -> Self {
        Self::Instant(value.micros())
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

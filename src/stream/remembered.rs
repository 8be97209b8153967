//! What a query last said of the keys that changed last, so that it need not be computed what it said before.
//!
//! The answer is a function of a key's rows, so what was said then is what the rows as they were say now. It can be
//! remembered where the answer shows the key. Nothing here is kept by a checkpoint.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::concat_batches,
    datatypes::{DataType, Schema, SchemaRef},
    row::{RowConverter, SortField},
};
use datafusion::common::HashMap;

use super::{Error, grain::stays_apart, kept::Bytes};

/// The most rows, and keys, that are remembered of a pipeline: some hundred megabytes. With one more all are forgotten.
const MAX_REMEMBERED_ROWS: usize = 200_000;

/// The keys of which nothing is remembered; none when that is so of all.
type Unknown<'a> = Option<Cow<'a, [Bytes]>>;

pub(super) struct Remembered {
    schema: SchemaRef,
    /// How to tell of which key a row is; none where the answer does not show it.
    key: Option<Key>,
    whole: RowConverter,
    /// Of each key its rows.
    said: HashMap<Bytes, Vec<Bytes>>,
    rows: usize,
}

struct Key {
    columns: Vec<usize>,
    converter: RowConverter,
}

impl Remembered {
    /// Of answers with `schema`, whose columns `shown`, if any, are the key; `types` are those of the key.
    pub(super) fn new(
        schema: SchemaRef,
        shown: Option<Vec<usize>>,
        types: impl Iterator<Item = DataType>,
    ) -> Result<Self, Error> {
        let types: Vec<DataType> = types.collect();
        let is_key = |columns: &Vec<usize>| columns.iter().map(|i| schema.field(*i).data_type()).eq(&types);
        let key = match shown.filter(is_key) {
            Some(columns) => {
                let converter = RowConverter::new(types.into_iter().map(SortField::new).collect())?;
                Some(Key { columns, converter })
            }
            None => None,
        };
        let whole = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        Ok(Self { whole: RowConverter::new(whole)?, schema, key, said: HashMap::new(), rows: 0 })
    }

    /// Whether rows of the answer that agree in some columns of its table are of one key.
    pub(super) fn is_within(&self, columns: &[usize], table: &Schema) -> bool {
        let is_shown = |i: &usize| {
            columns.contains(i) && stays_apart(self.schema.field(*i).data_type(), table.field(*i).data_type())
        };
        self.key.as_ref().is_some_and(|key| key.columns.iter().all(is_shown))
    }

    /// What was said of the touched keys, or of all; what is not remembered is asked.
    pub(super) async fn said(
        &self,
        touched: Option<&[Bytes]>,
        ask: impl AsyncFnOnce(Option<&[Bytes]>) -> Result<RecordBatch, Error>,
    ) -> Result<RecordBatch, Error> {
        let (known, unknown) = self.recall(touched)?;
        Ok(concat_batches(&self.schema, [&known, &ask(unknown.as_deref()).await?])?)
    }

    /// What was said of the touched keys, as far as it is remembered, and of which it is not. Without touched keys all
    /// are.
    fn recall<'a>(&self, touched: Option<&'a [Bytes]>) -> Result<(RecordBatch, Unknown<'a>), Error> {
        let nothing = RecordBatch::new_empty(Arc::clone(&self.schema));
        let Some(touched) = touched.filter(|_| !self.said.is_empty()) else {
            return Ok((nothing, touched.map(Cow::Borrowed)));
        };
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for key in touched {
            match self.said.get(key) {
                Some(rows) => known.extend(rows),
                None => unknown.push(key.clone()),
            }
        }
        let parser = self.whole.parser();
        let columns = self.whole.convert_rows(known.into_iter().map(|row| parser.parse(row)))?;
        Ok((RecordBatch::try_new(Arc::clone(&self.schema), columns)?, Some(Cow::Owned(unknown))))
    }

    /// Remembers what is said of the touched keys now. Without touched keys it may be otherwise of all of them.
    pub(super) fn remember(&mut self, touched: Option<&[Bytes]>, answer: &RecordBatch) -> Result<(), Error> {
        let (Some(touched), Some(key)) = (touched, &self.key) else {
            self.forget();
            return Ok(());
        };
        let columns: Vec<ArrayRef> = key.columns.iter().map(|i| Arc::clone(answer.column(*i))).collect();
        let (keys, rows) = (key.converter.convert_columns(&columns)?, self.whole.convert_columns(answer.columns())?);
        let new = touched.len() + rows.num_rows();
        if self.rows + new > MAX_REMEMBERED_ROWS {
            self.forget();
        }
        if new > MAX_REMEMBERED_ROWS {
            return Ok(());
        }
        for key in touched {
            let before = self.said.insert(key.clone(), Vec::new());
            self.rows = self.rows + 1 - before.map_or(0, |rows| rows.len() + 1);
        }
        for (key, row) in keys.iter().zip(&rows) {
            let said = self.said.get_mut(key.data());
            let said = said.ok_or_else(|| Error::Internal("an answer is about a key that was not asked".to_owned()))?;
            said.push(row.data().into());
            self.rows += 1;
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.said.clear();
        self.rows = 0;
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, Int64Array, StringArray},
        datatypes::{Field, Int64Type},
    };

    use super::*;

    fn answer(rows: &[(&str, i64)]) -> RecordBatch {
        let fields = vec![Field::new("value", DataType::Int64, false), Field::new("key", DataType::Utf8, false)];
        let values = Int64Array::from_iter_values(rows.iter().map(|(_, value)| *value));
        let keys = StringArray::from_iter_values(rows.iter().map(|(key, _)| *key));
        RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![Arc::new(values), Arc::new(keys)]).unwrap()
    }

    fn bytes(keys: &[&str]) -> Vec<Bytes> {
        let converter = RowConverter::new(vec![SortField::new(DataType::Utf8)]).unwrap();
        let rows = converter.convert_columns(&[Arc::new(StringArray::from(keys.to_vec()))]).unwrap();
        rows.iter().map(|row| row.data().into()).collect()
    }

    fn remembered(shown: Option<Vec<usize>>) -> Remembered {
        Remembered::new(answer(&[]).schema(), shown, [DataType::Utf8].into_iter()).unwrap()
    }

    /// What is known of some keys, and how many are not.
    fn recalled(remembered: &Remembered, keys: &[&str]) -> (Vec<i64>, usize) {
        let touched = bytes(keys);
        let (known, unknown) = remembered.recall(Some(&touched)).unwrap();
        let known = known.column(0).as_primitive::<Int64Type>().values().to_vec();
        (known, unknown.map_or(0, |keys| keys.len()))
    }

    #[test]
    fn the_last_answer_is_remembered_also_that_there_was_none() {
        let mut remembered = remembered(Some(vec![1]));
        remembered.remember(Some(&bytes(&["a", "b", "c"])), &answer(&[("a", 1), ("b", 2), ("b", 3)])).unwrap();
        assert_eq!(recalled(&remembered, &["a", "b", "c", "d"]), (vec![1, 2, 3], 1));
        remembered.remember(Some(&bytes(&["b"])), &answer(&[("b", 4)])).unwrap();
        assert_eq!(recalled(&remembered, &["a", "b"]), (vec![1, 4], 0));
        assert_eq!(remembered.rows, 5, "three keys and two rows");
        remembered.remember(None, &answer(&[])).unwrap();
        assert_eq!(recalled(&remembered, &["a"]), (vec![], 1), "everything may be otherwise");
    }

    #[test]
    fn where_the_answer_does_not_show_the_key_nothing_is_remembered() {
        for shown in [None, Some(vec![0])] {
            let mut remembered = remembered(shown);
            remembered.remember(Some(&bytes(&["a"])), &answer(&[("a", 1)])).unwrap();
            assert_eq!(recalled(&remembered, &["a"]), (vec![], 1));
        }
    }

    #[test]
    fn of_too_many_rows_all_are_forgotten() {
        let mut remembered = remembered(Some(vec![1]));
        let many = |key, rows: usize| answer(&vec![(key, 1); rows]);
        remembered.remember(Some(&bytes(&["a"])), &many("a", MAX_REMEMBERED_ROWS - 1)).unwrap();
        assert_eq!(recalled(&remembered, &["a"]).1, 0);
        remembered.remember(Some(&bytes(&["b"])), &many("b", 1)).unwrap();
        assert_eq!(recalled(&remembered, &["a", "b"]), (vec![1], 1), "the newest only");
        remembered.remember(Some(&bytes(&["c"])), &many("c", MAX_REMEMBERED_ROWS)).unwrap();
        assert_eq!(recalled(&remembered, &["b", "c"]), (vec![], 2));
    }
}

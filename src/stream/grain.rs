//! That a grain identifies a row, however the epochs were cut.
//!
//! Two rows of one key are found in the change that brings the second, if that change has all rows of the key: where
//! the grain shows the columns by which a query falls into parts, because a part is computed again as a whole. Elsewhere
//! the second would take the place of the first without a word. There the keys of all rows are kept here, as digests,
//! and written with the state.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, RecordBatch, RecordBatchOptions, new_null_array,
    },
    compute::{concat, filter_record_batch, is_null},
    datatypes::{DataType, Field, Schema, SchemaRef},
    row::{RowConverter, SortField},
};
use datafusion::common::HashSet;
use sha2::{Digest, Sha256};

use super::{Error, pipeline::RowDelta};

/// The most rows that may be there, of some 40 bytes each: as many as a query may yield at once when it is built anew.
const MAX_KEYS: usize = 20_000_000;

/// Bytes of a digest: two keys with one are not to be expected.
const DIGEST_BYTES: usize = 16;

/// The columns of a saved state with the digests that came or went, and which of both.
const SAVED: [&str; 2] = ["grain", "there"];

type Key = [u8; DIGEST_BYTES];

/// The keys of the rows of one pipeline.
pub(super) struct Grain {
    columns: Vec<usize>,
    converter: RowConverter,
    there: HashSet<Key>,
    /// Those that came (`true`) or went since all were last saved; none before that.
    unsaved: Option<BTreeMap<Key, bool>>,
}

impl Grain {
    /// Of rows that some columns are to identify, of which none is there yet.
    pub(super) fn new(schema: &SchemaRef, columns: &[usize]) -> Result<Self, Error> {
        let fields = columns.iter().map(|i| SortField::new(schema.field(*i).data_type().clone())).collect();
        let converter = RowConverter::new(fields)?;
        Ok(Self { columns: columns.to_vec(), converter, there: HashSet::new(), unsaved: None })
    }

    /// Takes in how the rows change.
    ///
    /// # Errors
    /// [`Error::Grain`] when a row comes whose key another has.
    pub(super) fn follow(&mut self, change: &RowDelta, name: &str) -> Result<(), Error> {
        for key in self.keys(&change.removed)? {
            if !self.there.remove(&key) {
                return Err(Error::Internal("a row goes that was not there".to_owned()));
            }
            self.note(key, false);
        }
        for key in self.keys(&change.added)? {
            if !self.there.insert(key) {
                return Err(Error::Grain(name.to_owned()));
            }
            self.note(key, true);
        }
        check_limit(self.there.len())
    }

    fn keys(&self, rows: &RecordBatch) -> Result<Vec<Key>, Error> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|i| Arc::clone(rows.column(*i))).collect();
        let rows = self.converter.convert_columns(&columns)?;
        Ok(rows.iter().map(|row| digest(row.data())).collect())
    }

    /// One that came back, or went again, is as it was saved.
    fn note(&mut self, key: Key, there: bool) {
        if let Some(unsaved) = &mut self.unsaved
            && unsaved.remove(&key).is_none()
        {
            unsaved.insert(key, there);
        }
    }

    /// A state, and behind it in columns of their own all keys, or those that came and went since the last call. The
    /// first call must be for all.
    pub(super) fn save(&mut self, state: Option<&RecordBatch>, whole: bool) -> Result<RecordBatch, Error> {
        let unsaved = self.unsaved.replace(BTreeMap::new()).unwrap_or_default();
        let keys: Vec<(&Key, bool)> = if whole {
            self.there.iter().map(|key| (key, true)).collect()
        } else {
            unsaved.iter().map(|(key, there)| (key, *there)).collect()
        };
        let bytes = keys.iter().flat_map(|(key, _)| key.iter().copied()).collect::<Vec<u8>>();
        let digests = FixedSizeBinaryArray::try_new(DIGEST_BYTES as i32, bytes.into(), None)?;
        let there: BooleanArray = keys.iter().map(|(_, there)| Some(*there)).collect();
        let (mut fields, mut columns, before) = (Vec::new(), Vec::new(), state.map_or(0, RecordBatch::num_rows));
        let of_state = state.into_iter().flat_map(|state| state.schema_ref().fields().iter().zip(state.columns()));
        for (field, column) in of_state {
            fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
            columns.push(concat(&[column.as_ref(), &*new_null_array(field.data_type(), keys.len())])?);
        }
        for (name, column) in SAVED.into_iter().zip([Arc::new(digests) as ArrayRef, Arc::new(there)]) {
            fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
            columns.push(concat(&[&*new_null_array(column.data_type(), before), column.as_ref()])?);
        }
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    /// Puts back the keys of what [`Self::save`] gave: everything, and then what changed, in order; the states before
    /// them.
    pub(super) fn load(&mut self, saved: &[RecordBatch]) -> Result<Vec<RecordBatch>, Error> {
        let states = saved.iter().map(|saved| self.load_one(saved)).collect::<Result<_, _>>()?;
        self.unsaved = Some(BTreeMap::new());
        Ok(states)
    }

    fn load_one(&mut self, saved: &RecordBatch) -> Result<RecordBatch, Error> {
        let broken = || Error::Internal("the keys that were saved do not fit their pipeline".to_owned());
        let width = saved.num_columns().checked_sub(SAVED.len()).ok_or_else(broken)?;
        let (digests, there) = (saved.column(width), saved.column(width + 1));
        let digests = digests.as_fixed_size_binary_opt().ok_or_else(broken)?;
        let there = there.as_boolean_opt().ok_or_else(broken)?;
        for row in (0..saved.num_rows()).filter(|row| digests.is_valid(*row)) {
            let key = digests.value(row).try_into().map_err(|_| broken())?;
            if there.value(row) {
                self.there.insert(key);
            } else {
                self.there.remove(&key);
            }
        }
        let of_state = filter_record_batch(saved, &is_null(digests)?)?;
        let options = RecordBatchOptions::new().with_row_count(Some(of_state.num_rows()));
        let schema = Arc::new(of_state.schema().project(&(0..width).collect::<Vec<_>>())?);
        Ok(RecordBatch::try_new_with_options(schema, of_state.columns()[..width].to_vec(), &options)?)
    }
}

fn digest(key: &[u8]) -> Key {
    let mut short = [0; DIGEST_BYTES];
    short.copy_from_slice(&Sha256::digest(key)[..DIGEST_BYTES]);
    short
}

fn check_limit(keys: usize) -> Result<(), Error> {
    if keys > MAX_KEYS {
        return Err(Error::Limit(format!(
            "there are {keys} rows, and at most {MAX_KEYS} can be where the grain does not show what the query is \
             computed by: add the columns of its GROUP BY or PARTITION BY to the grain, or filter or group more coarsely"
        )));
    }
    Ok(())
}

/// Whether two values that differ still do so in a column of a table.
pub(super) fn stays_apart(value: &DataType, column: &DataType) -> bool {
    let is_text = |of: &DataType| matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    value == column || (is_text(value) && is_text(column)) || (value.is_integer() && *column == DataType::Int64)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn rows(rows: &[(&str, i64)]) -> RecordBatch {
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| *key)));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, value)| *value)));
        RecordBatch::try_from_iter([("key", keys), ("value", values)]).unwrap()
    }

    fn change(removed: &[(&str, i64)], added: &[(&str, i64)]) -> RowDelta {
        RowDelta { removed: rows(removed), added: rows(added) }
    }

    fn grain() -> Grain {
        Grain::new(&rows(&[]).schema(), &[0]).unwrap()
    }

    #[test]
    fn a_second_row_of_a_key_is_found_whenever_it_comes() {
        let mut grain = grain();
        grain.follow(&change(&[], &[("a", 1), ("b", 1)]), "p").unwrap();
        grain.follow(&change(&[("a", 1)], &[("a", 2)]), "p").unwrap();
        grain.follow(&change(&[("b", 1)], &[]), "p").unwrap();
        grain.follow(&change(&[], &[("b", 3)]), "p").unwrap();
        let said = grain.follow(&change(&[], &[("a", 3)]), "p").unwrap_err();
        assert!(matches!(&said, Error::Grain(name) if name == "p"), "{said}");
    }

    #[test]
    fn keys_are_put_back_from_everything_and_what_changed_since_with_the_state_before_them() {
        let (mut grain, state) = (grain(), rows(&[("s", 7)]));
        grain.follow(&change(&[], &[("a", 1), ("b", 1), ("c", 1)]), "p").unwrap();
        let mut saved = vec![grain.save(Some(&state), true).unwrap()];
        grain.follow(&change(&[("a", 1), ("b", 1)], &[("b", 2), ("d", 1)]), "p").unwrap();
        saved.push(grain.save(Some(&state), false).unwrap());
        assert_eq!(saved[1].num_rows(), 1 + 2, "the state, one that went and one that came");
        for saved in [saved, vec![grain.save(Some(&state), true).unwrap()]] {
            let mut again = self::grain();
            let states = again.load(&saved).unwrap();
            assert!(states.iter().all(|again| again.columns() == state.columns()), "{states:?}");
            assert_eq!(again.there, grain.there);
            assert!(again.follow(&change(&[], &[("b", 3)]), "p").is_err());
        }
    }

    #[test]
    fn keys_are_saved_where_there_is_no_state() {
        let mut grain = grain();
        grain.follow(&change(&[], &[("a", 1)]), "p").unwrap();
        let saved = grain.save(None, true).unwrap();
        let mut again = self::grain();
        assert_eq!(again.load(&[saved]).unwrap()[0].num_columns(), 0);
        assert_eq!(again.there, grain.there);
        let nothing = again.save(None, false).unwrap();
        assert_eq!(nothing.num_rows(), 0);
    }

    #[test]
    fn too_many_rows_stop_the_pipeline_and_it_says_what_to_do() {
        assert!(check_limit(MAX_KEYS).is_ok());
        let said = check_limit(MAX_KEYS + 1).unwrap_err().to_string();
        assert!(said.contains("20000001 rows") && said.contains("add the columns of its GROUP BY"), "{said}");
    }
}

//! Emit on close: the rows of a window are held until the log is complete up to its end, and then released, once.
//!
//! The gate stands behind a pipeline of any class and lets rows through in the epoch in which their window closes, with
//! all that this epoch brought. What was released never changes again: a change that comes later is counted, one for
//! each row and epoch, and goes no further than [`Gate::take_late`]. When a window ends is what the row's column
//! `window_end` says, which is part of the key, so that a row never moves from one window into another.

use std::collections::BTreeMap;

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::{DataType, SchemaRef, TimestampMicrosecondType},
    row::{RowConverter, SortField},
};

use super::{
    Error,
    epoch::{Completeness, EpochEnd},
    file::{FileError, PipelineFile},
    late::{LateChange, texts},
    pipeline::RowDelta,
};
use crate::tables::timestamptz;

/// The column that says when a row's window closes.
const WINDOW_END: &str = "window_end";

/// The most rows of open windows that a pipeline may hold: some hundred megabytes, and written with every checkpoint
/// that changes them.
const MAX_HELD_ROWS: usize = 1_000_000;

/// The most late changes of a pipeline that are kept as rows: a query whose closed windows change without end says
/// nothing new by then. More are counted alone.
const MAX_LATE_CHANGES: u64 = 1_000_000;

/// Where a saved state says how many changes came too late.
const LATE: &str = "late";

type Bytes = Box<[u8]>;

/// A window of an account and mode.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Window {
    account: String,
    livemode: bool,
    end: i64,
}

impl Window {
    fn has_closed(&self, complete: &Completeness) -> bool {
        complete.has_passed(&self.account, self.livemode, self.end)
    }
}

/// What became of a row whose window had closed: its window, and the row before and after.
struct Late(Window, Option<Bytes>, Option<Bytes>);

pub(super) struct Gate {
    schema: SchemaRef,
    key: Vec<usize>,
    keys: RowConverter,
    whole: RowConverter,
    /// The rows of open windows by their keys.
    held: BTreeMap<Window, BTreeMap<Bytes, Bytes>>,
    held_rows: usize,
    closed: Completeness,
    late: u64,
    /// What came too late in the last epoch.
    late_changes: Vec<LateChange>,
}

impl Gate {
    /// For a pipeline's rows, of which none is there yet.
    pub(super) fn new(file: &PipelineFile, schema: &SchemaRef, key: &[usize]) -> Result<Self, Box<FileError>> {
        let end = key.iter().find(|i| schema.field(**i).name() == WINDOW_END);
        if end.is_none_or(|end| *schema.field(*end).data_type() != timestamptz()) {
            return Err(file.error(
                "its rows do not say when their window closes".to_owned(),
                "emit:",
                "so it cannot emit on close",
                Some(
                    "select window_end, the instant at which a row's window ends, and put it into the grain; FROM \
                     TUMBLE(table, time_column, INTERVAL '1' MONTH, $zone) has it",
                ),
            ));
        }
        let typed = |name: &str, of: DataType| schema.field_with_name(name).is_ok_and(|field| *field.data_type() == of);
        if !typed("account", DataType::Utf8) || !typed("livemode", DataType::Boolean) {
            let message = "account is not a text, or livemode not a boolean".to_owned();
            return Err(file.error(message, "SELECT", "in this query", Some("carry both through as they are")));
        }
        let fields = |columns: &mut dyn Iterator<Item = usize>| {
            RowConverter::new(columns.map(|i| SortField::new(schema.field(i).data_type().clone())).collect())
        };
        let converters = fields(&mut key.iter().copied())
            .and_then(|keys| Ok((keys, fields(&mut (0..schema.fields().len()))?)))
            .map_err(|error| file.error(error.to_string(), "SELECT", "in this query", None));
        let (keys, whole) = converters?;
        Ok(Self {
            schema: SchemaRef::clone(schema),
            key: key.to_vec(),
            keys,
            whole,
            held: BTreeMap::new(),
            held_rows: 0,
            closed: Completeness::default(),
            late: 0,
            late_changes: Vec::new(),
        })
    }

    /// Whether time has gone on since rows last passed.
    pub(super) fn is_behind(&self, complete: &Completeness) -> bool {
        self.closed != *complete
    }

    /// The rows that are released by the end of an epoch which changed the answer so.
    pub(super) fn pass(&mut self, change: &RowDelta, end: &EpochEnd) -> Result<RowDelta, Error> {
        let broken = |what: &str| Error::Internal(format!("a change {what} at the gate of a window"));
        let mut late: BTreeMap<Bytes, Late> = BTreeMap::new();
        for (window, key, row) in self.rows_of(&change.removed)? {
            if window.has_closed(&self.closed) {
                late.insert(key, Late(window, Some(row), None));
                continue;
            }
            let rows = self.held.get_mut(&window).ok_or_else(|| broken("takes back a row of no window"))?;
            rows.remove(&key).ok_or_else(|| broken("takes back a row that is not there"))?;
            self.held_rows -= 1;
            if rows.is_empty() {
                self.held.remove(&window);
            }
        }
        for (window, key, row) in self.rows_of(&change.added)? {
            if window.has_closed(&self.closed) {
                late.entry(key).or_insert(Late(window, None, None)).2 = Some(row);
                continue;
            }
            if self.held.entry(window).or_default().insert(key, row).is_some() {
                return Err(broken("adds a row whose key is taken"));
            }
            self.held_rows += 1;
        }
        self.note_late(late)?;
        self.closed.clone_from(&end.complete);
        let closing: Vec<Window> = self.held.keys().filter(|window| window.has_closed(&self.closed)).cloned().collect();
        let mut released: Vec<Bytes> = Vec::new();
        for window in closing {
            released.extend(self.held.remove(&window).into_iter().flat_map(BTreeMap::into_values));
        }
        self.held_rows -= released.len();
        self.check_limit()?;
        let removed = RecordBatch::new_empty(SchemaRef::clone(&self.schema));
        Ok(RowDelta { removed, added: self.batch(released.iter(), &self.schema)? })
    }

    /// Counts what came too late, by what has closed so far.
    fn note_late(&mut self, late: BTreeMap<Bytes, Late>) -> Result<(), Error> {
        self.late_changes.clear();
        if late.is_empty() {
            return Ok(());
        }
        let (first, count) = (self.late + 1, late.len() as u64);
        self.late += count;
        let kept = usize::try_from((MAX_LATE_CHANGES + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let late: Vec<(Bytes, Late)> = late.into_iter().take(kept).collect();
        let parser = self.keys.parser();
        let keys = self.keys.convert_rows(late.iter().map(|(key, _)| parser.parse(key)))?;
        let keys = texts(&RecordBatch::try_new(SchemaRef::new(self.schema.project(&self.key)?), keys)?)?;
        let rows = |of: fn(&Late) -> Option<&Bytes>| -> Result<_, Error> {
            let rows = late.iter().filter_map(|(_, late)| of(late));
            Ok(texts(&self.batch(rows, &self.schema)?)?.into_iter())
        };
        let (mut before, mut after) = (rows(|late| late.1.as_ref())?, rows(|late| late.2.as_ref())?);
        let numbered = (first..).zip(late.iter().zip(keys));
        self.late_changes = numbered
            .map(|(number, ((_, Late(window, was, is)), key))| LateChange {
                number,
                account: window.account.clone(),
                livemode: window.livemode,
                window_end: window.end,
                complete_until: self.closed.until(&window.account, window.livemode).unwrap_or(window.end),
                key,
                before: was.as_ref().and_then(|_| before.next()),
                after: is.as_ref().and_then(|_| after.next()),
            })
            .collect();
        Ok(())
    }

    /// What came too late in the last epoch, if nobody has taken it.
    pub(super) fn take_late(&mut self) -> Vec<LateChange> {
        std::mem::take(&mut self.late_changes)
    }

    fn check_limit(&self) -> Result<(), Error> {
        if self.held_rows > MAX_HELD_ROWS {
            return Err(Error::Limit(format!(
                "{} rows wait for their windows to close, and at most {MAX_HELD_ROWS} can: use shorter windows, group by \
                 fewer columns, or emit on update",
                self.held_rows
            )));
        }
        Ok(())
    }

    /// The window, the key and the whole of every row.
    fn rows_of(&self, batch: &RecordBatch) -> Result<Vec<(Window, Bytes, Bytes)>, Error> {
        let keys: Vec<ArrayRef> = self.key.iter().map(|i| ArrayRef::clone(batch.column(*i))).collect();
        let (keys, rows) = (self.keys.convert_columns(&keys)?, self.whole.convert_columns(batch.columns())?);
        let windows = windows_of(batch)?;
        let pairs = keys.iter().zip(rows.iter()).map(|(key, row)| (key.data().into(), row.data().into()));
        Ok(windows.into_iter().zip(pairs).map(|(window, (key, row))| (window, key, row)).collect())
    }

    fn batch<'a>(&self, rows: impl Iterator<Item = &'a Bytes>, schema: &SchemaRef) -> Result<RecordBatch, Error> {
        let parser = self.whole.parser();
        let columns = self.whole.convert_rows(rows.map(|row| parser.parse(row)))?;
        Ok(RecordBatch::try_new(SchemaRef::clone(schema), columns)?)
    }

    /// The rows that are held, with the count of late changes in the schema's metadata.
    pub(super) fn save(&self) -> Result<RecordBatch, Error> {
        let metadata = [(LATE.to_owned(), self.late.to_string())].into();
        let schema = SchemaRef::new(self.schema.as_ref().clone().with_metadata(metadata));
        self.batch(self.held.values().flat_map(BTreeMap::values), &schema)
    }

    /// Puts back what [`Self::save`] gave, if anything, at the end of the epoch that it was saved after.
    pub(super) fn load(&mut self, saved: Option<&RecordBatch>, end: &EpochEnd) -> Result<(), Error> {
        self.closed.clone_from(&end.complete);
        let Some(saved) = saved else { return Ok(()) };
        let broken = || Error::Internal("the rows that were held do not fit their pipeline".to_owned());
        let late = saved.schema().metadata().get(LATE).and_then(|late| late.parse().ok());
        self.late = late.ok_or_else(broken)?;
        let rows = RecordBatch::try_new(SchemaRef::clone(&self.schema), saved.columns().to_vec());
        for (window, key, row) in self.rows_of(&rows.map_err(|_| broken())?)? {
            self.held.entry(window).or_default().insert(key, row);
            self.held_rows += 1;
        }
        Ok(())
    }

    /// Rows that wait for their windows to close.
    pub(super) fn held_rows(&self) -> usize {
        self.held_rows
    }

    /// Changes of rows that had been released, since the pipeline was built.
    pub(super) fn late_changes(&self) -> u64 {
        self.late
    }
}

/// The window of every row.
fn windows_of(batch: &RecordBatch) -> Result<Vec<Window>, Error> {
    let column = |name: &str| {
        batch.column_by_name(name).ok_or_else(|| Error::Internal(format!("a row of a window has no {name}")))
    };
    let (accounts, modes, ends) = (column("account")?, column("livemode")?, column(WINDOW_END)?);
    let (accounts, modes) = (accounts.as_string::<i32>(), modes.as_boolean());
    let ends = ends.as_primitive::<TimestampMicrosecondType>();
    let window = |row: usize| Window {
        account: accounts.value(row).to_owned(),
        livemode: modes.value(row),
        end: ends.value(row),
    };
    Ok((0..batch.num_rows()).map(window).collect())
}

/// Of the rows of a query that emits on close, those whose windows have closed, and had not at an earlier time.
///
/// # Errors
/// When the rows are of another query: a bug.
pub fn closed_between(rows: &RecordBatch, before: &Completeness, now: &Completeness) -> Result<RecordBatch, Error> {
    let windows = windows_of(rows)?;
    let closed: BooleanArray =
        windows.iter().map(|window| Some(window.has_closed(now) && !window.has_closed(before))).collect();
    Ok(filter_record_batch(rows, &closed)?)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use arrow::{
        array::{StringArray, TimestampMicrosecondArray},
        datatypes::{Field, Schema},
    };

    use super::*;

    /// A gate for rows of account, mode and window alone.
    fn gate() -> (Gate, PipelineFile, SchemaRef) {
        let text = "/*---\nname: x\ndescription: d\nowner: o\nmode: append\nemit: on_close\n\
            grain: [account, livemode, window_end]\ntime_column: window_end\ncolumns: {}\n---*/\nSELECT 1";
        let file = PipelineFile::parse(Path::new("x.sql"), text.to_owned()).unwrap();
        let fields = [("account", DataType::Utf8), ("livemode", DataType::Boolean), (WINDOW_END, timestamptz())];
        let fields: Vec<Field> = fields.into_iter().map(|(name, of)| Field::new(name, of, false)).collect();
        let schema = SchemaRef::new(Schema::new(fields));
        (Gate::new(&file, &schema, &[0, 1, 2]).unwrap(), file, schema)
    }

    #[test]
    fn past_the_limit_late_changes_are_counted_and_not_kept() {
        let (mut gate, _, schema) = gate();
        let window = |end: i64| {
            let columns: [ArrayRef; 3] = [
                Arc::new(StringArray::from(vec!["a"])),
                Arc::new(BooleanArray::from(vec![true])),
                Arc::new(TimestampMicrosecondArray::from(vec![end]).with_timezone("UTC")),
            ];
            RecordBatch::try_new(SchemaRef::clone(&schema), columns.to_vec()).unwrap()
        };
        let mut end = EpochEnd::default();
        end.complete.advance("a", true, 10);
        gate.pass(&RowDelta::none(&schema), &end).unwrap();
        gate.late = MAX_LATE_CHANGES - 1;
        let added = RowDelta { added: window(10), ..RowDelta::none(&schema) };
        assert!(gate.pass(&added, &end).unwrap().is_empty());
        let row = "{\"account\":\"a\",\"livemode\":true,\"window_end\":\"1970-01-01T00:00:00.000010Z\"}".to_owned();
        let (number, key, before, after) = (MAX_LATE_CHANGES, row.clone(), None, Some(row));
        let (account, livemode, window_end, complete_until) = ("a".to_owned(), true, 10, 10);
        let told = LateChange { number, account, livemode, window_end, complete_until, key, before, after };
        assert_eq!(gate.take_late(), [told]);
        let removed = RowDelta { removed: window(10), ..RowDelta::none(&schema) };
        gate.pass(&removed, &end).unwrap();
        assert_eq!((gate.take_late(), gate.late_changes()), (Vec::new(), MAX_LATE_CHANGES + 1));
    }

    #[test]
    fn too_many_rows_of_open_windows_stop_the_pipeline_and_it_says_what_to_do() {
        let (mut gate, file, schema) = gate();
        gate.held_rows = MAX_HELD_ROWS;
        assert!(gate.pass(&RowDelta::none(&schema), &EpochEnd::default()).unwrap().is_empty());
        gate.held_rows += 1;
        let said = gate.pass(&RowDelta::none(&schema), &EpochEnd::default()).unwrap_err().to_string();
        assert!(said.contains("1000001 rows wait") && said.contains("emit on update"), "{said}");
        assert!(Gate::new(&file, &schema, &[0, 1]).is_err(), "the end of the window is not in the key");
    }
}

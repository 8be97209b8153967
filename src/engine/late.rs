//! What came too late for pipelines that emit on close, kept as rows of `late_changes`.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

use super::{Engine, Error};
use crate::{stream::LateChange, tables, time::EventTime};

/// The table. No pipeline reads it: what it holds has no more influence on anything.
pub(super) const LATE_CHANGES: &str = "late_changes";

impl Engine {
    /// Keeps late changes, each with the pipeline whose window it came for; the next checkpoint makes them durable with
    /// what they were counted in.
    pub(super) async fn keep_late(&mut self, late: &[(String, LateChange)]) -> Result<(), Error> {
        if late.is_empty() {
            return Ok(());
        }
        self.store.append(LATE_CHANGES, rows(late, self.newest_append)?).await
    }
}

fn rows(late: &[(String, LateChange)], known_at: EventTime) -> Result<RecordBatch, Error> {
    let changes = || late.iter().map(|(_, change)| change);
    let instants = |of: fn(&LateChange) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(changes().map(of)).with_timezone("UTC"))
    };
    let rows =
        |of: fn(&LateChange) -> Option<&String>| -> ArrayRef { Arc::new(changes().map(of).collect::<StringArray>()) };
    let numbers = changes().map(|change| i64::try_from(change.number).unwrap_or(i64::MAX));
    let known_at = TimestampMicrosecondArray::from_iter_values(late.iter().map(|_| known_at.micros()));
    let columns: Vec<ArrayRef> = vec![
        rows(|change| Some(&change.account)),
        Arc::new(changes().map(|change| Some(change.livemode)).collect::<BooleanArray>()),
        Arc::new(late.iter().map(|(pipeline, _)| Some(pipeline)).collect::<StringArray>()),
        Arc::new(Int64Array::from_iter_values(numbers)),
        instants(|change| change.window_end),
        instants(|change| change.complete_until),
        Arc::new(known_at.with_timezone("UTC")),
        rows(|change| Some(&change.key)),
        rows(|change| change.before.as_ref()),
        rows(|change| change.after.as_ref()),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&tables::get(LATE_CHANGES)?.schema), columns)?)
}

//! Changes that came after their windows had closed, as people can read them: what a pipeline that emits on close would
//! say now, and does not say any more.

use arrow::array::RecordBatch;

use super::Error;
use crate::tables;

/// What an epoch changed in one row whose window had closed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LateChange {
    /// Counts those of the pipeline since it was built, from 1.
    pub number: u64,
    /// The account.
    pub account: String,
    /// Live data, or test data.
    pub livemode: bool,
    /// When the window ended, in microseconds since 1970.
    pub window_end: i64,
    /// Up to when the log of this account and mode was taken as complete before the change came.
    pub complete_until: i64,
    /// The columns of the row's key, as JSON.
    pub key: String,
    /// The row as the query said it before the epoch, as JSON; none where there was no such row.
    pub before: Option<String>,
    /// The row as the query says it after the epoch; none where it is gone.
    pub after: Option<String>,
}

/// Every row as JSON.
pub(super) fn texts(rows: &RecordBatch) -> Result<Vec<String>, Error> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    Ok(tables::json_lines(rows)?.lines().map(str::to_owned).collect())
}

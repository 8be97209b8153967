//! Records of the log to events, on all cores.

use std::{num::NonZero, thread};

use super::Error;
use crate::{
    log::Record,
    stripe::{
        admission::{LogRecord, read_record},
        counts::UnknownCounts,
        ids::AccountId,
        types::{Event, Scope},
    },
    tables::rows::RejectedEvent,
};

/// Fewer records than this are not worth a second thread: handing over takes longer than reading.
const MIN_RECORDS_A_THREAD: usize = 64;

/// How far ahead of its append an event may be dated: clocks differ by minutes. Test clocks run years ahead. Beyond it
/// the event is rejected, because every table of days would be stretched to it.
const MAX_DAYS_AHEAD_LIVE: i64 = 1;
const MAX_DAYS_AHEAD_TEST: i64 = 5 * 366;

/// A record that was read.
pub(crate) enum Decoded {
    Event(Box<Event>),
    Rejected(RejectedEvent),
}

/// Reads every record; the results are in the order of the records.
pub(crate) fn decode(
    records: &[Record],
    account: &AccountId,
    unknown: &mut UnknownCounts,
) -> Result<Vec<Decoded>, Error> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let chunk = records.len().div_ceil(threads).max(MIN_RECORDS_A_THREAD);
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = records
            .chunks(chunk)
            .map(|part| {
                scope.spawn(move || {
                    let mut unknown = UnknownCounts::default();
                    let decoded: Vec<_> = part.iter().map(|record| read(record, account, &mut unknown)).collect();
                    (decoded, unknown)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Result<Vec<_>, _>>()
    })
    .map_err(|_| Error::Internal("a decoding thread panicked".to_owned()))?;
    let mut decoded = Vec::with_capacity(records.len());
    for (part, counts) in parts {
        decoded.extend(part);
        unknown.merge(&counts);
    }
    Ok(decoded)
}

fn read(record: &Record, account: &AccountId, unknown: &mut UnknownCounts) -> Decoded {
    match read_record(&record.body, account, unknown) {
        Ok(LogRecord::Event(event)) => {
            let days = if event.scope.livemode { MAX_DAYS_AHEAD_LIVE } else { MAX_DAYS_AHEAD_TEST };
            if event.created <= record.appended_at.plus_days(days) {
                return Decoded::Event(event);
            }
            let (id, kind) = (event.id.to_string(), event.kind.to_string());
            rejected(record, account, "created_in_the_future".to_owned(), Some(id), Some(kind))
        }
        Ok(LogRecord::Rejection { reason, event_id, kind }) => rejected(record, account, reason, event_id, kind),
        Err(error) => rejected(record, account, error.to_string(), None, None),
    }
}

fn rejected(
    record: &Record,
    account: &AccountId,
    reason: String,
    event_id: Option<String>,
    kind: Option<String>,
) -> Decoded {
    Decoded::Rejected(RejectedEvent {
        scope: Scope { account: account.clone(), livemode: true },
        received_at: record.appended_at,
        reason,
        event_id,
        kind,
        partition: record.partition,
        offset: record.offset,
    })
}

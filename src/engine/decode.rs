//! Records of the log to events, on all cores.

use std::{collections::BTreeSet, thread};

use super::Error;
use crate::{
    log::Record,
    stripe::{
        admission::{LogRecord, read_record},
        counts::UnknownCounts,
        ids::{AccountId, EventId},
        types::{Event, Scope},
    },
    tables::rows::RejectedEvent,
    threads,
    time::EventTime,
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

/// Reads every record, but for the events that are to be skipped; the results are in the order of the records.
pub(crate) fn decode(
    records: &[Record],
    account: &AccountId,
    skip: &BTreeSet<EventId>,
    unknown: &mut UnknownCounts,
) -> Result<Vec<Decoded>, Error> {
    let chunk = records.len().div_ceil(threads::count()).max(MIN_RECORDS_A_THREAD);
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = records
            .chunks(chunk)
            .map(|part| {
                scope.spawn(move || {
                    let mut unknown = UnknownCounts::default();
                    let decoded: Vec<_> = part.iter().map(|record| read(record, account, skip, &mut unknown)).collect();
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

fn read(record: &Record, account: &AccountId, skip: &BTreeSet<EventId>, unknown: &mut UnknownCounts) -> Decoded {
    match read_record(&record.body, account, unknown) {
        Ok(LogRecord::Event(event)) => match left_out(&event, record.appended_at, skip) {
            None => Decoded::Event(event),
            Some(reason) => Decoded::Rejected(RejectedEvent {
                scope: event.scope.clone(),
                event_id: Some(event.id.to_string()),
                kind: Some(event.kind.to_string()),
                body: std::str::from_utf8(&record.body).ok().map(str::to_owned),
                ..rejected(record, account, reason.to_owned())
            }),
        },
        Ok(LogRecord::Rejection { reason, event_id, kind }) => {
            Decoded::Rejected(RejectedEvent { event_id, kind, ..rejected(record, account, reason) })
        }
        Err(error) => Decoded::Rejected(rejected(record, account, error.to_string())),
    }
}

/// Why an event that can be read is left out all the same.
fn left_out(event: &Event, appended_at: EventTime, skip: &BTreeSet<EventId>) -> Option<&'static str> {
    let days = if event.scope.livemode { MAX_DAYS_AHEAD_LIVE } else { MAX_DAYS_AHEAD_TEST };
    if skip.contains(&event.id) {
        Some("skipped")
    } else if event.created > appended_at.plus_days(days) {
        Some("created_in_the_future")
    } else {
        None
    }
}

/// A record that is no event: its body was not redacted, so that it stays in the log alone.
fn rejected(record: &Record, account: &AccountId, reason: String) -> RejectedEvent {
    RejectedEvent {
        scope: Scope { account: account.clone(), livemode: true },
        received_at: record.appended_at,
        reason,
        event_id: None,
        kind: None,
        partition: record.partition,
        offset: record.offset,
        body: None,
    }
}

//! What the gateway has done, as counts: nothing of any body is in it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use super::receive::Refusal;
use crate::stripe::{AdmissionCounts, signature};

/// Requests that were not taken, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Refusals {
    /// 400: the header is missing or cannot be read, or has no `v1` signature.
    pub signature_malformed: u64,
    /// 400: no secret made that signature.
    pub signature_mismatch: u64,
    /// 400: signed too long ago, or in the future.
    pub signature_time: u64,
    /// 400: the connection broke within the body.
    pub body_incomplete: u64,
    /// 408: the body did not come in time.
    pub body_slow: u64,
    /// 413: a larger body than configured.
    pub body_too_large: u64,
    /// 503: too many requests at once.
    pub busy: u64,
    /// 503: the log did not take it, or not in time.
    pub log_unavailable: u64,
}

/// What the gateway has done since its start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Status {
    /// Requests to the webhook's path that are done.
    pub received: u64,
    /// Requests answered with 200: the log has a record of each.
    pub appended: u64,
    /// Requests that were not taken.
    pub refused: Refusals,
    /// Signed bodies that could not be read, by reason; they are in the log as rejections.
    pub rejected: BTreeMap<String, u64>,
    /// What redaction dropped, by path.
    pub dropped_paths: BTreeMap<String, u64>,
    /// Drops at paths beyond the number that are kept apart.
    pub dropped_beyond_limit: u64,
}

#[derive(Debug, Default)]
struct Inner {
    appended: u64,
    refused: Refusals,
    received: u64,
    admitted: AdmissionCounts,
}

/// Counts, shared by all requests.
#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<Inner>);

impl Counters {
    /// Counts a request by what came of it.
    pub(super) fn count(&self, outcome: Result<AdmissionCounts, Refusal>) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        inner.received += 1;
        let refused = &mut inner.refused;
        let counter = match outcome {
            Ok(admitted) => {
                inner.admitted.merge(&admitted);
                &mut inner.appended
            }
            Err(Refusal::Signature(error)) => match error {
                signature::Error::Malformed | signature::Error::NoSignature => &mut refused.signature_malformed,
                signature::Error::Mismatch | signature::Error::NoSecret => &mut refused.signature_mismatch,
                signature::Error::TooOld { .. } | signature::Error::TooNew { .. } => &mut refused.signature_time,
            },
            Err(Refusal::BodyIncomplete) => &mut refused.body_incomplete,
            Err(Refusal::BodySlow) => &mut refused.body_slow,
            Err(Refusal::BodyTooLarge) => &mut refused.body_too_large,
            Err(Refusal::Busy) => &mut refused.busy,
            Err(Refusal::LogUnavailable) => &mut refused.log_unavailable,
        };
        *counter += 1;
    }

    pub(super) fn status(&self) -> Status {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            received: inner.received,
            appended: inner.appended,
            refused: inner.refused,
            rejected: owned(inner.admitted.rejected.sorted()),
            dropped_paths: owned(inner.admitted.dropped.sorted()),
            dropped_beyond_limit: inner.admitted.dropped.beyond_limit(),
        }
    }
}

fn owned(counts: Vec<(&str, u64)>) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

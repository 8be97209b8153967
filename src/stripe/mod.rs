//! Everything that knows Stripe's JSON: the event envelope, one reader an object that accepts old and new shapes,
//! redaction, the door into the log, webhook signatures, and our own records, which take the same shape.
//!
//! It promises that one odd, missing or unknown field never loses an event, that amounts are read exactly, and
//! that nothing personal passes [`admission`]. What the events mean for revenue is the ledger's business.

pub mod admission;
pub mod counts;
pub mod envelope;
pub mod ids;
pub mod own;
pub mod read;
pub mod redaction;
pub mod signature;
pub mod types;

pub use admission::{Admission, AdmissionCounts, LogRecord, read_record};
pub use counts::{Counts, DroppedPaths, UnknownCounts};
pub use envelope::Envelope;
pub use read::read_event;
pub use redaction::Redactor;

/// Why a body cannot be used. No variant carries content of the body, so that messages can be logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not JSON, or not UTF-8.
    #[error("the body is not JSON (line {line}, column {column}); send Stripe's request body unchanged")]
    NotJson {
        /// From 1; 0 when the body is not even UTF-8.
        line: usize,
        /// From 1; 0 when the body is not even UTF-8.
        column: usize,
    },
    /// JSON, but not `"object": "event"`.
    #[error(
        "the body is not a Stripe event (`\"object\": \"event\"` is missing); send whole events, not their objects"
    )]
    NotAnEvent,
    /// A `v2.core.event`.
    #[error(
        "thin events carry no object, so there is no state to count; create the event destination with payload style \
         `snapshot`"
    )]
    ThinEvent,
    /// A field without which an event or object is of no use.
    #[error("the {object} has no usable `{field}`; nothing can be counted from it")]
    Missing {
        /// `event`, or the object's name.
        object: &'static str,
        /// The field's path.
        field: &'static str,
    },
    /// An event where an object of the API belongs.
    #[error("this is an event, not an object as Stripe's API gives it; ingest events without --snapshot")]
    AnEvent,
    /// Larger than a record of the log may be.
    #[error("the body has {bytes} bytes, more than the limit of {limit}; it was not stored")]
    TooLarge {
        /// The body's size.
        bytes: usize,
        /// The largest size there may be.
        limit: usize,
    },
    /// The redaction file is wrong.
    #[error("the redaction policy is not usable: {0}")]
    Policy(String),
}

impl Error {
    /// A stable code for `rejected_events.reason` and for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotJson { .. } => "not_json",
            Self::NotAnEvent => "not_an_event",
            Self::ThinEvent => "thin_event",
            Self::AnEvent => "an_event",
            Self::Missing { object: "event", .. } => "event_incomplete",
            Self::Missing { .. } => "object_incomplete",
            Self::TooLarge { .. } => "too_large",
            Self::Policy(_) => "redaction_policy",
        }
    }

    /// From a JSON error: its place, never its message, which may quote the body.
    pub(crate) fn json(error: &serde_json::Error) -> Self {
        if error.is_data() { Self::NotAnEvent } else { Self::NotJson { line: error.line(), column: error.column() } }
    }
}

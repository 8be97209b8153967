//! The door into the log, the same for every way in: check that a body is an event, redact it, key it.
//!
//! Nothing is lost from the counts and nothing personal is stored: a body that cannot be read becomes a rejection
//! record, which says why and carries none of its content. The other side of the log reads both with
//! [`read_record`].

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Error,
    counts::{Counts, DroppedPaths, UnknownCounts},
    envelope::{self, Envelope, Head},
    ids::AccountId,
    read::{lenient::Scalar, read_event},
    redaction::Redactor,
    types::Event,
};
use crate::log::{MAX_RECORD_BYTES, NewRecord};

/// The `object` of a rejection record, and how each begins: no redacted event does.
const REJECTION: &str = "tributary.rejection";
const REJECTION_START: &[u8] = br#"{"object":"tributary.rejection","#;

/// The longest event id or type that a rejection record repeats: Stripe's ids have 255 characters at most.
const MAX_NAME_BYTES: usize = 255;

/// Reasons kept apart: there are as many as [`Error::reason`] knows.
const MAX_REASONS: usize = 16;

/// What passed the door.
#[derive(Clone, Debug, Default)]
pub struct AdmissionCounts {
    /// Events admitted.
    pub events: u64,
    /// Bodies that became rejection records, by reason.
    pub rejected: Counts<MAX_REASONS>,
    /// What redaction dropped, by path.
    pub dropped: DroppedPaths,
    /// Bytes of the bodies.
    pub bytes_in: u64,
    /// Bytes of the records.
    pub bytes_out: u64,
}

impl AdmissionCounts {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.rejected.merge(&other.rejected);
        self.dropped.merge(&other.dropped);
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// The door. Immutable; share it among threads and give each its own counts.
#[derive(Clone, Debug)]
pub struct Admission {
    redactor: Redactor,
    default_account: AccountId,
    key: Key,
}

/// By what events are keyed: those of one key lie in one partition of the log, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// `account|mode|customer`: spreads an account over all partitions.
    #[default]
    Customer,
    /// `account|mode`: keeps an account whole, for other consumers of the topic.
    Account,
}

/// A rejection record.
#[derive(Serialize, Deserialize)]
struct Rejection<'a> {
    object: &'a str,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow)]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    bytes: u64,
    sha256: &'a str,
}

impl Admission {
    /// A door with a redaction policy, and the account of events that name none.
    #[must_use]
    pub fn new(redactor: Redactor, default_account: AccountId) -> Self {
        Self { redactor, default_account, key: Key::default() }
    }

    /// The same door with another key.
    #[must_use]
    pub fn with_key(self, key: Key) -> Self {
        Self { key, ..self }
    }

    /// Makes the record of a body: the redacted event keyed `account|mode|customer`, or a rejection record.
    pub fn admit(&self, body: &[u8], counts: &mut AdmissionCounts) -> NewRecord {
        let record = self.event_record(body, &mut counts.dropped);
        let record = match record {
            Ok(record) => {
                counts.events += 1;
                record
            }
            Err(error) => {
                counts.rejected.count(error.reason());
                self.rejection_record(body, error.reason())
            }
        };
        counts.bytes_in += body.len() as u64;
        counts.bytes_out += record.body.len() as u64;
        record
    }

    fn event_record(&self, body: &[u8], dropped: &mut DroppedPaths) -> Result<NewRecord, Error> {
        if body.len() > MAX_RECORD_BYTES {
            return Err(Error::TooLarge { bytes: body.len(), limit: MAX_RECORD_BYTES });
        }
        let text = envelope::text(body)?;
        let envelope = Envelope::parse_str(text)?;
        let head = Head::parse(envelope.object)?;
        let mut out = Vec::with_capacity(body.len());
        self.redactor.redact_as(text, head.object.text(), &mut out, dropped)?;
        // Odd input can grow: null stands in the place of what is dropped.
        check_size(out.len())?;
        let previous = envelope.previous_attributes.map(Head::parse).transpose()?.unwrap_or_default();
        let account = envelope.account.as_deref().unwrap_or(self.default_account.as_str());
        let mode = if envelope.livemode { "live" } else { "test" };
        let own_id = head.id.text();
        let key = match self.key {
            Key::Account => format!("{account}|{mode}"),
            Key::Customer => {
                let customer = match head.object.text() {
                    Some("customer") => own_id,
                    _ => head.customer.text().or(previous.customer.text()).or(own_id),
                };
                format!("{account}|{mode}|{}", customer.unwrap_or(&envelope.id))
            }
        };
        Ok(NewRecord { key: key.into(), body: out.into() })
    }

    fn rejection_record(&self, body: &[u8], reason: &str) -> NewRecord {
        /// The names of a body that is JSON, if they look like Stripe's.
        #[derive(Deserialize, Default)]
        struct Names<'a> {
            #[serde(borrow, default)]
            id: Scalar<'a>,
            #[serde(borrow, default, rename = "type")]
            kind: Scalar<'a>,
        }
        let names: Names<'_> = serde_json::from_slice(body).unwrap_or_default();
        let sha256 = hex::encode(Sha256::digest(body));
        let rejection = Rejection {
            object: REJECTION,
            reason: reason.into(),
            event_id: names.id.text().filter(|id| id.starts_with("evt_") && is_name(id)).map(Cow::from),
            kind: names.kind.text().filter(|kind| kind.contains('.') && is_name(kind)).map(Cow::from),
            bytes: body.len() as u64,
            sha256: &sha256,
        };
        NewRecord {
            // The hash spreads them over the partitions.
            key: format!("{}|rejected|{}", self.default_account, &sha256[..16]).into(),
            body: serde_json::to_vec(&rejection).map(Bytes::from).unwrap_or_default(),
        }
    }
}

/// The rejection record of a body that is gone, from what was kept of it: reads as the same rejection.
#[must_use]
pub fn rejection_again(reason: &str, event_id: Option<&str>, kind: Option<&str>) -> Bytes {
    let rejection = Rejection {
        object: REJECTION,
        reason: reason.into(),
        event_id: event_id.map(Cow::from),
        kind: kind.map(Cow::from),
        bytes: 0,
        sha256: "",
    };
    serde_json::to_vec(&rejection).map(Bytes::from).unwrap_or_default()
}

fn check_size(bytes: usize) -> Result<(), Error> {
    if bytes > MAX_RECORD_BYTES {
        return Err(Error::TooLarge { bytes, limit: MAX_RECORD_BYTES });
    }
    Ok(())
}

/// Whether `text` is made of what Stripe's ids and types are made of, so that it repeats no other content.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}

/// A record of the log, read.
#[derive(Clone, Debug)]
pub enum LogRecord {
    /// An event.
    Event(Box<Event>),
    /// A body that was refused at the door.
    Rejection {
        /// A stable code, as [`Error::reason`].
        reason: String,
        /// `evt_…`, where the body had one.
        event_id: Option<String>,
        /// The event's type, where the body had one.
        kind: Option<String>,
    },
}

/// Reads a record of the log. `default_account` owns the events that name no account.
///
/// # Errors
/// As [`read_event`]; the record then belongs into `rejected_events` with [`Error::reason`].
pub fn read_record(body: &[u8], default_account: &AccountId, unknown: &mut UnknownCounts) -> Result<LogRecord, Error> {
    if body.starts_with(REJECTION_START) {
        let rejection: Rejection<'_> = serde_json::from_slice(body).map_err(|error| Error::json(&error))?;
        return Ok(LogRecord::Rejection {
            reason: rejection.reason.into_owned(),
            event_id: rejection.event_id.map(Cow::into_owned),
            kind: rejection.kind.map(Cow::into_owned),
        });
    }
    read_event(body, default_account, unknown).map(|event| LogRecord::Event(Box::new(event)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        Admission::new(Redactor::builtin().unwrap(), AccountId::from("own"))
    }

    fn key(data: &str, rest: &str) -> String {
        let body = format!(
            r#"{{"id":"evt_1","object":"event","created":1,"livemode":true,"type":"a.b"{rest},"data":{data}}}"#
        );
        let mut counts = AdmissionCounts::default();
        let record = admission().admit(body.as_bytes(), &mut counts);
        assert_eq!(counts.events, 1);
        String::from_utf8(record.key.to_vec()).unwrap()
    }

    #[test]
    fn records_of_a_customer_share_a_key() {
        assert_eq!(key(r#"{"object":{"object":"customer","id":"cus_1"}}"#, ""), "own|live|cus_1");
        assert_eq!(key(r#"{"object":{"object":"invoice","customer":"cus_1"}}"#, ""), "own|live|cus_1");
        assert_eq!(key(r#"{"object":{"object":"charge","customer":{"id":"cus_1"}}}"#, ""), "own|live|cus_1");
        let detached = r#"{"object":{"object":"payment_method","id":"pm_1","customer":null},
            "previous_attributes":{"customer":"cus_1"}}"#;
        assert_eq!(key(detached, ""), "own|live|cus_1");
        assert_eq!(
            key(r#"{"object":{"object":"price","id":"price_1"}}"#, r#","account":"acct_1""#),
            "acct_1|live|price_1"
        );
        assert_eq!(key(r#"{"object":{"object":"balance"}}"#, ""), "own|live|evt_1");
    }

    #[test]
    fn an_account_can_be_kept_whole() {
        let body = br#"{"id":"evt_1","object":"event","created":1,"livemode":false,"type":"a.b",
            "data":{"object":{"object":"invoice","customer":"cus_1"}}}"#;
        let record = admission().with_key(Key::Account).admit(body, &mut AdmissionCounts::default());
        assert_eq!(record.key, "own|test");
    }

    #[test]
    fn what_cannot_be_read_is_recorded_without_its_content() {
        let mut counts = AdmissionCounts::default();
        let mut reject = |body: &[u8]| {
            let record = admission().admit(body, &mut counts);
            let text = String::from_utf8(record.body.to_vec()).unwrap();
            assert!(!text.contains("jenny"), "{text}");
            match read_record(&record.body, &AccountId::from("own"), &mut UnknownCounts::default()).unwrap() {
                LogRecord::Rejection { reason, event_id, kind } => (reason, event_id, kind),
                LogRecord::Event(_) => panic!("admitted"),
            }
        };
        let names = (Some("evt_1".to_owned()), Some("customer.created".to_owned()));
        let incomplete = br#"{"id":"evt_1","object":"event","type":"customer.created","email":"jenny@example.com"}"#;
        assert_eq!(reject(incomplete), ("event_incomplete".to_owned(), names.0, names.1));
        let none = |reason: &str| (reason.to_owned(), None, None);
        assert_eq!(reject(b"jenny"), none("not_json"));
        assert_eq!(reject(br#"{"id":"jenny","object":"jenny","type":"jenny"}"#), none("not_an_event"));
        assert_eq!(reject(br#"{"id":"evt_jenny@x","object":"v2.core.event"}"#), none("thin_event"));
        assert_eq!(reject(&vec![b' '; MAX_RECORD_BYTES + 1]), none("too_large"));
        assert_eq!((counts.events, counts.rejected.total()), (0, 5));
    }
}

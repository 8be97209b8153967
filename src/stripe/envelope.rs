//! The envelope of an event, read cheaply: its own fields, and where its object lies. The object itself is left
//! unread, borrowed from the body.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Error,
    ids::AccountId,
    read::lenient::{Maybe, Scalar},
    types::Scope,
};
use crate::time::EventTime;

/// The last second of the year 9999: a later `created` is no time, and would stretch every table of days.
const MAX_CREATED_SECONDS: i64 = 253_402_300_799;

/// A snapshot event, by default with its object unread.
#[derive(Clone, Debug)]
pub struct Envelope<'a, O = &'a RawValue> {
    /// `evt_…`
    pub id: Cow<'a, str>,
    /// Stripe's type, such as `invoice.paid`.
    pub kind: Cow<'a, str>,
    /// When Stripe made the event; whole seconds.
    pub created: EventTime,
    /// The connected account; absent on an account's own events.
    pub account: Option<Cow<'a, str>>,
    /// Live data, or test data.
    pub livemode: bool,
    /// The version the object is rendered in; may be absent.
    pub api_version: Option<Cow<'a, str>>,
    /// The object at that moment.
    pub object: O,
    /// What changed, with the values before.
    pub previous_attributes: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(bound = "O: Deserialize<'de>, 'de: 'a")]
struct Raw<'a, O> {
    #[serde(borrow, default)]
    object: Scalar<'a>,
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default, rename = "type")]
    kind: Scalar<'a>,
    #[serde(borrow, default)]
    created: Scalar<'a>,
    #[serde(borrow, default)]
    account: Scalar<'a>,
    #[serde(borrow, default)]
    livemode: Scalar<'a>,
    #[serde(borrow, default)]
    api_version: Scalar<'a>,
    #[serde(borrow, default)]
    data: Maybe<RawData<'a, O>>,
}

#[derive(Deserialize)]
#[serde(bound = "O: Deserialize<'de>, 'de: 'a")]
struct RawData<'a, O> {
    #[serde(default = "none")]
    object: Option<O>,
    #[serde(borrow, default)]
    previous_attributes: Option<&'a RawValue>,
}

/// Text of a body.
///
/// # Errors
/// [`Error::NotJson`] when it is not UTF-8.
pub(super) fn text(body: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(body).map_err(|_| Error::NotJson { line: 0, column: 0 })
}

fn missing(field: &'static str) -> Error {
    Error::Missing { object: "event", field }
}

/// Whether a raw JSON value is an object.
fn is_map(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of `body`.
    ///
    /// # Errors
    /// [`Error::NotJson`], [`Error::NotAnEvent`], [`Error::ThinEvent`], or [`Error::Missing`] for an event without
    /// id, type, creation time, mode or object.
    pub fn parse(body: &'a [u8]) -> Result<Self, Error> {
        Self::parse_str(text(body)?)
    }

    pub(super) fn parse_str(body: &'a str) -> Result<Self, Error> {
        Self::parse_as(body, |object: &RawValue| is_map(object).then_some(object))
    }

    /// Whose event it is; `default_account` for an account's own events, which name none.
    #[must_use]
    pub fn scope(&self, default_account: &AccountId) -> Scope {
        scope(self.account.as_deref(), self.livemode, default_account)
    }
}

impl<'a, O> Envelope<'a, O> {
    /// Reads the envelope and, in the same pass, its object as an `R`, of which `usable` takes what can be used.
    pub(super) fn parse_as<R: Deserialize<'a>>(
        body: &'a str,
        usable: impl FnOnce(R) -> Option<O>,
    ) -> Result<Self, Error> {
        let raw: Raw<'a, R> = serde_json::from_str(body).map_err(|error| Error::json(&error))?;
        match raw.object.text() {
            Some("event") => {}
            Some("v2.core.event") => return Err(Error::ThinEvent),
            _ => return Err(Error::NotAnEvent),
        }
        let data = raw.data.0.ok_or(missing("data"))?;
        Ok(Self {
            id: raw.id.into_text().filter(|id| !id.is_empty()).ok_or(missing("id"))?,
            kind: raw.kind.into_text().filter(|kind| !kind.is_empty()).ok_or(missing("type"))?,
            created: raw
                .created
                .time()
                .filter(|created| (0..=MAX_CREATED_SECONDS).contains(&created.seconds()))
                .ok_or(missing("created"))?,
            account: raw.account.into_text().filter(|account| !account.is_empty()),
            livemode: raw.livemode.bool().ok_or(missing("livemode"))?,
            api_version: raw.api_version.into_text(),
            object: data.object.and_then(usable).ok_or(missing("data.object"))?,
            previous_attributes: data.previous_attributes.filter(|previous| is_map(previous)),
        })
    }
}

/// Whose an event is.
pub(super) fn scope(account: Option<&str>, livemode: bool, default_account: &AccountId) -> Scope {
    Scope { account: account.map_or_else(|| default_account.clone(), AccountId::from), livemode }
}

fn none<O>() -> Option<O> {
    None
}

/// The few fields that tell what an object is and whose.
#[derive(Deserialize, Default)]
pub(super) struct Head<'a> {
    #[serde(borrow, default)]
    pub object: Scalar<'a>,
    #[serde(borrow, default)]
    pub id: Scalar<'a>,
    #[serde(borrow, default)]
    pub customer: Scalar<'a>,
}

impl<'a> Head<'a> {
    /// Reads the head of an object.
    ///
    /// # Errors
    /// [`Error::NotAnEvent`] when the object has a field twice.
    pub(super) fn parse(object: &'a RawValue) -> Result<Self, Error> {
        serde_json::from_str(object.get()).map_err(|error| Error::json(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"id":"evt_1","object":"event","api_version":null,"created":1,"livemode":false,
        "type":"a.b","data":{"object":{"id":"x"}}}"#;

    #[test]
    fn an_event_of_the_own_account_belongs_to_the_default_one() {
        let envelope = Envelope::parse(EVENT.as_bytes()).unwrap();
        assert_eq!((&*envelope.id, &*envelope.kind, envelope.created.seconds()), ("evt_1", "a.b", 1));
        assert_eq!(envelope.object.get(), r#"{"id":"x"}"#);
        assert_eq!(envelope.scope(&AccountId::from("own")).account.as_str(), "own");
    }

    #[test]
    fn what_is_not_a_snapshot_event_is_refused_with_its_reason() {
        let reason = |body: &[u8]| Envelope::parse(body).unwrap_err().reason();
        assert_eq!(reason(b"{\"object\":\"ev"), "not_json");
        assert_eq!(reason(b"\xff"), "not_json");
        assert_eq!(reason(b"[1]"), "not_an_event");
        assert_eq!(reason(br#"{"id":"sub_1","object":"subscription"}"#), "not_an_event");
        assert_eq!(
            reason(br#"{"id":"evt_1","object":"v2.core.event","created":"2026-01-01T00:00:00Z"}"#),
            "thin_event"
        );
        for field in ["id", "created", "livemode", "type", "data"] {
            let mut event: serde_json::Value = serde_json::from_str(EVENT).unwrap();
            event.as_object_mut().unwrap().remove(field);
            assert_eq!(reason(event.to_string().as_bytes()), "event_incomplete", "{field}");
        }
        assert_eq!(reason(EVENT.replace(r#"{"id":"x"}"#, "7").as_bytes()), "event_incomplete");
    }
}

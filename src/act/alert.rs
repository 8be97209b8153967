//! An alert: its stable id and the message that is sent.
//!
//! The id is a hash of what the alert says, so the same alert decided again has the same id. The message is the
//! payload of Standard Webhooks 1.0.0 (`type`, `timestamp`, `data`); it carries ids, amounts as decimal texts,
//! codes and times, and nothing personal.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{Error, ExpansionRow, rules};
use crate::{stripe::ids::AccountId, time::EventTime};

/// The largest message: Standard Webhooks asks for less than 20 KB.
pub const MAX_PAYLOAD_BYTES: usize = 20_000;

/// What an alert says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// A customer's MRR expanded.
    #[serde(rename = "mrr.expansion")]
    Expansion,
    /// An expansion that was alerted is another one now, or none.
    #[serde(rename = "mrr.expansion.corrected")]
    Corrected,
}

impl Kind {
    /// The message's `type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expansion => "mrr.expansion",
            Self::Corrected => "mrr.expansion.corrected",
        }
    }
}

/// What a chain of statements is about: one movement under one rule.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Subject {
    /// The rule's name.
    pub rule: String,
    /// Whose movement.
    pub account: AccountId,
    /// Live data, or test data.
    pub livemode: bool,
    /// Which movement.
    pub movement_id: Arc<str>,
}

impl Subject {
    /// The subject of `row` under the rule of that name.
    #[must_use]
    pub fn new(rule: &str, row: &ExpansionRow) -> Self {
        Self {
            rule: rule.to_owned(),
            account: row.account.clone(),
            livemode: row.livemode,
            movement_id: row.movement_id.clone(),
        }
    }
}

/// What a correction refers to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reference {
    /// The id of the first alert on the movement.
    pub first: String,
    /// The id of the latest one, which this one replaces.
    pub replaces: String,
}

/// A message to be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Alert {
    /// Stable, also across replays: receivers drop duplicates by it.
    pub id: String,
    /// What it says.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What it is about.
    pub subject: Subject,
    /// When the movement occurred.
    pub occurred_at: EventTime,
    /// The movement's revision that made it so.
    pub revision: i64,
    /// The row as the alert states it; `None` says that there is no such expansion any more.
    pub row: Option<ExpansionRow>,
    /// For corrections.
    pub reference: Option<Reference>,
    /// The body that is signed and sent.
    pub payload: Box<RawValue>,
}

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    rule: &'a str,
    account: &'a AccountId,
    livemode: bool,
    movement_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    corrects: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<&'a str>,
    occurred_at: String,
    /// `null` in a correction: the expansion is gone.
    expansion: Option<Expansion<'a>>,
}

#[derive(Serialize)]
struct Expansion<'a> {
    revision: i64,
    customer_id: &'a str,
    currency: &'a str,
    mrr_before: String,
    mrr_after: String,
    mrr_delta: String,
    pct_change: Option<&'a str>,
    cause: &'a str,
}

impl Alert {
    /// Says that `row` is there.
    ///
    /// # Errors
    /// [`Error::Internal`] when the message would be too large.
    pub fn expansion(subject: Subject, row: ExpansionRow) -> Result<Self, Error> {
        let timestamp = row.occurred_at;
        Self::write(Kind::Expansion, subject, row, true, timestamp, None)
    }

    /// Says at `now` that instead of what the `reference` said there is `row`, or, unless it `exists`, nothing:
    /// then `row` is the last there was.
    ///
    /// # Errors
    /// [`Error::Internal`] when the message would be too large.
    pub fn correction(
        subject: Subject,
        row: ExpansionRow,
        exists: bool,
        now: EventTime,
        reference: Reference,
    ) -> Result<Self, Error> {
        Self::write(Kind::Corrected, subject, row, exists, now, Some(reference))
    }

    fn write(
        kind: Kind,
        subject: Subject,
        row: ExpansionRow,
        exists: bool,
        timestamp: EventTime,
        reference: Option<Reference>,
    ) -> Result<Self, Error> {
        let (occurred_at, revision) = (row.occurred_at, rules::revision(&row, exists));
        let row = exists.then_some(row);
        let id = id(kind, &subject, row.as_ref(), reference.as_ref());
        let message = Message {
            r#type: kind.as_str(),
            timestamp: timestamp.to_string(),
            data: Data {
                rule: &subject.rule,
                account: &subject.account,
                livemode: subject.livemode,
                movement_id: &subject.movement_id,
                corrects: reference.as_ref().map(|r| r.first.as_str()),
                replaces: reference.as_ref().map(|r| r.replaces.as_str()),
                occurred_at: occurred_at.to_string(),
                expansion: row.as_ref().map(|row| Expansion {
                    revision: row.revision,
                    customer_id: row.customer_id.as_str(),
                    currency: row.currency.as_str(),
                    mrr_before: row.mrr_before.to_string(),
                    mrr_after: row.mrr_after.to_string(),
                    mrr_delta: row.mrr_delta.to_string(),
                    pct_change: row.pct_change.as_deref(),
                    cause: &row.cause,
                }),
            },
        };
        let payload = serde_json::value::to_raw_value(&message).map_err(|error| Error::Internal(error.to_string()))?;
        if payload.get().len() >= MAX_PAYLOAD_BYTES {
            let bytes = payload.get().len();
            return Err(Error::Internal(format!("its message of {bytes} bytes is not below {MAX_PAYLOAD_BYTES}")));
        }
        Ok(Self { id, kind, subject, occurred_at, revision, row, reference, payload })
    }
}

/// Everything the alert states goes in, each part with its length, so that no two lists of parts look alike. The
/// statement a correction replaces goes in too: A, then B, then A again are three alerts.
fn id(kind: Kind, subject: &Subject, row: Option<&ExpansionRow>, reference: Option<&Reference>) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add(kind.as_str());
    add(&subject.rule);
    add(subject.account.as_str());
    add(if subject.livemode { "live" } else { "test" });
    add(&subject.movement_id);
    add(reference.map_or("", |r| &r.replaces));
    if let Some(row) = row {
        add(row.currency.as_str());
        add(&row.mrr_before.to_string());
        add(&row.mrr_after.to_string());
        add(&row.mrr_delta.to_string());
    }
    format!("alert_{}", hex::encode(&hash.finalize()[..16]))
}

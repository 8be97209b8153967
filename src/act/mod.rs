//! What Tributary does about a row: alerts, sent to webhooks at least once under a stable id.
//!
//! [`rules`] decides whether a changed row of `expansion_events` is worth an alert or a correction, [`alert`] writes
//! the message, [`outbox`] makes it durable before anything is sent, [`webhook`] signs and posts it as Standard
//! Webhooks 1.0.0 says, [`target`] keeps it from reaching private networks, and [`dispatcher`] drives them.
//! What the rows mean is decided before they come here; nothing here computes revenue.

pub mod alert;
pub mod dispatcher;
pub mod outbox;
pub mod rules;
pub mod target;
pub mod webhook;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use dispatcher::{Counts, Handle, Offered, Options, start};

use crate::{
    ledger::rows,
    money::{Amount, Currency},
    stream::checkpoint,
    stripe::ids::{AccountId, CustomerId},
    time::EventTime,
};

/// Gives numbers in `0.0..1.0` that spread retries out; passed in like the clock.
pub type Jitter = Arc<dyn Fn() -> f64 + Send + Sync>;

/// A changed row of `expansion_events`.
pub type Change = rows::Change<ExpansionRow>;

/// What can go wrong with alerts, by what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fix the rule in the configuration.
    #[error("alert rule `{name}`: {problem}")]
    Rule {
        /// The rule.
        name: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Fix the webhook in the configuration. Never names the URL or the secret.
    #[error("webhook `{name}`: {problem}")]
    Webhook {
        /// The webhook.
        name: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Free some space, fix the permissions or the network, then try again.
    #[error("the outbox cannot {action} {name}: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// With which file.
        name: String,
        /// Why not.
        source: object_store::Error,
    },
    /// A file of the outbox is damaged.
    #[error("{name} is not a file of the outbox: {problem}; move it away to go on (its alert may be sent again)")]
    Damaged {
        /// Which file.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Another engine has taken over: see [`checkpoint::Error::Superseded`].
    #[error(transparent)]
    Ownership(#[from] checkpoint::Error),
    /// It is our bug.
    #[error("an alert could not be written: {0}")]
    Internal(String),
}

/// One row of `expansion_events`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExpansionRow {
    /// Whose customer it is.
    pub account: AccountId,
    /// Live data, or test data.
    pub livemode: bool,
    /// The row's key within account and mode.
    pub movement_id: Arc<str>,
    /// 1 at first, one more each time the movement changes.
    pub revision: i64,
    /// When the customer's MRR changed.
    pub occurred_at: EventTime,
    /// Stripe's id of the customer.
    pub customer_id: CustomerId,
    /// The currency of the amounts.
    pub currency: Currency,
    /// Major units a month, before.
    #[serde(with = "decimal")]
    pub mrr_before: Amount,
    /// Major units a month, after.
    #[serde(with = "decimal")]
    pub mrr_after: Amount,
    /// The difference.
    #[serde(with = "decimal")]
    pub mrr_delta: Amount,
    /// The difference in percent of `mrr_before`, as a decimal text.
    pub pct_change: Option<String>,
    /// The movement's leading cause.
    pub cause: String,
}

/// Amounts as decimal texts: what people read, and what no JSON reader turns into a float.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::money::{Amount, parse_decimal};

    pub(super) fn serialize<S: Serializer>(amount: &Amount, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(amount)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_decimal(&text).and_then(|value| Amount::round(&value)).map_err(de::Error::custom)
    }
}

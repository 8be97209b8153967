//! How a number came to be: a customer's life in the order in which it happened, and a movement back to its events.
//!
//! Pure functions of the ledger's rows. [`arithmetic`] shows how an item's worth is worked out, [`story`] puts the rows
//! of a customer in order, [`origin`] goes from a movement to its events, [`text`] writes both for people. Nothing is
//! worked out a second time: what an item is worth comes from the ledger's own valuation, by [`crate::ledger::review`].

pub mod arithmetic;
pub mod origin;
pub mod story;
pub mod text;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    ledger::{
        Rules,
        rows::{ItemState, LedgerEntry, Movement},
    },
    stripe::types::Scope,
    time::EventTime,
};

/// Everything that was written of one customer.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whose customer it is.
    pub scope: Scope,
    /// Stripe's id.
    pub customer_id: String,
    /// The rules the ledger was asked for under.
    pub rules: Rules,
    /// Item states, in any order.
    pub states: Vec<ItemState>,
    /// Entries, reversed ones and reversals among them.
    pub entries: Vec<LedgerEntry>,
    /// Current movements.
    pub movements: Vec<Movement>,
    /// Events about the customer.
    pub events: Vec<Event>,
    /// What could not be counted.
    pub gaps: Vec<Gap>,
    /// How prices that are more than an amount a unit are worked out, by price.
    pub pricing: BTreeMap<String, String>,
}

/// An event of the archive.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Event {
    /// When Stripe made it.
    #[serde(serialize_with = "time")]
    pub created: EventTime,
    /// Stripe's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `evt_…`
    pub event_id: String,
    /// When the log took it in.
    #[serde(serialize_with = "time")]
    pub received_at: EventTime,
    /// It came too late to be applied.
    pub too_late: bool,
}

/// A row of `ledger_gaps`.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Gap {
    /// When it happened.
    #[serde(serialize_with = "time")]
    pub occurred_at: EventTime,
    /// When it became known.
    #[serde(serialize_with = "time")]
    pub known_at: EventTime,
    /// A stable code.
    pub reason: String,
    /// What could not be counted.
    pub object_id: String,
    /// The event that showed it.
    pub event_id: String,
}

fn time<S: serde::Serializer>(time: &EventTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// Finds the prices of a body that are more than an amount a unit, and says how they are worked out.
pub fn note_pricing(body: &Value, pricing: &mut BTreeMap<String, String>) {
    match body {
        Value::Object(map) => {
            if let (Some(id), Some(words)) = (map.get("id").and_then(Value::as_str), pricing_words(map)) {
                pricing.insert(id.to_owned(), words);
            }
            map.values().for_each(|value| note_pricing(value, pricing));
        }
        Value::Array(values) => values.iter().for_each(|value| note_pricing(value, pricing)),
        _ => {}
    }
}

fn pricing_words(price: &serde_json::Map<String, Value>) -> Option<String> {
    let text = |name: &str| price.get(name).and_then(Value::as_str);
    if text("billing_scheme") == Some("tiered") || text("tiers_mode").is_some() {
        return Some(format!("{} tiers", text("tiers_mode").unwrap_or("price")));
    }
    let packages = price.get("transform_quantity").or(price.get("transform_usage"))?;
    Some(format!("packages of {}", packages.get("divide_by")?))
}

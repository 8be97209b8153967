//! Where a movement comes from: its entries, the states on both sides of each, and the events behind them.

use serde::Serialize;

use super::{
    Event, Facts,
    arithmetic::has,
    story::{Entry, Moved, State, entry_of, holding, moved, state_of},
};
use crate::{
    ledger::{
        Error, review,
        rows::{ItemState, LedgerEntry, Movement, flag},
    },
    time::EventTime,
};

/// A movement and what it is made of.
#[derive(Clone, Debug, Serialize)]
pub struct Origin {
    /// The account.
    pub account: String,
    /// Live data, or test data.
    pub livemode: bool,
    /// The movement.
    pub movement: Moved,
    /// Its entries.
    pub entries: Vec<Step>,
    /// The events behind it, in order.
    pub events: Vec<Event>,
}

/// One entry of a movement.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The entry.
    pub entry: Entry,
    /// The item's state before, if it had one.
    pub before: Option<State>,
    /// The item's state after, if it has one.
    pub after: Option<State>,
}

/// Goes from a movement to its events. `facts` are those of its customer.
///
/// # Errors
/// [`Error::Overflow`].
pub fn trace(movement: &Movement, facts: &Facts) -> Result<Origin, Error> {
    let entries = entries_of(movement, facts);
    let held: Vec<&ItemState> =
        holding(&facts.states).into_iter().filter(|state| !has(state, flag::WITHDRAWN)).collect();
    let mut steps = Vec::new();
    for entry in &entries {
        let mut states: Vec<&ItemState> =
            held.iter().copied().filter(|state| state.subscription_item_id == entry.subscription_item_id).collect();
        states.sort_by_key(|state| state.valid_from);
        let before = states.iter().rev().find(|state| state.valid_from < entry.event_time);
        let after = states.iter().rev().find(|state| state.valid_from == entry.event_time);
        // A discount that ended without an event, or a state that another item shares: what holds on is shown once.
        let shown = |state: Option<&&ItemState>| state.map(|state| state_of(state, &held, facts)).transpose();
        steps.push(Step { entry: entry_of(entry, &facts.entries), before: shown(before)?, after: shown(after)? });
    }
    let named: std::collections::BTreeSet<&str> = movement
        .event_ids
        .iter()
        .chain(entries.iter().flat_map(|entry| &entry.event_ids))
        .map(|id| id.as_str())
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    let mut events: Vec<Event> =
        facts.events.iter().filter(|event| named.contains(event.event_id.as_str())).cloned().collect();
    events.sort_by(|a, b| (a.created, a.received_at, &a.event_id).cmp(&(b.created, b.received_at, &b.event_id)));
    events.retain(|event| seen.insert(event.event_id.clone()));
    Ok(Origin {
        account: facts.scope.account.to_string(),
        livemode: facts.scope.livemode,
        movement: moved(movement),
        entries: steps,
        events,
    })
}

/// The entries that a movement nets: the current ones of its currency in its instant.
pub fn entries_of<'a>(movement: &Movement, facts: &'a Facts) -> Vec<&'a LedgerEntry> {
    let window = i64::from(facts.rules.netting_seconds.max(1)) * 1_000_000;
    let end = EventTime::from_micros(movement.occurred_at.micros().saturating_add(window));
    let mut entries: Vec<&LedgerEntry> = review::current(&facts.entries)
        .into_iter()
        .filter(|entry| entry.currency == movement.currency)
        .filter(|entry| (movement.occurred_at..end).contains(&entry.event_time) && !entry.mrr_delta.is_zero())
        .collect();
    entries.sort_by(|a, b| (a.event_time, &a.entry_id).cmp(&(b.event_time, &b.entry_id)));
    entries
}

//! A customer's life in the order in which it happened: events, the items' states with their arithmetic, entries,
//! movements, gaps, and where a late event changed what had been said.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    Event, Facts, Gap,
    arithmetic::{self, Arithmetic, has, short},
};
use crate::{
    ledger::{
        Error,
        rows::{ItemState, LedgerEntry, Movement, flag},
    },
    money::Amount,
    time::EventTime,
};

/// The story of one customer.
#[derive(Clone, Debug, Serialize)]
pub struct Story {
    /// The account.
    pub account: String,
    /// Live data, or test data.
    pub livemode: bool,
    /// Stripe's id.
    pub customer_id: String,
    /// What the customer is worth a month at the end of it, by currency.
    pub mrr: BTreeMap<String, String>,
    /// Instants at which something happened, in order.
    pub moments: Vec<Moment>,
}

/// What happened at one instant.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Moment {
    /// The instant.
    pub time: String,
    /// Events, by arrival.
    pub events: Vec<Event>,
    /// What the items were from then on.
    pub states: Vec<State>,
    /// Changes of items' MRR.
    pub entries: Vec<Entry>,
    /// Changes of the customer's MRR.
    pub movements: Vec<Moved>,
    /// What could not be counted.
    pub gaps: Vec<Gap>,
}

/// A state of an item.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// From when it holds.
    pub valid_from: String,
    /// When it became known.
    pub known_at: String,
    /// The item.
    pub subscription_item_id: String,
    /// Its subscription.
    pub subscription_id: String,
    /// Its price.
    pub price_id: String,
    /// The subscription's status.
    pub status: String,
    /// Marks.
    pub flags: Vec<String>,
    /// The currency of the amounts.
    pub currency: Option<String>,
    /// How its worth is worked out.
    pub arithmetic: Arithmetic,
    /// `reconstructed` for what lies before the first event.
    pub provenance: String,
    /// What decided the order, where several events shared the second.
    pub order_evidence: Option<String>,
    /// A later row says something else of this instant.
    pub superseded: bool,
    /// The event it comes from.
    pub event_id: String,
}

/// An entry of the ledger.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its id.
    pub entry_id: String,
    /// When the change happened.
    pub event_time: String,
    /// When it became known.
    pub known_at: String,
    /// The item.
    pub subscription_item_id: String,
    /// Its price.
    pub price_id: String,
    /// The currency of the amounts.
    pub currency: String,
    /// `start`, `end`, `change` or `imported`.
    pub change: String,
    /// All causes, the leading one first.
    pub causes: Vec<String>,
    /// Change before discounts.
    pub list_delta: String,
    /// Change of the discounts that count.
    pub discount_delta: String,
    /// Change of MRR.
    pub mrr_delta: String,
    /// How it was taken back, if it was.
    pub reversed: Option<Reversed>,
    /// The events behind it.
    pub event_ids: Vec<String>,
}

/// How an entry was taken back.
#[derive(Clone, Debug, Serialize)]
pub struct Reversed {
    /// When that became known.
    pub known_at: String,
    /// The reversing entry.
    pub entry_id: String,
    /// The entries that say it now, of the same item and instant; none if nothing changed there after all.
    pub replaced_by: Vec<String>,
}

/// A movement.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    /// Its id.
    pub movement_id: String,
    /// One more each time it changed.
    pub revision: i64,
    /// When it happened.
    pub occurred_at: String,
    /// The customer.
    pub customer_id: String,
    /// The currency of the amounts.
    pub currency: String,
    /// What it is.
    pub kind: String,
    /// The leading cause.
    pub cause: String,
    /// All causes.
    pub causes: Vec<String>,
    /// Before.
    pub mrr_before: String,
    /// After.
    pub mrr_after: String,
    /// The difference.
    pub mrr_delta: String,
    /// The events behind it.
    pub event_ids: Vec<String>,
}

/// Tells a customer's story.
///
/// # Errors
/// [`Error::Overflow`].
pub fn tell(facts: &Facts) -> Result<Story, Error> {
    let mut moments: BTreeMap<EventTime, Moment> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut events: Vec<&Event> = facts.events.iter().collect();
    events.sort_by(|a, b| (a.created, a.received_at, &a.event_id).cmp(&(b.created, b.received_at, &b.event_id)));
    for event in events {
        // A copy of an event says nothing more.
        if seen.insert(&event.event_id) {
            at(&mut moments, event.created).events.push(event.clone());
        }
    }
    for state in states(facts)? {
        at(&mut moments, state.0).states.push(state.1);
    }
    let mut mrr: BTreeMap<String, (crate::money::Currency, Amount)> = BTreeMap::new();
    for entry in &facts.entries {
        let sum = mrr.entry(entry.currency.to_string()).or_insert((entry.currency, Amount::ZERO));
        sum.1 = Amount::from_micros(sum.1.micros() + entry.mrr_delta.micros());
    }
    let mut written: Vec<&LedgerEntry> = facts.entries.iter().filter(|e| e.reverses_entry_id.is_none()).collect();
    written.sort_by(|a, b| (a.event_time, a.known_at, &a.entry_id).cmp(&(b.event_time, b.known_at, &b.entry_id)));
    for entry in written {
        at(&mut moments, entry.event_time).entries.push(entry_of(entry, &facts.entries));
    }
    let mut movements: Vec<&Movement> = facts.movements.iter().collect();
    movements.sort_by_key(|movement| (movement.occurred_at, movement.currency));
    for movement in movements {
        at(&mut moments, movement.occurred_at).movements.push(moved(movement));
    }
    for gap in &facts.gaps {
        at(&mut moments, gap.occurred_at).gaps.push(gap.clone());
    }
    Ok(Story {
        account: facts.scope.account.to_string(),
        livemode: facts.scope.livemode,
        customer_id: facts.customer_id.clone(),
        mrr: mrr.into_iter().map(|(code, (currency, sum))| (code, short(sum, currency))).collect(),
        moments: moments.into_iter().map(|(time, moment)| Moment { time: time.to_string(), ..moment }).collect(),
    })
}

fn at(moments: &mut BTreeMap<EventTime, Moment>, time: EventTime) -> &mut Moment {
    moments.entry(time).or_default()
}

/// Every state with its time, in order.
pub(super) fn states(facts: &Facts) -> Result<Vec<(EventTime, State)>, Error> {
    let mut rows: Vec<&ItemState> = facts.states.iter().collect();
    rows.sort_by(|a, b| {
        let key = |row: &ItemState| (row.valid_from, row.position, row.subscription_item_id.clone(), row.revision);
        key(a).cmp(&key(b))
    });
    let holding = holding(&facts.states);
    rows.into_iter().map(|row| Ok((row.valid_from, state_of(row, &holding, facts)?))).collect()
}

/// Of the rows of one item and instant the newest: what holds.
pub(super) fn holding(states: &[ItemState]) -> Vec<&ItemState> {
    let mut newest: BTreeMap<_, &ItemState> = BTreeMap::new();
    for state in states {
        let key = (&state.subscription_id, &state.subscription_item_id, state.valid_from, &*state.provenance);
        let held = newest.entry(key).or_insert(state);
        if state.revision > held.revision {
            *held = state;
        }
    }
    newest.into_values().collect()
}

fn is(a: &ItemState, b: &ItemState) -> bool {
    std::ptr::eq(a, b)
}

pub(super) fn state_of(state: &ItemState, holding: &[&ItemState], facts: &Facts) -> Result<State, Error> {
    let items = items_beside(state, holding);
    Ok(State {
        valid_from: state.valid_from.to_string(),
        known_at: state.known_at.to_string(),
        subscription_item_id: state.subscription_item_id.to_string(),
        subscription_id: state.subscription_id.to_string(),
        price_id: state.price_id.to_string(),
        status: state.status.to_string(),
        flags: state.flags.iter().map(ToString::to_string).collect(),
        currency: state.currency.map(|currency| currency.to_string()),
        arithmetic: arithmetic::of(state, &items, &facts.rules, &facts.pricing)?,
        provenance: state.provenance.to_string(),
        order_evidence: state.order_evidence.map(str::to_owned),
        superseded: has(state, flag::WITHDRAWN) || !holding.iter().any(|held| is(held, state)),
        event_id: state.event_id.to_string(),
    })
}

/// The other items of a state's subscription at that time, each in its newest state by then.
fn items_beside<'a>(state: &'a ItemState, holding: &[&'a ItemState]) -> Vec<&'a ItemState> {
    let mut items: BTreeMap<&str, &ItemState> = BTreeMap::new();
    for row in holding {
        if row.subscription_id == state.subscription_id
            && row.valid_from <= state.valid_from
            && row.subscription_item_id != state.subscription_item_id
            && !has(row, flag::WITHDRAWN)
        {
            let held = items.entry(row.subscription_item_id.as_str()).or_insert(row);
            if row.valid_from >= held.valid_from {
                *held = row;
            }
        }
    }
    items.into_values().filter(|row| !has(row, flag::REMOVED)).collect()
}

pub(super) fn entry_of(entry: &LedgerEntry, all: &[LedgerEntry]) -> Entry {
    let money = |amount| short(amount, entry.currency);
    let reversal = all.iter().find(|other| other.reverses_entry_id.as_deref() == Some(&*entry.entry_id));
    let reversed = reversal.map(|reversal| {
        let replaces = |other: &&LedgerEntry| {
            other.reverses_entry_id.is_none()
                && other.entry_id != entry.entry_id
                && other.subscription_item_id == entry.subscription_item_id
                && other.event_time == entry.event_time
                && other.known_at >= reversal.known_at
        };
        Reversed {
            known_at: reversal.known_at.to_string(),
            entry_id: reversal.entry_id.to_string(),
            replaced_by: all.iter().filter(replaces).map(|other| other.entry_id.to_string()).collect(),
        }
    });
    Entry {
        entry_id: entry.entry_id.to_string(),
        event_time: entry.event_time.to_string(),
        known_at: entry.known_at.to_string(),
        subscription_item_id: entry.subscription_item_id.to_string(),
        price_id: entry.price_id.to_string(),
        currency: entry.currency.to_string(),
        change: entry.change.to_string(),
        causes: codes(entry.cause, &entry.causes),
        list_delta: money(entry.list_delta),
        discount_delta: money(entry.discount_delta),
        mrr_delta: money(entry.mrr_delta),
        reversed,
        event_ids: entry.event_ids.iter().map(ToString::to_string).collect(),
    }
}

fn codes(leading: crate::ledger::rows::Cause, all: &[crate::ledger::rows::Cause]) -> Vec<String> {
    let rest = all.iter().filter(|cause| **cause != leading);
    std::iter::once(&leading).chain(rest).map(|cause| cause.as_str().to_owned()).collect()
}

pub(super) fn moved(movement: &Movement) -> Moved {
    let money = |amount| short(amount, movement.currency);
    Moved {
        movement_id: movement.movement_id.to_string(),
        revision: movement.revision,
        occurred_at: movement.occurred_at.to_string(),
        customer_id: movement.customer_id.to_string(),
        currency: movement.currency.to_string(),
        kind: movement.kind.as_str().to_owned(),
        cause: movement.cause.as_str().to_owned(),
        causes: codes(movement.cause, &movement.causes),
        mrr_before: money(movement.mrr_before),
        mrr_after: money(movement.mrr_after),
        mrr_delta: money(movement.mrr_delta),
        event_ids: movement.event_ids.iter().map(ToString::to_string).collect(),
    }
}

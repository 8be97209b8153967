//! The ledger as another profile would have it, or as it was known at another moment: pure functions of its rows.
//!
//! [`count`] values `item_states` under any rules, by the same code as the ledger itself; [`movements`] nets and
//! classifies any set of ledger rows. So *as known at K* is [`movements`] of the rows with `known_at` ≤ K, *as of day D*
//! of those with event time ≤ D, and another profile's history needs no replay of events.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Error,
    content::Quantity,
    entries::{self, Causes, Entry, Place, Side, Slot},
    movements::Movements,
    parts::{self, Part},
    rows::{Delta, ItemState, LedgerEntry, Measure, Movement, OutlookEntry, flag},
    rules::{BackdatedStart, Rules},
    states::RECONSTRUCTED,
    valuation::{self, Valued},
};
use crate::{
    stripe::{
        ids::{CustomerId, SubscriptionId},
        types::Scope,
    },
    time::EventTime,
};

/// The ledger rows that do not reverse another and are not reversed, among `rows`.
#[must_use]
pub fn current(rows: &[LedgerEntry]) -> Vec<&LedgerEntry> {
    let reversed: std::collections::HashSet<&str> =
        rows.iter().filter_map(|row| row.reverses_entry_id.as_deref()).collect();
    rows.iter().filter(|row| row.reverses_entry_id.is_none() && !reversed.contains(&*row.entry_id)).collect()
}

/// Nets and classifies the current ones among some rows of the ledger, customer by customer; in order of customer and
/// time. Every movement has revision 1.
///
/// # Errors
/// [`Error::Overflow`].
pub fn movements(rows: &[LedgerEntry], rules: &Rules) -> Result<Vec<Movement>, Error> {
    let mut customers: BTreeMap<(&Scope, &CustomerId), Vec<(EventTime, Slot)>> = BTreeMap::new();
    for row in current(rows) {
        let slots = customers.entry((&row.scope, &row.customer_id)).or_default();
        slots.push((row.event_time, slot(row)));
    }
    let mut delta = Delta::default();
    for ((scope, customer), slots) in customers {
        let written = slots.iter().map(|(time, slot)| (*time, slot));
        Movements::default().publish(EventTime::MIN, scope, customer, written, rules, &mut delta)?;
    }
    Ok(delta.movements.into_iter().filter_map(|change| change.after).collect())
}

fn slot(row: &LedgerEntry) -> Slot {
    let causes = row.causes.iter().fold(Causes::one(row.cause), |causes, cause| causes.and(*cause));
    Slot {
        entry: Entry {
            measure: Measure::Mrr,
            item: row.subscription_item_id.clone(),
            price: row.price_id.clone(),
            product: row.product_id.clone(),
            currency: row.currency,
            cadence: (row.interval, row.interval_count),
            side: Side::parse(&row.change).unwrap_or(Side::Change),
            causes,
            list: row.list_delta,
            mrr: row.mrr_delta,
            quantity: Quantity::from(&row.quantity_delta),
            known_at: row.known_at,
        },
        events: row.event_ids.clone(),
        revision: 1,
        live: true,
    }
}

/// What item states make under some rules.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Counted {
    /// The ledger.
    pub entries: Vec<LedgerEntry>,
    /// The figures beside it: trials, and what is scheduled to leave.
    pub outlook: Vec<OutlookEntry>,
}

/// The entries that some item states make under `rules`; discounts end up to `until`, the time of the newest event. An
/// entry's `event_ids` hold the last event of its second, as the states do.
///
/// # Errors
/// [`Error::Overflow`].
pub fn count(states: &[ItemState], rules: &Rules, until: EventTime) -> Result<Counted, Error> {
    let mut subscriptions: BTreeMap<(&Scope, &CustomerId, &SubscriptionId), Vec<&ItemState>> = BTreeMap::new();
    for state in holding(states) {
        let key = (&state.scope, &state.customer_id, &state.subscription_id);
        subscriptions.entry(key).or_default().push(state);
    }
    let mut delta = Delta::default();
    for ((scope, customer, subscription), rows) in subscriptions {
        let mut review = Review { scope, customer, subscription, rules, until, before: Valued::default() };
        review.of(rows, &mut delta);
    }
    Ok(Counted { entries: delta.entries, outlook: delta.outlook })
}

/// Of the rows of one item and instant the one with the greatest revision, unless that one was withdrawn.
fn holding(states: &[ItemState]) -> impl Iterator<Item = &ItemState> {
    let mut newest: BTreeMap<_, &ItemState> = BTreeMap::new();
    for state in states {
        let key = (
            &state.scope,
            &state.customer_id,
            &state.subscription_id,
            &state.subscription_item_id,
            state.valid_from,
            &*state.provenance == RECONSTRUCTED,
        );
        let held = newest.entry(key).or_insert(state);
        if state.revision > held.revision {
            *held = state;
        }
    }
    newest.into_values().filter(|state| !state.has(flag::WITHDRAWN))
}

struct Review<'a> {
    scope: &'a Scope,
    customer: &'a CustomerId,
    subscription: &'a SubscriptionId,
    rules: &'a Rules,
    until: EventTime,
    before: Valued,
}

impl Review<'_> {
    fn of(&mut self, mut rows: Vec<&ItemState>, delta: &mut Delta) {
        rows.sort_by_key(|row| (row.valid_from, &*row.provenance != RECONSTRUCTED));
        let mut items: Vec<&ItemState> = Vec::new();
        let mut rest = rows.as_slice();
        let mut first = true;
        while let Some(next) = rest.first() {
            let opening = &*next.provenance == RECONSTRUCTED;
            let same =
                |row: &&ItemState| row.valid_from == next.valid_from && (&*row.provenance == RECONSTRUCTED) == opening;
            let (instant, later) = rest.split_at(rest.iter().take_while(|row| same(row)).count());
            rest = later;
            for row in instant {
                items.retain(|item| item.subscription_item_id != row.subscription_item_id);
                if !row.has(flag::REMOVED) {
                    items.push(row);
                }
            }
            items.sort_by_key(|row| row.position);
            let mut time = next.valid_from;
            if first
                && !opening
                && self.rules.backdated_start == BackdatedStart::StartDate
                && let Some(started) = next.started_at
            {
                time = time.min(started);
            }
            first = false;
            // What all items of a state have in common stands in the newest of its rows.
            let newest = instant.iter().find(|row| !row.has(flag::REMOVED)).unwrap_or(&instant[0]);
            let ends = rest.first().map_or(self.until, |row| row.valid_from);
            self.hold(newest, &items, time, ends, rest.is_empty(), opening, delta);
        }
    }

    /// Values a state from `time` on, again whenever one of its discounts begins or ends before the next state.
    #[allow(clippy::too_many_arguments, reason = "the whole of a state")]
    fn hold(
        &mut self,
        newest: &ItemState,
        items: &[&ItemState],
        mut time: EventTime,
        ends: EventTime,
        last: bool,
        opening: bool,
        delta: &mut Delta,
    ) {
        let parts: Vec<Part> = items.iter().map(|row| row.part()).collect();
        let content = Arc::new(newest.content(items));
        let ended = newest.has(flag::DELETED);
        loop {
            let prints = parts.iter().map(|part| (part.item.clone(), parts::print(&content, ended, part))).collect();
            let mut gaps = Vec::new();
            let after = valuation::value(&content, ended, &parts, prints, time, self.rules, &mut gaps);
            let wanted = entries::between(&self.before, &after, opening);
            let place = Place {
                scope: self.scope,
                customer: self.customer,
                subscription: self.subscription,
                time,
                opening,
                trigger: newest.known_at,
            };
            let wanted = wanted.into_iter().map(|entry| {
                let known_at = entry.known_at.max(newest.known_at);
                Entry { known_at, ..entry }
            });
            let events = [newest.event_id.clone()];
            entries::reconcile(&mut Vec::new(), wanted.collect(), &events, &place, delta);
            let valid_until = after.valid_until;
            self.before = after;
            match valid_until {
                Some(until) if until < ends || (last && until <= ends) => time = until,
                _ => return,
            }
        }
    }
}

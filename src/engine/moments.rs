//! The cuts that a live engine would have made: while everything is made again, records are given to the ledger as they
//! once arrived, so that what was known at each moment, and taken back later, is in the new ledger too.

use std::collections::BTreeMap;

use crate::{
    ledger::{
        Arrival, Delta, Error, Ledger,
        rows::{Change, Movement},
    },
    stripe::types::Scope,
};

/// Records that were appended with a longer pause between them were not one epoch of a live engine, which waits this
/// long for its first record. An import has no such pauses, and stays whole.
const PAUSE_MICROS: i64 = 25_000;

/// Gives the ledger an epoch's arrivals in the order and the portions in which they once came; what all of it changed.
pub(super) fn apply(ledger: &mut Ledger, mut arrivals: Vec<Arrival<'_>>) -> Result<Delta, Error> {
    // Each partition is in order; the sort keeps it so.
    arrivals.sort_by_key(|arrival| arrival.appended_at);
    let mut all = Delta::default();
    let mut movements = Movements::default();
    let together = |a: &Arrival<'_>, b: &Arrival<'_>| b.appended_at.micros() - a.appended_at.micros() <= PAUSE_MICROS;
    for portion in arrivals.chunk_by(together) {
        let delta = ledger.apply(portion)?;
        all.item_states.extend(delta.item_states);
        all.entries.extend(delta.entries);
        all.outlook.extend(delta.outlook);
        all.billing_events.extend(delta.billing_events);
        all.gaps.extend(delta.gaps);
        all.late.extend(delta.late);
        all.duplicates += delta.duplicates;
        movements.add(delta.movements);
    }
    all.movements = movements.changes();
    Ok(all)
}

/// Changes of movements over several portions, one for each: what was there first, what is there last.
#[derive(Default)]
struct Movements {
    places: BTreeMap<(Scope, String), usize>,
    changes: Vec<Change<Movement>>,
}

impl Movements {
    fn add(&mut self, changes: Vec<Change<Movement>>) {
        for change in changes {
            let Some(any) = change.before.as_ref().or(change.after.as_ref()) else { continue };
            let next = self.changes.len();
            let place = *self.places.entry((any.scope.clone(), any.movement_id.to_string())).or_insert(next);
            match self.changes.get_mut(place) {
                Some(known) => known.after = change.after,
                None => self.changes.push(change),
            }
        }
    }

    fn changes(self) -> Vec<Change<Movement>> {
        self.changes.into_iter().filter(|change| change.before != change.after).collect()
    }
}

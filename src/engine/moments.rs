//! The cuts that a live engine would have made: while everything is made again, records are given to the ledger as they
//! once arrived, so that what was known at each moment, and taken back later, is in the new ledger too.

use std::collections::BTreeMap;

use crate::ledger::{Arrival, Delta, Error, Ledger, rows::Change};

/// Records that were appended with a longer pause between them were not one epoch of a live engine, which waits this
/// long for its first record. An import has no such pauses, and stays whole.
const PAUSE_MICROS: i64 = 25_000;

/// Gives the ledger an epoch's arrivals in the order and the portions in which they once came; what all of it changed.
pub(super) fn apply(ledger: &mut Ledger, mut arrivals: Vec<Arrival<'_>>) -> Result<Delta, Error> {
    // Each partition is in order; the sort keeps it so.
    arrivals.sort_by_key(|arrival| arrival.appended_at);
    let mut all = Delta::default();
    let together = |a: &Arrival<'_>, b: &Arrival<'_>| b.appended_at.micros() - a.appended_at.micros() <= PAUSE_MICROS;
    for portion in arrivals.chunk_by(together) {
        // Whole, so that no kind of row is forgotten.
        let Delta {
            item_states,
            entries,
            outlook,
            movements,
            billing_events,
            gaps,
            late,
            products,
            prices,
            coupons,
            metered_usage,
            scheduled,
            recognised,
            duplicates,
        } = ledger.apply(portion)?;
        all.item_states.extend(item_states);
        all.entries.extend(entries);
        all.outlook.extend(outlook);
        all.movements.extend(movements);
        all.billing_events.extend(billing_events);
        all.gaps.extend(gaps);
        all.late.extend(late);
        all.products.extend(products);
        all.prices.extend(prices);
        all.coupons.extend(coupons);
        all.metered_usage.extend(metered_usage);
        all.scheduled.extend(scheduled);
        all.recognised.extend(recognised);
        all.duplicates += duplicates;
    }
    all.movements = net(all.movements, |row| (row.scope.clone(), row.movement_id.to_string()));
    all.products = net(all.products, |row| (row.scope.clone(), row.product_id.to_string()));
    all.prices = net(all.prices, |row| (row.scope.clone(), row.price.id.to_string()));
    all.coupons = net(all.coupons, |row| (row.scope.clone(), row.coupon.id.to_string()));
    all.scheduled = net(all.scheduled, |row| (row.scope.clone(), row.schedule_id.to_string(), row.phase_start));
    Ok(all)
}

/// Changes of a keyed relation in their order, as one for each key: what was there first, what is there last.
fn net<T: PartialEq, K: Ord>(changes: Vec<Change<T>>, key: impl Fn(&T) -> K) -> Vec<Change<T>> {
    let mut places: BTreeMap<K, usize> = BTreeMap::new();
    let mut netted: Vec<Change<T>> = Vec::new();
    for change in changes {
        let Some(any) = change.before.as_ref().or(change.after.as_ref()) else { continue };
        let place = *places.entry(key(any)).or_insert(netted.len());
        match netted.get_mut(place) {
            Some(known) => known.after = change.after,
            None => netted.push(change),
        }
    }
    netted.retain(|change| change.before != change.after);
    netted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_changes_of_a_key_are_one() {
        let change = |before: Option<(u8, char)>, after: Option<(u8, char)>| Change { before, after };
        let changes = vec![
            change(None, Some((1, 'a'))),
            change(Some((2, 'x')), Some((2, 'y'))),
            change(Some((1, 'a')), Some((1, 'b'))),
            change(Some((2, 'y')), None),
            change(None, Some((3, 'q'))),
            change(Some((3, 'q')), None),
        ];
        let netted = net(changes, |(key, _)| *key);
        assert_eq!(netted, vec![change(None, Some((1, 'b'))), change(Some((2, 'x')), None)]);
    }
}

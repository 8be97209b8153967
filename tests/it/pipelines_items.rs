//! A ledger that is rewritten as a real one is: items start, change, swap their price and end, also in their past, and
//! what no longer holds is reversed at its own time.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use rand::{Rng, rngs::StdRng};
use tributary::{
    ledger::rows::{Cause, LedgerEntry},
    money::{Amount, Rational},
    stripe::types::{Interval, Scope},
    time::EventTime,
};

/// What an item is worth from a second on: price, MRR in millionths and units, if it counts.
type State = Option<(usize, i128, i64)>;

#[derive(Default)]
struct Item {
    /// By second.
    states: BTreeMap<i64, State>,
    /// The rows that stand, by second.
    written: BTreeMap<i64, Vec<LedgerEntry>>,
}

/// Some items with their histories.
pub(crate) struct Items {
    start: i64,
    items: Vec<Item>,
    rows: u64,
}

impl Items {
    pub(crate) fn new(start: i64) -> Self {
        Self { start, items: (0..8).map(|_| Item::default()).collect(), rows: 0 }
    }

    /// Some items get another state at some second; the rows that say so.
    pub(crate) fn epoch(&mut self, random: &mut StdRng) -> Vec<LedgerEntry> {
        let mut rows = Vec::new();
        for _ in 0..random.random_range(0..6) {
            let index = random.random_range(0..self.items.len());
            let mut item = std::mem::take(&mut self.items[index]);
            let state = random.random_bool(0.8).then(|| {
                // Sub-cent and zero amounts, so that rounding and free items occur.
                let micros = [0, 10_004_999, 10_005_001, 833_333, 49_000_000][random.random_range(0..5)];
                (random.random_range(0..2), micros, random.random_range(1..4))
            });
            item.states.insert(self.start + random.random_range(0..400) * 86_400, state);
            self.write(index, &mut item, &mut rows);
            self.items[index] = item;
        }
        rows
    }

    fn write(&mut self, index: usize, item: &mut Item, rows: &mut Vec<LedgerEntry>) {
        let mut before = None;
        for (second, after) in &item.states {
            let wanted = self.between(index, *second, before, *after);
            let written = item.written.entry(*second).or_default();
            let same = |a: &LedgerEntry, b: &LedgerEntry| {
                (&a.price_id, &a.change, a.mrr_delta, &a.quantity_delta)
                    == (&b.price_id, &b.change, b.mrr_delta, &b.quantity_delta)
            };
            if written.len() != wanted.len() || !written.iter().zip(&wanted).all(|(a, b)| same(a, b)) {
                rows.extend(written.iter().map(|row| LedgerEntry {
                    entry_id: format!("{}r", row.entry_id).as_str().into(),
                    reverses_entry_id: Some(row.entry_id.clone()),
                    list_delta: -row.list_delta,
                    mrr_delta: -row.mrr_delta,
                    quantity_delta: -row.quantity_delta.clone(),
                    ..row.clone()
                }));
                rows.extend(wanted.iter().cloned());
                *written = wanted;
            }
            before = *after;
        }
    }

    fn between(&mut self, index: usize, second: i64, before: State, after: State) -> Vec<LedgerEntry> {
        let mut row = |change: &str, price: usize, micros: i128, units: i64| {
            self.rows += 1;
            let at = EventTime::from_seconds(second);
            LedgerEntry {
                scope: Scope { account: ["acct_a", "acct_b"][index % 2].into(), livemode: index != 3 },
                entry_id: format!("le_{}", self.rows).as_str().into(),
                event_time: at,
                known_at: at,
                reverses_entry_id: None,
                customer_id: format!("cus_{}", index / 2).as_str().into(),
                subscription_id: format!("sub_{}", index / 2).as_str().into(),
                subscription_item_id: format!("si_{index}").as_str().into(),
                price_id: format!("price_{price}").as_str().into(),
                product_id: (price == 0).then(|| "prod_0".into()),
                currency: ["usd", "jpy", "kwd"][index % 3].parse().unwrap(),
                change: change.into(),
                cause: Cause::QuantityChange,
                causes: vec![Cause::QuantityChange],
                interval: Interval::Month,
                interval_count: 1,
                list_delta: Amount::from_micros(micros),
                discount_delta: Amount::ZERO,
                mrr_delta: Amount::from_micros(micros),
                quantity_delta: Rational::from_integer(BigInt::from(units)),
                event_ids: vec!["evt_1".into()],
            }
        };
        match (before, after) {
            (None, None) => Vec::new(),
            (None, Some((price, micros, units))) => vec![row("start", price, micros, units)],
            (Some((price, micros, units)), None) => vec![row("end", price, -micros, -units)],
            (Some(old), Some(new)) if old == new => Vec::new(),
            (Some((old, was, had)), Some((new, is, has))) if old == new => {
                vec![row("change", new, is - was, has - had)]
            }
            (Some((old, was, had)), Some((new, is, has))) => {
                vec![row("end", old, -was, -had), row("start", new, is, has)]
            }
        }
    }
}

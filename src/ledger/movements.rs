//! One customer's entries, netted by instant and classified: new, reactivation, expansion, contraction, churn.
//!
//! Whether a customer comes or goes is decided over all its currencies; up and down are decided in each. Movements
//! are a relation with a key: whatever a late event changes is published again with its next revision.

use super::{
    Error,
    content::insert_tight,
    entries::{Causes, Side, Slot},
    hash::row_id,
    packing::packed,
    rows::{Cause, Change, Delta, Measure, Movement, MovementKind},
    rules::Rules,
};
use crate::{
    money::{Amount, Currency},
    stripe::{
        ids::{CustomerId, EventId},
        types::Scope,
    },
    time::EventTime,
};

/// Changes kept of one customer, one for each second and currency, that its subscriptions have folded. Enough for
/// years of ordinary life, so that a subscription that is only now first seen still finds its place among them; older
/// ones fold into a sum, and what comes before that sum is netted against it.
pub const MAX_FOLDED: usize = 64;

/// What one entry, or the folded entries of one second in one currency, did; with its events, or borrowing them.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Net<E> {
    time: EventTime,
    currency: Currency,
    change: Amount,
    /// By how much the number of items that count grew, free ones included.
    items: i64,
    /// Causes of what went up, and of what went down.
    up: Causes,
    down: Causes,
    imported: bool,
    events: E,
}

packed!(Net<Vec<EventId>> { time, currency, change, items, up, down, imported, events });

type Part<'a> = Net<&'a [EventId]>;

/// What was last published under a key.
#[derive(Clone, PartialEq, Debug)]
struct Published {
    key: Key,
    revision: i64,
    /// `None` after it was withdrawn.
    row: Option<Row>,
}

packed!(Published { key, revision, row });

/// The anchor of an instant, and a currency.
type Key = (EventTime, Currency);

#[derive(Clone, PartialEq, Debug)]
struct Row {
    kind: MovementKind,
    cause: Cause,
    causes: Causes,
    before: Amount,
    after: Amount,
    events: Vec<EventId>,
}

packed!(Row { kind, cause, causes, before, after, events });

/// The movements of one customer.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Movements {
    /// What the subscriptions have folded, by time.
    folded: Vec<Net<Vec<EventId>>>,
    /// By key.
    published: Vec<Published>,
    /// Up to the oldest second kept.
    base: Sums,
}

packed!(Movements { folded, published, base });

/// A customer's sums at some point of its history.
#[derive(Clone, PartialEq, Debug, Default)]
struct Sums {
    mrr: Vec<(Currency, Amount)>,
    /// Items that count.
    items: i64,
    /// It has paid before.
    ever: bool,
}

packed!(Sums { mrr, items, ever });

impl<E> Net<E> {
    fn with<F>(&self, events: F) -> Net<F> {
        let &Self { time, currency, change, items, up, down, imported, .. } = self;
        Net { time, currency, change, items, up, down, imported, events }
    }
}

fn part(time: EventTime, slot: &Slot) -> Part<'_> {
    let entry = &slot.entry;
    let (up, down) = match entry.mrr.micros() {
        0 => (Causes::default(), Causes::default()),
        change if change > 0 => (entry.causes, Causes::default()),
        _ => (Causes::default(), entry.causes),
    };
    let items = match entry.side {
        Side::Start | Side::Imported => 1,
        Side::End => -1,
        Side::Change => 0,
    };
    let imported = entry.side == Side::Imported;
    Net { time, currency: entry.currency, change: entry.mrr, items, up, down, imported, events: &slot.events }
}

impl Sums {
    fn of(&self, currency: Currency) -> Amount {
        self.mrr.iter().find(|(other, _)| *other == currency).map_or(Amount::ZERO, |(_, sum)| *sum)
    }

    fn add(&mut self, currency: Currency, change: Amount, items: i64) -> Result<(), Error> {
        self.items += items;
        let sum = self.of(currency).checked_add(change).ok_or(Error::Overflow)?;
        match self.mrr.iter_mut().find(|(other, _)| *other == currency) {
            Some((_, held)) => *held = sum,
            None => self.mrr.push((currency, sum)),
        }
        Ok(())
    }

    /// Adds up an instant.
    fn pass(&mut self, instant: &[Part<'_>]) -> Result<(), Error> {
        for part in instant {
            self.add(part.currency, part.change, part.items)?;
        }
        self.ever |= self.pays();
        Ok(())
    }

    fn pays(&self) -> bool {
        self.mrr.iter().any(|(_, sum)| sum.micros() > 0)
    }

    /// Whether it is a subscriber: it pays, or it has something free and the rules let that be enough.
    fn subscribes(&self, rules: &Rules) -> bool {
        self.pays() || (rules.free_customers_stay && self.items > 0)
    }
}

/// Whether an entry can make a difference to movements.
fn matters(slot: &Slot, rules: &Rules) -> bool {
    slot.entry.measure == Measure::Mrr
        && (!slot.entry.mrr.is_zero() || (rules.free_customers_stay && slot.entry.side != Side::Change))
}

impl Movements {
    /// Takes over an entry whose second its subscription has folded.
    pub(crate) fn take_over(&mut self, time: EventTime, slot: &Slot, rules: &Rules) -> Result<(), Error> {
        if !matters(slot, rules) {
            return Ok(());
        }
        let part = part(time, slot);
        let key = (time, part.currency);
        let position = self.folded.partition_point(|net| (net.time, net.currency) < key);
        match self.folded.get_mut(position).filter(|net| (net.time, net.currency) == key) {
            Some(net) => {
                net.change = net.change.checked_add(part.change).ok_or(Error::Overflow)?;
                net.items += part.items;
                net.up = net.up.union(part.up);
                net.down = net.down.union(part.down);
                net.imported |= part.imported;
                net.events.extend_from_slice(part.events);
                net.events.sort_unstable();
                net.events.dedup();
            }
            None => insert_tight(&mut self.folded, position, part.with(part.events.to_vec())),
        }
        Ok(())
    }

    /// Nets and classifies again what can have changed since entries of the time `from` were written, and publishes the
    /// difference. `written` are the entries that the subscriptions still hold.
    pub(crate) fn publish<'a>(
        &mut self,
        from: EventTime,
        scope: &Scope,
        customer: &CustomerId,
        written: impl Iterator<Item = (EventTime, &'a Slot)>,
        rules: &Rules,
        delta: &mut Delta,
    ) -> Result<(), Error> {
        let Self { folded, published, base } = self;
        let written = written.filter(|(_, slot)| matters(slot, rules)).map(|(time, slot)| part(time, slot));
        let mut parts: Vec<Part<'_>> = folded.iter().map(|net| net.with(&*net.events)).chain(written).collect();
        parts.sort_by_key(|part| (part.time, part.currency));
        let mut sums = base.clone();
        let mut keys = Vec::with_capacity(parts.len());
        let mut rest = parts.as_mut_slice();
        while let Some(first) = rest.first() {
            let anchor = first.time;
            let end = end_of(anchor, rules);
            let (instant, later) = rest.split_at_mut(rest.partition_point(|part| part.time < end));
            rest = later;
            if end <= from {
                sums.pass(instant)?;
                continue;
            }
            instant.sort_by_key(|part| part.currency);
            for (key, moved) in classify(anchor, instant, &mut sums, rules)? {
                keys.push(key);
                put(published, key, Some(moved), |change| delta.movements.push(change), scope, customer);
            }
        }
        let past = published.partition_point(|row| end_of(row.key.0, rules) <= from);
        let gone = published[past..].iter().filter(|row| row.row.is_some() && keys.binary_search(&row.key).is_err());
        for key in gone.map(|row| row.key).collect::<Vec<_>>() {
            put(published, key, None, |change| delta.movements.push(change), scope, customer);
        }
        Ok(())
    }

    /// Whether there are more folded seconds than are kept.
    pub(crate) fn has_too_many(&self) -> bool {
        self.folded.len() > MAX_FOLDED
    }

    /// Folds the oldest seconds; `oldest_held` is the first second a subscription still holds.
    pub(crate) fn fold(&mut self, oldest_held: Option<EventTime>, rules: &Rules) -> Result<(), Error> {
        while self.has_too_many() {
            let Some(first) = self.folded.first() else {
                return Ok(());
            };
            let end = end_of(first.time, rules);
            if oldest_held.is_some_and(|held| held < end) {
                return Ok(());
            }
            let count = self.folded.partition_point(|net| net.time < end);
            for net in self.folded.drain(..count) {
                self.base.add(net.currency, net.change, net.items)?;
            }
            let past = self.published.partition_point(|row| row.key.0 < end);
            let paid = self.published.drain(..past).any(|row| row.row.is_some());
            self.base.ever |= paid;
        }
        Ok(())
    }
}

/// The end of the instant anchored at a time: it spans the netting window.
fn end_of(anchor: EventTime, rules: &Rules) -> EventTime {
    EventTime::from_micros(anchor.micros().saturating_add(i64::from(rules.netting_seconds.max(1)) * 1_000_000))
}

/// A classified change whose events are still borrowed.
struct Moved<'a> {
    kind: MovementKind,
    cause: Cause,
    causes: Causes,
    before: Amount,
    after: Amount,
    events: Vec<&'a EventId>,
}

impl Moved<'_> {
    fn is(&self, row: &Row) -> bool {
        (self.kind, self.cause, self.causes) == (row.kind, row.cause, row.causes)
            && (self.before, self.after) == (row.before, row.after)
            && self.events.iter().copied().eq(&row.events)
    }
}

/// Publishes what holds under a key now, if it differs.
fn put(
    published: &mut Vec<Published>,
    key: Key,
    moved: Option<Moved<'_>>,
    mut publish: impl FnMut(Change<Movement>),
    scope: &Scope,
    customer: &CustomerId,
) {
    let position = published.binary_search_by_key(&key, |row| row.key).unwrap_or_else(|position| {
        insert_tight(published, position, Published { key, revision: 0, row: None });
        position
    });
    let held = &mut published[position];
    match (&moved, &held.row) {
        (None, None) => return,
        (Some(moved), Some(row)) if moved.is(row) => return,
        _ => {}
    }
    let row_of = |held: &Published| held.row.as_ref().map(|row| movement(scope, customer, key, held.revision, row));
    let before = row_of(held);
    held.revision += 1;
    held.row = moved.map(|Moved { kind, cause, causes, before, after, events }| Row {
        kind,
        cause,
        causes,
        before,
        after,
        events: events.into_iter().cloned().collect(),
    });
    publish(Change { before, after: row_of(held) });
}

/// Classifies what one instant did to each currency (docs/how-we-count.md "Movements"). `instant` is sorted by
/// currency.
fn classify<'a>(
    anchor: EventTime,
    instant: &[Part<'a>],
    sums: &mut Sums,
    rules: &Rules,
) -> Result<Vec<(Key, Moved<'a>)>, Error> {
    let (here_before, paid_before, ever) = (sums.subscribes(rules), sums.pays(), sums.ever);
    let mut nets = Vec::with_capacity(1);
    for parts in instant.chunk_by(|a, b| a.currency == b.currency) {
        let currency = parts[0].currency;
        let before = sums.of(currency);
        for part in parts {
            sums.add(currency, part.change, part.items)?;
        }
        let after = sums.of(currency);
        if after != before {
            nets.push((currency, before, after, parts));
        }
    }
    let (here_after, pays_after) = (sums.subscribes(rules), sums.pays());
    sums.ever |= pays_after;
    // One currency falls to nothing while another rises from nothing: the same customer in another currency.
    let swap = paid_before
        && pays_after
        && nets.iter().any(|(_, before, after, _)| before.micros() > 0 && after.is_zero())
        && nets.iter().any(|(_, before, after, _)| before.is_zero() && after.micros() > 0);
    let moved = nets.into_iter().map(|(currency, before, after, parts)| {
        let rises = after > before;
        let kind = match (here_before, here_after) {
            _ if parts.iter().any(|part| part.imported) => MovementKind::Imported,
            // What began for nothing is new when it is first paid for.
            _ if rises && !ever && !paid_before => MovementKind::New,
            (false, true) if rises => MovementKind::Reactivation,
            (true, false) if !rises => MovementKind::Churn,
            _ if rises => MovementKind::Expansion,
            _ => MovementKind::Contraction,
        };
        let all = |causes: fn(&Part<'_>) -> Causes| parts.iter().map(causes).fold(Causes::default(), Causes::union);
        let (up, down) = (all(|part| part.up), all(|part| part.down));
        let mut causes = up.union(down);
        // Of all that happened, what led this way explains it: somebody who cancels one subscription and begins a
        // dearer one did not grow because of the cancellation.
        let towards = if rises { up } else { down };
        let mut cause = if towards.is_empty() { causes.leading() } else { towards.leading() };
        if swap {
            causes = causes.and(Cause::CurrencyChange);
            cause = Cause::CurrencyChange;
        }
        // A set: subscriptions fold at different times, and that must not show.
        let mut events: Vec<&EventId> = parts.iter().flat_map(|part| part.events).collect();
        events.sort_unstable();
        events.dedup();
        ((anchor, currency), Moved { kind, cause, causes, before, after, events })
    });
    Ok(moved.collect())
}

fn movement(
    scope: &Scope,
    customer: &CustomerId,
    (anchor, currency): (EventTime, Currency),
    revision: i64,
    row: &Row,
) -> Movement {
    Movement {
        scope: scope.clone(),
        movement_id: row_id(&[
            b"movement",
            scope.account.as_str().as_bytes(),
            &[u8::from(scope.livemode)],
            customer.as_str().as_bytes(),
            currency.as_str().as_bytes(),
            &anchor.micros().to_le_bytes(),
        ]),
        revision,
        occurred_at: anchor,
        customer_id: customer.clone(),
        currency,
        kind: row.kind,
        cause: row.cause,
        causes: row.causes.led_by(row.cause),
        mrr_before: row.before,
        mrr_after: row.after,
        mrr_delta: Amount::from_micros(row.after.micros() - row.before.micros()),
        event_ids: row.events.clone(),
    }
}

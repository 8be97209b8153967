//! From two values of a subscription to the entries between them, and from entries to rows that are never edited.
//!
//! An entry is the change of one item, on one price, in one currency, at one second. When a replay finds that a second
//! holds other entries than were written, the old ones are reversed and the new ones written beside them.

use serde::{Deserialize, Serialize};

use super::{
    content::{Content, Quantity, insert_tight},
    hash::row_id,
    packing::{Pack, Packer, Unpacker, packed, packed_words},
    rows::{Cause, Delta, LedgerEntry, Measure, OutlookEntry},
    valuation::{Standing, Value, Valued},
};
use crate::{
    money::{Amount, Currency},
    stripe::{
        ids::{CustomerId, EventId, PriceId, ProductId, SubscriptionId, SubscriptionItemId},
        types::{Interval, Scope, SubscriptionStatus},
    },
    time::EventTime,
};

/// A set of causes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Causes(u32);

impl Pack for Causes {
    fn pack(&self, to: &mut Packer) {
        self.0.pack(to);
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        u32::unpack(from).map(Self)
    }
}

packed_words!(Side { Start, End, Change, Imported });

impl Causes {
    pub(crate) fn one(cause: Cause) -> Self {
        Self(1 << cause as u32)
    }

    pub(crate) fn and(self, cause: Cause) -> Self {
        Self(self.0 | 1 << cause as u32)
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, cause: Cause) -> bool {
        self.0 & (1 << cause as u32) != 0
    }

    /// Most telling first.
    pub(crate) fn iter(self) -> impl Iterator<Item = Cause> {
        Cause::ALL.into_iter().filter(move |cause| self.contains(*cause))
    }

    /// `cause` first, then the others, most telling first.
    pub(crate) fn led_by(self, cause: Cause) -> Vec<Cause> {
        let others = self.iter().filter(|other| *other != cause);
        std::iter::once(cause).chain(others).collect()
    }

    /// The first that applies.
    pub(crate) fn leading(self) -> Cause {
        self.iter().next().unwrap_or(Cause::PriceChange)
    }
}

/// What an entry does to its item, as Stripe's event types say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Side {
    Start,
    End,
    Change,
    /// The opening value of something first seen in mid-life.
    Imported,
}

impl Side {
    /// The side with that code.
    pub(crate) fn parse(code: &str) -> Option<Self> {
        [Self::Start, Self::End, Self::Change, Self::Imported].into_iter().find(|side| side.as_str() == code)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::End => "end",
            Self::Change => "change",
            Self::Imported => "imported",
        }
    }
}

/// One change of one item.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Entry {
    pub(crate) measure: Measure,
    pub(crate) item: SubscriptionItemId,
    pub(crate) price: PriceId,
    pub(crate) product: Option<ProductId>,
    pub(crate) currency: Currency,
    pub(crate) cadence: (Interval, u32),
    pub(crate) side: Side,
    pub(crate) causes: Causes,
    pub(crate) list: Amount,
    pub(crate) mrr: Amount,
    pub(crate) quantity: Quantity,
    pub(crate) known_at: EventTime,
}

packed!(Entry { measure, item, price, product, currency, cadence, side, causes, list, mrr, quantity, known_at });

impl Entry {
    fn same_place(&self, other: &Self) -> bool {
        (self.measure, self.currency) == (other.measure, other.currency)
            && self.item == other.item
            && self.price == other.price
    }

    /// Equal but for when it became known, which a replay must not touch.
    fn says_the_same(&self, other: &Self) -> bool {
        self.same_place(other)
            && self.product == other.product
            && self.cadence == other.cadence
            && self.side == other.side
            && self.causes == other.causes
            && self.list == other.list
            && self.mrr == other.mrr
            && self.quantity == other.quantity
    }
}

/// The last entry written for a place in a second.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Slot {
    pub(crate) entry: Entry,
    pub(crate) events: Vec<EventId>,
    /// 1 at first, one more each time another entry is written for the place.
    pub(crate) revision: u32,
    /// False once it has been reversed.
    pub(crate) live: bool,
}

packed!(Slot { entry, events, revision, live });

/// The entries that lead from `before` to `after`, of every figure.
pub(crate) fn between(before: &Valued, after: &Valued, imported: bool) -> Vec<Entry> {
    let mut entries = Vec::new();
    for measure in Measure::ALL {
        between_of(measure, before, after, imported, &mut entries);
    }
    entries
}

fn between_of(measure: Measure, before: &Valued, after: &Valued, imported: bool, entries: &mut Vec<Entry>) {
    let (olds, news) = (before.of(measure), after.of(measure));
    let start = if imported { Side::Imported } else { Side::Start };
    let was_there = belongs(measure, before);
    for old in olds {
        match news.iter().find(|new| new.item == old.item) {
            Some(new) => change(measure, before, after, old, new, entries),
            None => entries.push(entry(measure, old, Side::End, ending(measure, after), &nothing(old), old)),
        }
    }
    for new in news {
        if !olds.iter().any(|old| old.item == new.item) {
            let causes = if was_there { Causes::one(Cause::PlanChange) } else { beginning(measure, before) };
            entries.push(entry(measure, new, start, causes, new, &nothing(new)));
        }
    }
}

/// Whether the subscription as a whole adds to a figure, be it nothing.
fn belongs(measure: Measure, valued: &Valued) -> bool {
    match measure {
        Measure::Mrr => valued.standing.is_counted(),
        Measure::CancelScheduled => valued.standing == Standing::Leaving,
        Measure::Trial => valued.standing == Standing::Trial,
    }
}

fn nothing(value: &Value) -> Value {
    Value { list: Amount::ZERO, mrr: Amount::ZERO, quantity: Quantity::ZERO, ..value.clone() }
}

/// The entry at `place` from `old` to `new`, which are values at that place.
fn entry(measure: Measure, place: &Value, side: Side, causes: Causes, new: &Value, old: &Value) -> Entry {
    let minus = |a: Amount, b: Amount| Amount::from_micros(a.micros() - b.micros());
    Entry {
        measure,
        item: place.item.clone(),
        price: place.price.clone(),
        product: place.product.clone(),
        currency: place.currency,
        cadence: place.cadence,
        side,
        causes,
        list: minus(new.list, old.list),
        mrr: minus(new.mrr, old.mrr),
        quantity: new.quantity.minus(&old.quantity),
        known_at: new.known_at.max(old.known_at),
    }
}

fn change(measure: Measure, before: &Valued, after: &Valued, old: &Value, new: &Value, entries: &mut Vec<Entry>) {
    let mut causes = Causes::default();
    if old.currency != new.currency {
        causes = causes.and(Cause::CurrencyChange);
    }
    if old.price != new.price {
        if old.product != new.product {
            causes = causes.and(Cause::PlanChange);
        }
        if old.cadence != new.cadence {
            causes = causes.and(Cause::IntervalChange);
        }
        if causes.is_empty() {
            causes = causes.and(Cause::PriceChange);
        }
    }
    if old.quantity != new.quantity {
        causes = causes.and(Cause::QuantityChange);
    }
    if old.discounts != new.discounts {
        let off = |value: &Value| value.list.micros() - value.mrr.micros();
        // Of two different discounts the deeper one decides; over different list values, having any does.
        let starts = if old.discounts == 0 || new.discounts == 0 { new.discounts != 0 } else { off(new) > off(old) };
        causes = causes.and(if starts { Cause::DiscountStart } else { Cause::DiscountEnd });
    }
    if causes.is_empty() {
        // Only the catalogue or the tax can have moved it: an amount in another currency that Stripe lets merchants
        // change, or what an invoice told.
        let stays = belongs(measure, before) && belongs(measure, after);
        causes = if stays { Causes::one(Cause::PriceChange) } else { beginning(measure, before) };
    }
    if old.price == new.price && old.currency == new.currency {
        let entry = entry(measure, new, Side::Change, causes, new, old);
        if !entry.mrr.is_zero() || !entry.list.is_zero() || entry.quantity != Quantity::ZERO {
            entries.push(entry);
        }
        return;
    }
    // A change of price is two rows, so that sums by price, product and interval hold.
    entries.push(entry(measure, old, Side::Change, causes, &nothing(old), old));
    entries.push(entry(measure, new, Side::Change, causes, new, &nothing(new)));
}

/// Why a subscription adds to a figure that did not: what it was before (docs/how-we-count.md "Movements", "Trials",
/// "Pauses" and "Cancellations").
fn beginning(measure: Measure, before: &Valued) -> Causes {
    match measure {
        Measure::Mrr => {}
        Measure::Trial => return Causes::one(Cause::TrialStarted),
        Measure::CancelScheduled => return Causes::one(Cause::Canceled),
    }
    let Some(content) = before.content.as_deref() else {
        return Causes::one(Cause::AddedSubscription);
    };
    Causes::one(match &content.status {
        SubscriptionStatus::Trialing => Cause::TrialConverted,
        SubscriptionStatus::Paused | SubscriptionStatus::Unpaid => Cause::Resume,
        SubscriptionStatus::Active | SubscriptionStatus::PastDue if content.cancel_scheduled => Cause::Uncanceled,
        SubscriptionStatus::Active | SubscriptionStatus::PastDue => Cause::Resume,
        _ => Cause::AddedSubscription,
    })
}

/// Why an item no longer adds to a figure: what its subscription is now (docs/how-we-count.md "Movements", "Trials",
/// "Pauses" and "Cancellations").
fn ending(measure: Measure, after: &Valued) -> Causes {
    let Some(content) = after.content.as_deref() else {
        return Causes::one(Cause::Canceled);
    };
    if belongs(measure, after) {
        return Causes::one(Cause::PlanChange);
    }
    match measure {
        Measure::Trial if after.standing.is_counted() => return Causes::one(Cause::TrialConverted),
        Measure::CancelScheduled if after.standing == Standing::Counted => return Causes::one(Cause::Uncanceled),
        _ => {}
    }
    let cause = match &content.status {
        SubscriptionStatus::Unpaid => Cause::PaymentFailure,
        status if !ends_or_pauses(status) => ending_while_active(after, content),
        _ if content.payment_failed => Cause::PaymentFailure,
        SubscriptionStatus::Paused if !after.ended => Cause::Pause,
        SubscriptionStatus::Trialing if !after.ended => Cause::TrialStarted,
        _ => Cause::Canceled,
    };
    let over =
        after.ended || matches!(content.status, SubscriptionStatus::Canceled | SubscriptionStatus::IncompleteExpired);
    let removed = measure == Measure::Mrr && (over || cause == Cause::Canceled);
    if removed { Causes::one(cause).and(Cause::RemovedSubscription) } else { Causes::one(cause) }
}

fn ends_or_pauses(status: &SubscriptionStatus) -> bool {
    !matches!(status, SubscriptionStatus::Active | SubscriptionStatus::PastDue)
}

fn ending_while_active(after: &Valued, content: &Content) -> Cause {
    if !after.ended && !content.cancel_scheduled && content.collection_paused { Cause::Pause } else { Cause::Canceled }
}

/// Whose entries are written, and when.
pub(crate) struct Place<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) customer: &'a CustomerId,
    pub(crate) subscription: &'a SubscriptionId,
    pub(crate) time: EventTime,
    /// `opening` for what lies before the first snapshot, so that it never meets an entry of the same second.
    pub(crate) opening: bool,
    /// When the newest record that led to this replay was appended.
    pub(crate) trigger: EventTime,
}

/// Makes the rows written for a second say `wanted`; reverses what no longer holds. True if anything was written.
pub(crate) fn reconcile(
    slots: &mut Vec<Slot>,
    mut wanted: Vec<Entry>,
    events: &[EventId],
    place: &Place<'_>,
    delta: &mut Delta,
) -> bool {
    if slots.is_empty() && wanted.is_empty() {
        return false;
    }
    let mut written = false;
    for slot in slots.iter_mut().filter(|slot| slot.live) {
        let same = wanted.iter().position(|entry| entry.says_the_same(&slot.entry));
        match same {
            Some(position) if slot.events == events => {
                wanted.swap_remove(position);
            }
            _ => {
                slot.live = false;
                place.publish(slot.entry.measure, place.reversal(slot), delta);
                written = true;
            }
        }
    }
    for entry in wanted {
        written = true;
        let slot = match slots.iter().position(|slot| slot.entry.same_place(&entry)) {
            Some(position) => {
                let slot = &mut slots[position];
                slot.revision += 1;
                slot.live = true;
                slot.entry = entry;
                // It is not known before what made it hold again.
                slot.entry.known_at = slot.entry.known_at.max(place.trigger);
                slot.events = events.to_vec();
                slot
            }
            None => {
                let slot = Slot { entry, events: events.to_vec(), revision: 1, live: true };
                insert_tight(slots, slots.len(), slot);
                let last = slots.len() - 1;
                &mut slots[last]
            }
        };
        place.publish(slot.entry.measure, place.row(slot), delta);
    }
    written
}

impl Place<'_> {
    fn publish(&self, measure: Measure, entry: LedgerEntry, delta: &mut Delta) {
        match measure {
            Measure::Mrr => delta.entries.push(entry),
            _ => delta.outlook.push(OutlookEntry { measure, entry }),
        }
    }

    /// What a slot says, as a row.
    pub(crate) fn row(&self, slot: &Slot) -> LedgerEntry {
        let entry = &slot.entry;
        LedgerEntry {
            scope: self.scope.clone(),
            entry_id: row_id(&[
                self.scope.account.as_str().as_bytes(),
                &[u8::from(self.scope.livemode), u8::from(self.opening)],
                self.customer.as_str().as_bytes(),
                self.subscription.as_str().as_bytes(),
                entry.item.as_str().as_bytes(),
                entry.price.as_str().as_bytes(),
                entry.currency.as_str().as_bytes(),
                entry.measure.as_str().as_bytes(),
                &self.time.micros().to_le_bytes(),
                &slot.revision.to_le_bytes(),
            ]),
            event_time: self.time,
            known_at: entry.known_at,
            reverses_entry_id: None,
            customer_id: self.customer.clone(),
            subscription_id: self.subscription.clone(),
            subscription_item_id: entry.item.clone(),
            price_id: entry.price.clone(),
            product_id: entry.product.clone(),
            currency: entry.currency,
            change: entry.side.as_str().into(),
            cause: entry.causes.leading(),
            causes: entry.causes.iter().collect(),
            interval: entry.cadence.0,
            interval_count: entry.cadence.1,
            list_delta: entry.list,
            discount_delta: Amount::from_micros(entry.mrr.micros() - entry.list.micros()),
            mrr_delta: entry.mrr,
            quantity_delta: entry.quantity.to_rational(),
            event_ids: slot.events.clone(),
        }
    }

    fn reversal(&self, slot: &Slot) -> LedgerEntry {
        let row = self.row(slot);
        LedgerEntry {
            entry_id: row_id(&[b"reversal", row.entry_id.as_bytes()]),
            known_at: row.known_at.max(self.trigger),
            list_delta: -row.list_delta,
            discount_delta: -row.discount_delta,
            mrr_delta: -row.mrr_delta,
            quantity_delta: -row.quantity_delta,
            reverses_entry_id: Some(row.entry_id),
            ..row
        }
    }
}

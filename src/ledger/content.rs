//! What a snapshot of a subscription says about revenue, and nothing else.
//!
//! Everything that moves without touching revenue (a renewed period, metadata) is left out, so that most snapshots of
//! a subscription have equal contents and share one. The fingerprint covers more: every billing field, whole, because
//! the order of snapshots within a second is found by comparing whole states.

use std::{hash::Hasher, sync::Arc};

use num_traits::{Signed, ToPrimitive};

use super::{
    hash::Fingerprint,
    packing::{Pack, Packer, Unpacker, packed},
};
use crate::{
    money::{Currency, Rational},
    stripe::{
        ids::{DiscountId, PriceId, SubscriptionItemId},
        types::{Discount, DiscountRef, Subscription, SubscriptionItem, SubscriptionStatus, TaxRate},
    },
    time::EventTime,
};

/// Units of an item; small whole numbers take no heap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Quantity {
    Whole(i64),
    Exact(Box<Rational>),
}

impl Quantity {
    pub(crate) const ZERO: Self = Self::Whole(0);

    pub(crate) fn to_rational(&self) -> Rational {
        match self {
            Self::Whole(units) => Rational::from_integer((*units).into()),
            Self::Exact(units) => (**units).clone(),
        }
    }

    /// `self − other`
    pub(crate) fn minus(&self, other: &Self) -> Self {
        if let (Self::Whole(a), Self::Whole(b)) = (self, other)
            && let Some(difference) = a.checked_sub(*b)
        {
            return Self::Whole(difference);
        }
        Self::from(&(self.to_rational() - other.to_rational()))
    }

    fn print(&self, print: &mut Fingerprint) {
        match self {
            Self::Whole(units) => {
                print.number(1).number(*units as u64);
            }
            Self::Exact(units) => {
                print.number(2).text(&units.to_string());
            }
        }
    }
}

impl From<&Rational> for Quantity {
    fn from(units: &Rational) -> Self {
        match units.is_integer().then(|| units.numer().to_i64()).flatten() {
            Some(units) => Self::Whole(units),
            None => Self::Exact(Box::new(units.clone())),
        }
    }
}

impl Pack for Quantity {
    fn pack(&self, to: &mut Packer) {
        let (whole, exact) = match self {
            Self::Whole(units) => (Some(*units), None),
            Self::Exact(units) => (None, Some(units)),
        };
        whole.pack(to);
        if let Some(exact) = exact {
            exact.pack(to);
        }
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        Some(match Option::unpack(from)? {
            Some(units) => Self::Whole(units),
            None => Self::Exact(Pack::unpack(from)?),
        })
    }
}

/// One item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) id: SubscriptionItemId,
    pub(crate) price: PriceId,
    pub(crate) quantity: Option<Quantity>,
    pub(crate) discounts: Vec<DiscountId>,
    /// The sum of the tax rates that its amount includes, in percent.
    pub(crate) inclusive_percent: Option<Box<Rational>>,
}

packed!(Item { id, price, quantity, discounts, inclusive_percent });

/// One state of a subscription, as far as revenue goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    /// The fingerprint of the rest: [`print`]. First, because it tells most contents apart.
    pub(crate) print: u64,
    pub(crate) status: SubscriptionStatus,
    pub(crate) currency: Option<Currency>,
    pub(crate) items: Vec<Item>,
    pub(crate) items_truncated: bool,
    pub(crate) discounts: Vec<DiscountId>,
    /// It will end with the current period.
    pub(crate) cancel_scheduled: bool,
    /// It will end later than the current period.
    pub(crate) fixed_term: bool,
    pub(crate) collection_paused: bool,
    /// Stripe says that its end or its pause comes from a payment that failed.
    pub(crate) payment_failed: bool,
    pub(crate) trial_end: Option<EventTime>,
    pub(crate) started: Option<EventTime>,
}

packed!(Content {
    print,
    status,
    currency,
    items,
    items_truncated,
    discounts,
    cancel_scheduled,
    fixed_term,
    collection_paused,
    payment_failed,
    trial_end,
    started,
});

impl Content {
    pub(crate) fn of(subscription: &Subscription) -> Self {
        Self::sketched(subscription, print(subscription))
    }

    /// That of a subscription whose [`print`] is known.
    pub(crate) fn sketched(subscription: &Subscription, print: u64) -> Self {
        let Flags { cancel_scheduled, fixed_term, collection_paused, payment_failed } = Flags::of(subscription);
        Self {
            print,
            status: subscription.status.clone(),
            currency: subscription.currency,
            items: subscription.items.iter().map(|one| item(one, &subscription.tax_rates)).collect(),
            items_truncated: subscription.items_truncated,
            discounts: subscription.discounts.iter().map(discount_key).collect(),
            cancel_scheduled,
            fixed_term,
            collection_paused,
            payment_failed,
            trial_end: subscription.trial_end,
            started: started(subscription),
        }
    }
}

/// The fingerprint of what a subscription says about revenue: of a [`Content`], without making one.
pub(crate) fn print(subscription: &Subscription) -> u64 {
    let mut print = Fingerprint::new();
    print.text(subscription.status.as_str()).text(subscription.currency.as_ref().map_or("", Currency::as_str));
    print.number(subscription.items.len() as u64);
    for item in &subscription.items {
        print.text(item.id.as_str()).text(item.price.id.as_str());
        print_quantity(&mut print, item.quantity.as_ref().map(Quantity::from).as_ref());
        print_discounts(&mut print, &item.discounts);
        match inclusive_percent(item, &subscription.tax_rates) {
            Some(percent) => print.text(&percent.to_string()),
            None => print.number(0),
        };
    }
    print_discounts(&mut print, &subscription.discounts);
    let flags = Flags::of(subscription);
    for flag in [
        subscription.items_truncated,
        flags.cancel_scheduled,
        flags.fixed_term,
        flags.collection_paused,
        flags.payment_failed,
    ] {
        print.number(flag.into());
    }
    print.optional(subscription.trial_end.map(EventTime::micros));
    print.optional(started(subscription).map(EventTime::micros)).finish()
}

/// What follows from several fields.
struct Flags {
    cancel_scheduled: bool,
    fixed_term: bool,
    collection_paused: bool,
    payment_failed: bool,
}

impl Flags {
    fn of(subscription: &Subscription) -> Self {
        let cancel_at = subscription.cancel_at;
        // Portal cancellations in flexible billing set only `cancel_at`, to the end of the current period; a later
        // one is a fixed term (stripe.md §3, revenue.md "scheduled to cancel").
        let within_period = match (cancel_at, period_end(subscription)) {
            (Some(at), Some(end)) => at <= end,
            _ => false,
        };
        let failed = |reason: &Option<String>| reason.as_deref().is_some_and(|reason| reason.starts_with("payment_"));
        Self {
            cancel_scheduled: subscription.cancel_at_period_end || within_period,
            fixed_term: cancel_at.is_some() && !subscription.cancel_at_period_end && !within_period,
            collection_paused: subscription.pause_collection.is_some(),
            payment_failed: failed(&subscription.cancellation_reason) || failed(&subscription.pause_reason),
        }
    }
}

fn started(subscription: &Subscription) -> Option<EventTime> {
    subscription.start_date.or(subscription.created)
}

fn print_quantity(print: &mut Fingerprint, quantity: Option<&Quantity>) {
    match quantity {
        Some(quantity) => quantity.print(print),
        None => {
            print.number(0);
        }
    }
}

fn item(item: &SubscriptionItem, of_subscription: &[TaxRate]) -> Item {
    Item {
        id: item.id.clone(),
        price: item.price.id.clone(),
        quantity: item.quantity.as_ref().map(Quantity::from),
        discounts: item.discounts.iter().map(discount_key).collect(),
        inclusive_percent: inclusive_percent(item, of_subscription).map(Box::new),
    }
}

/// The sum of the tax rates that an item's amount includes, in percent, where there are any.
fn inclusive_percent(item: &SubscriptionItem, of_subscription: &[TaxRate]) -> Option<Rational> {
    let rates = if item.tax_rates.is_empty() { of_subscription } else { &item.tax_rates };
    if rates.is_empty() {
        return None;
    }
    let inclusive: Rational = rates.iter().filter(|rate| rate.inclusive).map(|rate| &rate.percentage).sum();
    inclusive.is_positive().then_some(inclusive)
}

fn period_end(subscription: &Subscription) -> Option<EventTime> {
    subscription.items.iter().filter_map(|item| item.current_period_end).max().max(subscription.current_period_end)
}

/// The key of a discount in the catalogue. Very old shapes have no `di_…`; there the coupon and its dates stand in.
pub(crate) fn discount_key(discount: &DiscountRef) -> DiscountId {
    match discount {
        DiscountRef::Id(id) => id.clone(),
        DiscountRef::Full(discount) => full_discount_key(discount),
    }
}

/// See [`discount_key`].
pub(crate) fn full_discount_key(discount: &Discount) -> DiscountId {
    if let Some(id) = &discount.id {
        return id.clone();
    }
    let coupon = discount.coupon.id();
    let seconds = |time: Option<EventTime>| time.map_or_else(String::new, |time| time.seconds().to_string());
    DiscountId::from(format!("coupon:{coupon}:{}:{}", seconds(discount.start), seconds(discount.end)).as_str())
}

/// The fingerprint of every billing field of a subscription, whole.
pub(crate) fn fingerprint(subscription: &Subscription) -> u64 {
    let mut print = Fingerprint::new();
    let time = |time: Option<EventTime>| time.map(EventTime::micros);
    print.text(subscription.status.as_str());
    print.text(subscription.currency.as_ref().map_or("", Currency::as_str));
    print.number(subscription.items.len() as u64);
    for item in &subscription.items {
        print.text(item.id.as_str()).text(item.price.id.as_str());
        print_quantity(&mut print, item.quantity.as_ref().map(Quantity::from).as_ref());
        print_discounts(&mut print, &item.discounts);
        print_rates(&mut print, &item.tax_rates);
        print.optional(time(item.current_period_end));
    }
    print_discounts(&mut print, &subscription.discounts);
    print_rates(&mut print, &subscription.tax_rates);
    print.optional(time(subscription.current_period_end));
    print.optional(time(subscription.cancel_at)).number(subscription.cancel_at_period_end.into());
    print.optional(time(subscription.canceled_at)).optional(time(subscription.ended_at));
    print.optional(time(subscription.trial_end)).optional(time(subscription.start_date));
    print.text(subscription.pause_collection.as_deref().unwrap_or_default());
    print.text(subscription.cancellation_reason.as_deref().unwrap_or_default());
    print.text(subscription.pause_reason.as_deref().unwrap_or_default());
    print.finish()
}

fn print_rates(print: &mut Fingerprint, rates: &[TaxRate]) {
    print.number(rates.len() as u64);
    for rate in rates {
        print.text(&rate.id).number(rate.inclusive.into());
    }
}

fn print_discounts(print: &mut Fingerprint, discounts: &[DiscountRef]) {
    print.number(discounts.len() as u64);
    for discount in discounts {
        print.text(discount_key(discount).as_str());
    }
}

/// How far along a subscription's life a snapshot is, from fields that only ever move one way.
pub(crate) fn progress(subscription: &Subscription) -> u64 {
    let begun = !matches!(subscription.status, SubscriptionStatus::Incomplete);
    let ended = subscription.ended_at.is_some()
        || matches!(subscription.status, SubscriptionStatus::Canceled | SubscriptionStatus::IncompleteExpired);
    let period = period_end(subscription).map_or(0, |end| end.seconds().clamp(0, 1 << 40)) as u64;
    (u64::from(ended) << 62) | (u64::from(begun) << 61) | period
}

/// Replaces `content` by its equal neighbour, so that one copy is kept.
pub(crate) fn share(content: &mut Arc<Content>, neighbour: Option<&Arc<Content>>) {
    if let Some(neighbour) = neighbour
        && neighbour == content
    {
        *content = Arc::clone(neighbour);
    }
}

/// Adds to a list that mostly stays at one or two: without room to spare while it is short.
pub(crate) fn insert_tight<T>(list: &mut Vec<T>, position: usize, element: T) {
    if list.len() < 8 {
        list.reserve_exact(1);
    }
    list.insert(position, element);
}

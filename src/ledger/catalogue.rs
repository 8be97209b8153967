//! What is known of prices, products, coupons and discounts, and who waits for what is not.
//!
//! Amounts and tiers of a price and the terms of a coupon never change in Stripe, so they hold for all time from their
//! first knowledge on; a body that lacks a part never erases it, and a second, different value is refused and
//! reported. Only `currency_options` have dates, because they can change. The catalogue also keeps the clock of each
//! scope and the instants at which a discount will end without an event.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::content::full_discount_key;
use crate::{
    money::{Currency, Rational},
    stripe::{
        ids::{CouponId, CustomerId, DiscountId, PriceId},
        types::{Coupon, CouponRef, Discount, DiscountRef, Object, Price, Schedule, Subscription},
    },
    time::EventTime,
};

/// Something an entity waits for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) enum Need {
    Price(PriceId),
    Discount(DiscountId),
    Coupon(CouponId),
}

impl Need {
    pub(crate) fn object_id(&self) -> &str {
        match self {
            Self::Price(id) => id.as_str(),
            Self::Discount(id) => id.as_str(),
            Self::Coupon(id) => id.as_str(),
        }
    }
}

/// A thing with the append time of the record that completed it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Known<T> {
    pub(crate) value: T,
    pub(crate) at: EventTime,
}

/// A price with its options by date.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct PriceFacts {
    pub(crate) price: Price,
    /// Unit amounts in other currencies: from when, and how much.
    options: BTreeMap<Currency, Vec<(EventTime, Rational)>>,
}

impl PriceFacts {
    /// The unit amount in `currency`, in its minor units, as it held at `time`.
    pub(crate) fn unit_amount(&self, currency: Currency, time: EventTime) -> Option<&Rational> {
        if self.price.currency == Some(currency) {
            return self.price.unit_amount.as_ref();
        }
        let dated = self.options.get(&currency)?;
        let after = dated.partition_point(|(from, _)| *from <= time);
        dated.get(after.saturating_sub(1)).map(|(_, amount)| amount)
    }
}

/// A discount: which coupon, and when.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct DiscountFacts {
    pub(crate) coupon: CouponId,
    pub(crate) start: Option<EventTime>,
    pub(crate) end: Option<EventTime>,
}

/// What one account and mode has.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Shelf {
    prices: HashMap<PriceId, Known<PriceFacts>>,
    coupons: HashMap<CouponId, Known<Coupon>>,
    discounts: HashMap<DiscountId, Known<DiscountFacts>>,
    waiting: BTreeMap<Need, BTreeSet<CustomerId>>,
    /// What was contradicted, so that each thing is reported once.
    contradicted: BTreeSet<Need>,
    /// When a discount in force will end, and whose.
    timers: BTreeSet<(EventTime, CustomerId)>,
    first_event: Option<EventTime>,
    last_event: EventTime,
}

/// What an event taught.
#[derive(Default)]
pub(crate) struct Lesson {
    /// Things that are now known, or known better.
    pub(crate) learnt: Vec<Need>,
    /// Things that contradict what is known, each the first time.
    pub(crate) conflicts: Vec<Need>,
}

impl Shelf {
    pub(crate) fn price(&self, id: &PriceId) -> Option<&Known<PriceFacts>> {
        self.prices.get(id)
    }

    pub(crate) fn coupon(&self, id: &CouponId) -> Option<&Known<Coupon>> {
        self.coupons.get(id)
    }

    pub(crate) fn discount(&self, id: &DiscountId) -> Option<&Known<DiscountFacts>> {
        self.discounts.get(id)
    }

    /// The greatest event time seen.
    pub(crate) fn now(&self) -> EventTime {
        self.last_event
    }

    /// The least and greatest event time seen.
    pub(crate) fn clock(&self) -> Option<(EventTime, EventTime)> {
        self.first_event.map(|first| (first, self.last_event))
    }

    /// Moves the clock. True if it moved.
    pub(crate) fn tick(&mut self, created: EventTime) -> bool {
        let moves = self.first_event.is_none_or(|first| created < first) || created > self.last_event;
        self.last_event = if self.first_event.is_some() { self.last_event.max(created) } else { created };
        self.first_event = Some(self.first_event.map_or(created, |first| first.min(created)));
        moves
    }

    /// Takes in everything an event's object says about prices, coupons and discounts. True if anything changed.
    pub(crate) fn learn(&mut self, object: &Object, at: EventTime, created: EventTime, lesson: &mut Lesson) -> bool {
        match object {
            Object::Subscription(subscription) => self.learn_subscription(subscription, at, created, lesson),
            Object::Customer(customer) => self.learn_discounts(&customer.discounts, at, lesson),
            Object::Price(price) => self.learn_price(price, at, created, lesson),
            Object::Coupon(coupon) => self.learn_coupon(coupon, at, lesson),
            Object::Discount(discount) => self.learn_discount(discount, at, lesson),
            Object::Invoice(invoice) => {
                let prices = invoice.lines.iter().filter_map(|line| line.price_body.as_deref());
                prices.fold(false, |changed, price| self.learn_price(price, at, created, lesson) || changed)
            }
            Object::Schedule(schedule) => self.learn_schedule(schedule, at, created, lesson),
            _ => false,
        }
    }

    fn learn_schedule(&mut self, schedule: &Schedule, at: EventTime, created: EventTime, lesson: &mut Lesson) -> bool {
        let mut changed = false;
        for phase in &schedule.phases {
            for item in &phase.items {
                changed |= self.learn_price(&item.price, at, created, lesson);
            }
            let of_items = phase.items.iter().flat_map(|item| &item.discounts);
            for discount in of_items.chain(&phase.discounts) {
                if let Some(CouponRef::Full(coupon)) = &discount.coupon {
                    changed |= self.learn_coupon(coupon, at, lesson);
                }
            }
        }
        changed
    }

    /// Takes in what the object before an event says beyond the object itself.
    pub(crate) fn learn_before(
        &mut self,
        before: &Object,
        now: &Object,
        at: EventTime,
        created: EventTime,
        lesson: &mut Lesson,
    ) -> bool {
        let (Object::Subscription(before), Object::Subscription(now)) = (before, now) else {
            return false;
        };
        let mut changed = self.learn_discounts(&before.discounts, at, lesson);
        for item in &before.items {
            if !now.items.iter().any(|other| other.price.id == item.price.id) {
                changed |= self.learn_price(&item.price, at, created, lesson);
            }
            changed |= self.learn_discounts(&item.discounts, at, lesson);
        }
        changed
    }

    fn learn_subscription(
        &mut self,
        subscription: &Subscription,
        at: EventTime,
        created: EventTime,
        lesson: &mut Lesson,
    ) -> bool {
        let mut changed = self.learn_discounts(&subscription.discounts, at, lesson);
        for item in &subscription.items {
            changed |= self.learn_price(&item.price, at, created, lesson);
            changed |= self.learn_discounts(&item.discounts, at, lesson);
        }
        changed
    }

    fn learn_discounts(&mut self, discounts: &[DiscountRef], at: EventTime, lesson: &mut Lesson) -> bool {
        let mut changed = false;
        for discount in discounts {
            if let DiscountRef::Full(discount) = discount {
                changed |= self.learn_discount(discount, at, lesson);
            }
        }
        changed
    }

    fn learn_discount(&mut self, discount: &Discount, at: EventTime, lesson: &mut Lesson) -> bool {
        let (coupon, mut changed) = match &discount.coupon {
            CouponRef::Id(id) => (id.clone(), false),
            CouponRef::Full(coupon) => (coupon.id.clone(), self.learn_coupon(coupon, at, lesson)),
        };
        let key = full_discount_key(discount);
        let facts = DiscountFacts { coupon, start: discount.start, end: discount.end };
        match self.discounts.get_mut(&key) {
            None => {
                self.discounts.insert(key.clone(), Known { value: facts, at });
                lesson.learnt.push(Need::Discount(key));
                changed = true;
            }
            Some(known) if known.value.coupon != facts.coupon => {
                changed |= contradict(&mut self.contradicted, Need::Discount(key), lesson);
            }
            Some(_) => {}
        }
        changed
    }

    fn learn_coupon(&mut self, coupon: &Coupon, at: EventTime, lesson: &mut Lesson) -> bool {
        if coupon.percent_off.is_none() && coupon.amount_off.is_none() {
            return false;
        }
        let Some(known) = self.coupons.get_mut(&coupon.id) else {
            self.coupons.insert(coupon.id.clone(), Known { value: coupon.clone(), at });
            lesson.learnt.push(Need::Coupon(coupon.id.clone()));
            return true;
        };
        let held = &mut known.value;
        if held.percent_off != coupon.percent_off || held.amount_off != coupon.amount_off {
            return contradict(&mut self.contradicted, Need::Coupon(coupon.id.clone()), lesson);
        }
        let mut changed = false;
        // Expandable parts: absent from most bodies.
        if held.applies_to.is_empty() && !coupon.applies_to.is_empty() {
            held.applies_to.clone_from(&coupon.applies_to);
            changed = true;
        }
        for (currency, amount) in &coupon.currency_options {
            if !held.currency_options.contains_key(currency) {
                held.currency_options.insert(*currency, amount.clone());
                changed = true;
            }
        }
        if changed {
            known.at = known.at.max(at);
            lesson.learnt.push(Need::Coupon(coupon.id.clone()));
        }
        changed
    }

    fn learn_price(&mut self, price: &Price, at: EventTime, created: EventTime, lesson: &mut Lesson) -> bool {
        let says_something = price.unit_amount.is_some() || price.tiers.is_some() || price.interval.is_some();
        if !says_something {
            return false;
        }
        let Some(known) = self.prices.get_mut(&price.id) else {
            let options = price.currency_options.iter();
            let options = options.map(|(currency, amount)| (*currency, vec![(created, amount.clone())])).collect();
            let facts = PriceFacts { price: Price { currency_options: BTreeMap::new(), ..price.clone() }, options };
            self.prices.insert(price.id.clone(), Known { value: facts, at });
            lesson.learnt.push(Need::Price(price.id.clone()));
            return true;
        };
        let held = &mut known.value;
        if differs(&held.price.unit_amount, &price.unit_amount)
            || differs(&held.price.tiers, &price.tiers)
            || differs(&held.price.currency, &price.currency)
        {
            return contradict(&mut self.contradicted, Need::Price(price.id.clone()), lesson);
        }
        let mut changed = fill(&mut held.price.unit_amount, &price.unit_amount);
        changed |= fill(&mut held.price.tiers, &price.tiers);
        changed |= fill(&mut held.price.currency, &price.currency);
        changed |= fill(&mut held.price.tiers_mode, &price.tiers_mode);
        changed |= fill(&mut held.price.product, &price.product);
        changed |= fill(&mut held.price.transform_quantity, &price.transform_quantity);
        changed |= fill(&mut held.price.tax_inclusive, &price.tax_inclusive);
        if held.price.interval.is_none() && price.interval.is_some() {
            held.price.interval = price.interval;
            held.price.interval_count = price.interval_count;
            held.price.metered = price.metered;
            changed = true;
        }
        for (currency, amount) in &price.currency_options {
            let dated = held.options.entry(*currency).or_default();
            let at = dated.partition_point(|(from, _)| *from <= created);
            if at.checked_sub(1).and_then(|before| dated.get(before)).is_none_or(|(_, held)| held != amount) {
                // The same amount known from a later date is only known for longer.
                match dated.get_mut(at).filter(|(_, held)| held == amount) {
                    Some(later) => later.0 = created,
                    None => dated.insert(at, (created, amount.clone())),
                }
                changed = true;
            }
        }
        if changed {
            known.at = known.at.max(at);
            lesson.learnt.push(Need::Price(price.id.clone()));
        }
        changed
    }

    /// Notes that `customer` waits for `need`. True if that is new.
    pub(crate) fn wait(&mut self, need: Need, customer: &CustomerId) -> bool {
        self.waiting.entry(need).or_default().insert(customer.clone())
    }

    /// Those who waited for `need`; they are no longer noted.
    pub(crate) fn wake(&mut self, need: &Need) -> BTreeSet<CustomerId> {
        self.waiting.remove(need).unwrap_or_default()
    }

    /// Asks to be reminded of `customer` when the scope's clock reaches `time`. True if that is new.
    pub(crate) fn remind(&mut self, time: EventTime, customer: &CustomerId) -> bool {
        self.timers.insert((time, customer.clone()))
    }

    /// Reminders that are due, with their times.
    pub(crate) fn due(&mut self) -> Vec<(EventTime, CustomerId)> {
        let now = self.last_event;
        let mut due = Vec::new();
        while self.timers.first().is_some_and(|(time, _)| *time <= now) {
            due.extend(self.timers.pop_first());
        }
        due
    }
}

/// Notes a contradiction. True the first time.
fn contradict(contradicted: &mut BTreeSet<Need>, need: Need, lesson: &mut Lesson) -> bool {
    let first = contradicted.insert(need.clone());
    if first {
        lesson.conflicts.push(need);
    }
    first
}

/// Whether both are known and not equal.
fn differs<T: PartialEq>(held: &Option<T>, new: &Option<T>) -> bool {
    matches!((held, new), (Some(held), Some(new)) if held != new)
}

fn fill<T: Clone>(held: &mut Option<T>, new: &Option<T>) -> bool {
    let fills = held.is_none() && new.is_some();
    if fills {
        held.clone_from(new);
    }
    fills
}

//! What is known of prices, products, coupons and discounts, and who waits for what is not.
//!
//! Amounts and tiers of a price and the terms of a coupon never change in Stripe, so they hold for all time from their
//! first knowledge on, and a body that lacks a part never erases it. A second, different value is reported. It replaces
//! the first only when it comes from a better source: an event before a snapshot of the API before a file, and of two
//! files the later one; those who rest on it are then worked out again. Only `currency_options` have dates, because
//! they can change; names and whether a thing is on sale are as last told. The catalogue also keeps the clock of each
//! scope and the instants at which a discount will end without an event.

mod origin;
mod price;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    content::full_discount_key,
    hash::QuickHash,
    listing::{CouponRow, ProductRow},
    rows::{Change, Delta},
};
use crate::{
    stripe::{
        ids::{CouponId, CustomerId, DiscountId, PriceId, ProductId},
        types::{Coupon, CouponRef, Discount, DiscountRef, Object, Price, Product, PromotionCode, Scope, Subscription},
    },
    time::EventTime,
};

pub(crate) use origin::Telling;
use origin::{Origin, Said};
pub(crate) use price::PriceFacts;

/// Promotion codes remembered of one account and mode; past that the oldest goes. A schedule names a code that was made
/// for it; one that is forgotten is a discount that is not known.
pub const MAX_PROMOTIONS: usize = 10_000;

/// Something an entity waits for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) enum Need {
    Price(PriceId),
    Discount(DiscountId),
    Coupon(CouponId),
    /// The coupon that a promotion code stands for.
    Promotion(Arc<str>),
}

impl Need {
    pub(crate) fn object_id(&self) -> &str {
        match self {
            Self::Price(id) => id.as_str(),
            Self::Discount(id) => id.as_str(),
            Self::Coupon(id) => id.as_str(),
            Self::Promotion(id) => id,
        }
    }
}

/// A thing with the append time of the record that completed it, and who said it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Known<T> {
    pub(crate) value: T,
    pub(crate) at: EventTime,
    origin: Origin,
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
    prices: HashMap<PriceId, Known<PriceFacts>, QuickHash>,
    products: HashMap<ProductId, Known<Said<Product>>, QuickHash>,
    coupons: HashMap<CouponId, Known<Coupon>, QuickHash>,
    discounts: HashMap<DiscountId, Known<DiscountFacts>, QuickHash>,
    /// Which coupon a promotion code stands for, which never changes, and when that was appended.
    promotions: HashMap<Arc<str>, (CouponId, EventTime), QuickHash>,
    waiting: BTreeMap<Need, BTreeSet<CustomerId>>,
    /// What was contradicted, so that each thing is reported once.
    contradicted: BTreeSet<Need>,
    /// When a discount in force will end, and whose.
    timers: BTreeSet<(EventTime, CustomerId)>,
    first_event: Option<EventTime>,
    last_event: EventTime,
    /// What the current batch changed, as it was before.
    #[serde(skip)]
    before: Before,
}

/// Things as they were before the current batch.
#[derive(Default)]
struct Before {
    prices: BTreeMap<PriceId, Option<Known<PriceFacts>>>,
    products: BTreeMap<ProductId, Option<Known<Said<Product>>>>,
    coupons: BTreeMap<CouponId, Option<Known<Coupon>>>,
}

/// What an event taught.
#[derive(Default)]
pub(crate) struct Lesson {
    /// Things that are now known, or known better.
    pub(crate) learnt: Vec<Need>,
    /// Things that contradict what is known, each the first time.
    pub(crate) conflicts: Vec<Need>,
    /// Things that were known and are now known otherwise: who rests on them must be worked out again.
    pub(crate) revised: Vec<Need>,
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

    /// The coupon that a promotion code stands for, and when that was appended.
    pub(crate) fn promotion(&self, id: &str) -> Option<&(CouponId, EventTime)> {
        self.promotions.get(id)
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

    /// Takes in everything an event's object says about prices, products, coupons and discounts. True if anything
    /// changed.
    pub(crate) fn learn(&mut self, object: &Object, telling: &Telling, lesson: &mut Lesson) -> bool {
        match object {
            Object::Subscription(subscription) => self.learn_subscription(subscription, telling, lesson),
            Object::Customer(customer) => self.learn_discounts(&customer.discounts, telling, lesson),
            Object::Price(price) => self.learn_price(price, telling, lesson),
            Object::Product(product) => self.learn_product(product, telling),
            Object::Coupon(coupon) => self.learn_coupon(coupon, telling, lesson),
            Object::Discount(discount) => self.learn_discount(discount, telling, lesson),
            Object::PromotionCode(code) => self.learn_promotion(code, telling, lesson),
            Object::Invoice(invoice) => {
                let bodies = invoice.lines.iter().filter_map(|line| line.price_body.as_deref());
                self.learn_prices(bodies, telling, lesson)
            }
            Object::Schedule(schedule) => {
                let items = schedule.phases.iter().flat_map(|phase| &phase.items);
                let mut changed = self.learn_prices(items.map(|item| &item.price), telling, lesson);
                for phase in &schedule.phases {
                    let of_items = phase.items.iter().flat_map(|item| &item.discounts);
                    for discount in phase.discounts.iter().chain(of_items) {
                        changed |= self.learn_coupon_ref(discount.coupon.as_ref(), telling, lesson);
                    }
                }
                changed
            }
            _ => false,
        }
    }

    /// Prices in the body of something else, whose end is not theirs.
    fn learn_prices<'a>(
        &mut self,
        prices: impl Iterator<Item = &'a Price>,
        telling: &Telling,
        lesson: &mut Lesson,
    ) -> bool {
        let telling = &Telling { ends: false, ..*telling };
        prices.fold(false, |changed, price| self.learn_price(price, telling, lesson) | changed)
    }

    fn learn_promotion(&mut self, code: &PromotionCode, telling: &Telling, lesson: &mut Lesson) -> bool {
        let changed = self.learn_coupon_ref(code.coupon.as_ref(), telling, lesson);
        let Some(coupon) = code.coupon.as_ref().map(CouponRef::id) else { return changed };
        if self.promotions.contains_key(code.id.as_str()) {
            return changed;
        }
        if self.promotions.len() >= MAX_PROMOTIONS {
            let oldest = self.promotions.iter().min_by_key(|(id, (_, at))| (*at, Arc::clone(id)));
            if let Some(oldest) = oldest.map(|(id, _)| Arc::clone(id)) {
                self.promotions.remove(&oldest);
            }
        }
        let id: Arc<str> = code.id.as_str().into();
        self.promotions.insert(Arc::clone(&id), (coupon.clone(), telling.at));
        lesson.learnt.push(Need::Promotion(id));
        true
    }

    fn learn_coupon_ref(&mut self, coupon: Option<&CouponRef>, telling: &Telling, lesson: &mut Lesson) -> bool {
        match coupon {
            Some(CouponRef::Full(coupon)) => self.learn_coupon(coupon, telling, lesson),
            _ => false,
        }
    }

    /// Takes in what the object before an event says beyond the object itself.
    pub(crate) fn learn_before(
        &mut self,
        before: &Object,
        now: &Object,
        telling: &Telling,
        lesson: &mut Lesson,
    ) -> bool {
        let (Object::Subscription(before), Object::Subscription(now)) = (before, now) else {
            return false;
        };
        let mut changed = self.learn_discounts(&before.discounts, telling, lesson);
        for item in &before.items {
            if !now.items.iter().any(|other| other.price.id == item.price.id) {
                changed |= self.learn_price(&item.price, telling, lesson);
            }
            changed |= self.learn_discounts(&item.discounts, telling, lesson);
        }
        changed
    }

    fn learn_subscription(&mut self, subscription: &Subscription, telling: &Telling, lesson: &mut Lesson) -> bool {
        let mut changed = self.learn_discounts(&subscription.discounts, telling, lesson);
        changed |= self.learn_prices(subscription.items.iter().map(|item| &item.price), telling, lesson);
        for item in &subscription.items {
            changed |= self.learn_discounts(&item.discounts, telling, lesson);
        }
        changed
    }

    fn learn_discounts(&mut self, discounts: &[DiscountRef], telling: &Telling, lesson: &mut Lesson) -> bool {
        let mut changed = false;
        for discount in discounts {
            if let DiscountRef::Full(discount) = discount {
                changed |= self.learn_discount(discount, telling, lesson);
            }
        }
        changed
    }

    fn learn_discount(&mut self, discount: &Discount, telling: &Telling, lesson: &mut Lesson) -> bool {
        let coupon = discount.coupon.id().clone();
        let mut changed = self.learn_coupon_ref(Some(&discount.coupon), telling, lesson);
        let key = full_discount_key(discount);
        let facts = DiscountFacts { coupon, start: discount.start, end: discount.end };
        let Telling { at, origin, .. } = *telling;
        match self.discounts.get_mut(&key) {
            None => {
                self.discounts.insert(key.clone(), Known { value: facts, at, origin });
                lesson.learnt.push(Need::Discount(key));
                changed = true;
            }
            Some(known) if known.value.coupon != facts.coupon => {
                changed |= contradict(&mut self.contradicted, Need::Discount(key.clone()), lesson);
                if origin.beats(known.origin) {
                    *known = Known { value: facts, at: known.at.max(at), origin };
                    lesson.revised.push(Need::Discount(key));
                    changed = true;
                }
            }
            Some(known) => changed |= known.origin.confirm(origin),
        }
        changed
    }

    fn learn_coupon(&mut self, coupon: &Coupon, telling: &Telling, lesson: &mut Lesson) -> bool {
        if coupon.percent_off.is_none() && coupon.amount_off.is_none() {
            return false;
        }
        let Telling { at, origin, .. } = *telling;
        let need = || Need::Coupon(coupon.id.clone());
        let Some(known) = self.coupons.get_mut(&coupon.id) else {
            self.before.coupons.entry(coupon.id.clone()).or_insert(None);
            self.coupons.insert(coupon.id.clone(), Known { value: coupon.clone(), at, origin });
            lesson.learnt.push(need());
            return true;
        };
        let mut next = known.clone();
        let held = &mut next.value;
        let mut changed = false;
        let mut revised = false;
        if held.percent_off != coupon.percent_off || held.amount_off != coupon.amount_off {
            changed = contradict(&mut self.contradicted, need(), lesson);
            if !origin.beats(known.origin) {
                return changed;
            }
            let Coupon { applies_to, currency_options, .. } = std::mem::replace(held, coupon.clone());
            if held.applies_to.is_empty() {
                held.applies_to = applies_to;
            }
            for (currency, amount) in currency_options {
                held.currency_options.entry(currency).or_insert(amount);
            }
            next.origin = origin;
            revised = true;
        } else {
            // Expandable parts: absent from most bodies.
            if held.applies_to.is_empty() && !coupon.applies_to.is_empty() {
                held.applies_to.clone_from(&coupon.applies_to);
                revised = true;
            }
            for (currency, amount) in &coupon.currency_options {
                if !held.currency_options.contains_key(currency) {
                    held.currency_options.insert(*currency, amount.clone());
                    revised = true;
                }
            }
            changed |= next.origin.confirm(origin);
        }
        if revised {
            next.at = next.at.max(at);
            lesson.learnt.push(need());
            lesson.revised.push(need());
        }
        if revised || changed {
            let before = std::mem::replace(known, next);
            self.before.coupons.entry(coupon.id.clone()).or_insert(Some(before));
        }
        revised || changed
    }

    fn learn_product(&mut self, product: &Product, telling: &Telling) -> bool {
        let Telling { at, origin, ends } = *telling;
        let mut told = product.clone();
        if ends {
            told.active = Some(false);
        }
        let Some(known) = self.products.get_mut(&product.id) else {
            self.before.products.entry(product.id.clone()).or_insert(None);
            let value = Said::of(told, origin);
            self.products.insert(product.id.clone(), Known { value, at, origin });
            return true;
        };
        // A tombstone has no name; what it was called stays.
        told.name = told.name.or_else(|| known.value.what.name.clone());
        told.active = told.active.or(known.value.what.active);
        let before = known.clone();
        if !known.value.hear(told, origin, |product| (product.name.clone(), product.active)) {
            return false;
        }
        if known.value.what != before.value.what {
            known.at = known.at.max(at);
        }
        known.origin = known.value.origin;
        self.before.products.entry(product.id.clone()).or_insert(Some(before));
        true
    }

    fn learn_price(&mut self, price: &Price, telling: &Telling, lesson: &mut Lesson) -> bool {
        let says_something = price.unit_amount.is_some() || price.tiers.is_some() || price.interval.is_some();
        if !says_something {
            return false;
        }
        let Telling { at, origin, .. } = *telling;
        let need = || Need::Price(price.id.clone());
        let Some(known) = self.prices.get_mut(&price.id) else {
            self.before.prices.entry(price.id.clone()).or_insert(None);
            let value = PriceFacts::of(price, telling);
            self.prices.insert(price.id.clone(), Known { value, at, origin });
            lesson.learnt.push(need());
            return true;
        };
        if known.value.knows(price, telling) {
            return known.value.heard_again(price, telling);
        }
        let before = known.clone();
        let taken = known.value.take(price, telling);
        let mut changed = *known != before;
        if taken.filled || taken.revised {
            known.at = known.at.max(at);
            lesson.learnt.push(need());
        }
        if taken.revised {
            lesson.revised.push(need());
        }
        if changed {
            self.before.prices.entry(price.id.clone()).or_insert(Some(before));
        }
        if taken.contradicted {
            changed |= contradict(&mut self.contradicted, need(), lesson);
        }
        changed
    }

    /// The rows that the current batch changed.
    pub(crate) fn list_changes(&mut self, scope: &Scope, delta: &mut Delta) {
        let Before { prices, products, coupons } = std::mem::take(&mut self.before);
        for (id, before) in prices {
            let row = |known: &Known<PriceFacts>| known.value.row(scope, known.at);
            push(&mut delta.prices, before.as_ref().map(row), self.prices.get(&id).map(row));
        }
        for (id, before) in products {
            let row = |known: &Known<Said<Product>>| ProductRow::of(scope, known);
            push(&mut delta.products, before.as_ref().map(row), self.products.get(&id).map(row));
        }
        for (id, before) in coupons {
            let row = |known: &Known<Coupon>| CouponRow::of(scope, known);
            push(&mut delta.coupons, before.as_ref().map(row), self.coupons.get(&id).map(row));
        }
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

    /// Whether any reminder is due.
    pub(crate) fn is_due(&self) -> bool {
        self.timers.first().is_some_and(|(time, _)| *time <= self.last_event)
    }

    /// Reminders that are due, with their times.
    pub(crate) fn due(&mut self) -> Vec<(EventTime, CustomerId)> {
        let mut due = Vec::new();
        while self.is_due() {
            due.extend(self.timers.pop_first());
        }
        due
    }
}

impl ProductRow {
    fn of(scope: &Scope, known: &Known<Said<Product>>) -> Self {
        let product = &known.value.what;
        Self {
            scope: scope.clone(),
            product_id: product.id.clone(),
            name: product.name.clone(),
            active: product.active,
            provenance: known.value.origin.provenance,
            known_at: known.at,
        }
    }
}

impl CouponRow {
    fn of(scope: &Scope, known: &Known<Coupon>) -> Self {
        Self {
            scope: scope.clone(),
            coupon: known.value.clone(),
            provenance: known.origin.provenance,
            known_at: known.at,
        }
    }
}

/// Notes a change of a row, if it is one.
fn push<T: PartialEq>(changes: &mut Vec<Change<T>>, before: Option<T>, after: Option<T>) {
    if before != after {
        changes.push(Change { before, after });
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

//! What is known of prices, products, coupons and discounts, and who waits for what is not.
//!
//! Amounts and tiers of a price and the terms of a coupon never change in Stripe, so they hold for all time from their
//! first knowledge on, and a body that lacks a part never erases it. A second, different value is reported. It replaces
//! the first only when it comes from a better source: an event before a snapshot of the API before a file, of two
//! events the one that Stripe made first, and of two files the later one; those who rest on it are then worked out
//! again. `currency_options` and what coupon a discount is of have dates, because they can change; names and whether a
//! thing is on sale are as last told. The id of a coupon can be given again after it was deleted, so a discount that
//! came with its coupon keeps those terms. The catalogue also keeps the clock of each scope and the instants at which a
//! discount will end without an event.

mod coupon;
mod dated;
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

pub(crate) use coupon::DiscountFacts;
use coupon::{complete, says_terms, terms_print};
use dated::{Dated, Told};
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

/// What is known otherwise than before, with each whether a better source has corrected it.
pub(crate) type Needs = BTreeMap<Need, bool>;

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

/// What one account and mode has.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Shelf {
    prices: HashMap<PriceId, Known<PriceFacts>, QuickHash>,
    products: HashMap<ProductId, Known<Said<Product>>, QuickHash>,
    coupons: HashMap<CouponId, Known<Coupon>, QuickHash>,
    /// Coupons whose id was given to another before or after, by the fingerprint of their terms.
    namesakes: HashMap<CouponId, BTreeMap<u64, Known<Coupon>>, QuickHash>,
    discounts: HashMap<DiscountId, Dated<DiscountFacts>, QuickHash>,
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
    /// Things that were known and are now known otherwise: who rests on them must be worked out again. With each
    /// whether a better source has corrected it.
    pub(crate) revised: Vec<(Need, bool)>,
}

impl Shelf {
    pub(crate) fn price(&self, id: &PriceId) -> Option<&Known<PriceFacts>> {
        self.prices.get(id)
    }

    pub(crate) fn coupon(&self, id: &CouponId) -> Option<&Known<Coupon>> {
        self.coupons.get(id)
    }

    /// The coupon that a discount is of: the terms it came with, whatever its id stands for elsewhere.
    pub(crate) fn coupon_of(&self, discount: &DiscountFacts) -> Option<&Known<Coupon>> {
        let namesakes = self.namesakes.get(&discount.coupon);
        let own = namesakes.and_then(|namesakes| namesakes.get(&discount.terms?));
        own.or_else(|| self.coupon(&discount.coupon))
    }

    /// A discount as it was at `time`.
    pub(crate) fn discount(&self, id: &DiscountId, time: EventTime) -> Option<&DiscountFacts> {
        self.discounts.get(id)?.at(time)
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
        let earlier = &telling.before();
        let (before, now) = match (before, now) {
            (Object::Subscription(before), Object::Subscription(now)) => (before, now),
            (Object::Customer(before), _) => return self.learn_discounts(&before.discounts, earlier, lesson),
            (Object::Discount(before), _) => return self.learn_discount(before, earlier, lesson),
            (Object::Price(before), Object::Price(now)) => {
                let told = before.tax_inclusive.is_none() && now.tax_inclusive.is_some();
                return told && self.learn_tax(now, telling, lesson);
            }
            _ => return false,
        };
        let mut changed = self.learn_discounts(&before.discounts, earlier, lesson);
        for item in &before.items {
            if !now.items.iter().any(|other| other.price.id == item.price.id) {
                changed |= self.learn_price(&item.price, telling, lesson);
            }
            changed |= self.learn_discounts(&item.discounts, earlier, lesson);
        }
        changed
    }

    /// Takes note that a price was open until now as to whether its amounts include tax.
    fn learn_tax(&mut self, price: &Price, telling: &Telling, lesson: &mut Lesson) -> bool {
        let news = self.prices.get_mut(&price.id).is_some_and(|known| known.value.taxed_since(telling.origin.time));
        if news {
            lesson.revised.push((Need::Price(price.id.clone()), false));
        }
        news
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
        let mut changed = self.learn_coupon_ref(Some(&discount.coupon), telling, lesson);
        let key = full_discount_key(discount);
        let Telling { at, origin, .. } = *telling;
        let facts = DiscountFacts::of(discount, at);
        let Some(known) = self.discounts.get_mut(&key) else {
            self.discounts.insert(key.clone(), Dated::new(origin.time, facts));
            lesson.learnt.push(Need::Discount(key));
            return true;
        };
        match known.tell(origin.time, facts) {
            Told::Nothing => {}
            Told::Again => changed = true,
            Told::Otherwise => {
                lesson.revised.push((Need::Discount(key), false));
                changed = true;
            }
        }
        changed
    }

    fn learn_coupon(&mut self, coupon: &Coupon, telling: &Telling, lesson: &mut Lesson) -> bool {
        if !says_terms(coupon) {
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
        if (&known.value.percent_off, &known.value.amount_off) != (&coupon.percent_off, &coupon.amount_off) {
            let first = contradict(&mut self.contradicted, need(), lesson);
            return self.learn_namesake(Known { value: coupon.clone(), at, origin }, lesson) || first;
        }
        let mut next = known.clone();
        let completed = complete(&mut next.value, coupon);
        let confirmed = next.origin.confirm(origin);
        if completed {
            next.at = next.at.max(at);
            lesson.learnt.push(need());
            lesson.revised.push((need(), false));
        }
        if completed || confirmed {
            let before = std::mem::replace(known, next);
            self.before.coupons.entry(coupon.id.clone()).or_insert(Some(before));
        }
        completed || confirmed
    }

    /// Takes in other terms than those that a coupon's id stands for. What was said by the better source, or first, is
    /// what it stands for; discounts that came with the other terms keep them.
    fn learn_namesake(&mut self, told: Known<Coupon>, lesson: &mut Lesson) -> bool {
        let id = told.value.id.clone();
        let Some(known) = self.coupons.get_mut(&id) else { return false };
        let namesakes = self.namesakes.entry(id.clone()).or_default();
        let mut changed = true;
        let mut completed = false;
        let mut named = match namesakes.remove(&terms_print(&told.value)) {
            None => told,
            Some(mut named) => {
                completed = complete(&mut named.value, &told.value);
                changed = named.origin.confirm(told.origin) || completed;
                named.at = if completed { named.at.max(told.at) } else { named.at };
                named
            }
        };
        let corrected = named.origin.beats(known.origin);
        if corrected {
            self.before.coupons.entry(id.clone()).or_insert_with(|| Some(known.clone()));
            named.at = named.at.max(known.at);
            std::mem::swap(known, &mut named);
        }
        namesakes.insert(terms_print(&named.value), named);
        if corrected || completed {
            lesson.learnt.push(Need::Coupon(id.clone()));
            lesson.revised.push((Need::Coupon(id), corrected));
        }
        changed || corrected
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
            lesson.revised.push((need(), taken.corrected));
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

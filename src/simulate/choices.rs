//! What customers decide: to buy more or less, to leave, to stay after all, to come back.

use std::io;

use rand::{Rng, seq::IndexedRandom};

use super::{
    account::{Customer, Item, Line, SUBSCRIPTIONS, Slot, Status, Subscription, by_quantity},
    amount::{Interval, PARTS},
    catalog::{Duration, Plan},
    hazard::{CONTRACTION, Features},
    outbox::By,
    shapes,
    truth::{DAY, Hazard},
    world::{Act, Target, World},
};

/// Of customers who leave: at once, not at the period's end.
const LEAVES_AT_ONCE: f64 = 0.3;
const CHANGES_MIND: f64 = 0.08;
/// Of scheduled ends: asked for in the customer portal, which writes a date.
const BY_DATE: f64 = 0.25;
const COMES_BACK: f64 = 0.2;
/// Of customers gone and not to come back.
const DELETED: f64 = 0.15;
/// The coupon given to keep a customer: the catalogue's first.
const KEEP_COUPON: usize = 0;
/// Monthly chances of lesser things.
const PAUSES_COLLECTION: f64 = 0.003;
const LOSES_DISCOUNT: f64 = 0.01;
const GETS_DISCOUNT: f64 = 0.004;
const CHANGES_ADDRESS: f64 = 0.02;
/// Of changes: made, taken back and made again within one second.
const SECOND_THOUGHTS: f64 = 0.06;
const FREE_UPGRADES: f64 = 0.08;
const FEEDBACK: [(&str, Option<&str>); 5] = [
    ("too_expensive", None),
    ("unused", Some("We have no use for it any more. Please call Ms Weber, +49305550123, about our data.")),
    ("missing_features", None),
    ("switched_service", Some("Moved to another vendor.")),
    ("customer_service", None),
];

impl World<'_> {
    /// Draws what a customer at risk does in a month.
    pub(super) fn draw_month(&mut self, customer: u32, now: i64, next: i64, hazard: &Hazard, features: &Features) {
        let target = Target { customer, slot: 0, generation: 0 };
        for (probability, act) in [
            (hazard.voluntary, Act::Leave),
            (hazard.expansion, Act::Expand),
            (CONTRACTION.probability(features), Act::Contract),
            (CHANGES_ADDRESS, Act::Touch),
        ] {
            if self.chance(probability) {
                let at = self.rng.random_range(now..next);
                self.plan(at, act, target);
            }
        }
        for slot in 0..SUBSCRIPTIONS as u8 {
            let Some(held) = self.slot(Target { slot, ..target }) else {
                continue;
            };
            let target = Target { slot, generation: held.subscription.generation, ..target };
            let at = self.rng.random_range(now..next);
            if self.chance(PAUSES_COLLECTION) {
                self.plan(at, Act::PauseCollection, target);
            }
            let forever = |subscription: &Subscription| {
                subscription.discount.is_some_and(|of| self.catalog.coupons[of.coupon].duration == Duration::Forever)
            };
            if forever(&held.subscription) && self.chance(LOSES_DISCOUNT) {
                self.plan(at, Act::DiscountEnd, target);
            }
            if held.subscription.discount.is_none() && self.chance(GETS_DISCOUNT) {
                self.plan(at, Act::DiscountStart, target);
            }
        }
    }

    /// Draws what a customer who pays nothing does in a month.
    pub(super) fn draw_free_month(&mut self, customer: u32, now: i64, next: i64) {
        let target = Target { customer, slot: 0, generation: 0 };
        let free = self.slot(target).is_some_and(|slot| {
            slot.subscription.items()[0].plan == Plan::Free
                && slot.subscription.status == Status::Active
                && !slot.subscription.at_period_end
        });
        if free && self.chance(FREE_UPGRADES) {
            let at = self.rng.random_range(now..next);
            self.plan(at, Act::Expand, target);
        }
    }

    /// A subscription that is live and not ending, the first one first.
    fn live(&self, customer: u32) -> Option<(Target, Slot)> {
        (0..SUBSCRIPTIONS as u8).find_map(|slot| {
            let target = Target { customer, slot, generation: 0 };
            let held = self.slot(target)?;
            let live = matches!(held.subscription.status, Status::Active | Status::PastDue)
                && !held.subscription.at_period_end;
            live.then_some((Target { generation: held.subscription.generation, ..target }, held))
        })
    }

    fn empty_slot(&self, customer: u32) -> Option<u8> {
        self.customers[customer as usize].slots.iter().position(Option::is_none).map(|at| at as u8)
    }

    /// The customer buys more: MRR surely grows.
    pub(super) fn expand(&mut self, customer: u32, now: i64) -> io::Result<()> {
        let Some((target, held)) = self.live(customer) else {
            return Ok(());
        };
        let old = held.subscription;
        let mut new = old;
        let first = old.items()[0];
        let roll: f64 = self.rng.random();
        if !by_quantity(first.plan) || roll > 0.8 {
            if roll < 0.5
                && let Some((plan, quantity)) = self.upgrade(first.plan)
            {
                *new.item_mut(0) = Item { plan, quantity, ..first };
            } else if roll < 0.75
                && let Some(plan) = add_on(&old)
            {
                let id = self.ids.short("si_");
                new.add(Item { id, plan, quantity: 1, created: now });
            } else if let Some(slot) = self.empty_slot(customer).filter(|_| first.plan != Plan::Free) {
                return self.subscribe_second(customer, slot, now);
            }
        }
        // By quantity, and where nothing else made it worth more: until it is.
        let mut quantity = first.quantity;
        while new.value(&self.catalog) <= old.value(&self.catalog) {
            let more = f64::from(quantity) * self.rng.random_range(0.1..0.6);
            quantity += (more as u32).max(1);
            if first.plan == Plan::Free {
                new.item_mut(0).plan = Plan::StarterMonth;
            } else {
                new.item_mut(0).quantity = quantity;
            }
        }
        if new.items()[0].quantity > first.quantity {
            self.customer(target).grew = now;
        }
        let prorations = self.prorations(&old, &new, now);
        if self.chance(SECOND_THOUGHTS) {
            self.commit(target, &new, "customer.subscription.updated", now, By::Merchant)?;
            self.commit(target, &old, "customer.subscription.updated", now, By::Merchant)?;
        }
        self.commit(target, &new, "customer.subscription.updated", now, By::Merchant)?;
        let Some(lines) = prorations else { return Ok(()) };
        if held.prorations.is_some() {
            return Ok(());
        }
        for line in &lines {
            self.tell(customer, "invoiceitem.created", now, By::Merchant, false, &|out, frame, customer, _| {
                shapes::proration(out, frame, customer.id, &new, line, now);
            })?;
        }
        if let Some(slot) = self.customer(target).slots[usize::from(target.slot)].as_mut() {
            slot.prorations = Some(lines);
        }
        Ok(())
    }

    fn upgrade(&mut self, plan: Plan) -> Option<(Plan, u32)> {
        Some(match plan {
            Plan::Free => (Plan::StarterMonth, 1),
            Plan::StarterMonth => (Plan::ProMonth, 1),
            Plan::ProMonth => (Plan::TeamMonth, self.rng.random_range(5..12)),
            Plan::StarterYear => (Plan::ProYear, 1),
            Plan::ProYear => (Plan::TeamYear, self.rng.random_range(5..12)),
            _ => return None,
        })
    }

    /// What changing the first item in mid-period costs: unused time back, remaining time charged.
    fn prorations(&mut self, old: &Subscription, new: &Subscription, now: i64) -> Option<[Line; 2]> {
        let (from, to) = (old.items()[0], new.items()[0]);
        if (from.plan, from.quantity) == (to.plan, to.quantity) || old.period.1 <= now {
            return None;
        }
        let left = i128::from(old.period.1 - now);
        let whole = i128::from(old.period.1 - old.period.0) * PARTS;
        let mut line = |of: &Subscription, item: Item, sign: i64| Line {
            id: self.ids.long("il_"),
            item: item.id,
            plan: item.plan,
            quantity: item.quantity,
            amount: sign * (of.price(&self.catalog, 0).rate.list(item.quantity) * left / whole) as i64,
            discount: 0,
            tax: 0,
            period: (now, old.period.1),
            proration: Some(self.ids.long("ii_")),
        };
        Some([line(old, from, -1), line(new, to, 1)])
    }

    /// The customer buys less but stays, where that is possible.
    pub(super) fn contract(&mut self, customer: u32, now: i64) -> io::Result<()> {
        let Some((target, held)) = self.live(customer) else {
            return Ok(());
        };
        let second = Target { customer, slot: 1, generation: 0 };
        let roll: f64 = self.rng.random();
        if roll < 0.4
            && let Some(other) = self.slot(second).filter(|other| target.slot == 0 && other.subscription.counts())
        {
            self.customer(target).contracted = now;
            let second = Target { generation: other.subscription.generation, ..second };
            return self.cancel(second, other, true, now);
        }
        let old = held.subscription;
        let first = old.items()[0];
        let mut new = old;
        let to_year = match first.plan {
            Plan::StarterMonth => Some(Plan::StarterYear),
            Plan::ProMonth => Some(Plan::ProYear),
            _ => None,
        };
        if roll < 0.6 && new.remove_last() {
            // The add-on goes.
        } else if by_quantity(first.plan) && first.quantity > 1 {
            let share = self.rng.random_range(0.1..0.4);
            new.item_mut(0).quantity = first.quantity - ((f64::from(first.quantity) * share) as u32).max(1);
        } else if let Some(plan) = to_year
            && old.items().len() == 1
            && held.open.is_none()
            && old.status == Status::Active
        {
            *new.item_mut(0) = Item { plan, ..first };
            new.anchor = now;
            new.periods = 0;
            new.set_period(&self.catalog);
        } else if first.quantity > 1 {
            new.item_mut(0).quantity -= 1;
        } else {
            new.item_mut(0).plan = match first.plan {
                Plan::ProMonth => Plan::StarterMonth,
                Plan::ProYear => Plan::StarterYear,
                _ => return Ok(()),
            };
        }
        let value = new.value(&self.catalog);
        if value <= 0 || value >= old.value(&self.catalog) {
            return Ok(());
        }
        self.customer(target).contracted = now;
        if new.period == old.period {
            return self.commit(target, &new, "customer.subscription.updated", now, By::Merchant);
        }
        // Another interval: a new period begins and is paid at once.
        let invoice = self.draft(target, &mut new, "subscription_update", now, None);
        self.commit(target, &new, "customer.subscription.updated", now, By::Merchant)?;
        self.issue(target, invoice, now)?;
        self.plan(new.period.1, Act::Renew, target);
        self.attempt(target, now, Some(true))
    }

    /// The customer asks for everything to end.
    pub(super) fn leave(&mut self, customer: u32, now: i64) -> io::Result<()> {
        let at_once = self.chance(LEAVES_AT_ONCE);
        for slot in 0..SUBSCRIPTIONS as u8 {
            let target = Target { customer, slot, generation: 0 };
            let Some(held) = self.slot(target) else { continue };
            let of = held.subscription;
            if of.at_period_end || !matches!(of.status, Status::Active | Status::PastDue | Status::Trialing) {
                continue;
            }
            let weekly = of.price(&self.catalog, 0).interval == Interval::Week;
            let target = Target { generation: of.generation, ..target };
            self.cancel(target, held, at_once || weekly || of.status == Status::PastDue, now)?;
        }
        Ok(())
    }

    /// A subscription is canceled at once or at the end of its period.
    pub(super) fn cancel(&mut self, target: Target, mut held: Slot, at_once: bool, now: i64) -> io::Result<()> {
        let (feedback, comment) = FEEDBACK.choose(&mut self.rng).copied().unwrap_or(("other", None));
        let new = &mut held.subscription;
        new.canceled_at = Some(now);
        new.reason = Some("cancellation_requested");
        new.feedback = Some(feedback);
        new.comment = comment;
        if at_once {
            return self.end(target, held, now, By::Merchant);
        }
        new.at_period_end = true;
        new.by_date = self.chance(BY_DATE);
        self.commit(target, new, "customer.subscription.updated", now, By::Merchant)?;
        if self.chance(CHANGES_MIND) && new.period.1 - now > 2 {
            let at = self.rng.random_range(now + 1..new.period.1);
            self.plan(at, Act::Uncancel, target);
        }
        Ok(())
    }

    /// A scheduled cancellation is taken back.
    pub(super) fn uncancel(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(Slot { mut subscription, .. }) = self.slot(target) else {
            return Ok(());
        };
        if !subscription.at_period_end {
            return Ok(());
        }
        subscription.at_period_end = false;
        subscription.by_date = false;
        subscription.canceled_at = None;
        (subscription.reason, subscription.feedback, subscription.comment) = (None, None, None);
        self.commit(target, &subscription, "customer.subscription.updated", now, By::Merchant)
    }

    /// A subscription is over; its customer may come back.
    pub(super) fn end(&mut self, target: Target, held: Slot, now: i64, by: By) -> io::Result<()> {
        let mut new = held.subscription;
        new.status = Status::Canceled;
        new.ended_at = Some(now);
        self.void_open(target, now)?;
        self.commit(target, &new, "customer.subscription.deleted", now, by)?;
        let gone = self.customer(target).slots.iter().all(Option::is_none);
        if gone && self.chance(COMES_BACK) {
            let at = now + self.rng.random_range(10 * DAY..150 * DAY);
            self.plan(at, Act::Subscribe, target);
        } else if gone && self.chance(DELETED) {
            self.customer(target).deleted = true;
            let later = self.rng.random_range(0..3);
            self.plan(now + later, Act::Delete, target);
        }
        Ok(())
    }

    /// A discount for ever, to keep a customer.
    pub(super) fn start_discount(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(Slot { mut subscription, .. }) = self.slot(target) else {
            return Ok(());
        };
        if subscription.discount.is_some() || !matches!(subscription.status, Status::Active | Status::PastDue) {
            return Ok(());
        }
        subscription.discount = Some(self.apply(KEEP_COUPON, now));
        self.commit(target, &subscription, "customer.subscription.updated", now, By::Merchant)?;
        self.tell_discount(target, &subscription, "customer.discount.created", now)
    }

    /// A discount's time is over, or it is taken away.
    pub(super) fn end_discount(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(Slot { subscription: old, .. }) = self.slot(target) else {
            return Ok(());
        };
        if old.discount.is_none() || old.status == Status::Incomplete {
            return Ok(());
        }
        let new = Subscription { discount: None, ..old };
        self.commit(target, &new, "customer.subscription.updated", now, By::Stripe)?;
        self.tell_discount(target, &old, "customer.discount.deleted", now)
    }

    pub(super) fn pause_collection(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(Slot { mut subscription, open, .. }) = self.slot(target) else {
            return Ok(());
        };
        if subscription.status != Status::Active || open.is_some() {
            return Ok(());
        }
        let until = now + self.rng.random_range(20..60) * DAY;
        subscription.collection_paused_until = Some(until);
        self.commit(target, &subscription, "customer.subscription.updated", now, By::Merchant)?;
        self.plan(until, Act::ResumeCollection, target);
        Ok(())
    }

    pub(super) fn resume_collection(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(Slot { mut subscription, .. }) = self.slot(target) else {
            return Ok(());
        };
        if subscription.collection_paused_until.take().is_none() {
            return Ok(());
        }
        self.commit(target, &subscription, "customer.subscription.updated", now, By::Stripe)
    }

    /// The merchant deletes a customer who has left.
    pub(super) fn delete(&mut self, customer: u32, now: i64) -> io::Result<()> {
        self.tell(customer, "customer.deleted", now, By::Merchant, false, &|out, _, customer, _| {
            shapes::deleted_customer(out, customer.id);
        })
    }

    /// A customer moves, or mail goes to another address.
    pub(super) fn touch(&mut self, customer: u32, now: i64) -> io::Result<()> {
        let Customer { person, deleted, .. } = self.customers[customer as usize];
        if deleted {
            return Ok(());
        }
        let person = if self.chance(0.5) { person.moved(&mut self.rng) } else { person.renamed() };
        self.update_customer(customer, now, By::Merchant, |customer| customer.person = person)
    }
}

/// What can be added to a subscription: an add-on of its interval that it does not have.
fn add_on(of: &Subscription) -> Option<Plan> {
    let plan = match of.items()[0].plan {
        Plan::StarterMonth | Plan::ProMonth | Plan::TeamMonth | Plan::ScaleMonth => Plan::SupportMonth,
        Plan::StarterYear | Plan::ProYear | Plan::TeamYear => Plan::SupportYear,
        _ => return None,
    };
    of.items().iter().all(|item| item.plan != plan).then_some(plan)
}

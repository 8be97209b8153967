//! How customers come: sign-up, first subscription with or without a trial, first payment, coming back.

use std::io;

use rand::{Rng, seq::IndexedRandom};

use super::{
    account::{Card, Discount},
    account::{Customer, Item, Slot, Status, Subscription},
    amount::Interval,
    catalog::{CURRENCIES, Duration, Plan},
    hazard::{self, Features},
    outbox::By,
    people::Person,
    shapes,
    truth::DAY,
    world::{Act, Target, World},
};

/// What new customers choose, in shares of the sum.
const MIX: [(Plan, u32); 14] = [
    (Plan::Free, 6),
    (Plan::StarterMonth, 18),
    (Plan::StarterYear, 6),
    (Plan::ProMonth, 17),
    (Plan::ProQuarter, 5),
    (Plan::ProYear, 8),
    (Plan::TeamMonth, 14),
    (Plan::TeamYear, 5),
    (Plan::ScaleMonth, 6),
    (Plan::VolumeMonth, 4),
    (Plan::SyncWeek, 3),
    (Plan::SyncFortnight, 2),
    (Plan::PacksMonth, 3),
    (Plan::CreditsMonth, 3),
];
/// What customers add as a second subscription.
const SECOND: [Plan; 4] = [Plan::PacksMonth, Plan::VolumeMonth, Plan::SyncWeek, Plan::CreditsMonth];
const TRIALS: f64 = 0.3;
const TRIAL_NOTICE_SECONDS: i64 = 3 * DAY;
const DISCOUNTS: f64 = 0.22;
const METERED: f64 = 0.08;
/// Of first payments that need the customer's presence.
const FIRST_PAYMENT_FAILS: f64 = 0.04;
/// A first payment has 23 hours.
const INCOMPLETE_SECONDS: i64 = 23 * 3_600;

impl World<'_> {
    pub(super) fn sign_up(&mut self, now: i64) -> io::Result<()> {
        let currency = self.draw_currency();
        let person = Person::draw(&mut self.rng, currency);
        let frailty =
            self.rng.random_range(-1.0..1.0) + self.rng.random_range(-1.0..1.0) + self.rng.random_range(-1.0..1.0);
        let card = Card {
            id: self.ids.long("pm_"),
            brand: ["visa", "mastercard", "amex"].choose(&mut self.rng).copied().unwrap_or("visa"),
            last4: self.rng.random_range(1_000..9_999),
            month: self.rng.random_range(1..13),
            year: self.rng.random_range(2026..2032),
            fingerprint: self.ids.short(""),
        };
        // The sum of three uniforms has variance 1.
        let frailty: f64 = frailty * hazard::FRAILTY;
        let customer = Customer {
            id: self.ids.short("cus_"),
            created: now,
            person,
            currency,
            currency_fixed: false,
            delinquent: false,
            card,
            card_is_default: false,
            deleted: false,
            invoices: 0,
            tenant: self.rng.random(),
            slots: [None, None],
            mrr: 0,
            frailty,
            failure: hazard::PAYMENT_FAILURE.probability(&Features { frailty, ..Features::default() }),
            failed: [i64::MIN; 3],
            contracted: i64::MIN,
            grew: i64::MIN,
            paying_since: None,
        };
        let index = self.customers.len() as u32;
        self.customers.push(customer);
        self.tell(index, "customer.created", now, By::Merchant, false, &|out, _, customer, _| {
            shapes::customer(out, customer)
        })?;
        self.tell(index, "payment_method.attached", now, By::Merchant, false, &|out, _, customer, _| {
            shapes::payment_method(out, customer);
        })?;
        self.update_customer(index, now, By::Merchant, |customer| customer.card_is_default = true)?;
        let later = if self.chance(0.2) { 0 } else { self.rng.random_range(1..900) };
        self.plan(now + later, Act::Subscribe, Target { customer: index, slot: 0, generation: 0 });
        Ok(())
    }

    fn draw_currency(&mut self) -> usize {
        let mut roll = self.rng.random_range(0..CURRENCIES.iter().map(|currency| currency.share).sum());
        for (at, currency) in CURRENCIES.iter().enumerate() {
            if roll < currency.share {
                return at;
            }
            roll -= currency.share;
        }
        0
    }

    /// The first subscription, or the next one of a customer who comes back.
    pub(super) fn subscribe(&mut self, customer: u32, now: i64) -> io::Result<()> {
        if self.customers[customer as usize].slots.iter().any(Option::is_some) {
            return Ok(());
        }
        let returning = self.customers[customer as usize].paying_since.is_some();
        let mut roll = self.rng.random_range(0..MIX.iter().map(|(_, share)| share).sum());
        let mut plan = Plan::ProMonth;
        for (choice, share) in MIX {
            if roll < share {
                plan = choice;
                break;
            }
            roll -= share;
        }
        if returning && plan == Plan::Free {
            plan = Plan::StarterMonth;
        }
        let (target, mut new) = self.make_subscription(customer, 0, plan, now);
        let price = new.price(&self.catalog, 0);
        let (monthly, weekly) =
            (price.interval == Interval::Month && price.count == 1, price.interval == Interval::Week);
        if monthly && plan != Plan::Free && self.chance(METERED) {
            let id = self.ids.short("si_");
            new.add(Item { id, plan: Plan::UsageMonth, quantity: 1, created: now });
        }
        if plan != Plan::Free && self.chance(DISCOUNTS) {
            let coupon = self.draw_coupon(new.currency);
            new.discount = Some(self.apply(coupon, now));
        }
        let trial = plan != Plan::Free && !weekly && !returning && self.chance(TRIALS);
        if trial {
            return self.begin_trial(target, new, now);
        }
        new.set_period(&self.catalog);
        let present = new.value(&self.catalog) > 0 && self.chance(0.4);
        if present {
            new.status = Status::Incomplete;
        }
        let invoice = self.draft(target, &mut new, "subscription_create", now, None);
        self.commit(target, &new, "customer.subscription.created", now, By::Merchant)?;
        self.tell_discount(target, &new, "customer.discount.created", now)?;
        self.fix_currency(customer, now)?;
        self.issue(target, invoice, now)?;
        if present {
            let later = self.rng.random_range(1..4);
            self.plan(now + later, Act::ConfirmFirst, target);
            return Ok(());
        }
        self.plan(new.period.1, Act::Renew, target);
        self.attempt(target, now, Some(true))
    }

    /// A second subscription beside the first, paid at once.
    pub(super) fn subscribe_second(&mut self, customer: u32, slot: u8, now: i64) -> io::Result<()> {
        let plan = SECOND.choose(&mut self.rng).copied().unwrap_or(Plan::SyncWeek);
        let (target, mut new) = self.make_subscription(customer, slot, plan, now);
        new.set_period(&self.catalog);
        let invoice = self.draft(target, &mut new, "subscription_create", now, None);
        self.commit(target, &new, "customer.subscription.created", now, By::Merchant)?;
        self.issue(target, invoice, now)?;
        self.plan(new.period.1, Act::Renew, target);
        self.attempt(target, now, Some(true))
    }

    fn make_subscription(&mut self, customer: u32, slot: u8, plan: Plan, now: i64) -> (Target, Subscription) {
        let quantity = self.draw_quantity(plan);
        let item = Item { id: self.ids.short("si_"), plan, quantity, created: now };
        let generation = self.next_generation();
        let state = &self.customers[customer as usize];
        let new = Subscription::new(self.ids.long("sub_"), generation, now, state.currency, item, state.tenant);
        (Target { customer, slot, generation }, new)
    }

    fn draw_quantity(&mut self, plan: Plan) -> u32 {
        match plan {
            Plan::TeamMonth | Plan::TeamYear => self.rng.random_range(2..40),
            Plan::ScaleMonth => self.rng.random_range(3..80),
            Plan::VolumeMonth => self.rng.random_range(50..1_500),
            Plan::PacksMonth => self.rng.random_range(80..900),
            Plan::CreditsMonth => self.rng.random_range(2_000..20_000),
            _ => 1,
        }
    }

    fn draw_coupon(&mut self, currency: usize) -> usize {
        let choice = self.rng.random_range(0..8);
        if choice < 6 { choice } else { self.catalog.amount_coupon(currency) }
    }

    pub(super) fn apply(&mut self, coupon: usize, now: i64) -> Discount {
        let end = match self.catalog.coupons[coupon].duration {
            Duration::Months(months) => Some(now + i64::from(months) * 365 * DAY / 12),
            Duration::Forever | Duration::Once => None,
        };
        Discount { id: self.ids.long("di_"), coupon, start: now, end }
    }

    /// Tells of a subscription's discount, and plans its end.
    pub(super) fn tell_discount(&mut self, target: Target, of: &Subscription, kind: &str, now: i64) -> io::Result<()> {
        let Some(discount) = of.discount else { return Ok(()) };
        if let Some(end) = discount.end
            && kind == "customer.discount.created"
        {
            self.plan(end, Act::DiscountEnd, target);
        }
        let id = of.id;
        self.tell(target.customer, kind, now, By::Merchant, false, &|out, frame, customer, _| {
            shapes::discount(out, frame, customer.id, id, &discount);
        })
    }

    fn fix_currency(&mut self, customer: u32, now: i64) -> io::Result<()> {
        if self.customers[customer as usize].currency_fixed {
            return Ok(());
        }
        self.update_customer(customer, now, By::Merchant, |customer| customer.currency_fixed = true)
    }

    fn begin_trial(&mut self, target: Target, mut new: Subscription, now: i64) -> io::Result<()> {
        let days = if self.chance(0.5) { 7 } else { 14 };
        let end = now + days * DAY;
        new.status = Status::Trialing;
        new.trial = Some((now, end));
        new.anchor = end;
        new.period = (now, end);
        let outcome: f64 = self.rng.random();
        new.pause_at_trial_end = outcome < 0.08;
        let mut invoice = self.draft(target, &mut new, "subscription_create", now, None);
        for line in invoice.lines.iter_mut().flatten() {
            (line.amount, line.discount, line.tax) = (0, 0, 0);
        }
        self.commit(target, &new, "customer.subscription.created", now, By::Merchant)?;
        self.tell_discount(target, &new, "customer.discount.created", now)?;
        self.fix_currency(target.customer, now)?;
        self.issue(target, invoice, now)?;
        self.attempt(target, now, Some(true))?;
        self.plan(end - TRIAL_NOTICE_SECONDS, Act::TrialNotice, target);
        self.plan(end, Act::Renew, target);
        if (0.08..0.36).contains(&outcome) {
            let when = self.rng.random_range(now + 60..end);
            self.plan(when, Act::TrialSecondThoughts, target);
        }
        Ok(())
    }

    pub(super) fn trial_notice(&mut self, target: Target, now: i64) -> io::Result<()> {
        match self.slot(target) {
            Some(Slot { subscription, .. }) if subscription.status == Status::Trialing => self.tell_subscription(
                target.customer,
                None,
                &subscription,
                "customer.subscription.trial_will_end",
                now,
                By::Stripe,
            ),
            _ => Ok(()),
        }
    }

    /// The customer ends a trial before it costs anything.
    pub(super) fn trial_second_thoughts(&mut self, target: Target, now: i64) -> io::Result<()> {
        match self.slot(target) {
            Some(slot) if slot.subscription.status == Status::Trialing => self.cancel(target, slot, false, now),
            _ => Ok(()),
        }
    }

    /// The customer confirms the first payment, or does not.
    pub(super) fn confirm_first(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(Slot { mut subscription, .. }) = self.slot(target) else {
            return Ok(());
        };
        if self.chance(FIRST_PAYMENT_FAILS) {
            self.attempt(target, now, Some(false))?;
            self.plan(subscription.created + INCOMPLETE_SECONDS, Act::ExpireFirst, target);
            return Ok(());
        }
        subscription.status = Status::Active;
        self.commit(target, &subscription, "customer.subscription.updated", now, By::Merchant)?;
        self.plan(subscription.period.1, Act::Renew, target);
        self.attempt(target, now, Some(true))
    }

    pub(super) fn expire_first(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(Slot { mut subscription, .. }) = self.slot(target) else {
            return Ok(());
        };
        subscription.status = Status::IncompleteExpired;
        subscription.ended_at = Some(now);
        self.void_open(target, now)?;
        self.commit(target, &subscription, "customer.subscription.updated", now, By::Stripe)?;
        self.customer(target).slots[usize::from(target.slot)] = None;
        let again = now + self.rng.random_range(1..10) * DAY;
        if self.chance(0.5) {
            self.plan(again, Act::Subscribe, target);
        }
        Ok(())
    }

    /// A subscription paused at its trial's end gets a payment method.
    pub(super) fn resume(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(Slot { mut subscription, .. }) = self.slot(target) else {
            return Ok(());
        };
        subscription.status = Status::Active;
        subscription.anchor = now;
        subscription.periods = 0;
        subscription.set_period(&self.catalog);
        let invoice = self.draft(target, &mut subscription, "subscription_update", now, None);
        self.commit(target, &subscription, "customer.subscription.updated", now, By::Merchant)?;
        self.tell_subscription(
            target.customer,
            None,
            &subscription,
            "customer.subscription.resumed",
            now,
            By::Merchant,
        )?;
        self.issue(target, invoice, now)?;
        self.plan(subscription.period.1, Act::Renew, target);
        self.attempt(target, now, Some(true))
    }
}

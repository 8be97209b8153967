//! The clockwork: a queue of what will happen to whom, played in order of time, and the one way each object changes
//! and is told of.

use std::{cmp::Reverse, collections::BinaryHeap, io};

use chrono::{Datelike, Months, NaiveDate};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Options,
    account::{Customer, Invoice, Slot, Subscription},
    aftermath::Claim,
    catalog::Catalog,
    hazard,
    ids::{Id, Ids, scatter},
    outbox::{By, Outbox, Sink, Write},
    shapes::{self, Charge, Frame},
    truth::{Books, DAY, Hazard, Truth, date},
};

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Act {
    SignUp,
    Subscribe,
    ConfirmFirst,
    ExpireFirst,
    TrialNotice,
    TrialSecondThoughts,
    Resume,
    Renew,
    Finalize,
    Attempt,
    UnpaidEnd,
    DiscountStart,
    DiscountEnd,
    Leave,
    Uncancel,
    Expand,
    Contract,
    PauseCollection,
    ResumeCollection,
    Touch,
    Delete,
    Refund,
    RefundSettles,
    Dispute,
    DisputeClose,
}

/// Whom it concerns: a customer, the slot of a subscription and the subscription's generation there. Claims on
/// charges put their own number in place of the generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Target {
    pub(super) customer: u32,
    pub(super) slot: u8,
    pub(super) generation: u32,
}

/// Writes an object of a customer as it is or, flag set, as it was.
type Teller<'w> = &'w dyn Fn(&mut Vec<u8>, &Frame<'_>, &Customer, bool);

/// By time, then in order of planning.
type Planned = Reverse<(i64, u64, Act, Target)>;

pub(super) struct World<'a> {
    pub(super) options: &'a Options,
    pub(super) catalog: Catalog,
    pub(super) ids: Ids,
    pub(super) rng: StdRng,
    pub(super) customers: Vec<Customer>,
    pub(super) books: Books,
    pub(super) hazards: Vec<Hazard>,
    pub(super) claims: Vec<Option<Claim>>,
    account: String,
    outbox: Outbox<'a>,
    queue: BinaryHeap<Planned>,
    planned: u64,
    generations: u32,
    end: i64,
}

impl<'a> World<'a> {
    pub(super) fn new(options: &'a Options, end: NaiveDate, sink: &'a mut Sink<'a>) -> Self {
        let mut ids = Ids::new(options.seed);
        let account = options.account.clone().filter(|id| plain(id)).unwrap_or_else(|| ids.account());
        let catalog = Catalog::new(options.api_version, midnight(options.start), &mut ids);
        Self {
            options,
            catalog,
            ids,
            rng: StdRng::seed_from_u64(scatter(options.seed)),
            customers: Vec::new(),
            books: Books::new(),
            hazards: Vec::new(),
            claims: Vec::new(),
            account,
            outbox: Outbox::new(options.api_version, options.account.as_deref(), options.disorder, options.seed, sink),
            queue: BinaryHeap::new(),
            planned: 0,
            generations: 0,
            end: midnight(end),
        }
    }

    /// Plays everything.
    pub(super) fn run(mut self) -> io::Result<Truth> {
        let start = midnight(self.options.start);
        self.open_shop(start)?;
        self.plan_sign_ups(start);
        let mut month = self.options.start.with_day(1).and_then(|first| first.checked_add_months(Months::new(1)));
        while let Some(&Reverse((at, _, act, target))) = self.queue.peek()
            && at < self.end
        {
            if let Some(first) = month
                && midnight(first) <= at
            {
                let next = first.checked_add_months(Months::new(1));
                self.begin_month(first, next.map_or(self.end, midnight));
                month = next;
                continue;
            }
            self.queue.pop();
            self.play(act, target, at)?;
        }
        let events = self.outbox.finish()?;
        Ok(Truth { mrr_daily: self.books.finish(), hazards: self.hazards, events })
    }

    /// Products, prices and coupons come into being.
    fn open_shop(&mut self, now: i64) -> io::Result<()> {
        self.books.reach(now);
        for product in &self.catalog.products {
            let body = product.body.as_slice();
            self.outbox.event(
                &mut self.ids,
                "product.created",
                now,
                By::Merchant,
                &|out| out.extend_from_slice(body),
                None,
            )?;
        }
        for price in self.catalog.prices() {
            let (full, plan) = (price.full.as_slice(), price.plan.as_slice());
            self.outbox.event(
                &mut self.ids,
                "price.created",
                now + 1,
                By::Merchant,
                &|out| out.extend_from_slice(full),
                None,
            )?;
            self.outbox.event(
                &mut self.ids,
                "plan.created",
                now + 1,
                By::Merchant,
                &|out| out.extend_from_slice(plan),
                None,
            )?;
        }
        for coupon in &self.catalog.coupons {
            let body = coupon.body.as_slice();
            self.outbox.event(
                &mut self.ids,
                "coupon.created",
                now + 2,
                By::Merchant,
                &|out| out.extend_from_slice(body),
                None,
            )?;
        }
        Ok(())
    }

    /// A fifth of the customers in the first month, the others evenly over the rest.
    fn plan_sign_ups(&mut self, start: i64) {
        let span = self.end - start;
        let first = (31 * DAY).min(span);
        for customer in 0..self.options.customers {
            let within = if customer % 5 == 0 { first } else { span };
            let at = start + 3 + self.rng.random_range(0..within - 3);
            self.plan(at, Act::SignUp, Target { customer, slot: 0, generation: 0 });
        }
    }

    fn play(&mut self, act: Act, target: Target, now: i64) -> io::Result<()> {
        match act {
            Act::SignUp => return self.sign_up(now),
            Act::Subscribe => return self.subscribe(target.customer, now),
            Act::Leave => return self.leave(target.customer, now),
            Act::Expand => return self.expand(target.customer, now),
            Act::Contract => return self.contract(target.customer, now),
            Act::Touch => return self.touch(target.customer, now),
            Act::Delete => return self.delete(target.customer, now),
            Act::Refund => return self.refund(target, now),
            Act::RefundSettles => return self.refund_settles(target, now),
            Act::Dispute => return self.dispute(target, now),
            Act::DisputeClose => return self.close_dispute(target, now),
            _ => {}
        }
        // The rest concerns a subscription that may be gone, or another one by now.
        let slot = self.customers[target.customer as usize].slots[usize::from(target.slot)].as_ref();
        if slot.is_none_or(|slot| slot.subscription.generation != target.generation) {
            return Ok(());
        }
        match act {
            Act::ConfirmFirst => self.confirm_first(target, now),
            Act::ExpireFirst => self.expire_first(target, now),
            Act::TrialNotice => self.trial_notice(target, now),
            Act::TrialSecondThoughts => self.trial_second_thoughts(target, now),
            Act::Resume => self.resume(target, now),
            Act::Renew => self.renew(target, now),
            Act::Finalize => self.finalize(target, now),
            Act::Attempt => self.attempt(target, now, None),
            Act::UnpaidEnd => self.unpaid_end(target, now),
            Act::DiscountStart => self.start_discount(target, now),
            Act::DiscountEnd => self.end_discount(target, now),
            Act::Uncancel => self.uncancel(target, now),
            Act::PauseCollection => self.pause_collection(target, now),
            Act::ResumeCollection => self.resume_collection(target, now),
            _ => Ok(()),
        }
    }

    pub(super) fn plan(&mut self, at: i64, act: Act, target: Target) {
        if at < self.end {
            self.planned += 1;
            self.queue.push(Reverse((at, self.planned, act, target)));
        }
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub(super) fn next_generation(&mut self) -> u32 {
        self.generations += 1;
        self.generations
    }

    pub(super) fn customer(&mut self, target: Target) -> &mut Customer {
        &mut self.customers[target.customer as usize]
    }

    /// A copy of what a slot holds. Only called for slots known to be taken.
    pub(super) fn slot(&self, target: Target) -> Option<Slot> {
        self.customers[target.customer as usize].slots[usize::from(target.slot)].as_deref().copied()
    }

    pub(super) fn set_open(&mut self, target: Target, open: Option<Invoice>) {
        if let Some(slot) = self.customers[target.customer as usize].slots[usize::from(target.slot)].as_mut() {
            slot.open = open;
        }
    }

    /// A subscription becomes `new`: books, state and event. `customer.subscription.updated` tells what changed;
    /// `….deleted` empties the slot; `….created` fills it.
    pub(super) fn commit(
        &mut self,
        target: Target,
        new: &Subscription,
        kind: &str,
        now: i64,
        by: By,
    ) -> io::Result<()> {
        let customer = &mut self.customers[target.customer as usize];
        let place = &mut customer.slots[usize::from(target.slot)];
        let old = place.as_ref().map(|slot| slot.subscription).filter(|old| old.generation == new.generation);
        let delta = new.counted(&self.catalog) - old.map_or(0, |old| old.counted(&self.catalog));
        match (kind, place) {
            ("customer.subscription.deleted", place) => *place = None,
            (_, Some(slot)) if old.is_some() => slot.subscription = *new,
            (_, place) => *place = Some(Box::new(Slot { subscription: *new, open: None, prorations: None })),
        }
        self.books.reach(now);
        self.books.change(customer.currency, delta);
        customer.mrr += delta;
        if customer.mrr > 0 {
            customer.paying_since.get_or_insert(now);
        }
        let old = old.filter(|_| kind == "customer.subscription.updated");
        self.tell_subscription(target.customer, old.as_ref(), new, kind, now, by)
    }

    /// Tells of a subscription as it is, without a change.
    pub(super) fn tell_subscription(
        &mut self,
        customer: u32,
        old: Option<&Subscription>,
        new: &Subscription,
        kind: &str,
        now: i64,
        by: By,
    ) -> io::Result<()> {
        let frame = Frame { version: self.options.api_version, catalog: &self.catalog, account: &self.account };
        let customer = &self.customers[customer as usize];
        let (id, card) = (customer.id, Some(customer.card.id));
        let after = |out: &mut Vec<u8>| shapes::subscription(out, &frame, id, card, new);
        self.books.reach(now);
        match old {
            None => self.outbox.event(&mut self.ids, kind, now, by, &after, None),
            Some(old) => {
                let before = |out: &mut Vec<u8>| shapes::subscription(out, &frame, id, card, old);
                self.outbox.event(&mut self.ids, kind, now, by, &after, Some(&before))
            }
        }
    }

    /// A customer becomes something else, and is told of.
    pub(super) fn update_customer(
        &mut self,
        customer: u32,
        now: i64,
        by: By,
        change: impl FnOnce(&mut Customer),
    ) -> io::Result<()> {
        let new = &mut self.customers[customer as usize];
        let old = new.clone();
        change(new);
        self.books.reach(now);
        let (after, before) =
            (|out: &mut Vec<u8>| shapes::customer(out, new), |out: &mut Vec<u8>| shapes::customer(out, &old));
        self.outbox.event(&mut self.ids, "customer.updated", now, by, &after, Some(&before))
    }

    /// Tells of an invoice; with `old`, of what changed.
    pub(super) fn tell_invoice(
        &mut self,
        customer: u32,
        old: Option<&Invoice>,
        new: &Invoice,
        kind: &str,
        now: i64,
    ) -> io::Result<()> {
        self.tell(customer, kind, now, By::Stripe, old.is_some(), &|out, frame, customer, before| {
            shapes::invoice(out, frame, customer, old.filter(|_| before).unwrap_or(new));
        })
    }

    /// Tells of a charge; with `old`, of what changed.
    pub(super) fn tell_charge(
        &mut self,
        customer: u32,
        old: Option<&Charge>,
        new: &Charge,
        kind: &str,
        now: i64,
        by: By,
    ) -> io::Result<()> {
        self.tell(customer, kind, now, by, old.is_some(), &|out, frame, customer, before| {
            shapes::charge(out, frame, customer, old.filter(|_| before).unwrap_or(new));
        })
    }

    /// Tells of anything; where it `changed`, of what it was too.
    pub(super) fn tell(
        &mut self,
        customer: u32,
        kind: &str,
        now: i64,
        by: By,
        changed: bool,
        write: Teller<'_>,
    ) -> io::Result<()> {
        let frame = Frame { version: self.options.api_version, catalog: &self.catalog, account: &self.account };
        let customer = &self.customers[customer as usize];
        self.books.reach(now);
        let after = |out: &mut Vec<u8>| write(out, &frame, customer, false);
        let before = |out: &mut Vec<u8>| write(out, &frame, customer, true);
        let before: Option<Write<'_>> = if changed { Some(&before) } else { None };
        self.outbox.event(&mut self.ids, kind, now, by, &after, before)
    }

    /// A month begins: hazards are read off and the month's choices drawn.
    fn begin_month(&mut self, first: NaiveDate, next: i64) {
        let now = midnight(first);
        for customer in 0..self.customers.len() as u32 {
            let state = &self.customers[customer as usize];
            let features = state.features(&self.catalog, now);
            let failure = hazard::PAYMENT_FAILURE.probability(&features);
            let at_risk = state.mrr > 0;
            let customer_id: Option<Id> = at_risk.then_some(state.id);
            self.customers[customer as usize].failure = failure;
            if let Some(id) = customer_id {
                let hazard = Hazard {
                    customer_id: id.as_str().into(),
                    month: date(now),
                    voluntary: hazard::VOLUNTARY.probability(&features),
                    involuntary: self.loss_by_payment(customer, next),
                    expansion: hazard::EXPANSION.probability(&features),
                };
                self.draw_month(customer, now, next, &hazard, &features);
                self.hazards.push(hazard);
            } else {
                self.draw_free_month(customer, now, next);
            }
        }
    }
}

/// Whether a text can stand in a link as it is.
fn plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The first second of a day (UTC).
pub(super) fn midnight(day: NaiveDate) -> i64 {
    day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp()
}

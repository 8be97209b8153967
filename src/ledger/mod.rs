//! The ledger of recurring revenue: from Stripe's events to entries, movements and item states.
//!
//! Pure functions of the events and of when the log took them in: no clocks, no I/O, no randomness. [`Ledger::apply`]
//! takes any cut of the log; the current ledger (its rows without those that were reversed) and the current movements
//! do not depend on the cut, on duplicates, or on the order of arrival within 30 days of an entity's own newest event.
//! Entries are never edited: what a late event changes is reversed and written anew.
//!
//! State is kept per customer in 256 buckets, so that a checkpoint writes only the customers that changed, beside one
//! catalogue of prices, coupons and discounts. A customer whom the batch does not concern rests as the bytes that a
//! checkpoint writes: a fifth of the memory, one place in it, and nothing to do for a checkpoint or a restore. Events
//! that only repeat what is known are put beside these bytes unread.

mod billing;
mod bills;
mod buckets;
mod catalogue;
mod content;
mod customer;
mod discounts;
mod entries;
pub mod fx;
mod hash;
mod history;
pub mod listing;
mod movements;
mod order;
mod own_discounts;
mod packing;
mod parts;
pub mod recognition;
mod replay;
pub mod reporting;
mod resting;
mod revenue;
pub mod review;
pub mod rows;
pub mod rules;
mod schedules;
mod state;
mod states;
mod usage;
mod valuation;
mod visits;

use std::{borrow::Cow, collections::BTreeMap};

pub use billing::{MAX_CHARGES_PER_BUCKET, MAX_PARKED_PER_BUCKET, MAX_SEEN};
pub use catalogue::MAX_PROMOTIONS;
pub use customer::MAX_TAX_LINES;
pub use history::{HORIZON_DAYS, MAX_STEPS};
pub use movements::MAX_FOLDED;
pub use own_discounts::MAX_DISCOUNT_CHANGES;
pub use resting::MAX_REPEATS;
pub use revenue::{MAX_INVOICES, MAX_REFUNDED_PAYMENTS, REMEMBERED_DAYS};
pub use rows::Delta;
pub use rules::{BackdatedStart, DiscountOrder, LogoChurnDenominator, Profile, Rules, ScheduledCancellation};
pub use schedules::{MAX_PHASES, MAX_SCHEDULES};
pub use usage::{MAX_TOLD_LINES, MAX_WAITING_LINES};

use billing::{Parked, payment_ids, payment_key};
use buckets::Buckets;
use catalogue::{Lesson, Need, Needs, Shelf, Telling};
use parts::Memo;
use replay::Context;
use resting::Scratch;
use rows::LedgerGap;
use visits::{Brought, Glance, Visit, Visits, Whom};

use crate::{
    stripe::{
        ids::CustomerId,
        types::{Event, Object, Scope},
    },
    time::EventTime,
};

/// How many buckets there are; part of every checkpoint's layout.
pub const BUCKETS: usize = 256;

/// What can go wrong. Events never do: what cannot be counted is a row of `ledger_gaps`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Sums beyond `decimal(28,6)`.
    #[error("a customer's recurring revenue is beyond decimal(28,6); look for a price with a wrong amount")]
    Overflow,
    /// State that this version cannot read.
    #[error("{part} of the checkpoint cannot be read ({detail}); make the ledger again with `tributary rebuild`")]
    Corrupt {
        /// Which part.
        part: String,
        /// What the decoder said.
        detail: String,
    },
    /// State that other rules made.
    #[error("the checkpoint was written under other revenue rules; make the ledger again with `tributary rebuild`")]
    OtherRules,
}

/// An event with the time at which the log took it in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The event.
    pub event: &'a Event,
    /// When the log took it in.
    pub appended_at: EventTime,
}

/// The ledger.
pub struct Ledger {
    rules: Rules,
    folding: bool,
    shelves: BTreeMap<Scope, Shelf>,
    catalogue_dirty: bool,
    buckets: Buckets,
    memo: Memo,
    /// Room to write a customer's bytes in.
    scratch: Scratch,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            folding: true,
            shelves: BTreeMap::new(),
            catalogue_dirty: false,
            buckets: Buckets::default(),
            memo: Memo::default(),
            scratch: Scratch::default(),
        }
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether histories fold 30 days behind their newest event. Off while a log is read from its beginning, so that
    /// an import or a rebuild finds nothing late, whatever its order; switching it on again folds each history when
    /// it is next touched.
    pub fn set_folding(&mut self, folding: bool) {
        self.folding = folding;
    }

    /// Takes in a batch, in log order, and says what it changed.
    ///
    /// # Errors
    /// [`Error::Overflow`], and [`Error::Corrupt`] if a restored bucket holds what this version cannot read; the ledger
    /// must then not be used any further.
    pub fn apply(&mut self, batch: &[Arrival<'_>]) -> Result<Delta, Error> {
        let mut delta = Delta::default();
        let mut visits = Visits::with_capacity(batch.len());
        let Learnt { waited, glances } = self.learn(batch, &mut visits, &mut delta)?;
        let waited: Vec<_> = waited.into_iter().map(Parked::into_event).collect();
        let waited = waited.iter().map(|(event, appended_at)| Arrival { event, appended_at: *appended_at });
        for (arrival, glance) in waited.map(|arrival| (arrival, None)).chain(batch.iter().copied().zip(glances)) {
            if let Some(Glance { whom, sketch }) = glance {
                visits.bring(Brought { arrival, sketch: Some(sketch) }, whom);
                continue;
            }
            match self.whose(arrival.event) {
                Whose::Customers(customer) => {
                    let whom = Whom::new(&arrival.event.scope, customer);
                    visits.bring(Brought { arrival, sketch: None }, whom);
                }
                Whose::Unknown => self.park(arrival, &mut delta),
                Whose::Nobodys => {}
            }
        }
        self.remind(batch, &mut visits);
        self.pay(visits, &mut delta)?;
        Ok(delta)
    }

    /// For every account and mode the least and greatest event time seen.
    pub fn clock(&self) -> impl Iterator<Item = (Scope, EventTime, EventTime)> + '_ {
        self.shelves.iter().filter_map(|(scope, shelf)| {
            let (first, last) = shelf.clock()?;
            Some((scope.clone(), first, last))
        })
    }

    /// The bucket a customer's state lies in; the same in every version.
    #[must_use]
    pub fn bucket_of(scope: &Scope, customer: &CustomerId) -> u8 {
        (Self::key_of(scope, customer) >> 56) as u8
    }

    fn key_of(scope: &Scope, customer: &CustomerId) -> u64 {
        payment_key(scope, customer.as_str())
    }

    /// Catalogue first: what a batch teaches about prices, coupons, discounts and payers holds for all of the batch.
    fn learn<'a>(
        &mut self,
        batch: &[Arrival<'a>],
        visits: &mut Visits<'a>,
        delta: &mut Delta,
    ) -> Result<Learnt<'a>, Error> {
        let mut learnt = Learnt { waited: Vec::new(), glances: Vec::with_capacity(batch.len()) };
        let mut revised = BTreeMap::new();
        for arrivals in batch.chunk_by(|a, b| a.event.scope == b.event.scope) {
            self.learn_of_scope(arrivals, visits, &mut learnt, &mut revised, delta);
        }
        for (scope, shelf) in &mut self.shelves {
            shelf.list_changes(scope, delta);
        }
        for (scope, (needs, appended_at)) in revised {
            for customer in self.buckets.users(scope, &needs)? {
                visits.remind(scope, customer, appended_at);
            }
            visits.revise(scope, needs);
        }
        Ok(learnt)
    }

    fn learn_of_scope<'a>(
        &mut self,
        arrivals: &[Arrival<'a>],
        visits: &mut Visits<'a>,
        learnt: &mut Learnt<'a>,
        revised: &mut BTreeMap<&'a Scope, (Needs, EventTime)>,
        delta: &mut Delta,
    ) {
        let Some(Arrival { event: Event { scope, .. }, .. }) = arrivals.first().copied() else { return };
        if !self.shelves.contains_key(scope) {
            self.shelves.insert(scope.clone(), Shelf::default());
        }
        let Some(shelf) = self.shelves.get_mut(scope) else { return };
        for &Arrival { event, appended_at } in arrivals {
            if event.moves_clock() {
                self.catalogue_dirty |= shelf.tick(event.created);
            }
            let telling = Telling::of(event, appended_at);
            let mut lesson = Lesson::default();
            self.catalogue_dirty |= shelf.learn(&event.object, &telling, &mut lesson);
            if let Some(before) = &event.before {
                self.catalogue_dirty |= shelf.learn_before(before, &event.object, &telling, &mut lesson);
            }
            learnt.glances.push(Glance::at(event));
            if !lesson.learnt.is_empty() || !lesson.revised.is_empty() {
                self.memo.clear();
            }
            for need in &lesson.learnt {
                for customer in shelf.wake(need) {
                    visits.remind(scope, customer, appended_at);
                }
            }
            for (need, corrected) in lesson.revised {
                let (needs, newest) = revised.entry(scope).or_insert_with(|| (Needs::new(), appended_at));
                *needs.entry(need).or_default() |= corrected;
                *newest = (*newest).max(appended_at);
            }
            for need in lesson.conflicts {
                delta.gaps.push(gap(event, appended_at, None, conflict(&need), need.object_id()));
            }
            if let Some(customer) = payer(&event.object) {
                learnt.waited.extend(self.buckets.note_payer(event, customer));
            }
        }
    }

    /// Whom an event concerns.
    fn whose<'e>(&self, event: &'e Event) -> Whose<'e> {
        let customer = match &event.object {
            Object::Subscription(subscription) => Some(&subscription.customer),
            Object::Customer(customer) => Some(&customer.id),
            Object::Discount(discount) if discount.subscription.is_none() && discount.subscription_item.is_none() => {
                discount.customer.as_ref()
            }
            Object::Invoice(invoice) => invoice.customer.as_ref(),
            Object::CreditNote(note) => note.customer.as_ref(),
            Object::Schedule(schedule) => schedule.customer.as_ref(),
            Object::Charge(_) | Object::Refund(_) | Object::Dispute(_) | Object::InvoicePayment(_) => {
                return self.payer_of(event).map_or(Whose::Unknown, Whose::Customers);
            }
            _ => return Whose::Nobodys,
        };
        customer.map_or(Whose::Unknown, |customer| Whose::Customers(Cow::Borrowed(customer)))
    }

    /// Keeps a refund or dispute whose payer is not known until its payment arrives, and tells of it.
    fn park(&mut self, Arrival { event, appended_at }: Arrival<'_>, delta: &mut Delta) {
        if !matches!(&event.object, Object::Refund(_) | Object::Dispute(_) | Object::InvoicePayment(_)) {
            return;
        }
        let ids = payment_ids(&event.object);
        let Some(id) = ids.first() else { return };
        let key = payment_key(&event.scope, id);
        let bucket = self.buckets.of_key(key);
        bucket.dirty = true;
        if bucket.payers.park(key, event, appended_at) {
            // That a payment is linked to an invoice says nothing by itself.
            if matches!(&event.object, Object::InvoicePayment(_)) {
                return;
            }
            delta.gaps.push(gap(event, appended_at, None, "customer_unknown", id));
        } else {
            delta.duplicates += 1;
        }
    }

    fn payer_of<'e>(&self, event: &'e Event) -> Option<Cow<'e, CustomerId>> {
        payer(&event.object).map(Cow::Borrowed).or_else(|| {
            payment_ids(&event.object)
                .into_iter()
                .find_map(|id| self.buckets.payer(payment_key(&event.scope, id)).cloned().map(Cow::Owned))
        })
    }

    /// Visits the customers whose discounts have ended by the clock of their scope, as of the first record that moved
    /// it so far.
    fn remind<'a>(&mut self, batch: &[Arrival<'a>], visits: &mut Visits<'a>) {
        for (scope, shelf) in self.shelves.iter_mut().filter(|(_, shelf)| shelf.is_due()) {
            let arrivals: Vec<&Arrival<'a>> = batch.iter().filter(|arrival| arrival.event.scope == *scope).collect();
            let Some(Arrival { event: Event { scope, .. }, .. }) = arrivals.first() else { continue };
            self.catalogue_dirty = true;
            for (time, customer) in shelf.due() {
                let reached = arrivals.iter().filter(|arrival| arrival.event.created >= time);
                let reached = reached.map(|arrival| arrival.appended_at).min();
                let reached = reached.or(arrivals.iter().map(|arrival| arrival.appended_at).max());
                visits.remind(scope, customer, reached.unwrap_or(EventTime::MIN));
            }
        }
    }

    /// Visits one customer after the other: its state is read, hears what the batch brings, settles, and rests again.
    fn pay(&mut self, visits: Visits<'_>, delta: &mut Delta) -> Result<(), Error> {
        let Visits { visits, revised, events, .. } = visits;
        let mut last_scope = None;
        for visit in visits {
            // What else a customer is told may reach back: nothing folds between a snapshot and that.
            let only_snapshots = events.of(&visit).all(|brought| brought.sketch.is_some());
            let mut brought = events.of(&visit).peekable();
            let Visit { whom, reminded, .. } = visit;
            let scope = whom.scope;
            if last_scope != Some(scope) {
                self.memo.clear();
                last_scope = Some(scope);
            }
            let Some(shelf) = self.shelves.get_mut(scope) else {
                continue;
            };
            let bucket = self.buckets.of_key(whom.key);
            if reminded.is_none()
                && only_snapshots
                && bucket.repeat(&whom, &mut brought, self.folding, &mut self.scratch)?
            {
                continue;
            }
            let mut cx = Context {
                scope,
                customer: &whom.customer,
                rules: &self.rules,
                shelf,
                shelf_changed: &mut self.catalogue_dirty,
                memo: &mut self.memo,
                delta,
                trigger: EventTime::MIN,
                folding: self.folding,
            };
            let mut state = bucket.open(&whom, &mut cx)?;
            let mut trigger = reminded;
            if let Some(needs) = revised.get(scope).filter(|_| trigger.is_some()) {
                state.touch_users(needs);
                state.report_folded(needs, &mut cx, trigger.unwrap_or(EventTime::MIN));
            }
            for brought in brought {
                if state.hear(brought, &mut cx) {
                    trigger = trigger.max(Some(brought.arrival.appended_at));
                }
            }
            if let Some(trigger) = trigger {
                cx.trigger = trigger;
                state.settle(&mut cx)?;
            }
            bucket.rest(whom, &state, &mut self.scratch)?;
        }
        Ok(())
    }
}

/// What the first look at a batch gives.
struct Learnt<'a> {
    /// The refunds and disputes whose payer is now known.
    waited: Vec<Parked>,
    /// One for each event.
    glances: Vec<Option<Glance<'a>>>,
}

/// Whom an event concerns.
enum Whose<'e> {
    Customers(Cow<'e, CustomerId>),
    /// A customer's, but whose is not known yet.
    Unknown,
    /// The catalogue's alone, or nothing that is counted.
    Nobodys,
}

/// Who pays, where an object says so.
fn payer(object: &Object) -> Option<&CustomerId> {
    match object {
        Object::Charge(charge) => charge.customer.as_ref(),
        Object::PaymentIntent(intent) => intent.customer.as_ref(),
        _ => None,
    }
}

fn conflict(need: &Need) -> &'static str {
    match need {
        Need::Price(_) => "price_conflict",
        Need::Discount(_) | Need::Coupon(_) | Need::Promotion(_) => "coupon_conflict",
    }
}

fn gap(
    event: &Event,
    appended_at: EventTime,
    customer_id: Option<CustomerId>,
    reason: &str,
    object_id: &str,
) -> LedgerGap {
    LedgerGap {
        scope: event.scope.clone(),
        occurred_at: event.created,
        known_at: appended_at,
        customer_id,
        object_id: object_id.into(),
        reason: reason.into(),
        event_id: event.id.clone(),
    }
}

//! The ledger of recurring revenue: from Stripe's events to entries, movements and item states.
//!
//! Pure functions of the events and of when the log took them in: no clocks, no I/O, no randomness. [`Ledger::apply`]
//! takes any cut of the log; the current ledger (its rows without those that were reversed) and the current movements
//! do not depend on the cut, on duplicates, or on the order of arrival within 30 days of an entity's own newest event.
//! Entries are never edited: what a late event changes is reversed and written anew.
//!
//! State is kept per customer in 256 buckets, so that a checkpoint writes only the buckets that changed, beside one
//! catalogue of prices, coupons and discounts.

mod billing;
mod catalogue;
mod content;
mod customer;
mod discounts;
mod entries;
mod hash;
mod history;
mod movements;
mod order;
mod parts;
pub mod recognition;
mod replay;
mod revenue;
pub mod review;
pub mod rows;
pub mod rules;
mod schedules;
mod state;
mod states;
mod usage;
mod valuation;

use std::collections::{BTreeMap, HashMap};

pub use billing::{MAX_CHARGES_PER_BUCKET, MAX_PARKED_PER_BUCKET, MAX_SEEN};
pub use customer::{MAX_DISCOUNT_CHANGES, MAX_TAX_LINES};
pub use history::{HORIZON_DAYS, MAX_STEPS};
pub use movements::MAX_FOLDED;
pub use revenue::{MAX_INVOICES, MAX_REFUNDED_PAYMENTS, REMEMBERED_DAYS};
pub use rows::Delta;
pub use rules::{BackdatedStart, DiscountOrder, LogoChurnDenominator, Profile, Rules, ScheduledCancellation};
pub use schedules::{MAX_PHASES, MAX_SCHEDULES};
pub use usage::{MAX_TOLD_LINES, MAX_WAITING_LINES};

use billing::{Heard, Parked, Payers, payment_ids, payment_key};
use catalogue::{Lesson, Need, Shelf};
use customer::CustomerState;
use history::Inserted;
use parts::Memo;
use replay::Context;
use rows::{LateEvent, LedgerGap};

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
}

/// The customers and payments whose keys fall here.
#[derive(Default)]
struct Bucket {
    customers: BTreeMap<Scope, HashMap<CustomerId, CustomerState>>,
    payers: Payers,
    dirty: bool,
}

/// The customers a batch concerns, in the order in which it first does.
type Touched<'a> = Vec<(&'a Scope, CustomerId)>;

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            folding: true,
            shelves: BTreeMap::new(),
            catalogue_dirty: false,
            buckets: Buckets(std::iter::repeat_with(Bucket::default).take(BUCKETS).collect()),
            memo: Memo::default(),
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
    /// [`Error::Overflow`]; the ledger must then not be used any further.
    pub fn apply(&mut self, batch: &[Arrival<'_>]) -> Result<Delta, Error> {
        let mut delta = Delta::default();
        let mut touched = Touched::new();
        let waited = self.learn(batch, &mut touched, &mut delta);
        for parked in waited {
            let appended_at = parked.appended_at;
            self.route(Arrival { event: &parked.into_event(), appended_at }, &mut Touched::new(), &mut delta);
        }
        for arrival in batch {
            self.route(*arrival, &mut touched, &mut delta);
        }
        self.remind(batch, &mut touched);
        self.settle(touched, &mut delta)?;
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
        (payment_key(scope, customer.as_str()) >> 56) as u8
    }

    /// Catalogue first: what a batch teaches about prices, coupons, discounts and payers holds for all of the batch.
    /// Gives back the refunds and disputes whose payer is now known.
    fn learn<'a>(&mut self, batch: &[Arrival<'a>], touched: &mut Touched<'a>, delta: &mut Delta) -> Vec<Parked> {
        let mut waited = Vec::new();
        for &Arrival { event, appended_at } in batch {
            if !self.shelves.contains_key(&event.scope) {
                self.shelves.insert(event.scope.clone(), Shelf::default());
            }
            let Some(shelf) = self.shelves.get_mut(&event.scope) else {
                continue;
            };
            self.catalogue_dirty |= shelf.tick(event.created);
            let mut lesson = Lesson::default();
            if shelf.learn(&event.object, appended_at, event.created, &mut lesson) {
                self.catalogue_dirty = true;
                self.memo.clear();
            }
            if let Some(before) = &event.before
                && shelf.learn_before(before, &event.object, appended_at, event.created, &mut lesson)
            {
                self.catalogue_dirty = true;
                self.memo.clear();
            }
            for need in &lesson.learnt {
                for customer in shelf.wake(need) {
                    self.buckets.touch(touched, &event.scope, &customer, appended_at);
                }
            }
            for need in lesson.conflicts {
                delta.gaps.push(gap(event, appended_at, None, conflict(&need), need.object_id()));
            }
            if let Some(customer) = payer(&event.object) {
                for id in payment_ids(&event.object) {
                    let key = payment_key(&event.scope, id);
                    let bucket = self.buckets.of_key(key);
                    if bucket.payers.note(key, event.created, customer) {
                        bucket.dirty = true;
                        waited.extend(bucket.payers.unpark(key));
                    }
                }
            }
        }
        waited
    }

    fn route<'a>(&mut self, arrival: Arrival<'a>, touched: &mut Touched<'a>, delta: &mut Delta) {
        let Arrival { event, appended_at } = arrival;
        let folding = self.folding;
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
                self.payer_of(event)
            }
            _ => return,
        };
        let Some(customer) = customer.cloned() else {
            self.park(arrival, delta);
            return;
        };
        let bucket = self.buckets.of(&event.scope, &customer);
        bucket.dirty = true;
        let state = bucket.customer(&event.scope, &customer);
        if let (Object::Invoice(invoice), Some(shelf)) = (&event.object, self.shelves.get_mut(&event.scope)) {
            let rules = &self.rules;
            self.catalogue_dirty |=
                state.usage.hear(event, invoice, appended_at, &customer, shelf, rules, folding, delta);
        }
        if let Object::Invoice(_) | Object::Charge(_) | Object::Refund(_) = &event.object {
            state.books.hear(event, appended_at, &customer, self.rules.recognition, folding, delta);
        }
        if let (Object::Invoice(invoice), "invoice.finalized") = (&event.object, &*event.kind)
            && state.taxed(event, invoice, appended_at) == Inserted::New
            && state.touch(appended_at)
        {
            touched.push((&event.scope, customer.clone()));
        }
        let inserted = match &event.object {
            Object::Subscription(subscription) => state.subscription(event, subscription, appended_at, folding),
            Object::Customer(customer) => state.customer(event, customer, appended_at),
            Object::Discount(discount) => state.discount(event, discount, appended_at),
            Object::Schedule(schedule) => state.schedules.insert(event, schedule, appended_at),
            Object::CreditNote(_) | Object::InvoicePayment(_) => {
                state.books.hear(event, appended_at, &customer, self.rules.recognition, folding, delta);
                return;
            }
            _ => match state.told.hear(event, appended_at, &customer, folding) {
                Heard::Row(row) => {
                    delta.billing_events.push(*row);
                    return;
                }
                Heard::Nothing => return,
                Heard::Duplicate => Inserted::Duplicate,
                Heard::Late => Inserted::Late,
            },
        };
        match inserted {
            Inserted::New if state.touch(appended_at) => touched.push((&event.scope, customer)),
            Inserted::New => {}
            Inserted::Duplicate => delta.duplicates += 1,
            Inserted::Late => delta.late.push(LateEvent {
                scope: event.scope.clone(),
                event_id: event.id.clone(),
                kind: event.kind.clone(),
                created: event.created,
                known_at: appended_at,
                customer_id: Some(customer),
            }),
        }
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

    fn payer_of<'s>(&'s self, event: &'s Event) -> Option<&'s CustomerId> {
        payer(&event.object).or_else(|| {
            payment_ids(&event.object).into_iter().find_map(|id| {
                let key = payment_key(&event.scope, id);
                self.buckets.0[usize::from((key >> 56) as u8)].payers.get(key)
            })
        })
    }

    /// Touches the customers whose discounts have ended by the clock of their scope, as of the first record that moved
    /// it so far.
    fn remind<'a>(&mut self, batch: &[Arrival<'a>], touched: &mut Touched<'a>) {
        let mut scopes: BTreeMap<&Scope, Vec<(EventTime, EventTime)>> = BTreeMap::new();
        for Arrival { event, appended_at } in batch {
            scopes.entry(&event.scope).or_default().push((event.created, *appended_at));
        }
        for (scope, arrivals) in scopes {
            let due = self.shelves.get_mut(scope).map(Shelf::due).unwrap_or_default();
            self.catalogue_dirty |= !due.is_empty();
            for (time, customer) in due {
                let reached = arrivals.iter().filter(|(created, _)| *created >= time).map(|(_, appended)| *appended);
                let reached = reached.min().or(arrivals.iter().map(|(_, appended)| *appended).max());
                self.buckets.touch(touched, scope, &customer, reached.unwrap_or(EventTime::MIN));
            }
        }
    }

    fn settle(&mut self, touched: Touched<'_>, delta: &mut Delta) -> Result<(), Error> {
        let mut last_scope = None;
        for (scope, customer) in touched {
            if last_scope != Some(scope) {
                self.memo.clear();
                last_scope = Some(scope);
            }
            let Some(shelf) = self.shelves.get_mut(scope) else {
                continue;
            };
            let bucket = self.buckets.of(scope, &customer);
            bucket.dirty = true;
            bucket.customer(scope, &customer).settle(&mut Context {
                scope,
                customer: &customer,
                rules: &self.rules,
                shelf,
                shelf_changed: &mut self.catalogue_dirty,
                memo: &mut self.memo,
                delta,
                trigger: EventTime::MIN,
                folding: self.folding,
            })?;
        }
        Ok(())
    }
}

/// All buckets.
struct Buckets(Vec<Bucket>);

impl Buckets {
    fn of_key(&mut self, key: u64) -> &mut Bucket {
        &mut self.0[usize::from((key >> 56) as u8)]
    }

    fn of(&mut self, scope: &Scope, customer: &CustomerId) -> &mut Bucket {
        &mut self.0[usize::from(Ledger::bucket_of(scope, customer))]
    }

    /// Notes that a batch concerns a customer.
    fn touch<'a>(
        &mut self,
        touched: &mut Touched<'a>,
        scope: &'a Scope,
        customer: &CustomerId,
        appended_at: EventTime,
    ) {
        if self.of(scope, customer).customer(scope, customer).touch(appended_at) {
            touched.push((scope, customer.clone()));
        }
    }
}

impl Bucket {
    fn customer(&mut self, scope: &Scope, customer: &CustomerId) -> &mut CustomerState {
        if !self.customers.contains_key(scope) {
            self.customers.insert(scope.clone(), HashMap::new());
        }
        self.customers.entry(scope.clone()).or_default().entry(customer.clone()).or_default()
    }
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
        Need::Discount(_) => "discount_conflict",
        Need::Coupon(_) => "coupon_conflict",
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

//! What happened to a customer's money: payments made and failed, refunds, disputes, invoices closed.
//!
//! Each fact is counted once, whatever number of events tells it. A payment is `invoice.paid`, because it alone also
//! tells of invoices paid out of band, and comes once an invoice; `invoice.payment_succeeded` and `charge.succeeded`
//! tell the same again. A refund is told by `refund.*`, `charge.refund.updated` and `charge.refunded`: what is counted
//! is how far the larger of the two sums, of refunds by their ids and of the charge's own, has grown. Refunds and
//! disputes carry no customer; their charge or payment intent does.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use num_bigint::BigInt;
use serde::{Deserialize, Serialize};

use super::{
    content::insert_tight,
    hash::{QuickHash, short},
    history::HORIZON_DAYS,
    packing::{packed, packed_by_serde},
    rows::BillingEvent,
};
use crate::{
    money::{Amount, Currency, Rational},
    stripe::{
        ids::{CustomerId, EventId},
        types::{Charge, Event, Invoice, Object, Scope},
    },
    time::EventTime,
};

/// Charges and payment intents remembered in one of the 256 buckets, newest by event time: two million in all, four
/// months of payments of 250,000 customers. A dispute of an older one is a gap.
pub const MAX_CHARGES_PER_BUCKET: usize = 8192;

/// Events remembered of one customer within its horizon, to recognise duplicates. Past that the oldest go first.
pub const MAX_SEEN: usize = 2048;

/// Refunds and disputes kept in one bucket until their charge arrives. Past that the oldest are given up; they stay
/// gaps.
pub const MAX_PARKED_PER_BUCKET: usize = 1024;

/// A refund or dispute whose customer is not known yet.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Parked {
    key: u64,
    pub(crate) appended_at: EventTime,
    scope: Scope,
    id: EventId,
    kind: String,
    created: EventTime,
    object: Object,
}

impl Parked {
    /// The event again, and when it was appended.
    pub(crate) fn into_event(self) -> (Event, EventTime) {
        let Self { scope, id, kind, created, object, appended_at, .. } = self;
        (Event { scope, id, kind: kind.into(), created, object, before: None }, appended_at)
    }
}

/// Whose a charge or payment intent is.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Payers {
    parked: VecDeque<Parked>,
    by_id: HashMap<u64, (EventTime, CustomerId), QuickHash>,
    /// The same, oldest first; not stored.
    #[serde(skip)]
    by_age: BTreeSet<(EventTime, u64)>,
    /// The payments noted since the last checkpoint; not stored.
    #[serde(skip)]
    noted: Vec<u64>,
}

/// What changed of [`Payers`] since the last checkpoint.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct PayersChanges<'a> {
    parked: Cow<'a, VecDeque<Parked>>,
    noted: Vec<(u64, EventTime, CustomerId)>,
}

impl Payers {
    /// Notes whose a payment is. True if that is new.
    pub(crate) fn note(&mut self, key: u64, created: EventTime, customer: &CustomerId) -> bool {
        if self.by_id.contains_key(&key) {
            return false;
        }
        self.by_id.insert(key, (created, customer.clone()));
        self.by_age.insert((created, key));
        self.noted.push(key);
        if self.by_age.len() > MAX_CHARGES_PER_BUCKET
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_id.remove(&oldest);
        }
        true
    }

    /// After a restore.
    pub(crate) fn index(&mut self) {
        self.by_age = self.by_id.iter().map(|(key, (created, _))| (*created, *key)).collect();
    }

    /// What changed since [`Self::saved`].
    pub(crate) fn changes(&self) -> PayersChanges<'_> {
        let noted = |key: &u64| self.by_id.get(key).map(|(created, customer)| (*key, *created, customer.clone()));
        PayersChanges { parked: Cow::Borrowed(&self.parked), noted: self.noted.iter().filter_map(noted).collect() }
    }

    /// Puts back what changed.
    pub(crate) fn change(&mut self, PayersChanges { parked, noted }: PayersChanges<'_>) {
        self.parked = parked.into_owned();
        for (key, created, customer) in noted {
            self.note(key, created, &customer);
        }
    }

    /// Everything so far is in a checkpoint.
    pub(crate) fn saved(&mut self) {
        self.noted.clear();
    }

    /// Keeps an event until the payment with this key arrives. True if it is not kept already.
    pub(crate) fn park(&mut self, key: u64, event: &Event, appended_at: EventTime) -> bool {
        if self.parked.iter().any(|parked| parked.id == event.id && parked.key == key) {
            return false;
        }
        self.parked.push_back(Parked {
            key,
            appended_at,
            scope: event.scope.clone(),
            id: event.id.clone(),
            kind: event.kind.to_string(),
            created: event.created,
            object: event.object.clone(),
        });
        if self.parked.len() > MAX_PARKED_PER_BUCKET {
            self.parked.pop_front();
        }
        true
    }

    /// What waited for the payment with this key.
    pub(crate) fn unpark(&mut self, key: u64) -> impl Iterator<Item = Parked> + use<> {
        let (here, rest): (VecDeque<_>, _) =
            std::mem::take(&mut self.parked).into_iter().partition(|parked| parked.key == key);
        self.parked = rest;
        here.into_iter()
    }

    pub(crate) fn get(&self, key: u64) -> Option<&CustomerId> {
        self.by_id.get(&key).map(|(_, customer)| customer)
    }
}

/// The key of a payment within its scope.
pub(crate) fn payment_key(scope: &Scope, id: &str) -> u64 {
    short(&[scope.account.as_str(), if scope.livemode { "live" } else { "test" }, id])
}

/// The ids by which the payment behind an object is known: its charge, its payment intent.
pub(crate) fn payment_ids(object: &Object) -> Vec<&str> {
    let ids: [Option<&str>; 2] = match object {
        Object::Charge(charge) => [Some(charge.id.as_str()), charge.payment_intent.as_deref()],
        Object::PaymentIntent(intent) => [Some(&intent.id), intent.latest_charge.as_ref().map(|id| id.as_str())],
        Object::Refund(refund) => [refund.charge.as_ref().map(|id| id.as_str()), refund.payment_intent.as_deref()],
        Object::Dispute(dispute) => [dispute.charge.as_ref().map(|id| id.as_str()), None],
        Object::InvoicePayment(payment) => {
            let mut ids = payment.payments.iter().map(String::as_str);
            [ids.next(), ids.next()]
        }
        _ => [None, None],
    };
    ids.into_iter().flatten().collect()
}

/// What one customer's events have told so far, within its horizon.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Told {
    newest: Option<EventTime>,
    /// Facts told, by time.
    seen: Vec<(EventTime, u64)>,
    /// Up to when facts told may be missing there.
    forgotten: Option<EventTime>,
    /// By charge: refunds by id, the charge's own sum, and how much was counted.
    refunds: BTreeMap<u64, Refunds>,
}

packed!(Told { newest, seen, forgotten, refunds });

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Refunds {
    newest: EventTime,
    by_id: BTreeMap<u64, i64>,
    of_charge: i64,
    counted: i64,
}

packed_by_serde!(BTreeMap<u64, Refunds>);

/// What became of an event.
pub(crate) enum Heard {
    /// It told something new.
    Row(Box<BillingEvent>),
    /// It told nothing that is counted.
    Nothing,
    Duplicate,
    Late,
}

impl Told {
    /// Takes in one event of the customer's.
    pub(crate) fn hear(
        &mut self,
        event: &Event,
        appended_at: EventTime,
        customer: &CustomerId,
        folding: bool,
    ) -> Heard {
        let key = (event.created, short(&[event.id.as_str()]));
        let Err(position) = self.seen.binary_search(&key) else {
            return Heard::Duplicate;
        };
        let newest = self.newest.map_or(event.created, |newest| newest.max(event.created));
        let horizon = newest.plus_days(-HORIZON_DAYS);
        // An event of a time whose ids are forgotten may have been told, also while a backlog is read.
        let forgotten = self.forgotten.is_some_and(|forgotten| event.created <= forgotten);
        if forgotten || (folding && event.created < horizon) {
            return Heard::Late;
        }
        let Some(fact) = self.fact(event) else {
            return Heard::Nothing;
        };
        self.newest = Some(newest);
        insert_tight(&mut self.seen, position, key);
        if folding {
            let past = self.seen.partition_point(|(time, _)| *time < horizon);
            let past = past.max(self.seen.len().saturating_sub(MAX_SEEN));
            self.forgotten = self.seen.drain(..past).next_back().map(|(time, _)| time).max(self.forgotten);
            // A charge can be refunded in parts for half a year.
            self.refunds.retain(|_, refunds| refunds.newest >= newest.plus_days(-6 * HORIZON_DAYS));
        }
        Heard::Row(Box::new(BillingEvent {
            scope: event.scope.clone(),
            event_id: event.id.clone(),
            occurred_at: fact.at.unwrap_or(event.created),
            known_at: appended_at,
            customer_id: customer.clone(),
            kind: fact.kind.into(),
            object_id: fact.object_id,
            currency: fact.currency,
            amount: fact.currency.zip(fact.amount_minor).and_then(|(currency, minor)| {
                Amount::from_minor(&Rational::from_integer(BigInt::from(minor)), currency).ok()
            }),
            attempt_count: fact.attempt_count,
            failure_code: fact.failure_code,
        }))
    }

    fn fact(&mut self, event: &Event) -> Option<Fact> {
        match (&event.object, &*event.kind) {
            (Object::Invoice(invoice), kind) => of_invoice(invoice, kind),
            // Charges of invoices have a payment intent and fail as `invoice.payment_failed`.
            (Object::Charge(charge), "charge.failed") if charge.payment_intent.is_none() => Some(Fact {
                failure_code: charge.failure_code.as_deref().map(Into::into),
                ..Fact::of("payment_failed", charge.id.as_str(), charge.currency, Some(charge.amount))
            }),
            (Object::Charge(charge), "charge.refunded") => self.refunded(charge, event.created),
            (Object::Refund(refund), _) => {
                let void = matches!(refund.status.as_deref(), Some("failed" | "canceled"));
                let charge = refund.charge.as_ref().map(|id| id.as_str()).or(refund.payment_intent.as_deref())?;
                let refunds = self.refunds_of(charge, event.created);
                let known = refunds.by_id.entry(short(&[&refund.id])).or_default();
                *known = if void { 0 } else { refund.amount.max(*known) };
                let grown = refunds.grown()?;
                // The charge, as `charge.refunded` says it: which of the two tells of it first is chance.
                let fact = Fact::of("refund", charge, refund.currency, Some(grown));
                Some(Fact { at: refund.created, ..fact })
            }
            (Object::Dispute(dispute), "charge.dispute.created") => {
                Some(Fact::of("dispute", &dispute.id, dispute.currency, Some(dispute.amount)))
            }
            _ => None,
        }
    }

    fn refunded(&mut self, charge: &Charge, created: EventTime) -> Option<Fact> {
        let refunds = self.refunds_of(charge.id.as_str(), created);
        refunds.of_charge = refunds.of_charge.max(charge.amount_refunded);
        let grown = refunds.grown()?;
        Some(Fact::of("refund", charge.id.as_str(), charge.currency, Some(grown)))
    }

    fn refunds_of(&mut self, charge: &str, created: EventTime) -> &mut Refunds {
        let refunds = self.refunds.entry(short(&[charge])).or_default();
        refunds.newest = refunds.newest.max(created);
        refunds
    }
}

impl Refunds {
    fn grown(&mut self) -> Option<i64> {
        let total = self.by_id.values().sum::<i64>().max(self.of_charge);
        let grown = total - self.counted;
        if grown <= 0 {
            return None;
        }
        self.counted = total;
        Some(grown)
    }
}

struct Fact {
    kind: &'static str,
    object_id: Arc<str>,
    currency: Option<Currency>,
    amount_minor: Option<i64>,
    attempt_count: Option<i64>,
    failure_code: Option<Arc<str>>,
    /// When it happened, where that is not when the event was made.
    at: Option<EventTime>,
}

impl Fact {
    fn of(kind: &'static str, object_id: &str, currency: Option<Currency>, amount_minor: Option<i64>) -> Self {
        let object_id = object_id.into();
        Self { kind, object_id, currency, amount_minor, attempt_count: None, failure_code: None, at: None }
    }
}

fn of_invoice(invoice: &Invoice, kind: &str) -> Option<Fact> {
    // Paid out of band, old shapes say that nothing was paid.
    let paid = invoice.amount_paid.filter(|paid| *paid != 0).or(invoice.total);
    let due = invoice.amount_due.or(invoice.total);
    let (kind, amount) = match kind {
        "invoice.paid" if paid == Some(0) => return None,
        "invoice.paid" => ("payment_succeeded", paid),
        "invoice.payment_failed" => ("payment_failed", invoice.amount_remaining.or(due)),
        "invoice.finalized" => ("invoice_finalized", due),
        "invoice.voided" => ("invoice_voided", due),
        "invoice.marked_uncollectible" => ("invoice_uncollectible", invoice.amount_remaining.or(due)),
        _ => return None,
    };
    let id = invoice.id.as_ref()?;
    Some(Fact { attempt_count: invoice.attempt_count, ..Fact::of(kind, id.as_str(), invoice.currency, amount) })
}

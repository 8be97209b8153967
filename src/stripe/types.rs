//! What Tributary understands of Stripe's objects: one canonical shape for each, whatever API version wrote it.
//!
//! Amounts are in Stripe's minor units of their currency, exact. A field that a shape does not carry is `None`;
//! it is never invented. Enumerations of Stripe's are open: an unknown value is kept as text.

mod billing;
mod catalogue;
mod subscription;

use std::{collections::BTreeMap, sync::Arc};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

pub use self::{billing::*, catalogue::*, subscription::*};
use super::{
    ids::{AccountId, CustomerId, EventId},
    own,
};
use crate::{
    money::{Currency, Rational},
    time::EventTime,
};

/// Whose data a thing is: accounts and modes are never mixed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Scope {
    /// The Stripe account.
    pub account: AccountId,
    /// Live data, or test data.
    pub livemode: bool,
}

/// One Stripe event, read.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whose it is.
    pub scope: Scope,
    /// `evt_…`
    pub id: EventId,
    /// Stripe's type, such as `customer.subscription.updated`.
    pub kind: Arc<str>,
    /// When Stripe made the event; whole seconds.
    pub created: EventTime,
    /// The object at that moment.
    pub object: Object,
    /// The object before, for events with `previous_attributes`: those undone on `object`.
    pub before: Option<Box<Object>>,
}

/// Who says what a record of the log says; the better source is the greater one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Provenance {
    /// A file that somebody wrote by hand.
    File,
    /// Stripe's API, asked at some time.
    Snapshot,
    /// Stripe's event.
    Event,
}

impl Provenance {
    /// The word in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Snapshot => "snapshot",
            Self::Event => "event",
        }
    }
}

impl Event {
    /// Who says it: Stripe, unless the record is one of our own ([`super::own`]).
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        match &*self.kind {
            own::SNAPSHOT => Provenance::Snapshot,
            own::FILE | own::FX_RATES => Provenance::File,
            _ => Provenance::Event,
        }
    }

    /// Whether the log reaches as far as this: by what happened, and by what subscriptions and customers were seen to
    /// be. A price list or rates of exchange say nothing of what happened until then.
    #[must_use]
    pub fn moves_clock(&self) -> bool {
        match self.provenance() {
            Provenance::Event => true,
            Provenance::Snapshot => matches!(self.object, Object::Subscription(_) | Object::Customer(_)),
            Provenance::File => false,
        }
    }

    /// Whether the event is the first of its object's life (`*.created`).
    #[must_use]
    pub fn is_creation(&self) -> bool {
        self.kind.ends_with(".created")
    }

    /// Whether the event ends its object's life (`*.deleted`).
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.kind.ends_with(".deleted")
    }
}

/// The object an event carries.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Object {
    /// A customer.
    Customer(Customer),
    /// A subscription with its items.
    Subscription(Box<Subscription>),
    /// An invoice with its lines.
    Invoice(Box<Invoice>),
    /// A charge.
    Charge(Charge),
    /// A payment intent.
    PaymentIntent(PaymentIntent),
    /// A refund.
    Refund(Refund),
    /// A dispute.
    Dispute(Dispute),
    /// A price, or an old plan.
    Price(Box<Price>),
    /// A product.
    Product(Product),
    /// A coupon.
    Coupon(Coupon),
    /// A discount: a coupon applied to a customer or a subscription.
    Discount(Box<Discount>),
    /// A promotion code: what customers type for a coupon.
    PromotionCode(Box<PromotionCode>),
    /// Rates of exchange of one day: a record of our own.
    FxRates(Box<FxDay>),
    /// A credit note.
    CreditNote(Box<CreditNote>),
    /// A payment of an invoice, where invoices and payments are linked by objects of their own.
    InvoicePayment(InvoicePayment),
    /// A schedule of a subscription's phases.
    Schedule(Box<Schedule>),
    /// Anything else: counted by its `object` name, never fatal.
    Other(String),
}

/// A customer, without anything personal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Customer {
    /// `cus_…`
    pub id: CustomerId,
    /// When the object was made.
    pub created: Option<EventTime>,
    /// The currency of its invoices.
    pub currency: Option<Currency>,
    /// Whether the latest invoice is unpaid.
    pub delinquent: Option<bool>,
    /// Discounts on everything the customer buys.
    pub discounts: Vec<DiscountRef>,
    /// Tombstone of a `customer.deleted`.
    pub deleted: bool,
}

/// Rates of exchange of one day, from one source.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FxDay {
    /// The day.
    pub day: NaiveDate,
    /// What the rates are for one unit of.
    pub base: Currency,
    /// Who published them, such as `ecb`.
    pub source: String,
    /// Units of each currency for one unit of `base`.
    pub rates: BTreeMap<Currency, Rational>,
}

//! What Tributary understands of Stripe's objects: one canonical shape for each, whatever API version wrote it.
//!
//! Amounts are in Stripe's minor units of their currency, exact. A field that a shape does not carry is `None`;
//! it is never invented. Enumerations of Stripe's are open: an unknown value is kept as text.

use std::{collections::BTreeMap, sync::Arc};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::ids::{
    AccountId, ChargeId, CouponId, CustomerId, DiscountId, EventId, InvoiceId, PriceId, ProductId, SubscriptionId,
    SubscriptionItemId,
};
use super::own;
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

/// Where a subscription stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum SubscriptionStatus {
    /// Paying.
    Active,
    /// The latest payment failed and is being retried.
    PastDue,
    /// In a trial.
    Trialing,
    /// The first payment has not succeeded yet.
    Incomplete,
    /// The first payment never succeeded.
    IncompleteExpired,
    /// Retries are exhausted.
    Unpaid,
    /// Over.
    Canceled,
    /// Stopped, for example a trial that ended without a payment method.
    Paused,
    /// A value this version does not know: not counted as revenue, and counted as unknown.
    Other(String),
}

impl SubscriptionStatus {
    /// Stripe's word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Trialing => "trialing",
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Unpaid => "unpaid",
            Self::Canceled => "canceled",
            Self::Paused => "paused",
            Self::Other(word) => word,
        }
    }
}

impl From<&str> for SubscriptionStatus {
    fn from(word: &str) -> Self {
        match word {
            "active" => Self::Active,
            "past_due" => Self::PastDue,
            "trialing" => Self::Trialing,
            "incomplete" => Self::Incomplete,
            "incomplete_expired" => Self::IncompleteExpired,
            "unpaid" => Self::Unpaid,
            "canceled" => Self::Canceled,
            "paused" => Self::Paused,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// A subscription.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Subscription {
    /// `sub_…`
    pub id: SubscriptionId,
    /// Whose it is.
    pub customer: CustomerId,
    /// Where it stands.
    pub status: SubscriptionStatus,
    /// Its currency; old shapes leave it to the prices.
    pub currency: Option<Currency>,
    /// Its items, in Stripe's order.
    pub items: Vec<SubscriptionItem>,
    /// Stripe embeds ten items at most; true when there are more.
    pub items_truncated: bool,
    /// Discounts on the subscription.
    pub discounts: Vec<DiscountRef>,
    /// When the object was made.
    pub created: Option<EventTime>,
    /// When service began (can lie before `created`).
    pub start_date: Option<EventTime>,
    /// When the trial began.
    pub trial_start: Option<EventTime>,
    /// When the trial ends or ended.
    pub trial_end: Option<EventTime>,
    /// When it will end, if that is planned.
    pub cancel_at: Option<EventTime>,
    /// Whether it will end with the current period.
    pub cancel_at_period_end: bool,
    /// When cancellation was asked for.
    pub canceled_at: Option<EventTime>,
    /// When it ended.
    pub ended_at: Option<EventTime>,
    /// The period's end in old shapes; new ones have it on the items.
    pub current_period_end: Option<EventTime>,
    /// How collection is paused (`void`, `keep_as_draft`, `mark_uncollectible`), if it is.
    pub pause_collection: Option<String>,
    /// `cancellation_details.reason`, such as `payment_failed` or `cancellation_requested`.
    pub cancellation_reason: Option<String>,
    /// The reason in `status_details` when status is `paused`.
    pub pause_reason: Option<String>,
    /// The schedule that drives it.
    pub schedule: Option<String>,
}

/// One item of a subscription.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SubscriptionItem {
    /// `si_…`
    pub id: SubscriptionItemId,
    /// Its price, as the body has it: perhaps only an id.
    pub price: Price,
    /// Units; `None` when the body has none.
    pub quantity: Option<Rational>,
    /// Discounts on this item.
    pub discounts: Vec<DiscountRef>,
    /// Start of the item's period (new shapes).
    pub current_period_start: Option<EventTime>,
    /// End of the item's period (new shapes).
    pub current_period_end: Option<EventTime>,
}

/// A recurring interval.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Interval {
    /// Days.
    Day,
    /// Weeks.
    Week,
    /// Calendar months.
    Month,
    /// Calendar years.
    Year,
}

impl Interval {
    /// Stripe's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// A price (or an old plan). Only `id` is sure.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Price {
    /// `price_…` or `plan_…`
    pub id: PriceId,
    /// What it sells.
    pub product: Option<ProductId>,
    /// The currency of `unit_amount` and `tiers`.
    pub currency: Option<Currency>,
    /// `unit_amount_decimal`, else `unit_amount`, in minor units.
    pub unit_amount: Option<Rational>,
    /// The interval; `None` for one-off prices and bare ids.
    pub interval: Option<Interval>,
    /// How many intervals make a period; 1 when absent.
    pub interval_count: u32,
    /// Whether usage decides the amount.
    pub metered: bool,
    /// How tiers are applied, for tiered prices.
    pub tiers_mode: Option<TiersMode>,
    /// The tiers, where the body has them: webhook bodies hardly ever do.
    pub tiers: Option<Vec<Tier>>,
    /// Packages: the quantity is divided before it is priced.
    pub transform_quantity: Option<TransformQuantity>,
    /// Whether amounts include tax (`tax_behavior = inclusive`).
    pub tax_inclusive: Option<bool>,
    /// Unit amounts in other currencies, in their minor units.
    pub currency_options: BTreeMap<Currency, Rational>,
    /// Whether it can be bought.
    pub active: Option<bool>,
    /// The merchant's name for it.
    pub nickname: Option<String>,
}

/// How the tiers of a price are applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TiersMode {
    /// Each unit at its own tier's rate.
    Graduated,
    /// All units at the rate of the tier the quantity falls in.
    Volume,
}

/// One tier of a price.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tier {
    /// The last unit of the tier; `None` for the last tier.
    pub up_to: Option<Rational>,
    /// Minor units for each unit; 0 when absent.
    pub unit_amount: Rational,
    /// Minor units for entering the tier; 0 when absent.
    pub flat_amount: Rational,
}

/// Packaging of quantities.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TransformQuantity {
    /// Units in a package; at least 1.
    pub divide_by: u64,
    /// Whether a package begun counts whole.
    pub round_up: bool,
}

/// A product.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Product {
    /// `prod_…`
    pub id: ProductId,
    /// The merchant's name for it.
    pub name: Option<String>,
    /// Whether it is on sale.
    pub active: Option<bool>,
}

/// A discount by reference or whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum DiscountRef {
    /// New shapes: `di_…` only.
    Id(DiscountId),
    /// Old shapes and expanded bodies.
    Full(Box<Discount>),
}

/// A coupon applied to something.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Discount {
    /// `di_…`; absent in very old shapes.
    pub id: Option<DiscountId>,
    /// The coupon.
    pub coupon: CouponRef,
    /// On whose purchases.
    pub customer: Option<CustomerId>,
    /// On which subscription, if on one.
    pub subscription: Option<SubscriptionId>,
    /// On which item, if on one.
    pub subscription_item: Option<SubscriptionItemId>,
    /// From when.
    pub start: Option<EventTime>,
    /// Until when; `None` is for ever or as the coupon says.
    pub end: Option<EventTime>,
}

/// A coupon by reference or whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum CouponRef {
    /// New shapes: the id only.
    Id(CouponId),
    /// Old shapes and expanded bodies.
    Full(Box<Coupon>),
}

/// How long a coupon lasts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CouponDuration {
    /// For ever.
    Forever,
    /// For some months.
    Repeating,
    /// For one invoice.
    Once,
    /// A value this version does not know.
    Other(String),
}

/// A coupon.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Coupon {
    /// The merchant's code.
    pub id: CouponId,
    /// Share taken off, in percent.
    pub percent_off: Option<Rational>,
    /// Amount taken off an invoice, in minor units of `currency`.
    pub amount_off: Option<Rational>,
    /// The currency of `amount_off`.
    pub currency: Option<Currency>,
    /// How long it lasts.
    pub duration: CouponDuration,
    /// Months, for a repeating one.
    pub duration_in_months: Option<u32>,
    /// The products it applies to; empty means all.
    pub applies_to: Vec<ProductId>,
    /// Amounts off in other currencies, in their minor units.
    pub currency_options: BTreeMap<Currency, Rational>,
}

/// A promotion code.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PromotionCode {
    /// `promo_…`
    pub id: String,
    /// The coupon it stands for (`coupon`, later `promotion.coupon`).
    pub coupon: Option<CouponRef>,
    /// Whether it can be used.
    pub active: Option<bool>,
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

/// An invoice.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Invoice {
    /// `in_…`; previews have none.
    pub id: Option<InvoiceId>,
    /// Whom it bills.
    pub customer: Option<CustomerId>,
    /// The subscription it bills (`subscription`, later `parent.subscription_details.subscription`).
    pub subscription: Option<SubscriptionId>,
    /// Its currency.
    pub currency: Option<Currency>,
    /// `draft`, `open`, `paid`, `void`, `uncollectible`, or a later word.
    pub status: Option<String>,
    /// Why it was made, such as `subscription_cycle`.
    pub billing_reason: Option<String>,
    /// What is charged in all, in minor units.
    pub total: Option<i64>,
    /// What is owed.
    pub amount_due: Option<i64>,
    /// What has been paid.
    pub amount_paid: Option<i64>,
    /// What is still owed.
    pub amount_remaining: Option<i64>,
    /// How often payment was tried.
    pub attempt_count: Option<i64>,
    /// When the next try is planned; none after the last.
    pub next_payment_attempt: Option<EventTime>,
    /// Its lines, ten at most in a webhook.
    pub lines: Vec<InvoiceLine>,
    /// Whether there are more lines than the body has.
    pub lines_truncated: bool,
}

/// A line of an invoice.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct InvoiceLine {
    /// `il_…`
    pub id: String,
    /// Its amount in minor units, before invoice-level discounts.
    pub amount: i64,
    /// The price it bills.
    pub price: Option<PriceId>,
    /// The subscription it bills.
    pub subscription: Option<SubscriptionId>,
    /// The item it bills.
    pub subscription_item: Option<SubscriptionItemId>,
    /// Whether it settles a change in mid-period.
    pub proration: bool,
    /// Start of what it pays for.
    pub period_start: Option<EventTime>,
    /// End of what it pays for.
    pub period_end: Option<EventTime>,
}

/// A charge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Charge {
    /// `ch_…`
    pub id: ChargeId,
    /// Who pays.
    pub customer: Option<CustomerId>,
    /// Minor units.
    pub amount: i64,
    /// Minor units given back so far.
    pub amount_refunded: i64,
    /// Its currency.
    pub currency: Option<Currency>,
    /// `succeeded`, `pending`, `failed`.
    pub status: Option<String>,
    /// Why it failed.
    pub failure_code: Option<String>,
    /// The payment intent it belongs to.
    pub payment_intent: Option<String>,
}

/// A payment intent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PaymentIntent {
    /// `pi_…`
    pub id: String,
    /// Who pays; often absent.
    pub customer: Option<CustomerId>,
    /// Minor units.
    pub amount: i64,
    /// Its currency.
    pub currency: Option<Currency>,
    /// Stripe's word for where it stands.
    pub status: Option<String>,
    /// The charge last tried.
    pub latest_charge: Option<ChargeId>,
}

/// A refund.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refund {
    /// `re_…`
    pub id: String,
    /// What it gives back.
    pub charge: Option<ChargeId>,
    /// The payment intent it gives back.
    pub payment_intent: Option<String>,
    /// Minor units.
    pub amount: i64,
    /// Its currency.
    pub currency: Option<Currency>,
    /// Where it stands.
    pub status: Option<String>,
}

/// A dispute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dispute {
    /// `dp_…`
    pub id: String,
    /// The charge disputed.
    pub charge: Option<ChargeId>,
    /// Minor units.
    pub amount: i64,
    /// Its currency.
    pub currency: Option<Currency>,
    /// Where it stands.
    pub status: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

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
    /// Rates of tax on items that have none of their own.
    pub tax_rates: Vec<TaxRate>,
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
    /// Rates of tax on this item; where there are none, the subscription's hold.
    pub tax_rates: Vec<TaxRate>,
    /// When the item's own trial ends or ended.
    pub trial_end: Option<EventTime>,
    /// Start of the item's period (new shapes).
    pub current_period_start: Option<EventTime>,
    /// End of the item's period (new shapes).
    pub current_period_end: Option<EventTime>,
}

/// A rate of tax.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TaxRate {
    /// `txr_…`; `tax_percent` for the number that stood on subscriptions before there were rates.
    pub id: String,
    /// The rate in percent, the effective one where the body has it.
    pub percentage: Rational,
    /// Whether amounts include the tax.
    pub inclusive: bool,
}

/// What of an amount is tax, in minor units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TaxAmounts {
    /// All tax.
    pub total: i64,
    /// The part that the amount itself includes.
    pub inclusive: i64,
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

impl Price {
    /// A price of which only the id is known.
    #[must_use]
    pub fn bare(id: PriceId) -> Self {
        Self {
            id,
            product: None,
            currency: None,
            unit_amount: None,
            interval: None,
            interval_count: 1,
            metered: false,
            tiers_mode: None,
            tiers: None,
            transform_quantity: None,
            tax_inclusive: None,
            currency_options: BTreeMap::new(),
            active: None,
            nickname: None,
        }
    }
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

impl CouponRef {
    /// The coupon's id.
    #[must_use]
    pub fn id(&self) -> &CouponId {
        match self {
            Self::Id(id) => id,
            Self::Full(coupon) => &coupon.id,
        }
    }
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
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
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
    /// When the object was made.
    pub created: Option<EventTime>,
    /// When it was finalised.
    pub finalized_at: Option<EventTime>,
    /// When it was voided.
    pub voided_at: Option<EventTime>,
    /// When it was given up as uncollectible.
    pub uncollectible_at: Option<EventTime>,
    /// The lines before discounts and exclusive tax, in minor units, as all amounts.
    pub subtotal: Option<i64>,
    /// What is charged in all.
    pub total: Option<i64>,
    /// Tax on everything; `None` where the body does not say.
    pub tax: Option<TaxAmounts>,
    /// The customer's balance before it was finalised; negative is credit.
    pub starting_balance: Option<i64>,
    /// The customer's balance after it was finalised.
    pub ending_balance: Option<i64>,
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
    /// The charges and payment intents that pay it, where the body names them.
    pub payments: Vec<String>,
    /// Its lines, ten at most in a webhook.
    pub lines: Vec<InvoiceLine>,
    /// Whether there are more lines than the body has.
    pub lines_truncated: bool,
}

/// A line of an invoice.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct InvoiceLine {
    /// `il_…`
    pub id: String,
    /// Its amount in minor units, before invoice-level discounts and exclusive tax.
    pub amount: i64,
    /// The amount before all discounts, where the body has it.
    pub subtotal: Option<i64>,
    /// What discounts take off `amount`.
    pub discount: i64,
    /// What prepaid or promotional credits take off, before tax.
    pub credits: i64,
    /// Tax on the line; `None` where the body does not say.
    pub tax: Option<TaxAmounts>,
    /// Units.
    pub quantity: Option<Rational>,
    /// The price it bills.
    pub price: Option<PriceId>,
    /// That price whole, where the body has it: old shapes, and expanded ones.
    pub price_body: Option<Box<Price>>,
    /// The product it bills.
    pub product: Option<ProductId>,
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

impl InvoiceLine {
    /// What the line bills net of discounts, credits and all tax, in minor units.
    #[must_use]
    pub fn net(&self) -> i64 {
        let inclusive = self.tax.map_or(0, |tax| tax.inclusive);
        self.amount.saturating_sub(self.discount).saturating_sub(self.credits).saturating_sub(inclusive)
    }
}

/// A payment of an invoice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InvoicePayment {
    /// `inpay_…`
    pub id: String,
    /// The invoice it pays.
    pub invoice: Option<InvoiceId>,
    /// The charge and the payment intent by which it pays.
    pub payments: Vec<String>,
}

/// A credit note: it takes back a part of a finalised invoice. Amounts in minor units.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CreditNote {
    /// `cn_…`
    pub id: String,
    /// The invoice it takes back from.
    pub invoice: Option<InvoiceId>,
    /// Whose invoice that is.
    pub customer: Option<CustomerId>,
    /// Its currency.
    pub currency: Option<Currency>,
    /// `issued`, `void`, or a later word.
    pub status: Option<String>,
    /// When the object was made.
    pub created: Option<EventTime>,
    /// When it counts, if that is not when it was made.
    pub effective_at: Option<EventTime>,
    /// When it was voided.
    pub voided_at: Option<EventTime>,
    /// All it takes back, tax included.
    pub amount: Option<i64>,
    /// The lines before discounts and exclusive tax.
    pub subtotal: Option<i64>,
    /// All discounts.
    pub discount: i64,
    /// Tax on everything; `None` where the body does not say.
    pub tax: Option<TaxAmounts>,
    /// The refunds it was paid out by (`re_…`): what it takes back and what they give back is one thing.
    pub refunds: Vec<String>,
    /// Its lines, ten at most in a webhook.
    pub lines: Vec<CreditNoteLine>,
    /// Whether there are more lines than the body has.
    pub lines_truncated: bool,
}

/// A line of a credit note.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CreditNoteLine {
    /// `cnli_…`
    pub id: String,
    /// The line of the invoice it takes back from; custom lines have none.
    pub invoice_line: Option<String>,
    /// What it takes back, before discounts and exclusive tax.
    pub amount: i64,
    /// Discounts on it.
    pub discount: i64,
    /// Tax on it; `None` where the body does not say.
    pub tax: Option<TaxAmounts>,
}

impl CreditNoteLine {
    /// What the line takes back net of discounts and all tax, in minor units.
    #[must_use]
    pub fn net(&self) -> i64 {
        let inclusive = self.tax.map_or(0, |tax| tax.inclusive);
        self.amount.saturating_sub(self.discount).saturating_sub(inclusive)
    }
}

/// A schedule: what a subscription will be, phase after phase.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Schedule {
    /// `sub_sched_…`
    pub id: String,
    /// Whose it is.
    pub customer: Option<CustomerId>,
    /// The subscription it drives, once there is one.
    pub subscription: Option<SubscriptionId>,
    /// `not_started`, `active`, `completed`, `released`, `canceled`, or a later word.
    pub status: Option<String>,
    /// What becomes of the subscription after the last phase: `release`, `cancel`, or a later word.
    pub end_behavior: Option<String>,
    /// When the object was made.
    pub created: Option<EventTime>,
    /// When the phase in force began.
    pub current_phase_start: Option<EventTime>,
    /// When it was canceled.
    pub canceled_at: Option<EventTime>,
    /// When its last phase ended.
    pub completed_at: Option<EventTime>,
    /// When it let its subscription go.
    pub released_at: Option<EventTime>,
    /// Its phases, in order of time.
    pub phases: Vec<SchedulePhase>,
}

/// A phase of a schedule.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SchedulePhase {
    /// When it begins.
    pub start: Option<EventTime>,
    /// When it ends.
    pub end: Option<EventTime>,
    /// Its currency; old shapes leave it to the prices.
    pub currency: Option<Currency>,
    /// The items the subscription will have.
    pub items: Vec<ScheduleItem>,
    /// Discounts on all of them.
    pub discounts: Vec<ScheduleDiscount>,
    /// Rates of tax on items that have none of their own.
    pub tax_rates: Vec<TaxRate>,
    /// Until when the phase is a trial.
    pub trial_end: Option<EventTime>,
}

/// An item of a phase.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ScheduleItem {
    /// Its price, as the body has it: perhaps only an id.
    pub price: Price,
    /// Units; `None` when the body has none.
    pub quantity: Option<Rational>,
    /// Discounts on this item.
    pub discounts: Vec<ScheduleDiscount>,
    /// Rates of tax on this item; where there are none, the phase's hold.
    pub tax_rates: Vec<TaxRate>,
}

/// A discount that a phase will have: made of a coupon, or an existing one.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ScheduleDiscount {
    /// The coupon to apply.
    pub coupon: Option<CouponRef>,
    /// The discount to go on with.
    pub discount: Option<DiscountId>,
    /// The promotion code to redeem.
    pub promotion_code: Option<String>,
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
    /// The invoice it pays, in old shapes.
    pub invoice: Option<InvoiceId>,
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
    /// The invoice it pays, in old shapes.
    pub invoice: Option<InvoiceId>,
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
    /// When it was made; events tell of it again when it settles.
    pub created: Option<EventTime>,
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

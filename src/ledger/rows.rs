//! What the ledger says: rows of `item_states`, `mrr_ledger`, `mrr_movements`, `billing_events` and `ledger_gaps`.
//!
//! `schemas/tables.yml` describes their columns for users; field names here are column names there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::listing::{CouponRow, PriceRow, ProductRow};
use crate::{
    money::{Amount, Currency, PeriodAmount, Rational},
    stripe::{
        ids::{CouponId, CustomerId, DiscountId, EventId, PriceId, ProductId, SubscriptionId, SubscriptionItemId},
        types::{Interval, Scope},
    },
    time::EventTime,
};

/// Why MRR changed, most telling first: the leading cause of a movement is the first that applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the codes")]
pub enum Cause {
    PaymentFailure,
    Canceled,
    Uncanceled,
    Pause,
    Resume,
    TrialStarted,
    TrialConverted,
    CurrencyChange,
    AddedSubscription,
    RemovedSubscription,
    PlanChange,
    IntervalChange,
    PriceChange,
    QuantityChange,
    DiscountStart,
    DiscountEnd,
}

impl Cause {
    /// The code in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PaymentFailure => "payment_failure",
            Self::Canceled => "canceled",
            Self::Uncanceled => "uncanceled",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::TrialStarted => "trial_started",
            Self::TrialConverted => "trial_converted",
            Self::CurrencyChange => "currency_change",
            Self::AddedSubscription => "added_subscription",
            Self::RemovedSubscription => "removed_subscription",
            Self::PlanChange => "plan_change",
            Self::IntervalChange => "interval_change",
            Self::PriceChange => "price_change",
            Self::QuantityChange => "quantity_change",
            Self::DiscountStart => "discount_start",
            Self::DiscountEnd => "discount_end",
        }
    }

    /// The cause with that code.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == code)
    }

    /// All causes, most telling first.
    pub const ALL: [Self; 16] = [
        Self::PaymentFailure,
        Self::Canceled,
        Self::Uncanceled,
        Self::Pause,
        Self::Resume,
        Self::TrialStarted,
        Self::TrialConverted,
        Self::CurrencyChange,
        Self::AddedSubscription,
        Self::RemovedSubscription,
        Self::PlanChange,
        Self::IntervalChange,
        Self::PriceChange,
        Self::QuantityChange,
        Self::DiscountStart,
        Self::DiscountEnd,
    ];
}

/// What a movement is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the codes")]
pub enum MovementKind {
    Imported,
    New,
    Reactivation,
    Expansion,
    Contraction,
    Churn,
}

impl MovementKind {
    /// The terms of a bridge but `fx`, in the order in which they are added up.
    pub const ALL: [Self; 6] =
        [Self::Imported, Self::New, Self::Reactivation, Self::Expansion, Self::Contraction, Self::Churn];

    /// The code in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::New => "new",
            Self::Reactivation => "reactivation",
            Self::Expansion => "expansion",
            Self::Contraction => "contraction",
            Self::Churn => "churn",
        }
    }
}

/// A discount as `item_states` keeps it: raw, so that any profile can be applied later.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ItemDiscount {
    /// `item`, `subscription` or `customer`.
    pub level: Arc<str>,
    /// Stripe's id of the discount; very old shapes have none, there the coupon and its dates stand in.
    pub id: DiscountId,
    /// What it takes off; `None` while its coupon is not known.
    pub terms: Option<DiscountTerms>,
}

/// What a discount takes off, and when.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DiscountTerms {
    /// The coupon's id.
    pub coupon: CouponId,
    /// `forever`, `repeating`, `once`, or a later word.
    pub duration: Arc<str>,
    /// Percent.
    pub percent_off: Option<Rational>,
    /// An invoice, in major units of the item's currency.
    pub amount_off: Option<PeriodAmount>,
    /// The products it applies to; empty means all.
    pub applies_to: Vec<ProductId>,
    /// From when.
    pub start: Option<EventTime>,
    /// Until when.
    pub end: Option<EventTime>,
}

/// One state of one subscription item, counted or not. Appended; for one item, `valid_from` and `provenance` the
/// row with the greatest revision holds.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct ItemState {
    pub scope: Scope,
    pub valid_from: EventTime,
    pub known_at: EventTime,
    pub customer_id: CustomerId,
    pub subscription_id: SubscriptionId,
    pub subscription_item_id: SubscriptionItemId,
    /// 1 at first, one more each time the state at this instant is written again.
    pub revision: u32,
    /// The item's place in its subscription, from 0.
    pub position: u32,
    pub price_id: PriceId,
    pub product_id: Option<ProductId>,
    pub currency: Option<Currency>,
    pub status: Arc<str>,
    /// Sorted words: `cancel_scheduled`, `collection_paused`, `metered`, `removed`, `deleted` …; see [`flag`].
    pub flags: Vec<Arc<str>>,
    pub interval: Option<Interval>,
    pub interval_count: u32,
    pub quantity: Option<Rational>,
    /// For one billing period, before discounts, inclusive tax included, in major units; `None` while it is unknown.
    pub list_amount: Option<PeriodAmount>,
    /// The share of an amount that is not inclusive tax; `None` where nothing is inclusive.
    pub net_share: Option<Rational>,
    /// In the order in which Stripe applies them.
    pub discounts: Vec<ItemDiscount>,
    pub trial_end: Option<EventTime>,
    pub started_at: Option<EventTime>,
    /// What decided the order, where several snapshots shared the second: `chain`, `lifecycle` or `arbitrary`.
    pub order_evidence: Option<&'static str>,
    /// `event`, or `reconstructed` for what lies before the first event.
    pub provenance: Arc<str>,
    pub event_id: EventId,
}

/// The words of [`ItemState::flags`].
pub mod flag {
    /// It will end with the current period.
    pub const CANCEL_SCHEDULED: &str = "cancel_scheduled";
    /// Collection of payments is paused.
    pub const COLLECTION_PAUSED: &str = "collection_paused";
    /// The subscription or its customer was deleted.
    pub const DELETED: &str = "deleted";
    /// It will end later than the current period.
    pub const FIXED_TERM: &str = "fixed_term";
    /// Usage decides the amount.
    pub const METERED: &str = "metered";
    /// Stripe says that its end or pause comes from a payment that failed.
    pub const PAYMENT_FAILED: &str = "payment_failed";
    /// The item was taken off its subscription.
    pub const REMOVED: &str = "removed";
    /// The price includes tax, but nothing has told how much.
    pub const TAX_UNKNOWN: &str = "tax_unknown";
    /// In a trial.
    pub const TRIAL: &str = "trial";
    /// The row takes back the one before it: nothing changed at this instant after all.
    pub const WITHDRAWN: &str = "withdrawn";
}

/// Which figure an entry belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Measure {
    /// Recurring revenue.
    Mrr,
    /// What a trial would be worth.
    Trial,
    /// The part of recurring revenue that is scheduled to leave.
    CancelScheduled,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mrr, Self::Trial, Self::CancelScheduled];

    /// The code in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mrr => "mrr",
            Self::Trial => "trial",
            Self::CancelScheduled => "cancel_scheduled",
        }
    }
}

/// One change of a figure that is not recurring revenue yet, or not for long. Appended like [`LedgerEntry`].
#[derive(Clone, PartialEq, Debug)]
pub struct OutlookEntry {
    /// Which figure.
    pub measure: Measure,
    /// The change; `mrr_delta` is the figure's.
    pub entry: LedgerEntry,
}

/// One change of one item's MRR. Appended, never edited.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct LedgerEntry {
    pub scope: Scope,
    /// Hash of what the entry is about and its revision: the same on every replay.
    pub entry_id: Arc<str>,
    pub event_time: EventTime,
    pub known_at: EventTime,
    pub reverses_entry_id: Option<Arc<str>>,
    pub customer_id: CustomerId,
    pub subscription_id: SubscriptionId,
    pub subscription_item_id: SubscriptionItemId,
    pub price_id: PriceId,
    pub product_id: Option<ProductId>,
    pub currency: Currency,
    /// `start`, `end`, `change` or `imported`, like Stripe's `ACTIVE_START`, `ACTIVE_END`, `ACTIVE_UPGRADE` …
    pub change: Arc<str>,
    pub cause: Cause,
    /// All of them, the leading one first.
    pub causes: Vec<Cause>,
    pub interval: Interval,
    pub interval_count: u32,
    pub list_delta: Amount,
    pub discount_delta: Amount,
    pub mrr_delta: Amount,
    pub quantity_delta: Rational,
    pub event_ids: Vec<EventId>,
}

/// One netted, classified change of a customer's MRR in one currency. Keyed by `movement_id` within its scope.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct Movement {
    pub scope: Scope,
    /// hash(account, mode, customer, currency, instant)
    pub movement_id: Arc<str>,
    /// 1 at first, one more each time the movement changes.
    pub revision: i64,
    pub occurred_at: EventTime,
    pub customer_id: CustomerId,
    pub currency: Currency,
    pub kind: MovementKind,
    pub cause: Cause,
    pub causes: Vec<Cause>,
    pub mrr_before: Amount,
    pub mrr_after: Amount,
    pub mrr_delta: Amount,
    pub event_ids: Vec<EventId>,
}

/// A change of a keyed relation: what was there, what is there now. Never both `None`.
#[derive(Clone, PartialEq, Debug)]
pub struct Change<T> {
    /// The row as last published.
    pub before: Option<T>,
    /// The row as it is now.
    pub after: Option<T>,
}

/// One thing that happened to a customer's money, from one event. Appended.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct BillingEvent {
    pub scope: Scope,
    pub event_id: EventId,
    pub occurred_at: EventTime,
    pub known_at: EventTime,
    pub customer_id: CustomerId,
    /// `payment_succeeded`, `payment_failed`, `refund`, `dispute`, `invoice_finalized`, `invoice_voided`, `invoice_uncollectible`.
    pub kind: Arc<str>,
    /// The invoice, the charge (of a refund too), or the dispute.
    pub object_id: Arc<str>,
    pub currency: Option<Currency>,
    /// Major units.
    pub amount: Option<Amount>,
    pub attempt_count: Option<i64>,
    pub failure_code: Option<Arc<str>>,
}

/// Something the ledger could not count, with its reason. Appended.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct LedgerGap {
    pub scope: Scope,
    pub occurred_at: EventTime,
    pub known_at: EventTime,
    pub customer_id: Option<CustomerId>,
    pub object_id: Arc<str>,
    /// A stable code such as `price_unknown`, `tiers_unknown`, `discount_unresolved`, `currency_unknown`, `items_truncated`.
    pub reason: Arc<str>,
    pub event_id: EventId,
}

/// An event older than its entity's folded base: kept, not applied. Appended.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct LateEvent {
    pub scope: Scope,
    pub event_id: EventId,
    pub kind: Arc<str>,
    pub created: EventTime,
    pub known_at: EventTime,
    pub customer_id: Option<CustomerId>,
}

pub use super::{recognition::Booked, revenue::RecognisedRevenue, schedules::ScheduledPhase, usage::MeteredUsage};

/// What a batch of events changed.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "one list for each table")]
pub struct Delta {
    pub item_states: Vec<ItemState>,
    pub entries: Vec<LedgerEntry>,
    pub outlook: Vec<OutlookEntry>,
    pub movements: Vec<Change<Movement>>,
    pub billing_events: Vec<BillingEvent>,
    pub gaps: Vec<LedgerGap>,
    pub late: Vec<LateEvent>,
    pub products: Vec<Change<ProductRow>>,
    pub prices: Vec<Change<PriceRow>>,
    pub coupons: Vec<Change<CouponRow>>,
    pub metered_usage: Vec<MeteredUsage>,
    pub scheduled: Vec<Change<ScheduledPhase>>,
    pub recognised: Vec<RecognisedRevenue>,
    /// Events dropped because their id had been seen.
    pub duplicates: u64,
}

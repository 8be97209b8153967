//! What the ledger says: rows of `item_states`, `mrr_ledger`, `mrr_movements`, `billing_events` and `ledger_gaps`.
//!
//! `schemas/tables.yml` describes their columns for users; field names here are column names there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::listing::{CouponRow, PriceRow, ProductRow};
use crate::{
    money::{Amount, Currency, Rational},
    stripe::{
        ids::{CustomerId, EventId, PriceId, ProductId, SubscriptionId, SubscriptionItemId},
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
    /// The coupon's id, where known.
    pub coupon: Option<Arc<str>>,
    /// `forever`, `repeating`, `once`, or a later word.
    pub duration: Arc<str>,
    /// Percent, as a decimal text.
    pub percent_off: Option<String>,
    /// Per invoice, in major units.
    pub amount_off: Option<Amount>,
    /// What it takes off this item's MRR, if the profile counted it.
    pub monthly: Amount,
    /// When it ends.
    pub end: Option<EventTime>,
}

/// One state of one subscription item, counted or not. Appended.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct ItemState {
    pub scope: Scope,
    pub valid_from: EventTime,
    pub known_at: EventTime,
    pub customer_id: CustomerId,
    pub subscription_id: SubscriptionId,
    pub subscription_item_id: SubscriptionItemId,
    pub price_id: PriceId,
    pub product_id: Option<ProductId>,
    pub currency: Option<Currency>,
    pub status: Arc<str>,
    /// Sorted words: `trial`, `cancel_scheduled`, `collection_paused`, `metered`, `removed`, `deleted` …
    pub flags: Vec<Arc<str>>,
    pub interval: Option<Interval>,
    pub interval_count: u32,
    pub quantity: Option<Rational>,
    /// For one interval, before discounts, in major units; `None` while the price is unknown.
    pub list_amount: Option<Amount>,
    pub discounts: Vec<ItemDiscount>,
    /// `event`, or `reconstructed` for what lies before the first event.
    pub provenance: Arc<str>,
    pub event_id: EventId,
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
    /// `start`, `end` or `change`, like Stripe's `ACTIVE_START`, `ACTIVE_END`, `ACTIVE_UPGRADE` …
    pub change: Arc<str>,
    pub cause: Cause,
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

/// What a batch of events changed.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "one list for each table")]
pub struct Delta {
    pub item_states: Vec<ItemState>,
    pub entries: Vec<LedgerEntry>,
    pub movements: Vec<Change<Movement>>,
    pub billing_events: Vec<BillingEvent>,
    pub gaps: Vec<LedgerGap>,
    pub late: Vec<LateEvent>,
    pub products: Vec<Change<ProductRow>>,
    pub prices: Vec<Change<PriceRow>>,
    pub coupons: Vec<Change<CouponRow>>,
    /// Events dropped because their id had been seen.
    pub duplicates: u64,
}

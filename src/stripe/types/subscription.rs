//! Subscriptions, their items, and the schedules that drive them.

use serde::{Deserialize, Serialize};

use super::{CouponRef, DiscountRef, Price, TaxRate};
use crate::{
    money::{Currency, Rational},
    stripe::ids::{CustomerId, DiscountId, SubscriptionId, SubscriptionItemId},
    time::EventTime,
};

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

//! Subscriptions with their items.

use serde::Deserialize;

use super::{
    discount::{self, RawDiscount},
    lenient::{Decimal, List, Many, Maybe, Ref, Scalar},
    missing, note_word,
    price::{self, RawPrice},
    tax::{self, RawTaxRate},
};
use crate::stripe::{
    Error, UnknownCounts,
    types::{Subscription, SubscriptionItem, SubscriptionStatus},
};

#[derive(Deserialize)]
pub(super) struct RawSubscription<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    customer: Scalar<'a>,
    #[serde(borrow, default)]
    status: Scalar<'a>,
    #[serde(borrow, default)]
    currency: Scalar<'a>,
    #[serde(borrow, default)]
    items: Maybe<List<Maybe<RawItem<'a>>>>,
    #[serde(borrow, default)]
    discount: Ref<'a, RawDiscount<'a>>,
    #[serde(borrow, default)]
    discounts: Many<Ref<'a, RawDiscount<'a>>>,
    #[serde(borrow, default)]
    default_tax_rates: Many<Ref<'a, RawTaxRate<'a>>>,
    #[serde(borrow, default)]
    tax_percent: Decimal<'a>,
    #[serde(borrow, default)]
    created: Scalar<'a>,
    #[serde(borrow, default)]
    start_date: Scalar<'a>,
    #[serde(borrow, default)]
    trial_start: Scalar<'a>,
    #[serde(borrow, default)]
    trial_end: Scalar<'a>,
    #[serde(borrow, default)]
    cancel_at: Scalar<'a>,
    #[serde(borrow, default)]
    cancel_at_period_end: Scalar<'a>,
    #[serde(borrow, default)]
    canceled_at: Scalar<'a>,
    #[serde(borrow, default)]
    ended_at: Scalar<'a>,
    #[serde(borrow, default)]
    current_period_end: Scalar<'a>,
    #[serde(borrow, default)]
    pause_collection: Maybe<RawBehavior<'a>>,
    #[serde(borrow, default)]
    cancellation_details: Maybe<RawReason<'a>>,
    #[serde(borrow, default)]
    status_details: Maybe<RawStatusDetails<'a>>,
    #[serde(borrow, default)]
    schedule: Scalar<'a>,
    // The one item of shapes without a list.
    #[serde(borrow, default)]
    plan: Ref<'a, RawPrice<'a>>,
    #[serde(borrow, default)]
    quantity: Decimal<'a>,
}

#[derive(Deserialize)]
struct RawItem<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    price: Ref<'a, RawPrice<'a>>,
    #[serde(borrow, default)]
    plan: Ref<'a, RawPrice<'a>>,
    #[serde(borrow, default)]
    quantity: Decimal<'a>,
    #[serde(borrow, default)]
    quantity_decimal: Decimal<'a>,
    #[serde(borrow, default)]
    discount: Ref<'a, RawDiscount<'a>>,
    #[serde(borrow, default)]
    discounts: Many<Ref<'a, RawDiscount<'a>>>,
    #[serde(borrow, default)]
    tax_rates: Many<Ref<'a, RawTaxRate<'a>>>,
    #[serde(borrow, default)]
    current_trial: Maybe<RawTrial<'a>>,
    #[serde(borrow, default)]
    current_period_start: Scalar<'a>,
    #[serde(borrow, default)]
    current_period_end: Scalar<'a>,
}

#[derive(Deserialize)]
struct RawTrial<'a> {
    #[serde(borrow, default)]
    end_date: Scalar<'a>,
}

#[derive(Deserialize)]
struct RawBehavior<'a> {
    #[serde(borrow, default)]
    behavior: Scalar<'a>,
}

#[derive(Deserialize)]
struct RawReason<'a> {
    #[serde(borrow, default)]
    reason: Scalar<'a>,
}

/// `status_details.paused.subscription.type`.
#[derive(Deserialize)]
struct RawStatusDetails<'a> {
    #[serde(borrow, default)]
    paused: Maybe<RawPaused<'a>>,
}

#[derive(Deserialize)]
struct RawPaused<'a> {
    #[serde(borrow, default)]
    subscription: Maybe<RawType<'a>>,
}

#[derive(Deserialize)]
struct RawType<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Scalar<'a>,
}

/// Reads a subscription. A body without a list of items but with a plan has one item, named after the
/// subscription itself. An item that cannot be read makes the list count as truncated.
pub(super) fn read(raw: RawSubscription<'_>, unknown: &mut UnknownCounts) -> Result<Subscription, Error> {
    let id = raw.id.id().ok_or(missing("subscription", "id"))?;
    let customer = raw.customer.id().ok_or(missing("subscription", "customer"))?;
    let mut items = Vec::new();
    let items_truncated = match raw.items.0 {
        Some(list) => {
            let (has_more, embedded) = (list.has_more(), list.data.0.len());
            items.extend(list.data.0.into_iter().filter_map(|item| item.0?.read(unknown)));
            if items.len() < embedded {
                unknown.count("subscription item without id or price");
            }
            has_more || items.len() < embedded
        }
        None => match price::read_either(Ref::Absent, raw.plan, unknown) {
            Some(price) => {
                items.push(SubscriptionItem {
                    id: raw.id.text().unwrap_or_default().into(),
                    price,
                    quantity: raw.quantity.rational(),
                    discounts: Vec::new(),
                    tax_rates: Vec::new(),
                    trial_end: None,
                    current_period_start: None,
                    current_period_end: None,
                });
                false
            }
            None => {
                unknown.count("subscription without items");
                true
            }
        },
    };
    let status = SubscriptionStatus::from(raw.status.text().unwrap_or_default());
    if let SubscriptionStatus::Other(word) = &status {
        unknown.count(&format!("subscription.status={word}"));
    }
    let pause_collection = raw.pause_collection.0.and_then(|pause| pause.behavior.string());
    note_word(
        "subscription.pause_collection.behavior",
        pause_collection.as_deref(),
        &["void", "keep_as_draft", "mark_uncollectible"],
        unknown,
    );
    let cancellation_reason = raw.cancellation_details.0.and_then(|details| details.reason.string());
    note_word(
        "subscription.cancellation_details.reason",
        cancellation_reason.as_deref(),
        &["cancellation_requested", "payment_disputed", "payment_failed", "canceled_by_retention_policy"],
        unknown,
    );
    let currency = raw.currency.currency();
    if currency.is_none() {
        note_word("subscription.currency", raw.currency.text(), &[], unknown);
    }
    let paused = raw.status_details.0.and_then(|details| details.paused.0?.subscription.0);
    Ok(Subscription {
        id,
        customer,
        status,
        currency,
        items,
        items_truncated,
        discounts: discount::read_refs(raw.discounts, raw.discount, unknown),
        tax_rates: tax::read_rates(raw.default_tax_rates, raw.tax_percent, unknown),
        created: raw.created.time(),
        start_date: raw.start_date.time(),
        trial_start: raw.trial_start.time(),
        trial_end: raw.trial_end.time(),
        cancel_at: raw.cancel_at.time(),
        cancel_at_period_end: raw.cancel_at_period_end.bool() == Some(true),
        canceled_at: raw.canceled_at.time(),
        ended_at: raw.ended_at.time(),
        current_period_end: raw.current_period_end.time(),
        pause_collection,
        cancellation_reason,
        pause_reason: paused.and_then(|paused| paused.kind.string()),
        schedule: raw.schedule.string().filter(|schedule| !schedule.is_empty()),
    })
}

impl RawItem<'_> {
    fn read(self, unknown: &mut UnknownCounts) -> Option<SubscriptionItem> {
        Some(SubscriptionItem {
            id: self.id.id()?,
            price: price::read_either(self.price, self.plan, unknown)?,
            quantity: self.quantity_decimal.rational().or_else(|| self.quantity.rational()),
            discounts: discount::read_refs(self.discounts, self.discount, unknown),
            tax_rates: tax::read_rates(self.tax_rates, Decimal::default(), unknown),
            trial_end: self.current_trial.0.and_then(|trial| trial.end_date.time()),
            current_period_start: self.current_period_start.time(),
            current_period_end: self.current_period_end.time(),
        })
    }
}

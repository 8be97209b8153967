//! Subscription schedules with their phases.

use serde::Deserialize;

use super::{
    discount::{self, RawCoupon},
    lenient::{Decimal, Many, Maybe, Ref, Scalar},
    missing, note_word,
    price::{self, RawPrice},
    tax::{self, RawTaxRate},
};
use crate::stripe::{
    Error, UnknownCounts,
    types::{Schedule, ScheduleDiscount, ScheduleItem, SchedulePhase},
};

#[derive(Deserialize)]
pub(super) struct RawSchedule<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    customer: Scalar<'a>,
    #[serde(borrow, default)]
    subscription: Scalar<'a>,
    #[serde(borrow, default)]
    status: Scalar<'a>,
    #[serde(borrow, default)]
    end_behavior: Scalar<'a>,
    #[serde(borrow, default)]
    created: Scalar<'a>,
    #[serde(borrow, default)]
    current_phase: Maybe<RawCurrentPhase<'a>>,
    #[serde(borrow, default)]
    canceled_at: Scalar<'a>,
    #[serde(borrow, default)]
    completed_at: Scalar<'a>,
    #[serde(borrow, default)]
    released_at: Scalar<'a>,
    #[serde(borrow, default)]
    phases: Many<Maybe<RawPhase<'a>>>,
}

#[derive(Deserialize)]
struct RawCurrentPhase<'a> {
    #[serde(borrow, default)]
    start_date: Scalar<'a>,
}

/// A phase. Old shapes have a `coupon` where new ones have `discounts`, and `plans` where new ones have `items`.
#[derive(Deserialize)]
struct RawPhase<'a> {
    #[serde(borrow, default)]
    start_date: Scalar<'a>,
    #[serde(borrow, default)]
    end_date: Scalar<'a>,
    #[serde(borrow, default)]
    currency: Scalar<'a>,
    #[serde(borrow, default)]
    items: Many<Maybe<RawItem<'a>>>,
    #[serde(borrow, default)]
    plans: Many<Maybe<RawItem<'a>>>,
    #[serde(borrow, default)]
    coupon: Ref<'a, RawCoupon<'a>>,
    #[serde(borrow, default)]
    discounts: Many<Maybe<RawScheduleDiscount<'a>>>,
    #[serde(borrow, default)]
    default_tax_rates: Many<Ref<'a, RawTaxRate<'a>>>,
    #[serde(borrow, default)]
    trial_end: Scalar<'a>,
}

#[derive(Deserialize)]
struct RawItem<'a> {
    #[serde(borrow, default)]
    price: Ref<'a, RawPrice<'a>>,
    #[serde(borrow, default)]
    plan: Ref<'a, RawPrice<'a>>,
    #[serde(borrow, default)]
    quantity: Decimal<'a>,
    #[serde(borrow, default)]
    quantity_decimal: Decimal<'a>,
    #[serde(borrow, default)]
    discounts: Many<Maybe<RawScheduleDiscount<'a>>>,
    #[serde(borrow, default)]
    tax_rates: Many<Ref<'a, RawTaxRate<'a>>>,
}

#[derive(Deserialize)]
struct RawScheduleDiscount<'a> {
    #[serde(borrow, default)]
    coupon: Ref<'a, RawCoupon<'a>>,
    #[serde(borrow, default)]
    discount: Scalar<'a>,
    #[serde(borrow, default)]
    promotion_code: Scalar<'a>,
}

const STATUSES: [&str; 5] = ["not_started", "active", "completed", "released", "canceled"];

/// Reads a schedule.
pub(super) fn read(raw: RawSchedule<'_>, unknown: &mut UnknownCounts) -> Result<Schedule, Error> {
    note_word("subscription_schedule.status", raw.status.text(), &STATUSES, unknown);
    Ok(Schedule {
        id: raw.id.id().ok_or(missing("subscription_schedule", "id"))?,
        customer: raw.customer.id(),
        subscription: raw.subscription.id(),
        status: raw.status.string(),
        end_behavior: raw.end_behavior.string(),
        created: raw.created.time(),
        current_phase_start: raw.current_phase.0.and_then(|phase| phase.start_date.time()),
        canceled_at: raw.canceled_at.time(),
        completed_at: raw.completed_at.time(),
        released_at: raw.released_at.time(),
        phases: raw.phases.0.into_iter().filter_map(|phase| Some(phase.0?.read(unknown))).collect(),
    })
}

impl RawPhase<'_> {
    fn read(self, unknown: &mut UnknownCounts) -> SchedulePhase {
        let items = if self.items.0.is_empty() { self.plans.0 } else { self.items.0 };
        let listed = items.len();
        let items: Vec<_> = items.into_iter().filter_map(|item| item.0?.read(unknown)).collect();
        if items.len() < listed {
            unknown.count("schedule item without price");
        }
        let mut discounts = read_discounts(self.discounts, unknown);
        if discounts.is_empty() {
            let coupon = discount::read_coupon_ref(self.coupon, unknown);
            discounts.extend(coupon.map(|coupon| ScheduleDiscount { coupon: Some(coupon), ..Default::default() }));
        }
        SchedulePhase {
            start: self.start_date.time(),
            end: self.end_date.time(),
            currency: self.currency.currency(),
            items,
            discounts,
            tax_rates: tax::read_rates(self.default_tax_rates, Decimal::default(), unknown),
            trial_end: self.trial_end.time(),
        }
    }
}

impl RawItem<'_> {
    fn read(self, unknown: &mut UnknownCounts) -> Option<ScheduleItem> {
        Some(ScheduleItem {
            price: price::read_either(self.price, self.plan, unknown)?,
            quantity: self.quantity_decimal.rational().or_else(|| self.quantity.rational()),
            discounts: read_discounts(self.discounts, unknown),
            tax_rates: tax::read_rates(self.tax_rates, Decimal::default(), unknown),
        })
    }
}

fn read_discounts(
    discounts: Many<Maybe<RawScheduleDiscount<'_>>>,
    unknown: &mut UnknownCounts,
) -> Vec<ScheduleDiscount> {
    let discounts = discounts.0.into_iter().filter_map(|discount| discount.0);
    discounts
        .map(|raw| ScheduleDiscount {
            coupon: discount::read_coupon_ref(raw.coupon, unknown),
            discount: raw.discount.id(),
            promotion_code: raw.promotion_code.id(),
        })
        .collect()
}

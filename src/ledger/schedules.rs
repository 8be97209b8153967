//! What subscriptions are scheduled to become: the phases of a schedule that have not taken effect, each with what it
//! will be worth a month.
//!
//! A phase counts as revenue when it takes effect, and then its subscription says so; until then it is a row of
//! `scheduled_mrr`. The newest snapshot of a schedule holds, by the time of its event, never by arrival; within a second
//! the one that ends the schedule, then the smallest hash, so that the outcome is the same in any order. A phase loses
//! its row when the clock of its scope reaches it, and a schedule that is released, canceled or completed loses all.
//! Phases are valued as items are: list value, less the coupons that the rules subtract, net of inclusive tax.

use std::{hash::Hasher, sync::Arc};

use num_bigint::BigInt;
use num_traits::Zero;
use serde::{Deserialize, Serialize};

use super::{
    catalogue::{Need, Shelf},
    discounts::{self, Line},
    hash::Fingerprint,
    history::Inserted,
    replay::Context,
    rows::{Change, LedgerGap},
    rules::Rules,
    valuation::{Unpriced, interval_amount},
};
use crate::{
    money::{Amount, Currency, Rational},
    stripe::{
        ids::{CustomerId, EventId, SubscriptionId},
        types::{Coupon, CouponRef, Event, Schedule, ScheduleDiscount, ScheduleItem, SchedulePhase, Scope, TaxRate},
    },
    time::EventTime,
};

/// Schedules remembered of one customer, those that are over included, so that an older snapshot does not bring one
/// back. Past that the one whose newest event is oldest is forgotten, if it is over.
pub const MAX_SCHEDULES: usize = 64;

/// Phases of a schedule that are read; Stripe allows ten.
pub const MAX_PHASES: usize = 32;

/// A phase that has not taken effect. Keyed by `schedule_id` and `phase_start` within its scope.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct ScheduledPhase {
    pub scope: Scope,
    pub schedule_id: Arc<str>,
    pub phase_start: EventTime,
    pub customer_id: CustomerId,
    pub subscription_id: Option<SubscriptionId>,
    /// When it begins to be worth something: after a trial, if it begins with one.
    pub starts_at: EventTime,
    pub ends_at: Option<EventTime>,
    pub currency: Currency,
    pub mrr: Amount,
    /// Of the schedule: `not_started` or `active`.
    pub status: Arc<str>,
    pub known_at: EventTime,
    pub event_id: EventId,
}

/// The schedules of one customer.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Schedules(Vec<Plan>);

/// One schedule by its newest snapshot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Plan {
    id: Arc<str>,
    order: Order,
    event_id: EventId,
    appended_at: EventTime,
    /// `None` once it is over.
    schedule: Option<Box<Schedule>>,
    published: Vec<ScheduledPhase>,
    /// What has been reported as unknown.
    reported: Vec<(Box<str>, Box<str>)>,
}

/// What makes one snapshot newer than another: its second, whether it ends the schedule, a hash of its content.
type Order = (EventTime, bool, u64);

impl Schedules {
    /// Takes in a snapshot of a schedule.
    pub(crate) fn insert(&mut self, event: &Event, schedule: &Schedule, appended_at: EventTime) -> Inserted {
        let over = matches!(schedule.status.as_deref(), Some("released" | "canceled" | "completed"));
        let mut print = Fingerprint::new();
        print.write(&postcard::to_stdvec(schedule).unwrap_or_default());
        let order = (event.created, over, !print.finish());
        let kept = (!over).then(|| {
            let mut kept = Box::new(schedule.clone());
            kept.phases.truncate(MAX_PHASES);
            kept
        });
        match self.0.iter_mut().find(|plan| *plan.id == *schedule.id) {
            Some(plan) if plan.event_id == event.id => Inserted::Duplicate,
            // What is over stays over, whatever an older snapshot says.
            Some(plan) if plan.order >= order => Inserted::New,
            Some(plan) => {
                plan.order = order;
                plan.event_id = event.id.clone();
                plan.appended_at = appended_at;
                plan.schedule = kept;
                Inserted::New
            }
            None => {
                self.0.push(Plan {
                    id: schedule.id.as_str().into(),
                    order,
                    event_id: event.id.clone(),
                    appended_at,
                    schedule: kept,
                    published: Vec::new(),
                    reported: Vec::new(),
                });
                Inserted::New
            }
        }
    }

    /// Publishes what changed.
    pub(crate) fn settle(&mut self, cx: &mut Context<'_>) {
        for plan in &mut self.0 {
            plan.settle(cx);
        }
        while self.0.len() > MAX_SCHEDULES {
            let over = self.0.iter().enumerate().filter(|(_, plan)| plan.schedule.is_none());
            let Some((oldest, _)) = over.min_by_key(|(_, plan)| plan.order) else { return };
            self.0.remove(oldest);
        }
    }
}

impl Plan {
    fn settle(&mut self, cx: &mut Context<'_>) {
        let rows = self.rows(cx);
        for before in &self.published {
            let after = rows.iter().find(|row| row.phase_start == before.phase_start);
            if after != Some(before) {
                cx.delta.scheduled.push(Change { before: Some(before.clone()), after: after.cloned() });
            }
        }
        for row in &rows {
            if !self.published.iter().any(|before| before.phase_start == row.phase_start) {
                cx.delta.scheduled.push(Change { before: None, after: Some(row.clone()) });
            }
        }
        self.published = rows;
    }

    fn rows(&mut self, cx: &mut Context<'_>) -> Vec<ScheduledPhase> {
        let Some(schedule) = self.schedule.take() else {
            return Vec::new();
        };
        let now = cx.shelf.now().max(self.order.0);
        let mut rows: Vec<ScheduledPhase> = Vec::new();
        for phase in &schedule.phases {
            let Some(start) = phase.start.filter(|start| *start > now) else { continue };
            if rows.iter().any(|row| row.phase_start == start) {
                continue;
            }
            *cx.shelf_changed |= cx.shelf.remind(start, cx.customer);
            let starts_at = phase.trial_end.map_or(start, |end| end.max(start));
            if phase.end.is_some_and(|end| end <= starts_at) {
                continue;
            }
            let (worth, gaps) = value(phase, start, cx.shelf, cx.rules);
            for gap in gaps {
                *cx.shelf_changed |= cx.shelf.wait(gap.need.clone(), cx.customer);
                self.report(gap.reason, &gap.need, start, cx);
            }
            let Some(worth) = worth else { continue };
            rows.push(ScheduledPhase {
                scope: cx.scope.clone(),
                schedule_id: Arc::clone(&self.id),
                phase_start: start,
                customer_id: cx.customer.clone(),
                subscription_id: schedule.subscription.clone(),
                starts_at,
                ends_at: phase.end,
                currency: worth.currency,
                mrr: worth.mrr,
                status: schedule.status.as_deref().unwrap_or("unknown").into(),
                known_at: self.appended_at.max(worth.known_at),
                event_id: self.event_id.clone(),
            });
        }
        self.schedule = Some(schedule);
        rows
    }

    fn report(&mut self, reason: &str, need: &Need, start: EventTime, cx: &mut Context<'_>) {
        let object = need.object_id();
        if self.reported.iter().any(|(known, of)| **known == *reason && **of == *object) {
            return;
        }
        if self.reported.len() < MAX_PHASES {
            self.reported.push((reason.into(), object.into()));
        }
        cx.delta.gaps.push(LedgerGap {
            scope: cx.scope.clone(),
            occurred_at: start,
            known_at: self.appended_at,
            customer_id: Some(cx.customer.clone()),
            object_id: object.into(),
            reason: reason.into(),
            event_id: self.event_id.clone(),
        });
    }
}

/// What a phase is worth.
struct Worth {
    currency: Currency,
    mrr: Amount,
    known_at: EventTime,
}

/// What is missing for the rest.
struct Missing {
    reason: &'static str,
    need: Need,
}

/// The monthly value of a phase's licensed items; `None` while none of them can be valued.
fn value(phase: &SchedulePhase, time: EventTime, shelf: &Shelf, rules: &Rules) -> (Option<Worth>, Vec<Missing>) {
    let mut missing = Vec::new();
    let (mut lines, mut items, mut nets) = (Vec::new(), Vec::new(), Vec::new());
    let mut known_at = EventTime::MIN;
    for item in &phase.items {
        match line(item, phase, time, shelf, rules) {
            Ok(Some((line, at))) => {
                lines.push(line);
                items.push(item);
                nets.push(net_share(item, phase));
                known_at = known_at.max(at);
            }
            Ok(None) => {}
            Err(reason) => missing.push(Missing { reason, need: Need::Price(item.price.id.clone()) }),
        }
    }
    let of_items =
        items.iter().enumerate().flat_map(|(index, item)| item.discounts.iter().map(move |d| (d, Some(index))));
    for (discount, only) in of_items.chain(phase.discounts.iter().map(|discount| (discount, None))) {
        match coupon(discount, shelf) {
            Ok((coupon, at)) => {
                if !rules.subtracts(&coupon.duration) {
                    continue;
                }
                match discounts::take(&mut lines, only, coupon) {
                    Some(_) => known_at = known_at.max(at),
                    None => {
                        missing.push(Missing { reason: "discount_unresolved", need: Need::Coupon(coupon.id.clone()) })
                    }
                }
            }
            Err(Some(need)) => missing.push(Missing { reason: "discount_unresolved", need }),
            Err(None) => {}
        }
    }
    let Some(currency) = lines.first().map(|line| line.currency) else {
        return (None, missing);
    };
    let monthly =
        lines.iter().zip(&nets).map(|(line, net)| Amount::from_minor(&(&line.left * &line.share * net), currency));
    let mrr: Result<Vec<Amount>, _> = monthly.collect();
    let mrr = mrr.map(|items| items.into_iter().sum::<Amount>().max(Amount::ZERO));
    (mrr.ok().map(|mrr| Worth { currency, mrr, known_at }), missing)
}

/// An item as an invoice line would bill it; `None` when it is not licensed and recurring.
fn line(
    item: &ScheduleItem,
    phase: &SchedulePhase,
    time: EventTime,
    shelf: &Shelf,
    rules: &Rules,
) -> Result<Option<(Line, EventTime)>, &'static str> {
    let known = shelf.price(&item.price.id).ok_or("price_unknown")?;
    let price = &known.value.price;
    let Some(interval) = price.interval.filter(|_| !price.metered) else {
        return Ok(None);
    };
    let currency = phase.currency.or(price.currency).ok_or("currency_unknown")?;
    let quantity = item.quantity.clone().unwrap_or_else(|| Rational::from_integer(BigInt::from(1)));
    let list = interval_amount(&known.value, currency, &quantity, time).map_err(|why| match why {
        Unpriced::Price => "price_unknown",
        Unpriced::Tiers => "tiers_unknown",
        Unpriced::Currency => "currency_unknown",
        Unpriced::Amount => "amount_too_large",
    })?;
    let share = rules.monthly_share(interval, price.interval_count);
    let cadence = (interval, price.interval_count);
    let line = Line { product: price.product.clone(), currency, cadence, list: list.clone(), left: list, share };
    Ok(Some((line, known.at)))
}

/// The share of an item's amount that is not inclusive tax.
fn net_share(item: &ScheduleItem, phase: &SchedulePhase) -> Rational {
    let rates: &[TaxRate] = if item.tax_rates.is_empty() { &phase.tax_rates } else { &item.tax_rates };
    let inclusive = rates.iter().filter(|rate| rate.inclusive).map(|rate| &rate.percentage);
    let percent = inclusive.fold(Rational::zero(), |sum, rate| sum + rate);
    let hundred = Rational::from_integer(BigInt::from(100));
    if percent <= -hundred.clone() { Rational::from_integer(1.into()) } else { &hundred / (&hundred + percent) }
}

/// The coupon behind a discount, and when it was known; or what has to become known, if that can be said.
fn coupon<'s>(discount: &ScheduleDiscount, shelf: &'s Shelf) -> Result<(&'s Coupon, EventTime), Option<Need>> {
    let id = match (&discount.coupon, &discount.discount) {
        (Some(CouponRef::Id(id)), _) => id.clone(),
        (Some(CouponRef::Full(coupon)), _) => coupon.id.clone(),
        (None, Some(id)) => match shelf.discount(id) {
            Some(known) => known.value.coupon.clone(),
            None => return Err(Some(Need::Discount(id.clone()))),
        },
        (None, None) => return Err(None),
    };
    let known = shelf.coupon(&id).ok_or(Some(Need::Coupon(id)))?;
    Ok((&known.value, known.at))
}

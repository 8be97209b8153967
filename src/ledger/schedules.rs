//! What subscriptions are scheduled to become: the phases of a schedule that have not taken effect, each with what it
//! will be worth a month.
//!
//! A phase counts as revenue when it takes effect, and then its subscription says so; until then it is a row of
//! `scheduled_mrr`. The newest snapshot of a schedule holds, by the time of its event, never by arrival; within a second
//! the one that ends the schedule, then the smallest hash, so that the outcome is the same in any order. A phase loses
//! its row when the clock of its scope reaches it, and a schedule that is released, canceled or completed loses all.
//! Phases are valued as items are: list value, less the coupons that the rules subtract, net of inclusive tax.

use std::{hash::Hasher, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    catalogue::{Need, Shelf},
    content::Content,
    hash::Fingerprint,
    history::Inserted,
    packing::packed_by_serde,
    parts::{self, Level, PartDiscount, Shared},
    replay::Context,
    rows::{Change, LedgerGap},
    valuation::{self, Gap},
};
use crate::{
    money::{Amount, Currency},
    stripe::{
        ids::{CustomerId, EventId, SubscriptionId},
        types::{
            Event, Schedule, ScheduleDiscount, ScheduleItem, SchedulePhase, Scope, Subscription, SubscriptionItem,
            SubscriptionStatus,
        },
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

packed_by_serde!(Schedules);

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

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
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
            let (worth, needs, gaps) = value(phase, start, cx);
            for need in needs {
                *cx.shelf_changed |= cx.shelf.wait(need, cx.customer);
            }
            for gap in gaps {
                self.report(gap.reason, &gap.object_id, start, cx);
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

    fn report(&mut self, reason: &str, object: &str, start: EventTime, cx: &mut Context<'_>) {
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

/// The monthly value of a phase's licensed items, `None` while none of them can be valued; and what is missing for the
/// rest. It is valued as the subscription that the phase will make.
fn value(phase: &SchedulePhase, time: EventTime, cx: &mut Context<'_>) -> (Option<Worth>, Vec<Need>, Vec<Gap>) {
    let content = Arc::new(Content::of(&subscription(phase)));
    let mut parts = parts::of(&content, Shared::of(&content, &[]), cx.shelf, time, |_| None, cx.memo);
    for (part, item) in parts.iter_mut().zip(&phase.items) {
        let own = item.discounts.iter().map(|discount| (Level::Item, discount));
        let shared = phase.discounts.iter().map(|discount| (Level::Subscription, discount));
        let currency = part.currency;
        let discounts = own.chain(shared).filter_map(|(level, of)| discount(level, of, currency, cx.shelf));
        part.discounts = discounts.collect();
    }
    let mut gaps = Vec::new();
    let valued = valuation::value(&content, false, &parts, Vec::new(), time, cx.rules, &mut gaps);
    let worth = valued.values.first().map(|first| Worth {
        currency: first.currency,
        mrr: valued.values.iter().map(|value| value.mrr).sum(),
        known_at: valued.values.iter().map(|value| value.known_at).max().unwrap_or(EventTime::MIN),
    });
    (worth, valued.needs, gaps)
}

/// The subscription that a phase makes, but for its discounts, which have no ids yet.
fn subscription(phase: &SchedulePhase) -> Subscription {
    let item = |(position, item): (usize, &ScheduleItem)| SubscriptionItem {
        id: position.to_string().as_str().into(),
        price: item.price.clone(),
        quantity: item.quantity.clone(),
        discounts: Vec::new(),
        tax_rates: item.tax_rates.clone(),
        trial_end: None,
        current_period_start: None,
        current_period_end: None,
    };
    Subscription {
        id: "".into(),
        customer: "".into(),
        status: SubscriptionStatus::Active,
        currency: phase.currency,
        items: phase.items.iter().enumerate().map(item).collect(),
        items_truncated: false,
        discounts: Vec::new(),
        tax_rates: phase.tax_rates.clone(),
        created: None,
        start_date: None,
        trial_start: None,
        trial_end: None,
        cancel_at: None,
        cancel_at_period_end: false,
        canceled_at: None,
        ended_at: None,
        current_period_end: None,
        pause_collection: None,
        cancellation_reason: None,
        pause_reason: None,
        schedule: None,
    }
}

/// A discount of a phase: of a coupon to be applied, of a promotion code to be redeemed, or one that exists.
fn discount(
    level: Level,
    discount: &ScheduleDiscount,
    currency: Option<Currency>,
    shelf: &Shelf,
) -> Option<PartDiscount> {
    let unknown = |id: &str, need: Need| Some(PartDiscount { level, id: id.into(), terms: Err(need) });
    let (id, coupon, known_at) = match (&discount.coupon, &discount.discount, &discount.promotion_code) {
        (Some(coupon), ..) => (coupon.id().as_str().into(), coupon.id(), EventTime::MIN),
        (None, Some(id), _) => match shelf.discount(id, shelf.now()) {
            Some(facts) => {
                if let Some(coupon) = shelf.coupon_of(facts) {
                    let terms = parts::coupon_terms(coupon, (facts.start, facts.end), facts.known_at, currency);
                    return Some(PartDiscount { level, id: id.clone(), terms: Ok(terms) });
                }
                return unknown(id.as_str(), Need::Coupon(facts.coupon.clone()));
            }
            None => return unknown(id.as_str(), Need::Discount(id.clone())),
        },
        (None, None, Some(code)) => match shelf.promotion(code) {
            Some((coupon, at)) => (code.as_str().into(), coupon, *at),
            None => return unknown(code, Need::Promotion(code.as_str().into())),
        },
        (None, None, None) => return None,
    };
    let terms = shelf.coupon(coupon).map(|coupon| parts::coupon_terms(coupon, (None, None), known_at, currency));
    let terms = terms.ok_or_else(|| Need::Coupon(coupon.clone()));
    Some(PartDiscount { level, id, terms })
}

//! The state of the simulated account: customers, their subscriptions and the invoices in flight. Plain values that
//! are copied before a change, so that what was and what is can both be written down.

use chrono::{DateTime, Months};

use super::{
    amount::{self, Interval, WHOLE},
    catalog::{CURRENCIES, Catalog, Duration, Off, Plan, Price},
    hazard::{Features, WINDOW_SECONDS},
    ids::Id,
    people::Person,
    truth::DAY,
};

/// Items of a subscription at most.
pub(super) const ITEMS: usize = 3;
/// Lines of an invoice at most: the items and one pair of prorations.
pub(super) const LINES: usize = ITEMS + 2;
/// Subscriptions of a customer at a time, at most.
pub(super) const SUBSCRIPTIONS: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Incomplete,
    IncompleteExpired,
    Trialing,
    Active,
    PastDue,
    Unpaid,
    Paused,
    Canceled,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Trialing => "trialing",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Unpaid => "unpaid",
            Self::Paused => "paused",
            Self::Canceled => "canceled",
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Item {
    pub(super) id: Id,
    pub(super) plan: Plan,
    pub(super) quantity: u32,
    pub(super) created: i64,
}

/// A coupon in use.
#[derive(Clone, Copy)]
pub(super) struct Discount {
    pub(super) id: Id,
    pub(super) coupon: usize,
    pub(super) start: i64,
    pub(super) end: Option<i64>,
}

#[derive(Clone, Copy)]
pub(super) struct Subscription {
    pub(super) id: Id,
    /// Tells a subscription from its successor in the same slot.
    pub(super) generation: u32,
    pub(super) created: i64,
    pub(super) status: Status,
    pub(super) currency: usize,
    pub(super) items: [Item; ITEMS],
    pub(super) count: usize,
    /// Periods are counted from here, so that months keep their day.
    pub(super) anchor: i64,
    pub(super) periods: u32,
    pub(super) period: (i64, i64),
    pub(super) trial: Option<(i64, i64)>,
    pub(super) pause_at_trial_end: bool,
    /// Ends with its period: `cancel_at_period_end`, or, `by_date`, a `cancel_at` within the period, as the customer
    /// portal writes it.
    pub(super) at_period_end: bool,
    pub(super) by_date: bool,
    pub(super) canceled_at: Option<i64>,
    pub(super) ended_at: Option<i64>,
    pub(super) reason: Option<&'static str>,
    pub(super) feedback: Option<&'static str>,
    pub(super) comment: Option<&'static str>,
    pub(super) discount: Option<Discount>,
    pub(super) latest_invoice: Option<Id>,
    pub(super) collection_paused_until: Option<i64>,
    pub(super) tenant: u128,
}

impl Subscription {
    pub(super) fn new(id: Id, generation: u32, created: i64, currency: usize, item: Item, tenant: u128) -> Self {
        Self {
            id,
            generation,
            created,
            status: Status::Active,
            currency,
            items: [item; ITEMS],
            count: 1,
            anchor: created,
            periods: 0,
            period: (created, created),
            trial: None,
            pause_at_trial_end: false,
            at_period_end: false,
            by_date: false,
            canceled_at: None,
            ended_at: None,
            reason: None,
            feedback: None,
            comment: None,
            discount: None,
            latest_invoice: None,
            collection_paused_until: None,
            tenant,
        }
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items[..self.count]
    }

    pub(super) fn item_mut(&mut self, at: usize) -> &mut Item {
        &mut self.items[at]
    }

    /// Adds an item; false when there is no room.
    pub(super) fn add(&mut self, item: Item) -> bool {
        let room = self.count < ITEMS;
        if room {
            self.items[self.count] = item;
            self.count += 1;
        }
        room
    }

    /// Takes the last item away; the first one stays.
    pub(super) fn remove_last(&mut self) -> bool {
        let some = self.count > 1;
        if some {
            self.count -= 1;
        }
        some
    }

    pub(super) fn price<'a>(&self, catalog: &'a Catalog, at: usize) -> &'a Price {
        catalog.price(self.currency, self.items[at].plan)
    }

    /// Begins the period number `self.periods` after the anchor.
    pub(super) fn set_period(&mut self, catalog: &Catalog) {
        let price = self.price(catalog, 0);
        let at = |periods: u32| boundary(self.anchor, price.interval, price.count * periods);
        self.period = (at(self.periods), at(self.periods + 1));
    }

    /// When the period after `later` more ones ends.
    pub(super) fn period_end(&self, catalog: &Catalog, later: u32) -> i64 {
        let price = self.price(catalog, 0);
        boundary(self.anchor, price.interval, price.count * (self.periods + 1 + later))
    }

    /// Whether profile `stripe` counts it.
    pub(super) fn counts(&self) -> bool {
        matches!(self.status, Status::Active | Status::PastDue) && !self.at_period_end
    }

    /// Monthly value in millionths, counted or not: each item's list less `forever` discounts, rounded, summed.
    pub(super) fn value(&self, catalog: &Catalog) -> i128 {
        let exponent = CURRENCIES[self.currency].exponent;
        let mut lists = [0; ITEMS];
        for (at, list) in lists[..self.count].iter_mut().enumerate() {
            *list = self.price(catalog, at).rate.list(self.items[at].quantity);
        }
        let mut shares = [0; ITEMS];
        let mut percent = 0;
        if let Some(discount) = self.discount {
            let coupon = &catalog.coupons[discount.coupon];
            match (coupon.duration, coupon.off) {
                (Duration::Forever, Off::Percent(of)) => percent = of,
                (Duration::Forever, Off::Amount(minor, _)) => {
                    amount::share(i128::from(minor), &lists[..self.count], &mut shares[..self.count]);
                }
                _ => {}
            }
        }
        (0..self.count)
            .map(|at| {
                let price = self.price(catalog, at);
                let net = (lists[at] - shares[at]) * (WHOLE - percent);
                amount::monthly_micros(net, WHOLE, price.interval, price.count, exponent)
            })
            .sum()
    }

    /// What it counts for, in millionths a month.
    pub(super) fn counted(&self, catalog: &Catalog) -> i128 {
        if self.counts() { self.value(catalog) } else { 0 }
    }
}

/// `anchor` and some intervals; months keep the anchor's day where there is one.
fn boundary(anchor: i64, interval: Interval, times: u32) -> i64 {
    let months = match interval {
        Interval::Week => return anchor + i64::from(times) * 7 * DAY,
        Interval::Month => times,
        Interval::Year => 12 * times,
    };
    DateTime::from_timestamp(anchor, 0)
        .and_then(|time| time.checked_add_months(Months::new(months)))
        .map_or(anchor, |time| time.timestamp())
}

#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) id: Id,
    pub(super) item: Id,
    pub(super) plan: Plan,
    pub(super) quantity: u32,
    pub(super) amount: i64,
    pub(super) discount: i64,
    pub(super) tax: i64,
    pub(super) period: (i64, i64),
    /// The invoice item of a proration.
    pub(super) proration: Option<Id>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Draft,
    Open,
    Paid,
    Void,
    Uncollectible,
}

impl Stage {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Void => "void",
            Self::Uncollectible => "uncollectible",
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Invoice {
    pub(super) id: Id,
    pub(super) subscription: Id,
    pub(super) currency: usize,
    pub(super) number: u32,
    pub(super) created: i64,
    pub(super) reason: &'static str,
    pub(super) lines: [Option<Line>; LINES],
    pub(super) period: (i64, i64),
    pub(super) stage: Stage,
    pub(super) attempts: u32,
    pub(super) next_attempt: Option<i64>,
    pub(super) finalized_at: Option<i64>,
    pub(super) settled_at: Option<i64>,
    pub(super) payment_intent: Option<Id>,
    pub(super) charge: Option<Id>,
    pub(super) discount: Option<Id>,
    pub(super) tenant: u128,
}

impl Invoice {
    pub(super) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().flatten()
    }

    pub(super) fn subtotal(&self) -> i64 {
        self.lines().map(|line| line.amount).sum()
    }

    pub(super) fn discounted(&self) -> i64 {
        self.lines().map(|line| line.discount).sum()
    }

    pub(super) fn tax(&self) -> i64 {
        self.lines().map(|line| line.tax).sum()
    }

    pub(super) fn total(&self) -> i64 {
        self.subtotal() - self.discounted() + self.tax()
    }
}

/// A payment card.
#[derive(Clone, Copy)]
pub(super) struct Card {
    pub(super) id: Id,
    pub(super) brand: &'static str,
    pub(super) last4: u32,
    pub(super) month: u32,
    pub(super) year: u32,
    pub(super) fingerprint: Id,
}

/// What belongs to a subscription but does not show in its object.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) subscription: Subscription,
    pub(super) open: Option<Invoice>,
    /// Waiting for the next invoice.
    pub(super) prorations: Option<[Line; 2]>,
}

#[derive(Clone)]
pub(super) struct Customer {
    pub(super) id: Id,
    pub(super) created: i64,
    pub(super) person: Person,
    pub(super) currency: usize,
    /// Stripe fixes a customer's currency with the first subscription.
    pub(super) currency_fixed: bool,
    pub(super) delinquent: bool,
    pub(super) card: Card,
    pub(super) card_is_default: bool,
    pub(super) deleted: bool,
    pub(super) invoices: u32,
    pub(super) tenant: u128,
    pub(super) slots: [Option<Box<Slot>>; SUBSCRIPTIONS],
    /// Counted MRR in millionths.
    pub(super) mrr: i128,
    pub(super) frailty: f64,
    /// The chance that a first payment attempt fails, fixed for the month.
    pub(super) failure: f64,
    pub(super) failed: [i64; 3],
    pub(super) contracted: i64,
    pub(super) grew: i64,
    pub(super) paying_since: Option<i64>,
}

impl Customer {
    /// What a billing system sees of the customer now.
    pub(super) fn features(&self, catalog: &Catalog, now: i64) -> Features {
        let flag = |on: bool| f64::from(u8::from(on));
        let recent = |at: i64| at > now - WINDOW_SECONDS;
        let subscriptions = || self.slots.iter().flatten().map(|slot| &slot.subscription);
        let first = subscriptions().find(|subscription| subscription.counts());
        Features {
            failed_payments: self.failed.iter().map(|at| flag(recent(*at))).sum(),
            contraction: flag(recent(self.contracted)),
            tenure_months: self.paying_since.map_or(0.0, |since| (now - since) as f64 / (30.437 * DAY as f64)),
            seats_growth: flag(recent(self.grew)),
            yearly: flag(first.is_some_and(|first| first.price(catalog, 0).interval == Interval::Year)),
            discount: flag(subscriptions().any(|subscription| subscription.discount.is_some())),
            past_due: flag(subscriptions().any(|subscription| subscription.status == Status::PastDue)),
            by_quantity: flag(first.is_some_and(|first| by_quantity(first.items()[0].plan))),
            frailty: self.frailty,
        }
    }

    pub(super) fn note_failure(&mut self, now: i64) {
        self.failed.rotate_right(1);
        self.failed[0] = now;
    }
}

/// Whether a plan is sold by quantity.
pub(super) fn by_quantity(plan: Plan) -> bool {
    matches!(
        plan,
        Plan::TeamMonth | Plan::TeamYear | Plan::ScaleMonth | Plan::VolumeMonth | Plan::PacksMonth | Plan::CreditsMonth
    )
}

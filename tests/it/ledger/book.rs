//! Makes Stripe's objects and events, and keeps the books that a reader of the ledger's rows would keep.

use std::collections::BTreeMap;

use tributary::{
    ledger::{Arrival, Delta, Ledger, Rules, listing::*, rows::*},
    money::{Amount, Currency, Rational},
    stripe::{ids::*, types::*},
    time::EventTime,
};

/// 2026-01-01T00:00:00Z.
pub(crate) const START: i64 = 1_767_225_600;
pub(crate) const DAY: i64 = 86_400;

pub(crate) fn scope() -> Scope {
    Scope { account: "acct_1".into(), livemode: true }
}

pub(crate) fn currency(code: &str) -> Currency {
    code.parse().unwrap()
}

pub(crate) fn at(seconds: i64) -> EventTime {
    EventTime::from_seconds(START + seconds)
}

pub(crate) fn whole(number: i64) -> Rational {
    Rational::from_integer(number.into())
}

pub(crate) fn amount(text: &str) -> Amount {
    Amount::round(&tributary::money::parse_decimal(text).unwrap()).unwrap()
}

/// A licensed per-unit price in USD; its product is named after it.
pub(crate) fn price(id: &str, unit_minor: i64, interval: Interval, count: u32) -> Price {
    Price {
        id: id.into(),
        product: Some(format!("prod_{id}").as_str().into()),
        currency: Some(currency("usd")),
        unit_amount: Some(whole(unit_minor)),
        interval: Some(interval),
        interval_count: count,
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

pub(crate) fn monthly(id: &str, unit_minor: i64) -> Price {
    price(id, unit_minor, Interval::Month, 1)
}

/// Only the id, as new shapes carry prices.
pub(crate) fn bare(price: &Price) -> Price {
    Price {
        product: None,
        currency: None,
        unit_amount: None,
        interval: None,
        tiers: None,
        tiers_mode: None,
        ..price.clone()
    }
}

pub(crate) fn item(id: &str, price: &Price, quantity: i64) -> SubscriptionItem {
    SubscriptionItem {
        id: id.into(),
        price: price.clone(),
        quantity: Some(whole(quantity)),
        discounts: Vec::new(),
        tax_rates: Vec::new(),
        trial_end: None,
        current_period_start: None,
        current_period_end: None,
    }
}

/// An active subscription of one item.
pub(crate) fn subscription(id: &str, customer: &str, price: &Price) -> Subscription {
    Subscription {
        id: id.into(),
        customer: customer.into(),
        status: SubscriptionStatus::Active,
        currency: price.currency,
        items: vec![item(&format!("si_{id}"), price, 1)],
        items_truncated: false,
        discounts: Vec::new(),
        tax_rates: Vec::new(),
        created: Some(at(0)),
        start_date: Some(at(0)),
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

pub(crate) fn canceled(subscription: &Subscription) -> Subscription {
    Subscription { status: SubscriptionStatus::Canceled, ..subscription.clone() }
}

pub(crate) fn coupon(id: &str, duration: CouponDuration) -> Coupon {
    Coupon {
        id: id.into(),
        percent_off: None,
        amount_off: None,
        currency: Some(currency("usd")),
        duration,
        duration_in_months: None,
        applies_to: Vec::new(),
        currency_options: BTreeMap::new(),
    }
}

pub(crate) fn percent_off(id: &str, percent: i64, duration: CouponDuration) -> Coupon {
    Coupon { percent_off: Some(whole(percent)), ..coupon(id, duration) }
}

pub(crate) fn amount_off(id: &str, minor: i64, duration: CouponDuration) -> Coupon {
    Coupon { amount_off: Some(whole(minor)), ..coupon(id, duration) }
}

pub(crate) fn discount(id: &str, coupon: &Coupon) -> Discount {
    Discount {
        id: Some(id.into()),
        coupon: CouponRef::Full(Box::new(coupon.clone())),
        customer: None,
        subscription: None,
        subscription_item: None,
        start: None,
        end: None,
    }
}

pub(crate) fn full(discount: &Discount) -> DiscountRef {
    DiscountRef::Full(Box::new(discount.clone()))
}

pub(crate) fn event(id: &str, kind: &str, seconds: i64, object: Object) -> Event {
    Event { scope: scope(), id: id.into(), kind: kind.into(), created: at(seconds), object, before: None }
}

/// Writes events of subscriptions, each with what changed since the one before it.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) events: Vec<Event>,
    last: BTreeMap<SubscriptionId, Subscription>,
}

impl Script {
    fn push(&mut self, kind: &str, seconds: i64, object: Object, before: Option<Object>) {
        // Ids say nothing about order, as Stripe's do not.
        let id = format!("evt_{:04x}", (self.events.len() * 40_503) % 65_536);
        let mut event = event(&id, kind, seconds, object);
        event.before = before.map(Box::new);
        self.events.push(event);
    }

    pub(crate) fn created(&mut self, seconds: i64, subscription: &Subscription) -> &mut Self {
        self.subscription("customer.subscription.created", seconds, subscription)
    }

    pub(crate) fn updated(&mut self, seconds: i64, subscription: &Subscription) -> &mut Self {
        self.subscription("customer.subscription.updated", seconds, subscription)
    }

    pub(crate) fn deleted(&mut self, seconds: i64, subscription: &Subscription) -> &mut Self {
        let ended = Subscription { ended_at: Some(at(seconds)), ..canceled(subscription) };
        self.subscription("customer.subscription.deleted", seconds, &ended)
    }

    fn subscription(&mut self, kind: &str, seconds: i64, subscription: &Subscription) -> &mut Self {
        let before = self.last.insert(subscription.id.clone(), subscription.clone());
        let before = before.filter(|_| kind.ends_with(".updated")).map(|before| Object::Subscription(Box::new(before)));
        self.push(kind, seconds, Object::Subscription(Box::new(subscription.clone())), before);
        self
    }

    pub(crate) fn other(&mut self, kind: &str, seconds: i64, object: Object) -> &mut Self {
        self.push(kind, seconds, object, None);
        self
    }
}

/// What a reader of the rows knows, with every promise about the rows checked as they come.
pub(crate) struct Book {
    pub(crate) ledger: Ledger,
    pub(crate) entries: Vec<LedgerEntry>,
    pub(crate) movements: BTreeMap<String, Movement>,
    revisions: BTreeMap<String, i64>,
    pub(crate) gaps: Vec<LedgerGap>,
    pub(crate) late: Vec<LateEvent>,
    pub(crate) billing: Vec<BillingEvent>,
    pub(crate) states: Vec<ItemState>,
    pub(crate) products: BTreeMap<String, ProductRow>,
    pub(crate) prices: BTreeMap<String, PriceRow>,
    pub(crate) coupons: BTreeMap<String, CouponRow>,
    pub(crate) usage: Vec<MeteredUsage>,
    pub(crate) scheduled: Vec<ScheduledPhase>,
    pub(crate) recognised: Vec<RecognisedRevenue>,
    pub(crate) outlook: Vec<OutlookEntry>,
    pub(crate) duplicates: u64,
    appended: i64,
}

/// A movement, short.
pub(crate) type Short = (i64, &'static str, &'static str, String, String);

impl Book {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            ledger: Ledger::new(rules),
            entries: Vec::new(),
            movements: BTreeMap::new(),
            revisions: BTreeMap::new(),
            gaps: Vec::new(),
            late: Vec::new(),
            billing: Vec::new(),
            states: Vec::new(),
            products: BTreeMap::new(),
            prices: BTreeMap::new(),
            coupons: BTreeMap::new(),
            usage: Vec::new(),
            scheduled: Vec::new(),
            recognised: Vec::new(),
            outlook: Vec::new(),
            duplicates: 0,
            appended: 0,
        }
    }

    pub(crate) fn of(events: &[Event]) -> Self {
        let mut book = Self::new(Rules::default());
        book.apply(events);
        book
    }

    pub(crate) fn apply(&mut self, events: &[Event]) {
        let arrivals: Vec<Arrival<'_>> = events
            .iter()
            .map(|event| {
                self.appended += 1;
                Arrival { event, appended_at: EventTime::from_millis(START * 1_000 + self.appended) }
            })
            .collect();
        let delta = self.ledger.apply(&arrivals).unwrap();
        self.take(delta);
    }

    /// When the newest record was appended.
    pub(crate) fn now(&self) -> EventTime {
        EventTime::from_millis(START * 1_000 + self.appended)
    }

    fn take(&mut self, delta: Delta) {
        for entry in delta.entries {
            assert!(self.entries.iter().all(|other| other.entry_id != entry.entry_id), "entry ids are unique");
            if let Some(reversed) = &entry.reverses_entry_id {
                let original = self.entries.iter().find(|other| other.entry_id == *reversed).unwrap();
                assert_eq!(original.event_time, entry.event_time, "a reversal lies at the original's time");
                assert_eq!(original.mrr_delta, -entry.mrr_delta);
                assert!(original.known_at <= entry.known_at, "a reversal is not known before its original");
            }
            assert_eq!(entry.mrr_delta.micros(), entry.list_delta.micros() + entry.discount_delta.micros());
            self.entries.push(entry);
        }
        for Change { before, after } in delta.movements {
            let id = before.as_ref().or(after.as_ref()).unwrap().movement_id.to_string();
            assert_eq!(self.movements.remove(&id), before, "`before` is the row as last published");
            if let Some(row) = after {
                let revision = self.revisions.entry(id.clone()).or_default();
                assert!(row.revision > *revision, "a changed row has a higher revision");
                *revision = row.revision;
                assert_eq!(row.mrr_after.micros() - row.mrr_before.micros(), row.mrr_delta.micros());
                assert!(!row.mrr_delta.is_zero(), "no change, no movement");
                self.movements.insert(id, row);
            }
        }
        relate(&mut self.products, delta.products, |row| row.product_id.to_string());
        relate(&mut self.prices, delta.prices, |row| row.price.id.to_string());
        relate(&mut self.coupons, delta.coupons, |row| row.coupon.id.to_string());
        self.gaps.extend(delta.gaps);
        self.late.extend(delta.late);
        self.billing.extend(delta.billing_events);
        for state in delta.item_states {
            let place = |row: &ItemState| (row.subscription_item_id.clone(), row.valid_from, row.provenance.clone());
            let newer = |other: &ItemState| place(other) != place(&state) || other.revision < state.revision;
            assert!(self.states.iter().all(newer), "each state of a place has a higher revision");
            self.states.push(state);
        }
        self.usage.extend(delta.metered_usage);
        self.recognised.extend(delta.recognised);
        for Change { before, after } in delta.scheduled {
            if let Some(before) = before {
                // `before` is the row as last published.
                let at = self.scheduled.iter().position(|row| *row == before).unwrap();
                self.scheduled.remove(at);
            }
            self.scheduled.extend(after);
        }
        for row in delta.outlook {
            let id = &row.entry.entry_id;
            assert!(self.outlook.iter().all(|other| other.entry.entry_id != *id), "entry ids are unique");
            self.outlook.push(row);
        }
        self.duplicates += delta.duplicates;
    }

    /// The ledger without reversed rows and reversals.
    pub(crate) fn current(&self) -> Vec<&LedgerEntry> {
        let reversed: Vec<_> = self.entries.iter().filter_map(|entry| entry.reverses_entry_id.as_ref()).collect();
        let holds = |entry: &&LedgerEntry| entry.reverses_entry_id.is_none() && !reversed.contains(&&entry.entry_id);
        let mut current: Vec<_> = self.entries.iter().filter(holds).collect();
        current.sort_by_key(|entry| {
            (entry.event_time, entry.customer_id.clone(), entry.subscription_item_id.clone(), entry.price_id.clone())
        });
        current
    }

    /// The running sum of the whole ledger, reversals and all.
    pub(crate) fn mrr(&self, code: &str) -> String {
        self.sum(|entry| entry.currency == currency(code))
    }

    pub(crate) fn mrr_at(&self, code: &str, seconds: i64) -> String {
        self.sum(|entry| entry.currency == currency(code) && entry.event_time <= at(seconds))
    }

    pub(crate) fn sum(&self, counts: impl Fn(&LedgerEntry) -> bool) -> String {
        self.entries.iter().filter(|entry| counts(entry)).map(|entry| entry.mrr_delta).sum::<Amount>().to_string()
    }

    /// Current movements in order of time: seconds, kind, cause, change, after.
    pub(crate) fn moved(&self) -> Vec<Short> {
        let mut moved: Vec<&Movement> = self.movements.values().collect();
        moved.sort_by_key(|row| (row.occurred_at, row.currency, row.customer_id.clone()));
        moved
            .into_iter()
            .map(|row| {
                let seconds = row.occurred_at.seconds() - START;
                let money = |amount: Amount| format!("{amount} {}", row.currency);
                (seconds, row.kind.as_str(), row.cause.as_str(), money(row.mrr_delta), money(row.mrr_after))
            })
            .collect()
    }

    /// Rows of a figure that are not recurring revenue: seconds, change, cause, amount.
    pub(crate) fn outlook(&self, measure: &str) -> Vec<Outlook> {
        let rows = self.outlook.iter().filter(|row| row.measure.as_str() == measure);
        rows.map(|OutlookEntry { entry, .. }| {
            let seconds = entry.event_time.seconds() - START;
            owned((seconds, &*entry.change, entry.cause.as_str(), &*entry.mrr_delta.to_string()))
        })
        .collect()
    }

    pub(crate) fn reasons(&self) -> Vec<&str> {
        self.gaps.iter().map(|gap| &*gap.reason).collect()
    }
}

/// Applies changes to a relation with a key.
fn relate<T: Clone + PartialEq + std::fmt::Debug>(
    held: &mut BTreeMap<String, T>,
    changes: Vec<Change<T>>,
    key: impl Fn(&T) -> String,
) {
    for Change { before, after } in changes {
        let id = key(before.as_ref().or(after.as_ref()).unwrap());
        assert_eq!(held.remove(&id), before, "`before` is the row as last published");
        held.extend(after.map(|after| (id, after)));
    }
}

pub(crate) fn short(seconds: i64, kind: &'static str, cause: &'static str, change: &str, after: &str) -> Short {
    (seconds, kind, cause, change.to_owned(), after.to_owned())
}

/// A row of `outlook_ledger`, short.
pub(crate) type Outlook = (i64, String, String, String);

pub(crate) fn owned((seconds, change, cause, amount): (i64, &str, &str, &str)) -> Outlook {
    (seconds, change.to_owned(), cause.to_owned(), amount.to_owned())
}

/// A subscription for 100.00 a month.
pub(crate) fn plan() -> Subscription {
    subscription("sub_1", "cus_1", &monthly("p", 10_000))
}

/// The book of a script under some rules.
pub(crate) fn book(rules: Rules, script: &Script) -> Book {
    let mut book = Book::new(rules);
    book.apply(&script.events);
    book
}

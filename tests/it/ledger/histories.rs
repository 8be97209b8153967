//! Random histories as Stripe would have told them: subscriptions begun, found in mid-life or dated back; items,
//! trials, pauses, coupons of every level, taxes, currencies of no, two and three decimals, usage, schedules, customers
//! deleted, and a catalogue that is told early, late, twice and by worse sources.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tributary::stripe::{
    ids::CustomerId,
    own::{FILE, SNAPSHOT},
    types::*,
};

use super::book::*;

/// One thing that happens, after some days and seconds.
#[derive(Clone, Debug)]
pub(crate) struct Happening {
    days: u8,
    same_second: bool,
    subscription: u8,
    what: What,
}

impl Happening {
    /// The same, in no second of the one before.
    pub(crate) fn in_its_own_second(self) -> Self {
        Self { same_second: false, ..self }
    }
}

#[derive(Clone, Debug)]
enum What {
    Quantity(u8),
    Plan(u8),
    AddItem(u8),
    RemoveItem,
    Status(u8),
    Trial(u8),
    Schedule(bool),
    Pause(bool),
    Discount(u8),
    ItemDiscount(u8),
    CustomerDiscount(bool),
    Customer(u8),
    Tax(u8),
    Invoice(u8),
    Phases(u8),
    Told(u8),
    Seen,
    Renew,
    End,
    DeleteCustomer,
}

/// What happens where nobody is wrong and no amount of a price changes.
pub(crate) fn happening() -> impl Strategy<Value = Happening> {
    happening_with(6)
}

/// What happens where price lists and looks at the API contradict Stripe's events, too, and what prices cost in other
/// currencies changes. What has folded by the time that is known stays as it was, and `ledger_gaps` says so: the order
/// of arrival matters here.
pub(crate) fn contested() -> impl Strategy<Value = Happening> {
    happening_with(12)
}

fn happening_with(sayings: u8) -> impl Strategy<Value = Happening> {
    let what = prop_oneof![
        3 => (0..5_u8).prop_map(What::Quantity),
        3 => (0..6_u8).prop_map(What::Plan),
        2 => (0..7_u8).prop_map(What::AddItem),
        1 => Just(What::RemoveItem),
        3 => (0..7_u8).prop_map(What::Status),
        1 => (0..5_u8).prop_map(What::Trial),
        2 => any::<bool>().prop_map(What::Schedule),
        1 => any::<bool>().prop_map(What::Pause),
        2 => (0..6_u8).prop_map(What::Discount),
        1 => (0..6_u8).prop_map(What::ItemDiscount),
        1 => any::<bool>().prop_map(What::CustomerDiscount),
        1 => (0..4_u8).prop_map(What::Customer),
        1 => (0..3_u8).prop_map(What::Tax),
        2 => (1..4_u8).prop_map(What::Invoice),
        1 => (0..5_u8).prop_map(What::Phases),
        2 => (0..sayings).prop_map(What::Told),
        1 => Just(What::Seen),
        6 => Just(What::Renew),
        1 => Just(What::End),
        1 => Just(What::DeleteCustomer),
    ];
    // Mostly the plain ones, so that a history says much of each.
    let subscription = prop_oneof![5 => 0..5_u8, 4 => 5..SUBSCRIPTIONS];
    (0..20_u8, prop::bool::weighted(0.3), subscription, what)
        .prop_map(|(days, same_second, subscription, what)| Happening { days, same_second, subscription, what })
}

const SUBSCRIPTIONS: u8 = 9;

/// The plans of the first subscriptions; they can change among these. The last one is metered.
pub(crate) const PLANS: u8 = 7;

fn plan(number: u8) -> Price {
    let number = number % PLANS;
    let id = format!("plan_{number}");
    match number {
        0 => monthly(&id, 1_000),
        1 => price(&id, 2_599, Interval::Week, 1),
        2 => price(&id, 100_000, Interval::Year, 1),
        3 => Price {
            unit_amount: None,
            tiers_mode: Some(TiersMode::Graduated),
            tiers: Some(vec![
                Tier { up_to: Some(whole(2)), unit_amount: whole(333), flat_amount: whole(0) },
                Tier { up_to: None, unit_amount: whole(250), flat_amount: whole(100) },
            ]),
            ..monthly(&id, 0)
        },
        4 => monthly(&id, -700),
        5 => price(&id, 77, Interval::Day, 3),
        _ => Price { metered: true, ..monthly(&id, 2) },
    }
}

fn in_currency(id: &str, code: &str, minor: i64, interval: Interval) -> Price {
    Price { currency: Some(currency(code)), ..price(id, minor, interval, 1) }
}

/// The price of a subscription that is billed in another currency than its own.
fn abroad() -> Price {
    abroad_at(2_345)
}

fn abroad_at(euro_cents: i64) -> Price {
    Price { currency_options: [(currency("eur"), whole(euro_cents))].into(), ..monthly("plan_abroad", 2_599) }
}

fn inclusive() -> Price {
    Price { tax_inclusive: Some(true), ..monthly("plan_inclusive", 11_900) }
}

/// The plans that never change.
fn fixed() -> [Price; 5] {
    [
        in_currency("plan_euro", "eur", 4_900, Interval::Month),
        in_currency("plan_yen", "jpy", 1_001, Interval::Week),
        in_currency("plan_dinar", "kwd", 12_345, Interval::Year),
        abroad(),
        inclusive(),
    ]
}

/// A coupon that bodies name by its id alone.
fn unnamed() -> Coupon {
    percent_off("unnamed", 20, CouponDuration::Forever)
}

fn coupons(number: u8) -> Vec<DiscountRef> {
    match number {
        1 => vec![full(&discount("di_half", &percent_off("half", 50, CouponDuration::Forever)))],
        2 => vec![full(&discount("di_some", &amount_off("some", 1_234, CouponDuration::Forever)))],
        3 => {
            let mut ends = discount("di_ends", &percent_off("third", 33, CouponDuration::Repeating));
            ends.end = Some(at(100 * DAY));
            vec![full(&ends)]
        }
        4 => vec![DiscountRef::Id("di_later".into())],
        5 => {
            let by_id = Discount { coupon: CouponRef::Id("unnamed".into()), ..discount("di_unnamed", &unnamed()) };
            vec![full(&by_id)]
        }
        _ => Vec::new(),
    }
}

/// The subscription of a number: two customers, five currencies.
pub(crate) fn beginning(number: u8) -> Subscription {
    let customer = format!("cus_{}", number % 2);
    let price = match number {
        0..=3 => plan(number),
        _ => fixed()[usize::from(number - 4)].clone(),
    };
    let subscription = subscription(&format!("sub_{number}"), &customer, &price);
    match number {
        7 => {
            // What it costs in euros is told by the catalogue alone.
            let quiet = Price { currency_options: BTreeMap::new(), ..price };
            let items = vec![item("si_sub_7", &quiet, 1)];
            Subscription { items, currency: Some(currency("eur")), ..subscription }
        }
        _ => subscription,
    }
}

/// Writes the events of a history, as Stripe would have sent them.
pub(crate) fn write(happenings: &[Happening], with_catalogue: bool) -> Vec<Event> {
    let mut story = Story::default();
    for happening in happenings {
        story.now += if happening.same_second { 0 } else { i64::from(happening.days) * DAY + 61 };
        story.happens(happening);
    }
    if with_catalogue {
        story.tell_catalogue();
    }
    story.script.events
}

#[derive(Default)]
struct Story {
    script: Script,
    states: BTreeMap<u8, Subscription>,
    /// The discounts of customers themselves.
    customers: BTreeMap<CustomerId, Vec<DiscountRef>>,
    deleted: BTreeSet<CustomerId>,
    now: i64,
}

impl Story {
    fn happens(&mut self, Happening { subscription, what, .. }: &Happening) {
        let Some(state) = self.states.get(subscription).cloned() else {
            self.begins(*subscription, what);
            return;
        };
        match what {
            What::CustomerDiscount(begins) => self.customer_discount(&state, *begins),
            What::Customer(number) => self.customer_is(&state, *number),
            What::DeleteCustomer => self.customer_ends(&state),
            What::Invoice(number) => self.invoice(&state, *number),
            What::Phases(number) => self.phases(&state, *number),
            What::Told(number) => self.told(*number),
            What::Seen => {
                self.script.other(SNAPSHOT, self.now, Object::Subscription(Box::new(state)));
            }
            What::End => {
                self.script.deleted(self.now, &state);
                self.states.insert(*subscription, beginning(*subscription));
            }
            what => self.changes(*subscription, &state, what),
        }
    }

    /// The first that is told of a subscription.
    fn begins(&mut self, number: u8, what: &What) {
        let mut state = Subscription { start_date: Some(at(self.now)), ..beginning(number) };
        match what {
            // In mid-life, by an event or by a look at it.
            What::Renew | What::Seen => {
                state.start_date = Some(at(self.now - 50 * DAY));
                self.script.created(self.now, &state).events.pop();
                state.items[0].quantity = Some(whole(2));
                if matches!(what, What::Seen) {
                    self.script.created(self.now, &state).events.pop();
                    self.script.other(SNAPSHOT, self.now, Object::Subscription(Box::new(state.clone())));
                } else {
                    self.script.updated(self.now, &state);
                }
            }
            // Who is deleted begins nothing that reaches back to before.
            What::Schedule(_) if !self.deleted.contains(&state.customer) => {
                state.start_date = Some(at(self.now - 45 * DAY));
                self.script.created(self.now, &state);
            }
            What::Status(number) => {
                state.status = status(*number);
                self.script.created(self.now, &state);
            }
            _ => {
                self.script.created(self.now, &state);
            }
        }
        self.states.insert(number, state);
    }

    fn changes(&mut self, number: u8, state: &Subscription, what: &What) {
        let mut next = state.clone();
        let changes_plans = number < 4;
        match what {
            What::Quantity(units) => next.items[0].quantity = Some(whole((*units).into())),
            What::Plan(plan_number) if changes_plans => next.items[0].price = plan(*plan_number),
            What::AddItem(plan_number) if changes_plans && next.items.len() < 3 => {
                let id = format!("si_{}_{}", next.id, next.items.len());
                next.items.push(item(&id, &bare(&plan(*plan_number)), 2));
            }
            What::RemoveItem if next.items.len() > 1 => drop(next.items.pop()),
            What::Status(number) => next.status = status(*number),
            What::Trial(days) => {
                let days = i64::from(*days) * 5 - 10;
                next.trial_end = Some(at(self.now + days * DAY));
            }
            What::Schedule(at_end) => next.cancel_at_period_end = *at_end,
            What::Pause(paused) => next.pause_collection = paused.then(|| "void".to_owned()),
            What::Discount(number) => next.discounts = coupons(*number),
            What::ItemDiscount(number) => next.items[0].discounts = coupons(*number),
            What::Tax(number) => next.tax_rates = rates(*number),
            What::Renew => next.current_period_end = Some(at(self.now + 30 * DAY)),
            _ => {}
        }
        if next != *state {
            self.script.updated(self.now, &next);
            self.states.insert(number, next);
        }
    }

    fn customer_discount(&mut self, state: &Subscription, begins: bool) {
        let kind = if begins { "customer.discount.created" } else { "customer.discount.deleted" };
        let held = if begins { vec![full(&of_customer(state))] } else { Vec::new() };
        self.customers.insert(state.customer.clone(), held);
        self.script.other(kind, self.now, Object::Discount(Box::new(of_customer(state))));
    }

    /// A look at the customer: its discounts whole, as old bodies have them, or by their ids, or none.
    fn customer_is(&mut self, state: &Subscription, number: u8) {
        let discounts = match number {
            1 => vec![full(&of_customer(state))],
            2 => vec![DiscountRef::Id("di_later".into())],
            3 => vec![DiscountRef::Id("di_customer".into())],
            _ => Vec::new(),
        };
        let before = self.customers.insert(state.customer.clone(), discounts.clone()).unwrap_or_default();
        let of = |discounts| Object::Customer(Customer { discounts, ..customer(state, false) });
        self.script.other("customer.updated", self.now, of(discounts));
        self.script.events.last_mut().unwrap().before = Some(Box::new(of(before)));
    }

    fn customer_ends(&mut self, state: &Subscription) {
        self.deleted.insert(state.customer.clone());
        self.script.other("customer.deleted", self.now, Object::Customer(customer(state, true)));
    }

    /// A finalised invoice: what it says of inclusive tax, and of usage.
    fn invoice(&mut self, state: &Subscription, number: u8) {
        let id = format!("in_{}", self.script.events.len());
        let now = self.now;
        let lines = state.items.iter().enumerate().map(|(place, item)| {
            let inclusive = 475 * i64::from(number);
            InvoiceLine {
                id: format!("il_{id}_{place}"),
                amount: 11_900,
                price: Some(item.price.id.clone()),
                subscription: Some(state.id.clone()),
                subscription_item: Some(item.id.clone()),
                tax: Some(TaxAmounts { total: inclusive, inclusive }),
                period_start: Some(at(now - 30 * DAY)),
                period_end: Some(at(now)),
                ..InvoiceLine::default()
            }
        });
        let invoice = Invoice {
            id: Some(id.as_str().into()),
            customer: Some(state.customer.clone()),
            subscription: Some(state.id.clone()),
            currency: state.currency,
            status: Some("open".into()),
            finalized_at: Some(at(now)),
            lines: lines.collect(),
            ..Invoice::default()
        };
        self.script.other("invoice.finalized", now, Object::Invoice(Box::new(invoice)));
    }

    /// A schedule that leads the subscription to another plan and back, or that is over.
    fn phases(&mut self, state: &Subscription, number: u8) {
        let phase = |from: i64, to: Option<i64>, units: i64| SchedulePhase {
            start: Some(at(self.now + from * DAY)),
            end: to.map(|to| at(self.now + to * DAY)),
            currency: state.currency,
            items: vec![ScheduleItem {
                price: state.items[0].price.clone(),
                quantity: Some(whole(units)),
                discounts: Vec::new(),
                tax_rates: Vec::new(),
            }],
            ..SchedulePhase::default()
        };
        let ends = number == 0;
        let schedule = Schedule {
            id: format!("sub_sched_{}", state.id),
            customer: Some(state.customer.clone()),
            subscription: Some(state.id.clone()),
            status: Some(if ends { "canceled" } else { "active" }.to_owned()),
            canceled_at: ends.then(|| at(self.now)),
            phases: vec![phase(0, Some(20), 1), phase(20, Some(40), number.into()), phase(40, None, 1)],
            ..Schedule::default()
        };
        let kind = if ends { "subscription_schedule.canceled" } else { "subscription_schedule.updated" };
        self.script.other(kind, self.now, Object::Schedule(Box::new(schedule)));
    }

    /// The catalogue says something, perhaps for the second time, perhaps by a source that is wrong.
    fn told(&mut self, number: u8) {
        let (kind, object) = match number {
            0 => ("price.created", Object::Price(Box::new(plan(3)))),
            1 => ("price.created", Object::Price(Box::new(abroad()))),
            2 => (SNAPSHOT, Object::Price(Box::new(plan(2)))),
            3 => ("coupon.created", Object::Coupon(unnamed())),
            4 => (FILE, Object::Price(Box::new(abroad()))),
            5 => ("price.updated", Object::Price(Box::new(Price { active: Some(false), ..plan(5) }))),
            // Changes and contradictions from here on.
            6 => ("price.updated", Object::Price(Box::new(abroad_at(3_210)))),
            7 => ("price.updated", Object::Price(Box::new(abroad_at(1_999)))),
            8 => (SNAPSHOT, Object::Price(Box::new(monthly("plan_0", 999)))),
            9 => (FILE, Object::Price(Box::new(price("plan_1", 111, Interval::Week, 2)))),
            10 => (FILE, Object::Price(Box::new(monthly("plan_abroad", 3_000)))),
            _ => (SNAPSHOT, Object::Coupon(percent_off("unnamed", 21, CouponDuration::Forever))),
        };
        self.script.other(kind, self.now, object);
    }

    fn tell_catalogue(&mut self) {
        for price in (0..PLANS).map(plan).chain(fixed()) {
            self.script.other("price.created", self.now, Object::Price(Box::new(price)));
        }
        self.script.other("customer.discount.updated", self.now, Object::Discount(Box::new(later())));
        self.script.other("coupon.created", self.now, Object::Coupon(unnamed()));
    }
}

fn status(number: u8) -> SubscriptionStatus {
    ["active", "past_due", "trialing", "unpaid", "paused", "incomplete", "active"][usize::from(number)].into()
}

fn rates(number: u8) -> Vec<TaxRate> {
    let rate = |percentage: i64, inclusive: bool| TaxRate {
        id: format!("txr_{percentage}").as_str().into(),
        percentage: whole(percentage),
        inclusive,
    };
    match number {
        1 => vec![rate(19, true)],
        2 => vec![rate(7, false)],
        _ => Vec::new(),
    }
}

/// The discount that bodies name by its id alone.
fn later() -> Discount {
    discount("di_later", &percent_off("quarter", 25, CouponDuration::Forever))
}

/// The discount that customers have themselves.
fn tenth() -> Discount {
    discount("di_customer", &percent_off("tenth", 10, CouponDuration::Forever))
}

fn of_customer(state: &Subscription) -> Discount {
    Discount { customer: Some(state.customer.clone()), ..tenth() }
}

pub(crate) fn customer(state: &Subscription, deleted: bool) -> Customer {
    Customer {
        id: state.customer.clone(),
        created: None,
        currency: None,
        delinquent: None,
        discounts: Vec::new(),
        deleted,
    }
}

/// Moves each event by less than thirty days.
pub(crate) fn shuffle(events: &[Event], delays: &[u32]) -> Vec<Event> {
    let mut delayed: Vec<(i64, usize)> = events
        .iter()
        .enumerate()
        .map(|(index, event)| {
            let delay = delays.get(index % delays.len().max(1)).copied().unwrap_or(0);
            (event.created.seconds() + i64::from(delay) % (30 * DAY), index)
        })
        .collect();
    delayed.sort_unstable();
    delayed.into_iter().map(|(_, index)| events[index].clone()).collect()
}

/// Every coupon of the histories, whole.
pub(crate) fn all_coupons() -> Vec<Coupon> {
    let in_discounts = all_discounts().into_iter().filter_map(|discount| match discount.coupon {
        CouponRef::Full(coupon) => Some(*coupon),
        CouponRef::Id(_) => None,
    });
    in_discounts.chain([unnamed()]).collect()
}

/// Every discount of the histories, whole, each on no customer.
pub(crate) fn all_discounts() -> Vec<Discount> {
    let of_subscriptions = (0..6).flat_map(coupons).filter_map(|discount| match discount {
        DiscountRef::Full(discount) => Some(*discount),
        DiscountRef::Id(_) => None,
    });
    of_subscriptions.chain([later(), tenth()]).collect()
}

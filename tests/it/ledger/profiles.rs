//! The simulated account under every named profile: closing MRR of every day and currency, counted here from the bodies
//! of its events by what the page says of the profile's settings. Nothing of the ledger or of its readers is used for
//! that. What the profile `stripe` makes is compared with the simulator's own books, too.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use tributary::{
    ledger::{Arrival, Ledger, Profile, Rules},
    simulate::{ApiVersion, Options, Truth, simulate},
    stripe::{UnknownCounts, read_event, types::Event},
    time::EventTime,
};

use super::book::*;

/// What the page says of a profile, as far as it moves the simulated account.
struct Says {
    profile: Profile,
    leaves_at_request: bool,
    /// The classes of coupons that are taken off.
    subtracts: &'static [&'static str],
    counts_paused_collection: bool,
    weeks_per_month: (i128, i128),
}

const PAGE: [Says; 3] = [
    Says {
        profile: Profile::Stripe,
        leaves_at_request: true,
        subtracts: &["forever"],
        counts_paused_collection: true,
        weeks_per_month: (52, 12),
    },
    Says {
        profile: Profile::Chartmogul,
        leaves_at_request: false,
        subtracts: &["forever", "repeating", "once"],
        counts_paused_collection: true,
        weeks_per_month: (30_437, 7_000),
    },
    Says {
        profile: Profile::Profitwell,
        leaves_at_request: false,
        subtracts: &["forever", "repeating"],
        counts_paused_collection: false,
        weeks_per_month: (52, 12),
    },
];

fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

fn whole(value: &Value, at: &str) -> i128 {
    value.pointer(at).and_then(Value::as_i64).map_or(0, i128::from)
}

/// Parts of 10⁻¹² of a minor unit.
const PARTS: i128 = 1_000_000_000_000;

fn parts(decimal: &str) -> i128 {
    let (whole, rest) = decimal.split_once('.').unwrap_or((decimal, ""));
    format!("{whole}{rest:0<12}").parse().unwrap()
}

/// An account as its events tell it, up to a moment.
#[derive(Default)]
struct Account {
    prices: HashMap<String, Value>,
    discounts: HashMap<String, Value>,
    subscriptions: BTreeMap<String, Value>,
}

impl Account {
    fn hear(&mut self, event: &Value) {
        let object = &event["data"]["object"];
        let id = text(object, "/id").to_owned();
        match (text(event, "/type"), text(object, "/object")) {
            ("price.created", _) => drop(self.prices.insert(id, object.clone())),
            ("customer.discount.created", _) => drop(self.discounts.insert(id, object.clone())),
            (_, "subscription") => drop(self.subscriptions.insert(id, object.clone())),
            _ => {}
        }
    }

    /// Millionths a month by currency, at a moment.
    fn worth(&self, says: &Says, at: i64) -> BTreeMap<String, i128> {
        let mut worth = BTreeMap::new();
        for subscription in self.subscriptions.values() {
            *worth.entry(text(subscription, "/currency").to_owned()).or_default() +=
                self.counted(subscription, says, at);
        }
        worth
    }

    fn counted(&self, subscription: &Value, says: &Says, at: i64) -> i128 {
        let in_force = matches!(text(subscription, "/status"), "active" | "past_due");
        let paused = !subscription["pause_collection"].is_null() && !says.counts_paused_collection;
        if !in_force || paused || (says.leaves_at_request && ends(subscription)) {
            return 0;
        }
        let items = subscription.pointer("/items/data").and_then(Value::as_array).unwrap();
        let price = |item: &Value| &self.prices[text(item, "/price/id")];
        let lists: Vec<i128> = items.iter().map(|item| list(price(item), whole(item, "/quantity"))).collect();
        let (off, percent) = self.discounted(subscription, &lists, says, at);
        let scale = if text(subscription, "/currency") == "jpy" { 1 } else { 100 };
        let nets = items.iter().zip(lists.iter().zip(off)).map(|(item, (list, off))| {
            let recurring = &price(item)["recurring"];
            let (times, over) = match text(recurring, "/interval") {
                "week" => says.weeks_per_month,
                "year" => (1, 12),
                _ => (1, 1),
            };
            let net = (list - off) * (10_000 - percent) * times;
            // Millionths of the major unit; 10_000 is the whole of a percentage.
            half_even(net, 10_000 * over * whole(recurring, "/interval_count") * (PARTS / 1_000_000) * scale)
        });
        nets.sum()
    }

    /// Parts off each item, and hundredths of a percent off all.
    fn discounted(&self, subscription: &Value, lists: &[i128], says: &Says, at: i64) -> (Vec<i128>, i128) {
        let (mut off, mut percent) = (vec![0; lists.len()], 0);
        for id in subscription["discounts"].as_array().unwrap() {
            let discount = &self.discounts[id.as_str().unwrap()];
            let over = discount["end"].as_i64().is_some_and(|end| end <= at);
            let coupon = &discount["coupon"];
            if over || !says.subtracts.contains(&text(coupon, "/duration")) {
                continue;
            }
            match coupon["amount_off"].as_i64() {
                None => percent = parts(&coupon["percent_off"].to_string()) / (PARTS / 100),
                Some(amount) => off = shares(i128::from(amount), lists),
            }
        }
        (off, percent)
    }
}

/// Whether it has been asked to end with its period.
fn ends(subscription: &Value) -> bool {
    let places = ["/current_period_end", "/items/data/0/current_period_end"];
    let period_end = places.iter().find_map(|place| subscription.pointer(place)?.as_i64()).unwrap();
    subscription["cancel_at_period_end"] == true
        || subscription["cancel_at"].as_i64().is_some_and(|at| at <= period_end)
}

/// What an item lists for one interval, in parts.
fn list(price: &Value, quantity: i128) -> i128 {
    if text(price, "/recurring/usage_type") == "metered" {
        return 0;
    }
    let Some(tiers) = price["tiers"].as_array() else {
        let size = whole(price, "/transform_quantity/divide_by").max(1);
        return parts(text(price, "/unit_amount_decimal")) * ((quantity + size - 1) / size);
    };
    let (mut sum, mut below) = (0, 0);
    for tier in tiers {
        let end = tier["up_to"].as_i64().map_or(i128::MAX, i128::from);
        let (unit, flat) = (parts(text(tier, "/unit_amount_decimal")), parts(text(tier, "/flat_amount_decimal")));
        match text(price, "/tiers_mode") {
            "volume" if quantity <= end => return unit * quantity + flat,
            "graduated" if quantity > below => sum += unit * (quantity.min(end) - below) + flat,
            _ => {}
        }
        below = end;
    }
    sum
}

/// Minor units shared by list value, what remains to the largest remainders, earlier items first; in parts.
fn shares(amount: i128, lists: &[i128]) -> Vec<i128> {
    let total: i128 = lists.iter().sum();
    if amount * PARTS >= total {
        return lists.to_vec();
    }
    let mut shares: Vec<i128> = lists.iter().map(|list| amount * list / total).collect();
    let mut order: Vec<usize> = (0..lists.len()).collect();
    order.sort_by_key(|place| -(amount * lists[*place] % total));
    let left = usize::try_from(amount - shares.iter().sum::<i128>()).unwrap();
    order.into_iter().take(left).for_each(|place| shares[place] += 1);
    shares.into_iter().map(|share| share * PARTS).collect()
}

fn half_even(numerator: i128, denominator: i128) -> i128 {
    let (whole, rest) = (numerator / denominator, numerator % denominator);
    whole + i128::from(2 * rest > denominator || (2 * rest == denominator && whole % 2 == 1))
}

fn simulated(seed: u64, api_version: ApiVersion) -> (Vec<Value>, Vec<Event>, Truth) {
    let options = Options { customers: 100, months: 7, seed, api_version, ..Options::default() };
    let (mut bodies, mut events, mut unknown) = (Vec::new(), Vec::new(), UnknownCounts::default());
    let truth = simulate(&options, &mut |line| {
        bodies.push(serde_json::from_slice(line)?);
        events.push(read_event(line, &scope().account, &mut unknown).unwrap());
        Ok(())
    });
    (bodies, events, truth.unwrap())
}

/// Day, currency, millionths: every day from the first event to the last, 0 left out.
type Closings = BTreeMap<(i64, String), i128>;

/// The last second of a day that the log knows of.
fn closes(day: i64, last: i64) -> i64 {
    ((day + 1) * DAY - 1).min(last)
}

fn by_the_page(bodies: &[Value], says: &Says) -> Closings {
    let created = |body: &Value| body["created"].as_i64().unwrap();
    let (first, last) = (created(&bodies[0]), created(bodies.last().unwrap()));
    let (mut account, mut rest, mut closings) = (Account::default(), bodies, Closings::new());
    for day in first / DAY..=last / DAY {
        let (today, later) = rest.split_at(rest.partition_point(|body| created(body) / DAY <= day));
        today.iter().for_each(|body| account.hear(body));
        rest = later;
        let worth = account.worth(says, closes(day, last)).into_iter();
        closings.extend(worth.filter(|(_, sum)| *sum != 0).map(|(currency, sum)| ((day, currency), sum)));
    }
    closings
}

fn by_the_ledger(events: &[Event], profile: Profile) -> Closings {
    let mut ledger = Ledger::new(Rules::of(profile));
    let mut changes: Vec<(EventTime, String, i128)> = Vec::new();
    let arrivals: Vec<Arrival<'_>> = events.iter().map(|event| Arrival { event, appended_at: event.created }).collect();
    for batch in arrivals.chunks(64) {
        let delta = ledger.apply(batch).unwrap();
        let entries = delta.entries.into_iter();
        changes.extend(entries.map(|row| (row.event_time, row.currency.to_string(), row.mrr_delta.micros())));
        assert!(delta.late.is_empty() && delta.gaps.is_empty(), "{:?} {:?}", delta.late, delta.gaps);
    }
    changes.sort();
    let (first, last) = (events[0].created.seconds(), events.last().unwrap().created.seconds());
    let (mut sums, mut rest, mut closings) = (BTreeMap::new(), changes.as_slice(), Closings::new());
    for day in first / DAY..=last / DAY {
        let (today, later) = rest.split_at(rest.partition_point(|(time, ..)| time.seconds() <= closes(day, last)));
        for (_, currency, change) in today {
            *sums.entry(currency.clone()).or_insert(0) += change;
        }
        rest = later;
        let worth = sums.iter().filter(|(_, sum)| **sum != 0);
        closings.extend(worth.map(|(currency, sum)| ((day, currency.clone()), *sum)));
    }
    assert!(rest.is_empty(), "the ledger says nothing of what is to come: {rest:?}");
    closings
}

/// Says the first day on which two differ.
fn assert_same(ours: &Closings, theirs: &Closings, what: &str) {
    let mut keys: Vec<_> = ours.keys().chain(theirs.keys()).collect();
    keys.sort();
    let wrong = keys.into_iter().find(|key| ours.get(*key) != theirs.get(*key));
    assert!(
        wrong.is_none(),
        "{what}: {wrong:?}: {:?} and not {:?}",
        ours.get(wrong.unwrap()),
        theirs.get(wrong.unwrap())
    );
}

#[test]
fn the_simulated_account_is_worth_the_same_in_each_profile_on_every_day() {
    for (seed, version) in [(3, ApiVersion::Basil), (4, ApiVersion::Acacia2024)] {
        let (bodies, events, truth) = simulated(seed, version);
        let told = truth.mrr_daily.iter().filter(|(.., sum)| *sum != 0).map(|(day, currency, sum)| {
            let midnight = day.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp();
            ((midnight / DAY, (*currency).to_owned()), *sum)
        });
        let told: Closings = told.collect();
        let pages = PAGE.map(|says| {
            let page = by_the_page(&bodies, &says);
            assert!(page.len() > 300, "{} closings are too few to prove anything", page.len());
            assert_same(&by_the_ledger(&events, says.profile), &page, &format!("{:?} {version:?}", says.profile));
            page
        });
        assert_same(&pages[0], &told, "the simulator's own books");
        assert!(pages[0] != pages[1] && pages[1] != pages[2] && pages[0] != pages[2], "no setting moves this account");
    }
}

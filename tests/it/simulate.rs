//! What the simulator promises, checked on its output alone: whole and orderly events, snapshots that
//! `previous_attributes` join into chains, and a truth that a second, independent reading of the snapshots arrives at.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap, HashSet, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};
use std::io;

use chrono::{DateTime, Months, NaiveDate};
use serde_json::Value;
use tributary::simulate::{ApiVersion, Options, Truth, simulate};

const DAY: i64 = 86_400;

fn options(customers: u32, months: u32, api_version: ApiVersion) -> Options {
    Options { customers, months, seed: 11, api_version, ..Options::default() }
}

fn lines(options: &Options) -> (Vec<String>, Truth) {
    let mut lines = Vec::new();
    let truth = simulate(options, &mut |line| {
        lines.push(String::from_utf8(line.to_vec()).unwrap());
        Ok(())
    });
    (lines, truth.unwrap())
}

fn hash(options: &Options) -> u64 {
    let mut hasher = DefaultHasher::new();
    simulate(options, &mut |line| {
        line.hash(&mut hasher);
        Ok(())
    })
    .unwrap();
    hasher.finish()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_else(|| panic!("no number at {pointer}: {value}"))
}

#[test]
fn the_same_options_give_the_same_bytes() {
    let mut options = options(60, 5, ApiVersion::Basil);
    options.disorder = 0.1;
    let first = hash(&options);
    assert_eq!(first, hash(&options));
    options.seed += 1;
    assert_ne!(first, hash(&options));
}

#[test]
fn events_are_whole_in_order_and_of_real_size() {
    for version in [ApiVersion::Basil, ApiVersion::Acacia2024] {
        let (lines, truth) = lines(&options(300, 8, version));
        assert_eq!(truth.events, lines.len() as u64);
        let mut ids = HashSet::new();
        let mut kinds = BTreeMap::<String, u32>::new();
        let (mut last, mut usual, mut together) = (0, 0, 0);
        for line in &lines {
            let event: Value = serde_json::from_str(line).unwrap();
            assert!(ids.insert(text(&event, "/id").to_owned()), "{} comes twice", text(&event, "/id"));
            assert_eq!(text(&event, "/id").len(), 28);
            assert_eq!(text(&event, "/api_version"), version.as_str());
            assert!(event["pending_webhooks"].is_i64() && event["livemode"] == true && event["request"].is_object());
            assert!(event.get("account").is_none());
            let created = number(&event, "/created");
            assert!(created >= last, "{created} after {last}");
            together += u32::from(created == last);
            last = created;
            // Stripe's own objects that link payments to invoices have half a kilobyte.
            let small = text(&event, "/data/object/object") == "invoice_payment";
            usual += usize::from(small || (2_000..=6_144).contains(&line.len()));
            assert!(line.len() < 16_384);
            *kinds.entry(text(&event, "/type").to_owned()).or_default() += 1;
            let old_shape = version == ApiVersion::Acacia2024;
            match text(&event, "/data/object/object") {
                "subscription" => {
                    assert_eq!(event.pointer("/data/object/current_period_end").is_some(), old_shape);
                    assert_eq!(event.pointer("/data/object/items/data/0/current_period_end").is_some(), !old_shape);
                    assert!(event.pointer("/data/object/items/data/0/price/tiers").is_none());
                }
                "invoice" => {
                    assert_eq!(event.pointer("/data/object/subscription").is_some(), old_shape);
                    assert_eq!(event.pointer("/data/object/parent").is_some(), !old_shape);
                    assert_eq!(event.pointer("/data/object/lines/data/0/pricing").is_some(), !old_shape);
                    let sum: i64 = lines_of(&event).iter().map(|line| number(line, "/amount")).sum();
                    assert_eq!(sum, number(&event, "/data/object/subtotal"));
                }
                _ => {}
            }
        }
        assert!(usual * 5 > lines.len() * 4, "{usual} of {} events have 2 to 6 KB", lines.len());
        assert!(together > 0);
        for kind in [
            "customer.subscription.deleted",
            "customer.deleted",
            "customer.subscription.paused",
            "customer.subscription.trial_will_end",
            "customer.discount.deleted",
            "invoice.payment_failed",
            "invoiceitem.created",
            "charge.refunded",
            "charge.dispute.closed",
            "plan.created",
        ] {
            assert!(kinds.contains_key(kind), "no {kind} among {kinds:?}");
        }
    }
}

fn lines_of(event: &Value) -> &[Value] {
    event.pointer("/data/object/lines/data").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Merges `previous_attributes` into an object: hashes key by key, everything else whole.
fn undo(object: &mut Value, previous: &Value) {
    match (object, previous) {
        (Value::Object(object), Value::Object(previous)) => {
            for (key, value) in previous {
                undo(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (object, previous) => *object = previous.clone(),
    }
}

#[test]
fn previous_attributes_undone_give_the_snapshot_before() {
    for version in [ApiVersion::Basil, ApiVersion::Acacia2024] {
        let (lines, _) = lines(&options(250, 8, version));
        let mut states = HashMap::<String, Value>::new();
        let (mut joined, mut seconds) = (0, HashMap::<(String, i64), u32>::new());
        for line in lines.iter().filter(|line| line.contains("\"type\":\"customer.subscription.")) {
            let mut event: Value = serde_json::from_str(line).unwrap();
            let object = event["data"]["object"].clone();
            let id = text(&object, "/id").to_owned();
            if text(&event, "/type") == "customer.subscription.updated" {
                let previous = event["data"]["previous_attributes"].take();
                assert!(previous.as_object().is_some_and(|previous| !previous.is_empty()));
                undo(&mut event["data"]["object"], &previous);
                assert_eq!(Some(&event["data"]["object"]), states.get(&id), "{}", text(&event, "/id"));
                joined += 1;
                *seconds.entry((id.clone(), number(&event, "/created"))).or_default() += 1;
            } else {
                assert!(event.pointer("/data/previous_attributes").is_none());
            }
            states.insert(id, object);
        }
        assert!(joined > 500, "only {joined} updates");
        assert!(seconds.values().any(|updates| *updates > 1), "no subscription changes twice within a second");
    }
}

/// A decimal text as parts of 10⁻¹².
fn parts(text: &str) -> i128 {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{rest:0<12}").parse().unwrap()
}

/// What an item lists for one interval, in parts of a minor unit; tiers come from the price's own event.
fn list(price: &Value, quantity: i128) -> i128 {
    if text(price, "/recurring/usage_type") == "metered" {
        return 0;
    }
    let Some(tiers) = price["tiers"].as_array() else {
        let size = price.pointer("/transform_quantity/divide_by").and_then(Value::as_i64).map_or(1, i128::from);
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

fn half_even(numerator: i128, denominator: i128) -> i128 {
    let (whole, rest) = (numerator / denominator, numerator % denominator);
    whole + i128::from(2 * rest > denominator || (2 * rest == denominator && whole % 2 == 1))
}

/// Whether a cancellation within the current period has been asked for.
fn ending(subscription: &Value) -> bool {
    let period = ["/current_period_end", "/items/data/0/current_period_end"];
    let end = period.iter().find_map(|at| subscription.pointer(at)?.as_i64()).unwrap();
    subscription["cancel_at_period_end"] == true || subscription["cancel_at"].as_i64().is_some_and(|at| at <= end)
}

/// What a snapshot counts for, in millionths a month, given all prices and coupons.
fn counted(subscription: &Value, prices: &HashMap<String, Value>, coupons: &HashMap<String, Value>) -> i128 {
    let status = text(subscription, "/status");
    if !matches!(status, "active" | "past_due") || ending(subscription) {
        return 0;
    }
    let items = subscription.pointer("/items/data").and_then(Value::as_array).unwrap();
    let price = |item: &Value| &prices[text(item, "/price/id")];
    let lists: Vec<i128> =
        items.iter().map(|item| list(price(item), item["quantity"].as_i64().map_or(0, i128::from))).collect();
    let mut off = vec![0; items.len()];
    let mut percent = 0;
    for id in subscription["discounts"].as_array().unwrap() {
        let coupon = &coupons[id.as_str().unwrap()];
        if text(coupon, "/duration") != "forever" {
            continue;
        }
        match coupon["amount_off"].as_i64() {
            None => percent = parts(&coupon["percent_off"].to_string()) / 10_000_000_000,
            Some(amount) => off = shares(i128::from(amount), &lists),
        }
    }
    let exponent = if subscription["currency"] == "jpy" { 0 } else { 2 };
    let mut sum = 0;
    for ((item, list), off) in items.iter().zip(&lists).zip(off) {
        let recurring = &price(item)["recurring"];
        let (times, over) = match text(recurring, "/interval") {
            "week" => (52, 12),
            "year" => (1, 12),
            _ => (1, 1),
        };
        let count = i128::from(number(recurring, "/interval_count"));
        let net = (list - off) * (10_000 - percent) * times * 1_000_000;
        sum += half_even(net, 10_000 * over * count * 10_i128.pow(12 + exponent));
    }
    sum
}

/// Minor units shared by value, what remains to the largest remainders, earlier items first.
fn shares(amount: i128, lists: &[i128]) -> Vec<i128> {
    let total: i128 = lists.iter().sum();
    let scale = 10_i128.pow(12);
    if amount * scale >= total {
        return lists.to_vec();
    }
    let mut shares: Vec<i128> = lists.iter().map(|list| amount * list / total).collect();
    let mut order: Vec<usize> = (0..lists.len()).collect();
    order.sort_by_key(|at| -(amount * lists[*at] % total));
    let left = amount - shares.iter().sum::<i128>();
    for at in order.into_iter().take(usize::try_from(left).unwrap()) {
        shares[at] += 1;
    }
    shares.into_iter().map(|share| share * scale).collect()
}

#[test]
fn the_truth_is_what_the_snapshots_say() {
    for version in [ApiVersion::Basil, ApiVersion::Acacia2024] {
        let (lines, truth) = lines(&options(400, 10, version));
        let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (mut prices, mut coupons) = (HashMap::new(), HashMap::new());
        for event in &events {
            let object = &event["data"]["object"];
            match text(event, "/type") {
                "price.created" => prices.insert(text(object, "/id").to_owned(), object.clone()),
                "customer.discount.created" => coupons.insert(text(object, "/id").to_owned(), object["coupon"].clone()),
                _ => None,
            };
        }
        let mut totals = BTreeMap::<String, i128>::new();
        let mut known = HashMap::<String, i128>::new();
        let mut closings = Vec::new();
        let mut today = number(&events[0], "/created") / DAY;
        for event in &events {
            let day = number(event, "/created") / DAY;
            while today < day {
                closings.extend(totals.iter().map(|(currency, total)| (today, currency.clone(), *total)));
                today += 1;
            }
            let object = &event["data"]["object"];
            if object["object"] == "subscription" {
                let value = counted(object, &prices, &coupons);
                let change = value - known.insert(text(object, "/id").to_owned(), value).unwrap_or(0);
                if change != 0 {
                    *totals.entry(text(object, "/currency").to_owned()).or_default() += change;
                }
            }
        }
        closings.extend(totals.iter().map(|(currency, total)| (today, currency.clone(), *total)));
        let mut told: Vec<_> = truth
            .mrr_daily
            .iter()
            .map(|(day, currency, micros)| {
                (day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp() / DAY, (*currency).to_owned(), *micros)
            })
            .collect();
        told.sort();
        assert_eq!(totals.len(), 4);
        assert!(told == closings, "the truth and the snapshots differ");
    }
}

#[test]
fn disorder_delays_and_doubles_without_losing_anything() {
    let calm = options(200, 6, ApiVersion::Basil);
    let rough = Options { disorder: 0.2, ..calm.clone() };
    let ((expected, truth), (arrived, same_truth)) = (lines(&calm), lines(&rough));
    assert!(truth == same_truth);
    let key = |line: &String| line[7..35].to_owned();
    let stamp = |line: &String| -> i64 {
        let at = line.find("\"created\":").unwrap() + 10;
        line[at..at + 10].parse().unwrap()
    };
    let mut copies = HashMap::<String, Vec<&String>>::new();
    let (mut newest, mut late) = (0, 0);
    for line in &arrived {
        copies.entry(key(line)).or_default().push(line);
        let lateness = newest - stamp(line);
        assert!(lateness <= 3 * DAY, "{lateness} seconds late");
        late += usize::from(lateness > 0);
        newest = newest.max(stamp(line));
    }
    let expected_ids: HashSet<String> = expected.iter().map(key).collect();
    assert_eq!(expected_ids, copies.keys().cloned().collect());
    let doubled = copies.values().filter(|lines| lines.len() == 2).count();
    let share = doubled as f64 / expected.len() as f64;
    assert!((0.17..0.23).contains(&share), "{share} doubled");
    assert!(late * 4 > arrived.len(), "only {late} of {} late", arrived.len());
    for lines in copies.values() {
        let mut bodies: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.len() < 3);
        if let [first, second] = bodies.as_mut_slice() {
            assert_ne!(first["pending_webhooks"].take(), second["pending_webhooks"].take());
            assert_eq!(first, second);
        }
    }
}

#[test]
fn customers_churn_as_often_as_their_hazards_say() {
    let options = options(2_500, 14, ApiVersion::Basil);
    let mut live = HashMap::<String, HashMap<String, bool>>::new();
    let mut losses = HashMap::<String, Vec<(i64, bool)>>::new();
    let truth = simulate(&options, &mut |line| {
        let line = std::str::from_utf8(line).map_err(io::Error::other)?;
        if !line[line.len() - 60..].contains("\"customer.subscription.") {
            return Ok(());
        }
        let event: Value = serde_json::from_str(line)?;
        let of = &event["data"]["object"];
        let paying = matches!(text(of, "/status"), "active" | "past_due")
            && !ending(of)
            && text(of, "/items/data/0/price/nickname") != "free";
        let customer = text(of, "/customer").to_owned();
        let subscriptions = live.entry(customer.clone()).or_default();
        let before = subscriptions.values().any(|paying| *paying);
        subscriptions.insert(text(of, "/id").to_owned(), paying);
        if before && !subscriptions.values().any(|paying| *paying) {
            let unpaid =
                text(of, "/status") == "unpaid" || text(of, "/cancellation_details/reason") == "payment_failed";
            losses.entry(customer).or_default().push((number(&event, "/created"), unpaid));
        }
        Ok(())
    })
    .unwrap();
    let midnight = |day: NaiveDate| day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp();
    let (mut expected, mut variance, mut seen) = ([0.0; 2], [0.0; 2], [0.0; 2]);
    for row in &truth.hazards {
        let month = midnight(row.month)..midnight(row.month + Months::new(1));
        for (cause, probability) in [row.voluntary, row.involuntary].into_iter().enumerate() {
            assert!((0.0..1.0).contains(&probability) && row.expansion > 0.0 && row.expansion < 1.0);
            expected[cause] += probability;
            variance[cause] += probability * (1.0 - probability);
            let lost = losses.get(&*row.customer_id).is_some_and(|losses| {
                losses.iter().any(|(at, unpaid)| month.contains(at) && usize::from(*unpaid) == cause)
            });
            seen[cause] += f64::from(u8::from(lost));
        }
    }
    assert!(truth.hazards.len() > 10_000);
    for cause in 0..2 {
        let sigma = variance[cause].sqrt();
        assert!(
            (seen[cause] - expected[cause]).abs() < 3.5 * sigma,
            "cause {cause}: {} seen, {:.1} ± {sigma:.1} expected",
            seen[cause],
            expected[cause]
        );
    }
}

#[test]
fn truth_files_have_their_columns() {
    let (_, truth) = lines(&options(40, 4, ApiVersion::Basil));
    let folder = tempfile::tempdir().unwrap();
    truth.write_to(folder.path()).unwrap();
    let daily = std::fs::read_to_string(folder.path().join("mrr_daily.csv")).unwrap();
    let mut rows = daily.lines();
    assert_eq!(rows.next(), Some("day,currency,closing"));
    for (row, (day, currency, micros)) in rows.zip(&truth.mrr_daily) {
        let fields: Vec<&str> = row.split(',').collect();
        assert_eq!((fields[0], fields[1]), (day.to_string().as_str(), *currency));
        assert_eq!(
            fields[2].split_once('.').map(|(whole, rest)| (format!("{whole}{rest}").parse(), rest.len())),
            Some((Ok(*micros), 6))
        );
    }
    let hazards = std::fs::read_to_string(folder.path().join("hazard_monthly.csv")).unwrap();
    assert!(hazards.starts_with("customer_id,month,voluntary,involuntary,expansion\ncus_"));
    assert_eq!(hazards.lines().count(), truth.hazards.len() + 1);
    let first = DateTime::from_timestamp(0, 0).unwrap().date_naive();
    assert!(truth.mrr_daily.iter().all(|(day, ..)| *day > first));
}

#[test]
fn the_size_hint_is_near_and_wrong_options_are_named() {
    for (customers, months) in [(1_500, 3), (1_000, 12)] {
        let options = options(customers, months, ApiVersion::Basil);
        let made = simulate(&options, &mut |_| Ok(())).unwrap().events as f64;
        let hint = options.size_hint() as f64;
        assert!((hint / made - 1.0).abs() < 0.1, "{hint} hinted, {made} made");
    }
    let wrong = Options { disorder: 1.5, ..Options::default() };
    let error = simulate(&wrong, &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("disorder"));
    assert!("2019-01-01".parse::<ApiVersion>().is_err());
}

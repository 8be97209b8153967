//! One subscription in the seven shapes of Stripe's own example objects.
//!
//! The same facts are put into each version's objects by changing values alone, never their structure; what a shape has
//! no place for is named here, version by version, and the readers must give the same canonical value for the rest.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use serde_json::{Value, json};
use tributary::{
    money::Rational,
    stripe::{
        Admission, AdmissionCounts, LogRecord, Redactor, UnknownCounts, ids::AccountId, read_event, read_record,
        types::*,
    },
    time::EventTime,
};

use crate::stripe_support::fixtures;

/// A fact, where a shape can say it, what is said there, and what the readers know without it.
struct Fact {
    name: &'static str,
    /// Places in the subscription; a shape lacks the fact when it has none of them.
    places: &'static [&'static str],
    value: fn(&Objects<'_>) -> Value,
    forget: fn(&mut Subscription),
}

/// The example objects of one version that hang below a subscription.
struct Objects<'a> {
    resources: &'a Value,
}

/// What each version's shape has no place for.
const LACKING: [(&str, &[&str]); 7] = [
    (
        "2020-09-29",
        &[
            "cancellation reason",
            "currency of the subscription",
            "discount of the item",
            "reason of a pause",
            "second discount of the subscription",
            "tax behaviour of the price",
            "tiers of the price",
            "amounts in other currencies",
            "trial of the item",
            "units beyond whole ones",
        ],
    ),
    (
        "2022-05-25",
        &[
            "cancellation reason",
            "currency of the subscription",
            "discount of the item",
            "reason of a pause",
            "second discount of the subscription",
            "tiers of the price",
            "amounts in other currencies",
            "trial of the item",
            "units beyond whole ones",
        ],
    ),
    ("2025-02-14-acacia", NEW),
    ("2025-03-25-basil", NEW),
    ("2025-09-29-clover", NEW),
    ("2026-03-23-dahlia", NEW),
    ("2026-07-29-dahlia", NEW),
];

/// What no shape since `discounts` says without being asked.
const NEW: &[&str] = &[
    "reason of a pause",
    "tiers of the price",
    "amounts in other currencies",
    "trial of the item",
    "units beyond whole ones",
];

fn seconds(at: i64) -> EventTime {
    EventTime::from_seconds(at)
}

fn whole(number: i64) -> Rational {
    Rational::from_integer(BigInt::from(number))
}

impl Objects<'_> {
    /// An example object with other values; each place must be one of its own.
    fn object(&self, name: &str, values: &[(&str, Value)]) -> Value {
        let mut object = self.resources[name].clone();
        for (place, value) in values {
            *object.pointer_mut(place).unwrap_or_else(|| panic!("{name} has no {place}")) = value.clone();
        }
        object
    }

    fn coupon(&self, id: &str, percent: i64, duration: &str, months: Value) -> Value {
        self.object(
            "coupon",
            &[
                ("/id", json!(id)),
                ("/percent_off", json!(percent)),
                ("/amount_off", Value::Null),
                ("/currency", Value::Null),
                ("/duration", json!(duration)),
                ("/duration_in_months", months),
            ],
        )
    }

    fn discount(&self, id: &str, item: bool, coupon: Value) -> Value {
        let mut discount = self.object(
            "discount",
            &[
                ("/id", json!(id)),
                ("/customer", json!("cus_1")),
                ("/subscription", json!("sub_1")),
                ("/start", json!(1_000)),
                ("/end", json!(9_000)),
            ],
        );
        // The coupon moved; the place for the item came later.
        let place = if discount.pointer("/source").is_some() { "/source/coupon" } else { "/coupon" };
        *discount.pointer_mut(place).unwrap() = coupon;
        if item {
            *discount.pointer_mut("/subscription_item").unwrap() = json!("si_1");
        }
        discount
    }

    fn first(&self) -> Value {
        self.discount("di_1", false, self.coupon("HALF", 50, "forever", Value::Null))
    }

    fn second(&self) -> Value {
        self.discount("di_2", false, self.coupon("TENTH", 10, "repeating", json!(3)))
    }

    fn of_item(&self) -> Value {
        self.discount("di_3", true, self.coupon("FIFTH", 20, "once", Value::Null))
    }
}

fn discount(
    id: &str,
    item: bool,
    coupon: &str,
    percent: i64,
    duration: CouponDuration,
    months: Option<u32>,
) -> DiscountRef {
    DiscountRef::Full(Box::new(Discount {
        id: Some(id.into()),
        coupon: CouponRef::Full(Box::new(Coupon {
            id: coupon.into(),
            percent_off: Some(whole(percent)),
            amount_off: None,
            currency: None,
            duration,
            duration_in_months: months,
            applies_to: Vec::new(),
            currency_options: BTreeMap::new(),
        })),
        customer: Some("cus_1".into()),
        subscription: Some("sub_1".into()),
        subscription_item: item.then(|| "si_1".into()),
        start: Some(seconds(1_000)),
        end: Some(seconds(9_000)),
    }))
}

/// The subscription, with every fact of [`FACTS`].
fn whole_subscription() -> Subscription {
    Subscription {
        id: "sub_1".into(),
        customer: "cus_1".into(),
        status: SubscriptionStatus::PastDue,
        currency: Some("usd".parse().unwrap()),
        items: vec![SubscriptionItem {
            id: "si_1".into(),
            price: Price {
                id: "price_1".into(),
                product: Some("prod_1".into()),
                currency: Some("usd".parse().unwrap()),
                unit_amount: Some(Rational::new(BigInt::from(19_995), BigInt::from(10))),
                interval: Some(Interval::Week),
                interval_count: 2,
                metered: false,
                tiers_mode: None,
                tiers: Some(vec![Tier { up_to: None, unit_amount: whole(1), flat_amount: whole(0) }]),
                transform_quantity: Some(TransformQuantity { divide_by: 5, round_up: true }),
                tax_inclusive: Some(true),
                currency_options: BTreeMap::from([("eur".parse().unwrap(), whole(1_800))]),
                active: Some(true),
                nickname: None,
            },
            quantity: Some(Rational::new(BigInt::from(15), BigInt::from(2))),
            discounts: vec![discount("di_3", true, "FIFTH", 20, CouponDuration::Once, None)],
            tax_rates: vec![TaxRate { id: "txr_1".into(), percentage: whole(19), inclusive: true }],
            trial_end: Some(seconds(2_500)),
            current_period_start: None,
            current_period_end: Some(seconds(8_000)),
        }],
        items_truncated: false,
        discounts: vec![
            discount("di_1", false, "HALF", 50, CouponDuration::Forever, None),
            discount("di_2", false, "TENTH", 10, CouponDuration::Repeating, Some(3)),
        ],
        tax_rates: vec![TaxRate { id: "txr_2".into(), percentage: whole(7), inclusive: false }],
        created: Some(seconds(1_000)),
        start_date: Some(seconds(900)),
        trial_start: Some(seconds(1_100)),
        trial_end: Some(seconds(2_000)),
        cancel_at: Some(seconds(8_500)),
        cancel_at_period_end: true,
        canceled_at: Some(seconds(3_000)),
        ended_at: Some(seconds(8_600)),
        current_period_end: None,
        pause_collection: Some("void".into()),
        cancellation_reason: Some("payment_failed".into()),
        pause_reason: Some("trial_end_without_payment_method".into()),
        schedule: Some("sub_sched_1".into()),
    }
}

/// A fact that every shape has.
const fn always(name: &'static str, places: &'static [&'static str], value: fn(&Objects<'_>) -> Value) -> Fact {
    Fact { name, places, value, forget: |_| panic!("every shape has this") }
}

const FACTS: &[Fact] = &[
    always("id", &["/id"], |_| json!("sub_1")),
    always("customer", &["/customer"], |_| json!("cus_1")),
    always("status", &["/status"], |_| json!("past_due")),
    Fact {
        name: "currency of the subscription",
        places: &["/currency"],
        value: |_| json!("usd"),
        forget: |subscription| subscription.currency = None,
    },
    always("created", &["/created"], |_| json!(1_000)),
    always("start of service", &["/start_date"], |_| json!(900)),
    always("start of the trial", &["/trial_start"], |_| json!(1_100)),
    always("end of the trial", &["/trial_end"], |_| json!(2_000)),
    always("planned end", &["/cancel_at"], |_| json!(8_500)),
    always("end with the period", &["/cancel_at_period_end"], |_| json!(true)),
    always("request of the end", &["/canceled_at"], |_| json!(3_000)),
    always("end", &["/ended_at"], |_| json!(8_600)),
    always("schedule", &["/schedule"], |_| json!("sub_sched_1")),
    always("end of the period", &["/current_period_end", "/items/data/0/current_period_end"], |_| json!(8_000)),
    always("paused collection", &["/pause_collection"], |_| json!({ "behavior": "void", "resumes_at": null })),
    Fact {
        name: "cancellation reason",
        places: &["/cancellation_details/reason"],
        value: |_| json!("payment_failed"),
        forget: |subscription| subscription.cancellation_reason = None,
    },
    Fact {
        name: "reason of a pause",
        places: &["/status_details/paused/subscription/type"],
        value: |_| json!("trial_end_without_payment_method"),
        forget: |subscription| subscription.pause_reason = None,
    },
    always("discount of the subscription", &["/discount", "/discounts"], |objects| objects.first()),
    Fact {
        name: "second discount of the subscription",
        places: &["/discounts"],
        value: |objects| json!([objects.first(), objects.second()]),
        forget: |subscription| subscription.discounts.truncate(1),
    },
    always("tax of the subscription", &["/default_tax_rates"], |objects| {
        let values = [("/id", json!("txr_2")), ("/percentage", json!(7)), ("/inclusive", json!(false))];
        json!([objects.tax_rate(&values)])
    }),
    always("item", &["/items/data/0/id"], |_| json!("si_1")),
    always("units", &["/items/data/0/quantity"], |_| json!(7)),
    Fact {
        name: "units beyond whole ones",
        places: &["/items/data/0/quantity_decimal"],
        value: |_| json!("7.5"),
        forget: |subscription| subscription.items[0].quantity = Some(whole(7)),
    },
    Fact {
        name: "trial of the item",
        places: &["/items/data/0/current_trial/end_date"],
        value: |_| json!(2_500),
        forget: |subscription| subscription.items[0].trial_end = None,
    },
    Fact {
        name: "discount of the item",
        places: &["/items/data/0/discounts"],
        value: |objects| json!([objects.of_item()]),
        forget: |subscription| subscription.items[0].discounts.clear(),
    },
    always("tax of the item", &["/items/data/0/tax_rates"], |objects| {
        let values = [("/id", json!("txr_1")), ("/percentage", json!(19)), ("/inclusive", json!(true))];
        json!([objects.tax_rate(&values)])
    }),
    always("price", &["/items/data/0/price/id", "/items/data/0/plan/id"], |_| json!("price_1")),
    always("product", &["/items/data/0/price/product", "/items/data/0/plan/product"], |_| json!("prod_1")),
    always("currency of the price", &["/items/data/0/price/currency", "/items/data/0/plan/currency"], |_| json!("usd")),
    // Rounded where there is no room for a tenth of a cent.
    always("rounded amount", &["/items/data/0/price/unit_amount", "/items/data/0/plan/amount"], |_| json!(2_000)),
    always("exact amount", &["/items/data/0/price/unit_amount_decimal", "/items/data/0/plan/amount_decimal"], |_| {
        json!("1999.5")
    }),
    always("interval", &["/items/data/0/price/recurring/interval", "/items/data/0/plan/interval"], |_| json!("week")),
    always(
        "intervals in a period",
        &["/items/data/0/price/recurring/interval_count", "/items/data/0/plan/interval_count"],
        |_| json!(2),
    ),
    always(
        "licensed or metered",
        &["/items/data/0/price/recurring/usage_type", "/items/data/0/plan/usage_type"],
        |_| json!("licensed"),
    ),
    always(
        "packages",
        &["/items/data/0/price/transform_quantity", "/items/data/0/plan/transform_usage"],
        |_| json!({ "divide_by": 5, "round": "up" }),
    ),
    Fact {
        name: "tax behaviour of the price",
        places: &["/items/data/0/price/tax_behavior"],
        value: |_| json!("inclusive"),
        forget: |subscription| subscription.items[0].price.tax_inclusive = None,
    },
    Fact {
        name: "tiers of the price",
        places: &["/items/data/0/price/tiers", "/items/data/0/plan/tiers"],
        value: |_| json!([{ "up_to": null, "unit_amount": 1, "flat_amount": 0 }]),
        forget: |subscription| subscription.items[0].price.tiers = None,
    },
    Fact {
        name: "amounts in other currencies",
        places: &["/items/data/0/price/currency_options"],
        value: |_| json!({ "eur": { "unit_amount": 1_800, "unit_amount_decimal": "1800" } }),
        forget: |subscription| subscription.items[0].price.currency_options.clear(),
    },
];

impl Objects<'_> {
    fn tax_rate(&self, values: &[(&str, Value)]) -> Value {
        let mut rate = self.object("tax_rate", values);
        // Newer shapes say the rate a second time.
        if let Some(effective) = rate.get_mut("effective_percentage") {
            *effective = values[1].1.clone();
        }
        rate
    }
}

/// Only where the period stands differs between shapes; it is the item's.
fn canonical(mut subscription: Subscription) -> Subscription {
    let end = subscription.current_period_end.take();
    for item in &mut subscription.items {
        item.current_period_end = item.current_period_end.take().or(end);
        item.current_period_start = None;
    }
    subscription
}

fn names(value: &Value, at: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| names(value, &format!("{at}/{key}"), all)),
        Value::Array(list) => list.iter().enumerate().for_each(|(n, value)| names(value, &format!("{at}/{n}"), all)),
        _ => {}
    }
    all.push(at.to_owned());
}

#[test]
fn one_subscription_reads_to_the_same_value_in_the_seven_shapes() {
    let versions = fixtures();
    if versions.is_empty() {
        return;
    }
    let account = AccountId::from("acct_own");
    let admission = Admission::new(Redactor::builtin().unwrap(), account.clone());
    assert_eq!(versions.keys().map(String::as_str).collect::<Vec<_>>(), LACKING.map(|(version, _)| version));
    for (version, lacking) in LACKING {
        let resources = &versions[version]["resources"];
        let objects = Objects { resources };
        let mut shape = resources["subscription"].clone();
        let mut expected = whole_subscription();
        let mut absent = Vec::new();
        let mut before = Vec::new();
        names(&shape, "", &mut before);
        for fact in FACTS {
            let places: Vec<_> = fact.places.iter().filter(|place| shape.pointer(place).is_some()).collect();
            if places.is_empty() {
                absent.push(fact.name);
                (fact.forget)(&mut expected);
            }
            for place in places {
                let value = (fact.value)(&objects);
                let list = *place == "/discounts" && !value.is_array();
                *shape.pointer_mut(place).unwrap() = if list { json!([value]) } else { value };
            }
        }
        // Whatever was there is there still.
        assert!(before.iter().all(|name| shape.pointer(name).is_some()), "{version}: the structure was changed");
        absent.sort_unstable();
        let mut lacking = lacking.to_vec();
        lacking.sort_unstable();
        assert_eq!(absent, lacking, "what the shape of {version} lacks");

        let event = json!({
            "id": "evt_1", "object": "event", "api_version": version, "created": 1_700_000_000, "livemode": true,
            "type": "customer.subscription.updated", "data": { "object": shape },
        });
        let body = event.to_string();
        let mut unknown = UnknownCounts::default();
        let read = |object| match object {
            Object::Subscription(subscription) => canonical(*subscription),
            other => panic!("{version}: not a subscription: {other:?}"),
        };
        let whole = read_event(body.as_bytes(), &account, &mut unknown).unwrap();
        assert_eq!(read(whole.object), expected, "{version}");
        let stored = admission.admit(body.as_bytes(), &mut AdmissionCounts::default());
        let LogRecord::Event(stored) = read_record(&stored.body, &account, &mut unknown).unwrap() else {
            panic!("{version}: refused at the door");
        };
        assert_eq!(read(stored.object), expected, "{version}, as it is stored");
        assert!(unknown.sorted().is_empty(), "{version}: {:?} are not known", unknown.sorted());
    }
}

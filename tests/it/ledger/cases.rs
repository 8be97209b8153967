//! Every worked case of the rules that concerns recurring revenue, by its name.

use tributary::{
    ledger::{Profile, Rules},
    stripe::types::*,
};

use super::book::*;

fn started(events: impl IntoIterator<Item = Subscription>) -> Book {
    let mut script = Script::default();
    for subscription in events {
        script.created(0, &subscription);
    }
    Book::of(&script.events)
}

fn with_items(items: Vec<SubscriptionItem>) -> Subscription {
    Subscription { items, ..subscription("sub_1", "cus_1", &monthly("p", 0)) }
}

#[test]
fn a_hundred_monthly_and_fifty_yearly_subscriptions_are_12_500() {
    let (month, year) = (monthly("m", 10_000), price("y", 60_000, Interval::Year, 1));
    let monthly = (0..100).map(|n| subscription(&format!("sub_m{n}"), &format!("cus_m{n}"), &month));
    let yearly = (0..50).map(|n| subscription(&format!("sub_y{n}"), &format!("cus_y{n}"), &year));
    assert_eq!(started(monthly.chain(yearly)).mrr("usd"), "12500.000000");
}

#[test]
fn a_thousand_small_yearly_plans_sum_what_each_row_says() {
    let year = price("y", 1_000, Interval::Year, 1);
    let book = started((0..1_000).map(|n| subscription(&format!("sub_{n}"), &format!("cus_{n}"), &year)));
    assert!(book.entries.iter().all(|entry| entry.mrr_delta == amount("0.833333")));
    assert_eq!(book.mrr("usd"), "833.333000");
}

#[test]
fn churned_revenue_is_35_for_a_yearly_cancellation_and_a_halved_month() {
    let yearly = subscription("sub_1", "cus_1", &price("y", 12_000, Interval::Year, 1));
    let dear = subscription("sub_2", "cus_2", &monthly("dear", 5_000));
    let cheap = Subscription { items: vec![item("si_sub_2", &monthly("cheap", 2_500), 1)], ..dear.clone() };
    let mut script = Script::default();
    script.created(0, &yearly).created(0, &dear).deleted(DAY, &yearly).updated(2 * DAY, &cheap);
    assert_eq!(
        Book::of(&script.events).moved()[2..],
        [
            short(DAY, "churn", "canceled", "-10.000000 usd", "0.000000 usd"),
            short(2 * DAY, "contraction", "plan_change", "-25.000000 usd", "25.000000 usd"),
        ]
    );
}

#[test]
fn every_interval_is_a_month_in_the_end() {
    let prices = [
        price("day", 1_000, Interval::Day, 1),
        price("week", 2_000, Interval::Week, 1),
        price("two", 6_000, Interval::Month, 2),
        price("year", 12_000, Interval::Year, 1),
    ];
    let all = with_items(prices.iter().map(|price| item(&format!("si_{}", price.id), price, 1)).collect());
    assert_eq!(started([all]).mrr("usd"), "430.833334");
    let thirds = subscription("sub_1", "cus_1", &price("q", 9_000, Interval::Month, 3));
    assert_eq!(started([thirds]).mrr("usd"), "30.000000");
    let year = subscription("sub_1", "cus_1", &price("y", 120_000, Interval::Year, 1));
    assert_eq!(started([year]).mrr("usd"), "100.000000");
}

fn tiered(mode: TiersMode, tiers: &[(Option<i64>, i64, i64)]) -> Price {
    let tiers = tiers.iter().map(|(up_to, unit, flat)| Tier {
        up_to: up_to.map(whole),
        unit_amount: whole(*unit),
        flat_amount: whole(*flat),
    });
    Price { unit_amount: None, tiers_mode: Some(mode), tiers: Some(tiers.collect()), ..monthly("tiered", 0) }
}

#[test]
fn tiers_by_volume_and_by_step() {
    let worth = |price: &Price, units| started([with_items(vec![item("si_1", price, units)])]).mrr("usd");
    let volume = tiered(TiersMode::Volume, &[(Some(1_000), 10, 0), (None, 8, 500)]);
    assert_eq!(worth(&volume, 500), "50.000000");
    assert_eq!(worth(&volume, 1_000), "100.000000");
    assert_eq!(worth(&volume, 1_001), "85.080000");
    let steps = tiered(TiersMode::Graduated, &[(Some(5), 700, 0), (Some(10), 650, 1_000), (None, 600, 0)]);
    assert_eq!(worth(&steps, 5), "35.000000");
    assert_eq!(worth(&steps, 6), "51.500000");
    assert_eq!(worth(&steps, 20), "137.500000");
}

#[test]
fn packages_are_begun_or_filled_and_prices_may_be_below_a_cent() {
    let packs = |round_up| Price {
        transform_quantity: Some(TransformQuantity { divide_by: 10, round_up }),
        ..monthly("packs", 500)
    };
    let worth = |price: &Price, units| started([with_items(vec![item("si_1", price, units)])]).mrr("usd");
    assert_eq!(worth(&packs(true), 21), "15.000000");
    assert_eq!(worth(&packs(false), 29), "10.000000");
    let tiny = Price { unit_amount: Some(tributary::money::parse_decimal("0.0125").unwrap()), ..monthly("tiny", 0) };
    assert_eq!(worth(&tiny, 10_000), "1.250000");
}

#[test]
fn minor_units_follow_the_currency() {
    let worth = |code: &str| {
        let price = Price { currency: Some(currency(code)), ..monthly("p", 5_000) };
        started([subscription("sub_1", "cus_1", &price)]).mrr(code)
    };
    assert_eq!(worth("jpy"), "5000.000000");
    assert_eq!(worth("kwd"), "5.000000");
    assert_eq!(worth("ugx"), "50.000000");
    assert_eq!(worth("isk"), "50.000000");
}

#[test]
fn amount_off_is_per_invoice_of_the_interval() {
    let yearly = price("y", 120_000, Interval::Year, 1);
    let off = discount("di_1", &amount_off("five_hundred", 50_000, CouponDuration::Forever));
    let subscription = Subscription { discounts: vec![full(&off)], ..subscription("sub_1", "cus_1", &yearly) };
    let book = started([subscription]);
    assert_eq!(book.mrr("usd"), "58.333333");
    assert_eq!(book.entries[0].discount_delta, amount("-41.666667"));
    let terms = book.states[0].discounts[0].terms.as_ref().unwrap();
    assert_eq!(terms.amount_off.unwrap().to_string(), "500");
}

#[test]
fn item_discounts_come_before_the_subscriptions() {
    let first = discount("di_1", &amount_off("fifty", 5_000, CouponDuration::Forever));
    let half = discount("di_2", &percent_off("half", 50, CouponDuration::Forever));
    let mut items = vec![item("si_1", &monthly("a", 10_000), 1), item("si_2", &monthly("b", 6_000), 1)];
    items[0].discounts = vec![full(&first)];
    let book = started([Subscription { discounts: vec![full(&half)], ..with_items(items) }]);
    assert_eq!(book.mrr("usd"), "55.000000");
}

#[test]
fn an_amount_off_is_shared_in_whole_cents_by_list_value() {
    let off = discount("di_1", &amount_off("ten", 1_000, CouponDuration::Forever));
    let prices = [monthly("a", 1_000), monthly("b", 1_000), monthly("c", 1_000)];
    let items = prices.iter().map(|price| item(&format!("si_{}", price.id), price, 1)).collect();
    let book = started([Subscription { discounts: vec![full(&off)], ..with_items(items) }]);
    let shares: Vec<_> = book.entries.iter().map(|entry| entry.discount_delta.to_string()).collect();
    assert_eq!(shares, ["-3.340000", "-3.330000", "-3.330000"]);
    // More than there is takes all there is, from the products it applies to.
    let coupon = Coupon { applies_to: vec!["prod_b".into()], ..amount_off("hundred", 10_000, CouponDuration::Forever) };
    let items = prices.iter().map(|price| item(&format!("si_{}", price.id), price, 1)).collect();
    let book = started([Subscription { discounts: vec![full(&discount("di_2", &coupon))], ..with_items(items) }]);
    assert_eq!(book.mrr("usd"), "20.000000");
}

#[test]
fn only_coupons_for_ever_count_under_stripe_and_each_profile_has_its_own() {
    let worth = |profile: Profile, duration: CouponDuration| {
        let half = discount("di_1", &percent_off("half", 50, duration));
        let plan = subscription("sub_1", "cus_1", &monthly("p", 10_000));
        let mut script = Script::default();
        script.created(0, &Subscription { discounts: vec![full(&half)], ..plan });
        let mut book = Book::new(Rules::of(profile));
        book.apply(&script.events);
        book.mrr("usd")
    };
    let table = [Profile::Stripe, Profile::Chartmogul, Profile::Profitwell].map(|profile| {
        [CouponDuration::Forever, CouponDuration::Repeating, CouponDuration::Once].map(|d| worth(profile, d))
    });
    let (half, all) = ("50.000000", "100.000000");
    assert_eq!(table, [[half, all, all], [half, half, half], [half, half, all]]);
}

#[test]
fn a_discount_ends_without_an_event_and_is_not_earned() {
    let mut repeating = discount("di_1", &percent_off("half", 50, CouponDuration::Repeating));
    repeating.end = Some(at(90 * DAY));
    let plan = subscription("sub_1", "cus_1", &monthly("p", 10_000));
    let mut script = Script::default();
    script.created(0, &Subscription { discounts: vec![full(&repeating)], ..plan });
    let mut book = Book::new(Rules::of(Profile::Profitwell));
    book.apply(&script.events);
    assert_eq!(book.moved().len(), 1, "the end lies ahead of the log's clock");
    book.apply(&[event("evt_tick", "product.created", 91 * DAY, Object::Other("product".into()))]);
    assert_eq!(book.moved()[1..], [short(90 * DAY, "expansion", "discount_end", "50.000000 usd", "100.000000 usd")]);
}

#[test]
fn a_change_of_plan_is_two_rows_and_one_movement() {
    let plan_a = subscription("sub_1", "cus_1", &monthly("a", 2_000));
    let plan_b = Subscription { items: vec![item("si_sub_1", &monthly("b", 5_000), 1)], ..plan_a.clone() };
    let mut script = Script::default();
    script.created(0, &plan_a).updated(DAY, &plan_b);
    let book = Book::of(&script.events);
    assert_eq!(book.moved()[1..], [short(DAY, "expansion", "plan_change", "30.000000 usd", "50.000000 usd")]);
    assert_eq!(book.sum(|entry| entry.price_id.as_str() == "a"), "0.000000");
    assert_eq!(book.sum(|entry| entry.price_id.as_str() == "b"), "50.000000");
}

#[test]
fn a_customer_that_changes_currency_neither_churns_nor_comes() {
    let euro = Price { currency: Some(currency("eur")), ..monthly("e", 9_500) };
    let dollars = subscription("sub_1", "cus_1", &monthly("d", 10_000));
    let mut script = Script::default();
    script.created(0, &dollars).deleted(DAY, &dollars).created(DAY, &subscription("sub_2", "cus_1", &euro));
    assert_eq!(
        Book::of(&script.events).moved()[1..],
        [
            short(DAY, "expansion", "currency_change", "95.000000 eur", "95.000000 eur"),
            short(DAY, "contraction", "currency_change", "-100.000000 usd", "0.000000 usd"),
        ]
    );
}

#[test]
fn a_trial_is_nothing_until_it_converts() {
    let mut paying = subscription("sub_1", "cus_1", &monthly("p", 100));
    paying.trial_end = Some(at(7 * DAY));
    let trial = Subscription { status: SubscriptionStatus::Trialing, ..paying.clone() };
    let mut script = Script::default();
    script.created(0, &trial).updated(7 * DAY, &paying);
    let book = Book::of(&script.events);
    assert_eq!(book.moved(), [short(7 * DAY, "new", "trial_converted", "1.000000 usd", "1.000000 usd")]);
    assert_eq!(book.states[0].flags, ["trial".into()]);
    assert_eq!(book.states[0].list_amount.unwrap().to_string(), "1");
    assert_eq!(
        book.outlook("trial"),
        [(0, "start", "trial_started", "1.000000"), (7 * DAY, "end", "trial_converted", "-1.000000")].map(owned)
    );
}

#[test]
fn there_and_back_within_a_second_is_two_events_and_nothing() {
    let units = |units| Subscription {
        items: vec![item("si_sub_1", &monthly("p", 1_000), units)],
        ..subscription("sub_1", "cus_1", &monthly("p", 1_000))
    };
    for (here, there, worth) in [(1, 2, "10.000000"), (2, 1, "20.000000")] {
        let mut script = Script::default();
        script.created(0, &units(here)).updated(DAY, &units(there)).updated(DAY, &units(here));
        for order in [[0, 1, 2], [0, 2, 1], [2, 1, 0]] {
            let mut book = Book::new(Rules::default());
            for index in order {
                book.apply(&script.events[index..=index]);
            }
            assert_eq!(book.mrr("usd"), worth);
            assert_eq!(book.moved().len(), 1);
        }
    }
}

#[test]
fn the_last_of_several_changes_in_a_second_holds() {
    let units = |units| Subscription {
        items: vec![item("si_sub_1", &monthly("p", 1_000), units)],
        ..subscription("sub_1", "cus_1", &monthly("p", 1_000))
    };
    let mut script = Script::default();
    script.created(0, &units(1)).updated(DAY, &units(5)).updated(DAY, &units(3)).updated(DAY, &units(4));
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [0, 3, 1, 2], [2, 3, 0, 1]] {
        let events = order.map(|index| script.events[index].clone());
        let book = Book::of(&events);
        assert_eq!(book.mrr("usd"), "40.000000");
        assert_eq!(book.moved()[1..], [short(DAY, "expansion", "quantity_change", "30.000000 usd", "40.000000 usd")]);
        assert!(!book.reasons().contains(&"order_arbitrary"));
    }
}

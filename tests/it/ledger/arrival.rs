//! Facts that lie around a subscription, in any order of arrival: dated amounts, taxes, corrections, and what old
//! bodies say.

use tributary::{
    ledger::{BackdatedStart, Rules, review, rows::LedgerEntry},
    stripe::{UnknownCounts, own::SNAPSHOT, read_event, types::*},
};

use super::book::*;

/// Every order of some things.
fn orders(things: usize) -> Vec<Vec<usize>> {
    if things == 0 {
        return vec![Vec::new()];
    }
    let last = things - 1;
    let shorter = orders(last);
    shorter
        .iter()
        .flat_map(|order| {
            (0..things).map(move |place| {
                let mut longer = order.clone();
                longer.insert(place, last);
                longer
            })
        })
        .collect()
}

fn in_order(events: &[Event], order: &[usize]) -> Book {
    let mut book = Book::new(Rules::default());
    order.iter().for_each(|index| book.apply(&events[*index..=*index]));
    book
}

/// A dollar price at what it costs in euros from a day on.
fn euros(id: &str, day: i64, minor: i64) -> Event {
    let price = Price { currency_options: [(currency("eur"), whole(minor))].into(), ..monthly("p", 10_000) };
    event(id, "price.updated", day * DAY, Object::Price(Box::new(price)))
}

/// A subscription in euros to a dollar price, of 1 unit, of 2 from day 15 and of 3 from day 25 on.
fn abroad() -> Vec<Event> {
    let units = |units| {
        let mut state = subscription("sub_1", "cus_1", &monthly("p", 10_000));
        state.currency = Some(currency("eur"));
        state.items[0].quantity = Some(whole(units));
        state
    };
    let mut script = Script::default();
    script.created(0, &units(1)).updated(15 * DAY, &units(2)).updated(25 * DAY, &units(3));
    script.events
}

#[test]
fn amounts_in_other_currencies_hold_from_their_dates_in_any_order_of_arrival() {
    let mut events = abroad();
    events.extend([euros("evt_a", 0, 1_000), euros("evt_b", 10, 2_000), euros("evt_c", 20, 1_000)]);
    for order in orders(events.len()) {
        let book = in_order(&events, &order);
        let at_days = [5, 16, 26].map(|day| book.mrr_at("eur", day * DAY));
        assert_eq!(at_days, ["10.000000", "40.000000", "30.000000"], "{order:?}");
    }
}

#[test]
fn two_amounts_in_another_currency_of_one_second_resolve_alike_in_any_order() {
    let mut events = vec![euros("evt_a", 0, 1_000), euros("evt_b", 0, 2_000)];
    events.extend(abroad());
    let worth = |order: &[usize]| in_order(&events, order).mrr("eur");
    assert_eq!(worth(&[0, 1, 2, 3, 4]), worth(&[1, 0, 2, 3, 4]));
}

#[test]
fn a_correction_reaches_what_has_folded_or_says_that_it_does_not() {
    let state = |units| {
        let mut state = subscription("sub_1", "cus_1", &bare(&monthly("p", 0)));
        state.currency = Some(currency("usd"));
        state.items[0].quantity = Some(whole(units));
        state
    };
    let priced = |minor| Object::Price(Box::new(monthly("p", minor)));
    let mut script = Script::default();
    script.created(0, &state(1)).other(SNAPSHOT, DAY, priced(8_000)).updated(60 * DAY, &state(2));
    script.other("price.created", 61 * DAY, priced(10_000));
    let book = in_order(&script.events, &[0, 1, 2, 3]);
    let whole = Book::of(&script.events);
    assert_eq!(whole.mrr_at("usd", 0), "100.000000");
    let told = book.reasons().contains(&"history_folded");
    assert!(book.mrr_at("usd", 0) == "100.000000" || told, "{:?} {:?}", book.moved(), book.reasons());
}

#[test]
fn the_phases_of_the_oldest_schedules_have_plans() {
    let body = r#"{"id":"evt_1","object":"event","api_version":"2019-12-03","created":1767225600,"livemode":true,
        "type":"subscription_schedule.created","data":{"object":{"id":"sub_sched_1","object":"subscription_schedule",
        "customer":"cus_1","status":"not_started","phases":[{"start_date":1769904000,"end_date":null,
        "plans":[{"plan":{"id":"p","object":"plan","amount":5000,"currency":"usd","interval":"month",
        "interval_count":1,"usage_type":"licensed"},"quantity":2}]}]}}}"#;
    let event = read_event(body.as_bytes(), &scope().account, &mut UnknownCounts::default()).unwrap();
    let book = Book::of(&[event]);
    let rows: Vec<_> = book.scheduled.iter().map(|row| row.mrr.to_string()).collect();
    assert_eq!(rows, ["100.000000"]);
}

#[test]
fn a_look_at_a_customer_that_lost_its_discount_takes_it_away() {
    let customer = |discount: &str, rest: &str, second: i64| {
        let body = format!(
            r#"{{"id":"evt_{second}","object":"event","created":{},"livemode":true,"type":"customer.updated",
            "data":{{"object":{{"id":"cus_1","object":"customer","discount":{discount}}}{rest}}}}}"#,
            START + second
        );
        read_event(body.as_bytes(), &scope().account, &mut UnknownCounts::default()).unwrap()
    };
    let half = r#"{"id":"di_1","object":"discount","customer":"cus_1",
        "coupon":{"id":"half","object":"coupon","percent_off":50,"duration":"forever"}}"#;
    let mut script = Script::default();
    script.created(0, &subscription("sub_1", "cus_1", &monthly("p", 10_000)));
    let mut book = Book::of(&script.events);
    book.apply(&[customer(half, r#","previous_attributes":{"discount":null}"#, 10)]);
    assert_eq!(book.mrr("usd"), "50.000000");
    book.apply(&[customer("null", &format!(r#","previous_attributes":{{"discount":{half}}}"#), 20)]);
    assert_eq!(book.mrr("usd"), "100.000000");
}

#[test]
fn a_backdated_creation_that_comes_late_withdraws_the_state_from_before_the_log() {
    let begun = subscription("sub_1", "cus_1", &monthly("p", 10_000));
    let backdated = Subscription { start_date: Some(at(-45 * DAY)), ..begun };
    let mut script = Script::default();
    script.created(0, &backdated).updated(60, &backdated);
    for backdated_start in [BackdatedStart::EventTime, BackdatedStart::StartDate] {
        let mut book = Book::new(Rules { backdated_start, ..Rules::default() });
        for index in [1, 0] {
            book.apply(&script.events[index..=index]);
        }
        let counted = review::count(&book.states, &Rules::default(), at(DAY)).unwrap();
        let rows: Vec<_> = counted.entries.iter().map(|row| (row.event_time, &*row.change)).collect();
        assert_eq!(rows, [(at(0), "start")], "{backdated_start:?}");
    }
}

#[test]
fn a_backdated_subscription_changed_in_the_second_of_its_creation_counts_from_its_states_alike() {
    let begun = subscription("sub_1", "cus_1", &monthly("p", 10_000));
    let backdated = Subscription { start_date: Some(at(-45 * DAY)), ..begun };
    let mut more = backdated.clone();
    more.items[0].quantity = Some(whole(2));
    let mut script = Script::default();
    script.created(0, &backdated).updated(0, &more);
    let rules = Rules { backdated_start: BackdatedStart::StartDate, ..Rules::default() };
    let mut book = Book::new(rules.clone());
    book.apply(&script.events);
    let counted = review::count(&book.states, &rules, at(DAY)).unwrap();
    let rows = |rows: &[&LedgerEntry]| -> Vec<_> { rows.iter().map(|row| (row.event_time, row.mrr_delta)).collect() };
    assert_eq!(rows(&counted.entries.iter().collect::<Vec<_>>()), rows(&book.current()));
}

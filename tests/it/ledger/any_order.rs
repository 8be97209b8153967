//! Openings and item states are the same whatever came first: an example of each way in which they could differ.

use tributary::{
    ledger::{BackdatedStart, Profile, Rules, review, rows::flag},
    stripe::{
        own::{FILE, SNAPSHOT},
        types::*,
    },
};

use super::{book::*, histories::customer, properties::*};

fn plan() -> Subscription {
    subscription("sub_1", "cus_1", &monthly("p", 10_000))
}

/// With one item more.
fn with_more() -> Subscription {
    let mut both = plan();
    both.items.push(item("si_more", &monthly("more", 3_000), 1));
    both
}

fn half(ends: Option<i64>) -> Discount {
    let duration = if ends.is_some() { CouponDuration::Repeating } else { CouponDuration::Forever };
    let half = discount("di_half", &percent_off("half", 50, duration));
    Discount { customer: Some("cus_1".into()), end: ends.map(at), ..half }
}

/// As if nothing told what was before.
fn alone(script: &Script) -> Vec<Event> {
    script.events.iter().map(|event| Event { before: None, ..event.clone() }).collect()
}

/// Every order of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    (0..count).fold(vec![Vec::new()], |shorter, next| {
        let places = shorter.iter().flat_map(|order| (0..=order.len()).map(move |place| (order, place)));
        places
            .map(|(order, place)| {
                let mut longer = order.clone();
                longer.insert(place, next);
                longer
            })
            .collect()
    })
}

/// The book of the events as they are, which is that of every order, one by one.
fn in_every_order(rules: &Rules, events: &[Event]) -> Book {
    let straight = run(rules, events, &[1]);
    for order in orders(events.len()) {
        let shuffled: Vec<Event> = order.iter().map(|index| events[*index].clone()).collect();
        let crooked = run(rules, &shuffled, &[1]);
        assert_eq!(facts(&crooked), facts(&straight), "{order:?}");
        assert_eq!(lives(&crooked.states), lives(&straight.states), "{order:?}");
    }
    straight
}

fn removals(book: &Book) -> Vec<i64> {
    let removed = book.states.iter().filter(|row| row.flags.iter().any(|word| &**word == flag::REMOVED));
    removed.map(|row| row.valid_from.seconds() - START).collect()
}

#[test]
fn what_the_customer_had_before_an_opening_is_nothing() {
    let mut script = Script::default();
    script
        .other("customer.discount.created", 3 * DAY, Object::Discount(Box::new(half(None))))
        .other("customer.discount.deleted", 5 * DAY, Object::Discount(Box::new(half(None))))
        .updated(10 * DAY, &Subscription { trial_end: Some(at(9 * DAY)), ..plan() })
        .updated(20 * DAY, &plan());
    let book = in_every_order(&Rules::of(Profile::Chartmogul), &alone(&script));
    let opened = short(9 * DAY, "imported", "added_subscription", "100.000000 usd", "100.000000 usd");
    assert_eq!(book.moved(), [opened]);
}

#[test]
fn what_begins_after_its_customer_was_deleted_counts_for_nothing() {
    for deleted in [-DAY, 0] {
        let mut script = Script::default();
        let customer = customer(&plan(), true);
        script.other("customer.deleted", deleted, Object::Customer(customer));
        script.updated(5 * DAY, &plan()).updated(7 * DAY, &with_more());
        assert!(in_every_order(&Rules::default(), &alone(&script)).moved().is_empty());
    }
}

#[test]
fn an_item_goes_once_however_late_that_is_known() {
    let two = |state: Subscription| {
        let mut more = state;
        more.items[0].quantity = Some(whole(2));
        more
    };
    let mut script = Script::default();
    script.created(DAY, &with_more()).updated(3 * DAY, &plan()).updated(5 * DAY, &two(plan()));
    assert_eq!(removals(&in_every_order(&Rules::default(), &script.events)), [3 * DAY]);
    assert_eq!(removals(&in_every_order(&Rules::default(), &alone(&script))), [3 * DAY]);
}

#[test]
fn an_item_that_was_never_there_did_not_go() {
    let mut script = Script::default();
    script.created(DAY, &plan()).updated(2 * DAY, &with_more()).updated(3 * DAY, &plan());
    // What added the item is lost.
    script.events.remove(1);
    assert!(removals(&in_every_order(&Rules::default(), &script.events)).is_empty());
}

#[test]
fn an_item_is_known_to_have_gone_when_it_is_known_to_have_been_there() {
    let mut script = Script::default();
    for item in with_more().items {
        script.other("price.created", 0, Object::Price(Box::new(item.price)));
    }
    script.updated(3 * DAY, &plan()).created(DAY, &with_more());
    let book = run(&Rules::default(), &alone(&script), &[1]);
    let went = book.states.iter().find(|row| row.flags.iter().any(|word| &**word == flag::REMOVED)).unwrap();
    assert_eq!(went.known_at, book.now());
}

#[test]
fn an_item_that_went_says_what_its_subscription_was_at_the_end_of_that_second() {
    let leaving = Subscription { cancel_at_period_end: true, ..plan() };
    let mut script = Script::default();
    script.created(DAY, &with_more()).updated(3 * DAY, &plan()).updated(3 * DAY, &leaving);
    let book = in_every_order(&Rules::default(), &script.events);
    let flags = |id: &str| {
        let of_item = book.states.iter().rfind(|row| row.subscription_item_id.as_str() == id).unwrap();
        of_item.flags.iter().map(|word| word.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(flags("si_sub_1"), ["cancel_scheduled"]);
    assert_eq!(flags("si_more"), ["cancel_scheduled", "removed"]);
}

#[test]
fn a_cadence_that_is_corrected_is_another_state() {
    let yearly = price("p", 12_000, Interval::Year, 1);
    let wrong = price("p", 12_000, Interval::Month, 1);
    let by_id = Subscription { currency: Some(currency("usd")), ..subscription("sub_1", "cus_1", &bare(&yearly)) };
    let mut script = Script::default();
    script.other(FILE, 0, Object::Price(Box::new(wrong))).created(DAY, &by_id).other(
        "price.created",
        2 * DAY,
        Object::Price(Box::new(yearly)),
    );
    let book = in_every_order(&Rules::default(), &script.events);
    let again = review::count(&book.states, &Rules::default(), at(3 * DAY)).unwrap();
    let worth: Vec<_> = again.entries.iter().map(|entry| entry.mrr_delta).collect();
    assert_eq!((worth, book.mrr("usd")), (vec![amount("10")], "10.000000".to_owned()));
}

#[test]
fn states_begin_with_the_creation_wherever_the_rules_begin_to_count() {
    let discounts = vec![full(&half(Some(5 * DAY)))];
    let mut script = Script::default();
    script.created(10 * DAY, &Subscription { discounts, ..plan() });
    for backdated_start in [BackdatedStart::StartDate, BackdatedStart::EventTime] {
        let rules = Rules { backdated_start, ..Rules::of(Profile::Chartmogul) };
        let book = run(&rules, &script.events, &[]);
        let from: Vec<_> = book.states.iter().map(|row| row.valid_from.seconds() - START).collect();
        assert_eq!(from, [10 * DAY]);
    }
}

#[test]
fn what_a_beginning_rests_on_stays_while_a_discount_is_awaited() {
    let customer = Customer { discounts: vec![DiscountRef::Id("di_half".into())], ..customer(&plan(), false) };
    let seen = Subscription { start_date: Some(at(-50 * DAY)), ..plan() };
    let look = || Object::Subscription(Box::new(seen.clone()));
    let mut script = Script::default();
    script
        .other("customer.updated", 60, Object::Customer(customer))
        .other(SNAPSHOT, 120, look())
        .other(SNAPSHOT, 180, look())
        .updated(7 * DAY, &Subscription { cancel_at_period_end: true, ..seen.clone() })
        .updated(31 * DAY, &seen)
        .other("customer.discount.updated", 32 * DAY, Object::Discount(Box::new(half(None))));
    let book = run(&Rules::default(), &script.events, &[1]);
    let opening = book.current()[0];
    assert_eq!((&*opening.change, &opening.event_ids), ("imported", &vec![script.events[1].id.clone()]));
}

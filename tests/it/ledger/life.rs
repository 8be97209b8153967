//! A subscription's life: statuses, cancellations, pauses, deletion, first sight in mid-life, late knowledge.

use tributary::{
    ledger::{Profile, Rules, rows::MovementKind},
    stripe::{UnknownCounts, read_event, types::*},
};

use super::book::*;

fn plan() -> Subscription {
    subscription("sub_1", "cus_1", &monthly("p", 10_000))
}

fn with_status(status: SubscriptionStatus) -> Subscription {
    Subscription { status, ..plan() }
}

fn kinds(book: &Book) -> Vec<(&'static str, &'static str)> {
    book.moved().into_iter().map(|(_, kind, cause, ..)| (kind, cause)).collect()
}

#[test]
fn a_cancellation_at_the_periods_end_leaves_at_the_request_and_returns_when_taken_back() {
    let asked = Subscription { cancel_at_period_end: true, ..plan() };
    let mut script = Script::default();
    script.created(0, &plan()).updated(DAY, &asked).updated(3 * DAY, &plan()).updated(5 * DAY, &asked);
    script.deleted(20 * DAY, &asked);
    let book = Book::of(&script.events);
    assert_eq!(
        kinds(&book),
        [("new", "added_subscription"), ("churn", "canceled"), ("reactivation", "uncanceled"), ("churn", "canceled")]
    );
    let mut at_end = Book::new(Rules::of(Profile::Profitwell));
    at_end.apply(&script.events);
    assert_eq!(kinds(&at_end), [("new", "added_subscription"), ("churn", "canceled")]);
    assert_eq!(at_end.mrr_at("usd", 19 * DAY), "100.000000");
}

#[test]
fn cancel_at_within_the_period_is_a_cancellation_and_beyond_it_a_term() {
    let mut running = plan();
    running.items[0].current_period_end = Some(at(30 * DAY));
    let portal = Subscription { cancel_at: Some(at(30 * DAY)), ..running.clone() };
    let term = Subscription { cancel_at: Some(at(300 * DAY)), ..running.clone() };
    let worth = |subscription: &Subscription| {
        let mut script = Script::default();
        script.created(0, &running).updated(DAY, subscription);
        Book::of(&script.events).mrr("usd")
    };
    assert_eq!(worth(&portal), "0.000000");
    assert_eq!(worth(&term), "100.000000");
}

#[test]
fn each_status_is_in_or_out() {
    use SubscriptionStatus::{
        Active, Canceled, Incomplete, IncompleteExpired, Other, PastDue, Paused, Trialing, Unpaid,
    };
    for (status, cause) in [
        (Trialing, Some("trial_started")),
        (Unpaid, Some("payment_failure")),
        (Canceled, Some("canceled")),
        (Paused, Some("pause")),
        (Incomplete, Some("canceled")),
        (IncompleteExpired, Some("canceled")),
        (Other("suspended".into()), Some("canceled")),
        (Active, None),
        (PastDue, None),
    ] {
        let mut script = Script::default();
        script.created(0, &plan()).updated(DAY, &with_status(status.clone()));
        let book = Book::of(&script.events);
        let left: Vec<_> = book.moved().split_off(1).into_iter().map(|(_, kind, cause, ..)| (kind, cause)).collect();
        assert_eq!(left, cause.map(|cause| ("churn", cause)).into_iter().collect::<Vec<_>>(), "{status:?}");
        assert_eq!(book.reasons().contains(&"status_unknown"), matches!(status, Other(_)));
    }
}

#[test]
fn a_pause_leaves_and_returns_and_paused_collection_stays_in() {
    let mut script = Script::default();
    script.created(0, &plan()).updated(DAY, &with_status(SubscriptionStatus::Paused)).updated(2 * DAY, &plan());
    script.updated(3 * DAY, &Subscription { pause_collection: Some("void".into()), ..plan() });
    let book = Book::of(&script.events);
    assert_eq!(kinds(&book), [("new", "added_subscription"), ("churn", "pause"), ("reactivation", "resume")]);
    assert_eq!(book.mrr("usd"), "100.000000");
    assert_eq!(book.states.last().unwrap().flags, ["collection_paused".into()]);
}

#[test]
fn an_end_by_failed_payment_says_so() {
    let mut script = Script::default();
    let failed = Subscription { cancellation_reason: Some("payment_failed".into()), ..plan() };
    script.created(0, &plan()).deleted(DAY, &failed);
    assert_eq!(kinds(&Book::of(&script.events))[1], ("churn", "payment_failure"));
    let mut script = Script::default();
    let paused =
        Subscription { pause_reason: Some("payment_failed".into()), ..with_status(SubscriptionStatus::Paused) };
    script.created(0, &plan()).updated(DAY, &paused);
    assert_eq!(kinds(&Book::of(&script.events))[1], ("churn", "payment_failure"));
}

#[test]
fn a_second_subscription_is_expansion_and_only_the_last_end_is_churn() {
    let second = subscription("sub_2", "cus_1", &monthly("q", 5_000));
    let mut script = Script::default();
    script.created(0, &plan()).created(DAY, &second).deleted(2 * DAY, &plan()).deleted(3 * DAY, &second);
    let book = Book::of(&script.events);
    assert_eq!(
        kinds(&book),
        [
            ("new", "added_subscription"),
            ("expansion", "added_subscription"),
            ("contraction", "canceled"),
            ("churn", "canceled")
        ]
    );
}

#[test]
fn a_full_discount_is_churn_under_stripe() {
    let free = discount("di_1", &percent_off("all", 100, CouponDuration::Forever));
    let mut script = Script::default();
    script.created(0, &plan()).updated(DAY, &Subscription { discounts: vec![full(&free)], ..plan() });
    script.updated(2 * DAY, &plan());
    let book = Book::of(&script.events);
    assert_eq!(
        kinds(&book),
        [("new", "added_subscription"), ("churn", "discount_start"), ("reactivation", "discount_end")]
    );
}

#[test]
fn metered_items_are_out_and_their_base_fee_is_in() {
    let metered = Price { metered: true, ..monthly("usage", 2) };
    let mut both = plan();
    both.items.push(SubscriptionItem { quantity: None, ..item("si_usage", &metered, 1) });
    let mut script = Script::default();
    script.created(0, &both);
    let book = Book::of(&script.events);
    assert_eq!(book.mrr("usd"), "100.000000");
    assert_eq!(book.states[1].flags, ["metered".into()]);
    assert_eq!(book.states[1].quantity, None);
}

#[test]
fn credits_are_negative_items_and_the_subscription_is_never_below_nothing() {
    let mut credited = plan();
    credited.items.push(item("si_credit", &monthly("credit", -3_000), 1));
    let mut script = Script::default();
    script.created(0, &credited);
    assert_eq!(Book::of(&script.events).mrr("usd"), "70.000000");
    credited.items[1] = item("si_credit", &monthly("credit_2", -13_000), 1);
    let mut script = Script::default();
    script.created(0, &credited);
    assert_eq!(Book::of(&script.events).mrr("usd"), "0.000000");
}

#[test]
fn something_first_seen_in_mid_life_is_imported_and_never_new() {
    let two = Subscription { items: vec![item("si_sub_1", &monthly("p", 10_000), 2)], ..plan() };
    let mut script = Script::default();
    script
        .created(0, &plan())
        .updated(100 * DAY, &two)
        .deleted(110 * DAY, &two)
        .created(120 * DAY, &{ subscription("sub_2", "cus_1", &monthly("p", 10_000)) });
    let book = Book::of(&script.events[1..]);
    assert_eq!(
        book.moved(),
        [
            short(0, "imported", "added_subscription", "100.000000 usd", "100.000000 usd"),
            short(100 * DAY, "expansion", "quantity_change", "100.000000 usd", "200.000000 usd"),
            short(110 * DAY, "churn", "canceled", "-200.000000 usd", "0.000000 usd"),
            short(120 * DAY, "reactivation", "added_subscription", "100.000000 usd", "100.000000 usd"),
        ]
    );
    assert_eq!(&*book.states[0].provenance, "reconstructed");
}

#[test]
fn a_creation_that_arrives_late_turns_imported_into_new() {
    let two = Subscription { items: vec![item("si_sub_1", &monthly("p", 10_000), 2)], ..plan() };
    let mut script = Script::default();
    script.created(0, &plan()).updated(10 * DAY, &two);
    let mut book = Book::new(Rules::default());
    book.apply(&script.events[1..]);
    assert_eq!(kinds(&book)[0].0, "imported");
    book.apply(&script.events[..1]);
    assert_eq!(
        book.moved(),
        [
            short(0, "new", "added_subscription", "100.000000 usd", "100.000000 usd"),
            short(10 * DAY, "expansion", "quantity_change", "100.000000 usd", "200.000000 usd"),
        ]
    );
    assert_eq!(book.current().len(), 2);
}

#[test]
fn a_trial_that_is_extended_is_another_state() {
    let until = |days| Subscription { trial_end: Some(at(days * DAY)), ..with_status(SubscriptionStatus::Trialing) };
    let mut script = Script::default();
    script.created(0, &until(7)).updated(DAY, &until(7)).updated(2 * DAY, &until(14));
    let book = Book::of(&script.events);
    let ends: Vec<_> = book.states.iter().map(|row| (row.valid_from, row.trial_end)).collect();
    assert_eq!(ends, [(at(0), Some(at(7 * DAY))), (at(2 * DAY), Some(at(14 * DAY)))]);
}

#[test]
fn an_opening_that_goes_back_to_where_it_was_is_written_anew() {
    let resumed = |seconds| Subscription { trial_end: Some(at(seconds)), ..plan() };
    let mut script = Script::default();
    script.updated(8 * DAY, &plan()).updated(10 * DAY, &resumed(9 * DAY)).updated(20 * DAY, &plan());
    let opens = |book: &Book| book.moved()[0].0;
    let mut book = Book::new(Rules::default());
    let [first, second, third] = script.events.as_slice() else { unreachable!() };
    let alone = |event: &Event| Event { before: None, ..event.clone() };
    book.apply(&[alone(third)]);
    assert_eq!(opens(&book), 0);
    book.apply(&[alone(second)]);
    assert_eq!(opens(&book), 9 * DAY, "its trial was over by then");
    book.apply(&[alone(first)]);
    assert_eq!(opens(&book), 0);
    assert_eq!((book.entries.len(), book.current().len()), (5, 1), "two are reversed");
}

#[test]
fn a_price_that_arrives_later_takes_effect_at_the_right_time() {
    let known = monthly("p", 10_000);
    let bare_plan = subscription("sub_1", "cus_1", &bare(&known));
    let bare_plan = Subscription { currency: Some(currency("usd")), ..bare_plan };
    let mut script = Script::default();
    script
        .created(0, &bare_plan)
        .updated(DAY, &Subscription { items: vec![item("si_sub_1", &bare(&known), 3)], ..bare_plan });
    let mut book = Book::of(&script.events);
    assert_eq!(book.mrr("usd"), "0.000000");
    assert_eq!(book.reasons(), ["price_unknown"]);
    // Even after the history would have folded.
    let mut later = Script::default();
    later.updated(90 * DAY, &Subscription { items: vec![item("si_sub_1", &bare(&known), 3)], ..plan() });
    later.events[0].id = "evt_later".into();
    book.apply(&later.events);
    book.apply(&[event("evt_price", "price.created", 91 * DAY, Object::Price(Box::new(known)))]);
    assert_eq!(
        book.moved(),
        [
            short(0, "new", "added_subscription", "100.000000 usd", "100.000000 usd"),
            short(DAY, "expansion", "quantity_change", "200.000000 usd", "300.000000 usd"),
        ]
    );
}

#[test]
fn tiers_are_never_erased_by_a_body_without_them() {
    let tiers = vec![Tier { up_to: None, unit_amount: whole(300), flat_amount: whole(0) }];
    let tiered =
        Price { unit_amount: None, tiers_mode: Some(TiersMode::Graduated), tiers: Some(tiers), ..monthly("t", 0) };
    let stripped = Price { tiers: None, ..tiered.clone() };
    let mut script = Script::default();
    script.created(0, &subscription("sub_1", "cus_1", &stripped));
    let mut book = Book::of(&script.events);
    assert_eq!(book.reasons(), ["tiers_unknown"]);
    book.apply(&[event("evt_p", "price.updated", DAY, Object::Price(Box::new(tiered)))]);
    book.apply(&[event("evt_q", "price.updated", 2 * DAY, Object::Price(Box::new(stripped)))]);
    assert_eq!(book.mrr("usd"), "3.000000");
    let other = monthly("t", 999);
    book.apply(&[event("evt_r", "price.updated", 3 * DAY, Object::Price(Box::new(other)))]);
    assert_eq!(book.mrr("usd"), "3.000000");
}

#[test]
fn another_price_for_the_same_id_is_refused_and_reported() {
    let mut script = Script::default();
    script.created(0, &plan()).other("price.updated", DAY, Object::Price(Box::new(monthly("p", 77))));
    let book = Book::of(&script.events);
    assert_eq!((book.mrr("usd").as_str(), book.reasons()), ("100.000000", vec!["price_conflict"]));
}

#[test]
fn a_currency_of_a_price_is_its_own_amount_or_a_gap() {
    let euros =
        |price: &Price| Subscription { currency: Some(currency("eur")), ..subscription("sub_1", "cus_1", price) };
    let mut script = Script::default();
    script.created(0, &euros(&monthly("p", 10_000)));
    let book = Book::of(&script.events);
    assert_eq!((book.mrr("eur").as_str(), book.reasons()), ("0.000000", vec!["currency_unknown"]));
    let mut priced = monthly("p", 10_000);
    priced.currency_options.insert(currency("eur"), whole(9_000));
    let mut script = Script::default();
    script.created(0, &euros(&priced));
    assert_eq!(Book::of(&script.events).mrr("eur"), "90.000000");
}

#[test]
fn a_discount_known_only_by_id_counts_when_it_is_known() {
    let half = discount("di_1", &percent_off("half", 50, CouponDuration::Forever));
    let discounted = Subscription { discounts: vec![DiscountRef::Id("di_1".into())], ..plan() };
    let mut script = Script::default();
    script.created(0, &discounted);
    let mut book = Book::of(&script.events);
    assert_eq!((book.mrr("usd").as_str(), book.reasons()), ("100.000000", vec!["discount_unresolved"]));
    let mut on_subscription = half.clone();
    on_subscription.subscription = Some("sub_1".into());
    on_subscription.customer = Some("cus_1".into());
    book.apply(&[event("evt_d", "customer.discount.created", 0, Object::Discount(Box::new(on_subscription)))]);
    assert_eq!(book.mrr("usd"), "50.000000");
    assert_eq!(book.current().len(), 1);
    assert_eq!(book.entries.len(), 3, "written, reversed, written again");
}

#[test]
fn a_customers_discount_holds_where_a_subscription_has_none_of_its_own() {
    let mut half = discount("di_1", &percent_off("half", 50, CouponDuration::Forever));
    half.customer = Some("cus_1".into());
    let tenth = discount("di_2", &percent_off("tenth", 10, CouponDuration::Forever));
    let own = Subscription { discounts: vec![full(&tenth)], ..subscription("sub_2", "cus_1", &monthly("q", 10_000)) };
    let mut script = Script::default();
    script.created(0, &plan()).created(0, &own);
    script.other("customer.discount.created", DAY, Object::Discount(Box::new(half.clone())));
    script.other("customer.discount.deleted", 2 * DAY, Object::Discount(Box::new(half)));
    let changes = [(1, "new"), (2, "contraction"), (3, "expansion")];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let mut book = Book::new(Rules::default());
        for index in order {
            book.apply(&script.events[index..=index]);
        }
        assert_eq!(book.mrr_at("usd", 0), "190.000000");
        assert_eq!(book.mrr_at("usd", DAY), "140.000000");
        assert_eq!(book.mrr_at("usd", 2 * DAY), "190.000000");
        assert_eq!(book.movements.len(), changes.len());
    }
}

#[test]
fn a_deleted_customer_ends_everything_once_and_stays_deleted() {
    let gone = Customer {
        id: "cus_1".into(),
        created: None,
        currency: None,
        delinquent: None,
        discounts: Vec::new(),
        deleted: true,
    };
    let two = Subscription { items: vec![item("si_sub_1", &monthly("p", 10_000), 2)], ..plan() };
    let mut script = Script::default();
    script.created(0, &plan()).updated(DAY, &two);
    script.other("customer.deleted", 3 * DAY, Object::Customer(gone)).deleted(3 * DAY, &two);
    for order in [[0, 1, 2, 3], [0, 3, 2, 1], [2, 0, 3, 1], [2, 3, 1, 0]] {
        let mut book = Book::new(Rules::default());
        for index in order {
            book.apply(&script.events[index..=index]);
        }
        let churn: Vec<_> = book.movements.values().filter(|row| row.kind == MovementKind::Churn).collect();
        assert_eq!(churn.len(), 1);
        assert_eq!((churn[0].mrr_delta, churn[0].occurred_at), (amount("-200"), at(3 * DAY)));
        assert_eq!(book.mrr("usd"), "0.000000");
    }
}

#[test]
fn what_is_older_than_the_folded_base_is_late_and_told() {
    let two = Subscription { items: vec![item("si_sub_1", &monthly("p", 10_000), 2)], ..plan() };
    let mut script = Script::default();
    script.created(0, &plan()).updated(DAY, &two).updated(40 * DAY, &two);
    let mut book = Book::new(Rules::default());
    book.apply(&[script.events[0].clone(), script.events[2].clone()]);
    book.apply(&script.events[1..2]);
    assert_eq!(book.late.len(), 1);
    assert_eq!(book.late[0].event_id, script.events[1].id);
    // While an import runs nothing is late.
    let mut import = Book::new(Rules::default());
    import.ledger.set_folding(false);
    import.apply(&[script.events[0].clone(), script.events[2].clone()]);
    import.apply(&script.events[1..2]);
    assert!(import.late.is_empty());
    assert_eq!(import.moved()[1], short(DAY, "expansion", "quantity_change", "100.000000 usd", "200.000000 usd"));
}

#[test]
fn truncated_items_are_a_gap() {
    let mut script = Script::default();
    script.created(0, &Subscription { items_truncated: true, ..plan() });
    assert_eq!(Book::of(&script.events).reasons(), ["items_truncated"]);
}

#[test]
fn the_clock_of_a_scope_spans_its_events() {
    let mut script = Script::default();
    script.created(5 * DAY, &plan()).other("ping", 9 * DAY, Object::Other("ping".into()));
    script.other("ping", DAY, Object::Other("ping".into()));
    let book = Book::of(&script.events);
    assert_eq!(book.ledger.clock().collect::<Vec<_>>(), [(scope(), at(DAY), at(9 * DAY))]);
}

#[test]
fn under_chartmogul_a_free_customer_stays() {
    let free = discount("di_1", &percent_off("all", 100, CouponDuration::Once));
    let discounted = Subscription { discounts: vec![full(&free)], ..plan() };
    let mut script = Script::default();
    script.created(0, &discounted).updated(DAY, &plan()).updated(2 * DAY, &discounted).updated(3 * DAY, &plan());
    script.deleted(4 * DAY, &plan());
    let mut book = Book::new(Rules::of(Profile::Chartmogul));
    book.apply(&script.events);
    assert_eq!(
        kinds(&book),
        [
            ("new", "discount_end"),
            ("contraction", "discount_start"),
            ("expansion", "discount_end"),
            ("churn", "canceled")
        ]
    );
}

#[test]
fn an_absurd_amount_is_a_gap_and_never_stops_the_ledger() {
    let absurd =
        Price { unit_amount: Some(tributary::money::parse_decimal(&"9".repeat(60)).unwrap()), ..monthly("p", 0) };
    let mut script = Script::default();
    script
        .created(0, &subscription("sub_1", "cus_1", &absurd))
        .created(DAY, &{ subscription("sub_2", "cus_1", &monthly("q", 10_000)) });
    let book = Book::of(&script.events);
    assert_eq!((book.mrr("usd").as_str(), book.reasons()), ("100.000000", vec!["amount_too_large"]));
}

#[test]
fn a_tombstone_is_not_resurrected() {
    let mut script = Script::default();
    script.created(0, &plan()).deleted(3 * DAY, &plan()).updated(3 * DAY, &plan()).updated(4 * DAY, &plan());
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 3, 1]] {
        let mut book = Book::new(Rules::default());
        for index in order {
            book.apply(&script.events[index..=index]);
        }
        assert_eq!(kinds(&book), [("new", "added_subscription"), ("churn", "canceled")]);
        assert_eq!(book.mrr("usd"), "0.000000");
    }
}

fn customer(discounts: Vec<DiscountRef>) -> Customer {
    Customer { id: "cus_1".into(), created: None, currency: None, delinquent: None, discounts, deleted: false }
}

fn customer_told(id: &str, seconds: i64, now: Vec<DiscountRef>, before: Option<Vec<DiscountRef>>) -> Event {
    let before = before.map(|discounts| Box::new(Object::Customer(customer(discounts))));
    Event { before, ..event(id, "customer.updated", seconds, Object::Customer(customer(now))) }
}

/// A discount of the customer of half the price, or of another share.
fn of_customer(id: &str, percent: i64, start: Option<i64>) -> Discount {
    let coupon = percent_off(&format!("{percent}_off"), percent, CouponDuration::Forever);
    Discount { customer: Some("cus_1".into()), start: start.map(at), ..discount(id, &coupon) }
}

/// What the book says in every order of arrival, and in one batch.
fn in_any_order(events: &[Event]) -> Vec<Short> {
    let book = Book::of(events).moved();
    let count = events.len();
    for first in 0..count {
        for step in [1, count - 1] {
            let mut one_by_one = Book::new(Rules::default());
            for place in 0..count {
                let index = (first + place * step) % count;
                one_by_one.apply(&events[index..=index]);
            }
            assert_eq!(one_by_one.moved(), book, "from {first} by {step}");
        }
    }
    book
}

/// First seen on day 10, in mid-life.
fn seen_in_mid_life() -> Event {
    let mut script = Script::default();
    script.created(0, &plan()).updated(10 * DAY, &plan());
    script.events.pop().unwrap()
}

#[test]
fn a_customers_old_discount_that_is_first_seen_later_held_since_it_began() {
    let old = of_customer("di_1", 50, Some(-400 * DAY));
    let halved = [short(0, "imported", "added_subscription", "50.000000 usd", "50.000000 usd")];
    let events = [seen_in_mid_life(), customer_told("evt_c", 20 * DAY, vec![full(&old)], None)];
    assert_eq!(in_any_order(&events), halved);
    // By its id alone, in the shapes that have many: what it is and when it began is told elsewhere.
    let elsewhere = Discount { subscription: Some("sub_9".into()), ..old.clone() };
    let by_id = customer_told("evt_c", 20 * DAY, vec![DiscountRef::Id("di_1".into())], None);
    let told = event("evt_d", "customer.discount.created", 21 * DAY, Object::Discount(Box::new(elsewhere)));
    assert_eq!(in_any_order(&[seen_in_mid_life(), by_id, told]), halved);
    // Its end, and a switch to another, tell the same of the time before.
    let ended = event("evt_e", "customer.discount.deleted", 20 * DAY, Object::Discount(Box::new(old.clone())));
    assert_eq!(
        in_any_order(&[seen_in_mid_life(), ended]),
        [halved[0].clone(), short(20 * DAY, "expansion", "discount_end", "50.000000 usd", "100.000000 usd")]
    );
    let tenth = of_customer("di_2", 10, Some(20 * DAY));
    let mut switched = event("evt_s", "customer.discount.updated", 20 * DAY, Object::Discount(Box::new(tenth)));
    switched.before = Some(Box::new(Object::Discount(Box::new(old.clone()))));
    assert_eq!(
        in_any_order(&[seen_in_mid_life(), switched]),
        [halved[0].clone(), short(20 * DAY, "expansion", "discount_end", "40.000000 usd", "90.000000 usd")]
    );
}

#[test]
fn a_customers_discount_that_began_between_is_dated_at_its_start_and_never_before_what_was_told() {
    let list = short(0, "imported", "added_subscription", "100.000000 usd", "100.000000 usd");
    let between = customer_told("evt_c", 20 * DAY, vec![full(&of_customer("di_1", 50, Some(15 * DAY)))], None);
    assert_eq!(
        in_any_order(&[seen_in_mid_life(), between]),
        [list.clone(), short(15 * DAY, "contraction", "discount_start", "-50.000000 usd", "50.000000 usd")]
    );
    // Before the first snapshot too, and not where its creation, told last, shows that it was not there yet.
    let early = customer_told("evt_c", 20 * DAY, vec![full(&of_customer("di_1", 50, Some(5 * DAY)))], None);
    let events = [seen_in_mid_life(), early];
    assert_eq!(
        in_any_order(&events),
        [list.clone(), short(5 * DAY, "contraction", "discount_start", "-50.000000 usd", "50.000000 usd")]
    );
    let mut script = Script::default();
    script.created(7 * DAY, &plan());
    let [seen, early] = events;
    assert_eq!(
        in_any_order(&[seen, early, script.events.remove(0)]),
        [short(7 * DAY, "new", "added_subscription", "50.000000 usd", "50.000000 usd")]
    );
    // On day 12 it was said to have none: whatever its start says, it had none before.
    let tenth = full(&of_customer("di_2", 10, Some(-DAY)));
    let none = customer_told("evt_n", 12 * DAY, vec![], Some(vec![tenth]));
    let old = customer_told("evt_c", 20 * DAY, vec![full(&of_customer("di_1", 50, Some(-400 * DAY)))], None);
    assert_eq!(
        in_any_order(&[seen_in_mid_life(), none, old]),
        [
            short(0, "imported", "added_subscription", "90.000000 usd", "90.000000 usd"),
            short(12 * DAY, "expansion", "discount_end", "10.000000 usd", "100.000000 usd"),
            short(20 * DAY, "contraction", "discount_start", "-50.000000 usd", "50.000000 usd"),
        ]
    );
}

#[test]
fn a_customer_without_a_discount_any_more_pays_the_list_price_again() {
    let half = full(&of_customer("di_1", 50, Some(DAY)));
    let mut script = Script::default();
    script.created(0, &plan());
    let mut events = script.events;
    events.push(customer_told("evt_a", DAY, vec![half.clone()], Some(vec![])));
    events.push(customer_told("evt_b", 2 * DAY, vec![], Some(vec![half])));
    assert_eq!(
        in_any_order(&events)[1..],
        [
            short(DAY, "contraction", "discount_start", "-50.000000 usd", "50.000000 usd"),
            short(2 * DAY, "expansion", "discount_end", "50.000000 usd", "100.000000 usd"),
        ]
    );
}

#[test]
fn a_customer_that_is_switched_to_another_coupon_has_that_one_alone() {
    let told = |id: &str, kind: &str, days: i64, discount: &Discount| {
        event(id, kind, days * DAY, Object::Discount(Box::new(discount.clone())))
    };
    let half = of_customer("di_1", 50, Some(DAY));
    for (name, after) in
        [("di_2", of_customer("di_2", 20, Some(2 * DAY))), ("di_1", of_customer("di_1", 20, Some(2 * DAY)))]
    {
        for knows_before in [true, false] {
            let mut script = Script::default();
            script.created(0, &plan());
            let mut events = script.events;
            events.push(told("evt_a", "customer.discount.created", 1, &half));
            let mut switched = told("evt_b", "customer.discount.updated", 2, &after);
            switched.before = knows_before.then(|| Box::new(Object::Discount(Box::new(half.clone()))));
            events.push(switched);
            events.push(told("evt_c", "customer.discount.deleted", 3, &after));
            assert_eq!(
                in_any_order(&events)[1..],
                [
                    short(DAY, "contraction", "discount_start", "-50.000000 usd", "50.000000 usd"),
                    short(2 * DAY, "expansion", "discount_end", "30.000000 usd", "80.000000 usd"),
                    short(3 * DAY, "expansion", "discount_end", "20.000000 usd", "100.000000 usd"),
                ],
                "{name} {knows_before}"
            );
            assert_eq!(Book::of(&events).reasons(), Vec::<&str>::new(), "{name} {knows_before}");
        }
    }
}

#[test]
fn an_item_state_is_not_known_before_its_discount_and_its_coupon() {
    let half = percent_off("half", 50, CouponDuration::Forever);
    let by_id = Discount {
        coupon: CouponRef::Id("half".into()),
        subscription: Some("sub_1".into()),
        ..discount("di_1", &half)
    };
    let mut script = Script::default();
    script.created(0, &Subscription { discounts: vec![DiscountRef::Id("di_1".into())], ..plan() });
    script.other("customer.discount.created", 0, Object::Discount(Box::new(by_id)));
    script.other("coupon.created", 0, Object::Coupon(half));
    // Whether one record is read at a time or all at once, the coupon is the last that the state rests on.
    let mut one_by_one = Book::new(Rules::default());
    script.events.iter().for_each(|event| one_by_one.apply(std::slice::from_ref(event)));
    for book in [Book::of(&script.events), one_by_one] {
        let state = book.states.last().unwrap();
        assert!(state.discounts[0].terms.is_some());
        assert_eq!(state.known_at, book.now());
        assert_eq!(book.current()[0].known_at, book.now());
    }
}

#[test]
fn a_currency_that_stripe_does_not_charge_in_is_a_gap_and_never_two_places() {
    let body = |currency: &str| {
        let price = format!(
            r#"{{"id":"p","object":"price","currency":"{currency}","unit_amount":10000,
                "recurring":{{"interval":"month","interval_count":1,"usage_type":"licensed"}}}}"#
        );
        format!(
            r#"{{"id":"evt_1","object":"event","type":"customer.subscription.created","created":{},"livemode":true,
                "data":{{"object":{{"id":"sub_1","object":"subscription","customer":"cus_1","status":"active",
                "currency":"{currency}","items":{{"data":[{{"id":"si_1","price":{price},"quantity":1}}]}}}}}}}}"#,
            at(0).seconds()
        )
    };
    let read = |currency: &str| {
        let mut unknown = UnknownCounts::default();
        let event = read_event(body(currency).as_bytes(), &"acct_1".into(), &mut unknown).unwrap();
        (Book::of(&[event]), unknown)
    };
    let (book, unknown) = read("xyz");
    assert_eq!((book.entries.len(), book.reasons()), (0, vec!["currency_unknown"]));
    assert_eq!(unknown.get("price.currency=xyz"), 1);
    assert_eq!(book.states.len(), 1, "its states are kept");
    for (code, amount) in [("usd", "100.000000"), ("jpy", "10000.000000"), ("kwd", "10.000000"), ("ugx", "100.000000")]
    {
        assert_eq!(read(code).0.mrr(code), amount);
    }
}

#[test]
fn the_leading_cause_is_the_first_that_led_the_way_the_movement_went() {
    let dear = subscription("sub_2", "cus_1", &monthly("q", 15_000));
    let mut script = Script::default();
    script.created(0, &plan()).deleted(DAY, &plan()).created(DAY, &dear);
    let book = Book::of(&script.events);
    assert_eq!(book.moved()[1], short(DAY, "expansion", "added_subscription", "50.000000 usd", "150.000000 usd"));
    let movement = book.movements.values().find(|row| row.occurred_at == at(DAY)).unwrap();
    let causes: Vec<_> = movement.causes.iter().map(|cause| cause.as_str()).collect();
    assert_eq!(causes, ["added_subscription", "canceled", "removed_subscription"], "the leading one first");
}

#[test]
fn a_subscription_that_is_gone_was_removed_and_one_that_pauses_was_not() {
    let second = subscription("sub_2", "cus_1", &monthly("q", 5_000));
    let causes_of = |script: &Script| {
        let book = Book::of(&script.events);
        let movement = book.movements.values().find(|row| row.occurred_at == at(DAY)).unwrap().clone();
        movement.causes.iter().map(|cause| cause.as_str()).collect::<Vec<_>>()
    };
    let mut script = Script::default();
    script.created(0, &plan()).created(0, &second).deleted(DAY, &plan());
    assert_eq!(causes_of(&script), ["canceled", "removed_subscription"]);
    let failed = Subscription { cancellation_reason: Some("payment_failed".into()), ..plan() };
    let mut script = Script::default();
    script.created(0, &plan()).created(0, &second).deleted(DAY, &failed);
    assert_eq!(causes_of(&script), ["payment_failure", "removed_subscription"]);
    let mut script = Script::default();
    script.created(0, &plan()).created(0, &second).updated(DAY, &with_status(SubscriptionStatus::Paused));
    assert_eq!(causes_of(&script), ["pause"]);
}

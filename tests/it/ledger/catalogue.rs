//! Prices, products and coupons by reference: every way in, whom to believe, and that nothing of it rewrites history.

use tributary::{
    ledger::{Rules, rows::MovementKind},
    stripe::{
        own::{FILE, SNAPSHOT},
        types::*,
    },
};

use super::book::*;

const MARCH: i64 = 60 * DAY;

fn priced(id: &str, kind: &str, seconds: i64, price: &Price) -> Event {
    event(id, kind, seconds, Object::Price(Box::new(price.clone())))
}

/// A subscription that names its price by its id alone.
fn waiting(price: &Price) -> Event {
    let subscription = Subscription { currency: Some(currency("usd")), ..subscription("sub_1", "cus_1", &bare(price)) };
    event("evt_sub", "customer.subscription.created", 0, Object::Subscription(Box::new(subscription)))
}

fn tiered(id: &str) -> Price {
    let tiers = [(Some(1), 700), (None, 500)].map(|(up_to, unit)| Tier {
        up_to: up_to.map(whole),
        unit_amount: whole(unit),
        flat_amount: whole(0),
    });
    Price { unit_amount: None, tiers_mode: Some(TiersMode::Graduated), tiers: Some(tiers.into()), ..monthly(id, 0) }
}

/// Every order of three things.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn whatever_way_a_price_comes_the_item_that_waits_enters_at_its_own_time() {
    let price = monthly("p", 10_000);
    for (kind, provenance) in
        [("price.created", Provenance::Event), (SNAPSHOT, Provenance::Snapshot), (FILE, Provenance::File)]
    {
        let mut book = Book::of(&[waiting(&price)]);
        assert_eq!((book.mrr("usd").as_str(), book.reasons()), ("0.000000", vec!["price_unknown"]), "{kind}");
        assert_eq!(&*book.gaps[0].object_id, "p");
        book.apply(&[priced("evt_price", kind, MARCH, &price)]);
        let current = book.current();
        let [entry] = current.as_slice() else { panic!("{kind}: {current:?}") };
        assert_eq!((entry.event_time, entry.mrr_delta), (at(0), amount("100")), "{kind}");
        let row = &book.prices["p"];
        assert_eq!(entry.known_at, row.known_at, "known since the price is known, and not before");
        assert!(entry.known_at > book.gaps[0].known_at);
        assert_eq!(row.provenance, provenance);
        assert_eq!(book.moved(), [short(0, "new", "added_subscription", "100.000000 usd", "100.000000 usd")]);
    }
}

#[test]
fn tiers_come_with_a_snapshot_that_has_them_and_no_body_without_them_erases_them() {
    let price = tiered("t");
    let stripped = Price { tiers: None, ..price.clone() };
    let mut three = subscription("sub_1", "cus_1", &stripped);
    three.items[0].quantity = Some(whole(3));
    let mut script = Script::default();
    script.created(0, &three);
    let mut book = Book::of(&script.events);
    assert_eq!((book.mrr("usd").as_str(), book.reasons()), ("0.000000", vec!["tiers_unknown"]));
    book.apply(&[priced("evt_seen", SNAPSHOT, MARCH, &price)]);
    assert_eq!(book.moved(), [short(0, "new", "added_subscription", "17.000000 usd", "17.000000 usd")]);
    let tiers = book.prices["t"].tiers_json();
    assert_eq!(book.prices["t"].provenance, Provenance::Snapshot);
    book.apply(&[priced("evt_after", "price.updated", MARCH + DAY, &stripped)]);
    assert_eq!((book.mrr("usd").as_str(), book.prices["t"].tiers_json()), ("17.000000", tiers));
    assert_eq!(book.reasons(), ["tiers_unknown"], "nothing was contradicted");
}

#[test]
fn of_an_event_a_snapshot_and_a_file_the_better_one_holds_in_any_order() {
    let told = [
        priced("evt_file", FILE, 9 * DAY, &monthly("p", 7_000)),
        priced("evt_seen", SNAPSHOT, 5 * DAY, &monthly("p", 8_000)),
        priced("evt_told", "price.created", DAY, &monthly("p", 10_000)),
    ];
    for order in ORDERS {
        let mut book = Book::of(&[waiting(&monthly("p", 0))]);
        for index in order {
            book.apply(&told[index..=index]);
        }
        assert_eq!(book.mrr("usd"), "100.000000", "{order:?}");
        assert_eq!(book.current().len(), 1, "{order:?}: what was said before is reversed");
        assert_eq!(book.reasons(), ["price_unknown", "price_conflict"], "{order:?}: told once");
        assert_eq!(book.prices["p"].provenance, Provenance::Event);
        assert_eq!(book.moved(), [short(0, "new", "added_subscription", "100.000000 usd", "100.000000 usd")]);
    }
    // Without the event it is the snapshot.
    for order in [[0, 1], [1, 0]] {
        let mut book = Book::of(&[waiting(&monthly("p", 0))]);
        for index in order {
            book.apply(&told[index..=index]);
        }
        assert_eq!(book.mrr("usd"), "80.000000", "{order:?}");
    }
}

#[test]
fn a_later_file_corrects_an_earlier_one_and_a_second_event_corrects_nothing() {
    let wrong = priced("evt_a", FILE, DAY, &monthly("p", 1_000));
    let right = priced("evt_b", FILE, 2 * DAY, &monthly("p", 10_000));
    for order in [[&wrong, &right], [&right, &wrong]] {
        let mut book = Book::of(&[waiting(&monthly("p", 0))]);
        for event in order {
            book.apply(std::slice::from_ref(event));
        }
        assert_eq!(book.mrr("usd"), "100.000000");
    }
    let mut book = Book::of(&[waiting(&monthly("p", 0))]);
    book.apply(&[priced("evt_c", "price.created", DAY, &monthly("p", 10_000))]);
    book.apply(&[priced("evt_d", "price.updated", 2 * DAY, &monthly("p", 20_000))]);
    assert_eq!((book.mrr("usd").as_str(), book.entries.len()), ("100.000000", 1));
}

#[test]
fn of_two_events_that_contradict_each_other_the_one_made_first_stands_whichever_arrives_first() {
    let of_second = |id: &str, seconds, minor| priced(id, "price.updated", seconds, &monthly("p", minor));
    for (a, b, worth) in [
        (of_second("evt_a", DAY, 10_000), of_second("evt_b", 2 * DAY, 20_000), "100.000000"),
        (of_second("evt_a", DAY, 20_000), of_second("evt_b", DAY, 10_000), "200.000000"),
    ] {
        // What only the one that is refused has told goes with it.
        let mut wordy = b.clone();
        let Object::Price(price) = &mut wordy.object else { unreachable!() };
        price.transform_quantity = Some(TransformQuantity { divide_by: 10, round_up: true });
        for told in [[a.clone(), b.clone()], [b.clone(), a.clone()], [a.clone(), wordy.clone()], [wordy, a]] {
            let mut book = Book::of(&[waiting(&monthly("p", 0))]);
            for event in &told {
                book.apply(std::slice::from_ref(event));
            }
            assert_eq!(book.mrr("usd"), worth, "{:?}", told.map(|event| event.id));
            assert_eq!(book.reasons(), ["price_unknown", "price_conflict"]);
            assert_eq!(book.prices["p"].price.transform_quantity, None);
        }
    }
}

#[test]
fn an_amount_in_another_currency_holds_from_its_date_even_if_it_is_told_last() {
    let euros = |minor| Price { currency_options: [(currency("eur"), whole(minor))].into(), ..monthly("p", 10_000) };
    let of_euros =
        Subscription { currency: Some(currency("eur")), ..subscription("sub_1", "cus_1", &monthly("p", 10_000)) };
    let begins = |seconds| {
        event("evt_sub", "customer.subscription.created", seconds, Object::Subscription(Box::new(of_euros.clone())))
    };
    for (begins_at, worth) in [(5 * DAY, "90.000000"), (20 * DAY, "80.000000"), (40 * DAY, "90.000000")] {
        let told = [
            priced("evt_1", "price.created", 0, &euros(9_000)),
            priced("evt_2", "price.updated", 10 * DAY, &euros(8_000)),
            priced("evt_3", "price.updated", 30 * DAY, &euros(9_000)),
            begins(begins_at),
        ];
        for order in [[0, 1, 2, 3], [0, 3, 1, 2], [3, 2, 1, 0], [0, 2, 3, 1], [2, 0, 3, 1], [1, 3, 2, 0]] {
            let mut book = Book::new(Rules::default());
            for index in order {
                book.apply(&told[index..=index]);
            }
            assert_eq!(book.mrr("eur"), worth, "{order:?}");
            assert_eq!(book.current().len(), 1);
        }
    }
}

#[test]
fn a_discount_keeps_the_terms_it_came_with_when_its_coupons_id_is_given_to_another() {
    let terms = |percent| percent_off("SPRING", percent, CouponDuration::Forever);
    let on = |id: &str, customer: &str, discount: &Discount, seconds| {
        let discounts = vec![full(discount)];
        let subscription = Subscription { discounts, ..subscription(id, customer, &monthly("p", 10_000)) };
        event(
            &format!("evt_{id}"),
            "customer.subscription.created",
            seconds,
            Object::Subscription(Box::new(subscription)),
        )
    };
    let told = [
        on("sub_1", "cus_1", &discount("di_1", &terms(50)), 0),
        on("sub_2", "cus_2", &discount("di_2", &terms(20)), 10 * DAY),
        event("evt_gone", "coupon.deleted", 5 * DAY, Object::Coupon(terms(50))),
    ];
    for order in ORDERS {
        let mut book = Book::new(Rules::default());
        for index in order {
            book.apply(&told[index..=index]);
        }
        assert_eq!(book.mrr_at("usd", DAY), "50.000000", "{order:?}");
        assert_eq!(book.mrr("usd"), "130.000000", "{order:?}");
    }
}

#[test]
fn that_a_price_includes_tax_holds_from_when_it_was_said_if_it_was_open_before() {
    let open = monthly("p", 11_900);
    let said = Price { tax_inclusive: Some(true), ..open.clone() };
    let mut taxed = subscription("sub_1", "cus_1", &open);
    taxed.items[0].price = open.clone();
    let created = event("evt_sub", "customer.subscription.created", 0, Object::Subscription(Box::new(taxed)));
    let line = InvoiceLine {
        id: "il_1".into(),
        amount: 11_900,
        subscription_item: Some("si_sub_1".into()),
        tax: Some(TaxAmounts { total: 1_900, inclusive: 1_900 }),
        ..InvoiceLine::default()
    };
    let invoice = Invoice {
        id: Some("in_1".into()),
        customer: Some("cus_1".into()),
        currency: Some(currency("usd")),
        lines: vec![line],
        ..Invoice::default()
    };
    let billed = event("evt_bill", "invoice.finalized", DAY, Object::Invoice(Box::new(invoice)));
    let mut told = priced("evt_p", "price.updated", 10 * DAY, &said);
    told.before = Some(Box::new(Object::Price(Box::new(open))));
    let events = [created, billed, told];
    for order in ORDERS {
        let mut book = Book::new(Rules::default());
        for index in order {
            book.apply(&events[index..=index]);
        }
        assert_eq!(book.mrr_at("usd", 9 * DAY), "119.000000", "{order:?}");
        assert_eq!(book.mrr("usd"), "100.000000", "{order:?}");
    }
    // Where nobody says that it was open, it always was so.
    let mut book = Book::of(&events[..2]);
    book.apply(&[priced("evt_p", SNAPSHOT, 10 * DAY, &said)]);
    assert_eq!(book.mrr_at("usd", 9 * DAY), "100.000000");
}

#[test]
fn folded_history_that_a_better_source_corrects_stays_and_says_so() {
    let wrong = priced("evt_file", FILE, 0, &monthly("p", 7_000));
    let renewed = |id: &str, seconds| {
        let Event { object, .. } = waiting(&monthly("p", 0));
        event(id, "customer.subscription.updated", seconds, object)
    };
    let mut book = Book::of(&[wrong, waiting(&monthly("p", 0)), renewed("evt_2", 90 * DAY)]);
    assert_eq!(book.mrr("usd"), "70.000000");
    book.apply(&[priced("evt_told", "price.created", 91 * DAY, &monthly("p", 10_000))]);
    assert_eq!(book.mrr_at("usd", 50 * DAY), "70.000000", "until a rebuild");
    assert_eq!(book.reasons(), ["price_conflict", "history_folded"]);
    assert_eq!((&*book.gaps[1].object_id, book.gaps[1].known_at), ("p", book.now()));
}

#[test]
fn todays_price_never_rewrites_yesterdays_history() {
    let (old, new) = (monthly("old", 10_000), monthly("new", 15_000));
    let before = subscription("sub_1", "cus_1", &old);
    let mut after = subscription("sub_1", "cus_1", &new);
    after.items[0].id = before.items[0].id.clone();
    let mut script = Script::default();
    script.created(0, &before).updated(10 * DAY, &after);
    let mut book = Book::of(&script.events);
    let (moved, entries) = (book.moved(), book.entries.len());
    // The old price is withdrawn and renamed, its product too, and somebody claims that it always cost twice as much.
    let withdrawn = Price { active: Some(false), nickname: Some("Legacy".into()), ..old.clone() };
    let renamed = Product { id: "prod_old".into(), name: Some("Old plan".into()), active: Some(false) };
    book.apply(&[
        priced("evt_1", "price.updated", 20 * DAY, &withdrawn),
        event("evt_2", "product.updated", 20 * DAY, Object::Product(renamed)),
        priced("evt_3", SNAPSHOT, 30 * DAY, &monthly("old", 20_000)),
        priced("evt_4", FILE, 40 * DAY, &monthly("old", 20_000)),
    ]);
    assert_eq!((book.moved(), book.entries.len()), (moved, entries), "not a row more");
    assert_eq!(book.reasons(), ["price_conflict"]);
    assert_eq!(book.mrr_at("usd", 5 * DAY), "100.000000");
    let row = &book.prices["old"];
    assert_eq!((row.price.unit_amount.clone(), row.price.active), (Some(whole(10_000)), Some(false)));
    assert_eq!(row.price.nickname.as_deref(), Some("Legacy"));
    assert_eq!(book.products["prod_old"].name.as_deref(), Some("Old plan"));
}

#[test]
fn what_a_file_left_open_an_event_completes_for_all_time() {
    // The file knows no product; the ledger's rows name it once it is known.
    let price = Price { product: None, ..monthly("p", 10_000) };
    let mut book = Book::of(&[waiting(&price)]);
    book.apply(&[priced("evt_file", FILE, DAY, &price)]);
    assert_eq!(book.current()[0].product_id, None);
    book.apply(&[priced("evt_told", "price.created", 2 * DAY, &monthly("p", 10_000))]);
    let current = book.current();
    assert_eq!(current.len(), 1);
    assert_eq!(current[0].product_id.as_ref().map(|id| id.as_str()), Some("prod_p"));
    assert_eq!(book.reasons(), ["price_unknown"]);
}

#[test]
fn a_coupon_by_id_counts_once_it_is_known_whatever_tells_of_it() {
    let half = percent_off("half", 50, CouponDuration::Forever);
    let by_id = Discount { coupon: CouponRef::Id("half".into()), ..discount("di_1", &half) };
    let code = PromotionCode {
        id: "promo_1".to_owned(),
        coupon: Some(CouponRef::Full(Box::new(half.clone()))),
        active: Some(true),
    };
    for (kind, object) in [
        ("coupon.created", Object::Coupon(half.clone())),
        (SNAPSHOT, Object::Coupon(half.clone())),
        ("promotion_code.created", Object::PromotionCode(Box::new(code))),
        (
            "customer.discount.created",
            Object::Discount(Box::new(Discount { subscription: Some("sub_9".into()), ..discount("di_9", &half) })),
        ),
    ] {
        let subscription =
            Subscription { discounts: vec![full(&by_id)], ..subscription("sub_1", "cus_1", &monthly("p", 10_000)) };
        let mut script = Script::default();
        script.created(0, &subscription);
        let mut book = Book::of(&script.events);
        assert_eq!((book.mrr("usd").as_str(), book.reasons()), ("100.000000", vec!["discount_unresolved"]), "{kind}");
        book.apply(&[event("evt_told", kind, MARCH, object)]);
        assert_eq!((book.mrr("usd").as_str(), book.current().len()), ("50.000000", 1), "{kind}");
        assert_eq!(book.current()[0].event_time, at(0), "{kind}");
        assert_eq!(book.coupons["half"].coupon, half, "{kind}");
    }
}

#[test]
fn the_terms_of_a_coupon_follow_the_better_source_too() {
    let half = |percent| percent_off("half", percent, CouponDuration::Forever);
    let told = [
        event("evt_seen", SNAPSHOT, DAY, Object::Coupon(half(10))),
        event("evt_told", "coupon.created", 0, Object::Coupon(half(50))),
    ];
    let off = Discount { coupon: CouponRef::Id("half".into()), ..discount("di_1", &half(0)) };
    for order in [[0, 1], [1, 0]] {
        let subscription =
            Subscription { discounts: vec![full(&off)], ..subscription("sub_1", "cus_1", &monthly("p", 10_000)) };
        let mut script = Script::default();
        script.created(0, &subscription);
        let mut book = Book::of(&script.events);
        for index in order {
            book.apply(&told[index..=index]);
        }
        assert_eq!(book.mrr("usd"), "50.000000", "{order:?}");
        assert_eq!(book.reasons(), ["discount_unresolved", "coupon_conflict"], "{order:?}");
        assert_eq!(book.coupons["half"].provenance, Provenance::Event);
    }
}

#[test]
fn a_snapshot_of_a_subscription_is_imported_and_loses_to_newer_events() {
    let one = subscription("sub_1", "cus_1", &monthly("p", 10_000));
    let two = Subscription { items: vec![item("si_sub_1", &monthly("p", 10_000), 2)], ..one.clone() };
    let seen = |seconds, subscription: &Subscription| {
        event("evt_seen", SNAPSHOT, seconds, Object::Subscription(Box::new(subscription.clone())))
    };
    let book = Book::of(&[seen(30 * DAY, &one)]);
    assert_eq!(book.moved(), [short(0, "imported", "added_subscription", "100.000000 usd", "100.000000 usd")]);
    assert_eq!(book.ledger.clock().collect::<Vec<_>>(), [(scope(), at(30 * DAY), at(30 * DAY))]);
    // An event after the snapshot's time wins, whichever arrives first; the snapshot holds until then.
    let mut script = Script::default();
    script.updated(40 * DAY, &two);
    for order in [[0, 1], [1, 0]] {
        let events = [seen(30 * DAY, &one), script.events[0].clone()];
        let mut book = Book::new(Rules::default());
        for index in order {
            book.apply(&events[index..=index]);
        }
        assert_eq!(book.mrr_at("usd", 35 * DAY), "100.000000", "{order:?}");
        assert_eq!(book.mrr("usd"), "200.000000", "{order:?}");
        assert!(book.movements.values().all(|row| row.kind != MovementKind::New), "{order:?}");
    }
    // And one that says nothing new is no movement.
    let mut script = Script::default();
    script.created(0, &one);
    let mut book = Book::of(&script.events);
    book.apply(&[seen(30 * DAY, &one)]);
    assert_eq!((book.movements.len(), book.entries.len()), (1, 1));
}

#[test]
fn a_product_is_as_it_was_last_told_and_a_deleted_one_keeps_its_name() {
    let product = |name: &str, active| {
        Object::Product(Product { id: "prod_1".into(), name: Some(name.to_owned()), active: Some(active) })
    };
    let told = [
        event("evt_1", "product.created", 0, product("First", true)),
        event("evt_2", "product.updated", 2 * DAY, product("Second", true)),
        event("evt_3", SNAPSHOT, DAY, product("Between", true)),
    ];
    for order in ORDERS {
        let mut book = Book::new(Rules::default());
        for index in order {
            book.apply(&told[index..=index]);
        }
        assert_eq!(book.products["prod_1"].name.as_deref(), Some("Second"), "{order:?}");
        // A file of today knows no better than Stripe did.
        book.apply(&[event("evt_4", FILE, 50 * DAY, product("Mine", false))]);
        assert_eq!(book.products["prod_1"].name.as_deref(), Some("Second"), "{order:?}");
        let tombstone = Product { id: "prod_1".into(), name: None, active: None };
        book.apply(&[event("evt_5", "product.deleted", 60 * DAY, Object::Product(tombstone))]);
        let row = &book.products["prod_1"];
        assert_eq!((row.name.as_deref(), row.active), (Some("Second"), Some(false)), "{order:?}");
    }
}

#[test]
fn one_batch_or_many_the_rows_of_the_catalogue_are_the_same() {
    let price = tiered("t");
    let told = [
        priced("evt_1", "price.created", 0, &Price { tiers: None, ..price.clone() }),
        priced("evt_2", SNAPSHOT, DAY, &price),
        priced("evt_3", FILE, 2 * DAY, &monthly("t", 1)),
        priced("evt_4", "price.updated", 3 * DAY, &Price { active: Some(false), ..price.clone() }),
    ];
    let mut one = Book::new(Rules::default());
    one.apply(&told);
    let mut many = Book::new(Rules::default());
    for event in &told {
        many.apply(std::slice::from_ref(event));
    }
    assert_eq!(one.prices, many.prices);
    assert_eq!(one.prices["t"].price.active, Some(false));
    // A checkpoint between loses nothing.
    let mut restored = Book::new(Rules::default());
    restored.apply(&told[..2]);
    let bytes = restored.ledger.encode_catalogue().unwrap();
    restored.ledger.restore_catalogue(&bytes).unwrap();
    restored.apply(&told[2..]);
    assert_eq!(restored.prices["t"].price, one.prices["t"].price);
}

#[test]
fn price_lists_and_rates_say_nothing_of_how_far_the_log_reaches() {
    let mut book = Book::of(&[event("evt_1", "ping", 5 * DAY, Object::Other("ping".into()))]);
    book.apply(&[
        priced("evt_2", FILE, 90 * DAY, &monthly("p", 1)),
        priced("evt_3", SNAPSHOT, 91 * DAY, &monthly("q", 1)),
    ]);
    let rates = FxDay {
        day: "1999-01-04".parse().unwrap(),
        base: currency("eur"),
        source: "ecb".to_owned(),
        rates: [(currency("usd"), whole(1))].into(),
    };
    book.apply(&[event("evt_4", "tributary.fx_rates", -9_000 * DAY, Object::FxRates(Box::new(rates)))]);
    assert_eq!(book.ledger.clock().collect::<Vec<_>>(), [(scope(), at(5 * DAY), at(5 * DAY))]);
}

#[test]
fn states_become_complete_whatever_came_first_whether_they_count_or_not() {
    use SubscriptionStatus::*;
    let (price, coupon) = (tiered("t"), percent_off("HALF", 50, CouponDuration::Forever));
    for status in [Incomplete, Unpaid, Paused, IncompleteExpired, Canceled, Trialing, PastDue] {
        let mut three = subscription("sub_1", "cus_1", &bare(&price));
        three.items[0].quantity = Some(whole(3));
        three.discounts = vec![DiscountRef::Id("di_1".into())];
        three.status = status.clone();
        let mut script = Script::default();
        script.created(0, &three).updated(DAY, &Subscription { status: Active, ..three.clone() });
        script.deleted(2 * DAY, &canceled(&three));
        let told = [
            priced("evt_price", SNAPSHOT, MARCH, &price),
            event("evt_coupon", SNAPSHOT, MARCH, Object::Coupon(coupon.clone())),
            event("evt_discount", SNAPSHOT, MARCH, Object::Discount(Box::new(discount("di_1", &coupon)))),
        ];
        // The newest of each instant, without when it was known.
        let shown = |batches: &[&[Event]]| {
            let mut book = Book::of(&[]);
            batches.iter().for_each(|batch| book.apply(batch));
            let mut newest = std::collections::BTreeMap::new();
            for state in &book.states {
                let discounts: Vec<bool> = state.discounts.iter().map(|of| of.terms.is_some()).collect();
                newest.insert(state.valid_from, (state.list_amount.map(|list| list.to_string()), discounts));
            }
            newest
        };
        let at_once = shown(&[&[script.events.clone(), told.to_vec()].concat()]);
        assert!(at_once.values().all(|(list, _)| list.as_deref() == Some("17")), "{status:?}: {at_once:?}");
        assert_eq!(shown(&[&script.events, &told]), at_once, "{status:?}: told later");
        assert_eq!(shown(&[&script.events[..1], &told[..1], &script.events[1..], &told[1..]]), at_once, "{status:?}");
    }
}

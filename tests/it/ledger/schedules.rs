//! Schedules: phases that have not taken effect, at what they will be worth, until they begin or the schedule is over.

use tributary::stripe::types::*;

use super::book::*;

fn phase(start: i64, end: Option<i64>, price: &Price, quantity: i64) -> SchedulePhase {
    let item = ScheduleItem {
        price: price.clone(),
        quantity: Some(whole(quantity)),
        discounts: Vec::new(),
        tax_rates: Vec::new(),
    };
    SchedulePhase {
        start: Some(at(start)),
        end: end.map(at),
        currency: Some(currency("usd")),
        items: vec![item],
        ..SchedulePhase::default()
    }
}

fn schedule(status: &str, phases: Vec<SchedulePhase>) -> Schedule {
    Schedule {
        id: "sub_sched_1".into(),
        customer: Some("cus_1".into()),
        subscription: Some("sub_1".into()),
        status: Some(status.into()),
        phases,
        ..Schedule::default()
    }
}

fn told(kind: &str, seconds: i64, schedule: &Schedule) -> Event {
    let id = format!("evt_{kind}_{seconds}");
    event(&id, &format!("subscription_schedule.{kind}"), seconds, Object::Schedule(Box::new(schedule.clone())))
}

/// Start, end and worth of each row.
fn rows(book: &Book) -> Vec<(i64, Option<i64>, String)> {
    let day = |time: tributary::time::EventTime| (time.seconds() - START) / DAY;
    let mut rows: Vec<_> =
        book.scheduled.iter().map(|row| (day(row.starts_at), row.ends_at.map(day), row.mrr.to_string())).collect();
    rows.sort();
    rows
}

fn two_steps() -> Schedule {
    let yearly = price("yearly", 120_000, Interval::Year, 1);
    schedule(
        "active",
        vec![
            phase(0, Some(30 * DAY), &monthly("small", 5_000), 1),
            phase(30 * DAY, Some(60 * DAY), &monthly("big", 7_000), 2),
            phase(60 * DAY, None, &yearly, 1),
        ],
    )
}

#[test]
fn phases_to_come_are_rows_and_the_one_in_force_is_not() {
    let book = Book::of(&[told("created", 0, &two_steps())]);
    assert_eq!(rows(&book), [(30, Some(60), "140.000000".into()), (60, None, "100.000000".into())]);
    assert_eq!((&*book.scheduled[0].status, book.mrr("usd")), ("active", "0.000000".to_owned()));
}

#[test]
fn a_phase_that_begins_loses_its_row_with_any_event_of_that_time() {
    let mut book = Book::of(&[told("created", 0, &two_steps())]);
    let mut other = Script::default();
    other.created(30 * DAY, &subscription("sub_2", "cus_2", &monthly("p", 100)));
    book.apply(&other.events);
    assert_eq!(rows(&book), [(60, None, "100.000000".into())]);
    book.apply(&[told("updated", 61 * DAY, &two_steps())]);
    assert_eq!(rows(&book), []);
}

#[test]
fn a_schedule_that_is_released_canceled_or_completed_loses_all_in_any_order_of_arrival() {
    for end in ["released", "canceled", "completed"] {
        let begun = told("created", 0, &two_steps());
        let changed = schedule("active", vec![phase(40 * DAY, None, &monthly("other", 900), 1)]);
        let changed = told("updated", 5 * DAY, &changed);
        let over = told(end, 5 * DAY, &Schedule { status: Some(end.into()), ..two_steps() });
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
            let events = [&begun, &changed, &over];
            let mut book = Book::new(tributary::ledger::Rules::default());
            for (number, index) in order.iter().enumerate() {
                book.apply(std::slice::from_ref(events[*index]));
                if order[..=number].iter().max() == Some(&1) {
                    assert_eq!(rows(&book), [(40, None, "9.000000".into())], "{order:?}");
                }
            }
            assert_eq!(rows(&book), [], "{end} {order:?}");
        }
    }
}

#[test]
fn a_phase_is_worth_what_its_items_will_be_less_coupons_for_ever_and_inclusive_tax() {
    let usage = Price { metered: true, ..monthly("usage", 10) };
    let mut first = phase(10 * DAY, None, &monthly("seats", 11_900), 1);
    first.items.push(ScheduleItem { price: usage, quantity: None, discounts: Vec::new(), tax_rates: Vec::new() });
    let rate = TaxRate { id: "txr_1".into(), percentage: whole(19), inclusive: true };
    first.tax_rates = vec![rate, TaxRate { id: "txr_2".into(), percentage: whole(7), inclusive: false }];
    let of = |coupon: &Coupon| ScheduleDiscount {
        coupon: Some(CouponRef::Full(Box::new(coupon.clone()))),
        ..ScheduleDiscount::default()
    };
    let worth = |phase: &SchedulePhase| {
        rows(&Book::of(&[told("created", 0, &schedule("not_started", vec![phase.clone()]))]))[0].2.clone()
    };
    assert_eq!(worth(&first), "100.000000");
    first.discounts = vec![of(&percent_off("HALF", 50, CouponDuration::Forever))];
    assert_eq!(worth(&first), "50.000000");
    first.discounts.push(of(&percent_off("SOON", 50, CouponDuration::Repeating)));
    assert_eq!(worth(&first), "50.000000");
    first.discounts = vec![ScheduleDiscount { coupon: Some(CouponRef::Id("LATER".into())), ..Default::default() }];
    let mut book = Book::of(&[told("created", 0, &schedule("not_started", vec![first]))]);
    assert_eq!((rows(&book), book.reasons()), (vec![(10, None, "100.000000".into())], vec!["discount_unresolved"]));
    let coupon = amount_off("LATER", 5_950, CouponDuration::Forever);
    book.apply(&[event("evt_coupon", "coupon.created", DAY, Object::Coupon(coupon))]);
    assert_eq!(rows(&book), [(10, None, "50.000000".into())]);
}

#[test]
fn a_promotion_code_of_a_phase_is_worth_its_coupon_once_it_is_known_which() {
    let half = percent_off("HALF", 50, CouponDuration::Forever);
    let mut first = phase(10 * DAY, None, &monthly("seats", 10_000), 1);
    first.discounts = vec![ScheduleDiscount { promotion_code: Some("promo_1".to_owned()), ..Default::default() }];
    let mut book = Book::of(&[
        event("evt_coupon", "coupon.created", 0, Object::Coupon(half)),
        told("created", 0, &schedule("not_started", vec![first])),
    ]);
    assert_eq!((rows(&book), book.reasons()), (vec![(10, None, "100.000000".into())], vec!["discount_unresolved"]));
    let code = |id: &str| PromotionCode { id: id.to_owned(), coupon: Some(CouponRef::Id("HALF".into())), active: None };
    book.apply(&[event("evt_other", "promotion_code.created", DAY, Object::PromotionCode(Box::new(code("promo_2"))))]);
    assert_eq!(rows(&book), [(10, None, "100.000000".into())]);
    book.apply(&[event("evt_code", "promotion_code.created", DAY, Object::PromotionCode(Box::new(code("promo_1"))))]);
    assert_eq!(rows(&book), [(10, None, "50.000000".into())]);
}

#[test]
fn a_phase_waits_for_its_price_and_a_trial_delays_its_worth() {
    let known = monthly("big", 7_000);
    let mut trial = phase(10 * DAY, Some(40 * DAY), &bare(&known), 1);
    trial.trial_end = Some(at(24 * DAY));
    let mut all_trial = phase(40 * DAY, Some(50 * DAY), &known, 1);
    all_trial.trial_end = Some(at(50 * DAY));
    let waiting = schedule("not_started", vec![trial]);
    let mut book = Book::of(&[told("created", 0, &waiting)]);
    assert_eq!((rows(&book), book.reasons()), (vec![], vec!["price_unknown"]));
    book.apply(&[event("evt_price", "price.created", DAY, Object::Price(Box::new(known)))]);
    assert_eq!(rows(&book), [(24, Some(40), "70.000000".into())]);
    let all = schedule("active", vec![all_trial]);
    book.apply(&[told("updated", 2 * DAY, &all)]);
    assert_eq!(rows(&book), []);
}

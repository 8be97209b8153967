//! The settings of profiles, and the figures beside recurring revenue: trials, scheduled cancellations, tax.

use tributary::{
    ledger::{BackdatedStart, DiscountOrder, Profile, Rules, ScheduledCancellation},
    stripe::types::*,
};

use super::book::*;

fn rate(percentage: i64, inclusive: bool) -> TaxRate {
    TaxRate { id: format!("txr_{percentage}").as_str().into(), percentage: whole(percentage), inclusive }
}

#[test]
fn explicit_inclusive_tax_is_taken_out_after_discounts_and_exclusive_tax_is_none() {
    let worth = |rates: Vec<TaxRate>, of_item: Vec<TaxRate>, discounts: Vec<DiscountRef>| {
        let mut subscription = Subscription { tax_rates: rates, discounts, ..plan() };
        subscription.items[0].price.unit_amount = Some(whole(11_900));
        subscription.items[0].tax_rates = of_item;
        let mut script = Script::default();
        script.created(0, &subscription);
        let book = book(Rules::default(), &script);
        assert_eq!(book.gaps, []);
        (book.mrr("usd"), book.entries[0].list_delta.to_string())
    };
    let half = || vec![full(&discount("di_1", &percent_off("half", 50, CouponDuration::Forever)))];
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(worth(vec![rate(19, true)], vec![], vec![]), pair("100.000000", "100.000000"));
    assert_eq!(worth(vec![rate(19, false)], vec![], vec![]), pair("119.000000", "119.000000"));
    assert_eq!(worth(vec![rate(19, true)], vec![], half()), pair("50.000000", "100.000000"));
    assert_eq!(worth(vec![rate(19, true)], vec![rate(7, false)], vec![]), pair("119.000000", "119.000000"));
    // Rates of one item add up, as they do on Stripe's invoices.
    assert_eq!(worth(vec![], vec![rate(12, true), rate(7, true)], vec![]), pair("100.000000", "100.000000"));
}

#[test]
fn without_explicit_rates_the_last_finalised_line_tells_the_tax() {
    let mut inclusive = plan();
    inclusive.items[0].price.tax_inclusive = Some(true);
    let line = |gross: i64, tax: i64| InvoiceLine {
        id: "il_1".into(),
        amount: gross,
        subscription_item: Some("si_sub_1".into()),
        tax: Some(TaxAmounts { total: tax, inclusive: tax }),
        ..InvoiceLine::default()
    };
    let invoice = |gross, tax| {
        let lines = vec![line(gross, tax)];
        Object::Invoice(Box::new(Invoice {
            id: Some("in_1".into()),
            customer: Some("cus_1".into()),
            currency: Some(currency("usd")),
            lines,
            ..Invoice::default()
        }))
    };
    let mut script = Script::default();
    script.created(0, &inclusive);
    let gross = book(Rules::default(), &script);
    assert_eq!((gross.mrr("usd").as_str(), gross.reasons()), ("100.000000", vec!["tax_unknown"]));
    script.other("invoice.finalized", 5, invoice(10_000, 2_000));
    script.other("invoice.finalized", 30 * DAY, invoice(10_000, 2_000));
    script.other("invoice.finalized", 60 * DAY, invoice(10_000, 1_000));
    let net = book(Rules::default(), &script);
    assert_eq!(net.mrr_at("usd", 4), "100.000000");
    assert_eq!(net.mrr_at("usd", 59 * DAY), "80.000000");
    assert_eq!(net.mrr("usd"), "90.000000");
    assert_eq!(net.entries.len(), 3, "a line that tells the same is no change");
    // In the same second it is known from the beginning.
    let mut at_once = Script::default();
    at_once.other("invoice.finalized", 0, invoice(10_000, 2_000)).created(0, &inclusive);
    let at_once = book(Rules::default(), &at_once);
    assert_eq!((at_once.mrr("usd").as_str(), at_once.reasons()), ("80.000000", vec![]));
    assert_eq!(at_once.states[0].net_share.as_ref().unwrap().to_string(), "4/5");
}

#[test]
fn what_is_scheduled_to_leave_is_committed_no_more() {
    let leaving = Subscription { cancel_at_period_end: true, ..plan() };
    let mut script = Script::default();
    script.created(0, &plan()).updated(DAY, &leaving).updated(2 * DAY, &plan()).updated(3 * DAY, &leaving);
    script.deleted(9 * DAY, &leaving);
    let at_end = Rules { scheduled_cancellation: ScheduledCancellation::LeavesAtEnd, ..Rules::default() };
    let at_end = book(at_end, &script);
    assert_eq!(at_end.mrr_at("usd", 8 * DAY), "100.000000");
    assert_eq!(
        at_end.outlook("cancel_scheduled"),
        [
            (DAY, "start", "canceled", "100.000000"),
            (2 * DAY, "end", "uncanceled", "-100.000000"),
            (3 * DAY, "start", "canceled", "100.000000"),
            (9 * DAY, "end", "canceled", "-100.000000"),
        ]
        .map(owned)
    );
    // Where it leaves at the request, nothing that still counts is scheduled to leave.
    let at_request = book(Rules::default(), &script);
    assert_eq!((at_request.mrr_at("usd", 4 * DAY).as_str(), at_request.outlook.len()), ("0.000000", 0));
}

#[test]
fn a_backdated_start_counts_from_its_creation_or_from_its_start() {
    let backdated = Subscription { start_date: Some(at(-40 * DAY)), ..plan() };
    let mut script = Script::default();
    script.created(0, &backdated);
    let moved = |rules: Rules| {
        let book = book(rules, &script);
        assert_eq!(book.states.len(), 1, "states know nothing of the setting");
        assert_eq!(book.states[0].valid_from, at(0));
        book.moved()
    };
    assert_eq!(moved(Rules::default()), [short(0, "new", "added_subscription", "100.000000 usd", "100.000000 usd")]);
    let at_start = Rules { backdated_start: BackdatedStart::StartDate, ..Rules::default() };
    assert_eq!(moved(at_start), [short(-40 * DAY, "new", "added_subscription", "100.000000 usd", "100.000000 usd")]);
}

#[test]
fn discounts_of_one_level_are_taken_in_the_order_of_the_setting() {
    let twenty = discount("di_1", &amount_off("twenty", 2_000, CouponDuration::Forever));
    let half = discount("di_2", &percent_off("half", 50, CouponDuration::Forever));
    let worth = |order: DiscountOrder, discounts: [&Discount; 2]| {
        let discounts = discounts.map(full).to_vec();
        let mut script = Script::default();
        script.created(0, &Subscription { discounts, ..plan() });
        book(Rules { discount_order: order, ..Rules::default() }, &script).mrr("usd")
    };
    assert_eq!(worth(DiscountOrder::List, [&twenty, &half]), "40.000000");
    assert_eq!(worth(DiscountOrder::List, [&half, &twenty]), "30.000000");
    assert_eq!(worth(DiscountOrder::PercentFirst, [&twenty, &half]), "30.000000");
    assert_eq!(worth(DiscountOrder::AmountFirst, [&half, &twenty]), "40.000000");
}

#[test]
fn changes_within_the_netting_window_are_one_movement() {
    let dear = Subscription { items: vec![item("si_sub_1", &monthly("dear", 15_000), 1)], ..plan() };
    let mut script = Script::default();
    script.created(0, &plan()).updated(DAY, &dear).updated(DAY + 59, &plan()).updated(DAY + 60, &dear);
    let rules = Rules { netting_seconds: 60, profile: Profile::Custom, ..Rules::default() };
    assert_eq!(
        book(rules, &script).moved()[1..],
        [short(DAY + 60, "expansion", "plan_change", "50.000000 usd", "150.000000 usd")]
    );
    assert_eq!(book(Rules::default(), &script).moved().len(), 4);
}

//! Usage: each closed period of a metered price once, net, and brought to a month by the price's own interval.

use tributary::stripe::types::*;

use super::book::*;

fn metered(id: &str, interval: Interval, count: u32) -> Price {
    Price { metered: true, ..price(id, 5, interval, count) }
}

/// A line of 40 days before to 10 days before the invoice at day 40.
fn line(id: &str, price: &Price, minor: i64) -> InvoiceLine {
    InvoiceLine {
        id: id.into(),
        amount: minor,
        quantity: Some(whole(7)),
        price: Some(price.id.clone()),
        price_body: price.unit_amount.is_some().then(|| Box::new(price.clone())),
        subscription: Some("sub_1".into()),
        subscription_item: Some("si_1".into()),
        period_start: Some(at(0)),
        period_end: Some(at(30 * DAY)),
        ..InvoiceLine::default()
    }
}

fn invoice(status: &str, lines: Vec<InvoiceLine>) -> Object {
    Object::Invoice(Box::new(Invoice {
        id: Some("in_1".into()),
        customer: Some("cus_1".into()),
        currency: Some(currency("usd")),
        status: Some(status.into()),
        finalized_at: (status != "draft").then(|| at(30 * DAY + 3_600)),
        lines,
        ..Invoice::default()
    }))
}

fn amounts(book: &Book) -> Vec<(&str, String, String)> {
    book.usage.iter().map(|row| (&*row.line_id, row.amount.to_string(), row.monthly.to_string())).collect()
}

#[test]
fn a_closed_period_is_told_once_however_many_events_tell_it_and_a_draft_tells_nothing() {
    let weekly = metered("calls", Interval::Week, 2);
    let lines = || vec![line("il_1", &weekly, 12_000), line("il_2", &monthly("seats", 5_000), 5_000)];
    let mut script = Script::default();
    script.other("invoice.created", 30 * DAY, invoice("draft", lines()));
    script.other("invoice.finalized", 30 * DAY + 3_600, invoice("open", lines()));
    script.other("invoice.paid", 30 * DAY + 3_700, invoice("paid", lines()));
    script.other("invoice.voided", 90 * DAY, invoice("void", lines()));
    let book = Book::of(&script.events);
    // 120 for two weeks is 260 a month of 52/12 weeks.
    assert_eq!(amounts(&book), [("il_1", "120.000000".into(), "260.000000".into())]);
    let row = &book.usage[0];
    assert_eq!((row.period_end, row.finalized_at), (at(30 * DAY), at(30 * DAY + 3_600)));
    assert_eq!(row.event_id, script.events[1].id);
    assert_eq!(
        (row.subscription_item_id.as_ref().unwrap().as_str(), row.product_id.as_ref().unwrap().as_str()),
        ("si_1", "prod_calls")
    );
    assert_eq!(book.mrr("usd"), "0.000000");
    // In any order, the same amounts.
    script.events.reverse();
    assert_eq!(amounts(&Book::of(&script.events)), amounts(&book));
}

#[test]
fn usage_is_net_of_discounts_and_inclusive_tax_but_not_of_credits_that_pay_for_it() {
    let calls = metered("calls", Interval::Month, 3);
    let net = InvoiceLine {
        discount: 1_000,
        credits: 700,
        tax: Some(TaxAmounts { total: 1_900, inclusive: 1_900 }),
        ..line("il_1", &calls, 11_900)
    };
    let mut script = Script::default();
    script.other("invoice.finalized", 31 * DAY, invoice("open", vec![net]));
    assert_eq!(amounts(&Book::of(&script.events)), [("il_1", "90.000000".into(), "30.000000".into())]);
}

#[test]
fn a_line_waits_for_its_price_and_settlements_of_changes_are_no_usage() {
    let calls = metered("calls", Interval::Month, 1);
    let proration = InvoiceLine { proration: true, ..line("il_2", &bare(&calls), -100) };
    let mut script = Script::default();
    script.other("invoice.finalized", 31 * DAY, invoice("open", vec![line("il_1", &bare(&calls), 500), proration]));
    script.other("invoice.paid", 31 * DAY, invoice("paid", vec![line("il_1", &bare(&calls), 500)]));
    let mut book = Book::of(&script.events);
    assert_eq!((amounts(&book).len(), book.reasons()), (0, vec![]));
    // Not known after the days in which its subscription's events can still come, it is a gap, once.
    for day in [35, 36] {
        let again = invoice("open", vec![line("il_1", &bare(&calls), 500)]);
        book.apply(&[event(&format!("evt_{day}"), "invoice.updated", day * DAY, again)]);
    }
    assert_eq!((amounts(&book).len(), book.reasons()), (0, vec!["price_unknown"]));
    let mut later = Script::default();
    later.other("price.created", 40 * DAY, Object::Price(Box::new(calls)));
    book.apply(&later.events);
    assert_eq!(amounts(&book), [("il_1", "5.000000".into(), "5.000000".into())]);
    // Known when its price was.
    assert_eq!(book.usage[0].known_at, tributary::time::EventTime::from_millis(START * 1_000 + 5));
    book.apply(&script.events);
    assert_eq!(amounts(&book).len(), 1);
}

#[test]
fn a_licensed_price_that_becomes_known_later_was_no_usage() {
    let seats = monthly("seats", 5_000);
    let mut script = Script::default();
    script.other("invoice.finalized", 31 * DAY, invoice("open", vec![line("il_1", &bare(&seats), 500)]));
    script.other("price.created", 40 * DAY, Object::Price(Box::new(seats)));
    let book = Book::of(&script.events);
    assert!(book.usage.is_empty());
}

//! What is told of a customer's payments: each fact once, whatever number of events tells it.

use tributary::{ledger::Rules, stripe::types::*};

use super::book::*;

fn invoice(id: &str, status: &str, minor: i64) -> Object {
    Object::Invoice(Box::new(Invoice {
        id: Some(id.into()),
        customer: Some("cus_1".into()),
        subscription: Some("sub_1".into()),
        currency: Some(currency("usd")),
        status: Some(status.into()),
        total: Some(minor),
        amount_due: Some(minor),
        amount_paid: Some(if status == "paid" { minor } else { 0 }),
        amount_remaining: Some(if status == "paid" { 0 } else { minor }),
        attempt_count: Some(1),
        ..Invoice::default()
    }))
}

fn charge(id: &str, customer: Option<&str>, refunded: i64) -> Charge {
    Charge {
        id: id.into(),
        customer: customer.map(Into::into),
        amount: 10_000,
        amount_refunded: refunded,
        currency: Some(currency("usd")),
        status: Some("succeeded".into()),
        failure_code: None,
        payment_intent: None,
        invoice: None,
    }
}

fn refund(id: &str, charge: &str, minor: i64) -> Object {
    Object::Refund(Refund {
        id: id.into(),
        charge: Some(charge.into()),
        payment_intent: None,
        amount: minor,
        currency: Some(currency("usd")),
        status: Some("succeeded".into()),
        created: None,
    })
}

fn dispute(id: &str, charge: &str) -> Object {
    Object::Dispute(Dispute {
        id: id.into(),
        charge: Some(charge.into()),
        amount: 10_000,
        currency: Some(currency("usd")),
        status: None,
        reason: None,
    })
}

fn told(book: &Book) -> Vec<(String, String, String)> {
    let row = |row: &tributary::ledger::rows::BillingEvent| {
        (row.kind.to_string(), row.object_id.to_string(), row.amount.unwrap().to_string())
    };
    book.billing.iter().map(row).collect()
}

fn fact(kind: &str, object: &str, amount: &str) -> (String, String, String) {
    (kind.into(), object.into(), amount.into())
}

#[test]
fn a_payment_is_told_once_and_a_free_invoice_never() {
    let mut script = Script::default();
    script.other("invoice.finalized", 0, invoice("in_1", "open", 10_000));
    script.other("invoice.payment_failed", 1, invoice("in_1", "open", 10_000));
    script.other("charge.succeeded", 2, Object::Charge(charge("ch_1", Some("cus_1"), 0)));
    script.other("invoice.payment_succeeded", 2, invoice("in_1", "paid", 10_000));
    script.other("invoice.paid", 2, invoice("in_1", "paid", 10_000));
    script.other("invoice.paid", 3, invoice("in_2", "paid", 0));
    let mut book = Book::of(&script.events);
    let once = [
        fact("invoice_finalized", "in_1", "100.000000"),
        fact("payment_failed", "in_1", "100.000000"),
        fact("payment_succeeded", "in_1", "100.000000"),
    ];
    assert_eq!(told(&book), once);
    book.apply(&script.events);
    assert_eq!((told(&book).len(), book.duplicates), (3, 3));
}

#[test]
fn a_refund_is_told_once_by_whichever_events_tell_it() {
    let mut script = Script::default();
    script.other("charge.succeeded", 0, Object::Charge(charge("ch_1", Some("cus_1"), 0)));
    script.other("refund.created", 1, refund("re_1", "ch_1", 3_000));
    script.other("charge.refunded", 1, Object::Charge(charge("ch_1", Some("cus_1"), 3_000)));
    script.other("refund.updated", 2, refund("re_1", "ch_1", 3_000));
    script.other("refund.created", 3, refund("re_2", "ch_1", 2_000));
    script.other("charge.refunded", 3, Object::Charge(charge("ch_1", Some("cus_1"), 5_000)));
    for order in [[0, 1, 2, 3, 4, 5], [0, 5, 4, 3, 2, 1], [2, 0, 1, 5, 3, 4], [1, 4, 3, 0, 5, 2]] {
        let mut book = Book::new(Rules::default());
        for index in order {
            book.apply(&script.events[index..=index]);
        }
        let total: i128 =
            book.billing.iter().filter(|row| &*row.kind == "refund").map(|r| r.amount.unwrap().micros()).sum();
        assert_eq!(total, 50_000_000, "{order:?}");
    }
}

#[test]
fn a_refund_happened_when_it_was_made_whichever_event_is_read_first() {
    let made = |status: &str| match refund("re_1", "ch_1", 3_000) {
        Object::Refund(refund) => {
            Object::Refund(Refund { created: Some(at(7)), status: Some(status.into()), ..refund })
        }
        _ => unreachable!(),
    };
    let mut script = Script::default();
    script.other("charge.succeeded", 0, Object::Charge(charge("ch_1", Some("cus_1"), 0)));
    script.other("refund.created", 7, made("pending"));
    script.other("charge.refunded", 7, Object::Charge(charge("ch_1", Some("cus_1"), 3_000)));
    script.other("refund.updated", 5 * DAY, made("succeeded"));
    for order in [[0, 1, 2, 3], [0, 3, 2, 1], [3, 2, 1, 0], [2, 3, 0, 1]] {
        let mut book = Book::new(Rules::default());
        for index in order {
            book.apply(&script.events[index..=index]);
        }
        let refunds: Vec<_> = book.billing.iter().filter(|row| &*row.kind == "refund").collect();
        assert_eq!((refunds.len(), refunds[0].occurred_at), (1, at(7)), "{order:?}");
    }
}

#[test]
fn a_dispute_finds_its_customer_by_the_charge_even_when_that_comes_later() {
    let mut script = Script::default();
    script.other("charge.dispute.created", 5, dispute("dp_1", "ch_1"));
    script.other("charge.succeeded", 0, Object::Charge(charge("ch_1", Some("cus_1"), 0)));
    let mut book = Book::of(&script.events[..1]);
    assert_eq!((told(&book).len(), book.reasons()), (0, vec!["customer_unknown"]));
    book.apply(&script.events[1..]);
    assert_eq!(told(&book), [fact("dispute", "dp_1", "100.000000")]);
    assert_eq!(book.billing[0].customer_id.as_str(), "cus_1");
    book.apply(&script.events);
    assert_eq!((told(&book).len(), book.duplicates), (1, 1));
}

#[test]
fn a_payment_whose_id_is_forgotten_is_late_when_it_is_told_again_among_a_backlog() {
    let mut script = Script::default();
    for month in 0..3 {
        script.other("invoice.paid", month * 31 * DAY, invoice(&format!("in_{month}"), "paid", 10_000));
    }
    let mut book = Book::new(Rules::default());
    script.events.iter().for_each(|event| book.apply(std::slice::from_ref(event)));
    assert_eq!((told(&book).len(), book.late.len()), (3, 0));
    book.ledger.set_folding(false);
    book.apply(&script.events);
    assert_eq!(told(&book).len(), 3, "no payment counts twice");
    assert_eq!((book.late.len() as u64 + book.duplicates, book.late.len()), (3, 2), "and none is lost");
}

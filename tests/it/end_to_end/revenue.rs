//! The books of recognised revenue against the invoices and refunds of the events themselves.

use std::collections::BTreeMap;

use serde_json::Value;

use super::support::{Site, micros};

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// An invoice by its newest event: currency, total, tax; whether it was paid, voided or given up.
struct Invoice {
    currency: String,
    total: i64,
    tax: i64,
    status: String,
}

/// What the events say was billed and taken back, net of tax, in millionths of major units by currency.
fn expected(events: &str) -> BTreeMap<String, (f64, f64)> {
    let mut invoices = BTreeMap::<String, Invoice>::new();
    let mut pays = BTreeMap::<String, String>::new();
    let mut refunds = BTreeMap::<String, (String, i64)>::new();
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let object = &event["data"]["object"];
        let id = || text(object, "/id").unwrap().to_owned();
        match text(object, "/object").unwrap() {
            "invoice" => {
                let status = text(object, "/status").unwrap();
                let taxes = object.get("total_taxes").or(object.get("total_tax_amounts")).and_then(Value::as_array);
                let tax = taxes.map_or(0, |taxes| taxes.iter().map(|tax| number(tax, "/amount")).sum());
                if let Some(intent) = text(object, "/payment_intent") {
                    pays.insert(intent.to_owned(), id());
                }
                let last = invoices.get(&id()).is_some_and(|known| known.status != "open");
                if status != "draft" && !last {
                    let currency = text(object, "/currency").unwrap().to_owned();
                    let total = number(object, "/total");
                    invoices.insert(id(), Invoice { currency, total, tax, status: status.to_owned() });
                }
            }
            "invoice_payment" => {
                let intent = text(object, "/payment/payment_intent").unwrap();
                pays.insert(intent.to_owned(), text(object, "/invoice").unwrap().to_owned());
            }
            "refund" => {
                let intent = text(object, "/payment_intent").unwrap().to_owned();
                refunds.insert(id(), (intent, number(object, "/amount")));
            }
            _ => {}
        }
    }
    let mut sums = BTreeMap::<String, (f64, f64)>::new();
    let unit = |currency: &str| if currency == "jpy" { 1e6 } else { 1e4 };
    for invoice in invoices.values() {
        let net = (invoice.total - invoice.tax) as f64 * unit(&invoice.currency);
        let sum = sums.entry(invoice.currency.clone()).or_default();
        sum.0 += net;
        if matches!(invoice.status.as_str(), "void" | "uncollectible") {
            sum.1 += net;
        }
    }
    assert!(refunds.len() > 3, "{} refunds prove little", refunds.len());
    for (intent, amount) in refunds.values() {
        let invoice = &invoices[&pays[intent]];
        let share = (invoice.total - invoice.tax) as f64 / invoice.total as f64;
        sums.get_mut(&invoice.currency).unwrap().1 += *amount as f64 * share * unit(&invoice.currency);
    }
    sums
}

fn check(arguments: &str) {
    let site = Site::new();
    site.simulate("events.jsonl", &format!("--customers 300 --months 8 --seed 5 {arguments}"));
    site.run("ingest events.jsonl --data-dir data");
    site.run("run --once --data-dir data");
    let csv = site.query(
        "data",
        "csv",
        "SELECT currency, SUM(billed), SUM(taken_back), SUM(recognised) - SUM(contra), SUM(deferred)
         FROM recognised_revenue GROUP BY currency ORDER BY currency",
    );
    let expected = expected(&site.read("events.jsonl"));
    assert!(expected.len() > 1, "{expected:?}");
    assert_eq!(csv.lines().count() - 1, expected.len(), "{csv}");
    for line in csv.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let [billed, taken_back, earned, deferred] = [1, 2, 3, 4].map(|cell| micros(cells[cell]));
        let (ours, theirs) = ((billed as f64, taken_back as f64), expected[cells[0]]);
        assert!((ours.0 - theirs.0).abs() < 1.0, "{line}: billed {}", theirs.0);
        // Refunds are split among lines and months, each rounded.
        assert!((ours.1 - theirs.1).abs() < 1_000.0, "{line}: taken back {}", theirs.1);
        assert_eq!((earned, deferred), (billed - taken_back, 0), "{line}");
    }
    let open = site.number(
        "data",
        "SELECT count(*) FROM (
             SELECT month, currency, SUM(recognised) - SUM(contra) + SUM(deferred) - SUM(billed) + SUM(taken_back) AS open
             FROM recognised_revenue GROUP BY month, currency) WHERE open <> 0",
    );
    assert_eq!(open, 0, "months whose books do not close");
    assert_eq!(site.number("data", "SELECT count(*) FROM ledger_gaps"), 0);
}

#[test]
fn what_was_billed_and_taken_back_is_in_the_books_and_they_close_in_every_month() {
    check("");
}

#[test]
fn the_books_close_in_the_older_shape_too_and_when_events_come_late_and_twice() {
    check("--api-version 2024-06-20 --disorder 0.2");
    check("--disorder 0.2");
}

//! Revenue recognition: the worked cases, Stripe's published examples, and what holds on random histories.

use chrono::{NaiveDate, Utc};
use proptest::prelude::*;
use tributary::{
    ledger::{
        recognition::{Method, Obligation, Period, TakenBack},
        rows::{Booked, RecognisedRevenue},
    },
    money::{Amount, Rational},
    stripe::types::*,
    time::EventTime,
};

use super::book::*;

/// 15 of January 2026, 12:30 as `"2026-01-15T12:30"`.
fn instant(text: &str) -> EventTime {
    let text = if text.contains('T') { format!("{text}:00Z") } else { format!("{text}T00:00:00Z") };
    EventTime::from_micros(text.parse::<chrono::DateTime<Utc>>().unwrap().timestamp_micros())
}

fn seconds(text: &str) -> i64 {
    instant(text).seconds() - START
}

fn obligation(dollars: i64, start: &str, end: &str) -> Obligation {
    Obligation {
        net_minor: whole(dollars * 100),
        currency: currency("usd"),
        period: Period { start: instant(start), end: instant(end) },
        billed_at: instant(start),
    }
}

fn by_month(months: &[(NaiveDate, Booked)], part: impl Fn(&Booked) -> Amount) -> Vec<String> {
    months.iter().map(|(month, booked)| format!("{} {}", month.format("%b"), short_amount(part(booked)))).collect()
}

fn short_amount(amount: Amount) -> String {
    let text = amount.to_string();
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

#[test]
fn a_line_of_120_dollars_from_15_june_noon_to_13_october_noon_by_each_method() {
    let line = obligation(120, "2026-06-15T12:00", "2026-10-13T12:00");
    let recognised = |method| by_month(&line.months(method).unwrap(), |booked| booked.recognised);
    assert_eq!(recognised(Method::Millisecond), ["Jun 15.5", "Jul 31", "Aug 31", "Sep 30", "Oct 12.5"]);
    assert_eq!(recognised(Method::Day), ["Jun 16", "Jul 31", "Aug 31", "Sep 30", "Oct 12"]);
    assert_eq!(recognised(Method::Month), ["Jun 30", "Jul 30", "Aug 30", "Sep 30"]);
    let deferred = by_month(&line.months(Method::Millisecond).unwrap(), |booked| booked.deferred);
    assert_eq!(deferred, ["Jun 104.5", "Jul -31", "Aug -31", "Sep -30", "Oct -12.5"]);
}

#[test]
fn a_monthly_line_of_31_dollars_from_15_january_has_17_recognised_and_14_deferred_at_the_months_end() {
    let line = obligation(31, "2026-01-15", "2026-02-15");
    for method in [Method::Millisecond, Method::Day] {
        let books = line.at(method, instant("2026-02-01")).unwrap();
        assert_eq!((short_amount(books.recognised), short_amount(books.deferred)), ("17".into(), "14".into()));
    }
}

#[test]
fn an_annual_line_of_365_dollars_is_recognised_by_the_days_of_each_month() {
    let months = obligation(365, "2026-01-01", "2027-01-01").months(Method::Millisecond).unwrap();
    assert_eq!(by_month(&months[..3], |booked| booked.recognised), ["Jan 31", "Feb 28", "Mar 31"]);
    assert_eq!(by_month(&months[..3], |booked| booked.deferred), ["Jan 334", "Feb -28", "Mar -31"]);
}

#[test]
fn a_refund_of_an_annual_line_of_120_dollars_in_month_2_is_20_contra_revenue_and_100_less_deferred() {
    let line = obligation(120, "2026-01-01", "2027-01-01");
    let refund = TakenBack { at: instant("2026-02-10"), net_minor: whole(12_000) };
    let back = line.months_taken_back(&refund, Method::Month).unwrap();
    let (month, february) = back[0];
    assert_eq!((month, short_amount(february.contra)), (instant("2026-02-01").utc_day(), "20".into()));
    assert_eq!((short_amount(february.deferred), short_amount(february.recognised)), ("-100".into(), "0".into()));
    // Nothing more is earned: every later month takes back its tenth dollars.
    let both = |month: usize| {
        let line = line.months(Method::Month).unwrap()[month].1;
        line.plus(back[month - 1].1).unwrap()
    };
    assert!((2..12).all(|month| both(month).is_nothing()));
}

#[test]
fn half_of_a_quarter_credited_after_a_month_leaves_half_of_the_rest() {
    // Stripe's example of a credit note after payment: 90 USD from 1 January for three months, 45 credited on 1 February.
    let line = obligation(90, "2026-01-01", "2026-04-01");
    let note = TakenBack { at: instant("2026-02-01"), net_minor: whole(4_500) };
    for method in [Method::Millisecond, Method::Day] {
        let mut months = line.months(method).unwrap();
        for (month, booked) in line.months_taken_back(&note, method).unwrap() {
            let row = months.iter_mut().find(|(other, _)| *other == month).unwrap();
            row.1 = row.1.plus(booked).unwrap();
        }
        assert_eq!(by_month(&months, |booked| booked.recognised), ["Jan 31", "Feb 14", "Mar 15.5"]);
        assert_eq!(by_month(&months, |booked| booked.deferred), ["Jan 59", "Feb -43.5", "Mar -15.5"]);
        assert_eq!(by_month(&months, |booked| booked.contra), ["Jan 0", "Feb 15.5", "Mar 0"]);
    }
}

#[test]
fn a_credit_note_in_the_instant_of_billing_is_a_discount() {
    // Stripe's example of a credit note before payment: 120 USD for three months, 30 credited, 90 earned.
    let line = obligation(120, "2026-01-01", "2026-04-01");
    let note = TakenBack { at: instant("2026-01-01"), net_minor: whole(3_000) };
    let earned: Vec<String> = line
        .months(Method::Day)
        .unwrap()
        .into_iter()
        .zip(line.months_taken_back(&note, Method::Day).unwrap())
        .map(|((_, line), (_, note))| short_amount(line.plus(note).unwrap().recognised))
        .collect();
    assert_eq!(earned, ["31", "28", "31"]);
}

#[test]
fn a_period_in_a_month_is_earned_in_it_and_a_line_without_a_period_when_it_is_billed() {
    let one_month =
        |start: &str, end: &str| by_month(&obligation(10, start, end).months(Method::Month).unwrap(), |b| b.recognised);
    assert_eq!(one_month("2026-01-15", "2026-02-15"), ["Jan 10"]);
    assert_eq!(one_month("2026-01-31", "2026-02-28"), ["Jan 10"]);
    assert_eq!(one_month("2026-04-21", "2026-05-01"), ["Apr 10"]);
    assert_eq!(one_month("2026-01-15", "2026-02-16"), ["Jan 5", "Feb 5"]);
    for method in [Method::Millisecond, Method::Day, Method::Month] {
        let months = obligation(10, "2026-03-05T08:00", "2026-03-05T08:00").months(method).unwrap();
        assert_eq!(by_month(&months, |booked| booked.recognised), ["Mar 10"]);
        assert_eq!(by_month(&months, |booked| booked.deferred), ["Mar 0"]);
    }
}

#[test]
fn usage_billed_in_arrears_is_revenue_of_the_month_of_use_and_not_yet_billed_until_then() {
    let line = Obligation { billed_at: instant("2026-02-01T01:00"), ..obligation(50, "2026-01-01", "2026-02-01") };
    let months = line.months(Method::Millisecond).unwrap();
    assert_eq!(by_month(&months, |booked| booked.recognised), ["Jan 50", "Feb 0"]);
    assert_eq!(by_month(&months, |booked| booked.deferred), ["Jan -50", "Feb 50"]);
}

// ---- From events ----

fn invoice_of(id: &str, lines: Vec<InvoiceLine>, tax: i64) -> Invoice {
    let net: i64 = lines.iter().map(InvoiceLine::net).sum();
    Invoice {
        id: Some(id.into()),
        customer: Some("cus_1".into()),
        subscription: Some("sub_1".into()),
        currency: Some(currency("usd")),
        status: Some("open".into()),
        finalized_at: lines[0].period_start,
        total: Some(net + tax),
        tax: Some(TaxAmounts { total: tax, inclusive: 0 }),
        amount_remaining: Some(net + tax),
        payments: vec![format!("pi_{id}")],
        lines,
        ..Invoice::default()
    }
}

fn line_of(id: &str, minor: i64, start: &str, end: &str) -> InvoiceLine {
    InvoiceLine {
        id: id.into(),
        amount: minor,
        period_start: Some(instant(start)),
        period_end: Some(instant(end)),
        ..InvoiceLine::default()
    }
}

fn annual() -> Invoice {
    invoice_of("in_1", vec![line_of("il_1", 12_000, "2026-01-01", "2027-01-01")], 2_400)
}

fn told(kind: &str, time: &str, invoice: &Invoice) -> Event {
    let object = Object::Invoice(Box::new(invoice.clone()));
    event(&format!("evt_{kind}_{time}_{}", invoice.id.as_ref().unwrap()), kind, seconds(time), object)
}

fn refund_of(id: &str, payment_intent: &str, minor: i64, status: &str) -> Object {
    Object::Refund(Refund {
        id: id.into(),
        charge: None,
        payment_intent: Some(payment_intent.into()),
        amount: minor,
        currency: Some(currency("usd")),
        status: Some(status.into()),
        created: None,
    })
}

fn intent(id: &str) -> Event {
    let intent = PaymentIntent {
        id: id.into(),
        customer: Some("cus_1".into()),
        amount: 1,
        currency: None,
        status: None,
        latest_charge: None,
        invoice: None,
    };
    event(&format!("evt_{id}"), "payment_intent.succeeded", 0, Object::PaymentIntent(intent))
}

fn book_by_month(events: &[Event]) -> Book {
    let mut book = Book::new(tributary::ledger::Rules { recognition: Method::Month, ..Default::default() });
    book.apply(events);
    book
}

/// All rows of a book, added up up to the month.
fn balance(book: &Book, month: &str) -> Booked {
    let month = instant(month).utc_day();
    total(book.recognised.iter().filter(|row| row.month <= month))
}

fn total<'a>(rows: impl Iterator<Item = &'a RecognisedRevenue>) -> Booked {
    rows.fold(Booked::default(), |sum, row| sum.plus(row.booked).unwrap())
}

fn said(booked: Booked) -> [String; 5] {
    [booked.billed, booked.taken_back, booked.recognised, booked.contra, booked.deferred].map(short_amount)
}

#[test]
fn a_refunded_annual_invoice_is_split_by_what_was_earned_net_of_tax() {
    let events = [
        told("invoice.finalized", "2026-01-01", &annual()),
        intent("pi_in_1"),
        event("evt_refund", "refund.created", seconds("2026-02-10"), refund_of("re_1", "pi_in_1", 14_400, "succeeded")),
    ];
    let book = book_by_month(&events);
    assert_eq!(said(balance(&book, "2026-01-01")), ["120", "0", "10", "0", "110"]);
    assert_eq!(said(balance(&book, "2026-02-01")), ["120", "120", "20", "20", "0"]);
    assert_eq!(said(balance(&book, "2030-01-01")), ["120", "120", "20", "20", "0"]);
    let february =
        book.recognised.iter().filter(|row| row.source == "refund" && row.month == instant("2026-02-01").utc_day());
    assert_eq!(said(total(february)), ["0", "120", "0", "20", "-100"]);
}

#[test]
fn each_fact_is_booked_once_in_any_order_and_a_refund_that_fails_is_undone() {
    let paid = Invoice { status: Some("paid".into()), amount_remaining: Some(0), ..annual() };
    let mut events = vec![
        told("invoice.finalized", "2026-01-01", &annual()),
        told("invoice.paid", "2026-01-02", &paid),
        intent("pi_in_1"),
        event("evt_r1", "refund.created", seconds("2026-02-10"), refund_of("re_1", "pi_in_1", 7_200, "succeeded")),
        event("evt_r2", "refund.updated", seconds("2026-02-11"), refund_of("re_1", "pi_in_1", 7_200, "succeeded")),
        event("evt_r3", "refund.created", seconds("2026-03-10"), refund_of("re_2", "pi_in_1", 1_200, "succeeded")),
        event("evt_r4", "refund.failed", seconds("2026-04-10"), refund_of("re_2", "pi_in_1", 1_200, "failed")),
    ];
    let once = book_by_month(&events);
    assert_eq!(said(balance(&once, "2026-02-01")), ["120", "60", "20", "10", "50"]);
    assert_eq!(said(balance(&once, "2026-03-01")), ["120", "70", "25", "12.5", "37.5"]);
    assert_eq!(said(balance(&once, "2030-01-01"))[..2], ["120", "60"]);
    let sums = |book: &Book| {
        let mut sums = std::collections::BTreeMap::new();
        for row in &book.recognised {
            let key = (row.line_id.clone(), row.source, row.source_id.clone(), row.month);
            let sum: &mut Booked = sums.entry(key).or_default();
            *sum = sum.plus(row.booked).unwrap();
        }
        sums.retain(|_, booked| !booked.is_nothing());
        sums
    };
    for turn in 0..events.len() {
        events.rotate_left(1);
        let mut book = Book::new(tributary::ledger::Rules { recognition: Method::Month, ..Default::default() });
        for event in events.iter().chain(&events[..turn]) {
            book.apply(std::slice::from_ref(event));
        }
        assert_eq!(sums(&book), sums(&once), "beginning with {}", events[0].id);
    }
}

#[test]
fn a_void_takes_back_what_is_left_and_bad_debt_what_is_owed_until_it_is_paid_after_all() {
    let status = |status: &str, remaining| Invoice {
        status: Some(status.into()),
        amount_remaining: Some(remaining),
        ..annual()
    };
    let finalized = told("invoice.finalized", "2026-01-01", &annual());
    let given_up = told("invoice.marked_uncollectible", "2026-03-10", &status("uncollectible", 14_400));
    let book = book_by_month(&[finalized.clone(), told("invoice.voided", "2026-03-10", &status("void", 14_400))]);
    assert_eq!(said(balance(&book, "2026-03-01")), ["120", "120", "30", "30", "0"]);
    assert!(book.recognised.iter().any(|row| row.source == "void"));
    let book = book_by_month(&[finalized.clone(), given_up.clone()]);
    assert_eq!(said(balance(&book, "2026-12-01")), ["120", "120", "30", "30", "0"]);
    let book =
        book_by_month(&[finalized.clone(), given_up.clone(), told("invoice.paid", "2026-05-10", &status("paid", 0))]);
    assert_eq!(said(balance(&book, "2026-04-01")), ["120", "120", "30", "30", "0"]);
    // The two months nobody thought to be earned any more are earned with the payment, as less contra-revenue.
    assert_eq!(said(balance(&book, "2026-05-01")), ["120", "0", "30", "-20", "70"]);
    assert_eq!(said(balance(&book, "2026-12-01")), ["120", "0", "100", "-20", "0"]);
    let voided_after = told("invoice.voided", "2026-04-10", &status("void", 14_400));
    let book = book_by_month(&[finalized, given_up, voided_after]);
    assert_eq!(said(balance(&book, "2026-12-01")), ["120", "120", "30", "30", "0"]);
}

#[test]
fn a_credit_note_takes_back_from_the_lines_it_names_and_its_refund_is_not_counted_again() {
    let invoice = invoice_of(
        "in_1",
        vec![line_of("il_1", 12_000, "2026-01-01", "2027-01-01"), line_of("il_2", 6_000, "2026-01-01", "2026-02-01")],
        0,
    );
    let note = CreditNote {
        id: "cn_1".into(),
        invoice: Some("in_1".into()),
        customer: Some("cus_1".into()),
        currency: Some(currency("usd")),
        status: Some("issued".into()),
        created: Some(instant("2026-02-10")),
        amount: Some(6_000),
        tax: Some(TaxAmounts::default()),
        refunds: vec!["re_1".into()],
        lines: vec![CreditNoteLine {
            id: "cnli_1".into(),
            invoice_line: Some("il_1".into()),
            amount: 6_000,
            ..CreditNoteLine::default()
        }],
        ..CreditNote::default()
    };
    let events = [
        told("invoice.finalized", "2026-01-01", &invoice),
        intent("pi_in_1"),
        event("evt_refund", "refund.created", seconds("2026-02-10"), refund_of("re_1", "pi_in_1", 6_000, "succeeded")),
        event("evt_note", "credit_note.created", seconds("2026-02-10"), Object::CreditNote(Box::new(note.clone()))),
    ];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let book = book_by_month(&order.map(|index| events[index].clone()));
        assert_eq!(said(balance(&book, "2026-02-01")), ["180", "60", "80", "10", "50"], "{order:?}");
        let taken: Vec<_> = book.recognised.iter().filter(|row| row.source == "credit_note").collect();
        assert!(taken.iter().all(|row| &*row.line_id == "il_1"));
    }
    // A note without lines is shared by what the lines bill; a voided one is undone.
    let whole_note = CreditNote { lines: Vec::new(), amount: Some(1_800), refunds: Vec::new(), ..note };
    let voided =
        CreditNote { status: Some("void".into()), voided_at: Some(instant("2026-03-10")), ..whole_note.clone() };
    let issue =
        event("evt_note", "credit_note.created", seconds("2026-02-10"), Object::CreditNote(Box::new(whole_note)));
    let void = event("evt_void", "credit_note.voided", seconds("2026-03-10"), Object::CreditNote(Box::new(voided)));
    let book = book_by_month(&[events[0].clone(), issue.clone()]);
    assert_eq!(said(balance(&book, "2026-02-01")), ["180", "18", "80", "8", "90"]);
    let book = book_by_month(&[events[0].clone(), issue, void]);
    assert_eq!(said(balance(&book, "2030-01-01"))[..2], ["180", "0"]);
    assert_eq!(short_amount(balance(&book, "2030-01-01").deferred), "0");
}

#[test]
fn a_payment_and_its_invoice_are_linked_by_an_object_of_their_own() {
    let mut invoice = annual();
    invoice.payments.clear();
    let link = InvoicePayment { id: "inpay_1".into(), invoice: Some("in_1".into()), payments: vec!["pi_9".into()] };
    let events = [
        told("invoice.finalized", "2026-01-01", &invoice),
        intent("pi_9"),
        event("evt_refund", "refund.created", seconds("2026-02-10"), refund_of("re_1", "pi_9", 14_400, "succeeded")),
        event("evt_link", "invoice_payment.paid", seconds("2026-01-02"), Object::InvoicePayment(link)),
    ];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [3, 1, 2, 0]] {
        let book = book_by_month(&order.map(|index| events[index].clone()));
        assert_eq!(said(balance(&book, "2026-02-01")), ["120", "120", "20", "20", "0"], "{order:?}");
        assert!(!book.reasons().contains(&"refund_without_invoice"));
    }
    // Without the link there is nothing to take it back from; after the days in which it could come, it is a gap.
    let other = invoice_of("in_2", vec![line_of("il_9", 100, "2026-03-01", "2026-04-01")], 0);
    let later = told("invoice.finalized", "2026-03-01", &other);
    let mut book = book_by_month(&events[..3]);
    book.apply(&[later]);
    assert_eq!(book.reasons(), ["refund_without_invoice"]);
}

#[test]
fn lines_the_event_does_not_carry_are_booked_by_the_invoices_total_and_reported() {
    let mut invoice = annual();
    invoice.total = Some(12_000 + 2_400 + 5_000);
    invoice.lines_truncated = true;
    let book = book_by_month(&[told("invoice.finalized", "2026-01-01", &invoice)]);
    assert_eq!(short_amount(balance(&book, "2030-01-01").billed), "170");
    assert!(book.recognised.iter().any(|row| &*row.line_id == "in_1:rest"));
    assert_eq!(book.reasons(), ["invoice_lines_truncated"]);
}

#[test]
fn an_invoice_earned_half_a_year_ago_is_forgotten_and_never_billed_again() {
    let first = invoice_of("in_1", vec![line_of("il_1", 3_100, "2026-01-01", "2026-02-01")], 0);
    let second = invoice_of("in_2", vec![line_of("il_2", 3_100, "2026-08-01", "2026-09-01")], 0);
    let voided = Invoice { status: Some("void".into()), ..first.clone() };
    let mut book = book_by_month(&[
        told("invoice.finalized", "2026-01-01", &first),
        told("invoice.paid", "2026-07-25", &first),
        told("invoice.finalized", "2026-08-01", &second),
        told("invoice.voided", "2026-08-02", &voided),
    ]);
    assert_eq!(
        (short_amount(balance(&book, "2030-01-01").billed), book.reasons()),
        ("62".into(), vec!["invoice_forgotten"])
    );
    // While a backlog is read nothing is forgotten.
    book = Book::new(tributary::ledger::Rules::default());
    book.ledger.set_folding(false);
    book.apply(&[
        told("invoice.finalized", "2026-08-01", &second),
        told("invoice.finalized", "2026-01-01", &first),
        told("invoice.voided", "2026-08-02", &voided),
    ]);
    assert_eq!(said(balance(&book, "2030-01-01"))[..2], ["62", "31"]);
    assert!(book.reasons().is_empty());
}

/// What a random history is made of: lines of one invoice, and what happens to it.
#[derive(Clone, Debug)]
struct Happening {
    kind: u8,
    day: i64,
    minor: i64,
    line: prop::sample::Index,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = (0..6_u8, 1..500_i64, 1..4_000_i64, any::<prop::sample::Index>());
    prop::collection::vec(one.prop_map(|(kind, day, minor, line)| Happening { kind, day, minor, line }), 0..6)
}

fn lines() -> impl Strategy<Value = Vec<InvoiceLine>> {
    let one = (-3_000..9_000_i64, -40..40_i64, 0..400_i64, 0..86_400_i64, 0..200_i64, 0..200_i64);
    prop::collection::vec(one, 1..4).prop_map(|lines| {
        let line = |(number, (amount, from, days, second, discount, tax)): (usize, (i64, i64, i64, i64, i64, i64))| {
            InvoiceLine {
                id: format!("il_{number}"),
                amount,
                discount,
                tax: Some(TaxAmounts { total: tax, inclusive: tax }),
                period_start: Some(at(from * DAY + second)),
                period_end: Some(at((from + days) * DAY + second)),
                ..InvoiceLine::default()
            }
        };
        lines.into_iter().enumerate().map(line).collect()
    })
}

fn history(lines: Vec<InvoiceLine>, happenings: &[Happening]) -> Vec<Event> {
    let net: i64 = lines.iter().map(InvoiceLine::net).sum();
    let exclusive = 300;
    let mut invoice = Invoice { finalized_at: Some(at(0)), ..invoice_of("in_1", lines.clone(), exclusive) };
    let inclusive: i64 = lines.iter().filter_map(|line| line.tax).map(|tax| tax.inclusive).sum();
    invoice.total = Some(net + inclusive + exclusive);
    invoice.tax = Some(TaxAmounts { total: inclusive + exclusive, inclusive });
    let object = |invoice: &Invoice| Object::Invoice(Box::new(invoice.clone()));
    let mut events = vec![event("evt_0", "invoice.finalized", 0, object(&invoice)), intent("pi_in_1")];
    for (number, happening) in happenings.iter().enumerate() {
        let (seconds, id) = (happening.day * DAY + happening.minor, format!("evt_h{number}"));
        let (kind, object) = match happening.kind {
            0 => ("invoice.voided", object(&Invoice { status: Some("void".into()), ..invoice.clone() })),
            1 => {
                let owed = Some(happening.minor);
                let status = Some("uncollectible".into());
                ("invoice.marked_uncollectible", object(&Invoice { status, amount_remaining: owed, ..invoice.clone() }))
            }
            2 => ("invoice.paid", object(&Invoice { status: Some("paid".into()), ..invoice.clone() })),
            3 => ("refund.created", refund_of(&format!("re_{number}"), "pi_in_1", happening.minor, "succeeded")),
            4 => ("refund.failed", refund_of(&format!("re_{}", number / 2), "pi_in_1", happening.minor, "failed")),
            _ => {
                let line = &lines[happening.line.index(lines.len())];
                let named = happening.minor % 2 == 0;
                let note = CreditNote {
                    id: format!("cn_{number}"),
                    invoice: Some("in_1".into()),
                    customer: Some("cus_1".into()),
                    currency: invoice.currency,
                    created: Some(at(seconds)),
                    amount: Some(happening.minor),
                    tax: Some(TaxAmounts::default()),
                    voided_at: (happening.minor % 5 == 0).then(|| at(seconds + 9 * DAY)),
                    lines: vec![CreditNoteLine {
                        id: "cnli".into(),
                        invoice_line: named.then(|| line.id.clone()),
                        amount: happening.minor,
                        ..CreditNoteLine::default()
                    }],
                    ..CreditNote::default()
                };
                ("credit_note.created", Object::CreditNote(Box::new(note)))
            }
        };
        events.push(event(&id, kind, seconds, object));
    }
    events
}

/// Revenue of a line by hand, day after day: what each day earns of what is not taken back by then.
fn earned_by_day(line: &Obligation, backs: &[TakenBack], until: EventTime) -> Rational {
    let (first, last) = (line.period.start.utc_day(), line.period.end.utc_day());
    let days: Vec<NaiveDate> = first.iter_days().take_while(|day| *day < last).collect();
    let days = if days.is_empty() { vec![first] } else { days };
    let part = |amount: &Rational| amount / Rational::from_integer(days.len().into());
    let begins = |day: &NaiveDate| {
        let midnight = EventTime::from_seconds(day.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp());
        midnight.max(line.period.start)
    };
    let mut earned = whole(0);
    for _ in days.iter().filter(|day| begins(day) < until) {
        earned += part(&line.net_minor);
        for back in backs.iter().filter(|back| back.at < until) {
            // Taken back of a day gone by: contra-revenue. Of a day to come: never earned.
            earned -= part(&back.net_minor);
        }
    }
    earned
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recognised_and_deferred_are_billed_less_what_was_taken_back_at_every_date(
        lines in lines(),
        happenings in happenings(),
        method in prop_oneof![Just(Method::Millisecond), Just(Method::Day), Just(Method::Month)],
        turn in any::<prop::sample::Index>(),
    ) {
        let mut events = history(lines.clone(), &happenings);
        let rules = tributary::ledger::Rules { recognition: method, ..Default::default() };
        let mut book = Book::new(rules.clone());
        book.ledger.set_folding(false);
        book.apply(&events);
        let mut months: Vec<NaiveDate> = book.recognised.iter().map(|row| row.month).collect();
        months.sort_unstable();
        months.dedup();
        let micros = |amount: Amount| amount.micros();
        for month in &months {
            let books = total(book.recognised.iter().filter(|row| row.month <= *month));
            prop_assert_eq!(
                micros(books.recognised) - micros(books.contra) + micros(books.deferred),
                micros(books.billed) - micros(books.taken_back)
            );
        }
        // In the end everything is earned or taken back, and what was billed is what the lines say.
        let all = total(book.recognised.iter());
        let net: i64 = lines.iter().map(InvoiceLine::net).sum();
        prop_assert_eq!(micros(all.deferred), 0);
        prop_assert_eq!(micros(all.billed), i128::from(net) * 10_000);
        // Voided, nothing of it is left, wherever the parts went before.
        let events_after_void = happenings.iter().any(|happening| happening.kind == 0)
            && !happenings.iter().any(|happening| happening.kind > 1);
        if events_after_void {
            prop_assert!((micros(all.recognised) - micros(all.contra)).abs() <= 50, "{:#?}", book.recognised);
        }
        // In another order, twice, one by one: the same sums in every month.
        let by_month = |book: &Book| {
            let mut sums = std::collections::BTreeMap::<NaiveDate, Booked>::new();
            for row in &book.recognised {
                let sum = sums.entry(row.month).or_default();
                *sum = sum.plus(row.booked).unwrap();
            }
            sums.retain(|_, booked| !booked.is_nothing());
            sums
        };
        let turn = turn.index(events.len());
        events.rotate_left(turn);
        let mut other = Book::new(rules);
        other.ledger.set_folding(false);
        for event in events.iter().chain(&events[..1]) {
            other.apply(std::slice::from_ref(event));
        }
        prop_assert_eq!(by_month(&book), by_month(&other));
    }

    #[test]
    fn by_day_the_books_are_what_counting_days_gives(
        net in -9_000..9_000_i64,
        days in 0..400_i64,
        start in 0..86_400_i64,
        backs in prop::collection::vec((-30..500_i64, 0..86_400_i64, 1..3_000_i64), 0..3),
        until in 1..450_i64,
    ) {
        let line = Obligation {
            net_minor: whole(net),
            currency: currency("usd"),
            period: Period { start: at(start), end: at(start + days * DAY) },
            billed_at: at(start),
        };
        let backs: Vec<TakenBack> = backs
            .into_iter()
            .map(|(day, second, minor)| TakenBack { at: at(day * DAY + second), net_minor: whole(minor) })
            .collect();
        let until = at(until * DAY);
        let mut books = line.at(Method::Day, until).unwrap();
        for back in &backs {
            books = books.plus(line.at_taken_back(back, Method::Day, until).unwrap()).unwrap();
        }
        let exact = Amount::from_minor(&earned_by_day(&line, &backs, until), line.currency).unwrap();
        let ours = books.recognised.micros() - books.contra.micros();
        prop_assert!((ours - exact.micros()).abs() <= 1 + backs.len() as i128, "{} {}", ours, exact);
    }
}

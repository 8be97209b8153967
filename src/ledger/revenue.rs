//! The books of one customer: what its finalised invoices bill, what was taken back of it, and in which month which
//! part is revenue.
//!
//! Facts are kept, rows are not: an event adds a fact, and what is written is the difference between the rows before
//! and after. So each fact counts once however many events tell it, in any order, and a late one corrects the months it
//! concerns by rows of its own. Amounts are net of tax. A refund and the credit note it pays out are one thing and count
//! as the credit note.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::NaiveDate;
use num_bigint::BigInt;
use num_traits::Zero;
use serde::{Deserialize, Serialize};

use super::{
    content::insert_tight,
    hash::short,
    history::HORIZON_DAYS,
    recognition::{Booked, Method, Obligation, Period, TakenBack, net_of, share_out},
    rows::{Delta, LedgerGap},
};
use crate::{
    money::{Currency, Error, Rational},
    stripe::{
        ids::{CustomerId, EventId, PriceId, ProductId, SubscriptionId},
        types::{CreditNote, Event, Invoice, Object, Scope},
    },
    time::EventTime,
};

/// Days for which an invoice is remembered after it was finalised and earned: so long it can be refunded, credited or
/// given up.
pub const REMEMBERED_DAYS: i64 = 6 * HORIZON_DAYS;

/// Invoices remembered of one customer; past that the one finalised first goes.
pub const MAX_INVOICES: usize = 256;

/// Refunds of one customer that wait for their invoice, or belong to one; past that the oldest go.
pub const MAX_REFUNDED_PAYMENTS: usize = 128;

/// Days after which a refund without an invoice is reported: so long Stripe tries to deliver an event.
const LINK_DAYS: i64 = 3;

/// A change of the books in one month, for one line of an invoice. Appended; months are the sums.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct RecognisedRevenue {
    pub scope: Scope,
    pub customer_id: CustomerId,
    pub invoice_id: Arc<str>,
    pub line_id: Arc<str>,
    /// `invoice`, `refund`, `credit_note`, `void`, `uncollectible` or `recovered`.
    pub source: &'static str,
    pub source_id: Arc<str>,
    /// Its first day, in UTC.
    pub month: NaiveDate,
    pub subscription_id: Option<SubscriptionId>,
    pub price_id: Option<PriceId>,
    pub product_id: Option<ProductId>,
    pub currency: Currency,
    pub booked: Booked,
    pub known_at: EventTime,
    pub event_id: EventId,
}

/// What a change of the books comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Source {
    Invoice,
    Refund,
    CreditNote,
    Void,
    Uncollectible,
    Recovered,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Invoice => "invoice",
            Self::Refund => "refund",
            Self::CreditNote => "credit_note",
            Self::Void => "void",
            Self::Uncollectible => "uncollectible",
            Self::Recovered => "recovered",
        }
    }
}

/// The books of one customer.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Books {
    /// By a hash of the invoice's id.
    bills: Vec<(u64, Bill)>,
    /// Which invoice a charge or payment intent pays.
    pays: Vec<(u64, u64)>,
    /// By charge, or by payment intent where only that is known.
    refunded: Vec<(u64, Refunded)>,
    newest: EventTime,
    /// The latest time of finalisation among the invoices that were forgotten.
    forgotten: Option<EventTime>,
}

/// An invoice.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Bill {
    /// Empty until an event of the finalised invoice itself comes.
    id: Arc<str>,
    currency: Option<Currency>,
    finalized_at: EventTime,
    /// What it charges, tax included, in minor units.
    gross: i64,
    lines: Vec<BillLine>,
    truncated: bool,
    voided_at: Option<EventTime>,
    /// When it was given up, and how much of it was still owed.
    given_up: Option<(EventTime, i64)>,
    /// When it was paid.
    paid_at: Option<EventTime>,
    notes: Vec<Note>,
    /// Whether it was reported that only credit notes of it are known.
    reported: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct BillLine {
    id: Arc<str>,
    subscription: Option<SubscriptionId>,
    price: Option<PriceId>,
    product: Option<ProductId>,
    net: i64,
    period: Period,
}

/// A credit note.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Note {
    id: Arc<str>,
    at: EventTime,
    voided_at: Option<EventTime>,
    /// All it takes back, net of tax where the body says what is tax.
    all: i64,
    taxed: bool,
    /// What it takes back of lines by name.
    lines: Vec<(u64, i64)>,
    /// Hashes of the refunds it is paid out by.
    refunds: Vec<u64>,
}

/// What is told of the refunds of one payment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Refunded {
    charge: Arc<str>,
    /// Hashes of the ids by which its invoice may know the payment.
    ids: Vec<u64>,
    /// Whether it was reported to have no invoice.
    reported: bool,
    by_id: Vec<RefundFact>,
    /// The sums that the charge itself states, by time.
    stated: Vec<(EventTime, i64)>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct RefundFact {
    id: u64,
    minor: i64,
    at: EventTime,
    failed_at: Option<EventTime>,
}

/// An event as it is heard, and where what it changes is written.
struct Heard<'a> {
    event: &'a Event,
    appended_at: EventTime,
    customer: &'a CustomerId,
    method: Method,
    delta: &'a mut Delta,
}

impl Heard<'_> {
    /// Writes the difference between an invoice's rows before and after.
    fn write(
        &mut self,
        before: &Bill,
        rows_before: Result<Rows, Error>,
        after: &Bill,
        rows_after: Result<Rows, Error>,
    ) {
        if rows_before.is_ok() && rows_after.is_err() {
            self.gap("amount_too_large", &after.id);
        }
        let (old, new) = (rows_before.unwrap_or_default(), rows_after.unwrap_or_default());
        let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for row in keys {
            let booked = |rows: &Rows| rows.get(row).copied().unwrap_or_default();
            let change = booked(&new).plus(booked(&old).negated()).filter(|change| !change.is_nothing());
            // Lines are replaced where a first body had only some of them.
            let bill = if new.contains_key(row) { after } else { before };
            let line = bill.lines.iter().find(|line| line.id == row.0);
            let (Some(change), Some(line), Some(currency)) = (change, line, bill.currency) else {
                continue;
            };
            self.delta.recognised.push(RecognisedRevenue {
                scope: self.event.scope.clone(),
                customer_id: self.customer.clone(),
                invoice_id: Arc::clone(&after.id),
                line_id: Arc::clone(&line.id),
                source: row.1.as_str(),
                source_id: Arc::clone(&row.2),
                month: row.3,
                subscription_id: line.subscription.clone(),
                price_id: line.price.clone(),
                product_id: line.product.clone(),
                currency,
                booked: change,
                known_at: self.appended_at,
                event_id: self.event.id.clone(),
            });
        }
    }

    fn gap(&mut self, reason: &str, object: &str) {
        self.delta.gaps.push(LedgerGap {
            scope: self.event.scope.clone(),
            occurred_at: self.event.created,
            known_at: self.appended_at,
            customer_id: Some(self.customer.clone()),
            object_id: object.into(),
            reason: reason.into(),
            event_id: self.event.id.clone(),
        });
    }
}

type Rows = BTreeMap<(Arc<str>, Source, Arc<str>, NaiveDate), Booked>;

impl Books {
    /// Takes in an event of the customer's.
    pub(crate) fn hear(
        &mut self,
        event: &Event,
        appended_at: EventTime,
        customer: &CustomerId,
        method: Method,
        folding: bool,
        delta: &mut Delta,
    ) {
        self.newest = self.newest.max(event.created);
        let heard = &mut Heard { event, appended_at, customer, method, delta };
        if folding {
            self.report(heard);
        }
        match &event.object {
            Object::Invoice(invoice) => {
                let Some(id) = &invoice.id else { return };
                let key = short(&[id.as_str()]);
                self.link(&invoice.payments, key, heard);
                let finalised = matches!(invoice.status.as_deref(), Some("open" | "paid" | "void" | "uncollectible"));
                if !finalised {
                    return;
                }
                if self.is_forgotten(key, invoice.finalized_at.unwrap_or(event.created), folding) {
                    heard.gap("invoice_forgotten", id.as_str());
                    return;
                }
                let truncated = self.change(key, heard, |bill| {
                    let first = bill.lines.is_empty();
                    bill.take(invoice, event.created);
                    first && bill.truncated
                });
                if truncated {
                    heard.gap("invoice_lines_truncated", id.as_str());
                }
                self.forget(method, folding);
            }
            Object::CreditNote(note) => {
                let Some(invoice) = &note.invoice else { return };
                let key = short(&[invoice.as_str()]);
                if self.is_forgotten(key, note.created.unwrap_or(event.created), folding) {
                    heard.gap("invoice_forgotten", invoice.as_str());
                    return;
                }
                self.change(key, heard, |bill| bill.note(note, event.created));
            }
            Object::Charge(charge) => {
                let mut ids = vec![charge.id.as_str().to_owned()];
                ids.extend(charge.payment_intent.clone());
                if let Some(invoice) = &charge.invoice {
                    self.link(&ids, short(&[invoice.as_str()]), heard);
                } else if let Some(invoice) = ids.iter().find_map(|id| self.pays(short(&[id]))) {
                    self.link(&ids, invoice, heard);
                }
                if charge.amount_refunded > 0 {
                    let stated = (event.created, charge.amount_refunded);
                    self.refund(&ids, heard, |refunded| {
                        if let Err(position) = refunded.stated.binary_search(&stated) {
                            refunded.stated.insert(position, stated);
                        }
                    });
                }
            }
            Object::Refund(refund) => {
                let ids: Vec<String> =
                    refund.charge.iter().map(ToString::to_string).chain(refund.payment_intent.clone()).collect();
                let failed = matches!(refund.status.as_deref(), Some("failed" | "canceled"));
                let fact = RefundFact {
                    id: short(&[&refund.id]),
                    minor: refund.amount,
                    at: event.created,
                    failed_at: failed.then_some(event.created),
                };
                self.refund(&ids, heard, |refunded| refunded.tell(fact));
            }
            Object::InvoicePayment(payment) => {
                let Some(invoice) = &payment.invoice else { return };
                let key = short(&[invoice.as_str()]);
                self.link(&payment.payments, key, heard);
            }
            _ => {}
        }
    }

    /// Notes which invoice payments pay.
    fn link(&mut self, payments: &[String], invoice: u64, heard: &mut Heard<'_>) {
        let mut fresh = Vec::new();
        for payment in payments {
            let key = short(&[payment]);
            if let Err(position) = self.pays.binary_search_by_key(&key, |(payment, _)| *payment) {
                fresh.push((position, (key, invoice)));
            }
        }
        if fresh.is_empty() {
            return;
        }
        self.change_payments(invoice, heard, |books| {
            for (_, link) in fresh {
                let position = books.pays.partition_point(|other| *other < link);
                insert_tight(&mut books.pays, position, link);
            }
        });
    }

    /// Changes what is told of the refunds of a payment.
    fn refund(&mut self, ids: &[String], heard: &mut Heard<'_>, tell: impl FnOnce(&mut Refunded)) {
        let Some(charge) = ids.first() else { return };
        let key = short(&[charge]);
        let tell = |books: &mut Self| {
            let at = books.refunded.iter().position(|(charge, _)| *charge == key).unwrap_or_else(|| {
                if books.refunded.len() >= MAX_REFUNDED_PAYMENTS {
                    books.refunded.remove(0);
                }
                books.refunded.push((key, Refunded { charge: charge.as_str().into(), ..Refunded::default() }));
                books.refunded.len() - 1
            });
            let refunded = &mut books.refunded[at].1;
            for id in ids.iter().map(|id| short(&[id])) {
                if !refunded.ids.contains(&id) {
                    refunded.ids.push(id);
                }
            }
            tell(refunded);
        };
        let known = ids.iter().map(|id| short(&[id])).chain(self.refunded_ids(key)).find_map(|id| self.pays(id));
        let Some(invoice) = known else {
            tell(self);
            return;
        };
        self.change_payments(invoice, heard, tell);
    }

    /// Reports refunds and credit notes whose invoice has not become known in the days in which its events can still come.
    fn report(&mut self, heard: &mut Heard<'_>) {
        let due = self.newest.plus_days(-LINK_DAYS);
        for index in 0..self.refunded.len() {
            let refunded = &self.refunded[index].1;
            let lost = !refunded.reported && refunded.newest() < due;
            if lost && refunded.ids.iter().all(|id| self.pays(*id).is_none()) {
                heard.gap("refund_without_invoice", &refunded.charge);
                self.refunded[index].1.reported = true;
            }
        }
        for (_, bill) in &mut self.bills {
            let note = bill.notes.first().filter(|_| bill.lines.is_empty() && !bill.reported);
            if let Some(note) = note.filter(|note| note.at < due) {
                heard.gap("credit_note_without_invoice", &note.id);
                bill.reported = true;
            }
        }
    }

    fn refunded_ids(&self, charge: u64) -> impl Iterator<Item = u64> {
        let refunded = self.refunded.iter().find(|(key, _)| *key == charge);
        refunded.into_iter().flat_map(|(_, refunded)| refunded.ids.iter().copied())
    }

    /// The invoice that a payment pays.
    fn pays(&self, payment: u64) -> Option<u64> {
        let at = self.pays.binary_search_by_key(&payment, |(payment, _)| *payment).ok()?;
        Some(self.pays[at].1)
    }

    /// Changes a bill, and writes what that changes of its rows; most events change nothing.
    fn change<T>(&mut self, key: u64, heard: &mut Heard<'_>, change: impl FnOnce(&mut Bill) -> T) -> T {
        let at = self.bills.binary_search_by_key(&key, |(key, _)| *key).unwrap_or_else(|position| {
            insert_tight(&mut self.bills, position, (key, Bill::default()));
            position
        });
        let before = self.bills[at].1.clone();
        let result = change(&mut self.bills[at].1);
        let after = &self.bills[at].1;
        if *after != before {
            heard.write(&before, self.rows(key, &before, heard.method), after, self.rows(key, after, heard.method));
        }
        result
    }

    /// Changes what is told of payments, and writes what that changes of an invoice's rows.
    fn change_payments(&mut self, key: u64, heard: &mut Heard<'_>, change: impl FnOnce(&mut Self)) {
        let Some(before) = self.bill(key).filter(|bill| !bill.lines.is_empty()).cloned() else {
            change(self);
            return;
        };
        let rows = self.rows(key, &before, heard.method);
        change(self);
        heard.write(&before, rows, &before, self.rows(key, &before, heard.method));
    }

    fn bill(&self, key: u64) -> Option<&Bill> {
        let at = self.bills.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(&self.bills[at].1)
    }

    /// The rows of an invoice, from all that is known of it.
    fn rows(&self, key: u64, bill: &Bill, method: Method) -> Result<Rows, Error> {
        let Some(currency) = bill.currency else {
            return Ok(Rows::new());
        };
        let obligations: Vec<Obligation> = bill
            .lines
            .iter()
            .map(|line| Obligation {
                net_minor: whole(line.net),
                currency,
                period: line.period,
                billed_at: bill.finalized_at,
            })
            .collect();
        let mut rows = Rows::new();
        for (index, obligation) in obligations.iter().enumerate() {
            for (month, booked) in obligation.months(method)? {
                add(
                    &mut rows,
                    (Arc::clone(&bill.lines[index].id), Source::Invoice, Arc::clone(&bill.id), month),
                    booked,
                )?;
            }
        }
        let refunded = self.refunded.iter().map(|(_, refunded)| refunded);
        let refunded = refunded.filter(|refunded| refunded.ids.iter().find_map(|id| self.pays(*id)) == Some(key));
        for (source, id, at, parts) in bill.taken_back(refunded) {
            for (index, net_minor) in parts.into_iter().enumerate().filter(|(_, part)| !part.is_zero()) {
                let back = TakenBack { at, net_minor };
                for (month, booked) in obligations[index].months_taken_back(&back, method)? {
                    add(&mut rows, (Arc::clone(&bill.lines[index].id), source, Arc::clone(&id), month), booked)?;
                }
            }
        }
        Ok(rows)
    }

    fn is_forgotten(&self, key: u64, finalized_at: EventTime, folding: bool) -> bool {
        folding && self.bill(key).is_none() && self.forgotten.is_some_and(|forgotten| finalized_at <= forgotten)
    }

    fn forget(&mut self, method: Method, folding: bool) {
        if !folding {
            return;
        }
        let horizon = self.newest.plus_days(-REMEMBERED_DAYS);
        let mut gone: Vec<u64> =
            self.bills.iter().filter(|(_, bill)| bill.done(method) < horizon).map(|(key, _)| *key).collect();
        if self.bills.len() - gone.len() > MAX_INVOICES {
            let oldest = self.bills.iter().filter(|(key, _)| !gone.contains(key));
            gone.extend(oldest.min_by_key(|(_, bill)| bill.finalized_at).map(|(key, _)| *key));
        }
        if gone.is_empty() {
            return;
        }
        let forgotten = self.bills.iter().filter(|(key, _)| gone.contains(key)).map(|(_, bill)| bill.finalized_at);
        self.forgotten = self.forgotten.max(forgotten.max());
        self.bills.retain(|(key, _)| !gone.contains(key));
        self.pays.retain(|(_, invoice)| !gone.contains(invoice));
        let mut refunded = std::mem::take(&mut self.refunded);
        refunded.retain(|(_, refunded)| {
            refunded.ids.iter().any(|id| self.pays(*id).is_some()) || refunded.newest() >= horizon
        });
        self.refunded = refunded;
    }
}

fn add(rows: &mut Rows, key: (Arc<str>, Source, Arc<str>, NaiveDate), booked: Booked) -> Result<(), Error> {
    let row = rows.entry(key).or_default();
    *row = row.plus(booked).ok_or(Error::Overflow)?;
    Ok(())
}

fn whole(minor: i64) -> Rational {
    Rational::from_integer(BigInt::from(minor))
}

impl Bill {
    /// Takes in what a body of the finalised invoice says.
    fn take(&mut self, invoice: &Invoice, created: EventTime) {
        let finalized_at = invoice.finalized_at.unwrap_or(created);
        if self.lines.is_empty() || (self.truncated && !invoice.lines_truncated) {
            self.id = invoice.id.as_ref().map_or_else(|| "".into(), |id| id.as_str().into());
            self.currency = invoice.currency;
            self.finalized_at = finalized_at;
            self.truncated = invoice.lines_truncated;
            self.take_lines(invoice);
        } else if finalized_at < self.finalized_at {
            self.finalized_at = finalized_at;
            self.take_lines(invoice);
        }
        let status = invoice.status.as_deref();
        let earliest = |held: Option<EventTime>, told: Option<EventTime>| held.into_iter().chain(told).min();
        if status == Some("void") || invoice.voided_at.is_some() {
            self.voided_at = earliest(self.voided_at, Some(invoice.voided_at.unwrap_or(created)));
        }
        if status == Some("uncollectible") {
            let at = invoice.uncollectible_at.unwrap_or(created);
            let owed = invoice.amount_remaining.or(invoice.amount_due).unwrap_or(self.gross);
            let told = (at, owed);
            self.given_up = Some(self.given_up.map_or(told, |held| held.min(told)));
        }
        if status == Some("paid") {
            self.paid_at = earliest(self.paid_at, Some(created));
        }
    }

    fn take_lines(&mut self, invoice: &Invoice) {
        let at = self.finalized_at;
        let lines = invoice.lines.iter().map(|line| BillLine {
            id: line.id.as_str().into(),
            subscription: line.subscription.clone().or_else(|| invoice.subscription.clone()),
            price: line.price.clone(),
            product: line.product.clone(),
            net: line.net(),
            // A line without a period is earned when it is billed.
            period: Period { start: line.period_start.unwrap_or(at), end: line.period_end.unwrap_or(at) },
        });
        self.lines = lines.collect();
        let known: i64 = self.lines.iter().map(|line| line.net).fold(0, i64::saturating_add);
        let tax = invoice.tax.map(|tax| tax.total);
        let net = invoice.total.map(|total| total.saturating_sub(tax.unwrap_or(0)));
        self.gross = invoice.total.unwrap_or_else(|| known.saturating_add(tax.unwrap_or(0)));
        // What lines the body does not have bill, over the time that those it has pay for.
        let rest = net.map_or(0, |net| net.saturating_sub(known));
        if self.truncated && rest != 0 {
            let start = self.lines.iter().map(|line| line.period.start).min().unwrap_or(at);
            let end = self.lines.iter().map(|line| line.period.end).max().unwrap_or(at);
            self.lines.push(BillLine {
                id: format!("{}:rest", self.id).into(),
                subscription: invoice.subscription.clone(),
                price: None,
                product: None,
                net: rest,
                period: Period { start, end },
            });
        }
    }

    fn note(&mut self, note: &CreditNote, created: EventTime) {
        let voided_at = (note.status.as_deref() == Some("void") || note.voided_at.is_some())
            .then(|| note.voided_at.unwrap_or(created));
        if let Some(held) = self.notes.iter_mut().find(|held| *held.id == *note.id) {
            held.voided_at = held.voided_at.into_iter().chain(voided_at).min();
            return;
        }
        let named = note.lines.iter().filter_map(|line| Some((short(&[line.invoice_line.as_deref()?]), line.net())));
        let of_lines: i64 = note.lines.iter().map(|line| line.net()).fold(0, i64::saturating_add);
        let (all, taxed) = match (note.amount, note.tax) {
            (Some(amount), Some(tax)) => (amount.saturating_sub(tax.total), false),
            // Lines are net of exclusive tax.
            _ if !note.lines.is_empty() && !note.lines_truncated => (of_lines, false),
            (Some(amount), None) => (amount, true),
            (None, _) => (of_lines, false),
        };
        let at = note.effective_at.or(note.created).unwrap_or(created);
        let position = self.notes.partition_point(|held| (held.at, &*held.id) < (at, &*note.id));
        self.notes.insert(
            position,
            Note {
                id: note.id.as_str().into(),
                at,
                voided_at,
                all,
                taxed,
                lines: named.collect(),
                refunds: note.refunds.iter().map(|id| short(&[id])).collect(),
            },
        );
    }

    /// What is taken back of each line, in order of time: by what, by which, when.
    fn taken_back<'a>(
        &self,
        refunded: impl Iterator<Item = &'a Refunded>,
    ) -> Vec<(Source, Arc<str>, EventTime, Vec<Rational>)> {
        let nets: Vec<Rational> = self.lines.iter().map(|line| whole(line.net)).collect();
        let net: Rational = nets.iter().sum();
        let mut taken = Vec::new();
        for note in &self.notes {
            let parts = self.parts(note, &nets, &net);
            if let Some(voided_at) = note.voided_at {
                let given: Vec<Rational> = parts.iter().map(|part| -part).collect();
                taken.push((Source::CreditNote, Arc::clone(&note.id), voided_at, given));
            }
            taken.push((Source::CreditNote, Arc::clone(&note.id), note.at, parts));
        }
        let credited: Vec<u64> = self.notes.iter().flat_map(|note| note.refunds.iter().copied()).collect();
        for refunded in refunded {
            for (at, minor) in refunded.steps(&credited) {
                let parts = share_out(&net_of(minor, &net, self.gross), &nets);
                taken.push((Source::Refund, Arc::clone(&refunded.charge), at, parts));
            }
        }
        // Of an invoice that is void nothing is owed.
        let given_up = self.given_up.filter(|(at, _)| self.voided_at.is_none_or(|voided_at| *at < voided_at));
        if let Some((at, owed)) = given_up {
            let parts = share_out(&net_of(owed, &net, self.gross), &nets);
            if let Some(paid_at) = self.paid_at.filter(|paid_at| *paid_at > at) {
                let given = parts.iter().map(|part| -part).collect();
                taken.push((Source::Recovered, Arc::clone(&self.id), paid_at, given));
            }
            taken.push((Source::Uncollectible, Arc::clone(&self.id), at, parts));
        }
        if let Some(at) = self.voided_at {
            let left = nets.iter().enumerate().map(|(index, net)| {
                let gone = taken.iter().filter(|(_, _, when, _)| *when <= at).map(|(.., parts)| &parts[index]);
                net - gone.sum::<Rational>()
            });
            taken.push((Source::Void, Arc::clone(&self.id), at, left.collect()));
        }
        taken.sort_by(|a, b| (a.2, a.0, &a.1).cmp(&(b.2, b.0, &b.1)));
        taken
    }

    /// What a credit note takes back of each line: what it says of lines by name, and the rest in proportion.
    fn parts(&self, note: &Note, nets: &[Rational], net: &Rational) -> Vec<Rational> {
        let keys: Vec<u64> = self.lines.iter().map(|line| short(&[&line.id])).collect();
        let mut parts = vec![Rational::zero(); nets.len()];
        let mut rest = if note.taxed { net_of(note.all, net, self.gross) } else { whole(note.all) };
        for (line, minor) in &note.lines {
            if let Some(index) = keys.iter().position(|key| key == line) {
                parts[index] += whole(*minor);
                rest -= whole(*minor);
            }
        }
        for (part, share) in parts.iter_mut().zip(share_out(&rest, nets)) {
            *part += share;
        }
        parts
    }

    /// When nothing of it is left to be earned.
    fn done(&self, method: Method) -> EventTime {
        if self.lines.is_empty() {
            // The invoice itself is still to come.
            return self.notes.iter().map(|note| note.at).max().unwrap_or(EventTime::MIN);
        }
        let earned = self.lines.iter().map(|line| line.period.earned_at(method)).max();
        earned.map_or(self.finalized_at, |earned| earned.max(self.finalized_at))
    }
}

impl Refunded {
    fn tell(&mut self, fact: RefundFact) {
        match self.by_id.iter_mut().find(|held| held.id == fact.id) {
            Some(held) => {
                held.at = held.at.min(fact.at);
                held.minor = held.minor.max(fact.minor);
                held.failed_at = held.failed_at.into_iter().chain(fact.failed_at).min();
            }
            None => {
                let position = self.by_id.partition_point(|held| (held.at, held.id) < (fact.at, fact.id));
                self.by_id.insert(position, fact);
            }
        }
    }

    fn newest(&self) -> EventTime {
        let told = self.by_id.iter().map(|fact| fact.at.max(fact.failed_at.unwrap_or(fact.at)));
        told.chain(self.stated.iter().map(|(at, _)| *at)).max().unwrap_or(EventTime::MIN)
    }

    /// When how much was given back, beside what `credited` refunds pay out for credit notes. The sum is the larger of
    /// the refunds by their ids and of what the charge states, as in `billing_events`.
    fn steps(&self, credited: &[u64]) -> Vec<(EventTime, i64)> {
        let mut times: Vec<EventTime> = self.stated.iter().map(|(at, _)| *at).collect();
        times.extend(self.by_id.iter().flat_map(|fact| [Some(fact.at), fact.failed_at]).flatten());
        times.sort_unstable();
        times.dedup();
        let mut steps = Vec::new();
        let mut so_far = 0;
        for time in times {
            let holds = |fact: &&RefundFact| fact.at <= time && fact.failed_at.is_none_or(|failed| failed > time);
            let known: i64 = self.by_id.iter().filter(holds).map(|fact| fact.minor).fold(0, i64::saturating_add);
            let notes = self.by_id.iter().filter(holds).filter(|fact| credited.contains(&fact.id));
            let notes: i64 = notes.map(|fact| fact.minor).fold(0, i64::saturating_add);
            let stated = self.stated.iter().rev().find(|(at, _)| *at <= time).map_or(0, |(at, minor)| {
                let failed = self.by_id.iter().filter(|fact| {
                    fact.at <= *at && fact.failed_at.is_some_and(|failed| failed > *at && failed <= time)
                });
                minor.saturating_sub(failed.map(|fact| fact.minor).fold(0, i64::saturating_add))
            });
            let sum = known.max(stated).saturating_sub(notes);
            if sum != so_far {
                steps.push((time, sum.saturating_sub(so_far)));
                so_far = sum;
            }
        }
        steps
    }
}

//! The books of one customer: in which month which part is revenue of what its finalised invoices bill, and of what was
//! taken back of it.
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
use num_traits::Zero;

use super::{
    bills::{Bill, RefundFact, Refunded, Source, whole},
    content::insert_tight,
    hash::short,
    history::HORIZON_DAYS,
    packing::packed,
    recognition::{Booked, Method, Obligation, TakenBack},
    rows::{Delta, LedgerGap},
};
use crate::{
    money::{Currency, Error},
    stripe::{
        ids::{CustomerId, EventId, PriceId, ProductId, SubscriptionId},
        types::{Event, Object, Scope},
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

/// The books of one customer.
#[derive(Clone, PartialEq, Debug, Default)]
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

packed!(Books { bills, pays, refunded, newest, forgotten });

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
                let (truncated, unvalued) = self.change(key, heard, |bill| {
                    let first = bill.lines.is_empty();
                    bill.take(invoice, event.created);
                    let first = first && !bill.lines.is_empty();
                    (first && bill.truncated, first && bill.currency.is_none())
                });
                if truncated {
                    heard.gap("invoice_lines_truncated", id.as_str());
                }
                if unvalued {
                    heard.gap("currency_unknown", id.as_str());
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
                    at: refund.created.unwrap_or(event.created),
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
        let refunded = |(_, refunded): &(u64, Refunded)| fresh.iter().any(|(_, (id, _))| refunded.ids.contains(id));
        let matters = self.refunded.iter().any(refunded);
        let note = |books: &mut Self| {
            for (_, link) in fresh {
                let position = books.pays.partition_point(|other| *other < link);
                insert_tight(&mut books.pays, position, link);
            }
        };
        // Who paid shows in the rows only where something was given back.
        if matters {
            self.change_payments(invoice, heard, note);
        } else {
            note(self);
        }
    }

    /// Changes what is told of the refunds of a payment.
    fn refund(&mut self, ids: &[String], heard: &mut Heard<'_>, tell: impl FnOnce(&mut Refunded)) {
        let Some(charge) = ids.first() else { return };
        let key = short(&[charge]);
        let created = heard.event.created;
        let tell = |books: &mut Self| {
            let at = books.refunded.iter().position(|(charge, _)| *charge == key).unwrap_or_else(|| {
                if books.refunded.len() >= MAX_REFUNDED_PAYMENTS {
                    books.refunded.remove(0);
                }
                books.refunded.push((key, Refunded { charge: charge.as_str().into(), ..Refunded::default() }));
                books.refunded.len() - 1
            });
            let refunded = &mut books.refunded[at].1;
            refunded.heard_at = refunded.heard_at.max(created);
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
            let lost = !refunded.reported && refunded.heard_at < due;
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
        if !after.books_like(&before) {
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
            refunded.ids.iter().any(|id| self.pays(*id).is_some()) || refunded.heard_at >= horizon
        });
        self.refunded = refunded;
    }
}

fn add(rows: &mut Rows, key: (Arc<str>, Source, Arc<str>, NaiveDate), booked: Booked) -> Result<(), Error> {
    let row = rows.entry(key).or_default();
    *row = row.plus(booked).ok_or(Error::Overflow)?;
    Ok(())
}

//! Invoices with their lines, before and after Stripe's 2025-03-31 version moved subscription, price and proration
//! into `parent` and `pricing`.

use serde::Deserialize;

use super::{
    lenient::{Decimal, List, Listed, Many, Maybe, Ref, Scalar},
    note_word,
    payment::RawInvoicePayment,
    price::{self, RawPrice},
    tax::{self, RawTax},
};
use crate::stripe::{
    UnknownCounts,
    ids::SubscriptionId,
    types::{Invoice, InvoiceLine},
};

#[derive(Deserialize)]
pub(super) struct RawInvoice<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    customer: Scalar<'a>,
    #[serde(borrow, default)]
    subscription: Scalar<'a>,
    #[serde(borrow, default)]
    parent: Maybe<RawParent<'a>>,
    #[serde(borrow, default)]
    currency: Scalar<'a>,
    #[serde(borrow, default)]
    status: Scalar<'a>,
    #[serde(borrow, default)]
    billing_reason: Scalar<'a>,
    #[serde(borrow, default)]
    created: Scalar<'a>,
    #[serde(borrow, default)]
    status_transitions: Maybe<RawTransitions<'a>>,
    #[serde(borrow, default)]
    subtotal: Scalar<'a>,
    #[serde(borrow, default)]
    total: Scalar<'a>,
    #[serde(borrow, default)]
    total_taxes: Listed<Maybe<RawTax<'a>>>,
    #[serde(borrow, default)]
    total_tax_amounts: Listed<Maybe<RawTax<'a>>>,
    #[serde(borrow, default)]
    starting_balance: Scalar<'a>,
    #[serde(borrow, default)]
    ending_balance: Scalar<'a>,
    #[serde(borrow, default)]
    amount_due: Scalar<'a>,
    #[serde(borrow, default)]
    amount_paid: Scalar<'a>,
    #[serde(borrow, default)]
    amount_remaining: Scalar<'a>,
    #[serde(borrow, default)]
    attempt_count: Scalar<'a>,
    #[serde(borrow, default)]
    next_payment_attempt: Scalar<'a>,
    #[serde(borrow, default)]
    charge: Scalar<'a>,
    #[serde(borrow, default)]
    payment_intent: Scalar<'a>,
    #[serde(borrow, default)]
    payments: Maybe<List<Maybe<RawInvoicePayment<'a>>>>,
    #[serde(borrow, default)]
    lines: Maybe<List<Maybe<RawLine<'a>>>>,
}

#[derive(Deserialize)]
struct RawTransitions<'a> {
    #[serde(borrow, default)]
    finalized_at: Scalar<'a>,
    #[serde(borrow, default)]
    voided_at: Scalar<'a>,
    #[serde(borrow, default)]
    marked_uncollectible_at: Scalar<'a>,
}

/// What an invoice or a line comes from; each leaves the other's details absent.
#[derive(Deserialize)]
struct RawParent<'a> {
    #[serde(borrow, default)]
    subscription_details: Maybe<RawOrigin<'a>>,
    #[serde(borrow, default)]
    subscription_item_details: Maybe<RawOrigin<'a>>,
    #[serde(borrow, default)]
    invoice_item_details: Maybe<RawOrigin<'a>>,
}

#[derive(Deserialize)]
struct RawOrigin<'a> {
    #[serde(borrow, default)]
    subscription: Scalar<'a>,
    #[serde(borrow, default)]
    subscription_item: Scalar<'a>,
    #[serde(borrow, default)]
    proration: Scalar<'a>,
}

#[derive(Deserialize)]
struct RawLine<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    amount: Scalar<'a>,
    #[serde(borrow, default)]
    subtotal: Scalar<'a>,
    #[serde(borrow, default)]
    discount_amounts: Many<Maybe<RawAmount<'a>>>,
    #[serde(borrow, default)]
    pretax_credit_amounts: Many<Maybe<RawAmount<'a>>>,
    #[serde(borrow, default)]
    taxes: Listed<Maybe<RawTax<'a>>>,
    #[serde(borrow, default)]
    tax_amounts: Listed<Maybe<RawTax<'a>>>,
    #[serde(borrow, default)]
    quantity: Decimal<'a>,
    #[serde(borrow, default)]
    quantity_decimal: Decimal<'a>,
    #[serde(borrow, default)]
    price: Ref<'a, RawPrice<'a>>,
    #[serde(borrow, default)]
    plan: Ref<'a, RawPrice<'a>>,
    #[serde(borrow, default)]
    pricing: Maybe<RawPricing<'a>>,
    #[serde(borrow, default)]
    subscription: Scalar<'a>,
    #[serde(borrow, default)]
    subscription_item: Scalar<'a>,
    #[serde(borrow, default)]
    parent: Maybe<RawParent<'a>>,
    #[serde(borrow, default)]
    proration: Scalar<'a>,
    #[serde(borrow, default)]
    period: Maybe<RawPeriod<'a>>,
}

/// A part of an amount, by kind.
#[derive(Deserialize)]
pub(super) struct RawAmount<'a> {
    #[serde(borrow, default)]
    amount: Scalar<'a>,
    #[serde(borrow, default, rename = "type")]
    kind: Scalar<'a>,
}

/// The sum of the parts that are not of the kind `without`.
pub(super) fn sum(parts: &Many<Maybe<RawAmount<'_>>>, without: &str) -> i64 {
    let parts = parts.0.iter().filter_map(|part| part.0.as_ref()).filter(|part| part.kind.text() != Some(without));
    parts.filter_map(|part| part.amount.integer()).fold(0, i64::saturating_add)
}

#[derive(Deserialize)]
struct RawPricing<'a> {
    #[serde(borrow, default)]
    price_details: Maybe<RawPriceDetails<'a>>,
}

#[derive(Deserialize)]
struct RawPriceDetails<'a> {
    #[serde(borrow, default)]
    price: Ref<'a, RawPrice<'a>>,
    #[serde(borrow, default)]
    product: Scalar<'a>,
}

#[derive(Deserialize)]
struct RawPeriod<'a> {
    #[serde(borrow, default)]
    start: Scalar<'a>,
    #[serde(borrow, default)]
    end: Scalar<'a>,
}

/// `deleted` is what drafts become.
const STATUSES: [&str; 6] = ["draft", "open", "paid", "void", "uncollectible", "deleted"];

/// Reads an invoice. A line that cannot be read makes the list count as truncated.
pub(super) fn read(raw: RawInvoice<'_>, unknown: &mut UnknownCounts) -> Invoice {
    note_word("invoice.status", raw.status.text(), &STATUSES, unknown);
    let parent = raw.parent.0.and_then(|parent| parent.subscription_details.0);
    let (mut lines, mut lines_truncated) = (Vec::new(), false);
    if let Some(list) = raw.lines.0 {
        let (has_more, embedded) = (list.has_more(), list.data.0.len());
        lines.extend(list.data.0.into_iter().filter_map(|line| line.0?.read(unknown)));
        if lines.len() < embedded {
            unknown.count("invoice line without id or amount");
        }
        lines_truncated = has_more || lines.len() < embedded;
    }
    let mut payments: Vec<String> = [raw.charge.id(), raw.payment_intent.id()].into_iter().flatten().collect();
    let listed = raw.payments.0.map(|list| list.data.0).unwrap_or_default();
    payments.extend(listed.iter().filter_map(|payment| payment.0.as_ref()).flat_map(RawInvoicePayment::payments));
    let reached = raw.status_transitions.0;
    let reached = reached.as_ref();
    Invoice {
        id: raw.id.id(),
        customer: raw.customer.id(),
        subscription: raw.subscription.id().or_else(|| parent?.subscription.id()),
        currency: raw.currency.currency(),
        status: raw.status.string(),
        billing_reason: raw.billing_reason.string(),
        created: raw.created.time(),
        finalized_at: reached.and_then(|reached| reached.finalized_at.time()),
        voided_at: reached.and_then(|reached| reached.voided_at.time()),
        uncollectible_at: reached.and_then(|reached| reached.marked_uncollectible_at.time()),
        subtotal: raw.subtotal.integer(),
        total: raw.total.integer(),
        tax: tax::sum(raw.total_taxes, raw.total_tax_amounts, unknown),
        starting_balance: raw.starting_balance.integer(),
        ending_balance: raw.ending_balance.integer(),
        amount_due: raw.amount_due.integer(),
        amount_paid: raw.amount_paid.integer(),
        amount_remaining: raw.amount_remaining.integer(),
        attempt_count: raw.attempt_count.integer(),
        next_payment_attempt: raw.next_payment_attempt.time(),
        payments,
        lines,
        lines_truncated,
    }
}

impl RawLine<'_> {
    fn read(self, unknown: &mut UnknownCounts) -> Option<InvoiceLine> {
        let (item, invoice_item) = self
            .parent
            .0
            .map_or((None, None), |parent| (parent.subscription_item_details.0, parent.invoice_item_details.0));
        let origins = [item, invoice_item];
        let mut origins = origins.iter().flatten();
        let subscription: Option<SubscriptionId> =
            self.subscription.id().or_else(|| origins.clone().find_map(|origin| origin.subscription.id()));
        let details = self.pricing.0.and_then(|pricing| pricing.price_details.0);
        let (detailed, product) = details.map_or((Ref::Absent, None), |details| (details.price, details.product.id()));
        // A word that is not known is counted where the price is an object of its own, or on an item.
        let mut known = UnknownCounts::default();
        let price = price::read_either(self.price, self.plan, &mut known)
            .or_else(|| price::read_either(detailed, Ref::Absent, &mut known));
        let period = self.period.0;
        Some(InvoiceLine {
            id: self.id.id()?,
            amount: self.amount.integer()?,
            subtotal: self.subtotal.integer(),
            discount: sum(&self.discount_amounts, ""),
            credits: sum(&self.pretax_credit_amounts, "discount"),
            tax: tax::sum(self.taxes, self.tax_amounts, unknown),
            quantity: self.quantity_decimal.rational().or_else(|| self.quantity.rational()),
            price: price.as_ref().map(|price| price.id.clone()),
            product: price.as_ref().and_then(|price| price.product.clone()).or(product),
            price_body: price.filter(|price| price.unit_amount.is_some() || price.interval.is_some()).map(Box::new),
            subscription,
            subscription_item: self
                .subscription_item
                .id()
                .or_else(|| origins.clone().find_map(|origin| origin.subscription_item.id())),
            proration: self.proration.bool() == Some(true)
                || origins.any(|origin| origin.proration.bool() == Some(true)),
            period_start: period.as_ref().and_then(|period| period.start.time()),
            period_end: period.as_ref().and_then(|period| period.end.time()),
        })
    }
}

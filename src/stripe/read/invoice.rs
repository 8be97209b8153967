//! Invoices with their lines, before and after Stripe's 2025-03-31 version moved subscription, price and proration
//! into `parent` and `pricing`.

use serde::Deserialize;

use super::{
    lenient::{List, Maybe, Ref, Scalar},
    note_word, parse,
    price::{self, RawPrice},
};
use crate::stripe::{
    Error, UnknownCounts,
    ids::SubscriptionId,
    types::{Invoice, InvoiceLine},
};

#[derive(Deserialize)]
struct RawInvoice<'a> {
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
    total: Scalar<'a>,
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
    lines: Maybe<List<Maybe<RawLine<'a>>>>,
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

#[derive(Deserialize)]
struct RawPricing<'a> {
    #[serde(borrow, default)]
    price_details: Maybe<RawPriceDetails<'a>>,
}

#[derive(Deserialize)]
struct RawPriceDetails<'a> {
    #[serde(borrow, default)]
    price: Scalar<'a>,
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
pub(super) fn read(json: &str, unknown: &mut UnknownCounts) -> Result<Invoice, Error> {
    let raw: RawInvoice<'_> = parse(json)?;
    note_word("invoice.status", raw.status.text(), &STATUSES, unknown);
    let parent = raw.parent.0.and_then(|parent| parent.subscription_details.0);
    let (mut lines, mut lines_truncated) = (Vec::new(), false);
    if let Some(list) = raw.lines.0 {
        let (has_more, embedded) = (list.has_more(), list.data.0.len());
        lines.extend(list.data.0.into_iter().filter_map(|line| line.0?.read()));
        if lines.len() < embedded {
            unknown.count("invoice line without id or amount");
        }
        lines_truncated = has_more || lines.len() < embedded;
    }
    Ok(Invoice {
        id: raw.id.id(),
        customer: raw.customer.id(),
        subscription: raw.subscription.id().or_else(|| parent?.subscription.id()),
        currency: raw.currency.currency(),
        status: raw.status.string(),
        billing_reason: raw.billing_reason.string(),
        total: raw.total.integer(),
        amount_due: raw.amount_due.integer(),
        amount_paid: raw.amount_paid.integer(),
        amount_remaining: raw.amount_remaining.integer(),
        attempt_count: raw.attempt_count.integer(),
        next_payment_attempt: raw.next_payment_attempt.time(),
        lines,
        lines_truncated,
    })
}

impl RawLine<'_> {
    fn read(self) -> Option<InvoiceLine> {
        let (item, invoice_item) = self
            .parent
            .0
            .map_or((None, None), |parent| (parent.subscription_item_details.0, parent.invoice_item_details.0));
        let origins = [item, invoice_item];
        let mut origins = origins.iter().flatten();
        let subscription: Option<SubscriptionId> =
            self.subscription.id().or_else(|| origins.clone().find_map(|origin| origin.subscription.id()));
        let price = price::id(self.price).or_else(|| price::id(self.plan));
        let price = price.map(|id| (&*id).into());
        let pricing = self.pricing.0.and_then(|pricing| pricing.price_details.0);
        let period = self.period.0;
        Some(InvoiceLine {
            id: self.id.id()?,
            amount: self.amount.integer()?,
            price: price.or_else(|| pricing?.price.id()),
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

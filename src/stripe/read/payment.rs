//! Charges, payment intents, payments of invoices, refunds and disputes.

use serde::Deserialize;

use super::{
    lenient::{List, Maybe, Scalar},
    missing, note_word,
};
use crate::stripe::{
    Error, UnknownCounts,
    types::{Charge, Dispute, InvoicePayment, PaymentIntent, Refund},
};

/// The fields of all four: each object leaves the others' absent.
#[derive(Deserialize)]
pub(super) struct RawPayment<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    created: Scalar<'a>,
    #[serde(borrow, default)]
    customer: Scalar<'a>,
    #[serde(borrow, default)]
    amount: Scalar<'a>,
    #[serde(borrow, default)]
    amount_refunded: Scalar<'a>,
    #[serde(borrow, default)]
    currency: Scalar<'a>,
    #[serde(borrow, default)]
    status: Scalar<'a>,
    #[serde(borrow, default)]
    failure_code: Scalar<'a>,
    #[serde(borrow, default)]
    charge: Scalar<'a>,
    #[serde(borrow, default)]
    latest_charge: Scalar<'a>,
    #[serde(borrow, default)]
    charges: Maybe<List<Scalar<'a>>>,
    #[serde(borrow, default)]
    payment_intent: Scalar<'a>,
    #[serde(borrow, default)]
    reason: Scalar<'a>,
    #[serde(borrow, default)]
    invoice: Scalar<'a>,
}

/// What pays an invoice: one of them, by kind.
#[derive(Deserialize)]
pub(super) struct RawInvoicePayment<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    invoice: Scalar<'a>,
    #[serde(borrow, default)]
    payment: Maybe<RawPaidBy<'a>>,
}

#[derive(Deserialize)]
struct RawPaidBy<'a> {
    #[serde(borrow, default)]
    charge: Scalar<'a>,
    #[serde(borrow, default)]
    payment_intent: Scalar<'a>,
}

impl RawInvoicePayment<'_> {
    /// The ids of the charge and the payment intent.
    pub(super) fn payments(&self) -> impl Iterator<Item = String> {
        let paid_by = self.payment.0.as_ref();
        paid_by.into_iter().flat_map(|by| [&by.charge, &by.payment_intent]).filter_map(Scalar::id)
    }
}

const CHARGE_STATUSES: [&str; 3] = ["succeeded", "pending", "failed"];
const INTENT_STATUSES: [&str; 7] = [
    "requires_payment_method",
    "requires_confirmation",
    "requires_action",
    "processing",
    "requires_capture",
    "canceled",
    "succeeded",
];
const REFUND_STATUSES: [&str; 5] = ["pending", "requires_action", "succeeded", "failed", "canceled"];
const DISPUTE_STATUSES: [&str; 11] = [
    "warning_needs_response",
    "warning_under_review",
    "warning_closed",
    "needs_response",
    "under_review",
    "charge_refunded",
    "won",
    "lost",
    "prevented",
    "appeal_needs_response",
    "appeal_under_review",
];

/// Reads a charge.
pub(super) fn read_charge(raw: RawPayment<'_>, unknown: &mut UnknownCounts) -> Result<Charge, Error> {
    note_word("charge.status", raw.status.text(), &CHARGE_STATUSES, unknown);
    Ok(Charge {
        id: raw.id.id().ok_or(missing("charge", "id"))?,
        customer: raw.customer.id(),
        amount: raw.amount.integer().ok_or(missing("charge", "amount"))?,
        amount_refunded: raw.amount_refunded.integer().unwrap_or(0),
        currency: raw.currency.currency(),
        status: raw.status.string(),
        failure_code: raw.failure_code.string(),
        payment_intent: raw.payment_intent.id(),
        invoice: raw.invoice.id(),
    })
}

/// Reads a payment of an invoice.
pub(super) fn read_invoice_payment(raw: RawInvoicePayment<'_>) -> Result<InvoicePayment, Error> {
    Ok(InvoicePayment {
        payments: raw.payments().collect(),
        id: raw.id.id().ok_or(missing("invoice_payment", "id"))?,
        invoice: raw.invoice.id(),
    })
}

/// Reads a payment intent. Old shapes list its charges, the newest first.
pub(super) fn read_payment_intent(raw: RawPayment<'_>, unknown: &mut UnknownCounts) -> Result<PaymentIntent, Error> {
    note_word("payment_intent.status", raw.status.text(), &INTENT_STATUSES, unknown);
    let newest = raw.charges.0.and_then(|charges| charges.data.0.first()?.id());
    Ok(PaymentIntent {
        id: raw.id.id().ok_or(missing("payment_intent", "id"))?,
        customer: raw.customer.id(),
        amount: raw.amount.integer().ok_or(missing("payment_intent", "amount"))?,
        currency: raw.currency.currency(),
        status: raw.status.string(),
        latest_charge: raw.latest_charge.id().or(newest),
        invoice: raw.invoice.id(),
    })
}

/// Reads a refund.
pub(super) fn read_refund(raw: RawPayment<'_>, unknown: &mut UnknownCounts) -> Result<Refund, Error> {
    note_word("refund.status", raw.status.text(), &REFUND_STATUSES, unknown);
    Ok(Refund {
        created: raw.created.time(),
        id: raw.id.id().ok_or(missing("refund", "id"))?,
        charge: raw.charge.id(),
        payment_intent: raw.payment_intent.id(),
        amount: raw.amount.integer().ok_or(missing("refund", "amount"))?,
        currency: raw.currency.currency(),
        status: raw.status.string(),
    })
}

/// Reads a dispute.
pub(super) fn read_dispute(raw: RawPayment<'_>, unknown: &mut UnknownCounts) -> Result<Dispute, Error> {
    note_word("dispute.status", raw.status.text(), &DISPUTE_STATUSES, unknown);
    Ok(Dispute {
        id: raw.id.id().ok_or(missing("dispute", "id"))?,
        charge: raw.charge.id(),
        amount: raw.amount.integer().ok_or(missing("dispute", "amount"))?,
        currency: raw.currency.currency(),
        status: raw.status.string(),
        reason: raw.reason.string(),
    })
}

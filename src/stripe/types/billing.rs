//! Invoices, credit notes and payments.

use serde::{Deserialize, Serialize};

use super::Price;
use crate::{
    money::{Currency, Rational},
    stripe::ids::{ChargeId, CustomerId, InvoiceId, PriceId, ProductId, SubscriptionId, SubscriptionItemId},
    time::EventTime,
};

/// What of an amount is tax, in minor units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TaxAmounts {
    /// All tax.
    pub total: i64,
    /// The part that the amount itself includes.
    pub inclusive: i64,
}

/// An invoice.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Invoice {
    /// `in_…`; previews have none.
    pub id: Option<InvoiceId>,
    /// Whom it bills.
    pub customer: Option<CustomerId>,
    /// The subscription it bills (`subscription`, later `parent.subscription_details.subscription`).
    pub subscription: Option<SubscriptionId>,
    /// Its currency.
    pub currency: Option<Currency>,
    /// `draft`, `open`, `paid`, `void`, `uncollectible`, or a later word.
    pub status: Option<String>,
    /// Why it was made, such as `subscription_cycle`.
    pub billing_reason: Option<String>,
    /// When the object was made.
    pub created: Option<EventTime>,
    /// When it was finalised.
    pub finalized_at: Option<EventTime>,
    /// When it was voided.
    pub voided_at: Option<EventTime>,
    /// When it was given up as uncollectible.
    pub uncollectible_at: Option<EventTime>,
    /// The lines before discounts and exclusive tax, in minor units, as all amounts.
    pub subtotal: Option<i64>,
    /// What is charged in all.
    pub total: Option<i64>,
    /// Tax on everything; `None` where the body does not say.
    pub tax: Option<TaxAmounts>,
    /// The customer's balance before it was finalised; negative is credit.
    pub starting_balance: Option<i64>,
    /// The customer's balance after it was finalised.
    pub ending_balance: Option<i64>,
    /// What is owed.
    pub amount_due: Option<i64>,
    /// What has been paid.
    pub amount_paid: Option<i64>,
    /// What is still owed.
    pub amount_remaining: Option<i64>,
    /// How often payment was tried.
    pub attempt_count: Option<i64>,
    /// When the next try is planned; none after the last.
    pub next_payment_attempt: Option<EventTime>,
    /// The charges and payment intents that pay it, where the body names them.
    pub payments: Vec<String>,
    /// Its lines, ten at most in a webhook.
    pub lines: Vec<InvoiceLine>,
    /// Whether there are more lines than the body has.
    pub lines_truncated: bool,
}

/// A line of an invoice.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct InvoiceLine {
    /// `il_…`
    pub id: String,
    /// Its amount in minor units, before invoice-level discounts and exclusive tax.
    pub amount: i64,
    /// The amount before all discounts, where the body has it.
    pub subtotal: Option<i64>,
    /// What discounts take off `amount`.
    pub discount: i64,
    /// What prepaid or promotional credits take off, before tax.
    pub credits: i64,
    /// Tax on the line; `None` where the body does not say.
    pub tax: Option<TaxAmounts>,
    /// Units.
    pub quantity: Option<Rational>,
    /// The price it bills.
    pub price: Option<PriceId>,
    /// That price whole, where the body has it: old shapes, and expanded ones.
    pub price_body: Option<Box<Price>>,
    /// The product it bills.
    pub product: Option<ProductId>,
    /// The subscription it bills.
    pub subscription: Option<SubscriptionId>,
    /// The item it bills.
    pub subscription_item: Option<SubscriptionItemId>,
    /// Whether it settles a change in mid-period.
    pub proration: bool,
    /// Start of what it pays for.
    pub period_start: Option<EventTime>,
    /// End of what it pays for.
    pub period_end: Option<EventTime>,
}

impl InvoiceLine {
    /// What the line bills net of discounts, credits and all tax, in minor units.
    #[must_use]
    pub fn net(&self) -> i64 {
        let inclusive = self.tax.map_or(0, |tax| tax.inclusive);
        self.amount.saturating_sub(self.discount).saturating_sub(self.credits).saturating_sub(inclusive)
    }
}

/// A payment of an invoice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InvoicePayment {
    /// `inpay_…`
    pub id: String,
    /// The invoice it pays.
    pub invoice: Option<InvoiceId>,
    /// The charge and the payment intent by which it pays.
    pub payments: Vec<String>,
}

/// A credit note: it takes back a part of a finalised invoice. Amounts in minor units.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CreditNote {
    /// `cn_…`
    pub id: String,
    /// The invoice it takes back from.
    pub invoice: Option<InvoiceId>,
    /// Whose invoice that is.
    pub customer: Option<CustomerId>,
    /// Its currency.
    pub currency: Option<Currency>,
    /// `issued`, `void`, or a later word.
    pub status: Option<String>,
    /// When the object was made.
    pub created: Option<EventTime>,
    /// When it counts, if that is not when it was made.
    pub effective_at: Option<EventTime>,
    /// When it was voided.
    pub voided_at: Option<EventTime>,
    /// All it takes back, tax included.
    pub amount: Option<i64>,
    /// The lines before discounts and exclusive tax.
    pub subtotal: Option<i64>,
    /// All discounts.
    pub discount: i64,
    /// Tax on everything; `None` where the body does not say.
    pub tax: Option<TaxAmounts>,
    /// The refunds it was paid out by (`re_…`): what it takes back and what they give back is one thing.
    pub refunds: Vec<String>,
    /// Its lines, ten at most in a webhook.
    pub lines: Vec<CreditNoteLine>,
    /// Whether there are more lines than the body has.
    pub lines_truncated: bool,
}

/// A line of a credit note.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CreditNoteLine {
    /// `cnli_…`
    pub id: String,
    /// The line of the invoice it takes back from; custom lines have none.
    pub invoice_line: Option<String>,
    /// What it takes back, before discounts and exclusive tax.
    pub amount: i64,
    /// Discounts on it.
    pub discount: i64,
    /// Tax on it; `None` where the body does not say.
    pub tax: Option<TaxAmounts>,
}

impl CreditNoteLine {
    /// What the line takes back net of discounts and all tax, in minor units.
    #[must_use]
    pub fn net(&self) -> i64 {
        let inclusive = self.tax.map_or(0, |tax| tax.inclusive);
        self.amount.saturating_sub(self.discount).saturating_sub(inclusive)
    }
}

/// A charge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Charge {
    /// `ch_…`
    pub id: ChargeId,
    /// Who pays.
    pub customer: Option<CustomerId>,
    /// Minor units.
    pub amount: i64,
    /// Minor units given back so far.
    pub amount_refunded: i64,
    /// Its currency.
    pub currency: Option<Currency>,
    /// `succeeded`, `pending`, `failed`.
    pub status: Option<String>,
    /// Why it failed.
    pub failure_code: Option<String>,
    /// The payment intent it belongs to.
    pub payment_intent: Option<String>,
    /// The invoice it pays, in old shapes.
    pub invoice: Option<InvoiceId>,
}

/// A payment intent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PaymentIntent {
    /// `pi_…`
    pub id: String,
    /// Who pays; often absent.
    pub customer: Option<CustomerId>,
    /// Minor units.
    pub amount: i64,
    /// Its currency.
    pub currency: Option<Currency>,
    /// Stripe's word for where it stands.
    pub status: Option<String>,
    /// The charge last tried.
    pub latest_charge: Option<ChargeId>,
    /// The invoice it pays, in old shapes.
    pub invoice: Option<InvoiceId>,
}

/// A refund.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refund {
    /// `re_…`
    pub id: String,
    /// What it gives back.
    pub charge: Option<ChargeId>,
    /// The payment intent it gives back.
    pub payment_intent: Option<String>,
    /// Minor units.
    pub amount: i64,
    /// Its currency.
    pub currency: Option<Currency>,
    /// Where it stands.
    pub status: Option<String>,
    /// When it was made; events tell of it again when it settles.
    pub created: Option<EventTime>,
}

/// A dispute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dispute {
    /// `dp_…`
    pub id: String,
    /// The charge disputed.
    pub charge: Option<ChargeId>,
    /// Minor units.
    pub amount: i64,
    /// Its currency.
    pub currency: Option<Currency>,
    /// Where it stands.
    pub status: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

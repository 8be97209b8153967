//! Credit notes with their lines, with one refund or several.

use serde::Deserialize;

use super::{
    invoice::{self, RawAmount},
    lenient::{List, Listed, Many, Maybe, Scalar},
    missing, note_word,
    tax::{self, RawTax},
};
use crate::stripe::{
    Error, UnknownCounts,
    types::{CreditNote, CreditNoteLine},
};

#[derive(Deserialize)]
pub(super) struct RawCreditNote<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    invoice: Scalar<'a>,
    #[serde(borrow, default)]
    customer: Scalar<'a>,
    #[serde(borrow, default)]
    currency: Scalar<'a>,
    #[serde(borrow, default)]
    status: Scalar<'a>,
    #[serde(borrow, default)]
    created: Scalar<'a>,
    #[serde(borrow, default)]
    effective_at: Scalar<'a>,
    #[serde(borrow, default)]
    voided_at: Scalar<'a>,
    #[serde(borrow, default)]
    amount: Scalar<'a>,
    #[serde(borrow, default)]
    subtotal: Scalar<'a>,
    #[serde(borrow, default)]
    discount_amount: Scalar<'a>,
    #[serde(borrow, default)]
    total_taxes: Listed<Maybe<RawTax<'a>>>,
    #[serde(borrow, default)]
    tax_amounts: Listed<Maybe<RawTax<'a>>>,
    #[serde(borrow, default)]
    refund: Scalar<'a>,
    #[serde(borrow, default)]
    refunds: Many<Maybe<RawRefund<'a>>>,
    #[serde(borrow, default)]
    lines: Maybe<List<Maybe<RawLine<'a>>>>,
}

#[derive(Deserialize)]
struct RawRefund<'a> {
    #[serde(borrow, default)]
    refund: Scalar<'a>,
}

#[derive(Deserialize)]
struct RawLine<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    invoice_line_item: Scalar<'a>,
    #[serde(borrow, default)]
    amount: Scalar<'a>,
    #[serde(borrow, default)]
    discount_amount: Scalar<'a>,
    #[serde(borrow, default)]
    discount_amounts: Many<Maybe<RawAmount<'a>>>,
    #[serde(borrow, default)]
    taxes: Listed<Maybe<RawTax<'a>>>,
    #[serde(borrow, default)]
    tax_amounts: Listed<Maybe<RawTax<'a>>>,
}

/// Reads a credit note. A line that cannot be read makes the list count as truncated.
pub(super) fn read(raw: RawCreditNote<'_>, unknown: &mut UnknownCounts) -> Result<CreditNote, Error> {
    note_word("credit_note.status", raw.status.text(), &["issued", "void"], unknown);
    let (mut lines, mut lines_truncated) = (Vec::new(), false);
    if let Some(list) = raw.lines.0 {
        let (has_more, embedded) = (list.has_more(), list.data.0.len());
        lines.extend(list.data.0.into_iter().filter_map(|line| line.0?.read(unknown)));
        if lines.len() < embedded {
            unknown.count("credit note line without id or amount");
        }
        lines_truncated = has_more || lines.len() < embedded;
    }
    let refunds = raw.refunds.0.iter().filter_map(|refund| refund.0.as_ref()).map(|refund| &refund.refund);
    let mut refunds: Vec<String> = refunds.chain([&raw.refund]).filter_map(Scalar::id).collect();
    refunds.sort_unstable();
    refunds.dedup();
    Ok(CreditNote {
        id: raw.id.id().ok_or(missing("credit_note", "id"))?,
        invoice: raw.invoice.id(),
        customer: raw.customer.id(),
        currency: raw.currency.currency(),
        status: raw.status.string(),
        created: raw.created.time(),
        effective_at: raw.effective_at.time(),
        voided_at: raw.voided_at.time(),
        amount: raw.amount.integer(),
        subtotal: raw.subtotal.integer(),
        discount: raw.discount_amount.integer().unwrap_or(0),
        tax: tax::sum(raw.total_taxes, raw.tax_amounts, unknown),
        refunds,
        lines,
        lines_truncated,
    })
}

impl RawLine<'_> {
    fn read(self, unknown: &mut UnknownCounts) -> Option<CreditNoteLine> {
        let parts = invoice::sum(&self.discount_amounts, "");
        Some(CreditNoteLine {
            id: self.id.id()?,
            invoice_line: self.invoice_line_item.id(),
            amount: self.amount.integer()?,
            discount: self.discount_amount.integer().unwrap_or(parts),
            tax: tax::sum(self.taxes, self.tax_amounts, unknown),
        })
    }
}

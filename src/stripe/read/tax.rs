//! Tax: rates, and what of an amount is tax, before and after Stripe's 2025-03-31 version renamed `tax_amounts` to
//! `taxes`.

use serde::Deserialize;

use super::{
    lenient::{Decimal, Listed, Many, Maybe, Ref, Scalar},
    note_word,
};
use crate::stripe::{
    UnknownCounts,
    types::{TaxAmounts, TaxRate},
};

#[derive(Clone, Debug, Deserialize)]
pub(super) struct RawTaxRate<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    percentage: Decimal<'a>,
    #[serde(borrow, default)]
    effective_percentage: Decimal<'a>,
    #[serde(borrow, default)]
    inclusive: Scalar<'a>,
}

/// An amount of tax. `inclusive` is the older shape of `tax_behavior`.
#[derive(Deserialize)]
pub(super) struct RawTax<'a> {
    #[serde(borrow, default)]
    amount: Scalar<'a>,
    #[serde(borrow, default)]
    inclusive: Scalar<'a>,
    #[serde(borrow, default)]
    tax_behavior: Scalar<'a>,
}

/// Reads rates of tax. `percent` is what old subscriptions have in their place; it comes on top of their amounts.
pub(super) fn read_rates<'a>(
    rates: Many<Ref<'a, RawTaxRate<'a>>>,
    percent: Decimal<'a>,
    unknown: &mut UnknownCounts,
) -> Vec<TaxRate> {
    let mut read = Vec::with_capacity(rates.0.len());
    for rate in rates.0 {
        match rate {
            Ref::Absent => {}
            Ref::Id(_) => unknown.count("tax rate by id only"),
            Ref::Full(raw) => {
                let percentage = raw.effective_percentage.rational().or_else(|| raw.percentage.rational());
                match (raw.id.id(), percentage) {
                    (Some(id), Some(percentage)) => {
                        read.push(TaxRate { id, percentage, inclusive: raw.inclusive.bool() == Some(true) });
                    }
                    _ => unknown.count("tax rate without id or percentage"),
                }
            }
        }
    }
    match percent.rational() {
        Some(percentage) if read.is_empty() => {
            vec![TaxRate { id: "tax_percent".to_owned(), percentage, inclusive: false }]
        }
        _ => read,
    }
}

/// Adds up amounts of tax in their newer or older shape; `None` when the body has neither.
pub(super) fn sum(
    newer: Listed<Maybe<RawTax<'_>>>,
    older: Listed<Maybe<RawTax<'_>>>,
    unknown: &mut UnknownCounts,
) -> Option<TaxAmounts> {
    let mut sum = TaxAmounts::default();
    for tax in newer.0.or(older.0)?.into_iter().filter_map(|tax| tax.0) {
        let behavior = tax.tax_behavior.text();
        note_word("tax.tax_behavior", behavior, &["inclusive", "exclusive"], unknown);
        let amount = tax.amount.integer().unwrap_or(0);
        sum.total = sum.total.saturating_add(amount);
        if behavior == Some("inclusive") || tax.inclusive.bool() == Some(true) {
            sum.inclusive = sum.inclusive.saturating_add(amount);
        }
    }
    Some(sum)
}

//! What coupons take off, told apart by their terms, and which of them a discount is of.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};

use super::dated::Fact;
use crate::{
    ledger::hash::Fingerprint,
    stripe::{
        ids::CouponId,
        types::{Coupon, CouponRef, Discount},
    },
    time::EventTime,
};

/// A discount: which coupon, and when.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct DiscountFacts {
    pub(crate) coupon: CouponId,
    /// The fingerprint of the coupon's terms, where a body had them.
    pub(super) terms: Option<u64>,
    pub(crate) start: Option<EventTime>,
    pub(crate) end: Option<EventTime>,
    /// When the last record was appended that this rests on.
    pub(crate) known_at: EventTime,
}

impl DiscountFacts {
    /// What a body says; `known_at` is when that was appended.
    pub(super) fn of(discount: &Discount, known_at: EventTime) -> Self {
        let terms = match &discount.coupon {
            CouponRef::Full(coupon) if says_terms(coupon) => Some(terms_print(coupon)),
            _ => None,
        };
        let Discount { start, end, .. } = *discount;
        Self { coupon: discount.coupon.id().clone(), terms, start, end, known_at }
    }
}

impl Fact for DiscountFacts {
    fn agrees(&self, other: &Self) -> bool {
        let same_terms = self.terms.is_none() || other.terms.is_none() || self.terms == other.terms;
        self.coupon == other.coupon && same_terms
    }

    fn outranks(&self, other: &Self) -> bool {
        (&self.coupon, self.terms) > (&other.coupon, other.terms)
    }

    fn merge(&mut self, other: Self, earlier: bool) -> bool {
        let either =
            |this: Option<EventTime>, that: Option<EventTime>| if earlier { that.or(this) } else { this.or(that) };
        let (start, end) = (either(self.start, other.start), either(self.end, other.end));
        let terms = self.terms.or(other.terms);
        let news = (start, end, terms) != (self.start, self.end, self.terms);
        (self.start, self.end, self.terms) = (start, end, terms);
        if news || earlier {
            self.known_at = self.known_at.max(other.known_at);
        }
        news
    }
}

/// The fingerprint of what a coupon takes off; what a body may leave out does not count.
pub(super) fn terms_print(coupon: &Coupon) -> u64 {
    let mut print = Fingerprint::new();
    for amount in [&coupon.percent_off, &coupon.amount_off] {
        print.text(&amount.as_ref().map_or_else(String::new, ToString::to_string));
    }
    print.finish()
}

/// Whether a body says what its coupon takes off.
pub(super) fn says_terms(coupon: &Coupon) -> bool {
    coupon.percent_off.is_some() || coupon.amount_off.is_some()
}

/// Fills in the expandable parts, which are absent from most bodies. True if any was missing.
pub(super) fn complete(held: &mut Coupon, told: &Coupon) -> bool {
    let products = held.applies_to.is_empty() && !told.applies_to.is_empty();
    if products {
        held.applies_to.clone_from(&told.applies_to);
    }
    let missing = told.currency_options.iter().filter(|(currency, _)| !held.currency_options.contains_key(*currency));
    let missing: Vec<_> = missing.map(|(currency, amount)| (*currency, amount.clone())).collect();
    let any = products || !missing.is_empty();
    held.currency_options.extend(missing);
    any
}

//! Coupons on the items of one subscription, in Stripe's order.
//!
//! Item discounts first, then the subscription's, which replace the customer's; within a level in list order, or as
//! the rules say. A percentage is of what is left. `amount_off` is per invoice, so it is shared among the items of one
//! interval, by list value, in whole minor units to the largest remainder; the share is then normalised like the item
//! itself. That makes $500 off a yearly plan 41.666667 a month.

use num_bigint::BigInt;
use num_traits::{Signed, Zero};

use super::{
    catalogue::Need,
    parts::{Level, Part, PartDiscount, Terms},
    rules::{DiscountOrder, Rules},
};
use crate::{
    money::{Currency, Rational},
    stripe::{
        ids::{CouponId, DiscountId},
        types::Interval,
    },
    time::EventTime,
};

/// An item as an invoice line sees it.
#[derive(Clone, Debug)]
pub(crate) struct Line<'a> {
    pub(crate) part: &'a Part,
    cadence: (Interval, u32),
    currency: Currency,
    /// Minor units for one billing period, before discounts.
    list: Rational,
    /// Minor units for one billing period, after the discounts so far.
    pub(crate) left: Rational,
}

impl<'a> Line<'a> {
    /// The line of an item whose amount is known.
    pub(crate) fn of(part: &'a Part) -> Option<Self> {
        let currency = part.currency?;
        let list = part.list.ok()?.to_minor(currency);
        Some(Self { part, cadence: part.cadence?, currency, left: list.clone(), list })
    }
}

/// What one discount took something off.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) id: DiscountId,
    /// A discount can be switched to another coupon.
    pub(crate) coupon: CouponId,
    pub(crate) known_at: EventTime,
    /// The lines, by position.
    pub(crate) lines: Vec<usize>,
}

/// What all discounts did.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) taken: Vec<Taken>,
    pub(crate) unresolved: Vec<Need>,
    /// When the next of them begins or ends.
    pub(crate) valid_until: Option<EventTime>,
}

/// Takes the discounts whose class the rules subtract off the lines of one subscription (docs/how-we-count.md
/// "Discounts"; docs.stripe.com/billing/subscriptions/coupons, "Stackable discounts").
pub(crate) fn apply(lines: &mut [Line<'_>], rules: &Rules, time: EventTime) -> Outcome {
    let mut outcome = Outcome::default();
    for index in 0..lines.len() {
        for discount in ordered(lines[index].part, true, rules.discount_order) {
            apply_one(lines, discount, Some(index), rules, time, &mut outcome);
        }
    }
    // All items share these alike.
    if let Some(first) = lines.first() {
        for discount in ordered(first.part, false, rules.discount_order) {
            apply_one(lines, discount, None, rules, time, &mut outcome);
        }
    }
    outcome
}

/// The discounts of the item itself, or those it shares, in the order in which they are taken.
fn ordered(part: &Part, own: bool, order: DiscountOrder) -> Vec<&PartDiscount> {
    let of_level = |discount: &&PartDiscount| (discount.level == Level::Item) == own;
    let mut discounts: Vec<&PartDiscount> = part.discounts.iter().filter(of_level).collect();
    let is_percent = |discount: &&PartDiscount| discount.terms.as_ref().is_ok_and(|terms| terms.percent_off.is_some());
    match order {
        DiscountOrder::List => {}
        DiscountOrder::PercentFirst => discounts.sort_by_key(|discount| !is_percent(discount)),
        DiscountOrder::AmountFirst => discounts.sort_by_key(is_percent),
    }
    discounts
}

fn apply_one(
    lines: &mut [Line<'_>],
    discount: &PartDiscount,
    only: Option<usize>,
    rules: &Rules,
    time: EventTime,
    outcome: &mut Outcome,
) {
    let terms = match &discount.terms {
        Ok(terms) => terms,
        Err(need) => {
            outcome.unresolved.push(need.clone());
            return;
        }
    };
    if !rules.subtracts(&terms.duration) {
        return;
    }
    if let Some(next) = [terms.start, terms.end].into_iter().flatten().filter(|bound| *bound > time).min() {
        outcome.valid_until = Some(outcome.valid_until.map_or(next, |until| until.min(next)));
    }
    let begun = terms.start.is_none_or(|start| start <= time);
    if !begun || terms.end.is_some_and(|end| end <= time) {
        return;
    }
    match take(lines, discount, terms, only) {
        Some(taken) => {
            let (id, coupon) = (discount.id.clone(), terms.coupon.clone());
            outcome.taken.push(Taken { id, coupon, known_at: terms.known_at, lines: taken });
        }
        None => outcome.unresolved.push(Need::Coupon(terms.coupon.clone())),
    }
}

/// Takes one coupon off the lines it applies to and says which those were; `None` when its amount in their currency is
/// not known.
fn take(lines: &mut [Line<'_>], discount: &PartDiscount, terms: &Terms, only: Option<usize>) -> Option<Vec<usize>> {
    let eligible: Vec<usize> = lines
        .iter()
        .enumerate()
        .filter(|(index, line)| {
            only.is_none_or(|only| only == *index) && line.left.is_positive() && applies(terms, line)
        })
        .map(|(index, _)| index)
        .collect();
    let mut amounts = vec![Rational::zero(); lines.len()];
    if let Some(percent) = &terms.percent_off {
        for index in &eligible {
            amounts[*index] = &lines[*index].left * percent / BigInt::from(100);
        }
    } else {
        let mut invoices: Vec<_> =
            eligible.iter().map(|index| (lines[*index].cadence, lines[*index].currency)).collect();
        invoices.sort_unstable();
        invoices.dedup();
        for invoice in invoices {
            let on_it: Vec<usize> = eligible
                .iter()
                .copied()
                .filter(|index| (lines[*index].cadence, lines[*index].currency) == invoice)
                .collect();
            // The amount depends on the currency, so each item has its own copy of it.
            let first = &lines[*on_it.first()?];
            let own = first.part.discounts.iter().find(|other| other.id == discount.id)?;
            let amount = own.terms.as_ref().ok()?.amount_off.as_ref()?;
            share_out(lines, &on_it, amount, &mut amounts);
        }
    }
    for (line, amount) in lines.iter_mut().zip(&amounts) {
        line.left -= amount;
    }
    Some((0..lines.len()).filter(|index| !amounts[*index].is_zero()).collect())
}

fn applies(terms: &Terms, line: &Line<'_>) -> bool {
    let product = line.part.product.as_ref();
    terms.applies_to.is_empty() || product.is_some_and(|product| terms.applies_to.contains(product))
}

/// Shares `amount` among the lines of one invoice by list value: whole minor units to the largest remainder, never
/// more than a line has left; what one line cannot take, the next ones do (docs/how-we-count.md "Discounts").
fn share_out(lines: &[Line<'_>], invoice: &[usize], amount: &Rational, amounts: &mut [Rational]) {
    let left: Rational = invoice.iter().map(|index| &lines[*index].left).sum();
    let list: Rational = invoice.iter().map(|index| &lines[*index].list).sum();
    if !list.is_positive() {
        return;
    }
    let total = if left < *amount { left } else { amount.clone() };
    let exact: Vec<Rational> = invoice.iter().map(|index| &total * &lines[*index].list / &list).collect();
    for (index, share) in invoice.iter().zip(&exact) {
        amounts[*index] = share.floor();
    }
    let mut by_remainder: Vec<usize> = (0..invoice.len()).collect();
    by_remainder.sort_by(|a, b| exact[*b].fract().cmp(&exact[*a].fract()).then(a.cmp(b)));
    let one = Rational::from_integer(BigInt::from(1));
    let mut rest = total - invoice.iter().map(|index| &amounts[*index]).sum::<Rational>();
    for position in by_remainder {
        let cent = if rest < one { rest.clone() } else { one.clone() };
        amounts[invoice[position]] += &cent;
        rest -= cent;
    }
    let mut overflow = Rational::zero();
    for _ in 0..2 {
        for index in invoice {
            let wanted = &amounts[*index] + &overflow;
            let taken = if wanted > lines[*index].left { lines[*index].left.clone() } else { wanted.clone() };
            overflow = wanted - &taken;
            amounts[*index] = taken;
        }
    }
}

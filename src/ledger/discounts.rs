//! Coupons on the items of one subscription, in Stripe's order.
//!
//! Item discounts first, then the subscription's, which replace the customer's; within a level in list order. A
//! percentage is of what is left. `amount_off` is per invoice, so it is shared among the items of one interval, by
//! list value, in whole cents to the largest remainder; the share is then normalised like the item itself. That makes
//! $500 off a yearly plan 41.666667 a month.

use num_bigint::BigInt;
use num_traits::{Signed, Zero};

use super::{
    catalogue::{Need, Shelf},
    content::Item,
};
use crate::{
    money::{Currency, Rational},
    stripe::{
        ids::{DiscountId, ProductId},
        types::{Coupon, CouponDuration, Interval},
    },
    time::EventTime,
};

/// An item as an invoice line sees it.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) product: Option<ProductId>,
    pub(crate) currency: Currency,
    pub(crate) cadence: (Interval, u32),
    /// Minor units for one interval, before discounts.
    pub(crate) list: Rational,
    /// Minor units for one interval, after the discounts so far.
    pub(crate) left: Rational,
    /// The share of an interval's amount that falls on one month.
    pub(crate) share: Rational,
}

/// What one discount took.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) id: DiscountId,
    pub(crate) known_at: EventTime,
    /// Minor units for one interval, for each line.
    pub(crate) amounts: Vec<Rational>,
}

/// What all discounts took.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) taken: Vec<Taken>,
    pub(crate) unresolved: Vec<Need>,
    /// When the next of them begins or ends.
    pub(crate) valid_until: Option<EventTime>,
}

/// Takes the discounts whose class `subtracts` off the lines. `items` are the lines' items, in the same order;
/// `shared` are the discounts of the subscription, or the customer's where it has none of its own.
pub(crate) fn apply(
    lines: &mut [Line],
    items: &[&Item],
    shared: &[DiscountId],
    shelf: &Shelf,
    time: EventTime,
    subtracts: impl Fn(&CouponDuration) -> bool,
) -> Outcome {
    let mut outcome = Outcome { taken: Vec::new(), unresolved: Vec::new(), valid_until: None };
    let of_items =
        items.iter().enumerate().flat_map(|(line, item)| item.discounts.iter().map(move |id| (id, Some(line))));
    for (id, only) in of_items.chain(shared.iter().map(|id| (id, None))) {
        let Some(discount) = shelf.discount(id) else {
            outcome.unresolved.push(Need::Discount(id.clone()));
            continue;
        };
        let Some(coupon) = shelf.coupon(&discount.value.coupon) else {
            outcome.unresolved.push(Need::Coupon(discount.value.coupon.clone()));
            continue;
        };
        if !subtracts(&coupon.value.duration) {
            continue;
        }
        let bounds = [discount.value.start, discount.value.end];
        if let Some(next) = bounds.into_iter().flatten().filter(|bound| *bound > time).min() {
            outcome.valid_until = Some(outcome.valid_until.map_or(next, |until| until.min(next)));
        }
        let begun = discount.value.start.is_none_or(|start| start <= time);
        if !begun || discount.value.end.is_some_and(|end| end <= time) {
            continue;
        }
        match take(lines, only, &coupon.value) {
            Some(amounts) => {
                let known_at = discount.at.max(coupon.at);
                outcome.taken.push(Taken { id: id.clone(), known_at, amounts });
            }
            None => outcome.unresolved.push(Need::Coupon(coupon.value.id.clone())),
        }
    }
    outcome
}

/// Takes one coupon off the lines it applies to; `None` when its amount in their currency is not known.
pub(crate) fn take(lines: &mut [Line], only: Option<usize>, coupon: &Coupon) -> Option<Vec<Rational>> {
    let mut amounts = vec![Rational::zero(); lines.len()];
    let eligible: Vec<usize> = lines
        .iter()
        .enumerate()
        .filter(|(index, line)| {
            only.is_none_or(|only| only == *index) && line.left.is_positive() && applies(coupon, line)
        })
        .map(|(index, _)| index)
        .collect();
    if let Some(percent) = &coupon.percent_off {
        for index in eligible {
            amounts[index] = &lines[index].left * percent / BigInt::from(100);
        }
    } else {
        let mut cadences: Vec<_> = eligible.iter().map(|index| lines[*index].cadence).collect();
        cadences.sort_unstable();
        cadences.dedup();
        for cadence in cadences {
            let invoice: Vec<usize> =
                eligible.iter().copied().filter(|index| lines[*index].cadence == cadence).collect();
            share_out(lines, &invoice, amount_off(coupon, lines[*invoice.first()?].currency)?, &mut amounts);
        }
    }
    for (line, amount) in lines.iter_mut().zip(&amounts) {
        line.left -= amount;
    }
    Some(amounts)
}

fn applies(coupon: &Coupon, line: &Line) -> bool {
    coupon.applies_to.is_empty() || line.product.as_ref().is_some_and(|product| coupon.applies_to.contains(product))
}

fn amount_off(coupon: &Coupon, currency: Currency) -> Option<&Rational> {
    match &coupon.amount_off {
        Some(amount) if coupon.currency == Some(currency) => Some(amount),
        _ => coupon.currency_options.get(&currency),
    }
}

/// Shares `amount` among the lines of one invoice by list value: whole minor units to the largest remainder, never
/// more than a line has left; what one line cannot take, the next ones do.
fn share_out(lines: &[Line], invoice: &[usize], amount: &Rational, amounts: &mut [Rational]) {
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

//! The simulator's own exact arithmetic: what a price asks for a quantity, and what that is a month.
//!
//! Values are integers in millionths of a millionth of a minor unit (Stripe's prices have at most twelve decimal
//! places); a month's value is rounded once, half-even, to six places of the major unit. Independent of the ledger's
//! arithmetic on purpose: each checks the other.

/// Parts of one minor unit: the finest step of Stripe's `unit_amount_decimal`.
pub(super) const PARTS: i128 = 1_000_000_000_000;
/// Percentages are in hundredths of a percent.
pub(super) const WHOLE: i128 = 10_000;

/// How often a price bills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Interval {
    Week,
    Month,
    Year,
}

impl Interval {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// One tier; amounts in parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tier {
    pub(super) up_to: Option<u32>,
    pub(super) unit: i128,
    pub(super) flat: i128,
}

/// How a price turns a quantity into an amount; amounts in parts.
#[derive(Clone, Debug)]
pub(super) enum Rate {
    PerUnit(i128),
    Package { unit: i128, size: u32 },
    Graduated(Vec<Tier>),
    Volume(Vec<Tier>),
    Metered(i128),
}

impl Rate {
    /// What one interval costs, in parts of a minor unit. Usage is billed afterwards: nothing.
    pub(super) fn list(&self, quantity: u32) -> i128 {
        let units = i128::from(quantity);
        match self {
            Self::PerUnit(unit) => unit * units,
            Self::Package { unit, size } => unit * i128::from(quantity.div_ceil(*size)),
            Self::Volume(tiers) => tiers
                .iter()
                .find(|tier| tier.up_to.is_none_or(|end| quantity <= end))
                .map_or(0, |tier| tier.unit * units + tier.flat),
            Self::Graduated(tiers) => {
                let mut start = 0;
                let mut sum = 0;
                for tier in tiers {
                    let end = tier.up_to.map_or(quantity, |end| end.min(quantity));
                    if quantity > start || (quantity == 0 && start == 0) {
                        sum += tier.unit * i128::from(end - start) + tier.flat;
                    }
                    start = end.max(start);
                    if start >= quantity {
                        break;
                    }
                }
                sum
            }
            Self::Metered(_) => 0,
        }
    }
}

/// Splits `off` minor units over `lists` by value: whole units, what remains to the largest remainder (the first of
/// equals). Never more than the lists are worth.
pub(super) fn share(off: i128, lists: &[i128], shares: &mut [i128]) {
    let total: i128 = lists.iter().sum();
    shares.fill(0);
    if total <= 0 {
        return;
    }
    if off * PARTS >= total {
        shares.copy_from_slice(lists);
        return;
    }
    let mut left = off;
    for (share, list) in shares.iter_mut().zip(lists) {
        *share = off * list / total;
        left -= *share;
    }
    let mut given = vec![false; lists.len()];
    for _ in 0..left {
        let mut best: Option<usize> = None;
        for (at, list) in lists.iter().enumerate() {
            let remainder = off * list % total;
            if !given[at] && best.is_none_or(|best| remainder > off * lists[best] % total) {
                best = Some(at);
            }
        }
        if let Some(at) = best {
            given[at] = true;
            shares[at] += 1;
        }
    }
    for share in shares {
        *share *= PARTS;
    }
}

/// A month's value in millionths of the major unit, half-even. `net` is for `count` intervals, in parts over
/// `denominator`; `exponent` is the currency's.
pub(super) fn monthly_micros(net: i128, denominator: i128, interval: Interval, count: u32, exponent: u32) -> i128 {
    let (times, over) = match interval {
        Interval::Week => (52, 12),
        Interval::Month => (1, 1),
        Interval::Year => (1, 12),
    };
    half_even(net * 1_000_000 * times, denominator * PARTS * 10_i128.pow(exponent) * over * i128::from(count))
}

/// `numerator / denominator`, halves to the even neighbour. The denominator is positive.
pub(super) fn half_even(numerator: i128, denominator: i128) -> i128 {
    let floor = numerator.div_euclid(denominator);
    let twice = numerator.rem_euclid(denominator) * 2;
    match twice.cmp(&denominator) {
        std::cmp::Ordering::Less => floor,
        std::cmp::Ordering::Greater => floor + 1,
        std::cmp::Ordering::Equal => floor + (floor & 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_exact_and_halves_go_to_even() {
        assert_eq!(monthly_micros(1000 * PARTS, 1, Interval::Year, 1, 2), 833_333);
        assert_eq!(monthly_micros(2000 * PARTS, 1, Interval::Week, 1, 2), 86_666_667);
        assert_eq!(monthly_micros(9000 * PARTS, 1, Interval::Month, 3, 2), 30_000_000);
        assert_eq!(monthly_micros(500 * PARTS, 1, Interval::Year, 1, 0), 41_666_667);
        assert_eq!((half_even(5, 2), half_even(7, 2), half_even(-5, 2)), (2, 4, -2));
    }

    #[test]
    fn tiers_packages_and_shares_follow_stripes_rules() {
        let tiers = vec![
            Tier { up_to: Some(10), unit: 0, flat: 9900 },
            Tier { up_to: Some(50), unit: 800, flat: 0 },
            Tier { up_to: None, unit: 600, flat: 2500 },
        ];
        assert_eq!(Rate::Graduated(tiers.clone()).list(10), 9900);
        assert_eq!(Rate::Graduated(tiers.clone()).list(60), 9900 + 40 * 800 + 10 * 600 + 2500);
        assert_eq!(Rate::Volume(tiers).list(60), 60 * 600 + 2500);
        assert_eq!(Rate::Package { unit: 1500, size: 100 }.list(101), 3000);
        let mut shares = [0; 3];
        share(100, &[PARTS * 1000, PARTS * 1000, PARTS * 1000], &mut shares);
        assert_eq!(shares, [34 * PARTS, 33 * PARTS, 33 * PARTS]);
        share(500, &[PARTS * 100, PARTS * 200, 0], &mut shares);
        assert_eq!(shares, [PARTS * 100, PARTS * 200, 0]);
    }
}

//! Prices, and the plans that were there before them: one raw struct takes both shapes.

use num_traits::Zero;
use serde::Deserialize;

use super::{
    lenient::{Decimal, Many, Maybe, Pairs, Ref, Scalar},
    missing, note_word,
};
use crate::{
    money::Rational,
    stripe::{
        Error, UnknownCounts,
        types::{Interval, Price, Tier, TiersMode, TransformQuantity},
    },
};

/// A price or a plan. Fields of plans are marked; each shape leaves the other's absent.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RawPrice<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    product: Scalar<'a>,
    #[serde(borrow, default)]
    currency: Scalar<'a>,
    #[serde(borrow, default)]
    unit_amount: Decimal<'a>,
    #[serde(borrow, default)]
    unit_amount_decimal: Decimal<'a>,
    #[serde(borrow, default)]
    recurring: Maybe<RawRecurring<'a>>,
    #[serde(borrow, default)]
    tiers_mode: Scalar<'a>,
    #[serde(borrow, default)]
    tiers: RawTiers<'a>,
    #[serde(borrow, default)]
    transform_quantity: Maybe<RawTransform<'a>>,
    #[serde(borrow, default)]
    tax_behavior: Scalar<'a>,
    #[serde(borrow, default)]
    active: Scalar<'a>,
    #[serde(borrow, default)]
    nickname: Scalar<'a>,
    #[serde(borrow, default)]
    currency_options: Pairs<'a, Maybe<RawCurrencyOption<'a>>>,
    // Plans.
    #[serde(borrow, default)]
    amount: Decimal<'a>,
    #[serde(borrow, default)]
    amount_decimal: Decimal<'a>,
    #[serde(borrow, default)]
    interval: Scalar<'a>,
    #[serde(borrow, default)]
    interval_count: Scalar<'a>,
    #[serde(borrow, default)]
    usage_type: Scalar<'a>,
    #[serde(borrow, default)]
    transform_usage: Maybe<RawTransform<'a>>,
}

#[derive(Clone, Debug, Deserialize)]
struct RawRecurring<'a> {
    #[serde(borrow, default)]
    interval: Scalar<'a>,
    #[serde(borrow, default)]
    interval_count: Scalar<'a>,
    #[serde(borrow, default)]
    usage_type: Scalar<'a>,
}

/// Tiers: an array, or nothing that can be used.
type RawTiers<'a> = Many<Maybe<RawTier<'a>>>;

#[derive(Clone, Debug, Deserialize)]
struct RawTier<'a> {
    #[serde(borrow, default)]
    up_to: Decimal<'a>,
    #[serde(borrow, default)]
    amount: Decimal<'a>,
    #[serde(borrow, default)]
    unit_amount: Decimal<'a>,
    #[serde(borrow, default)]
    unit_amount_decimal: Decimal<'a>,
    #[serde(borrow, default)]
    flat_amount: Decimal<'a>,
    #[serde(borrow, default)]
    flat_amount_decimal: Decimal<'a>,
}

#[derive(Clone, Debug, Deserialize)]
struct RawTransform<'a> {
    #[serde(borrow, default)]
    divide_by: Scalar<'a>,
    #[serde(borrow, default)]
    round: Scalar<'a>,
}

#[derive(Clone, Debug, Deserialize)]
struct RawCurrencyOption<'a> {
    #[serde(borrow, default)]
    unit_amount: Decimal<'a>,
    #[serde(borrow, default)]
    unit_amount_decimal: Decimal<'a>,
}

/// Reads a price or plan of its own.
pub(super) fn read(raw: RawPrice<'_>, unknown: &mut UnknownCounts) -> Result<Price, Error> {
    raw.read(unknown).ok_or(missing("price", "id"))
}

/// Reads what a body says of an item's price: `price` (whole, or its id), else `plan`. A whole plan under a bare
/// price id is the same thing in its older shape.
pub(super) fn read_either(
    price: Ref<'_, RawPrice<'_>>,
    plan: Ref<'_, RawPrice<'_>>,
    unknown: &mut UnknownCounts,
) -> Option<Price> {
    match (price, plan) {
        (Ref::Full(price), _) => price.read(unknown),
        (Ref::Id(id), Ref::Full(plan)) => {
            let plan = plan.read(unknown).filter(|plan| plan.id.as_str() == id);
            Some(plan.unwrap_or_else(|| Price::bare((&*id).into())))
        }
        (Ref::Absent, Ref::Full(plan)) => plan.read(unknown),
        (Ref::Id(id), _) | (Ref::Absent, Ref::Id(id)) => Some(Price::bare((&*id).into())),
        (Ref::Absent, Ref::Absent) => None,
    }
}

impl RawPrice<'_> {
    fn read(self, unknown: &mut UnknownCounts) -> Option<Price> {
        let recurring = self.recurring.0.unwrap_or(RawRecurring {
            interval: self.interval,
            interval_count: self.interval_count,
            usage_type: self.usage_type,
        });
        let interval = recurring.interval.text();
        let tiers_mode = self.tiers_mode.text();
        let usage_type = recurring.usage_type.text();
        let tax_behavior = self.tax_behavior.text();
        note_word("price.interval", interval, &["day", "week", "month", "year"], unknown);
        note_word("price.tiers_mode", tiers_mode, &["graduated", "volume"], unknown);
        note_word("price.usage_type", usage_type, &["licensed", "metered"], unknown);
        note_word("price.tax_behavior", tax_behavior, &["inclusive", "exclusive", "unspecified"], unknown);
        let currency = self.currency.currency();
        if currency.is_none() {
            note_word("price.currency", self.currency.text(), &[], unknown);
        }
        let amounts = [self.unit_amount_decimal, self.amount_decimal, self.unit_amount, self.amount];
        Some(Price {
            product: self.product.id(),
            currency,
            unit_amount: amounts.into_iter().find_map(Decimal::rational),
            interval: interval.and_then(|word| match word {
                "day" => Some(Interval::Day),
                "week" => Some(Interval::Week),
                "month" => Some(Interval::Month),
                "year" => Some(Interval::Year),
                _ => None,
            }),
            interval_count: positive(&recurring.interval_count).unwrap_or(1),
            metered: usage_type == Some("metered"),
            tiers_mode: tiers_mode.and_then(|word| match word {
                "graduated" => Some(TiersMode::Graduated),
                "volume" => Some(TiersMode::Volume),
                _ => None,
            }),
            tiers: read_tiers(self.tiers),
            transform_quantity: self
                .transform_quantity
                .0
                .or(self.transform_usage.0)
                .and_then(|transform| transform.read(unknown)),
            tax_inclusive: tax_behavior.and_then(|word| match word {
                "inclusive" => Some(true),
                "exclusive" => Some(false),
                _ => None,
            }),
            currency_options: self
                .currency_options
                .0
                .into_iter()
                .filter_map(|(code, option)| {
                    let option = option.0?;
                    let amount = option.unit_amount_decimal.rational().or_else(|| option.unit_amount.rational())?;
                    Some((code.parse().ok()?, amount))
                })
                .collect(),
            active: self.active.bool(),
            nickname: self.nickname.string().filter(|nickname| !nickname.is_empty()),
            id: self.id.id()?,
        })
    }
}

/// A count of at least 1.
fn positive<T: TryFrom<i64>>(scalar: &Scalar<'_>) -> Option<T> {
    scalar.integer().filter(|count| *count > 0).and_then(|count| T::try_from(count).ok())
}

/// The tiers, if there are any and each can be read: half a table of tiers would price wrongly.
fn read_tiers(tiers: RawTiers<'_>) -> Option<Vec<Tier>> {
    let tiers: Vec<Tier> = tiers
        .0
        .into_iter()
        .map(|tier| {
            let tier = tier.0?;
            let first = |shapes: &[Decimal<'_>]| {
                shapes.iter().find_map(|decimal| decimal.rational()).unwrap_or_else(Rational::zero)
            };
            Some(Tier {
                up_to: tier.up_to.rational(),
                unit_amount: first(&[tier.unit_amount_decimal, tier.unit_amount, tier.amount]),
                flat_amount: first(&[tier.flat_amount_decimal, tier.flat_amount]),
            })
        })
        .collect::<Option<_>>()?;
    (!tiers.is_empty()).then_some(tiers)
}

impl RawTransform<'_> {
    fn read(self, unknown: &mut UnknownCounts) -> Option<TransformQuantity> {
        note_word("price.transform_quantity.round", self.round.text(), &["up", "down"], unknown);
        Some(TransformQuantity { divide_by: positive(&self.divide_by)?, round_up: self.round.text() == Some("up") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_and_its_price_read_alike() {
        let mut unknown = UnknownCounts::default();
        let price = r#"{"id":"price_1","object":"price","product":"prod_1","currency":"usd","unit_amount":null,
            "unit_amount_decimal":"0.5","recurring":{"interval":"week","interval_count":2,"usage_type":"metered"},
            "tiers_mode":"volume","tiers":[{"up_to":10,"unit_amount":5,"flat_amount":null},
            {"up_to":null,"unit_amount_decimal":"0.25","flat_amount_decimal":"100"}],
            "transform_quantity":{"divide_by":10,"round":"up"}}"#;
        let plan = r#"{"id":"price_1","object":"plan","product":"prod_1","currency":"usd","amount":null,
            "amount_decimal":"0.5","interval":"week","interval_count":2,"usage_type":"metered",
            "tiers_mode":"volume","tiers":[{"up_to":10,"amount":5},
            {"up_to":null,"unit_amount_decimal":"0.25","flat_amount":100}],
            "transform_usage":{"divide_by":10,"round":"up"}}"#;
        let mut read_json = |json| read(serde_json::from_str(json).unwrap(), &mut unknown).unwrap();
        let (price, plan) = (read_json(price), read_json(plan));
        assert_eq!(price, plan);
        assert_eq!(price.interval, Some(Interval::Week));
        assert_eq!(price.tiers.unwrap()[1].up_to, None);
        assert_eq!(unknown.total(), 0);
    }

    #[test]
    fn currency_options_and_odd_values_are_read_exactly_or_not_at_all() {
        let mut unknown = UnknownCounts::default();
        let json = r#"{"id":"p","currency":"gold","recurring":{"interval":"decade","interval_count":0},"tiers":[1],
            "currency_options":{"eur":{"unit_amount":900},"jpy":{"unit_amount_decimal":"0.1"},"x":{"unit_amount":1},
            "gbp":{"unit_amount":null}}}"#;
        let price = read(serde_json::from_str(json).unwrap(), &mut unknown).unwrap();
        assert_eq!((price.currency, price.interval, price.interval_count, price.tiers), (None, None, 1, None));
        let options: Vec<_> = price.currency_options.iter().map(|(code, amount)| format!("{code} {amount}")).collect();
        assert_eq!(options, ["eur 900", "jpy 1/10"]);
        assert_eq!(unknown.sorted(), [("price.currency=gold", 1), ("price.interval=decade", 1)]);
    }
}

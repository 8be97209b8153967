//! Coupons, and discounts: coupons applied to a customer, a subscription or an item.

use serde::Deserialize;

use super::{
    lenient::{Decimal, Many, Maybe, Pairs, Ref, Scalar},
    missing, note_word,
};
use crate::stripe::{
    Error, UnknownCounts,
    types::{Coupon, CouponDuration, CouponRef, Discount, DiscountRef, PromotionCode},
};

#[derive(Clone, Debug, Deserialize)]
pub(super) struct RawCoupon<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    percent_off: Decimal<'a>,
    #[serde(borrow, default)]
    amount_off: Decimal<'a>,
    #[serde(borrow, default)]
    currency: Scalar<'a>,
    #[serde(borrow, default)]
    duration: Scalar<'a>,
    #[serde(borrow, default)]
    duration_in_months: Scalar<'a>,
    #[serde(borrow, default)]
    applies_to: Maybe<RawAppliesTo<'a>>,
    #[serde(borrow, default)]
    currency_options: Pairs<'a, Maybe<RawAmountOff<'a>>>,
}

#[derive(Clone, Debug, Deserialize)]
struct RawAppliesTo<'a> {
    #[serde(borrow, default)]
    products: Many<Scalar<'a>>,
}

#[derive(Clone, Debug, Deserialize)]
struct RawAmountOff<'a> {
    #[serde(borrow, default)]
    amount_off: Decimal<'a>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct RawDiscount<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    coupon: Ref<'a, RawCoupon<'a>>,
    #[serde(borrow, default)]
    source: Maybe<RawSource<'a>>,
    #[serde(borrow, default)]
    customer: Scalar<'a>,
    #[serde(borrow, default)]
    subscription: Scalar<'a>,
    #[serde(borrow, default)]
    subscription_item: Scalar<'a>,
    #[serde(borrow, default)]
    start: Scalar<'a>,
    #[serde(borrow, default)]
    end: Scalar<'a>,
}

#[derive(Clone, Debug, Deserialize)]
struct RawSource<'a> {
    #[serde(borrow, default)]
    coupon: Ref<'a, RawCoupon<'a>>,
}

#[derive(Deserialize)]
pub(super) struct RawPromotionCode<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    active: Scalar<'a>,
    #[serde(borrow, default)]
    coupon: Ref<'a, RawCoupon<'a>>,
    #[serde(borrow, default)]
    promotion: Maybe<RawSource<'a>>,
}

/// Reads a promotion code: its coupon lies beside it, or later in its `promotion`.
pub(super) fn read_promotion_code(
    raw: RawPromotionCode<'_>,
    unknown: &mut UnknownCounts,
) -> Result<PromotionCode, Error> {
    let promotion = raw.promotion.0.map_or(Ref::Absent, |promotion| promotion.coupon);
    Ok(PromotionCode {
        id: raw.id.id().ok_or(missing("promotion_code", "id"))?,
        coupon: read_either(raw.coupon, promotion, unknown),
        active: raw.active.bool(),
    })
}

/// What two places say of a coupon: a whole one before an id.
fn read_either<'a>(
    one: Ref<'a, RawCoupon<'a>>,
    other: Ref<'a, RawCoupon<'a>>,
    unknown: &mut UnknownCounts,
) -> Option<CouponRef> {
    let better = match (one, other) {
        (full @ Ref::Full(_), _) | (_, full @ Ref::Full(_)) => full,
        (Ref::Absent, other) => other,
        (id, _) => id,
    };
    read_coupon_ref(better, unknown)
}

/// Reads a coupon of its own.
pub(super) fn read_coupon(raw: RawCoupon<'_>, unknown: &mut UnknownCounts) -> Result<Coupon, Error> {
    raw.read(unknown).ok_or(missing("coupon", "id"))
}

/// Reads a coupon by its id, or whole.
pub(super) fn read_coupon_ref(coupon: Ref<'_, RawCoupon<'_>>, unknown: &mut UnknownCounts) -> Option<CouponRef> {
    match coupon {
        Ref::Absent => None,
        Ref::Id(id) => Some(CouponRef::Id((&*id).into())),
        Ref::Full(coupon) => coupon.read(unknown).map(|coupon| CouponRef::Full(Box::new(coupon))),
    }
}

/// Reads a discount of its own; `None`, and counted, when it is not made of a coupon.
pub(super) fn read_discount(raw: RawDiscount<'_>, unknown: &mut UnknownCounts) -> Option<Discount> {
    let discount = raw.read(unknown);
    if discount.is_none() {
        unknown.count("discount without a coupon");
    }
    discount
}

/// Reads the discounts of a customer, subscription or item: `discounts`, ids or objects, and the single `discount`
/// of older shapes, which also spells out its id in the list where a body has both.
pub(super) fn read_refs<'a>(
    many: Many<Ref<'a, RawDiscount<'a>>>,
    single: Ref<'a, RawDiscount<'a>>,
    unknown: &mut UnknownCounts,
) -> Vec<DiscountRef> {
    let mut refs: Vec<_> = many.0.into_iter().filter_map(|entry| read_ref(entry, unknown)).collect();
    let single = match single {
        Ref::Absent => return refs,
        single => read_ref(single, unknown),
    };
    match (&single, refs.is_empty()) {
        (Some(DiscountRef::Full(full)), false) => {
            for entry in &mut refs {
                if matches!(entry, DiscountRef::Id(id) if full.id.as_ref() == Some(id)) {
                    *entry = DiscountRef::Full(full.clone());
                }
            }
        }
        (_, true) => refs.extend(single),
        _ => {}
    }
    refs
}

fn read_ref(entry: Ref<'_, RawDiscount<'_>>, unknown: &mut UnknownCounts) -> Option<DiscountRef> {
    match entry {
        Ref::Absent => None,
        Ref::Id(id) => Some(DiscountRef::Id((&*id).into())),
        Ref::Full(raw) => {
            let id = raw.id.id();
            let full = raw.read(unknown).map(|discount| DiscountRef::Full(Box::new(discount)));
            if full.is_none() {
                unknown.count("discount without a coupon");
            }
            full.or(id.map(DiscountRef::Id))
        }
    }
}

impl RawDiscount<'_> {
    fn read(self, unknown: &mut UnknownCounts) -> Option<Discount> {
        let source = self.source.0.map_or(Ref::Absent, |source| source.coupon);
        let coupon = read_either(self.coupon, source, unknown)?;
        Some(Discount {
            id: self.id.id(),
            coupon,
            customer: self.customer.id(),
            subscription: self.subscription.id(),
            subscription_item: self.subscription_item.id(),
            start: self.start.time(),
            end: self.end.time(),
        })
    }
}

impl RawCoupon<'_> {
    fn read(self, unknown: &mut UnknownCounts) -> Option<Coupon> {
        let duration = self.duration.text();
        note_word("coupon.duration", duration, &["forever", "once", "repeating"], unknown);
        Some(Coupon {
            percent_off: self.percent_off.rational(),
            amount_off: self.amount_off.rational(),
            currency: self.currency.currency(),
            duration: match duration.unwrap_or_default() {
                "forever" => CouponDuration::Forever,
                "once" => CouponDuration::Once,
                "repeating" => CouponDuration::Repeating,
                other => CouponDuration::Other(other.to_owned()),
            },
            duration_in_months: self.duration_in_months.integer().and_then(|months| u32::try_from(months).ok()),
            applies_to: self
                .applies_to
                .0
                .map(|applies_to| applies_to.products.0.iter().filter_map(Scalar::id).collect())
                .unwrap_or_default(),
            currency_options: self
                .currency_options
                .0
                .into_iter()
                .filter_map(|(code, option)| Some((code.parse().ok()?, option.0?.amount_off.rational()?)))
                .collect(),
            id: self.id.id()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUPON: &str = r#"{"id":"HALF","object":"coupon","percent_off":33.3,"duration":"repeating",
        "duration_in_months":3,"applies_to":{"products":["prod_1"]}}"#;

    #[test]
    fn a_coupon_reads_alike_in_every_place_it_has_been() {
        let mut unknown = UnknownCounts::default();
        let mut read = |coupon: String| {
            let json = format!(r#"{{"id":"di_1",{coupon}}}"#);
            read_discount(serde_json::from_str(&json).unwrap(), &mut unknown).unwrap()
        };
        let old = read(format!(r#""coupon":{COUPON}"#));
        let new = read(format!(r#""source":{{"type":"coupon","coupon":{COUPON}}}"#));
        assert_eq!(old, new);
        let CouponRef::Full(coupon) = &old.coupon else { panic!("not whole") };
        assert_eq!(coupon.percent_off.as_ref().unwrap().to_string(), "333/10");
        assert_eq!(read(r#""source":{"coupon":"HALF"}"#.to_owned()).coupon, CouponRef::Id("HALF".into()));
    }

    #[test]
    fn the_single_discount_spells_out_its_id_in_the_list() {
        let mut unknown = UnknownCounts::default();
        let full = format!(r#"{{"id":"di_2","coupon":{COUPON}}}"#);
        let mut refs = |many: &str, single: &str| {
            read_refs(serde_json::from_str(many).unwrap(), serde_json::from_str(single).unwrap(), &mut unknown)
                .iter()
                .map(|entry| match entry {
                    DiscountRef::Id(id) => id.to_string(),
                    DiscountRef::Full(full) => format!("{:?} whole", full.id),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(refs(r#"["di_1","di_2"]"#, &full), ["di_1", "Some(di_2) whole"]);
        assert_eq!(refs("[]", &full), ["Some(di_2) whole"]);
        assert_eq!(refs(r#"["di_1"]"#, "null"), ["di_1"]);
        assert_eq!(refs(r#"[{"id":"di_3","source":{"type":"gift"}},7]"#, "null"), ["di_3"]);
        assert_eq!(unknown.get("discount without a coupon"), 1);
    }
}

//! Prices, products, coupons and discounts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    money::{Currency, Rational},
    stripe::ids::{CouponId, CustomerId, DiscountId, PriceId, ProductId, SubscriptionId, SubscriptionItemId},
    time::EventTime,
};

/// A recurring interval.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Interval {
    /// Days.
    Day,
    /// Weeks.
    Week,
    /// Calendar months.
    Month,
    /// Calendar years.
    Year,
}

impl Interval {
    /// Stripe's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// A price (or an old plan). Only `id` is sure.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Price {
    /// `price_…` or `plan_…`
    pub id: PriceId,
    /// What it sells.
    pub product: Option<ProductId>,
    /// The currency of `unit_amount` and `tiers`.
    pub currency: Option<Currency>,
    /// `unit_amount_decimal`, else `unit_amount`, in minor units.
    pub unit_amount: Option<Rational>,
    /// The interval; `None` for one-off prices and bare ids.
    pub interval: Option<Interval>,
    /// How many intervals make a period; 1 when absent.
    pub interval_count: u32,
    /// Whether usage decides the amount.
    pub metered: bool,
    /// How tiers are applied, for tiered prices.
    pub tiers_mode: Option<TiersMode>,
    /// The tiers, where the body has them: webhook bodies hardly ever do.
    pub tiers: Option<Vec<Tier>>,
    /// Packages: the quantity is divided before it is priced.
    pub transform_quantity: Option<TransformQuantity>,
    /// Whether amounts include tax (`tax_behavior = inclusive`).
    pub tax_inclusive: Option<bool>,
    /// Unit amounts in other currencies, in their minor units.
    pub currency_options: BTreeMap<Currency, Rational>,
    /// Whether it can be bought.
    pub active: Option<bool>,
    /// The merchant's name for it.
    pub nickname: Option<String>,
}

impl Price {
    /// A price of which only the id is known.
    #[must_use]
    pub fn bare(id: PriceId) -> Self {
        Self {
            id,
            product: None,
            currency: None,
            unit_amount: None,
            interval: None,
            interval_count: 1,
            metered: false,
            tiers_mode: None,
            tiers: None,
            transform_quantity: None,
            tax_inclusive: None,
            currency_options: BTreeMap::new(),
            active: None,
            nickname: None,
        }
    }
}

/// How the tiers of a price are applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TiersMode {
    /// Each unit at its own tier's rate.
    Graduated,
    /// All units at the rate of the tier the quantity falls in.
    Volume,
}

/// One tier of a price.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tier {
    /// The last unit of the tier; `None` for the last tier.
    pub up_to: Option<Rational>,
    /// Minor units for each unit; 0 when absent.
    pub unit_amount: Rational,
    /// Minor units for entering the tier; 0 when absent.
    pub flat_amount: Rational,
}

/// Packaging of quantities.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TransformQuantity {
    /// Units in a package; at least 1.
    pub divide_by: u64,
    /// Whether a package begun counts whole.
    pub round_up: bool,
}

/// A product.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Product {
    /// `prod_…`
    pub id: ProductId,
    /// The merchant's name for it.
    pub name: Option<String>,
    /// Whether it is on sale.
    pub active: Option<bool>,
}

/// A discount by reference or whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum DiscountRef {
    /// New shapes: `di_…` only.
    Id(DiscountId),
    /// Old shapes and expanded bodies.
    Full(Box<Discount>),
}

/// A coupon applied to something.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Discount {
    /// `di_…`; absent in very old shapes.
    pub id: Option<DiscountId>,
    /// The coupon.
    pub coupon: CouponRef,
    /// On whose purchases.
    pub customer: Option<CustomerId>,
    /// On which subscription, if on one.
    pub subscription: Option<SubscriptionId>,
    /// On which item, if on one.
    pub subscription_item: Option<SubscriptionItemId>,
    /// From when.
    pub start: Option<EventTime>,
    /// Until when; `None` is for ever or as the coupon says.
    pub end: Option<EventTime>,
}

/// A coupon by reference or whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum CouponRef {
    /// New shapes: the id only.
    Id(CouponId),
    /// Old shapes and expanded bodies.
    Full(Box<Coupon>),
}

impl CouponRef {
    /// The coupon's id.
    #[must_use]
    pub fn id(&self) -> &CouponId {
        match self {
            Self::Id(id) => id,
            Self::Full(coupon) => &coupon.id,
        }
    }
}

/// How long a coupon lasts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CouponDuration {
    /// For ever.
    Forever,
    /// For some months.
    Repeating,
    /// For one invoice.
    Once,
    /// A value this version does not know.
    Other(String),
}

/// A coupon.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Coupon {
    /// The merchant's code.
    pub id: CouponId,
    /// Share taken off, in percent.
    pub percent_off: Option<Rational>,
    /// Amount taken off an invoice, in minor units of `currency`.
    pub amount_off: Option<Rational>,
    /// The currency of `amount_off`.
    pub currency: Option<Currency>,
    /// How long it lasts.
    pub duration: CouponDuration,
    /// Months, for a repeating one.
    pub duration_in_months: Option<u32>,
    /// The products it applies to; empty means all.
    pub applies_to: Vec<ProductId>,
    /// Amounts off in other currencies, in their minor units.
    pub currency_options: BTreeMap<Currency, Rational>,
}

/// A promotion code.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PromotionCode {
    /// `promo_…`
    pub id: String,
    /// The coupon it stands for (`coupon`, later `promotion.coupon`).
    pub coupon: Option<CouponRef>,
    /// Whether it can be used.
    pub active: Option<bool>,
}

/// A rate of tax.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TaxRate {
    /// `txr_…`; `tax_percent` for the number that stood on subscriptions before there were rates.
    pub id: String,
    /// The rate in percent, the effective one where the body has it.
    pub percentage: Rational,
    /// Whether amounts include the tax.
    pub inclusive: bool,
}

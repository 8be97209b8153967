//! What the catalogue knows, as rows of `products`, `prices` and `coupons`: relations with a key, for people and for
//! pipelines. Field names are column names in `schemas/tables.yml`.

use std::collections::BTreeMap;

use crate::{
    money::{Currency, Rational, exact_text},
    stripe::{
        ids::ProductId,
        types::{Coupon, Price, Provenance, Scope, Tier},
    },
    time::EventTime,
};

/// A product. Keyed by `product_id`.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct ProductRow {
    pub scope: Scope,
    pub product_id: ProductId,
    pub name: Option<String>,
    pub active: Option<bool>,
    pub provenance: Provenance,
    pub known_at: EventTime,
}

/// A price. Keyed by its id.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct PriceRow {
    pub scope: Scope,
    /// Its facts; `currency_options` are in `options`.
    pub price: Price,
    /// Unit amounts in other currencies: from when, and how much, in minor units.
    pub options: BTreeMap<Currency, Vec<(EventTime, Rational)>>,
    pub provenance: Provenance,
    pub known_at: EventTime,
}

/// A coupon. Keyed by its id.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct CouponRow {
    pub scope: Scope,
    pub coupon: Coupon,
    pub provenance: Provenance,
    pub known_at: EventTime,
}

impl PriceRow {
    /// The tiers as JSON, exact decimals as texts, in minor units; `None` where there are none, or none are known.
    #[must_use]
    pub fn tiers_json(&self) -> Option<String> {
        let tier = |tier: &Tier| {
            serde_json::json!({
                "up_to": tier.up_to.as_ref().map(exact_text),
                "unit_amount": exact_text(&tier.unit_amount),
                "flat_amount": exact_text(&tier.flat_amount),
            })
        };
        let tiers = self.price.tiers.as_ref()?;
        Some(serde_json::Value::Array(tiers.iter().map(tier).collect()).to_string())
    }

    /// The amounts in other currencies as JSON, oldest first; `None` where none are known.
    #[must_use]
    pub fn options_json(&self) -> Option<String> {
        let options = self.options.iter().flat_map(|(currency, dated)| {
            dated.iter().map(|(from, amount)| {
                serde_json::json!({
                    "currency": currency.as_str(),
                    "from": from.to_string(),
                    "unit_amount": exact_text(amount),
                })
            })
        });
        (!self.options.is_empty()).then(|| serde_json::Value::Array(options.collect()).to_string())
    }
}

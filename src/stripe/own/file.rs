//! A catalogue file: prices and products that somebody wrote down because neither events nor the API tell of them.
//!
//! ```yaml
//! products:
//!   - { id: prod_seats, name: Seats }
//! prices:
//!   - id: price_seats
//!     product: prod_seats
//!     currency: usd
//!     interval: month              # day, week, month or year
//!     tiers_mode: graduated        # or volume
//!     tiers:                       # amounts in minor units; the last tier is up to inf
//!       - { up_to: 10, unit_amount: 700 }
//!       - { up_to: inf, unit_amount: "650.5", flat_amount: 1000 }
//!   - { id: price_pro, product: prod_pro, currency: usd, unit_amount: 4900, interval: year }
//! ```
//!
//! Beside these a price may have `interval_count` (1), `usage_type` (`licensed`, or `metered`), `nickname`, `active`,
//! `tax_behavior` (`inclusive`, `exclusive`), `transform_quantity: { divide_by: 10, round: up }` and
//! `currency_options: { eur: 4500 }`. What is not understood is an error, never left out in silence.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value, json};

use crate::money::{Currency, Rational, exact_text, parse_decimal};

/// What is wrong with a file of prices or of rates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FileError(pub String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    products: Vec<ProductEntry>,
    #[serde(default)]
    prices: Vec<PriceEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProductEntry {
    id: String,
    name: Option<String>,
    active: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceEntry {
    id: String,
    product: Option<String>,
    nickname: Option<String>,
    active: Option<bool>,
    currency: Currency,
    unit_amount: Option<Exact>,
    interval: Interval,
    #[serde(default = "one")]
    interval_count: u32,
    #[serde(default)]
    usage_type: UsageType,
    tax_behavior: Option<TaxBehavior>,
    tiers_mode: Option<TiersMode>,
    tiers: Option<Vec<TierEntry>>,
    transform_quantity: Option<TransformEntry>,
    #[serde(default)]
    currency_options: BTreeMap<Currency, Exact>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TierEntry {
    up_to: UpTo,
    #[serde(default)]
    unit_amount: Exact,
    #[serde(default)]
    flat_amount: Exact,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransformEntry {
    divide_by: u64,
    round: Round,
}

macro_rules! words {
    ($($name:ident { $($variant:ident = $word:literal),+ })*) => {$(
        #[derive(Clone, Copy, Deserialize)]
        enum $name {
            $(#[serde(rename = $word)] $variant,)+
        }

        impl $name {
            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    )*};
}

words! {
    Interval { Day = "day", Week = "week", Month = "month", Year = "year" }
    UsageType { Licensed = "licensed", Metered = "metered" }
    TaxBehavior { Inclusive = "inclusive", Exclusive = "exclusive" }
    TiersMode { Graduated = "graduated", Volume = "volume" }
    Round { Up = "up", Down = "down" }
}

#[allow(clippy::derivable_impls, reason = "the macro that makes the enums knows no default")]
impl Default for UsageType {
    fn default() -> Self {
        Self::Licensed
    }
}

fn one() -> u32 {
    1
}

/// A number as it is written: a whole one, or a decimal in quotes.
#[derive(Clone, PartialEq)]
struct Exact(Rational);

impl Default for Exact {
    fn default() -> Self {
        Self(Rational::from_integer(0.into()))
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ExactVisitor;

        impl de::Visitor<'_> for ExactVisitor {
            type Value = Exact;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount in minor units: a whole number, or a decimal in quotes such as \"0.0125\"")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Exact, E> {
                Ok(Exact(Rational::from_integer(value.into())))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Exact, E> {
                Ok(Exact(Rational::from_integer(value.into())))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Exact, E> {
                Err(E::custom(format!("write \"{value}\" in quotes, so that it stays exact")))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Exact, E> {
                parse_decimal(text).map(Exact).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(ExactVisitor)
    }
}

/// The last unit of a tier.
enum UpTo {
    Infinity,
    Units(Exact),
}

impl<'de> Deserialize<'de> for UpTo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Whole(u64),
            Text(String),
        }
        match Given::deserialize(deserializer).map_err(|_| de::Error::custom("up_to is a number of units, or inf"))? {
            Given::Whole(units) => Ok(Self::Units(Exact(Rational::from_integer(units.into())))),
            Given::Text(text) if text == "inf" => Ok(Self::Infinity),
            Given::Text(text) => parse_decimal(&text).map(|units| Self::Units(Exact(units))).map_err(de::Error::custom),
        }
    }
}

/// The objects that a catalogue file describes, in the shape of Stripe's API.
///
/// # Errors
/// [`FileError`] says what is wrong, and where.
pub fn catalogue(yaml: &str) -> Result<Vec<String>, FileError> {
    let file: File = serde_yaml_ng::from_str(yaml).map_err(|error| FileError(error.to_string()))?;
    let mut objects = Vec::with_capacity(file.products.len() + file.prices.len());
    for product in &file.products {
        let mut object = Map::new();
        object.insert("object".to_owned(), "product".into());
        object.insert("id".to_owned(), id(&product.id)?.into());
        put(&mut object, "name", product.name.as_deref());
        put(&mut object, "active", product.active);
        objects.push(Value::Object(object).to_string());
    }
    for price in &file.prices {
        let object = price.object().map_err(|problem| FileError(format!("price {}: {problem}", price.id)))?;
        objects.push(object.to_string());
    }
    Ok(objects)
}

fn id(id: &str) -> Result<&str, FileError> {
    if id.is_empty() { Err(FileError("an id is empty".to_owned())) } else { Ok(id) }
}

fn put<T: Into<Value>>(object: &mut Map<String, Value>, key: &str, value: Option<T>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}

impl PriceEntry {
    fn object(&self) -> Result<Value, String> {
        id(&self.id).map_err(|error| error.0)?;
        if self.interval_count == 0 {
            return Err("interval_count is at least 1".to_owned());
        }
        let mut object = Map::new();
        object.insert("object".to_owned(), "price".into());
        object.insert("id".to_owned(), self.id.as_str().into());
        put(&mut object, "product", self.product.as_deref());
        put(&mut object, "nickname", self.nickname.as_deref());
        put(&mut object, "active", self.active);
        object.insert("currency".to_owned(), self.currency.as_str().into());
        let rhythm = json!({
            "interval": self.interval.as_str(),
            "interval_count": self.interval_count,
            "usage_type": self.usage_type.as_str(),
        });
        object.insert("recurring".to_owned(), rhythm);
        put(&mut object, "tax_behavior", self.tax_behavior.map(TaxBehavior::as_str));
        match (&self.unit_amount, self.tiers_mode, &self.tiers) {
            (Some(amount), None, None) => {
                object.insert("billing_scheme".to_owned(), "per_unit".into());
                object.insert("unit_amount_decimal".to_owned(), exact_text(&amount.0).into());
            }
            (None, Some(mode), Some(tiers)) => {
                object.insert("billing_scheme".to_owned(), "tiered".into());
                object.insert("tiers_mode".to_owned(), mode.as_str().into());
                object.insert("tiers".to_owned(), tiers_of(tiers)?);
            }
            _ => return Err("give unit_amount, or tiers with tiers_mode".to_owned()),
        }
        if let Some(packages) = &self.transform_quantity {
            if packages.divide_by == 0 {
                return Err("divide_by is at least 1".to_owned());
            }
            let packages = json!({ "divide_by": packages.divide_by, "round": packages.round.as_str() });
            object.insert("transform_quantity".to_owned(), packages);
        }
        if !self.currency_options.is_empty() {
            let option = |amount: &Exact| json!({ "unit_amount_decimal": exact_text(&amount.0) });
            let options = self.currency_options.iter().map(|(currency, amount)| (currency.to_string(), option(amount)));
            object.insert("currency_options".to_owned(), Value::Object(options.collect()));
        }
        Ok(Value::Object(object))
    }
}

fn tiers_of(tiers: &[TierEntry]) -> Result<Value, String> {
    let mut below = Rational::from_integer(0.into());
    let mut written = Vec::with_capacity(tiers.len());
    for (at, tier) in tiers.iter().enumerate() {
        let last = at + 1 == tiers.len();
        let up_to = match &tier.up_to {
            UpTo::Infinity if last => Value::Null,
            UpTo::Units(Exact(units)) if !last && *units > below => {
                below.clone_from(units);
                exact_text(units).into()
            }
            _ => return Err("tiers go up, and the last one, and only that, is up to inf".to_owned()),
        };
        written.push(json!({
            "up_to": up_to,
            "unit_amount_decimal": exact_text(&tier.unit_amount.0),
            "flat_amount_decimal": exact_text(&tier.flat_amount.0),
        }));
    }
    if written.is_empty() { Err("there are no tiers".to_owned()) } else { Ok(Value::Array(written)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(yaml: &str) -> Value {
        let objects = catalogue(yaml).unwrap();
        assert_eq!(objects.len(), 1);
        serde_json::from_str(&objects[0]).unwrap()
    }

    #[test]
    fn a_price_is_written_in_the_shape_of_stripes_api() {
        let tiered = only(
            r#"prices:
  - id: price_1
    product: prod_1
    currency: USD
    interval: month
    interval_count: 3
    tiers_mode: graduated
    tiers:
      - { up_to: 10, unit_amount: 700 }
      - { up_to: inf, unit_amount: "650.5", flat_amount: 1000 }
"#,
        );
        assert_eq!(
            tiered,
            json!({
                "object": "price", "id": "price_1", "product": "prod_1", "currency": "usd",
                "recurring": { "interval": "month", "interval_count": 3, "usage_type": "licensed" },
                "billing_scheme": "tiered", "tiers_mode": "graduated",
                "tiers": [
                    { "up_to": "10", "unit_amount_decimal": "700", "flat_amount_decimal": "0" },
                    { "up_to": null, "unit_amount_decimal": "650.5", "flat_amount_decimal": "1000" },
                ],
            })
        );
        let packs = only(
            r#"prices: [{ id: p, currency: usd, unit_amount: "0.0125", interval: year,
                currency_options: { eur: 1 }, transform_quantity: { divide_by: 10, round: up } }]"#,
        );
        assert_eq!(packs["unit_amount_decimal"], "0.0125");
        assert_eq!(packs["currency_options"]["eur"]["unit_amount_decimal"], "1");
        assert_eq!(packs["transform_quantity"], json!({ "divide_by": 10, "round": "up" }));
        assert_eq!(
            only("products: [{ id: prod_1, name: Pro, active: false }]"),
            json!({ "object": "product", "id": "prod_1", "name": "Pro", "active": false })
        );
    }

    #[test]
    fn a_mistake_is_refused_with_what_to_write() {
        let price = |rest: &str| format!("prices: [{{ id: p, currency: usd, interval: month, {rest} }}]");
        for (rest, word) in [
            ("unit_amount: 0.0125", "quotes"),
            ("unit_amount: twelve", "twelve"),
            ("unit_amount: 1, amount: 2", "amount"),
            ("nickname: x", "unit_amount, or tiers"),
            ("unit_amount: 1, tiers_mode: volume, tiers: [{ up_to: inf }]", "unit_amount, or tiers"),
            ("tiers_mode: volume, tiers: [{ up_to: 5 }]", "inf"),
            ("tiers_mode: volume, tiers: [{ up_to: 5 }, { up_to: 5 }, { up_to: inf }]", "go up"),
            ("unit_amount: 1, interval_count: 0", "interval_count"),
        ] {
            let refused = catalogue(&price(rest)).unwrap_err().to_string();
            assert!(refused.contains(word), "{rest}: {refused}");
        }
        assert!(catalogue("prices: [{ id: p, currency: gold, unit_amount: 1, interval: month }]").is_err());
        assert!(catalogue("prices: [{ id: p, currency: usd, unit_amount: 1, interval: decade }]").is_err());
        assert!(catalogue("price: []").is_err());
    }
}

//! Rates of exchange: the object of one of our own records.

use chrono::NaiveDate;
use num_traits::Signed;
use serde::Deserialize;

use super::{
    lenient::{Decimal, Pairs, Scalar},
    missing,
};
use crate::stripe::{Error, UnknownCounts, own, types::FxDay};

#[derive(Deserialize)]
pub(super) struct RawRates<'a> {
    #[serde(borrow, default)]
    day: Scalar<'a>,
    #[serde(borrow, default)]
    base: Scalar<'a>,
    #[serde(borrow, default)]
    source: Scalar<'a>,
    #[serde(borrow, default)]
    rates: Pairs<'a, Decimal<'a>>,
}

/// Reads the rates of a day. One that is no positive number, or of no known currency, is left out, and counted.
pub(super) fn read(raw: RawRates<'_>, unknown: &mut UnknownCounts) -> Result<FxDay, Error> {
    let mut rates = std::collections::BTreeMap::new();
    for (code, rate) in raw.rates.0 {
        match (code.parse(), rate.rational().filter(Signed::is_positive)) {
            (Ok(currency), Some(rate)) => {
                rates.insert(currency, rate);
            }
            (Err(_), _) => unknown.count(&format!("rate of exchange of {}", code.chars().take(8).collect::<String>())),
            _ => unknown.count("rate of exchange that is no positive number"),
        }
    }
    let day = raw.day.text().and_then(|day| day.parse::<NaiveDate>().ok());
    Ok(FxDay {
        day: day.ok_or(missing(own::FX_RATES, "day"))?,
        base: raw.base.currency().ok_or(missing(own::FX_RATES, "base"))?,
        source: raw.source.string().filter(|source| !source.is_empty()).ok_or(missing(own::FX_RATES, "source"))?,
        rates,
    })
}

//! `to_currency`: conversion on reading, with the rates that are loaded now.
//!
//! Its value changes as rates are loaded, so pipelines, which must give the same again, refuse it.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use arrow::{
    array::{Array, AsArray, Decimal128Array},
    datatypes::{DataType, Date32Type, Decimal128Type},
};
use datafusion::{
    common::{Result, exec_datafusion_err, exec_err, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};
use num_bigint::BigInt;

use super::currency::{by_row, currency, decimal_for, text_for};
use crate::{
    ledger::fx::Rates,
    money::{Amount, Rational},
};

/// The rates of exchange, shared by whoever loads them and all sessions that convert.
#[derive(Clone, Debug, Default)]
pub struct SharedRates(Arc<RwLock<Rates>>);

impl SharedRates {
    /// Rates that are there already.
    #[must_use]
    pub fn new(rates: Rates) -> Self {
        Self(Arc::new(RwLock::new(rates)))
    }

    /// The rates as they are now.
    pub fn read(&self) -> RwLockReadGuard<'_, Rates> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the rates.
    pub fn change<T>(&self, change: impl FnOnce(&mut Rates) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// `to_currency(amount, from, to, day) → decimal(28,6)` with `rates` that are at most `max_age_days` old.
#[must_use]
pub fn to_currency(rates: SharedRates, max_age_days: u32) -> ScalarUDF {
    ScalarUDF::from(ToCurrency { signature: Signature::user_defined(Volatility::Stable), rates, max_age_days })
}

#[derive(Debug)]
struct ToCurrency {
    signature: Signature,
    rates: SharedRates,
    max_age_days: u32,
}

impl PartialEq for ToCurrency {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rates.0, &other.rates.0) && self.max_age_days == other.max_age_days
    }
}

impl Eq for ToCurrency {}

impl Hash for ToCurrency {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(Arc::as_ptr(&self.rates.0), state);
        self.max_age_days.hash(state);
    }
}

/// Its name in SQL.
pub(crate) const NAME: &str = "to_currency";

impl ScalarUDFImpl for ToCurrency {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [amount, from, to, day] = types else {
            return plan_err!(
                "{NAME} takes an amount, two currencies and a day: {NAME}(closing, currency, 'eur', day)"
            );
        };
        let day = match day {
            DataType::Null | DataType::Date32 | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                DataType::Date32
            }
            other => {
                return plan_err!(
                    "{NAME} takes a calendar day, not a {other}; local_date(occurred_at, 'Europe/Berlin') is the day \
                     of an instant"
                );
            }
        };
        Ok(vec![decimal_for(amount, NAME)?, text_for(from, NAME)?, text_for(to, NAME)?, day])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Decimal128(28, 6))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        by_row(&args, |columns, rows| {
            let [amounts, from, to, days] = columns else {
                return exec_err!("{NAME} takes an amount, two currencies and a day");
            };
            let DataType::Decimal128(_, scale) = *amounts.data_type() else {
                return exec_err!("{NAME} takes a decimal, not a {}", amounts.data_type());
            };
            let unit = Rational::from_integer(BigInt::from(10)).pow(scale.into());
            let amounts = amounts.as_primitive::<Decimal128Type>();
            let (from, to) = (from.as_string::<i32>(), to.as_string::<i32>());
            let days = days.as_primitive::<Date32Type>();
            let rates = self.rates.read();
            let mut known: HashMap<(&str, &str, i32), Rational> = HashMap::new();
            let converted = (0..rows).map(|row| {
                if amounts.is_null(row) || from.is_null(row) || to.is_null(row) || days.is_null(row) {
                    return Ok(None);
                }
                let place = (from.value(row), to.value(row), days.value(row));
                let rate = match known.get(&place) {
                    Some(rate) => rate,
                    None => {
                        let (from, to) = (currency(place.0)?, currency(place.1)?);
                        let rate = rates
                            .rate(from, to, place.2, self.max_age_days)
                            .map_err(|error| exec_datafusion_err!("{error}"))?;
                        known.entry(place).or_insert(rate)
                    }
                };
                let exact = Rational::from_integer(amounts.value(row).into()) * rate / &unit;
                let amount = Amount::round(&exact).map_err(|error| exec_datafusion_err!("{NAME}: {error}"))?;
                Ok(Some(amount.micros()))
            });
            let converted: Decimal128Array = converted.collect::<Result<_>>()?;
            Ok(Arc::new(converted.with_precision_and_scale(28, 6)?))
        })
    }
}

//! Minor units of a currency as a scalar SQL function: the same in pipelines, in queries and in batch.
//!
//! Exact: amounts are decimals, and a floating-point number is refused, because it is no amount of money.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array},
    datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type},
};
use datafusion::{
    common::{Result, ScalarValue, exec_err, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};

use crate::money::Currency;

/// `minor_units(amount, currency) → bigint`: an amount in major units as Stripe writes it, rounded half to even.
#[must_use]
pub fn minor_units() -> ScalarUDF {
    ScalarUDF::from(MinorUnits { signature: Signature::user_defined(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MinorUnits {
    signature: Signature,
}

impl ScalarUDFImpl for MinorUnits {
    fn name(&self) -> &str {
        "minor_units"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [amount, currency] => Ok(vec![decimal_for(amount, "minor_units")?, text_for(currency, "minor_units")?]),
            _ => plan_err!("minor_units takes an amount and a currency, such as minor_units(closing, currency)"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        by_row(&args, |columns, rows| {
            let [amounts, currencies] = columns else {
                return exec_err!("minor_units takes an amount and a currency");
            };
            let DataType::Decimal128(_, scale) = *amounts.data_type() else {
                return exec_err!("minor_units takes a decimal, not a {}", amounts.data_type());
            };
            let (amounts, currencies) = (amounts.as_primitive::<Decimal128Type>(), currencies.as_string::<i32>());
            let minor: Int64Array = (0..rows)
                .map(|row| {
                    if amounts.is_null(row) || currencies.is_null(row) {
                        return Ok(None);
                    }
                    let currency = currency(currencies.value(row))?;
                    let minor = rescale(amounts.value(row), scale.into(), currency.exponent() as i32);
                    match minor.and_then(|minor| i64::try_from(minor).ok()) {
                        Some(minor) => Ok(Some(minor)),
                        None => exec_err!("an amount of {currency} is beyond bigint in minor units"),
                    }
                })
                .collect::<Result<_>>()?;
            Ok(Arc::new(minor))
        })
    }
}

/// `value`, which has `from` decimal places, with `to` of them, half to even; `None` where it does not fit.
fn rescale(value: i128, from: i32, to: i32) -> Option<i128> {
    if to >= from {
        return value.checked_mul(10_i128.checked_pow(to.abs_diff(from))?);
    }
    let Some(divisor) = 10_i128.checked_pow(from.abs_diff(to)) else { return Some(0) };
    let (floor, rest) = (value.div_euclid(divisor), value.rem_euclid(divisor));
    let up = match (rest * 2).cmp(&divisor) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => floor % 2 != 0,
        std::cmp::Ordering::Less => false,
    };
    Some(floor + i128::from(up))
}

/// The decimal type in which `function` takes an amount of type `given`.
///
/// # Errors
/// A plan error for what is no exact number.
pub(crate) fn decimal_for(given: &DataType, function: &str) -> Result<DataType> {
    match given {
        DataType::Null => Ok(DataType::Decimal128(28, 6)),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => Ok(DataType::Decimal128(*precision, *scale)),
        integer if integer.is_integer() => Ok(DataType::Decimal128(20, 0)),
        DataType::Decimal256(_, scale) => Ok(DataType::Decimal128(DECIMAL128_MAX_PRECISION, *scale)),
        float if float.is_floating() => {
            plan_err!(
                "{function} takes exact amounts; write CAST(… AS DECIMAL(28, 6)) around the floating-point number"
            )
        }
        other => plan_err!("{function} takes an amount of money, not a {other}"),
    }
}

/// The text type in which `function` takes a currency of type `given`.
///
/// # Errors
/// A plan error for what is no text.
pub(crate) fn text_for(given: &DataType, function: &str) -> Result<DataType> {
    match given {
        DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(DataType::Utf8),
        other => plan_err!("{function} takes a currency's three letters, not a {other}"),
    }
}

/// A currency by its three letters.
///
/// # Errors
/// An execution error when they are not three letters: never an amount of 0.
pub(crate) fn currency(code: &str) -> Result<Currency> {
    match code.parse() {
        Ok(currency) => Ok(currency),
        Err(error) => exec_err!("{error}"),
    }
}

/// Runs a function over its arguments as columns; the answer is a scalar where all arguments are.
///
/// # Errors
/// Those of the function.
pub(crate) fn by_row(
    args: &ScalarFunctionArgs,
    function: impl FnOnce(&[ArrayRef], usize) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    let scalar = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
    let rows = if scalar { 1 } else { args.number_rows };
    let columns = args.args.iter().map(|argument| argument.to_array(rows)).collect::<Result<Vec<_>>>()?;
    let answer = function(&columns, rows)?;
    if scalar {
        ScalarValue::try_from_array(&answer, 0).map(ColumnarValue::Scalar)
    } else {
        Ok(ColumnarValue::Array(answer))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn answer(sql: &str) -> Result<String> {
        let context = SessionContext::new();
        context.register_udf(minor_units());
        let rows = context.sql(&format!("SELECT {sql}")).await?.collect().await?;
        let value = ScalarValue::try_from_array(rows[0].column(0), 0)?;
        Ok(value.to_string())
    }

    #[tokio::test]
    async fn minor_units_follow_the_currency_and_are_rounded_half_to_even() {
        for (sql, minor) in [
            ("minor_units(CAST('12.345' AS DECIMAL(28, 6)), 'usd')", "1234"),
            ("minor_units(CAST('12.355' AS DECIMAL(28, 6)), 'USD')", "1236"),
            ("minor_units(CAST('-12.345' AS DECIMAL(28, 6)), 'usd')", "-1234"),
            ("minor_units(CAST('-0.000001' AS DECIMAL(28, 6)), 'usd')", "0"),
            ("minor_units(CAST('12.5' AS DECIMAL(28, 6)), 'jpy')", "12"),
            ("minor_units(CAST('1.2345' AS DECIMAL(28, 6)), 'kwd')", "1234"),
            ("minor_units(CAST('5' AS DECIMAL(28, 6)), 'ugx')", "500"),
            ("minor_units(7, 'usd')", "700"),
            ("minor_units(NULL, 'usd')", "NULL"),
            ("minor_units(CAST('1' AS DECIMAL(28, 6)), NULL)", "NULL"),
            ("minor_units(CAST('0.005' AS DECIMAL(38, 12)), c) FROM (VALUES ('usd')) AS t (c)", "0"),
        ] {
            assert_eq!(answer(sql).await.unwrap(), minor, "{sql}");
        }
    }

    #[tokio::test]
    async fn what_is_no_money_is_refused() {
        for (sql, word) in [
            ("minor_units(12.5, 'usd')", "CAST"),
            ("minor_units('twelve', 'usd')", "not a"),
            ("minor_units(1, 'gold')", "gold"),
            ("minor_units(CAST('9999999999999999999999' AS DECIMAL(28, 6)), 'usd')", "beyond bigint"),
        ] {
            let refused = answer(sql).await.unwrap_err().to_string();
            assert!(refused.contains(word), "{sql}: {refused}");
        }
    }
}

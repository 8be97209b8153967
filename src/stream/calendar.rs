//! Calendar functions in a time zone, as scalar SQL functions: the same in pipelines, in queries and in batch.
//!
//! `date_trunc` with a zone fails where midnight does not exist, so days are taken from the zone's own calendar.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Date32Array, TimestampMicrosecondArray},
    datatypes::{DataType, TimeUnit, TimestampMicrosecondType},
};
use chrono::{Datelike, NaiveDate, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};
use datafusion::{
    common::{DataFusionError, Result, ScalarValue, exec_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility},
};

/// Days from 0001-01-01 to 1970-01-01 in chrono's count.
pub(super) const EPOCH_FROM_CE: i32 = 719_163;

/// The calendar day of an instant in a zone, as days since 1970.
#[must_use]
pub fn local_day(micros: i64, zone: Tz) -> Option<i32> {
    let utc = chrono::DateTime::<Utc>::from_timestamp_micros(micros)?;
    Some(utc.with_timezone(&zone).date_naive().num_days_from_ce() - EPOCH_FROM_CE)
}

/// What a clock on the wall shows at an instant in a zone, in microseconds since it showed the beginning of 1970.
fn local_micros(micros: i64, zone: Tz) -> Option<i64> {
    let utc = chrono::DateTime::<Utc>::from_timestamp_micros(micros)?;
    Some(utc.with_timezone(&zone).naive_local().and_utc().timestamp_micros())
}

/// The first instant of a calendar day in a zone, in microseconds since 1970. Where midnight does not exist, the day
/// begins when the clocks have gone forward; where it comes twice, with the first.
#[must_use]
pub fn first_instant(day: i32, zone: Tz) -> Option<i64> {
    let date = NaiveDate::from_num_days_from_ce_opt(day.checked_add(EPOCH_FROM_CE)?)?;
    let midnight = date.and_hms_opt(0, 0, 0)?;
    let begins = zone.from_local_datetime(&midnight).earliest().or_else(|| GapInfo::new(&midnight, &zone)?.end)?;
    Some(begins.timestamp_micros())
}

/// `local_date(timestamptz, zone) → date`
#[must_use]
pub fn local_date() -> ScalarUDF {
    ScalarUDF::from(LocalDate { signature: instant_and_zone() })
}

/// `local_timestamp(timestamptz, zone) → timestamp`: what a clock on the wall shows in the zone.
#[must_use]
pub fn local_timestamp() -> ScalarUDF {
    ScalarUDF::from(LocalTimestamp { signature: instant_and_zone() })
}

fn instant_and_zone() -> Signature {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Signature::one_of(vec![TypeSignature::Exact(vec![instant, DataType::Utf8])], Volatility::Immutable)
}

/// The instants of a call and its one zone.
fn arguments(args: &ScalarFunctionArgs, name: &str) -> Result<(ArrayRef, Tz)> {
    let [instants, ColumnarValue::Scalar(ScalarValue::Utf8(Some(zone)))] = args.args.as_slice() else {
        return exec_err!("{name} takes a timestamp and one time zone, such as 'Europe/Berlin'");
    };
    Ok((instants.to_array(args.number_rows)?, zone_named(zone).map_err(DataFusionError::Execution)?))
}

/// The time zone of an IANA name.
pub(super) fn zone_named(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| format!("`{name}` is not an IANA time zone, such as 'Europe/Berlin'"))
}

/// `values` in the form of the arguments: one where all of them were one.
fn answer(args: &ScalarFunctionArgs, instants: &dyn Array, values: ArrayRef) -> Result<ColumnarValue> {
    if values.null_count() > instants.null_count() {
        return exec_err!("a timestamp is outside the calendar");
    }
    let scalar = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
    Ok(if scalar && args.number_rows == 1 {
        ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?)
    } else {
        ColumnarValue::Array(values)
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LocalDate {
    signature: Signature,
}

impl ScalarUDFImpl for LocalDate {
    fn name(&self) -> &str {
        "local_date"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Date32)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (instants, zone) = arguments(&args, self.name())?;
        let days: Date32Array = instants
            .as_primitive::<TimestampMicrosecondType>()
            .iter()
            .map(|micros| micros.and_then(|micros| local_day(micros, zone)))
            .collect();
        answer(&args, &instants, Arc::new(days))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LocalTimestamp {
    signature: Signature,
}

impl ScalarUDFImpl for LocalTimestamp {
    fn name(&self) -> &str {
        "local_timestamp"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, None))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (instants, zone) = arguments(&args, self.name())?;
        let shown: TimestampMicrosecondArray = instants
            .as_primitive::<TimestampMicrosecondType>()
            .iter()
            .map(|micros| micros.and_then(|micros| local_micros(micros, zone)))
            .collect();
        answer(&args, &instants, Arc::new(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> i32 {
        text.parse::<NaiveDate>().unwrap().num_days_from_ce() - EPOCH_FROM_CE
    }

    #[test]
    fn a_clock_on_the_wall_shows_the_zones_own_time() {
        let zone: Tz = "America/New_York".parse().unwrap();
        let at = |text: &str| text.parse::<chrono::DateTime<Utc>>().unwrap().timestamp_micros();
        for (instant, shown) in [
            ("2024-03-10T06:59:59.25Z", "2024-03-10T01:59:59.25Z"),
            ("2024-03-10T07:00:00Z", "2024-03-10T03:00:00Z"),
            ("2024-11-03T05:30:00Z", "2024-11-03T01:30:00Z"),
            ("2024-11-03T06:30:00Z", "2024-11-03T01:30:00Z"),
        ] {
            assert_eq!(local_micros(at(instant), zone), Some(at(shown)), "{instant}");
        }
    }

    #[test]
    fn a_day_begins_at_its_first_instant_even_without_a_midnight() {
        for (zone, date) in [
            ("Africa/Cairo", "2024-04-26"),
            ("Asia/Beirut", "2024-03-31"),
            ("America/Havana", "2024-03-10"),
            ("America/Havana", "2024-11-03"),
            ("Europe/Berlin", "2024-03-31"),
            ("Pacific/Apia", "2011-12-31"),
            ("Asia/Kathmandu", "2024-01-01"),
        ] {
            let zone: Tz = zone.parse().unwrap();
            let begins = first_instant(day(date), zone).unwrap();
            assert_eq!(local_day(begins, zone), Some(day(date)), "{zone} {date}");
            assert!(local_day(begins - 1, zone) < Some(day(date)), "{zone} {date}");
        }
    }
}

//! The scalar functions that windows are made of. Anybody may call them: `local_floor(at, INTERVAL '1 month',
//! 'Europe/Berlin')` is the first instant of the month there.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, ListBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder},
    datatypes::{DataType, Field, IntervalUnit, TimestampMicrosecondType},
};
use chrono_tz::Tz;
use datafusion::{
    common::{DataFusionError, Result, ScalarValue, exec_datafusion_err, exec_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility},
};

use super::{MAX_PANES, Span};
use crate::{stream::calendar::zone_named, tables::timestamptz};

/// `local_floor(timestamptz, interval, zone) → timestamptz`: the first instant of the calendar's window around it.
pub(in super::super) fn local_floor() -> ScalarUDF {
    ScalarUDF::from(Function::new(Kind::Floor))
}

/// `local_shift(timestamptz, interval, count, zone) → timestamptz`: that of the window `count` windows later.
pub(in super::super) fn local_shift() -> ScalarUDF {
    ScalarUDF::from(Function::new(Kind::Shift))
}

/// `local_hops(timestamptz, interval, count, zone) → list`: those of the window and of the `count - 1` before it.
pub(in super::super) fn local_hops() -> ScalarUDF {
    ScalarUDF::from(Function::new(Kind::Hops))
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Floor,
    Shift,
    Hops,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    kind: Kind,
    signature: Signature,
}

impl Function {
    fn new(kind: Kind) -> Self {
        let mut types = vec![timestamptz(), DataType::Interval(IntervalUnit::MonthDayNano)];
        if kind != Kind::Floor {
            types.push(DataType::Int64);
        }
        types.push(DataType::Utf8);
        Self { kind, signature: Signature::one_of(vec![TypeSignature::Exact(types)], Volatility::Immutable) }
    }
}

/// The constants of a call: the span, the count, the zone.
fn constants(name: &str, arguments: &[ColumnarValue]) -> Result<(Span, i64, Tz)> {
    let scalars = arguments.iter().map(|argument| match argument {
        ColumnarValue::Scalar(value) => Some(value),
        ColumnarValue::Array(_) => None,
    });
    let (interval, count, zone) = match scalars.collect::<Option<Vec<_>>>().as_deref() {
        Some([ScalarValue::IntervalMonthDayNano(Some(interval)), ScalarValue::Utf8(Some(zone))]) => {
            (*interval, 0, zone)
        }
        Some(
            [
                ScalarValue::IntervalMonthDayNano(Some(interval)),
                ScalarValue::Int64(Some(count)),
                ScalarValue::Utf8(Some(zone)),
            ],
        ) => (*interval, *count, zone),
        _ => return exec_err!("{name} takes a timestamp, one interval and one time zone, such as 'Europe/Berlin'"),
    };
    let span = Span::of(interval).map_err(|problem| exec_datafusion_err!("{name}: {problem}"))?;
    Ok((span, count, zone_named(zone).map_err(DataFusionError::Execution)?))
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Floor => "local_floor",
            Kind::Shift => "local_shift",
            Kind::Hops => "local_hops",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Floor | Kind::Shift => timestamptz(),
            Kind::Hops => DataType::List(Arc::new(Field::new_list_field(timestamptz(), true))),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (instants, constants) = match args.args.split_first() {
            Some((instants, rest)) => (instants, constants(self.name(), rest)?),
            None => return exec_err!("{} takes a timestamp", self.name()),
        };
        let (span, count, zone) = constants;
        if self.kind == Kind::Hops && !(1..=MAX_PANES).contains(&count) {
            return exec_err!("{} gives 1 to {MAX_PANES} windows, not {count}", self.name());
        }
        let array = instants.to_array(args.number_rows)?;
        let array = array.as_primitive::<TimestampMicrosecondType>();
        let outside = || exec_datafusion_err!("a timestamp is outside the calendar");
        let values: ArrayRef = match self.kind {
            Kind::Floor | Kind::Shift => {
                let begins: TimestampMicrosecondArray = array
                    .iter()
                    .map(|micros| micros.map(|micros| span.shift(micros, count, zone).ok_or_else(outside)).transpose())
                    .collect::<Result<_>>()?;
                Arc::new(begins.with_timezone("UTC"))
            }
            Kind::Hops => {
                let values = TimestampMicrosecondBuilder::new().with_data_type(timestamptz());
                let mut lists = ListBuilder::new(values).with_field(Field::new_list_field(timestamptz(), true));
                for micros in array {
                    match micros {
                        Some(micros) => {
                            lists.append_value(
                                span.hops(micros, count, zone).ok_or_else(outside)?.into_iter().map(Some),
                            );
                        }
                        None => lists.append_null(),
                    }
                }
                Arc::new(lists.finish())
            }
        };
        Ok(match instants {
            ColumnarValue::Scalar(_) if args.number_rows == 1 => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?)
            }
            _ => ColumnarValue::Array(values),
        })
    }
}

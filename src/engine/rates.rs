//! Rates of exchange: the table `fx_rates` is their state, and what sessions convert with is read from it.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Date32Type, Decimal128Type, TimestampMicrosecondType},
};
use datafusion::prelude::SessionContext;

use super::{Error, collect_one};
use crate::{
    ledger::{
        Arrival,
        fx::{FxRate, Rates},
        rows::Change,
    },
    money::Currency,
    serve::UserTable,
    stream::conversion::SharedRates,
    stripe::types::{Object, Scope},
    tables,
    time::EventTime,
};

/// The table.
pub(super) const FX_RATES: &str = "fx_rates";

/// The rates of a data directory's tables, for a process that does not own it.
///
/// # Errors
/// When the table cannot be read.
pub async fn committed_rates(tables: &[UserTable]) -> Result<SharedRates, Error> {
    let Some(table) = tables.iter().find(|table| table.name == FX_RATES) else {
        return Ok(SharedRates::default());
    };
    let rows = collect_one(SessionContext::new().read_table(Arc::clone(&table.provider))?).await?;
    Ok(SharedRates::new(load(&rows)?))
}

/// Takes in the rates that a batch brings, and says what that changed.
pub(super) fn learn(rates: &SharedRates, arrivals: &[Arrival<'_>]) -> Vec<Change<FxRate>> {
    let mut changes = Vec::new();
    for Arrival { event, appended_at } in arrivals {
        if let Object::FxRates(day) = &event.object {
            rates.change(|rates| rates.learn(&event.scope, day, *appended_at, &mut changes));
        }
    }
    changes
}

/// Rates from rows of the table.
pub(super) fn load(rows: &RecordBatch) -> Result<Rates, Error> {
    let column = |name: &str, data_type: &DataType| -> Result<ArrayRef, Error> {
        let column = rows.column_by_name(name);
        let column = column.ok_or_else(|| Error::Internal(format!("{FX_RATES} has no column {name}")))?;
        Ok(cast(column, data_type)?)
    };
    let text = |name: &str| column(name, &DataType::Utf8);
    let (accounts, modes) = (text("account")?, column("livemode", &DataType::Boolean)?);
    let (currencies, bases, sources) = (text("currency")?, text("base")?, text("source")?);
    let days = column("day", &DataType::Date32)?;
    let values = column("rate", &DataType::Decimal128(38, 12))?;
    let known = column("known_at", &tables::timestamptz())?;
    let code = |column: &ArrayRef, row: usize| -> Result<Currency, Error> {
        let code = column.as_string::<i32>().value(row);
        code.parse().map_err(|error| Error::Internal(format!("{FX_RATES}: {error}")))
    };
    let mut rates = Rates::default();
    for row in 0..rows.num_rows() {
        rates.put(&FxRate {
            scope: Scope {
                account: accounts.as_string::<i32>().value(row).into(),
                livemode: modes.as_boolean().value(row),
            },
            day: days.as_primitive::<Date32Type>().value(row),
            currency: code(&currencies, row)?,
            rate: values.as_primitive::<Decimal128Type>().value(row),
            base: code(&bases, row)?,
            source: sources.as_string::<i32>().value(row).into(),
            known_at: EventTime::from_micros(known.as_primitive::<TimestampMicrosecondType>().value(row)),
        });
    }
    Ok(rates)
}

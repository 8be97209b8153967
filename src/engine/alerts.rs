//! Changes of `expansion_events` for the alert dispatcher, gathered until the checkpoint that decides them.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType},
};

use super::Error;
use crate::{
    act::{Change, ExpansionRow},
    money::Amount,
    stream::pipeline::RowDelta,
    time::EventTime,
};

/// The pipeline whose rows alert.
pub const EXPANSIONS: &str = "expansion_events";

type Key = (String, bool, Arc<str>);

/// The changes since the last checkpoint, one for each movement: first row before, last row after.
#[derive(Default)]
pub(crate) struct PendingAlerts(HashMap<Key, Change>);

impl PendingAlerts {
    pub(crate) fn add(&mut self, delta: &RowDelta) -> Result<(), Error> {
        for row in rows(&delta.removed)? {
            let change = self.0.entry(key(&row)).or_insert_with(|| Change { before: Some(row), after: None });
            change.after = None;
        }
        for row in rows(&delta.added)? {
            let change = self.0.entry(key(&row)).or_insert(Change { before: None, after: None });
            change.after = Some(row);
        }
        Ok(())
    }

    /// The changes so far, in a stable order; none are left.
    pub(crate) fn take(&mut self) -> Vec<Change> {
        let mut changes: Vec<(Key, Change)> =
            self.0.drain().filter(|(_, change)| change.before != change.after).collect();
        changes.sort_by(|a, b| a.0.cmp(&b.0));
        changes.into_iter().map(|(_, change)| change).collect()
    }
}

fn key(row: &ExpansionRow) -> Key {
    (row.account.to_string(), row.livemode, Arc::clone(&row.movement_id))
}

/// Rows of the table as the dispatcher takes them.
fn rows(batch: &RecordBatch) -> Result<Vec<ExpansionRow>, Error> {
    let column = |name: &str| {
        batch.column_by_name(name).ok_or_else(|| Error::Internal(format!("{EXPANSIONS} has no column {name}")))
    };
    let text = |name: &str| Ok::<_, Error>(column(name)?.as_string::<i32>());
    let amount = |name: &str| Ok::<_, Error>(column(name)?.as_primitive::<Decimal128Type>());
    let (accounts, movements, customers, currencies, causes) =
        (text("account")?, text("movement_id")?, text("customer_id")?, text("currency")?, text("cause")?);
    let (before, after, delta, percent) =
        (amount("mrr_before")?, amount("mrr_after")?, amount("mrr_delta")?, amount("pct_change")?);
    let livemode = column("livemode")?.as_boolean();
    let revisions = column("revision")?.as_primitive::<Int64Type>();
    let times = column("occurred_at")?.as_primitive::<TimestampMicrosecondType>();
    (0..batch.num_rows())
        .map(|row| {
            Ok(ExpansionRow {
                account: accounts.value(row).into(),
                livemode: livemode.value(row),
                movement_id: movements.value(row).into(),
                revision: revisions.value(row),
                occurred_at: EventTime::from_micros(times.value(row)),
                customer_id: customers.value(row).into(),
                currency: currencies.value(row).parse().map_err(|e| Error::Internal(format!("{EXPANSIONS}: {e}")))?,
                mrr_before: Amount::from_micros(before.value(row)),
                mrr_after: Amount::from_micros(after.value(row)),
                mrr_delta: Amount::from_micros(delta.value(row)),
                pct_change: percent.is_valid(row).then(|| Amount::from_micros(percent.value(row)).to_string()),
                cause: causes.value(row).to_owned(),
            })
        })
        .collect()
}

//! Rows of the ledger's tables as typed rows again: the inverse of [`super::rows`].
//!
//! Columns are found by name and cast to the contract's types, so rows of any reader will do; a column that is missing
//! reads as null where it may be null.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, ListArray, RecordBatch, StringArray,
        TimestampMicrosecondArray, new_null_array,
    },
    compute::{CastOptions, cast_with_options},
    datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType},
};
use num_bigint::BigInt;
use serde::Deserialize;

use super::{Error, rows::QUANTITY_UNIT};
use crate::{
    ledger::rows::{Cause, DiscountTerms, ItemDiscount, ItemState, LedgerEntry, Movement, MovementKind},
    money::{Amount, PeriodAmount, Rational, parse_decimal, round_half_even},
    stripe::{
        ids::EventId,
        types::{Interval, Scope},
    },
    time::EventTime,
};

/// Rows of `item_states`.
///
/// # Errors
/// [`Error::Row`] when a row is not one that was written.
pub fn item_states(batch: &RecordBatch) -> Result<Vec<ItemState>, Error> {
    let columns = Columns::of("item_states", batch)?;
    let scope = columns.scopes()?;
    let (valid_from, known_at) = (columns.instants("valid_from")?, columns.instants("known_at")?);
    let (customer, subscription) = (columns.texts("customer_id")?, columns.texts("subscription_id")?);
    let (item, price) = (columns.texts("subscription_item_id")?, columns.texts("price_id")?);
    let (product, currency) = (columns.texts("product_id")?, columns.texts("currency")?);
    let (revision, position) = (columns.integers("revision")?, columns.integers("position")?);
    let (status, flags) = (columns.texts("status")?, columns.lists("flags")?);
    let (interval, interval_count) = (columns.texts("interval")?, columns.integers("interval_count")?);
    let (quantity, list_amount) = (columns.decimals("quantity")?, columns.decimals("list_amount")?);
    let (net_share, discounts) = (columns.texts("net_share")?, columns.texts("discounts")?);
    let (trial_end, started_at) = (columns.instants("trial_end")?, columns.instants("started_at")?);
    let (order, provenance) = (columns.texts("order_evidence")?, columns.texts("provenance")?);
    let event = columns.texts("event_id")?;
    let mut words = Words::default();
    (0..batch.num_rows())
        .map(|row| {
            let bad = |what: &str| columns.bad(what, row);
            Ok(ItemState {
                scope: scope.at(row),
                valid_from: EventTime::from_micros(valid_from.value(row)),
                known_at: EventTime::from_micros(known_at.value(row)),
                customer_id: customer.value(row).into(),
                subscription_id: subscription.value(row).into(),
                subscription_item_id: item.value(row).into(),
                revision: u32::try_from(revision.value(row)).map_err(|_| bad("revision"))?,
                position: u32::try_from(position.value(row)).map_err(|_| bad("position"))?,
                price_id: price.value(row).into(),
                product_id: text(&product, row).map(Into::into),
                currency: text(&currency, row).map(|code| code.parse().map_err(|_| bad("currency"))).transpose()?,
                status: words.get(status.value(row)),
                flags: list(&flags, row).map(|flag| words.get(&flag)).collect(),
                interval: optional_interval(text(&interval, row)).map_err(|()| bad("interval"))?,
                interval_count: u32::try_from(interval_count.value(row)).map_err(|_| bad("interval_count"))?,
                quantity: value(&quantity, row).map(from_picos),
                list_amount: value(&list_amount, row).map(PeriodAmount::from_picos),
                net_share: text(&net_share, row)
                    .map(|share| fraction(share).ok_or_else(|| bad("net_share")))
                    .transpose()?,
                discounts: discount_rows(discounts.value(row)).ok_or_else(|| bad("discounts"))?,
                trial_end: instant(&trial_end, row),
                started_at: instant(&started_at, row),
                order_evidence: text(&order, row)
                    .map(|word| evidence(word).ok_or_else(|| bad("order_evidence")))
                    .transpose()?,
                provenance: words.get(provenance.value(row)),
                event_id: event.value(row).into(),
            })
        })
        .collect()
}

/// Rows of `mrr_ledger`.
///
/// # Errors
/// [`Error::Row`] when a row is not one that was written.
pub fn mrr_ledger(batch: &RecordBatch) -> Result<Vec<LedgerEntry>, Error> {
    let columns = Columns::of("mrr_ledger", batch)?;
    let scope = columns.scopes()?;
    let (entry_id, reverses) = (columns.texts("entry_id")?, columns.texts("reverses_entry_id")?);
    let (event_time, known_at) = (columns.instants("event_time")?, columns.instants("known_at")?);
    let (customer, subscription) = (columns.texts("customer_id")?, columns.texts("subscription_id")?);
    let (item, price) = (columns.texts("subscription_item_id")?, columns.texts("price_id")?);
    let (product, currency) = (columns.texts("product_id")?, columns.texts("currency")?);
    let (change, cause, causes) = (columns.texts("change")?, columns.texts("cause")?, columns.lists("causes")?);
    let (interval, interval_count) = (columns.texts("interval")?, columns.integers("interval_count")?);
    let (list_delta, discount_delta) = (columns.decimals("list_delta")?, columns.decimals("discount_delta")?);
    let (mrr_delta, quantity_delta) = (columns.decimals("mrr_delta")?, columns.decimals("quantity_delta")?);
    let event_ids = columns.lists("event_ids")?;
    let mut words = Words::default();
    (0..batch.num_rows())
        .map(|row| {
            let bad = |what: &str| columns.bad(what, row);
            Ok(LedgerEntry {
                scope: scope.at(row),
                entry_id: entry_id.value(row).into(),
                event_time: EventTime::from_micros(event_time.value(row)),
                known_at: EventTime::from_micros(known_at.value(row)),
                reverses_entry_id: text(&reverses, row).map(Into::into),
                customer_id: customer.value(row).into(),
                subscription_id: subscription.value(row).into(),
                subscription_item_id: item.value(row).into(),
                price_id: price.value(row).into(),
                product_id: text(&product, row).map(Into::into),
                currency: currency.value(row).parse().map_err(|_| bad("currency"))?,
                change: words.get(change.value(row)),
                cause: Cause::parse(cause.value(row)).ok_or_else(|| bad("cause"))?,
                causes: causes_of(&causes, row).ok_or_else(|| bad("causes"))?,
                interval: interval_of(interval.value(row)).ok_or_else(|| bad("interval"))?,
                interval_count: u32::try_from(interval_count.value(row)).map_err(|_| bad("interval_count"))?,
                list_delta: Amount::from_micros(list_delta.value(row)),
                discount_delta: Amount::from_micros(discount_delta.value(row)),
                mrr_delta: Amount::from_micros(mrr_delta.value(row)),
                quantity_delta: from_picos(quantity_delta.value(row)),
                event_ids: ids(&event_ids, row),
            })
        })
        .collect()
}

/// Rows of `mrr_movements`.
///
/// # Errors
/// [`Error::Row`] when a row is not one that was written.
pub fn mrr_movements(batch: &RecordBatch) -> Result<Vec<Movement>, Error> {
    let columns = Columns::of("mrr_movements", batch)?;
    let scope = columns.scopes()?;
    let (movement_id, revision) = (columns.texts("movement_id")?, columns.integers("revision")?);
    let (occurred_at, customer) = (columns.instants("occurred_at")?, columns.texts("customer_id")?);
    let (currency, kind) = (columns.texts("currency")?, columns.texts("kind")?);
    let (cause, causes) = (columns.texts("cause")?, columns.lists("causes")?);
    let (before, after) = (columns.decimals("mrr_before")?, columns.decimals("mrr_after")?);
    let (delta, event_ids) = (columns.decimals("mrr_delta")?, columns.lists("event_ids")?);
    (0..batch.num_rows())
        .map(|row| {
            let bad = |what: &str| columns.bad(what, row);
            let word = kind.value(row);
            Ok(Movement {
                scope: scope.at(row),
                movement_id: movement_id.value(row).into(),
                revision: revision.value(row),
                occurred_at: EventTime::from_micros(occurred_at.value(row)),
                customer_id: customer.value(row).into(),
                currency: currency.value(row).parse().map_err(|_| bad("currency"))?,
                kind: MovementKind::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| bad("kind"))?,
                cause: Cause::parse(cause.value(row)).ok_or_else(|| bad("cause"))?,
                causes: causes_of(&causes, row).ok_or_else(|| bad("causes"))?,
                mrr_before: Amount::from_micros(before.value(row)),
                mrr_after: Amount::from_micros(after.value(row)),
                mrr_delta: Amount::from_micros(delta.value(row)),
                event_ids: ids(&event_ids, row),
            })
        })
        .collect()
}

/// Rows of `log_clock`: scope, first and last event.
///
/// # Errors
/// [`Error::Arrow`] when the columns are others.
pub fn log_clock(batch: &RecordBatch) -> Result<Vec<(Scope, EventTime, EventTime)>, Error> {
    let columns = Columns::of("log_clock", batch)?;
    let scope = columns.scopes()?;
    let (first, last) = (columns.instants("first_event_at")?, columns.instants("last_event_at")?);
    let times = |row| (EventTime::from_micros(first.value(row)), EventTime::from_micros(last.value(row)));
    Ok((0..batch.num_rows()).map(|row| (scope.at(row), times(row).0, times(row).1)).collect())
}

/// The columns of a batch in the types of their contract, by name.
struct Columns {
    table: &'static str,
    columns: BTreeMap<String, ArrayRef>,
}

impl Columns {
    fn of(table: &'static str, batch: &RecordBatch) -> Result<Self, Error> {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let mut columns = BTreeMap::new();
        for field in super::get(table)?.schema.fields() {
            let column = match batch.column_by_name(field.name()) {
                Some(column) => cast_with_options(column, field.data_type(), &strict)?,
                None if field.is_nullable() => new_null_array(field.data_type(), batch.num_rows()),
                None => return Err(Error::Row { table, column: field.name().clone(), row: 0 }),
            };
            if !field.is_nullable() && column.null_count() > 0 {
                let row = (0..column.len()).find(|row| column.is_null(*row)).unwrap_or_default();
                return Err(Error::Row { table, column: field.name().clone(), row });
            }
            columns.insert(field.name().clone(), column);
        }
        Ok(Self { table, columns })
    }

    fn bad(&self, column: &str, row: usize) -> Error {
        Error::Row { table: self.table, column: column.to_owned(), row }
    }

    fn column(&self, name: &str) -> Result<&ArrayRef, Error> {
        self.columns.get(name).ok_or_else(|| self.bad(name, 0))
    }

    fn texts(&self, name: &str) -> Result<StringArray, Error> {
        let column = self.column(name)?.as_string_opt::<i32>();
        column.cloned().ok_or_else(|| self.bad(name, 0))
    }

    fn booleans(&self, name: &str) -> Result<BooleanArray, Error> {
        self.column(name)?.as_boolean_opt().cloned().ok_or_else(|| self.bad(name, 0))
    }

    fn integers(&self, name: &str) -> Result<Int64Array, Error> {
        self.column(name)?.as_primitive_opt::<Int64Type>().cloned().ok_or_else(|| self.bad(name, 0))
    }

    fn decimals(&self, name: &str) -> Result<Decimal128Array, Error> {
        self.column(name)?.as_primitive_opt::<Decimal128Type>().cloned().ok_or_else(|| self.bad(name, 0))
    }

    fn instants(&self, name: &str) -> Result<TimestampMicrosecondArray, Error> {
        let column = self.column(name)?.as_primitive_opt::<TimestampMicrosecondType>();
        column.cloned().ok_or_else(|| self.bad(name, 0))
    }

    fn lists(&self, name: &str) -> Result<ListArray, Error> {
        self.column(name)?.as_list_opt::<i32>().cloned().ok_or_else(|| self.bad(name, 0))
    }

    fn scopes(&self) -> Result<Scopes, Error> {
        Ok(Scopes { accounts: self.texts("account")?, modes: self.booleans("livemode")? })
    }
}

struct Scopes {
    accounts: StringArray,
    modes: BooleanArray,
}

impl Scopes {
    fn at(&self, row: usize) -> Scope {
        Scope { account: self.accounts.value(row).into(), livemode: self.modes.value(row) }
    }
}

/// Words that come again and again, kept once.
#[derive(Default)]
struct Words(BTreeMap<String, Arc<str>>);

impl Words {
    fn get(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.0.get(word) {
            return Arc::clone(known);
        }
        let new: Arc<str> = word.into();
        self.0.insert(word.to_owned(), Arc::clone(&new));
        new
    }
}

fn text(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

fn value(column: &Decimal128Array, row: usize) -> Option<i128> {
    column.is_valid(row).then(|| column.value(row))
}

fn instant(column: &TimestampMicrosecondArray, row: usize) -> Option<EventTime> {
    column.is_valid(row).then(|| EventTime::from_micros(column.value(row)))
}

fn list(column: &ListArray, row: usize) -> impl Iterator<Item = String> {
    let values = column.value(row);
    let texts: Vec<String> = values.as_string::<i32>().iter().flatten().map(str::to_owned).collect();
    texts.into_iter()
}

fn ids(column: &ListArray, row: usize) -> Vec<EventId> {
    list(column, row).map(|id| id.as_str().into()).collect()
}

fn causes_of(column: &ListArray, row: usize) -> Option<Vec<Cause>> {
    list(column, row).map(|code| Cause::parse(&code)).collect()
}

fn interval_of(word: &str) -> Option<Interval> {
    [Interval::Day, Interval::Week, Interval::Month, Interval::Year].into_iter().find(|one| one.as_str() == word)
}

/// What decided an order, as the ledger's own words.
fn evidence(word: &str) -> Option<&'static str> {
    ["chain", "lifecycle", "arbitrary"].into_iter().find(|known| *known == word)
}

fn optional_interval(word: Option<&str>) -> Result<Option<Interval>, ()> {
    word.map(|word| interval_of(word).ok_or(())).transpose()
}

fn from_picos(picos: i128) -> Rational {
    Rational::new(picos.into(), QUANTITY_UNIT.into())
}

/// `100/119`, or a decimal number.
fn fraction(text: &str) -> Option<Rational> {
    match text.split_once('/') {
        Some((above, below)) => {
            let (above, below): (BigInt, BigInt) = (above.trim().parse().ok()?, below.trim().parse().ok()?);
            (below != BigInt::ZERO).then(|| Rational::new(above, below))
        }
        None => parse_decimal(text).ok(),
    }
}

#[derive(Deserialize)]
struct DiscountJson {
    level: String,
    id: String,
    coupon: Option<String>,
    duration: Option<String>,
    percent_off: Option<String>,
    amount_off: Option<String>,
    #[serde(default)]
    applies_to: Vec<String>,
    start: Option<String>,
    end: Option<String>,
}

/// The JSON list in the column `discounts`.
fn discount_rows(json: &str) -> Option<Vec<ItemDiscount>> {
    let rows: Vec<DiscountJson> = serde_json::from_str(json).ok()?;
    rows.into_iter().map(discount).collect()
}

fn discount(row: DiscountJson) -> Option<ItemDiscount> {
    let terms = match row.coupon {
        None => None,
        Some(coupon) => Some(DiscountTerms {
            coupon: coupon.as_str().into(),
            duration: row.duration?.into(),
            percent_off: row.percent_off.map(|text| fraction(&text).ok_or(())).transpose().ok()?,
            amount_off: row.amount_off.map(|text| period_amount(&text).ok_or(())).transpose().ok()?,
            applies_to: row.applies_to.iter().map(|product| product.as_str().into()).collect(),
            start: row.start.map(|text| time(&text).ok_or(())).transpose().ok()?,
            end: row.end.map(|text| time(&text).ok_or(())).transpose().ok()?,
        }),
    };
    Some(ItemDiscount { level: row.level.into(), id: row.id.as_str().into(), terms })
}

fn period_amount(text: &str) -> Option<PeriodAmount> {
    let picos = round_half_even(&(parse_decimal(text).ok()? * BigInt::from(QUANTITY_UNIT)));
    picos.try_into().ok().map(PeriodAmount::from_picos)
}

fn time(text: &str) -> Option<EventTime> {
    let instant = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Some(EventTime::from_micros(instant.timestamp_micros()))
}

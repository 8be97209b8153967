//! The tables as readers see them, with what is computed on reading; also without a running engine.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::{AsArray, BooleanArray},
    datatypes::{DataType, Date32Type, TimestampMicrosecondType},
};
use chrono_tz::Tz;
use datafusion::{
    catalog::TableProvider,
    common::{Column, Result as PlanResult, exec_err},
    datasource::{MemTable, ViewTable, provider_as_source},
    logical_expr::{
        ColumnarValue, Expr, JoinType, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        Volatility,
    },
};
use futures::future::try_join_all;

use super::{CLOCK, Error, status, store::user_table, swap, watermark::complete};
use crate::{
    serve::UserTable,
    sink::delta,
    storage::Home,
    stream::{
        calendar,
        checkpoint::{self, Manifest},
    },
    tables,
};

/// The column that says whether the watermark has passed the end of a row's day.
const IS_FINAL: &str = "is_final";

/// Tables as they are stored, by name.
pub(super) type Stored = BTreeMap<String, Arc<dyn TableProvider>>;

/// How the tables changed while the engine runs.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Tables that were made anew.
    pub tables: Vec<UserTable>,
    /// Names of tables that nobody keeps any more.
    pub gone: Vec<String>,
}

impl Shown {
    /// One more change. All of them are kept, so that who looks seldom misses none.
    pub(super) fn add(&mut self, tables: Vec<UserTable>, gone: &[String]) {
        let is_newer = |name: &String| tables.iter().any(|table| table.name == *name);
        self.tables.retain(|table| !gone.contains(&table.name) && !is_newer(&table.name));
        self.gone.retain(|name| !is_newer(name));
        self.gone.extend_from_slice(gone);
        self.tables.extend(tables);
    }
}

/// When days end, and up to when the log is complete.
#[derive(Clone, Debug)]
pub(super) struct Finality {
    /// The merchant's zone.
    pub(super) zone: Tz,
    /// How long late events are waited for, in microseconds.
    pub(super) lateness_micros: i64,
    /// The watermark, shared with the engine that moves it.
    pub(super) watermark: Arc<AtomicI64>,
}

impl PartialEq for Finality {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.watermark, &other.watermark)
    }
}

impl Eq for Finality {}

impl Hash for Finality {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(Arc::as_ptr(&self.watermark), state);
    }
}

/// Adds `is_final` where the contract has it.
pub(super) fn with_is_final(tables: Vec<UserTable>, finality: &Finality) -> Result<Vec<UserTable>, Error> {
    let clock = tables.iter().find(|table| table.name == CLOCK).map(|table| Arc::clone(&table.provider));
    let Some(clock) = clock else { return Ok(tables) };
    with_is_final_by(&clock, tables, finality)
}

/// The same, with the clock of another table.
pub(super) fn with_is_final_by(
    clock: &Arc<dyn TableProvider>,
    tables: Vec<UserTable>,
    finality: &Finality,
) -> Result<Vec<UserTable>, Error> {
    tables
        .into_iter()
        .map(|mut table| {
            if tables::get(&table.name).is_ok_and(|contract| contract.has_is_final) {
                table.provider = final_view(&table.name, table.provider, clock, finality)?;
                let comment = "Whether the watermark has passed the end of the day".to_owned();
                table.column_comments.push((IS_FINAL.to_owned(), comment));
            }
            Ok(table)
        })
        .collect()
}

/// Every table of a data directory as of its last checkpoint, for a process that does not own it.
///
/// # Errors
/// When the checkpoints or a table cannot be read.
pub async fn committed_tables(home: &Home, zone: Tz, allowed_lateness: Duration) -> Result<Vec<UserTable>, Error> {
    let Some((manifest, tables)) = committed_sources(home).await? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (name, provider) in tables {
        let contract = tables::get(&name);
        let comment = contract.as_ref().map_or("", |table| table.description.as_str());
        let schema = contract.as_ref().map_or_else(|_| provider.schema(), |table| Arc::clone(&table.schema));
        found.push(user_table(&name, comment, &schema, provider));
    }
    let state = status::of_manifest(home, &manifest).await?;
    let statuses = state.map_or_else(Vec::new, |state| state.pipelines);
    let rows = status::rows(&statuses, manifest.watermark, None)?;
    let contract = tables::get(status::STATUS)?;
    let table = Arc::new(MemTable::try_new(Arc::clone(&contract.schema), vec![vec![rows]])?);
    found.push(user_table(&contract.name, &contract.description, &contract.schema, table));
    let watermark = manifest.watermark.map_or(i64::MIN, |at| at.micros());
    let lateness_micros = super::micros(allowed_lateness);
    with_is_final(found, &Finality { zone, lateness_micros, watermark: Arc::new(AtomicI64::new(watermark)) })
}

/// The newest manifest of a data directory and the tables it names, as they are stored; `None` before the first.
pub(super) async fn committed_sources(home: &Home) -> Result<Option<(Manifest, Stored)>, Error> {
    let Some(manifest) = newest(home).await? else { return Ok(None) };
    let root = home.tables();
    let read = try_join_all(manifest.tables.keys().map(|name| delta::read(&root, name))).await?;
    let found = manifest.tables.keys().zip(read).filter_map(|(name, provider)| Some((name.clone(), provider?)));
    let found = found.collect();
    Ok(Some((manifest, found)))
}

/// The newest manifest of a home, for a process that does not own it; `None` before the first.
pub(super) async fn newest(home: &Home) -> Result<Option<Manifest>, Error> {
    if !home.is_shared() && swap::is_unfinished(home.data_dir()) {
        return Err(Error::RebuildUnfinished);
    }
    Ok(checkpoint::peek(home.checkpoints().as_ref()).await?)
}

/// A day is final when the watermark has passed its end, and so has the time of its own account and mode: another
/// one's events say nothing of it.
fn final_view(
    name: &str,
    provider: Arc<dyn TableProvider>,
    clock: &Arc<dyn TableProvider>,
    finality: &Finality,
) -> Result<Arc<dyn TableProvider>, Error> {
    let arguments = vec![DataType::Date32, tables::timestamptz()];
    let signature = Signature::exact(arguments, Volatility::Volatile);
    let is_final = ScalarUDF::from(IsFinal { signature, finality: finality.clone() });
    let column = |table: &str, name: &str| Expr::Column(Column::new(Some(table), name));
    let mut columns: Vec<Expr> = provider.schema().fields().iter().map(|field| column(name, field.name())).collect();
    columns.push(is_final.call(vec![column(name, "day"), column(CLOCK, "last_event_at")]).alias(IS_FINAL));
    let scope = |table: &str| vec![Column::new(Some(table), "account"), Column::new(Some(table), "livemode")];
    let plan = LogicalPlanBuilder::scan(name, provider_as_source(provider), None)?
        .join(
            LogicalPlanBuilder::scan(CLOCK, provider_as_source(Arc::clone(clock)), None)?.build()?,
            JoinType::Left,
            (scope(name), scope(CLOCK)),
            None,
        )?
        .project(columns)?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IsFinal {
    signature: Signature,
    finality: Finality,
}

impl ScalarUDFImpl for IsFinal {
    fn name(&self) -> &str {
        IS_FINAL
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> PlanResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let [days, last_events] = args.args.as_slice() else {
            return exec_err!("{IS_FINAL} takes a day and an instant");
        };
        let (days, last_events) = (days.to_array(args.number_rows)?, last_events.to_array(args.number_rows)?);
        let watermark = self.finality.watermark.load(Ordering::Relaxed);
        let ended = |day: i32, last_event: i64| {
            let complete = complete(watermark, last_event, self.finality.lateness_micros);
            calendar::first_instant(day + 1, self.finality.zone).is_some_and(|end| end <= complete)
        };
        let last_events = last_events.as_primitive::<TimestampMicrosecondType>();
        let finals: BooleanArray = days
            .as_primitive::<Date32Type>()
            .iter()
            .zip(last_events)
            .map(|(day, last_event)| Some(ended(day?, last_event?)))
            .collect();
        Ok(ColumnarValue::Array(Arc::new(finals)))
    }
}

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
    array::{ArrayRef, AsArray, BooleanArray},
    datatypes::{DataType, Date32Type, TimestampMicrosecondType},
};
use chrono::Months;
use chrono_tz::Tz;
use datafusion::{
    catalog::TableProvider,
    common::{Column, Result as PlanResult, TableReference, exec_err},
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
    sink::{
        self,
        commits::{self, Commit},
        delta,
    },
    storage::{Home, Location},
    stream::{
        calendar,
        checkpoint::{self, Manifest},
    },
    tables,
};

/// The column that says whether the watermark has passed the end of a row's window.
const IS_FINAL: &str = "is_final";

/// Columns that say of which window a row is, the first that a table has counting.
const WINDOWS: [(&str, Window); 4] =
    [("window_end", Window::End), ("day", Window::Day), ("as_of", Window::Day), ("month", Window::Month)];

/// How often a view of all tables is tried to be read while an engine goes on, and how long is waited in between: what
/// it has decided it applies and publishes in a moment. After a crash the next start does.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

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

/// How the end of a row's window follows from a column.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Window {
    /// It is the end.
    End,
    /// It is a day in the merchant's zone.
    Day,
    /// It is the first day of a month in the merchant's zone.
    Month,
}

impl Window {
    /// The column by which a table says of which window its rows are. In a table of the contract it is part of the key,
    /// and the contract says whether rows can still change when the window is over. In another one it is `window_end`,
    /// as for `emit: on_close`: of what says only when a window began nobody knows when it ends.
    fn of(table: &UserTable) -> Option<(&'static str, Self)> {
        if let Ok(contract) = tables::get(&table.name) {
            let in_key = |(name, _): &(&'static str, Self)| contract.key.iter().any(|key| key == name);
            return WINDOWS.into_iter().find(in_key).filter(|_| contract.has_is_final);
        }
        let schema = table.provider.schema();
        let kind = |name: &str| schema.field_with_name(name).ok().map(|field| field.data_type().clone());
        let (end, window) = WINDOWS[0];
        (kind(end) == Some(window.data_type()) && kind(IS_FINAL).is_none()).then_some((end, window))
    }

    fn data_type(self) -> DataType {
        match self {
            Self::End => tables::timestamptz(),
            Self::Day | Self::Month => DataType::Date32,
        }
    }

    /// The instants at which windows end, in microseconds since 1970.
    fn ends(self, column: &ArrayRef, zone: Tz) -> Vec<Option<i64>> {
        let first_day_after = |day: i32| match self {
            Self::Month => {
                let next = Date32Type::to_naive_date_opt(day)?.checked_add_months(Months::new(1))?;
                Some(Date32Type::from_naive_date(next))
            }
            Self::End | Self::Day => day.checked_add(1),
        };
        match self {
            Self::End => column.as_primitive::<TimestampMicrosecondType>().iter().collect(),
            Self::Day | Self::Month => {
                let days = column.as_primitive::<Date32Type>().iter();
                days.map(|day| calendar::first_instant(first_day_after(day?)?, zone)).collect()
            }
        }
    }

    /// For clients.
    fn comment(self) -> &'static str {
        match self {
            Self::End => "Whether the watermark has passed window_end",
            Self::Day => "Whether the watermark has passed the end of the day",
            Self::Month => "Whether the watermark has passed the end of the month",
        }
    }
}

/// Adds `is_final` to every table whose rows are of windows of event time.
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
            if let Some((column, window)) = Window::of(&table) {
                table.provider = final_view(&table.name, table.provider, (column, window), clock, finality)?;
                table.column_comments.push((IS_FINAL.to_owned(), window.comment().to_owned()));
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

/// The newest manifest of a data directory and its tables, as they are stored, all of one checkpoint: the newest row of
/// `commits` names the version of each, whatever an engine has applied since. `None` before the first row.
///
/// # Errors
/// [`sink::Error::Gone`] when the tables go on faster than they are read.
pub(super) async fn committed_sources(home: &Home) -> Result<Option<(Manifest, Stored)>, Error> {
    let root = home.tables();
    let mut tries = 1;
    loop {
        let Some(manifest) = newest(home).await? else { return Ok(None) };
        let Some(commit) = commits::newest(&root).await? else { return Ok(None) };
        let is_last = tries == TRIES;
        if is_last || [manifest.number, manifest.speaks_of()].contains(&commit.number) {
            match at(&root, &commit).await {
                Err(sink::Error::Gone { .. }) if !is_last => {}
                read => return Ok(Some((manifest, read?))),
            }
        }
        tries += 1;
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

/// The tables at the versions that a row of `commits` names. One that was deleted is left out: the others can be read.
async fn at(root: &Location, commit: &Commit) -> Result<Stored, sink::Error> {
    let read = commit.versions.iter().map(|(name, version)| delta::read_version(root, name, *version));
    let read = try_join_all(read).await?;
    Ok(commit.versions.keys().zip(read).filter_map(|(name, table)| Some((name.clone(), table?))).collect())
}

/// The newest manifest of a home, for a process that does not own it; `None` before the first.
pub(super) async fn newest(home: &Home) -> Result<Option<Manifest>, Error> {
    if !home.is_shared() && swap::is_unfinished(home.data_dir()) {
        return Err(Error::RebuildUnfinished);
    }
    Ok(checkpoint::peek(home.checkpoints().as_ref()).await?)
}

/// A window is final when the watermark has passed its end, and so has the time of its own account and mode: another
/// one's events say nothing of it.
fn final_view(
    name: &str,
    provider: Arc<dyn TableProvider>,
    (of, window): (&str, Window),
    clock: &Arc<dyn TableProvider>,
    finality: &Finality,
) -> Result<Arc<dyn TableProvider>, Error> {
    let signature = Signature::exact(vec![window.data_type(), tables::timestamptz()], Volatility::Volatile);
    let is_final = ScalarUDF::from(IsFinal { signature, window, finality: finality.clone() });
    let qualified = |table: &str, name: &str| Column::new(Some(TableReference::bare(table)), name);
    let column = |table: &str, name: &str| Expr::Column(qualified(table, name));
    let mut columns: Vec<Expr> = provider.schema().fields().iter().map(|field| column(name, field.name())).collect();
    columns.push(is_final.call(vec![column(name, of), column(CLOCK, "last_event_at")]).alias(IS_FINAL));
    let scope = |table: &str| ["account", "livemode"].map(|name| qualified(table, name)).to_vec();
    // The clock, which has few rows, is the side that a join holds in memory.
    let plan = LogicalPlanBuilder::scan(CLOCK, provider_as_source(Arc::clone(clock)), None)?
        .join(
            LogicalPlanBuilder::scan(TableReference::bare(name), provider_as_source(provider), None)?.build()?,
            JoinType::Right,
            (scope(CLOCK), scope(name)),
            None,
        )?
        .project(columns)?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// Whether the window of a row is over: of what says which window it is of, and the last event of its account and mode.
#[derive(Debug, PartialEq, Eq, Hash)]
struct IsFinal {
    signature: Signature,
    window: Window,
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
        let [windows, last_events] = args.args.as_slice() else {
            return exec_err!("{IS_FINAL} takes a window and an instant");
        };
        let (windows, last_events) = (windows.to_array(args.number_rows)?, last_events.to_array(args.number_rows)?);
        let Finality { zone, lateness_micros, watermark } = &self.finality;
        let watermark = watermark.load(Ordering::Relaxed);
        let ends = self.window.ends(&windows, *zone);
        let last_events = last_events.as_primitive::<TimestampMicrosecondType>();
        let finals = ends.into_iter().zip(last_events).map(|(end, last_event)| {
            let complete = complete(watermark, last_event?, *lateness_micros);
            end.map(|end| end <= complete)
        });
        Ok(ColumnarValue::Array(Arc::new(finals.collect::<BooleanArray>())))
    }
}

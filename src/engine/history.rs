//! The tables as they were known at a past moment, as of a past day, or as another profile of rules counts.
//!
//! *As known at K* is what the rows say whose `known_at` is not after K; *as of D* what those say that happened by D;
//! another profile is worked out from `item_states`, the raw parts of every item. Entries are then netted and
//! classified again, and every pipeline's table is its SQL, run once over these rows. Nothing is stored.
//!
//! The log of that time ended with the last event known by then: what is dated later, such as the end of a discount
//! that no event tells, had not happened yet. A table is worked out when a query first reads it.
//!
//! A pipeline's file is run in batch over the same tables ([`Question::run`]), or, where nothing of the past is asked
//! for, over those of the last checkpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::{AsArray, RecordBatch},
    compute::{cast, concat_batches},
    datatypes::{DataType, SchemaRef, TimestampMicrosecondType},
};
use chrono_tz::Tz;
use datafusion::{
    catalog::TableProvider,
    common::ScalarValue,
    datasource::{ViewTable, provider_as_source},
    error::{DataFusionError, Result as PlanResult},
    logical_expr::{Expr, LogicalPlanBuilder, col, lit},
    prelude::SessionContext,
};
use tokio::sync::OnceCell;

use super::{
    CLOCK, Error, LEDGER_FINGERPRINT, SCORES,
    checkpoint::rules_fingerprint,
    collect_one,
    readers::{Finality, Stored, committed_sources, with_is_final_by},
    recovery::{conform, relations},
    store::user_table,
    watermark::{MAX_SKEW_MICROS, complete},
};
use crate::{
    ledger::{
        Rules,
        review::{self, Counted},
        rows::{ItemState, LedgerEntry},
    },
    serve::{UserTable, lazy::LazyTable},
    storage::Home,
    stream::{
        batch,
        calendar::local_day,
        checkpoint::Manifest,
        closed_between,
        epoch::Completeness,
        file::{Emit, PipelineFile},
        graph::{plan_all, upstream},
        pipeline::Pipeline,
    },
    stripe::{ids::AccountId, types::Scope},
    tables::{self, Source, Table, read, rows},
    time::EventTime,
};

pub(super) const ARCHIVE: &str = "events_archive";
const STATES: &str = "item_states";
pub(super) const LEDGER: &str = "mrr_ledger";
pub(super) const MOVEMENTS: &str = "mrr_movements";
const OUTLOOK: &str = "outlook_ledger";
/// Whose rows say what something is worth a month by the rules they were made under, without the parts of it.
const VALUED: [&str; 2] = ["metered_usage", "scheduled_mrr"];

/// The columns that say when a row became known, and when what it tells happened.
pub(super) const KNOWN: [&str; 2] = ["known_at", "received_at"];
pub(super) const HAPPENED: [&str; 5] = ["event_time", "occurred_at", "valid_from", "created", "finalized_at"];
/// Rates are of a day, and the books of a month.
pub(super) const DAYS: [&str; 2] = ["day", "month"];

/// What of the history is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Only what happened by then.
    pub as_of: Option<EventTime>,
    /// Only what was known by then.
    pub known_at: Option<EventTime>,
    /// The rules to count by.
    pub rules: Rules,
    /// Only this customer's item states, entries and movements.
    pub customer: Option<String>,
    /// Whose events those without an account are.
    pub account: AccountId,
    /// The merchant's zone.
    pub zone: Tz,
    /// How long the watermark waits for late events.
    pub allowed_lateness: Duration,
    /// The pipelines, with their parameters and the settings these refer to.
    pub pipelines: Vec<PipelineFile>,
    /// Parameters by pipeline.
    pub parameters: BTreeMap<String, BTreeMap<String, String>>,
    /// Values of the settings that parameters refer to.
    pub settings: BTreeMap<String, String>,
}

type Tables = BTreeMap<String, Arc<dyn TableProvider>>;

/// The tables of a data directory as `question` asks for them; none before the first checkpoint.
///
/// # Errors
/// When the checkpoints or a table cannot be read, or a pipeline's file is not right.
pub async fn history_tables(home: &Home, question: Question) -> Result<Vec<UserTable>, Error> {
    match committed_sources(home).await? {
        Some((manifest, tables)) => past_tables(&manifest, &tables, question).await,
        None => Ok(Vec::new()),
    }
}

impl Question {
    /// Whether the rules are those by which the ledger of a checkpoint was made.
    fn counts_so(&self, manifest: &Manifest) -> bool {
        manifest.fingerprints.get(LEDGER_FINGERPRINT) == Some(&rules_fingerprint(&self.rules, &self.account))
    }

    /// What the file of pipeline `name` says when it is run once, in batch. Where nothing of the past is asked for, it
    /// reads the tables of the last checkpoint, those of other pipelines too, and its open windows are in the answer
    /// although it emits on close; else it is the table that was asked for. One that runs on a schedule runs as of the
    /// last boundary. `None` before the first checkpoint.
    ///
    /// # Errors
    /// When the tables cannot be read, the file is not right or cannot be maintained, or it fails on the rows.
    pub async fn run(self, home: &Home, name: &str) -> Result<Option<RecordBatch>, Error> {
        let Some((manifest, tables)) = committed_sources(home).await? else { return Ok(None) };
        let files = upstream(&self.pipelines, name);
        let planned = plan_all(files.clone(), &relations()?, &self.parameters, &self.settings).await?;
        let pipeline = planned.iter().find(|pipeline| pipeline.name() == name);
        let pipeline = pipeline.ok_or_else(|| Error::NoPipeline(name.to_owned()))?;
        if self.as_of.is_none() && self.known_at.is_none() && self.counts_so(&manifest) {
            return self.run_now(&manifest, &tables, pipeline).await.map(Some);
        }
        let past = past_tables(&manifest, &tables, Self { pipelines: files, ..self }).await?;
        let table = past.into_iter().find(|table| table.name == name);
        let table = table.ok_or_else(|| Error::NotMade(name.to_owned()))?;
        let rows = collect_one(SessionContext::new().read_table(table.provider)?).await?;
        conform(&rows, pipeline.schema()).map(Some)
    }

    async fn run_now(&self, manifest: &Manifest, tables: &Stored, pipeline: &Pipeline) -> Result<RecordBatch, Error> {
        let (name, file) = (pipeline.name(), pipeline.file());
        let none = BTreeMap::new();
        let parameters = file.parameters(self.parameters.get(name).unwrap_or(&none), &self.settings)?;
        let mut sources = Tables::new();
        for source in pipeline.sources() {
            let table = tables.get(source).ok_or_else(|| Error::NotMade(source.clone()))?;
            sources.insert(source.clone(), Arc::clone(table));
        }
        // Schedules follow the newest event, for which nothing late is waited.
        let lateness = super::micros(self.allowed_lateness);
        let clock = manifest.watermark.map(|watermark| (watermark.micros().saturating_add(lateness), self.zone));
        let rows = batch::run(file, parameters, file.boundary(clock), pipeline.schema(), &sources).await;
        rows.map_err(|source| Error::PipelineFailed { name: name.to_owned(), source })
    }
}

async fn past_tables(manifest: &Manifest, tables: &Stored, question: Question) -> Result<Vec<UserTable>, Error> {
    let counted_so = question.counts_so(manifest);
    let question = Arc::new(question);
    let stored = stored(tables, &question)?;

    let watermark = Arc::new(AtomicI64::new(manifest.watermark.map_or(i64::MIN, EventTime::micros)));
    let clock = Arc::new(LogClock {
        archive: tables.get(ARCHIVE).cloned(),
        stored: stored.get(CLOCK).cloned(),
        known_at: question.known_at,
        lateness_micros: super::micros(question.allowed_lateness),
        watermark: Arc::clone(&watermark),
        cell: OnceCell::new(),
    });
    let entries = Arc::new(Entries {
        from: if counted_so { Made::Written } else { Made::Counted(question.rules.clone()) },
        source: stored.get(if counted_so { LEDGER } else { STATES }).cloned(),
        clock: Arc::clone(&clock),
        as_of: question.as_of,
        cell: OnceCell::new(),
    });

    let all = tables::all().map_err(|error| Error::Internal(error.to_string()))?;
    let mut found = Tables::new();
    for table in all.iter().filter(|table| table.source == Source::Engine) {
        let provider: Arc<dyn TableProvider> = match table.name.as_str() {
            CLOCK => Arc::new(clock_table(table, &clock, question.as_of)),
            LEDGER => Arc::new(ledger_table(table, &entries)),
            MOVEMENTS => Arc::new(movements_table(table, &entries, &question.rules)),
            SCORES => Arc::new(unavailable(table, "scores are kept only as they are now")),
            name if !counted_so && VALUED.contains(&name) => {
                Arc::new(unavailable(table, "its rows are valued by the rules of the engine that made them"))
            }
            OUTLOOK if !counted_so => Arc::new(outlook_table(table, &entries)),
            _ if question.known_at.is_some() && column(table, &KNOWN).is_none() => {
                Arc::new(unavailable(table, "its rows do not say since when they are known"))
            }
            name => match stored.get(name) {
                Some(provider) => Arc::clone(provider),
                None => continue,
            },
        };
        found.insert(table.name.clone(), provider);
    }
    let mut shown: Vec<UserTable> = all
        .iter()
        .filter_map(|table| {
            Some(user_table(&table.name, &table.description, &table.schema, found.get(&table.name)?.clone()))
        })
        .collect();
    pipeline_tables(&question, &clock, &mut found, &mut shown).await?;
    let known_clock: Arc<dyn TableProvider> = Arc::new(clock_table(tables::get(CLOCK)?, &clock, None));
    let lateness_micros = super::micros(question.allowed_lateness);
    with_is_final_by(&known_clock, shown, &Finality { zone: question.zone, lateness_micros, watermark })
}

/// Every table of the engine, without the rows that were not known or had not happened.
fn stored(committed: &Stored, question: &Question) -> Result<Tables, Error> {
    let mut found = Tables::new();
    let all = tables::all().map_err(|error| Error::Internal(error.to_string()))?;
    for table in all.iter().filter(|table| table.source == Source::Engine) {
        if let Some(provider) = committed.get(&table.name) {
            let provider = match condition(table, question) {
                Some(condition) => filtered(&table.name, Arc::clone(provider), condition)?,
                None => Arc::clone(provider),
            };
            found.insert(table.name.clone(), provider);
        }
    }
    Ok(found)
}

fn filtered(name: &str, provider: Arc<dyn TableProvider>, condition: Expr) -> PlanResult<Arc<dyn TableProvider>> {
    let plan = LogicalPlanBuilder::scan(name, provider_as_source(provider), None)?.filter(condition)?.build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// The first of these columns that a table has.
fn column(table: &Table, names: &[&str]) -> Option<Expr> {
    names.iter().find(|name| table.schema.index_of(name).is_ok()).map(|name| quoted(name))
}

/// Which rows of a table are asked for.
fn condition(table: &Table, question: &Question) -> Option<Expr> {
    let until = |names: &[&str], bound: Option<EventTime>| Some(column(table, names)?.lt_eq(instant(bound?)));
    let customer = question.customer.as_ref().filter(|_| [STATES, LEDGER].contains(&table.name.as_str()));
    let is_date =
        |name: &&str| table.schema.field_with_name(name).is_ok_and(|field| *field.data_type() == DataType::Date32);
    let days = DAYS.into_iter().find(is_date);
    let conditions = [
        // A row of a keyed table says when its newest content was known: those that changed since would be missing.
        until(&KNOWN, question.known_at).filter(|_| table.is_appended()),
        until(&HAPPENED, question.as_of).filter(|_| table.is_appended()),
        days.zip(question.as_of.and_then(|bound| local_day(bound.micros(), question.zone)))
            .map(|(column, day)| quoted(column).lt_eq(lit(ScalarValue::Date32(Some(day))))),
        customer.map(|customer| quoted("customer_id").eq(lit(customer.as_str()))),
    ];
    conditions.into_iter().flatten().reduce(Expr::and)
}

fn quoted(name: &str) -> Expr {
    col(format!("\"{name}\""))
}

fn instant(time: EventTime) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(Some(time.micros()), Some("UTC".into())))
}

/// The span of event time that the log covered, for each account and mode.
#[derive(Debug)]
struct LogClock {
    archive: Option<Arc<dyn TableProvider>>,
    stored: Option<Arc<dyn TableProvider>>,
    known_at: Option<EventTime>,
    lateness_micros: i64,
    /// Set to what it was when the clock is first read.
    watermark: Arc<AtomicI64>,
    cell: OnceCell<Arc<Vec<(Scope, EventTime, EventTime)>>>,
}

impl LogClock {
    async fn times(&self) -> PlanResult<Arc<Vec<(Scope, EventTime, EventTime)>>> {
        self.cell.get_or_try_init(|| self.work_out()).await.cloned()
    }

    /// The greatest event time then.
    async fn newest(&self, as_of: Option<EventTime>) -> PlanResult<Option<i64>> {
        let newest = self.times().await?.iter().map(|(_, _, last)| *last).max();
        let watermark = self.watermark.load(Ordering::Relaxed);
        // Test clocks run ahead, and the watermark does not follow them.
        let bound = EventTime::from_micros(watermark.saturating_add(self.lateness_micros));
        Ok(newest.map(|newest| newest.min(bound).min(as_of.unwrap_or(newest)).micros()))
    }

    /// Of the rows of a query that emits on close those whose windows had closed by then.
    async fn closed(&self, rows: &RecordBatch, as_of: Option<EventTime>) -> PlanResult<RecordBatch> {
        let mut closed = Completeness::default();
        for (scope, _, last) in self.times().await?.iter() {
            let last = as_of.map_or(*last, |bound| bound.min(*last));
            let watermark = self.watermark.load(Ordering::Relaxed);
            let complete = complete(watermark, last.micros(), self.lateness_micros);
            closed.advance(scope.account.as_str(), scope.livemode, complete);
        }
        closed_between(rows, &Completeness::default(), &closed).map_err(external)
    }

    async fn work_out(&self) -> PlanResult<Arc<Vec<(Scope, EventTime, EventTime)>>> {
        let (Some(known_at), Some(archive)) = (self.known_at, &self.archive) else {
            let Some(stored) = &self.stored else { return Ok(Arc::default()) };
            let rows = rows_of(Arc::clone(stored)).await?;
            return read::log_clock(&rows).map(Arc::new).map_err(external);
        };
        let context = SessionContext::new();
        context.register_table(
            "known",
            filtered(ARCHIVE, Arc::clone(archive), quoted(KNOWN[1]).lt_eq(instant(known_at)))?,
        )?;
        let spans = format!(
            "SELECT account, livemode, MIN(created) AS first_event_at, MAX(created) AS last_event_at, \
             MAX(LEAST(created, received_at + INTERVAL '{MAX_SKEW_MICROS} microseconds')) AS newest FROM known \
             GROUP BY account, livemode ORDER BY account, livemode"
        );
        let rows = context.sql(&spans).await?;
        let schema = Arc::clone(rows.schema().inner());
        let rows = concat_batches(&schema, &rows.collect().await?)?;
        let newest = cast(rows.column(4), &tables::timestamptz())?;
        let newest = newest.as_primitive::<TimestampMicrosecondType>().iter().flatten().max();
        // With what has come since, days became final that were not then.
        let then = newest.map_or(i64::MIN, |newest| newest.saturating_sub(self.lateness_micros));
        self.watermark.fetch_min(then, Ordering::Relaxed);
        read::log_clock(&rows).map(Arc::new).map_err(external)
    }
}

/// Where entries come from.
#[derive(Debug)]
enum Made {
    /// They are the ledger's own.
    Written,
    /// They are worked out from item states, under these rules.
    Counted(Rules),
}

/// The entries of the ledger that was asked for, and where they are worked out also those beside it.
#[derive(Debug)]
struct Entries {
    from: Made,
    source: Option<Arc<dyn TableProvider>>,
    clock: Arc<LogClock>,
    as_of: Option<EventTime>,
    cell: OnceCell<Arc<Counted>>,
}

impl Entries {
    async fn rows(&self) -> PlanResult<Arc<Counted>> {
        self.cell.get_or_try_init(|| self.work_out()).await.cloned()
    }

    async fn work_out(&self) -> PlanResult<Arc<Counted>> {
        let Some(source) = &self.source else { return Ok(Arc::default()) };
        let rows = rows_of(Arc::clone(source)).await?;
        let ends: BTreeMap<Scope, EventTime> = self
            .clock
            .times()
            .await?
            .iter()
            .map(|(scope, _, last)| (scope.clone(), self.as_of.map_or(*last, |bound| bound.min(*last))))
            .collect();
        let mut counted = match &self.from {
            Made::Written => Counted { entries: read::mrr_ledger(&rows).map_err(external)?, ..Counted::default() },
            Made::Counted(rules) => count(read::item_states(&rows).map_err(external)?, rules, &ends)?,
        };
        let happened = |entry: &LedgerEntry| ends.get(&entry.scope).is_some_and(|last| entry.event_time <= *last);
        counted.entries.retain(happened);
        counted.outlook.retain(|row| happened(&row.entry));
        Ok(Arc::new(counted))
    }
}

/// What item states make under `rules`, up to the end of their account and mode.
fn count(states: Vec<ItemState>, rules: &Rules, ends: &BTreeMap<Scope, EventTime>) -> PlanResult<Counted> {
    let mut scopes: BTreeMap<Scope, Vec<ItemState>> = BTreeMap::new();
    for state in states {
        scopes.entry(state.scope.clone()).or_default().push(state);
    }
    let mut all = Counted::default();
    for (scope, states) in scopes {
        if let Some(end) = ends.get(&scope) {
            let Counted { entries, outlook } = review::count(&states, rules, *end).map_err(external)?;
            all.entries.extend(entries);
            all.outlook.extend(outlook);
        }
    }
    Ok(all)
}

fn clock_table(table: &Table, clock: &Arc<LogClock>, as_of: Option<EventTime>) -> LazyTable {
    let clock = Arc::clone(clock);
    lazy(table, move || {
        let clock = Arc::clone(&clock);
        async move {
            let bound = as_of.unwrap_or(EventTime::from_micros(i64::MAX));
            let times = clock.times().await?;
            let times: Vec<_> = times
                .iter()
                .filter(|(_, first, _)| *first <= bound)
                .map(|(scope, first, last)| (scope.clone(), *first, (*last).min(bound)))
                .collect();
            rows::log_clock(&times).map_err(external)
        }
    })
}

fn ledger_table(table: &Table, entries: &Arc<Entries>) -> LazyTable {
    let entries = Arc::clone(entries);
    lazy(table, move || {
        let entries = Arc::clone(&entries);
        async move { rows::mrr_ledger(&entries.rows().await?.entries).map_err(external) }
    })
}

fn outlook_table(table: &Table, entries: &Arc<Entries>) -> LazyTable {
    let entries = Arc::clone(entries);
    lazy(table, move || {
        let entries = Arc::clone(&entries);
        async move { rows::outlook_ledger(&entries.rows().await?.outlook).map_err(external) }
    })
}

fn movements_table(table: &Table, entries: &Arc<Entries>, rules: &Rules) -> LazyTable {
    let (entries, rules) = (Arc::clone(entries), rules.clone());
    lazy(table, move || {
        let (entries, rules) = (Arc::clone(&entries), rules.clone());
        async move {
            let movements = review::movements(&entries.rows().await?.entries, &rules).map_err(external)?;
            rows::mrr_movements(&movements).map_err(external)
        }
    })
}

fn unavailable(table: &Table, why: &str) -> LazyTable {
    let text = format!("{} cannot be asked for as of a past time or under other rules: {why}", table.name);
    lazy(table, move || {
        let text = text.clone();
        async move { Err(DataFusionError::Plan(text)) }
    })
}

fn lazy<F>(table: &Table, make: impl Fn() -> F + Send + Sync + 'static) -> LazyTable
where
    F: Future<Output = PlanResult<RecordBatch>> + Send + 'static,
{
    LazyTable::new(table.name.clone(), Arc::clone(&table.schema), Box::new(move || Box::pin(make())))
}

/// Adds the table of every pipeline, in dependency order.
async fn pipeline_tables(
    question: &Question,
    clock: &Arc<LogClock>,
    found: &mut Tables,
    shown: &mut Vec<UserTable>,
) -> Result<(), Error> {
    let files = question.pipelines.clone();
    let none = BTreeMap::new();
    for pipeline in plan_all(files, &relations()?, &question.parameters, &question.settings).await? {
        let file = pipeline.file().clone();
        let given = question.parameters.get(pipeline.name()).unwrap_or(&none);
        let parameters = file.parameters(given, &question.settings)?;
        let reads: &BTreeSet<String> = pipeline.sources();
        let sources: Tables =
            found.iter().filter(|(name, _)| reads.contains(*name)).map(|(name, t)| (name.clone(), t.clone())).collect();
        let schema: SchemaRef = Arc::clone(pipeline.schema());
        let (name, description) = (pipeline.name().to_owned(), file.metadata.description.clone());
        let make = {
            let (schema, clock) = (Arc::clone(&schema), Arc::clone(clock));
            let (as_of, zone) = (question.as_of, question.zone);
            move || {
                let (file, parameters) = (file.clone(), parameters.clone());
                let (schema, sources, clock) = (Arc::clone(&schema), sources.clone(), Arc::clone(&clock));
                Box::pin(async move {
                    let boundary = file.boundary(clock.newest(as_of).await?.map(|newest| (newest, zone)));
                    let rows = batch::run(&file, parameters, boundary, &schema, &sources).await.map_err(external)?;
                    match file.metadata.emit {
                        Emit::OnUpdate => Ok(rows),
                        Emit::OnClose => clock.closed(&rows, as_of).await,
                    }
                }) as futures::future::BoxFuture<'static, PlanResult<RecordBatch>>
            }
        };
        let table: Arc<dyn TableProvider> = Arc::new(LazyTable::new(name.clone(), Arc::clone(&schema), Box::new(make)));
        // A pipeline's contract is listed among the tables; the one that is shown is this.
        shown.retain(|other| other.name != name);
        shown.push(user_table(&name, &description, &schema, Arc::clone(&table)));
        found.insert(name, table);
    }
    Ok(())
}

async fn rows_of(table: Arc<dyn TableProvider>) -> PlanResult<RecordBatch> {
    let rows = SessionContext::new().read_table(table)?;
    let schema = Arc::clone(rows.schema().inner());
    Ok(concat_batches(&schema, &rows.collect().await?)?)
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

//! A pipeline's history: what happened comes in again day by day, through the operators that the engine maintains the
//! pipeline with, and what they end in is compared with batch.
//!
//! The relations are those of [`super::history`], so `--as-of`, `--known-at` and `--profile` have one meaning. Nothing is
//! stored and nobody is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array},
    compute::{cast, filter_record_batch, take_record_batch},
    datatypes::{DataType, Date32Type, SchemaRef, TimestampMicrosecondType},
};
use chrono_tz::Tz;
use datafusion::{catalog::TableProvider, datasource::MemTable, prelude::SessionContext};

use super::{
    CLOCK, Error, Question, collect_one,
    history::{ARCHIVE, DAYS, HAPPENED, KNOWN, LEDGER, MOVEMENTS, history_tables},
    readers::newest,
    recovery::{conform, relations},
    watermark::{MAX_SKEW_MICROS, complete},
};
use crate::{
    ledger::{Rules, review, rows::LedgerEntry},
    storage::Home,
    stream::{
        Tables, batch,
        calendar::{first_instant, local_day},
        closed_between,
        epoch::{Completeness, EpochEnd},
        file::PipelineFile,
        graph::{plan_all, upstream},
        maintained::{Content, Maintained},
        pipeline::{Pipeline, RowDelta, difference},
    },
    stripe::types::Scope,
    tables::{self, read, rows},
    time::EventTime,
};

/// What makes an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// A day on which something happened.
    Day,
    /// A day on which something became known.
    KnownAt,
}

/// What a backtest gives.
#[derive(Clone, Debug)]
pub struct Backtested {
    /// The pipeline's rows at the end whose time is in the range; all rows where the time column is no time.
    pub rows: RecordBatch,
    /// For each epoch in the range that changed something: its day since 1970, rows that went, rows that came.
    pub epochs: Vec<(i32, usize, usize)>,
    /// Changes that came after their windows had closed, of all pipelines that ran.
    pub late_changes: u64,
    /// Rows in which the maintained table and batch differ, less those of windows that were open and what came late:
    /// 0, or the operators are wrong.
    pub differing: usize,
}

/// Runs the history that `question` asks for through pipeline `name` and those it reads. What came before `from` is one
/// epoch, and then each day up to `to` is one; `question` should end with `to`. `None` before the first checkpoint.
///
/// # Errors
/// When tables cannot be read, a file is not right, or a pipeline fails.
pub async fn backtest(
    home: &Home,
    question: Question,
    name: &str,
    (from, to): (i32, i32),
    by: By,
) -> Result<Option<Backtested>, Error> {
    let (zone, rules, settings) = (question.zone, question.rules.clone(), question.settings.clone());
    let (files, parameters) = (question.pipelines.clone(), question.parameters.clone());
    let lateness = super::micros(question.allowed_lateness);
    let planned = plan_all(upstream(&files, name), &relations()?, &parameters, &settings).await?;
    if planned.iter().all(|pipeline| pipeline.name() != name) {
        return Err(Error::NoPipeline(name.to_owned()));
    }
    let maintained =
        Maintained::new(planned).map_err(|source| Error::PipelineFailed { name: name.to_owned(), source })?;
    let reads: BTreeSet<String> = maintained.pipelines().iter().flat_map(|p| p.sources().iter().cloned()).collect();
    let tables = history_tables(home, Question { pipelines: Vec::new(), ..question }).await?;
    if tables.is_empty() {
        return Ok(None);
    }
    let tables: BTreeMap<String, Arc<dyn TableProvider>> =
        tables.into_iter().map(|table| (table.name, table.provider)).collect();
    let range = Range { from, to, zone, by };
    let manifest = newest(home).await?;
    let watermark = manifest.and_then(|manifest| manifest.watermark).map_or(i64::MIN, EventTime::micros);
    let timed = reads.contains(CLOCK) || maintained.pipelines().iter().any(Pipeline::follows_time);
    let past = Past::of(&tables, &reads, timed, range, rules).await?;
    let mut replay = Replay { maintained, past, range, watermark, lateness, complete: Completeness::default() };
    let epochs = replay.run(name).await?;
    let differing = replay.against_batch(&parameters, &settings).await?;
    let late_changes = replay.late_changes();
    let rows = in_range(replay.table(name)?, replay.file(name)?, range)?;
    Ok(Some(Backtested { rows, epochs, late_changes, differing }))
}

#[derive(Clone, Copy)]
struct Range {
    from: i32,
    to: i32,
    zone: Tz,
    by: By,
}

impl Range {
    /// The epoch of a day: all days before the range are one.
    fn epoch(self, day: i32) -> i32 {
        day.max(self.from - 1)
    }

    /// The last instant of an epoch.
    fn end(self, epoch: i32) -> EventTime {
        EventTime::from_micros(first_instant(epoch + 1, self.zone).map_or(i64::MAX, |next| next - 1))
    }
}

/// What the relations were at the end of each epoch.
struct Past {
    range: Range,
    /// Rows by epoch, of tables whose rows come one after the other.
    rows: BTreeMap<String, BTreeMap<i32, RecordBatch>>,
    schemas: BTreeMap<String, SchemaRef>,
    /// Entries to net again at each epoch, where what was known of them changes.
    entries: Option<Vec<LedgerEntry>>,
    rules: Rules,
    /// Instants of events, with when they became known, that the log's clock follows; `None`: with the last ones alone.
    clock: Vec<(Scope, EventTime, EventTime)>,
    seen: Option<Vec<(EventTime, Scope, EventTime)>>,
}

impl Past {
    async fn of(
        tables: &BTreeMap<String, Arc<dyn TableProvider>>,
        reads: &BTreeSet<String>,
        timed: bool,
        range: Range,
        rules: Rules,
    ) -> Result<Self, Error> {
        let content = async |name: &str| -> Result<Option<RecordBatch>, Error> {
            let Some(table) = tables.get(name) else { return Ok(None) };
            let rows = collect_one(SessionContext::new().read_table(Arc::clone(table))?).await?;
            conform(&rows, &tables::get(name)?.schema).map(Some)
        };
        let known = range.by == By::KnownAt;
        let mut past = Self {
            range,
            rows: BTreeMap::new(),
            schemas: BTreeMap::new(),
            entries: None,
            rules,
            clock: match content(CLOCK).await? {
                Some(rows) => read::log_clock(&rows)?,
                None => Vec::new(),
            },
            seen: None,
        };
        if known && timed {
            past.seen = content(ARCHIVE).await?.map(|rows| arrivals(&rows)).transpose()?;
        }
        for name in reads {
            let Ok(table) = tables::get(name) else { continue };
            past.schemas.insert(name.clone(), Arc::clone(&table.schema));
            if name == MOVEMENTS && known {
                past.entries = content(LEDGER).await?.map(|rows| read::mrr_ledger(&rows)).transpose()?;
            } else if name != CLOCK
                && let Some(rows) = content(name).await?
            {
                past.rows.insert(name.clone(), by_epoch(&rows, range)?);
            }
        }
        Ok(past)
    }

    /// Every epoch in which anything comes, in order.
    fn epochs(&self) -> BTreeSet<i32> {
        let mut epochs: BTreeSet<i32> = self.rows.values().flat_map(|by_epoch| by_epoch.keys().copied()).collect();
        let mut add = |at: EventTime| {
            epochs.extend(local_day(at.micros(), self.range.zone).map(|day| self.range.epoch(day)));
        };
        match self.range.by {
            By::Day => self.clock.iter().for_each(|(_, first, last)| {
                add(*first);
                add(*last);
            }),
            By::KnownAt => {
                self.entries.iter().flatten().for_each(|entry| add(entry.known_at));
                self.seen.iter().flatten().for_each(|(known_at, _, _)| add(*known_at));
            }
        }
        epochs.retain(|epoch| *epoch <= self.range.to);
        epochs
    }

    /// The log's clock at the end of an epoch.
    fn clock(&self, epoch: i32) -> Vec<(Scope, EventTime, EventTime)> {
        let end = self.range.end(epoch);
        let Some(seen) = &self.seen else {
            let begun = self.clock.iter().filter(|(_, first, _)| *first <= end);
            return begun.map(|(scope, first, last)| (scope.clone(), *first, (*last).min(end))).collect();
        };
        let mut spans: BTreeMap<&Scope, (EventTime, EventTime)> = BTreeMap::new();
        for (_, scope, created) in seen.iter().take_while(|(known_at, _, _)| *known_at <= end) {
            let span = spans.entry(scope).or_insert((*created, *created));
            *span = (span.0.min(*created), span.1.max(*created));
        }
        spans.into_iter().map(|(scope, (first, last))| (scope.clone(), first, last)).collect()
    }

    /// The relations as they were at the end of an epoch.
    fn tables(&self, epoch: i32) -> Result<Tables, Error> {
        let times = self.clock(epoch);
        let mut tables = Tables::new();
        for (name, schema) in &self.schemas {
            let rows = match (self.rows.get(name), name.as_str()) {
                (_, CLOCK) => vec![rows::log_clock(&times)?],
                (Some(by_epoch), _) => by_epoch.range(..=epoch).map(|(_, rows)| rows.clone()).collect(),
                (None, MOVEMENTS) => self.movements(epoch, &times)?.into_iter().collect(),
                (None, _) => Vec::new(),
            };
            tables.insert(name.clone(), memory(rows, Arc::clone(schema))?);
        }
        Ok(tables)
    }

    /// The newest event at the end of an epoch, its time bounded by when it was appended where that is known.
    fn newest(&self, epoch: i32, clock: &[(Scope, EventTime, EventTime)]) -> i64 {
        let end = self.range.end(epoch);
        let newest = match &self.seen {
            None => clock.iter().map(|(_, _, last)| last.micros()).max(),
            Some(seen) => {
                let known = seen.iter().take_while(|(known_at, _, _)| *known_at <= end);
                known.map(|(at, _, created)| created.micros().min(at.micros().saturating_add(MAX_SKEW_MICROS))).max()
            }
        };
        newest.unwrap_or(i64::MIN)
    }

    /// The movements as they were known at the end of an epoch.
    fn movements(&self, epoch: i32, clock: &[(Scope, EventTime, EventTime)]) -> Result<Option<RecordBatch>, Error> {
        let Some(entries) = &self.entries else { return Ok(None) };
        let end = self.range.end(epoch);
        let ended =
            |entry: &LedgerEntry| clock.iter().any(|(s, _, last)| *s == entry.scope && entry.event_time <= *last);
        let known = entries.iter().filter(|entry| entry.known_at <= end && ended(entry)).cloned().collect::<Vec<_>>();
        Ok(Some(rows::mrr_movements(&review::movements(&known, &self.rules)?)?))
    }
}

struct Replay {
    maintained: Maintained,
    past: Past,
    range: Range,
    /// That of the newest checkpoint: no window closes that is open there.
    watermark: i64,
    /// How long late events are waited for, in microseconds.
    lateness: i64,
    complete: Completeness,
}

impl Replay {
    /// Lets windows close by what the log's clock says at the end of an epoch.
    fn close(&mut self, epoch: i32, clock: &[(Scope, EventTime, EventTime)]) {
        let newest = self.past.newest(epoch, clock);
        let watermark = newest.saturating_sub(self.lateness).min(self.watermark);
        for (scope, _, last) in clock {
            let complete = complete(watermark, last.micros(), self.lateness);
            self.complete.advance(scope.account.as_str(), scope.livemode, complete);
        }
    }

    /// Changes of all pipelines whose windows had closed.
    fn late_changes(&self) -> u64 {
        let explained = self.maintained.pipelines().iter().filter_map(|pipeline| pipeline.explain().on_close);
        explained.map(|on_close| on_close.late_changes).sum()
    }

    /// Every epoch; those in the range with what they changed of `name`.
    async fn run(&mut self, name: &str) -> Result<Vec<(i32, usize, usize)>, Error> {
        let schema = |name: &str| tables::get(name).map(|table| Arc::clone(&table.schema));
        let (mut clock, mut movements) =
            (RecordBatch::new_empty(schema(CLOCK)?), RecordBatch::new_empty(schema(MOVEMENTS)?));
        let mut found = Vec::new();
        for epoch in self.past.epochs() {
            let mut changed = BTreeMap::new();
            for (table, by_epoch) in &self.past.rows {
                if let Some(added) = by_epoch.get(&epoch) {
                    let removed = RecordBatch::new_empty(added.schema());
                    changed.insert(table.clone(), RowDelta { removed, added: added.clone() });
                }
            }
            let times = self.past.clock(epoch);
            let now = rows::log_clock(&times)?;
            let mut put = |name: &str, before: &RecordBatch, after: &RecordBatch, key: &[usize]| -> Result<(), Error> {
                let failed = |source| Error::PipelineFailed { name: name.to_owned(), source };
                let delta = difference(before, after, key, name).map_err(failed)?;
                if !delta.is_empty() {
                    changed.insert(name.to_owned(), delta);
                }
                Ok(())
            };
            put(CLOCK, &clock, &now, &[0, 1])?;
            if let Some(netted) = self.past.movements(epoch, &times)? {
                put(MOVEMENTS, &movements, &netted, &[0, 1, 2])?;
                movements = netted;
            }
            clock = now;
            self.close(epoch, &times);
            let small = BTreeMap::from([(CLOCK.to_owned(), clock.clone())]);
            let newest = self.past.newest(epoch, &times).min(self.watermark.saturating_add(self.lateness));
            let end = EpochEnd { small, complete: self.complete.clone(), clock: Some((newest, self.range.zone)) };
            let any_snapshot = self.maintained.pipelines().iter().any(Pipeline::is_snapshot);
            let tables = if any_snapshot { self.past.tables(epoch)? } else { Tables::new() };
            let advanced = self.maintained.advance(&mut changed, &end, &tables);
            advanced.map_err(|failed| Error::PipelineFailed { name: failed.name, source: failed.source })?;
            if let Some(delta) = changed.get(name).filter(|_| epoch >= self.range.from) {
                found.push((epoch, delta.removed.num_rows(), delta.added.num_rows()));
            }
        }
        Ok(found)
    }

    /// How many rows of all pipelines that ran are not what batch says of the relations at the end.
    async fn against_batch(
        &self,
        parameters: &BTreeMap<String, BTreeMap<String, String>>,
        settings: &BTreeMap<String, String>,
    ) -> Result<usize, Error> {
        let last = self.past.epochs().last().copied().unwrap_or(self.range.from);
        let mut sources = self.past.tables(last)?;
        let none = BTreeMap::new();
        let mut differing = 0;
        for pipeline in self.maintained.pipelines() {
            let name = pipeline.name();
            let given = pipeline.file().parameters(parameters.get(name).unwrap_or(&none), settings)?;
            let failed = |source| Error::PipelineFailed { name: name.to_owned(), source };
            if pipeline.is_snapshot() {
                // It is batch itself, and stands still between two runs.
                sources.insert(name.to_owned(), memory(vec![self.table(name)?], Arc::clone(pipeline.schema()))?);
                continue;
            }
            let expected = batch::run(pipeline.file(), given, None, pipeline.schema(), &sources).await;
            let mut expected = expected.map_err(failed)?;
            let on_close = pipeline.explain().on_close;
            if on_close.is_some() {
                expected = closed_between(&expected, &Completeness::default(), &self.complete).map_err(failed)?;
            }
            let actual = self.table(name)?;
            let delta = difference(&actual, &expected, pipeline.key(), name).map_err(failed)?;
            let late = on_close.map_or(0, |on_close| usize::try_from(on_close.late_changes).unwrap_or(usize::MAX));
            differing += delta.removed.num_rows().max(delta.added.num_rows()).saturating_sub(late);
            sources.insert(name.to_owned(), memory(vec![actual], Arc::clone(pipeline.schema()))?);
        }
        Ok(differing)
    }

    fn table(&self, name: &str) -> Result<RecordBatch, Error> {
        let table = self.maintained.table(name).map(Content::batch).transpose();
        let table = table.map_err(|source| Error::PipelineFailed { name: name.to_owned(), source })?;
        table.ok_or_else(|| Error::NoPipeline(name.to_owned()))
    }

    fn file(&self, name: &str) -> Result<&PipelineFile, Error> {
        let pipeline = self.maintained.pipelines().iter().find(|pipeline| pipeline.name() == name);
        Ok(pipeline.ok_or_else(|| Error::NoPipeline(name.to_owned()))?.file())
    }
}

fn memory(rows: Vec<RecordBatch>, schema: SchemaRef) -> Result<Arc<dyn TableProvider>, Error> {
    Ok(Arc::new(MemTable::try_new(schema, vec![rows])?))
}

/// The day of every row in a column of dates or instants.
fn days(column: &ArrayRef, zone: Tz) -> Result<Vec<Option<i32>>, Error> {
    if *column.data_type() == DataType::Date32 {
        return Ok(column.as_primitive::<Date32Type>().iter().collect());
    }
    let instants = cast(column, &tables::timestamptz())?;
    let instants = instants.as_primitive::<TimestampMicrosecondType>();
    Ok(instants.iter().map(|at| at.and_then(|micros| local_day(micros, zone))).collect())
}

/// A table's rows by the epoch in which they come; without a time, or where it is not known, with the first.
fn by_epoch(rows: &RecordBatch, range: Range) -> Result<BTreeMap<i32, RecordBatch>, Error> {
    let timed = match range.by {
        By::Day => HAPPENED.iter().chain(&DAYS).find_map(|name| rows.column_by_name(name)),
        By::KnownAt => KNOWN.iter().find_map(|name| rows.column_by_name(name)),
    };
    let days = match timed {
        Some(column) if !matches!(column.data_type(), DataType::Utf8) => days(column, range.zone)?,
        _ => vec![None; rows.num_rows()],
    };
    let mut places: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
    for (row, day) in (0..).zip(days) {
        places.entry(range.epoch(day.unwrap_or(i32::MIN))).or_default().push(row);
    }
    let taken =
        places.into_iter().map(|(epoch, places)| Ok((epoch, take_record_batch(rows, &UInt64Array::from(places))?)));
    taken.collect()
}

/// When each archived event became known, in that order, with when it was made.
fn arrivals(rows: &RecordBatch) -> Result<Vec<(EventTime, Scope, EventTime)>, Error> {
    let column = |name: &str| {
        rows.column_by_name(name).ok_or_else(|| Error::Internal(format!("{ARCHIVE} has no column {name}")))
    };
    let instants = |name: &str| Ok::<_, Error>(column(name)?.as_primitive::<TimestampMicrosecondType>());
    let (accounts, modes) = (column("account")?.as_string::<i32>(), column("livemode")?.as_boolean());
    let (received, created) = (instants("received_at")?, instants("created")?);
    let mut seen: Vec<_> = (0..rows.num_rows())
        .map(|row| {
            let scope = Scope { account: accounts.value(row).into(), livemode: modes.value(row) };
            (EventTime::from_micros(received.value(row)), scope, EventTime::from_micros(created.value(row)))
        })
        .collect();
    seen.sort_by_key(|(known_at, _, _)| *known_at);
    Ok(seen)
}

/// The rows whose time is in the range.
fn in_range(rows: RecordBatch, file: &PipelineFile, range: Range) -> Result<RecordBatch, Error> {
    let Some(column) = rows.column_by_name(&file.metadata.time_column) else { return Ok(rows) };
    if !matches!(column.data_type(), DataType::Date32 | DataType::Timestamp(..)) {
        return Ok(rows);
    }
    let days = days(column, range.zone)?;
    let within: BooleanArray =
        days.into_iter().map(|day| Some(day.is_some_and(|day| (range.from..=range.to).contains(&day)))).collect();
    Ok(filter_record_batch(&rows, &within)?)
}

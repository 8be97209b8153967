//! The engine: reads the log epoch by epoch and keeps every table true.
//!
//! It composes the other rooms and decides nothing of its own: decode ▸ ledger ▸ pipelines ▸ score, then publish.
//! Rows are visible to readers when their epoch is done; a checkpoint makes them durable. After a crash everything
//! goes on from the newest checkpoint, and ends in the same tables.

mod alerts;
mod apply;
mod archived_log;
mod backtest;
mod backup;
mod checkpoint;
mod decode;
mod history;
mod moments;
mod plan;
mod rates;
mod readers;
mod rebuild;
mod recovery;
mod requests;
mod scoring;
mod stages;
mod status;
mod store;
mod swap;
mod versions;
mod watermark;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arrow::array::RecordBatch;
use chrono_tz::Tz;
use datafusion::prelude::SessionContext;
use tokio::{sync::watch, time::Instant};

pub use self::{
    alerts::EXPANSIONS,
    backtest::{Backtested, By, backtest},
    backup::{Backup, backup, restore},
    history::{Question, history_tables},
    plan::{Standing, Step, plan},
    rates::committed_rates,
    readers::{Shown, committed_tables},
    rebuild::{Currency, Rebuilt, rebuild},
    recovery::relations,
    requests::{Answer, Files, Request, ask},
    scoring::{FEATURES, MODEL, feature_names},
    stages::Stages,
    status::{PipelineStatus, Status, status},
    versions::{Version, diff},
};
use self::{
    alerts::PendingAlerts,
    apply::Coming,
    decode::{Decoded, decode},
    readers::{Finality, with_is_final},
    requests::Requests,
    scoring::{SCORES, Scorer},
    stages::Laps,
    store::Store,
    watermark::Watermark,
};
use crate::{
    act,
    ledger::{
        Arrival, Ledger, Rules,
        fx::FxRate,
        rows::{Change, Delta},
    },
    log::{self, EventLog, Record},
    serve::UserTable,
    sink,
    storage::{self, Home},
    stream::{
        self, Cell,
        checkpoint::Checkpoints,
        conversion::SharedRates,
        epoch::{Completeness, EpochEnd},
        file::PipelineFile,
        pipeline::{Pipeline, RowDelta},
    },
    stripe::{counts::UnknownCounts, ids::AccountId, types::Scope},
    tables::{self, rows},
    time::{Clock, EventTime},
};

/// The name under which a manifest keeps the fingerprint of the ledger's rules; no pipeline can have it.
const LEDGER_FINGERPRINT: &str = "(ledger)";

/// The table with the last event of every account and mode: small, so that pipelines may read it whole.
const CLOCK: &str = "log_clock";
/// What stands for the fingerprint of a pipeline that failed: it is rebuilt at the next start.
const FAILED: &str = "(failed)";
/// What stands for the fingerprint of a pipeline that is paused: its table stands still, at every start too.
const PAUSED: &str = "(paused)";

/// Records of one epoch when there is a backlog: large enough that the fixed cost of an epoch is small beside them.
pub const MAX_RECORDS_AN_EPOCH: usize = 20_000;

/// More records at once than this are a backlog or an import, in which nothing is late.
const MAX_RECORDS_OF_A_LIVE_EPOCH: usize = 1_000;

/// How long an epoch waits for its first record.
const LINGER: Duration = Duration::from_millis(25);

/// How long a log that is away is left alone.
const RETRY_LOG_AFTER: Duration = Duration::from_secs(1);

/// Memory of the rows since the last checkpoint at which the next one is taken, whatever the time.
const CHECKPOINT_BYTES: usize = 256 * 1024 * 1024;

/// Rows that readers see and Delta does not have, at which a checkpoint is taken: what a query can overlay quickly.
const CHECKPOINT_ROWS: usize = crate::serve::view::HOT_ROWS_LIMIT;

/// Checkpoints between two maintenances of the tables.
const CHECKPOINTS_A_MAINTENANCE: u64 = 50;

/// What can stop the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`crate::log::Error`].
    #[error(transparent)]
    Log(#[from] crate::log::Error),
    /// See [`crate::ledger::Error`].
    #[error(transparent)]
    Ledger(#[from] crate::ledger::Error),
    /// See [`tables::Error`].
    #[error(transparent)]
    Tables(#[from] tables::Error),
    /// See [`sink::Error`].
    #[error(transparent)]
    Sink(#[from] sink::Error),
    /// See [`storage::Error`].
    #[error(transparent)]
    Location(#[from] storage::Error),
    /// See [`stream::checkpoint::Error`].
    #[error(transparent)]
    Checkpoint(#[from] stream::checkpoint::Error),
    /// See [`crate::serve::Error`].
    #[error(transparent)]
    Serve(#[from] crate::serve::Error),
    /// See [`crate::model::Error`].
    #[error(transparent)]
    Model(#[from] crate::model::Error),
    /// See [`act::Error`].
    #[error(transparent)]
    Act(#[from] act::Error),
    /// A pipeline's file is not right.
    #[error(transparent)]
    Pipeline(#[from] Box<stream::file::FileError>),
    /// A pipeline failed while it was rebuilt or restored.
    #[error("pipeline {name}: {source}")]
    PipelineFailed {
        /// Which.
        name: String,
        /// Why.
        source: stream::Error,
    },
    /// There is no such pipeline.
    #[error("there is no pipeline `{0}`; `tributary check` lists them")]
    NoPipeline(String),
    /// A pipeline reads a table that was not made yet.
    #[error("the table `{0}` has not been made yet; `tributary run` or `tributary apply` makes it")]
    NotMade(String),
    /// The engine that was asked has ended.
    #[error("the engine ended before it answered; look at its messages, and ask again")]
    EngineGone,
    /// A directory would be overwritten.
    #[error("{0} is there already; name a directory that is not, or an empty one to restore into")]
    NotEmpty(PathBuf),
    /// There is no checkpoint.
    #[error("there is no checkpoint in {0} yet; run `tributary run --once` on it first")]
    NothingToBackUp(PathBuf),
    /// A directory is no backup.
    #[error("{path} is no whole backup: {reason}; name a directory that `tributary backup` made")]
    NoBackup {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The log is another one than the tables were made from.
    #[error(
        "the event log is not the one these tables were made from (it was recreated, or the configuration points \
         elsewhere); point back to it, or start with a new data directory"
    )]
    OtherLog,
    /// The tables are newer than the checkpoints.
    #[error(
        "the tables are newer than the checkpoints: they do not belong together; restore both from one backup, or \
         make them again with `tributary rebuild`"
    )]
    CommitsAhead,
    /// The rules of recurring revenue, or the account, are others than the ledger was made with.
    #[error(
        "the settings under [revenue] or merchant.account were changed after this ledger was made; change them back, \
         or make the ledger again with `tributary rebuild`"
    )]
    OtherRules,
    /// A rebuild was interrupted while it put its tables in place.
    #[error(
        "a rebuild was interrupted while it put the new tables in place; `tributary run` or `tributary rebuild` \
         finishes it"
    )]
    RebuildUnfinished,
    /// A rebuild would lose something.
    #[error("nothing was changed: {0}")]
    Incomplete(String),
    /// The data directory cannot be changed.
    #[error("cannot {action} {path}: {source}; mend it and try again")]
    Directory {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Rows could not be put together.
    #[error("rows could not be put together: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A read of our own tables failed.
    #[error("our tables could not be read: {0}")]
    Query(#[from] datafusion::error::DataFusionError),
    /// A bug.
    #[error("this is a bug in Tributary: {0}")]
    Internal(String),
}

/// How to run the engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where tables, checkpoints, models and the outbox live.
    pub home: Home,
    /// Where tables and checkpoints are made instead, beside those of the data directory. Histories never fold there.
    pub workshop: Option<Home>,
    /// Whether to go on in the place of an engine that holds the lock of the data directory and hangs.
    pub take_over: bool,
    /// Whose events those without an account are.
    pub account: AccountId,
    /// The rules of recurring revenue.
    pub rules: Rules,
    /// The pipelines.
    pub pipelines: Vec<PipelineFile>,
    /// Parameters by pipeline.
    pub parameters: BTreeMap<String, BTreeMap<String, String>>,
    /// Values of the settings that parameters refer to.
    pub settings: BTreeMap<String, String>,
    /// The merchant's zone.
    pub zone: Tz,
    /// How long the watermark waits for late events.
    pub allowed_lateness: Duration,
    /// The time between two checkpoints while there is no backlog.
    pub checkpoint_interval: Duration,
}

impl Options {
    /// Where tables and checkpoints are.
    fn state(&self) -> &Home {
        self.workshop.as_ref().unwrap_or(&self.home)
    }
}

/// What the engine has done since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Records read.
    pub records: u64,
    /// Records that could not be read as events.
    pub rejected: u64,
    /// Events whose id had been seen.
    pub duplicates: u64,
    /// Events too late to be applied.
    pub late: u64,
    /// Records of the log that are still to be read.
    pub lag: u64,
    /// Epochs.
    pub epochs: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Where the time went.
    pub stages: Stages,
}

/// Whether a pipeline follows its sources.
#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Works,
    /// Somebody wants its table to stand still.
    Paused,
    /// Why it, or one that it reads, stopped.
    Failed(String),
}

/// A pipeline at work, with what its epochs cost.
struct Running {
    pipeline: Pipeline,
    state: State,
    epochs: u64,
    last_epoch_micros: u64,
    epochs_micros: u64,
}

impl Running {
    fn new(pipeline: Pipeline) -> Self {
        Self { pipeline, state: State::Works, epochs: 0, last_epoch_micros: 0, epochs_micros: 0 }
    }

    fn failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }

    fn note_cost(&mut self, cost: Duration) {
        self.last_epoch_micros = u64::try_from(cost.as_micros()).unwrap_or(u64::MAX);
        self.epochs += 1;
        self.epochs_micros = self.epochs_micros.saturating_add(self.last_epoch_micros);
    }
}

/// The engine of one data directory.
pub struct Engine {
    options: Options,
    log: Arc<dyn EventLog>,
    log_identity: String,
    clock: Clock,
    checkpoints: Checkpoints,
    store: Store,
    commits: sink::delta::DeltaTable,
    ledger: Ledger,
    rates: SharedRates,
    pipelines: Vec<Running>,
    scorer: Scorer,
    alerts: Option<act::Handle>,
    pending_alerts: PendingAlerts,
    offsets: Vec<u64>,
    ends: Vec<u64>,
    watermark: Watermark,
    watermark_now: Arc<AtomicI64>,
    /// Up to when windows have closed.
    complete: Completeness,
    log_clock: RecordBatch,
    unknown: UnknownCounts,
    saved_state: BTreeMap<String, stream::checkpoint::BlobRef>,
    waiting_bytes: usize,
    progress: Progress,
    watch: watch::Sender<Progress>,
    requests: Requests,
    /// New versions of pipelines, while they are built.
    coming: Option<Coming>,
    /// Pipelines that the start rebuilt.
    rebuilt: BTreeSet<String>,
    /// The rows of `pipeline_status`.
    status: Cell,
    shown: watch::Sender<Shown>,
}

impl Engine {
    /// Follows the progress from elsewhere.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.watch.subscribe()
    }

    /// The tables as readers see them, newest rows included.
    ///
    /// # Errors
    /// When a view cannot be planned: a bug.
    pub fn user_tables(&self) -> Result<Vec<UserTable>, Error> {
        let finality = Finality {
            zone: self.options.zone,
            lateness_micros: micros(self.options.allowed_lateness),
            watermark: Arc::clone(&self.watermark_now),
        };
        let mut tables = self.store.user_tables();
        let contract = tables::get(status::STATUS)?;
        let rows = Arc::new(stream::CellTable::new(Arc::clone(&contract.schema), self.status.clone()));
        tables.push(store::user_table(&contract.name, &contract.description, &contract.schema, rows));
        with_is_final(tables, &finality)
    }

    /// Follows which tables are made anew, and which go, while the engine runs.
    #[must_use]
    pub fn shown(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// The rates of exchange, as they are now and will be.
    #[must_use]
    pub fn rates(&self) -> SharedRates {
        self.rates.clone()
    }

    /// What the readers of Stripe's objects did not know since the start, and how often, most frequent first.
    #[must_use]
    pub fn unknown(&self) -> Vec<(&str, u64)> {
        self.unknown.sorted()
    }

    /// The pipelines that have stopped.
    #[must_use]
    pub fn failed_pipelines(&self) -> Vec<&str> {
        self.pipelines.iter().filter(|running| running.failed()).map(|running| running.pipeline.name()).collect()
    }

    /// Reads the log to its present end, and makes everything durable.
    ///
    /// # Errors
    /// See [`Error`]; what was durable stays so.
    pub async fn drain(&mut self) -> Result<Progress, Error> {
        let drained = self.read_to_the_end().await;
        self.unless_superseded(drained).await
    }

    async fn read_to_the_end(&mut self) -> Result<Progress, Error> {
        let goal = self.log.end_offsets().await?;
        while self.offsets.iter().zip(&goal).any(|(offset, end)| offset < end) {
            self.epoch().await?;
            if self.is_checkpoint_due() {
                self.checkpoint().await?;
            }
        }
        self.ends = goal;
        self.note_completeness();
        self.advance_pipelines(BTreeMap::new()).await?;
        self.note_watermark();
        self.score_with_new_model()?;
        self.checkpoint().await?;
        Ok(self.progress)
    }

    /// Goes on until `stop` becomes true, then makes everything durable.
    ///
    /// # Errors
    /// See [`Error`]; what was durable stays so.
    pub async fn run(&mut self, stop: watch::Receiver<bool>) -> Result<(), Error> {
        let ended = self.go_on(stop).await;
        self.unless_superseded(ended).await
    }

    /// What another engine that has taken over did is no damage: it is told instead of what came of it here.
    async fn unless_superseded<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        match outcome {
            Err(error) => match self.checkpoints.check_generation().await {
                Err(superseded @ stream::checkpoint::Error::Superseded { .. }) => Err(superseded.into()),
                _ => Err(error),
            },
            done => done,
        }
    }

    async fn go_on(&mut self, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        let mut last = Instant::now();
        while !*stop.borrow_and_update() {
            self.attend().await?;
            let read = match self.epoch().await {
                Err(Error::Log(log::Error::Unavailable(reason))) => {
                    tracing::warn!(reason, "the event log is not available; trying again");
                    tokio::time::sleep(RETRY_LOG_AFTER).await;
                    self.checkpoints.check_generation().await?;
                    continue;
                }
                read => read?,
            };
            let backlog = read >= MAX_RECORDS_AN_EPOCH;
            let waited = last.elapsed() >= self.options.checkpoint_interval && !backlog;
            if self.is_checkpoint_due() || waited {
                self.score_with_new_model()?;
                self.checkpoint().await?;
                last = Instant::now();
            }
        }
        self.score_with_new_model()?;
        self.checkpoint().await?;
        if let Some(alerts) = self.alerts.take() {
            alerts.shutdown().await;
        }
        Ok(())
    }

    /// Stops the deliveries of a drained engine.
    pub async fn close(mut self) {
        if let Some(alerts) = self.alerts.take() {
            alerts.shutdown().await;
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        self.waiting_bytes >= CHECKPOINT_BYTES || self.store.hot_rows() >= CHECKPOINT_ROWS
    }

    /// Scores every customer again when the registry has another model than before.
    fn score_with_new_model(&mut self) -> Result<(), Error> {
        if self.scorer.refresh_model() {
            let delta = self.scorer.rescore()?;
            self.change(SCORES, &delta)?;
        }
        Ok(())
    }

    /// One epoch; how many records it read.
    async fn epoch(&mut self) -> Result<usize, Error> {
        let mut laps = Laps::start();
        let records = self.cut().await?;
        if records.is_empty() {
            return Ok(0);
        }
        self.progress.stages.cut += laps.lap();
        for record in &records {
            let offset = &mut self.offsets[record.partition as usize];
            *offset = (*offset).max(record.offset + 1);
        }
        self.progress.lag = self.ends.iter().zip(&self.offsets).map(|(end, at)| end.saturating_sub(*at)).sum();
        // Partitions of a backlog are read at their own pace: nothing is late because another one was ahead.
        let all = self.options.workshop.is_some();
        let live = !all && self.progress.lag == 0 && records.len() <= MAX_RECORDS_OF_A_LIVE_EPOCH;
        self.ledger.set_folding(live);
        let (decoded, delta, rates) = tokio::task::block_in_place(|| -> Result<_, Error> {
            let decoded = decode(&records, &self.options.account, &mut self.unknown)?;
            self.progress.stages.decode += laps.lap();
            let arrivals: Vec<Arrival<'_>> = records
                .iter()
                .zip(&decoded)
                .filter_map(|(record, decoded)| match decoded {
                    Decoded::Event(event) => Some(Arrival { event, appended_at: record.appended_at }),
                    Decoded::Rejected(_) => None,
                })
                .collect();
            let rates = rates::learn(&self.rates, &arrivals);
            let delta = if all { moments::apply(&mut self.ledger, arrivals)? } else { self.ledger.apply(&arrivals)? };
            Ok((decoded, delta, rates))
        })?;
        self.progress.stages.ledger += laps.lap();
        let mut changed = self.archive(&records, &decoded).await?;
        changed.extend(self.publish_ledger(delta, &rates).await?);
        self.progress.stages.tables += laps.lap();
        self.note_completeness();
        let features = self.advance_pipelines(changed).await?;
        self.progress.stages.pipelines += laps.lap();
        if let Some(delta) = features {
            self.follow_features(&delta).await?;
            self.progress.stages.score += laps.lap();
        }
        self.note_watermark();
        self.note_status()?;
        self.progress.records += records.len() as u64;
        self.progress.epochs += 1;
        self.watch.send_replace(self.progress);
        Ok(records.len())
    }

    /// Reads the next records of every partition; waits a little when there are none.
    async fn cut(&mut self) -> Result<Vec<Record>, Error> {
        self.ends = self.log.end_offsets().await?;
        let waiting: Vec<usize> = (0..self.offsets.len()).filter(|p| self.offsets[*p] < self.ends[*p]).collect();
        if waiting.is_empty() {
            // Every partition is at its end: wait on the one that had records last, and look again.
            tokio::time::sleep(LINGER).await;
            return Ok(Vec::new());
        }
        let share = MAX_RECORDS_AN_EPOCH.div_ceil(waiting.len());
        let reads = waiting
            .into_iter()
            .map(|p| self.log.read(u32::try_from(p).unwrap_or(u32::MAX), self.offsets[p], share, LINGER));
        Ok(futures::future::try_join_all(reads).await?.into_iter().flatten().collect())
    }

    /// Keeps every record, and returns the rows as changes of relations.
    async fn archive(&mut self, records: &[Record], decoded: &[Decoded]) -> Result<BTreeMap<String, RowDelta>, Error> {
        let mut archived = Vec::with_capacity(records.len());
        let mut rejected = Vec::new();
        for (record, decoded) in records.iter().zip(decoded) {
            match decoded {
                Decoded::Event(event) => {
                    if event.moves_clock() {
                        self.watermark.observe(record.partition, event.created, record.appended_at);
                    }
                    archived.push(rows::ArchivedEvent {
                        scope: &event.scope,
                        partition: record.partition,
                        offset: record.offset,
                        received_at: record.appended_at,
                        event_id: event.id.as_str(),
                        kind: &event.kind,
                        created: event.created,
                        body: std::str::from_utf8(&record.body)
                            .map_err(|_| Error::Internal("a record that was read is not UTF-8".to_owned()))?,
                    });
                }
                Decoded::Rejected(row) => rejected.push(row),
            }
        }
        let archived = rows::events_archive(&archived)?;
        self.progress.rejected += rejected.len() as u64;
        let rejected = rows::rejected_events(&rejected)?;
        let mut changed = BTreeMap::new();
        for (table, rows) in [("events_archive", archived), ("rejected_events", rejected)] {
            self.publish(table, rows, &mut changed).await?;
        }
        Ok(changed)
    }

    /// Adds rows to an appended table, and says so in `changed`.
    async fn publish(
        &mut self,
        table: &str,
        rows: RecordBatch,
        changed: &mut BTreeMap<String, RowDelta>,
    ) -> Result<(), Error> {
        if rows.num_rows() > 0 {
            self.append(table, rows.clone()).await?;
            let removed = RecordBatch::new_empty(rows.schema());
            changed.insert(table.to_owned(), RowDelta { removed, added: rows });
        }
        Ok(())
    }

    async fn append(&mut self, table: &str, rows: RecordBatch) -> Result<(), Error> {
        self.waiting_bytes += rows.get_array_memory_size();
        self.store.append(table, rows).await
    }

    /// Publishes what the ledger said, and returns it as changes of relations.
    async fn publish_ledger(
        &mut self,
        delta: Delta,
        rates: &[Change<FxRate>],
    ) -> Result<BTreeMap<String, RowDelta>, Error> {
        self.progress.duplicates += delta.duplicates;
        self.progress.late += delta.late.len() as u64;
        let mut changed = BTreeMap::new();
        for (table, rows) in [
            ("item_states", rows::item_states(&delta.item_states)?),
            ("mrr_ledger", rows::mrr_ledger(&delta.entries)?),
            ("outlook_ledger", rows::outlook_ledger(&delta.outlook)?),
            ("billing_events", rows::billing_events(&delta.billing_events)?),
            ("ledger_gaps", rows::ledger_gaps(&delta.gaps)?),
            ("late_events", rows::late_events(&delta.late)?),
            ("metered_usage", rows::metered_usage(&delta.metered_usage)?),
            ("recognised_revenue", rows::recognised_revenue(&delta.recognised)?),
        ] {
            self.publish(table, rows, &mut changed).await?;
        }
        let movements = keyed(&delta.movements, |rows| rows::mrr_movements(rows.iter().copied()))?;
        let scheduled = keyed(&delta.scheduled, |rows| rows::scheduled_mrr(rows.iter().copied()))?;
        let products = keyed(&delta.products, rows::products)?;
        let prices = keyed(&delta.prices, rows::prices)?;
        let coupons = keyed(&delta.coupons, rows::coupons)?;
        let rates = keyed(rates, rows::fx_rates)?;
        let clock: Vec<(Scope, EventTime, EventTime)> = self.ledger.clock().collect();
        let clock = rows::log_clock(&clock)?;
        let clock_change = RowDelta { removed: self.log_clock.clone(), added: clock.clone() };
        for (table, delta) in [
            ("mrr_movements", movements),
            ("scheduled_mrr", scheduled),
            ("products", products),
            ("prices", prices),
            ("coupons", coupons),
            (rates::FX_RATES, rates),
            (CLOCK, clock_change),
        ] {
            if !delta.is_empty() && delta.removed != delta.added {
                self.change(table, &delta)?;
                changed.insert(table.to_owned(), delta);
            }
        }
        self.log_clock = clock;
        Ok(changed)
    }

    fn change(&mut self, table: &str, delta: &RowDelta) -> Result<(), Error> {
        self.waiting_bytes += delta.removed.get_array_memory_size() + delta.added.get_array_memory_size();
        self.store.change(table, delta)
    }

    /// Brings every pipeline up to date that reads something that changed, whose windows may close, or that is due on its
    /// schedule, in dependency order; what changed in the features. A pipeline that fails stops alone, with those that
    /// read it.
    async fn advance_pipelines(&mut self, mut changed: BTreeMap<String, RowDelta>) -> Result<Option<RowDelta>, Error> {
        let end = self.end();
        for i in 0..self.pipelines.len() {
            let running = &mut self.pipelines[i];
            if running.state != State::Works || !running.pipeline.has_work(&changed, &end) {
                continue;
            }
            let name = running.pipeline.name().to_owned();
            let begin = Instant::now();
            let advanced = if running.pipeline.is_snapshot() {
                let sources = self.store.providers(running.pipeline.sources());
                running.pipeline.run(&end, &sources).await
            } else {
                running.pipeline.advance(&changed, &end).await
            };
            running.note_cost(begin.elapsed());
            match advanced {
                Ok(delta) if delta.is_empty() => {}
                Ok(delta) => {
                    self.change(&name, &delta)?;
                    changed.insert(name, delta);
                }
                Err(error) => self.fail(&name, &error),
            }
        }
        if let Some(coming) = &mut self.coming {
            coming.note(&changed, &end);
        }
        if let Some(delta) = changed.get(EXPANSIONS) {
            self.pending_alerts.add(delta)?;
        }
        Ok(changed.remove(FEATURES))
    }

    /// Scores the customers whose features changed.
    async fn follow_features(&mut self, delta: &RowDelta) -> Result<(), Error> {
        let orphans = self.scorer.orphans(delta)?;
        let older = if orphans.is_empty() { None } else { Some(self.features_of(orphans).await?) };
        let scores = self.scorer.follow(delta, older.as_ref())?;
        self.change(SCORES, &scores)
    }

    /// How the newest epoch ended.
    fn end(&self) -> EpochEnd {
        let small = BTreeMap::from([(CLOCK.to_owned(), self.log_clock.clone())]);
        let clock = self.watermark.at(&self.offsets, &self.ends, 0).map(|at| (at.micros(), self.options.zone));
        EpochEnd { small, complete: self.complete.clone(), clock }
    }

    /// Stops a pipeline and those that read it; they are rebuilt at the next start, or when they are resumed.
    fn fail(&mut self, name: &str, error: &stream::Error) {
        tracing::error!(
            pipeline = name, %error,
            "a pipeline stopped; `tributary resume` rebuilds it, and so does the next start of the engine"
        );
        let mut stopped = vec![name.to_owned()];
        for running in &mut self.pipelines {
            // What reads only a table that stands still is not behind.
            if running.state == State::Paused && running.pipeline.name() != name {
                continue;
            }
            let source = running.pipeline.sources().iter().find(|source| stopped.contains(*source));
            let why = match source {
                _ if running.pipeline.name() == name => error.to_string(),
                Some(source) => format!("{source}, which it reads, stopped"),
                None => continue,
            };
            stopped.push(running.pipeline.name().to_owned());
            if running.state != State::Paused {
                running.state = State::Failed(why);
            }
        }
    }

    /// All rows of some customers' features as readers see them.
    async fn features_of(&self, customers: Vec<String>) -> Result<RecordBatch, Error> {
        use datafusion::prelude::{col, lit};
        let table = self.store.get(FEATURES).ok_or_else(|| Error::Internal(format!("no table {FEATURES}")))?;
        let customers = customers.into_iter().map(lit).collect();
        let rows = SessionContext::new()
            .read_table(Arc::clone(&table.live) as _)?
            .filter(col("customer_id").in_list(customers, false))?;
        collect_one(rows).await
    }

    /// The watermark by what has been read; it never goes back. Readers see it once the rows that it is about are there.
    fn newest_watermark(&self) -> i64 {
        let newest = self.watermark.at(&self.offsets, &self.ends, micros(self.options.allowed_lateness));
        newest.map_or(i64::MIN, EventTime::micros).max(self.watermark_now.load(Ordering::Relaxed))
    }

    fn note_watermark(&self) {
        self.watermark_now.fetch_max(self.newest_watermark(), Ordering::Relaxed);
    }

    /// Up to when the log of every account and mode is complete, as `is_final` will say it.
    fn note_completeness(&mut self) {
        let (watermark, lateness) = (self.newest_watermark(), micros(self.options.allowed_lateness));
        for (scope, _, last) in self.ledger.clock() {
            let complete = watermark::complete(watermark, last.micros(), lateness);
            self.complete.advance(scope.account.as_str(), scope.livemode, complete);
        }
    }
}

/// Changes of a keyed table as rows.
fn keyed<T>(
    changes: &[Change<T>],
    rows: impl Fn(&[&T]) -> Result<RecordBatch, tables::Error>,
) -> Result<RowDelta, Error> {
    let before: Vec<&T> = changes.iter().filter_map(|change| change.before.as_ref()).collect();
    let after: Vec<&T> = changes.iter().filter_map(|change| change.after.as_ref()).collect();
    Ok(RowDelta { removed: rows(&before)?, added: rows(&after)? })
}

/// A duration as tables count time.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A query's rows as one batch.
async fn collect_one(rows: datafusion::dataframe::DataFrame) -> Result<RecordBatch, Error> {
    let schema = Arc::clone(rows.schema().inner());
    Ok(arrow::compute::concat_batches(&schema, &rows.collect().await?)?)
}

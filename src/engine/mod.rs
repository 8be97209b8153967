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
mod blobs;
mod captured;
mod checkpoint;
mod decode;
mod epoch;
mod history;
mod late;
mod memory;
mod moments;
mod pipelines;
mod plan;
mod rates;
mod readers;
mod reading;
mod rebuild;
mod recovery;
mod requests;
mod restore;
mod saved;
mod scheduled;
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
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use arrow::array::RecordBatch;
use chrono_tz::Tz;
use tokio::{sync::watch, time::Instant};

pub use self::{
    alerts::EXPANSIONS,
    backtest::{Backtested, By, backtest},
    backup::{Backup, backup, restore},
    history::{Question, history_tables},
    plan::{Standing, Step, plan},
    rates::committed_rates,
    readers::{Shown, committed_tables},
    reading::MAX_RECORDS_AN_EPOCH,
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
    checkpoint::UnderWay,
    memory::Memory,
    pipelines::{Running, State},
    readers::{Finality, with_is_final},
    reading::Ahead,
    requests::Requests,
    saved::SavedState,
    scheduled::Runs,
    scoring::{SCORES, Scorer},
    stages::Laps,
    store::Store,
    watermark::Watermark,
};
use crate::{
    act,
    ledger::{Ledger, Rules},
    log::{self, EventLog},
    serve::UserTable,
    sink,
    storage::{self, Home},
    stream::{self, Cell, checkpoint::Checkpoints, conversion::SharedRates, epoch::Completeness, file::PipelineFile},
    stripe::{
        counts::UnknownCounts,
        ids::{AccountId, EventId},
    },
    tables,
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

/// How long a log that is away is left alone.
const RETRY_LOG_AFTER: Duration = Duration::from_secs(1);

/// Memory of the rows since the last checkpoint at which the next one is taken, whatever the time.
const CHECKPOINT_BYTES: usize = 256 * 1024 * 1024;

/// New rows of one table at which a checkpoint is taken: what a query can overlay quickly. As many more may come while it
/// is applied.
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
    /// The log's end cannot be reached in the memory that there is.
    #[error(
        "{used_mib} MiB of memory are in use and the budget is {budget_mib} MiB, so the log is not read any further; \
         what was read is in the tables. Raise engine.memory_mib, or give the machine more"
    )]
    OutOfMemory {
        /// What the process uses.
        used_mib: u64,
        /// What it may use.
        budget_mib: u64,
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
    /// Events that are not read: they become rows of `rejected_events`.
    pub skip: Arc<BTreeSet<EventId>>,
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
    /// Bytes of the process at which reading waits; three quarters of the machine's, or the container's, if not set.
    pub memory: Option<u64>,
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

/// The engine of one data directory.
pub struct Engine {
    options: Options,
    log: Arc<dyn EventLog>,
    log_identity: String,
    clock: Clock,
    checkpoints: Arc<Checkpoints>,
    store: Store,
    commits: sink::delta::DeltaTable,
    ledger: Ledger,
    rates: SharedRates,
    pipelines: Vec<Running>,
    scorer: Scorer,
    alerts: Option<act::Handle>,
    pending_alerts: PendingAlerts,
    /// The last checkpoint, while it is made durable.
    under_way: Option<UnderWay>,
    offsets: Vec<u64>,
    ends: Vec<u64>,
    /// The next records, while there is a backlog.
    ahead: Option<Ahead>,
    watermark: Watermark,
    watermark_now: Arc<AtomicI64>,
    /// Up to when windows have closed.
    complete: Completeness,
    /// When the newest record that was read came into the log.
    newest_append: EventTime,
    log_clock: RecordBatch,
    unknown: UnknownCounts,
    memory: Memory,
    /// Whether what is read is history that is brought in: nothing is late, nobody is alerted.
    backfills: bool,
    saved_state: SavedState,
    progress: Progress,
    watch: watch::Sender<Progress>,
    requests: Requests,
    /// Queries that run on a schedule, while they run.
    runs: Runs,
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

    /// Reads the log to its present end as history that is brought in: nothing in it is late, however far behind its
    /// neighbours it is, and nobody is alerted of it, however young. Makes everything durable.
    ///
    /// # Errors
    /// See [`Error`]; what was durable stays so.
    pub async fn backfill(&mut self) -> Result<Progress, Error> {
        self.backfills = true;
        let drained = self.drain().await?;
        // The next start offers what the newest checkpoint changed to the alerts: this one changes nothing.
        let decided = self.decide_checkpoint().await;
        self.unless_superseded(decided).await?;
        Ok(drained)
    }

    async fn read_to_the_end(&mut self) -> Result<Progress, Error> {
        let goal = self.log.end_offsets().await?;
        while self.offsets.iter().zip(&goal).any(|(offset, end)| offset < end) {
            self.wait_for_room().await?;
            self.epoch().await?;
            self.look_after_checkpoint().await?;
            if self.is_checkpoint_due() {
                self.begin_checkpoint().await?;
            }
        }
        // No epoch need have looked. A partition with more by now holds the watermark back as ever.
        self.ends.iter_mut().zip(&goal).for_each(|(end, goal)| *end = (*end).max(*goal));
        self.note_completeness();
        self.finish_runs().await?;
        self.note_watermark();
        self.score_with_new_model().await?;
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
            self.look_after_checkpoint().await?;
            self.attend().await?;
            if self.is_out_of_memory().await? {
                self.rest().await;
                continue;
            }
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
            // One that only time asks for keeps no epoch waiting for the last one.
            if self.is_checkpoint_due() || (waited && !self.is_checkpoint_under_way()) {
                self.score_with_new_model().await?;
                self.begin_checkpoint().await?;
                last = Instant::now();
            }
        }
        self.score_with_new_model().await?;
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
        self.store.new_bytes() >= CHECKPOINT_BYTES || self.store.new_rows() >= CHECKPOINT_ROWS
    }
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

//! Making everything again from what was kept: the log, and the archive where the log no longer reaches back.
//!
//! The engine itself does it, in a workshop beside the tables and with histories that never fold: so nothing is late,
//! and any order of arrival ends in one ledger. Pipelines that emit on close or run on a schedule are built last, from
//! the tables of the end, as `apply` builds new ones: so no change comes too late for them either. What was made takes
//! the place of the old in one step that survives a crash ([`super::swap`]). The log, the models and the outbox stay as
//! they are, and nobody is alerted.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Decimal128Type, Int64Type},
};
use datafusion::{catalog::TableProvider, common::DataFusionError, prelude::SessionContext};
use futures::TryStreamExt;

use super::{
    Engine, Error, Options, Progress,
    archived_log::{Archive, ArchivedLog},
    late::LATE_CHANGES,
    recovery::check_log,
    swap,
};
use crate::{
    log::EventLog,
    money::Amount,
    sink::delta,
    storage::{Home, Location},
    stream::{
        checkpoint::{self, Manifest},
        file::PipelineFile,
        graph,
    },
    time::Clock,
};

/// What is compared of the ledger.
const COMPARED: [&str; 9] = [
    "account",
    "livemode",
    "customer_id",
    "subscription_id",
    "subscription_item_id",
    "price_id",
    "currency",
    "event_time",
    "mrr_delta",
];

/// What a rebuild did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rebuilt {
    /// Records read, and what became of them.
    pub progress: Progress,
    /// Partitions of the log whose beginning came from the archive.
    pub from_archive: usize,
    /// Rows of `late_events` before: events that had not been applied.
    pub late_before: i64,
    /// Rows of `late_changes` before: changes of windows that had closed, which are in these windows now.
    pub late_changes_before: i64,
    /// What could not be read of the old tables and checkpoints.
    pub unreadable: Vec<String>,
    /// Rows of `mrr_ledger` before and now.
    pub ledger_rows: (i64, i64),
    /// Entries of the current ledger that differ.
    pub entries_changed: i64,
    /// Customers whose current ledger differs.
    pub customers_changed: i64,
    /// The last MRR of every currency, before and now.
    pub currencies: Vec<Currency>,
}

/// The last MRR of one currency.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Currency {
    /// The account.
    pub account: String,
    /// Live data, or test data.
    pub livemode: bool,
    /// The currency.
    pub currency: String,
    /// Before.
    pub before: Amount,
    /// Now.
    pub after: Amount,
}

/// Makes tables and checkpoints of a data directory again, and puts them in the place of the old ones. No engine may
/// run on it meanwhile. Killed at any point, the next start finishes it or goes on with the old ones.
///
/// # Errors
/// See [`Error`]. Nothing is changed when the log and the archive together lack records, or a pipeline fails.
pub async fn rebuild(options: Options, log: Arc<dyn EventLog>, clock: Clock, nonce: String) -> Result<Rebuilt, Error> {
    let home = options.home.clone();
    let instead = "name another prefix: an engine makes everything there again from the log";
    let data_dir = home.only_local("`tributary rebuild`", instead)?;
    // Held to the end: no engine starts on what is being replaced.
    let lock = checkpoint::lock(&home.engine_dir())?;
    swap::settle(data_dir)?;
    let mut rebuilt = Rebuilt::default();
    let manifest = match checkpoint::peek(home.checkpoints().as_ref()).await {
        Ok(manifest) => manifest,
        Err(error @ (checkpoint::Error::Damaged { .. } | checkpoint::Error::Format { .. })) => {
            rebuilt.unreadable.push(error.to_string());
            None
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(manifest) = &manifest {
        check_log(manifest, &log.identity().await?, log.partitions().await? as usize)?;
    }
    let mut old = Old::open(&home.tables(), &mut rebuilt.unreadable).await;
    old.leave_out_unreadable(&mut rebuilt.unreadable).await;
    let archived = manifest.as_ref().map(|manifest| manifest.offsets.as_slice());
    let whole = ArchivedLog::open(log, old.archive(), archived).await?;
    rebuilt.from_archive = whole.shortened();

    let workshop = Home::directory(swap::workshop(data_dir))?;
    let all = options.pipelines.clone();
    let at_once = all.iter().filter(|file| !follows_time(file, &all)).cloned().collect();
    let options = Options { workshop: Some(workshop.clone()), pipelines: at_once, ..options };
    let mut engine = Engine::open(options, Arc::new(whole), None, clock, nonce).await?;
    rebuilt.progress = engine.drain().await?;
    if let [failed, ..] = engine.failed_pipelines()[..] {
        return Err(Error::Incomplete(format!("the pipeline {failed} failed; mend it and rebuild again")));
    }
    engine.add(all).await?;
    // A start offers what the newest checkpoint changed to the alerts: this one changes nothing.
    engine.decide_checkpoint().await?;
    engine.close().await;
    let new = Old::open(&workshop.tables(), &mut Vec::new()).await;
    check_nothing_lost(&old, &new, manifest.as_ref()).await?;
    compare(&old, &new, &mut rebuilt).await?;
    // An engine that was told to take over goes on with the old tables.
    lock.check()?;
    swap::swap(data_dir)?;
    Ok(rebuilt)
}

/// Whether time alone can change the table of a pipeline, or one that it reads.
fn follows_time(file: &PipelineFile, files: &[PipelineFile]) -> bool {
    graph::upstream(files, &file.metadata.name).iter().any(|file| file.metadata.follows_time())
}

/// Tables of one making, where they can be read.
struct Old {
    events: Option<Arc<dyn TableProvider>>,
    rejected: Option<Arc<dyn TableProvider>>,
    late: Option<Arc<dyn TableProvider>>,
    late_changes: Option<Arc<dyn TableProvider>>,
    ledger: Option<Arc<dyn TableProvider>>,
}

impl Old {
    async fn open(root: &Location, unreadable: &mut Vec<String>) -> Self {
        let mut read = async |name| match delta::read_whole(root, name).await {
            Ok(table) => table,
            Err(error) => {
                unreadable.push(error.to_string());
                None
            }
        };
        Self {
            events: read("events_archive").await,
            rejected: read("rejected_events").await,
            late: read("late_events").await,
            late_changes: read(LATE_CHANGES).await,
            ledger: read("mrr_ledger").await,
        }
    }

    /// Forgets tables with damaged content: nothing can be compared with them.
    async fn leave_out_unreadable(&mut self, unreadable: &mut Vec<String>) {
        const PLACE: [&str; 2] = ["partition", "offset"];
        for (name, table, columns) in [
            ("events_archive", &mut self.events, &PLACE[..]),
            ("rejected_events", &mut self.rejected, &PLACE[..]),
            ("late_events", &mut self.late, &["account"][..]),
            (LATE_CHANGES, &mut self.late_changes, &["account"][..]),
            ("mrr_ledger", &mut self.ledger, &COMPARED[..]),
        ] {
            let Some(provider) = table else { continue };
            let read: Result<(), DataFusionError> = async {
                let rows = SessionContext::new().read_table(Arc::clone(provider))?.select_columns(columns)?;
                let mut rows = rows.execute_stream().await?;
                while rows.try_next().await?.is_some() {}
                Ok(())
            }
            .await;
            if let Err(error) = read {
                unreadable.push(format!("table {name}: {error}"));
                *table = None;
            }
        }
    }

    fn archive(&self) -> Option<Archive> {
        let (events, rejected) = (self.events.as_ref()?, self.rejected.as_ref()?);
        Some(Archive { events: Arc::clone(events), rejected: Arc::clone(rejected) })
    }

    fn context(&self, other: &Self) -> Result<SessionContext, Error> {
        let context = SessionContext::new();
        for (making, tables) in [("before", self), ("after", other)] {
            for (name, table) in [
                ("events", &tables.events),
                ("rejected", &tables.rejected),
                ("late", &tables.late),
                (LATE_CHANGES, &tables.late_changes),
                ("ledger", &tables.ledger),
            ] {
                if let Some(table) = table {
                    context.register_table(format!("{making}_{name}"), Arc::clone(table))?;
                }
            }
        }
        Ok(context)
    }
}

/// Every record that the old tables had must be in the new ones: read or rejected.
async fn check_nothing_lost(old: &Old, new: &Old, manifest: Option<&Manifest>) -> Result<(), Error> {
    if old.archive().is_none() {
        return Ok(());
    }
    let context = old.context(new)?;
    let all = |making: &str| {
        format!(
            "SELECT partition, \"offset\" FROM {making}_events UNION ALL SELECT partition, \"offset\" FROM \
             {making}_rejected"
        )
    };
    let missing = format!(
        "SELECT count(*) FROM ({}) AS b WHERE NOT EXISTS (SELECT 1 FROM ({}) AS a WHERE a.partition = b.partition AND \
         a.\"offset\" = b.\"offset\")",
        all("before"),
        all("after")
    );
    match number(&context, &missing).await? {
        0 => Ok(()),
        missing => Err(Error::Incomplete(format!(
            "{missing} archived records are not in the log (its checkpoints end at {:?}); restore the log or the \
             tables from a backup",
            manifest.map(|manifest| &manifest.offsets)
        ))),
    }
}

/// What differs in the current ledger.
async fn compare(old: &Old, new: &Old, rebuilt: &mut Rebuilt) -> Result<(), Error> {
    let context = old.context(new)?;
    if old.late.is_some() {
        rebuilt.late_before = number(&context, "SELECT count(*) FROM before_late").await?;
    }
    if old.late_changes.is_some() {
        rebuilt.late_changes_before = number(&context, "SELECT count(*) FROM before_late_changes").await?;
    }
    rebuilt.ledger_rows.1 = number(&context, "SELECT count(*) FROM after_ledger").await?;
    if old.ledger.is_none() {
        return Ok(());
    }
    rebuilt.ledger_rows.0 = number(&context, "SELECT count(*) FROM before_ledger").await?;
    let place = COMPARED[..COMPARED.len() - 1].join(", ");
    let net = |making: &str| {
        format!(
            "SELECT {place}, SUM(mrr_delta) AS mrr FROM {making}_ledger GROUP BY {place} HAVING SUM(mrr_delta) <> 0"
        )
    };
    let differs = |counted: &str| {
        format!(
            "SELECT count({counted}) FROM (SELECT account, livemode, customer_id FROM (SELECT * FROM ({}) AS b UNION ALL \
             SELECT {place}, -mrr FROM ({}) AS a) AS both GROUP BY {place} HAVING SUM(mrr) <> 0) AS differing",
            net("before"),
            net("after")
        )
    };
    rebuilt.entries_changed = number(&context, &differs("*")).await?;
    let customers = differs("DISTINCT concat(account, '|', CAST(livemode AS TEXT), '|', customer_id)");
    rebuilt.customers_changed = number(&context, &customers).await?;
    let sums = "SELECT account, livemode, currency, \
         SUM(CASE WHEN now THEN 0 ELSE mrr_delta END) AS before, SUM(CASE WHEN now THEN mrr_delta ELSE 0 END) AS after \
         FROM (SELECT account, livemode, currency, mrr_delta, FALSE AS now FROM before_ledger UNION ALL \
         SELECT account, livemode, currency, mrr_delta, TRUE AS now FROM after_ledger) AS both \
         GROUP BY account, livemode, currency ORDER BY account, livemode DESC, currency";
    for batch in context.sql(sums).await?.collect().await? {
        currencies(&batch, &mut rebuilt.currencies)?;
    }
    Ok(())
}

fn currencies(batch: &RecordBatch, found: &mut Vec<Currency>) -> Result<(), Error> {
    use arrow::{compute::cast, datatypes::DataType};
    let text = |index: usize| cast(batch.column(index), &DataType::Utf8);
    let amount = |index: usize| cast(batch.column(index), &DataType::Decimal128(38, 6));
    let (accounts, currencies, before, after) = (text(0)?, text(2)?, amount(3)?, amount(4)?);
    for row in 0..batch.num_rows() {
        let amount = |column: &dyn Array| {
            let column = column.as_primitive::<Decimal128Type>();
            if column.is_valid(row) { Amount::from_micros(column.value(row)) } else { Amount::ZERO }
        };
        found.push(Currency {
            account: accounts.as_string::<i32>().value(row).to_owned(),
            livemode: batch.column(1).as_boolean().value(row),
            currency: currencies.as_string::<i32>().value(row).to_owned(),
            before: amount(&before),
            after: amount(&after),
        });
    }
    Ok(())
}

async fn number(context: &SessionContext, sql: &str) -> Result<i64, Error> {
    let rows = context.sql(sql).await?.collect().await?;
    let found = rows.iter().find(|batch| batch.num_rows() > 0);
    Ok(found.map_or(0, |batch| batch.column(0).as_primitive::<Int64Type>().value(0)))
}

//! `tributary demo`: everything at once, on a made-up account and the embedded log.

use std::{
    fs, io,
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::NaiveDate;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use miette::IntoDiagnostic;
use tokio::sync::{mpsc, watch};

use super::{
    Outcome, Place, ingest,
    output::{self, Output},
    rim, run, train,
};
use crate::{
    config::Config,
    log::{self, EventLog},
    serve::Catalog,
    simulate::{Options, simulate},
    storage::TABLE_DIR,
    stripe::admission::AdmissionCounts,
};

/// Events handed from the simulator to the log at once.
const EVENTS_A_BATCH: usize = 1_000;

/// Batches that wait for the log; the simulator waits beyond that.
const WAITING_BATCHES: usize = 8;

#[derive(Args)]
pub(super) struct Arguments {
    /// Directory for the demo's data; it must not exist, or be empty
    #[arg(long, default_value = "tributary-demo")]
    data_dir: PathBuf,
    /// Customers that sign up over the time
    #[arg(long, default_value_t = 1500)]
    customers: u32,
    /// Calendar months
    #[arg(long, default_value_t = 18)]
    months: u32,
    /// The same seed gives the same account
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Exit instead of serving PostgreSQL
    #[arg(long)]
    once: bool,
}

/// The bridge by month: the first opening, the last closing, and the sum of every movement between.
const BRIDGE: &str = "\
    SELECT to_char(day, '%Y-%m') AS month, currency, \
           CAST(first_value(opening ORDER BY day) AS DECIMAL(20, 2)) AS opening, \
           CAST(sum(new) AS DECIMAL(20, 2)) AS new, \
           CAST(sum(reactivation) AS DECIMAL(20, 2)) AS reactivation, \
           CAST(sum(expansion) AS DECIMAL(20, 2)) AS expansion, \
           CAST(sum(contraction) AS DECIMAL(20, 2)) AS contraction, \
           CAST(sum(churn) AS DECIMAL(20, 2)) AS churn, \
           CAST(last_value(closing ORDER BY day) AS DECIMAL(20, 2)) AS closing, \
           last_value(customers ORDER BY day) AS customers \
    FROM mrr_daily WHERE currency = 'usd' GROUP BY 1, 2 ORDER BY 2, 1";

const EXPANSIONS: &str = "\
    SELECT occurred_at, customer_id, currency, CAST(mrr_before AS DECIMAL(20, 2)) AS mrr_before, \
           CAST(mrr_after AS DECIMAL(20, 2)) AS mrr_after, CAST(pct_change AS DECIMAL(20, 1)) AS pct_change, cause \
    FROM expansion_events ORDER BY occurred_at DESC, movement_id LIMIT 8";

const AT_RISK: &str = "\
    SELECT customer_id, as_of, round(100 * probability, 1) AS percent, band, array_to_string(reasons, '; ') AS reasons \
    FROM customer_scores ORDER BY probability DESC, customer_id LIMIT 10";

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    refuse_used(&arguments.data_dir)?;
    let place = Place { data_dir: arguments.data_dir.clone(), config: None };
    let mut config = place.config()?;
    // Nobody is told of customers who do not exist.
    config.alerts.clear();
    // Nor do they belong among the merchant's own tables.
    config.storage.url = None;
    let log = log::open(&log::Options::Embedded { dir: place.data_dir.join("log"), partitions: config.log.partitions })
        .await
        .map_err(rim::report)?;
    let options = run::engine_options(&config, place.home(&config).await?)?;
    let mut engine = run::open_engine(&config, options, Arc::clone(&log)).await?;
    let catalog = run::catalog(&config, engine.user_tables().map_err(rim::engine_report)?, engine.rates()).await?;
    let postgres = if arguments.once { None } else { Some(run::serve(&config, &place, &engine).await?) };

    let stopped = rim::stop_signal()?;
    let (stop, stop_engine) = watch::channel(false);
    let progress = engine.progress();
    // The engine has a thread of its own: its epochs are long stretches of computing.
    let runtime = tokio::runtime::Handle::current();
    let running = tokio::task::spawn_blocking(move || runtime.block_on(engine.run(stop_engine)));

    let bar = spinner();
    let appended = stream(&arguments, &config, log.as_ref(), &bar).await?;
    let read = async {
        let mut progress = progress;
        progress.wait_for(|progress| progress.records >= appended).await.map(|_| ()).into_diagnostic()
    };
    tokio::select! {
        read = read => read?,
        () = ended(&running) => {}
    }
    if running.is_finished() {
        return Err(match running.await.into_diagnostic()? {
            Ok(()) => miette::miette!("the engine stopped before the end of the log"),
            Err(error) => rim::engine_report(error),
        });
    }
    bar.finish_and_clear();
    eprintln!("{appended} events streamed through the log and the engine");

    let trained = train::train(&config, &place.data_dir, &catalog).await;
    if let Ok(manifest) = &trained {
        scored(&catalog, &manifest.version).await?;
    }
    show(&catalog, "MRR bridge by month, USD", BRIDGE).await?;
    show(&catalog, "Latest expansions", EXPANSIONS).await?;
    match trained {
        Ok(manifest) => {
            show(&catalog, "Customers most at risk of churn within 30 days", AT_RISK).await?;
            output::say(format_args!("\n{}", train::described(&manifest)))?;
        }
        Err(report) => eprintln!("\nNo scores: {report}"),
    }
    output::say(format_args!("\nDelta tables: {}", place.data_dir.join(TABLE_DIR).display()))?;

    if let Some(postgres) = postgres {
        eprintln!("serving; Ctrl-C ends it");
        let mut stopped = stopped;
        // The sender lives until the signal comes.
        let _ = stopped.wait_for(|stop| *stop).await;
        postgres.shutdown().await;
    }
    stop.send_replace(true);
    running.await.into_diagnostic()?.map_err(rim::engine_report)?;
    Ok(Outcome::Done)
}

fn refuse_used(dir: &Path) -> miette::Result<()> {
    let used = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).into_diagnostic(),
    };
    if used {
        miette::bail!(
            help = "remove it, or name another one with --data-dir",
            "{} is not empty; the demo begins with an empty directory",
            dir.display()
        );
    }
    Ok(())
}

/// Simulates the account and appends its events as they come; how many there were.
async fn stream(arguments: &Arguments, config: &Config, log: &dyn EventLog, bar: &ProgressBar) -> miette::Result<u64> {
    let (sender, mut receiver) = mpsc::channel::<Vec<Vec<u8>>>(WAITING_BATCHES);
    let options = Options {
        customers: arguments.customers,
        months: arguments.months,
        seed: arguments.seed,
        start: NaiveDate::from_ymd_opt(2025, 1, 1).unwrap_or_default(),
        ..Options::default()
    };
    let simulation = tokio::task::spawn_blocking(move || {
        let mut batch = Vec::with_capacity(EVENTS_A_BATCH);
        let gone = || io::Error::other("the log is gone");
        simulate(&options, &mut |event| {
            batch.push(event.to_vec());
            if batch.len() == EVENTS_A_BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(EVENTS_A_BATCH));
                sender.blocking_send(full).map_err(|_| gone())?;
            }
            Ok(())
        })?;
        sender.blocking_send(batch).map_err(|_| gone())
    });
    let admission = rim::admission(config)?;
    let mut counts = AdmissionCounts::default();
    let mut appended = 0;
    while let Some(bodies) = receiver.recv().await {
        let records = tokio::task::block_in_place(|| ingest::admit(&admission, &bodies, &mut counts))?;
        appended += records.len() as u64;
        log.append(records).await.map_err(rim::report)?;
        bar.set_message(format!("{appended} events"));
    }
    simulation.await.into_diagnostic()?.into_diagnostic()?;
    Ok(appended)
}

/// Returns when the engine's task has ended.
async fn ended<T>(task: &tokio::task::JoinHandle<T>) {
    while !task.is_finished() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the engine has scored with a model.
async fn scored(catalog: &Catalog, version: &str) -> miette::Result<()> {
    let sql = format!("SELECT model_version FROM customer_scores WHERE model_version = '{version}' LIMIT 1");
    for _ in 0..600 {
        let rows = catalog.sql(&sql).await.map_err(rim::report)?.collect().await.into_diagnostic()?;
        if rows.iter().any(|batch| batch.num_rows() > 0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    miette::bail!("the engine did not score with model {version}; its log says why")
}

async fn show(catalog: &Catalog, title: &str, sql: &str) -> miette::Result<()> {
    let rows = catalog.sql(sql).await.map_err(rim::report)?;
    let schema = Arc::clone(rows.schema().inner());
    let batches = rows.collect().await.into_diagnostic()?;
    output::say(format_args!("\n{title}"))?;
    output::print(&schema, &batches, Output::Table)
}

fn spinner() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    match ProgressStyle::with_template("{spinner} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

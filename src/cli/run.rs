//! `tributary run`

use std::{env, sync::Arc, time::Duration};

use clap::Args;

use super::{Outcome, Place, gateway, pipelines, rim};
use crate::{
    act,
    config::{Config, POSTGRES_PASSWORD},
    engine::{EXPANSIONS, Engine, Options, Progress, Shown},
    log::{self, EventLog},
    serve::{Catalog, Password, Secret, UserTable, postgres, reporting, views},
    storage::Home,
    stream::{
        self,
        conversion::{SharedRates, to_currency},
    },
};

/// How many names of things not known are shown.
const UNKNOWN_SHOWN: usize = 10;

#[derive(Args)]
pub(super) struct Arguments {
    /// Read the log to its end, commit and exit
    #[arg(long)]
    once: bool,
    /// With --once: what is read is history that is brought in. Nothing in it is late, and nobody is alerted of it
    #[arg(long, requires = "once")]
    backfill: bool,
    /// Go on in the place of an engine that holds the data directory and hangs, so that it cannot be stopped: where a
    /// process is frozen, or a mount does not answer. When it wakes it writes and sends nothing more, and ends. With a
    /// bucket under storage.url every start takes over like this
    #[arg(long)]
    take_over: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let config = arguments.place.config()?;
    let log = log::open(&config.log(&arguments.place.data_dir).map_err(rim::report)?).await.map_err(rim::report)?;
    let home = arguments.place.home(&config).await?;
    let options = Options { take_over: arguments.take_over, ..engine_options(&config, home)? };
    let mut engine = open_engine(&config, options, Arc::clone(&log)).await?;
    if arguments.once {
        let drained = if arguments.backfill { engine.backfill().await } else { engine.drain().await };
        let progress = drained.map_err(rim::engine_report)?;
        eprintln!("{}", said(&progress));
        eprintln!("{}", progress.stages);
        for (name, times) in engine.unknown().into_iter().take(UNKNOWN_SHOWN) {
            eprintln!("  not known: {times} × {name}");
        }
        let failed = engine.failed_pipelines().join(", ");
        engine.close().await;
        if !failed.is_empty() {
            miette::bail!(
                help = "mend them and run again: they are rebuilt, and all other tables are up to date",
                "these pipelines failed and their tables are behind: {failed}"
            );
        }
        return Ok(Outcome::Done);
    }
    let stop = rim::stop_signal()?;
    let postgres = serve(&config, &arguments.place, &engine).await?;
    let gateway = match config.gateway.listen {
        Some(listen) => Some(gateway::start(&config, listen, log).await?),
        None => None,
    };
    let outcome = engine.run(stop).await.map_err(rim::engine_report);
    if let Some(gateway) = gateway {
        gateway.shutdown().await;
    }
    postgres.shutdown().await;
    outcome.map(|()| Outcome::Done)
}

/// What the engine has done, in a line.
pub(super) fn said(progress: &Progress) -> String {
    let Progress { records, rejected, duplicates, late, checkpoints, .. } = progress;
    format!(
        "{records} records read: {duplicates} duplicates in the ledger, {rejected} rejected, {late} late; {checkpoints} checkpoints"
    )
}

/// How the engine of a data directory runs as configured.
pub(super) fn engine_options(config: &Config, home: Home) -> miette::Result<Options> {
    Ok(Options {
        home,
        workshop: None,
        take_over: false,
        account: config.account(),
        skip: Arc::new(config.engine.skip.iter().map(|id| id.as_str().into()).collect()),
        rules: config.rules().map_err(rim::report)?,
        pipelines: pipelines(config)?,
        parameters: config.parameters.clone(),
        settings: config.settings(),
        zone: config.zone().map_err(rim::report)?,
        allowed_lateness: config.allowed_lateness(),
        checkpoint_interval: Duration::from_secs(config.engine.checkpoint_seconds),
        memory: config.engine.memory_mib.map(|mib| u64::from(mib.get()) * 1024 * 1024),
    })
}

/// Opens an engine with the alerts that are configured.
pub(super) async fn open_engine(config: &Config, options: Options, log: Arc<dyn EventLog>) -> miette::Result<Engine> {
    let (rules, webhooks) = config.alerts().map_err(rim::report)?;
    if !rules.is_empty() && !options.pipelines.iter().any(|file| file.metadata.name == EXPANSIONS) {
        miette::bail!("[alerts] speak of {EXPANSIONS}, but there is no such pipeline");
    }
    let alerts =
        (!rules.is_empty()).then(|| (act::Options::new(options.home.outbox(), rules, webhooks), rim::jitter()));
    Engine::open(options, log, alerts, rim::clock(), rim::nonce()).await.map_err(rim::engine_report)
}

/// Tables as they can be queried, with the views over them, the functions that pipelines have, conversion between
/// currencies and the bridge in the reporting currency.
pub(super) async fn catalog(
    config: &Config,
    mut tables: Vec<UserTable>,
    rates: SharedRates,
) -> miette::Result<Catalog> {
    let max_age_days = config.revenue.fx_max_age_days;
    if let Some(currency) = config.revenue.reporting_currency {
        let options = reporting::Options { currency, max_age_days, zone: config.zone().map_err(rim::report)? };
        reporting::add(&mut tables, rates.clone(), options).map_err(rim::report)?;
    }
    let mut functions = stream::functions();
    functions.push(to_currency(rates, max_age_days));
    let views = views::shipped(&config.settings()).map_err(rim::report)?;
    Catalog::with_views(tables, functions, &views).await.map_err(rim::report)
}

/// Shows the tables that the engine makes anew while it runs, until it ends.
fn follow(engine: &Engine, catalog: Arc<Catalog>) {
    let mut shown = engine.shown();
    tokio::spawn(async move {
        while shown.changed().await.is_ok() {
            let Shown { tables, gone } = shown.borrow_and_update().clone();
            if let Err(error) = catalog.update(&tables, &gone) {
                tracing::error!(%error, "PostgreSQL does not show the tables that were made anew");
            }
        }
    });
}

/// Starts PostgreSQL over the engine's tables.
pub(super) async fn serve(config: &Config, place: &Place, engine: &Engine) -> miette::Result<postgres::Handle> {
    let catalog = catalog(config, engine.user_tables().map_err(rim::engine_report)?, engine.rates()).await?;
    let catalog = Arc::new(catalog);
    follow(engine, Arc::clone(&catalog));
    let configured = env::var(POSTGRES_PASSWORD).ok().map(Secret::new);
    let password = Password::load_or_create(&place.data_dir, configured, rim::random()).map_err(rim::report)?;
    let options = postgres::Options::new(
        config.serve.listen,
        config.serve.user.clone(),
        password.secret().clone(),
        rim::random(),
    );
    let handle = postgres::start(options, catalog).await.map_err(rim::report)?;
    let address = handle.local_addr();
    let user = &config.serve.user;
    let stored = match password {
        Password::Configured(_) => format!("from {POSTGRES_PASSWORD}"),
        Password::Stored(_) => format!("in {}", place.data_dir.join(crate::serve::password::PASSWORD_FILE).display()),
    };
    eprintln!(
        "PostgreSQL: psql \"host={} port={} user={user} dbname=tributary\" (password {stored})",
        address.ip(),
        address.port()
    );
    Ok(handle)
}

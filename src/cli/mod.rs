//! The command line: one file a command. Data goes to standard output, everything else to standard error.
//!
//! Exit codes: 0 it worked · 1 it failed · 2 the arguments were wrong · 3 a check found something.

mod apply;
mod asked;
mod backtest;
mod backup;
mod check;
mod customer;
mod demo;
mod diff;
mod gateway;
mod ingest;
mod movement;
mod output;
mod pause;
mod plan;
mod query;
mod rates;
mod rebuild;
mod request;
mod rim;
mod run;
mod simulate;
mod status;
mod test;
mod train;

use std::{num::NonZero, path::PathBuf, process::ExitCode};

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{config::Config, storage::Home, stream::file::PipelineFile, telemetry, threads};

/// What a command came to.
enum Outcome {
    Done,
    /// A check found something; it has been printed.
    Findings,
}

/// Stream-processing analytics for Stripe: recurring revenue, churn features, scores and alerts.
#[derive(Parser)]
#[command(name = "tributary", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 it worked, 1 it failed, 2 the arguments were wrong, 3 a check found something";

#[derive(Subcommand)]
enum Command {
    /// Write the events of a made-up Stripe account, as JSON lines
    Simulate(simulate::Arguments),
    /// Append Stripe events to the log, objects of its API, or a price file
    Ingest(ingest::Arguments),
    /// Append rates of exchange to the log: the ECB's CSV, or day,currency,rate
    Rates(rates::Arguments),
    /// Run the engine
    Run(run::Arguments),
    /// Receive Stripe's webhooks into the log
    Gateway(gateway::Arguments),
    /// Run a read-only query over every table
    Query(query::Arguments),
    /// Tell how a customer's recurring revenue came to be, from the events on
    Customer(customer::Arguments),
    /// Tell where a movement comes from: its entries, states and events
    Movement(movement::Arguments),
    /// Make every table again from the log and the archive, with late events and changed rules applied
    Rebuild(rebuild::Arguments),
    /// Check that all pipelines parse, type-check and can be maintained
    Check(check::Arguments),
    /// Say how a pipeline is maintained
    Explain(check::ExplainArguments),
    /// Compare a pipeline with other parameters or SQL, over the tables of a data directory
    Diff(diff::Arguments),
    /// Run a pipeline over its history, day by day, through the engine's operators
    Backtest(backtest::Arguments),
    /// Say what changed files of pipelines mean for a data directory
    Plan(plan::Arguments),
    /// Rebuild what changed files of pipelines mean, while the engine runs, and put it in place
    Apply(apply::Arguments),
    /// Let a pipeline's table stand still
    Pause(pause::Arguments),
    /// Rebuild a pipeline that is paused or has failed, and go on with it
    Resume(pause::Arguments),
    /// Work out a pipeline's table anew from all that it reads, while the old one serves
    Replay(pause::Arguments),
    /// Say how the engine and its pipelines are
    Status(status::Arguments),
    /// Copy a data directory, also while an engine runs on it
    Backup(backup::Arguments),
    /// Make a data directory of a backup
    Restore(backup::Arguments),
    /// Run the tests beside the pipelines
    Test(test::Arguments),
    /// Train the churn model on the features of a data directory
    Train(train::Arguments),
    /// Simulate an account, run everything on it, and show what comes out
    Demo(demo::Arguments),
}

/// Where things are.
#[derive(Args, Clone)]
struct Place {
    /// Directory of the log and the models, and of tables and outbox unless storage.url names a bucket
    #[arg(long, default_value = "tributary-data")]
    data_dir: PathBuf,
    /// Configuration file; `tributary.toml` here or in the data directory if not given
    #[arg(long)]
    config: Option<PathBuf>,
}

impl Place {
    fn config(&self) -> miette::Result<Config> {
        Config::load(self.config.as_deref(), &self.data_dir).map_err(rim::report)
    }

    /// Where tables, checkpoints and the outbox are; a bucket must answer.
    async fn home(&self, config: &Config) -> miette::Result<Home> {
        match config.storage() {
            Some(bucket) => Home::bucket(&self.data_dir, &bucket).await,
            None => Home::directory(&self.data_dir),
        }
        .map_err(rim::report)
    }
}

/// The pipelines that come with the program.
const SHIPPED: [(&str, &str); 25] = [
    ("arpa.sql", include_str!("../../pipelines/arpa.sql")),
    ("churn_features.sql", include_str!("../../pipelines/churn_features.sql")),
    ("cohort_logo_retention.sql", include_str!("../../pipelines/cohort_logo_retention.sql")),
    ("cohort_revenue_retention.sql", include_str!("../../pipelines/cohort_revenue_retention.sql")),
    ("customer_months.sql", include_str!("../../pipelines/customer_months.sql")),
    ("customer_mrr.sql", include_str!("../../pipelines/customer_mrr.sql")),
    ("customer_year_over_year.sql", include_str!("../../pipelines/customer_year_over_year.sql")),
    ("customers_daily.sql", include_str!("../../pipelines/customers_daily.sql")),
    ("dunning_recovery.sql", include_str!("../../pipelines/dunning_recovery.sql")),
    ("expansion_events.sql", include_str!("../../pipelines/expansion_events.sql")),
    ("gross_revenue_retention.sql", include_str!("../../pipelines/gross_revenue_retention.sql")),
    ("logo_churn.sql", include_str!("../../pipelines/logo_churn.sql")),
    ("logo_movements.sql", include_str!("../../pipelines/logo_movements.sql")),
    ("ltv.sql", include_str!("../../pipelines/ltv.sql")),
    ("mrr_by_price.sql", include_str!("../../pipelines/mrr_by_price.sql")),
    ("mrr_daily.sql", include_str!("../../pipelines/mrr_daily.sql")),
    ("mrr_monthly.sql", include_str!("../../pipelines/mrr_monthly.sql")),
    ("mrr_outlook.sql", include_str!("../../pipelines/mrr_outlook.sql")),
    ("net_revenue_retention.sql", include_str!("../../pipelines/net_revenue_retention.sql")),
    ("quick_ratio.sql", include_str!("../../pipelines/quick_ratio.sql")),
    ("recoveries.sql", include_str!("../../pipelines/recoveries.sql")),
    ("subscription_item_changes.sql", include_str!("../../pipelines/subscription_item_changes.sql")),
    ("trial_conversion.sql", include_str!("../../pipelines/trial_conversion.sql")),
    ("trials.sql", include_str!("../../pipelines/trials.sql")),
    ("usage_run_rate.sql", include_str!("../../pipelines/usage_run_rate.sql")),
];

/// The directory of pipelines in the working directory.
const PIPELINES: &str = "pipelines";

/// The directory of pipelines: the configured one, or `pipelines/`; none where those that come with the program hold.
fn pipeline_dir(config: &Config) -> Option<PathBuf> {
    let here = PathBuf::from(PIPELINES);
    config.pipelines.dir.clone().or_else(|| here.is_dir().then_some(here))
}

/// The pipelines of the configured directory, of `pipelines/`, or those that come with the program.
fn pipelines(config: &Config) -> miette::Result<Vec<PipelineFile>> {
    let files = match pipeline_dir(config) {
        Some(dir) => PipelineFile::load_dir(&dir)?,
        None => SHIPPED
            .into_iter()
            .map(|(name, text)| {
                PipelineFile::parse(&PathBuf::from(PIPELINES).join(name), text.to_owned())
                    .map_err(|error| miette::Report::new(*error))
            })
            .collect::<Result<_, _>>()?,
    };
    let unknown = config.parameters.keys().find(|name| !files.iter().any(|file| file.metadata.name == **name));
    if let Some(unknown) = unknown {
        miette::bail!("there are [parameters.{unknown}], but there is no pipeline `{unknown}`");
    }
    Ok(files)
}

/// The setting of how many threads work, which the runtime needs before a command can read its configuration. What is
/// wrong with that is for the command to tell.
fn configured_threads(matches: &ArgMatches) -> Option<NonZero<usize>> {
    let (_, arguments) = matches.subcommand()?;
    let data_dir = arguments.try_get_one::<PathBuf>("data_dir").ok()??;
    let file = arguments.try_get_one::<PathBuf>("config").ok().flatten();
    Config::load(file.map(PathBuf::as_path), data_dir).ok()?.engine.threads
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    telemetry::init();
    if let Some(threads) = configured_threads(&matches) {
        threads::set(threads);
    }
    tracing::debug!(threads = threads::count(), "work is divided");
    let outcome = match cli.command {
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Ingest(arguments) => rim::block_on(ingest::run(arguments)),
        Command::Rates(arguments) => rim::block_on(rates::run(arguments)),
        Command::Run(arguments) => rim::block_on(run::run(arguments)),
        Command::Gateway(arguments) => rim::block_on(gateway::run(arguments)),
        Command::Query(arguments) => rim::block_on(query::run(arguments)),
        Command::Customer(arguments) => rim::block_on(customer::run(arguments)),
        Command::Movement(arguments) => rim::block_on(movement::run(arguments)),
        Command::Rebuild(arguments) => rim::block_on(rebuild::run(arguments)),
        Command::Check(arguments) => rim::block_on(check::run(arguments)),
        Command::Explain(arguments) => rim::block_on(check::explain(arguments)),
        Command::Diff(arguments) => rim::block_on(diff::run(arguments)),
        Command::Backtest(arguments) => rim::block_on(backtest::run(arguments)),
        Command::Plan(arguments) => rim::block_on(plan::run(arguments)),
        Command::Apply(arguments) => rim::block_on(apply::run(arguments)),
        Command::Pause(arguments) => rim::block_on(pause::pause(arguments)),
        Command::Resume(arguments) => rim::block_on(pause::resume(arguments)),
        Command::Replay(arguments) => rim::block_on(pause::replay(arguments)),
        Command::Status(arguments) => rim::block_on(status::run(arguments)),
        Command::Backup(arguments) => rim::block_on(backup::backup(arguments)),
        Command::Restore(arguments) => rim::block_on(backup::restore(arguments)),
        Command::Test(arguments) => rim::block_on(test::run(arguments)),
        Command::Train(arguments) => rim::block_on(train::run(arguments)),
        Command::Demo(arguments) => rim::block_on(demo::run(arguments)),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(3),
        Err(report) if rim::is_broken_pipe(&report) => ExitCode::SUCCESS,
        Err(report) => {
            eprintln!("{report:?}");
            ExitCode::FAILURE
        }
    }
}

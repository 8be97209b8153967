//! `tributary rebuild`

use clap::Args;

use super::{Outcome, Place, output, rim, run};
use crate::{
    engine::{self, Rebuilt},
    log,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let config = arguments.place.config()?;
    let options = run::engine_options(&config, arguments.place.home(&config).await?)?;
    let log = log::open(&config.log(&arguments.place.data_dir).map_err(rim::report)?).await.map_err(rim::report)?;
    let rebuilt = engine::rebuild(options, log, rim::clock(), rim::nonce()).await.map_err(rim::engine_report)?;
    said(&rebuilt)?;
    Ok(Outcome::Done)
}

/// What a rebuild did, in a few lines.
fn said(rebuilt: &Rebuilt) -> miette::Result<()> {
    for problem in &rebuilt.unreadable {
        eprintln!("not readable, and not needed any more: {problem}");
    }
    if rebuilt.from_archive > 0 {
        eprintln!("the beginning of {} partitions of the log came from events_archive", rebuilt.from_archive);
    }
    output::say(run::said(&rebuilt.progress))?;
    let Rebuilt { entries_changed, customers_changed, ledger_rows: (before, after), .. } = rebuilt;
    output::say(format_args!("late events applied: {}", rebuilt.late_before))?;
    output::say(format_args!("late changes of closed windows, now in them: {}", rebuilt.late_changes_before))?;
    output::say(format_args!(
        "mrr_ledger: {before} rows before, {after} now; {entries_changed} entries of the current ledger differ, of \
         {customers_changed} customers"
    ))?;
    for currency in &rebuilt.currencies {
        let mode = if currency.livemode { "live" } else { "test" };
        let same = if currency.before == currency.after { " (as before)" } else { "" };
        output::say(format_args!(
            "MRR {} {mode} {}: {} → {}{same}",
            currency.account, currency.currency, currency.before, currency.after
        ))?;
    }
    output::say("alerts, models and the log are as they were; nobody was told anything")
}

//! `tributary backtest`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{
    Outcome, Place,
    asked::{self, Asked},
    output::{self, Output},
    rim,
};
use crate::{config::parameters, engine, stream::versions::sums};

/// What makes an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum By {
    /// A day on which something happened
    Day,
    /// A day on which something became known
    KnownAt,
}

#[derive(Args)]
pub(super) struct Arguments {
    /// Name of a pipeline
    name: String,
    /// First day; what came before is one epoch
    #[arg(long, value_name = "DAY")]
    from: String,
    /// Last day
    #[arg(long, value_name = "DAY")]
    to: String,
    /// What makes an epoch
    #[arg(long, value_enum, default_value = "day")]
    by: By,
    /// Run it with these parameters: a TOML file of `name = value`
    #[arg(long, value_name = "FILE")]
    params: Option<PathBuf>,
    /// Print what every column adds up to instead of the rows
    #[arg(long, conflicts_with = "epochs")]
    totals: bool,
    /// Print what each epoch changed instead of the rows
    #[arg(long)]
    epochs: bool,
    #[command(flatten)]
    place: Place,
    /// How rows are written
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { name, from, to, by, params, totals, epochs, place, output } = arguments;
    let (first, last) = (asked::day(&from, "--from")?, asked::day(&to, "--to")?);
    if first > last {
        miette::bail!("--from {from} is after --to {to}");
    }
    let (asked, by) = match by {
        By::Day => (Asked::as_of(&to), engine::By::Day),
        By::KnownAt => (Asked::known_at(&to), engine::By::KnownAt),
    };
    let mut question = asked.question(&place, None)?;
    if let Some(path) = &params {
        question.parameters.insert(name.clone(), parameters(path).map_err(rim::report)?);
    }
    let home = place.home(&place.config()?).await?;
    let found = engine::backtest(&home, question, &name, (first, last), by).await;
    let found = found.map_err(rim::engine_report)?.ok_or_else(|| asked::nothing(&place))?;
    if totals {
        for ((of, column), sum) in sums(&found.rows).map_err(rim::report)? {
            output::say(format_args!("{of:<24} {column:<20} {sum}"))?;
        }
    } else if epochs {
        for (day, removed, added) in &found.epochs {
            output::say(format_args!("{}  -{removed} +{added}", asked::day_text(*day)))?;
        }
    } else {
        output::print(&found.rows.schema(), std::slice::from_ref(&found.rows), output)?;
    }
    eprintln!("{name}: {} rows from {from} to {to}; {} epochs changed it", found.rows.num_rows(), found.epochs.len());
    if found.late_changes > 0 {
        eprintln!("{} changes came after their windows had closed", found.late_changes);
    }
    if found.differing > 0 {
        eprintln!("{} rows are not what the SQL says in batch: please report this", found.differing);
        return Ok(Outcome::Findings);
    }
    Ok(Outcome::Done)
}

//! `tributary simulate`

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use chrono::NaiveDate;
use clap::Args;
use miette::{Context, IntoDiagnostic};

use super::{Outcome, rim};
use crate::simulate::{ApiVersion, Options, simulate};

/// Lines are written in pieces of this size.
const BUFFER_BYTES: usize = 1 << 20;

#[derive(Args)]
pub(super) struct Arguments {
    /// Customers that sign up over the time
    #[arg(long, default_value_t = 1000)]
    customers: u32,
    /// Calendar months
    #[arg(long, default_value_t = 12)]
    months: u32,
    /// The same seed gives the same events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of events that arrive up to three days late; as many arrive twice
    #[arg(long, default_value_t = 0.0)]
    disorder: f64,
    /// Shape of the events: 2025-03-31 or 2024-06-20
    #[arg(long, default_value = "2025-03-31")]
    api_version: ApiVersion,
    /// First day
    #[arg(long, default_value = "2024-01-01")]
    start: NaiveDate,
    /// Write the true MRR by day and the true hazards by customer and month into this directory
    #[arg(long)]
    truth: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> miette::Result<Outcome> {
    if !(0.0..=1.0).contains(&arguments.disorder) {
        miette::bail!("--disorder is a share: a number from 0 to 1");
    }
    let options = Options {
        customers: arguments.customers,
        months: arguments.months,
        seed: arguments.seed,
        disorder: arguments.disorder,
        api_version: arguments.api_version,
        start: arguments.start,
        account: None,
    };
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    let truth = simulate(&options, &mut |event| {
        out.write_all(event)?;
        out.write_all(b"\n")
    })
    .map_err(rim::output_report)?;
    out.flush().map_err(rim::output_report)?;
    if let Some(dir) = &arguments.truth {
        truth.write_to(dir).into_diagnostic().wrap_err_with(|| format!("cannot write to {}", dir.display()))?;
    }
    Ok(Outcome::Done)
}

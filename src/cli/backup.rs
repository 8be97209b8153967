//! `tributary backup` and `tributary restore`

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, Place, output, rim};
use crate::engine::{self, Backup};

#[derive(Args)]
pub(super) struct Arguments {
    /// The directory of the backup
    dir: PathBuf,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn backup(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { dir, place } = arguments;
    let config = place.config()?;
    let log = config.log(&place.data_dir).map_err(rim::report)?;
    let home = place.home(&config).await?;
    let made = engine::backup(&home, &dir, &log, &rim::nonce()).await.map_err(rim::engine_report)?;
    output::say(format_args!("{}: {}", dir.display(), said(&made)))?;
    Ok(Outcome::Done)
}

pub(super) async fn restore(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { dir, place } = arguments;
    let home = place.home(&place.config()?).await?;
    let made = engine::restore(&dir, &home).await.map_err(rim::engine_report)?;
    output::say(format_args!("{}: {}", place.data_dir.display(), said(&made)))?;
    Ok(Outcome::Done)
}

fn said(backup: &Backup) -> String {
    let log = if backup.log { "with the event log" } else { "without the event log, which is Kafka's" };
    format!("checkpoint {}, {log}", backup.checkpoint)
}

//! `tributary status`

use clap::Args;

use super::{Outcome, Place, asked, output, rim};
use crate::{
    config::Config,
    engine::{self, Status},
    log,
    stream::checkpoint::Manifest,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let place = &arguments.place;
    let config = place.config()?;
    let home = place.home(&config).await?;
    let status = engine::status(&home).await.map_err(rim::engine_report)?;
    let status = status.ok_or_else(|| asked::nothing(place))?;
    let Manifest { number, committed_at, watermark, .. } = &status.manifest;
    let engine = match (status.running, home.is_shared()) {
        (true, _) => "running",
        (false, true) => "not running here",
        (false, false) => "not running",
    };
    output::say(format_args!("engine      {engine}, checkpoint {number} of {committed_at}"))?;
    let watermark = watermark.map_or_else(|| "none yet".to_owned(), |watermark| watermark.to_string());
    output::say(format_args!("watermark   {watermark}"))?;
    output::say(format_args!("lag         {}", lag(&config, place, &status).await))?;
    output::say(format_args!("time        {}", status.stages))?;
    output::say(format_args!("memory      {}", memory(status.memory)))?;
    output::say(pipelines(&status))?;
    let mut failed = false;
    for pipeline in &status.pipelines {
        if let Some(at) = pipeline.last_run_at {
            output::say(format_args!("{}: ran last as of {at}", pipeline.name))?;
        }
        if let (Some(held), Some(late)) = (pipeline.held_rows, pipeline.late_changes) {
            let name = &pipeline.name;
            output::say(format_args!(
                "{name}: {held} rows wait for their windows, {late} changes came too late (in late_changes)"
            ))?;
        }
        if let Some(error) = &pipeline.error {
            failed = true;
            output::say(format_args!("{}: {error}", pipeline.name))?;
        }
    }
    Ok(if failed { Outcome::Findings } else { Outcome::Done })
}

/// What the engine used of its budget.
fn memory((used, budget): (u64, u64)) -> String {
    let mib = |bytes: u64| bytes / (1024 * 1024);
    let waits = if used >= budget { ", reading waits for room" } else { "" };
    format!("{} of {} MiB{waits}", mib(used), mib(budget))
}

/// What of the log the newest checkpoint has not read.
async fn lag(config: &Config, place: &Place, status: &Status) -> String {
    let read = async {
        let options = config.log(&place.data_dir).map_err(rim::report)?;
        if let log::Options::Embedded { dir, .. } = &options
            && !dir.join(log::embedded::FILE_NAME).is_file()
        {
            miette::bail!("there is no log in {}", dir.display());
        }
        let log = log::open(&options).await.map_err(rim::report)?;
        if log.identity().await.map_err(rim::report)? != status.manifest.log_identity {
            miette::bail!("the log is another one than the tables were made from");
        }
        let ends = log.end_offsets().await.map_err(rim::report)?;
        Ok(ends.iter().zip(&status.manifest.offsets).map(|(end, at)| end.saturating_sub(*at)).sum::<u64>())
    };
    match read.await {
        Ok(records) => format!("{records} records"),
        Err(error) => format!("not known: {error}"),
    }
}

fn pipelines(status: &Status) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY).set_header([
        "pipeline",
        "state",
        "class",
        "groups",
        "state rows",
        "state bytes",
        "epochs",
        "last, ms",
        "mean, ms",
    ]);
    for pipeline in &status.pipelines {
        let millis = |micros: u64| format!("{}.{}", micros / 1_000, micros % 1_000 / 100);
        table.add_row([
            pipeline.name.clone(),
            pipeline.state.clone(),
            pipeline.class.clone(),
            pipeline.groups.to_string(),
            pipeline.state_rows.to_string(),
            pipeline.state_bytes.to_string(),
            pipeline.epochs.to_string(),
            millis(pipeline.last_epoch_micros),
            millis(pipeline.epochs_micros.checked_div(pipeline.epochs).unwrap_or_default()),
        ]);
    }
    table
}

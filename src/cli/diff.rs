//! `tributary diff`

use std::path::PathBuf;

use clap::Args;
use miette::IntoDiagnostic;

use super::{Outcome, Place, asked, output, pipelines, rim};
use crate::{
    config::parameters,
    engine::{self, Version},
    stream::{
        file::PipelineFile,
        versions::{Fate, Total, Versions},
    },
};

#[derive(Args)]
#[command(group = clap::ArgGroup::new("other").required(true).multiple(true))]
pub(super) struct Arguments {
    /// Name of a pipeline
    name: String,
    /// Compare with these parameters: a TOML file of `name = value`
    #[arg(long, value_name = "FILE", group = "other")]
    params: Option<PathBuf>,
    /// Compare with this SQL: a file of the same name in another directory
    #[arg(long, value_name = "FILE", group = "other")]
    sql: Option<PathBuf>,
    /// How many of the rows that differ are shown
    #[arg(long, default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { name, params, sql, limit, place } = arguments;
    let config = place.config()?;
    let before = Version { pipelines: pipelines(&config)?, parameters: config.parameters.clone() };
    let mut after = before.clone();
    if let Some(path) = &sql {
        let text = std::fs::read_to_string(path).into_diagnostic()?;
        let file = PipelineFile::parse(path, text).map_err(|error| miette::Report::new(*error))?;
        if file.metadata.name != name {
            miette::bail!("{} is the pipeline `{}`, not `{name}`", path.display(), file.metadata.name);
        }
        after.pipelines.retain(|other| other.metadata.name != name);
        after.pipelines.push(file);
    }
    if let Some(path) = &params {
        after.parameters.insert(name.clone(), parameters(path).map_err(rim::report)?);
    }
    let zone = config.zone().map_err(rim::report)?;
    let home = place.home(&config).await?;
    let versions = engine::diff(&home, &name, &config.settings(), zone, &before, &after).await;
    let versions = versions.map_err(rim::engine_report)?.ok_or_else(|| asked::nothing(&place))?;
    say(&name, &versions, limit)?;
    Ok(Outcome::Done)
}

fn say(name: &str, versions: &Versions, limit: usize) -> miette::Result<()> {
    let count = |fate: Fate| versions.differences.iter().filter(|(other, _)| *other == fate).count();
    output::say(format_args!(
        "{name}: {} rows before, {} after: {} added, {} removed, {} changed",
        versions.rows.0,
        versions.rows.1,
        count(Fate::Added),
        count(Fate::Removed),
        count(Fate::Changed)
    ))?;
    for (columns, when) in [(&versions.columns.0, "before"), (&versions.columns.1, "after")] {
        if !columns.is_empty() {
            output::say(format_args!("columns only {when}: {}", columns.join(", ")))?;
        }
    }
    output::say(totals(&versions.totals))?;
    for (fate, text) in versions.differences.iter().take(limit) {
        let fate = match fate {
            Fate::Added => "added",
            Fate::Removed => "removed",
            Fate::Changed => "changed",
        };
        output::say(format_args!("{fate:<8} {text}"))?;
    }
    let hidden = versions.differences.len().saturating_sub(limit);
    if hidden > 0 { output::say(format_args!("… and {hidden} more; --limit shows them")) } else { Ok(()) }
}

/// Totals that differ are marked.
fn totals(totals: &[Total]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_preset(comfy_table::presets::UTF8_BORDERS_ONLY)
        .set_header(["total of", "column", "before", "after", ""]);
    for total in totals {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "—".to_owned());
        let mark = if total.before == total.after { "" } else { "≠" };
        table.add_row([&total.of, &total.column, &text(&total.before), &text(&total.after), mark]);
    }
    table
}

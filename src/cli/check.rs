//! `tributary check` and `tributary explain`

use std::collections::BTreeSet;

use arrow::{array::AsArray, datatypes::Int64Type};
use clap::Args;
use miette::IntoDiagnostic;

use super::{Outcome, Place, output, pipelines, query, rim};
use crate::{
    config::Config,
    engine::{self, PipelineStatus},
    stream::{file::Schedule, graph::plan_all, pipeline::Pipeline},
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct ExplainArguments {
    /// Name of a pipeline
    name: String,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let config = arguments.place.config()?;
    config.zone().map_err(rim::report)?;
    config.rules().map_err(rim::report)?;
    let planned = plan(&config).await?;
    let mut out = comfy_table::Table::new();
    out.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(["pipeline", "class", "reads", "key"]);
    for pipeline in &planned {
        let explanation = pipeline.explain();
        out.add_row([pipeline.name(), explanation.class, &explanation.sources.join(", "), &explanation.key.join(", ")]);
    }
    output::say(out)?;
    let tables = query::tables(&arguments.place, &config).await?;
    let names: BTreeSet<String> = tables.into_iter().map(|table| table.name).collect();
    if names.is_empty() {
        return Ok(Outcome::Done);
    }
    test_columns(&arguments.place, &planned, &names).await
}

pub(super) async fn explain(arguments: ExplainArguments) -> miette::Result<Outcome> {
    let config = arguments.place.config()?;
    let planned = plan(&config).await?;
    let Some(pipeline) = planned.iter().find(|pipeline| pipeline.name() == arguments.name) else {
        let names: Vec<_> = planned.iter().map(Pipeline::name).collect();
        miette::bail!(help = format!("there are: {}", names.join(", ")), "there is no pipeline `{}`", arguments.name);
    };
    for (label, text) in explained(pipeline) {
        output::say(format_args!("{label:<20} {text}"))?;
    }
    let home = arguments.place.home(&config).await?;
    let status = engine::status(&home).await.map_err(rim::engine_report)?;
    let kept = status.into_iter().flat_map(|status| status.pipelines).find(|status| status.name == arguments.name);
    for (label, text) in kept.iter().flat_map(cost) {
        output::say(format_args!("{label:<20} {text}"))?;
    }
    Ok(Outcome::Done)
}

/// What the file says.
fn explained(pipeline: &Pipeline) -> Vec<(&'static str, String)> {
    let metadata = &pipeline.file().metadata;
    let explanation = pipeline.explain();
    let or_none = |texts: &[String], separator| match texts {
        [] => "—".to_owned(),
        texts => texts.join(separator),
    };
    let emits = match explanation.on_close {
        None if metadata.schedule.is_some() => "with every run that changes them",
        None => "with every epoch that changes them",
        Some(_) => "once, when the watermark has passed their window_end",
    };
    vec![
        ("pipeline", format!("{} — {}", metadata.name, metadata.description)),
        ("owner", metadata.owner.clone()),
        ("class", explanation.class.to_owned()),
        ("reads", explanation.sources.join(", ")),
        ("key", explanation.key.join(", ")),
        ("windows", or_none(&explanation.windows, "; ")),
        (
            if explanation.class == "keyed" { "keeps rows by" } else { "groups by" },
            or_none(&explanation.group_by, ", "),
        ),
        ("an epoch recomputes", explanation.recomputes),
        ("schedule", metadata.schedule.map_or("—", Schedule::as_str).to_owned()),
        ("emits rows", emits.to_owned()),
        ("fingerprint", pipeline.fingerprint().to_owned()),
    ]
}

/// What an engine has kept and spent on it, as of the newest checkpoint.
fn cost(status: &PipelineStatus) -> Vec<(&'static str, String)> {
    let millis = |micros: u64| format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100);
    let of = |error: &String| format!("{}: {error}", status.state);
    let mean = status.epochs_micros.checked_div(status.epochs).unwrap_or_default();
    let epochs =
        format!("{}: the last {}, {} on average", status.epochs, millis(status.last_epoch_micros), millis(mean));
    let mut lines = vec![
        ("is", status.error.as_ref().map_or_else(|| status.state.clone(), of)),
        ("keeps", format!("{} rows, {} bytes", status.state_rows, status.state_bytes)),
        ("epochs", epochs),
    ];
    if let Some(at) = status.last_run_at {
        lines.push(("ran last", format!("as of {at}")));
    }
    if let (Some(held), Some(late)) = (status.held_rows, status.late_changes) {
        lines.push(("open windows", format!("{held} rows wait, {late} changes came too late (in late_changes)")));
    }
    lines
}

/// All pipelines, planned over the engine's relations.
pub(super) async fn plan(config: &Config) -> miette::Result<Vec<Pipeline>> {
    let relations = engine::relations().map_err(rim::engine_report)?;
    plan_all(pipelines(config)?, &relations, &config.parameters, &config.settings())
        .await
        .map_err(|file| miette::Report::new(*file))
}

/// Runs the column tests of every pipeline over its table.
async fn test_columns(place: &Place, planned: &[Pipeline], tables: &BTreeSet<String>) -> miette::Result<Outcome> {
    let catalog = query::catalog(place).await?;
    let mut findings = 0;
    for pipeline in planned.iter().filter(|pipeline| tables.contains(pipeline.name())) {
        for (column, described) in &pipeline.file().metadata.columns {
            for test in &described.tests {
                let rows = catalog.sql(&test.offending_rows_sql(pipeline.name(), column)).await.map_err(rim::report)?;
                let rows = rows.collect().await.into_diagnostic()?;
                let offending: i64 = rows.iter().map(|b| b.column(0).as_primitive::<Int64Type>().value(0)).sum();
                if offending > 0 {
                    findings += 1;
                    output::say(format_args!("{}.{column}: {offending} rows fail {test:?}", pipeline.name()))?;
                }
            }
        }
    }
    Ok(if findings > 0 { Outcome::Findings } else { Outcome::Done })
}

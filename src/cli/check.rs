//! `tributary check` and `tributary explain`

use std::collections::{BTreeMap, BTreeSet};

use arrow::{array::AsArray, datatypes::Int64Type};
use clap::Args;
use miette::IntoDiagnostic;

use super::{Outcome, Place, output, pipelines, query, rim};
use crate::{
    config::Config,
    engine,
    stream::{graph::plan_all, pipeline::Pipeline},
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
    let metadata = &pipeline.file().metadata;
    let explanation = pipeline.explain();
    let group_by = if explanation.group_by.is_empty() { "—".to_owned() } else { explanation.group_by.join(", ") };
    let rows: BTreeMap<u8, (&str, String)> = BTreeMap::from([
        (0, ("pipeline", format!("{} — {}", metadata.name, metadata.description))),
        (1, ("owner", metadata.owner.clone())),
        (2, ("class", explanation.class.to_owned())),
        (3, ("reads", explanation.sources.join(", "))),
        (4, ("key", explanation.key.join(", "))),
        (5, (if explanation.class == "keyed" { "keeps rows by" } else { "groups by" }, group_by)),
        (6, ("an epoch recomputes", explanation.recomputes)),
        (7, ("fingerprint", pipeline.fingerprint().to_owned())),
    ]);
    for (label, text) in rows.values() {
        output::say(format_args!("{label:<20} {text}"))?;
    }
    Ok(Outcome::Done)
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

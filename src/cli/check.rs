//! `tributary check` and `tributary explain`

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
};

use arrow::{array::AsArray, datatypes::Int64Type};
use clap::Args;
use miette::IntoDiagnostic;

use super::{Outcome, Place, output, pipeline_dir, pipelines, query, rim};
use crate::{
    config::Config,
    engine::{self, PipelineStatus},
    ledger::HORIZON_DAYS,
    stream::{
        file::{FileError, LoadError, PipelineFile, Schedule},
        graph::{plan_all, upstream},
        pipeline::Pipeline,
    },
};

/// Relations in which every event of the log is, however late it came: no history of an entity stands behind them.
const WHOLE: [&str; 8] =
    ["coupons", "events_archive", "fx_rates", "late_events", "log_clock", "prices", "products", "rejected_events"];

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
    let planned = plan_upstream(&config, &arguments.name).await?;
    let Some(pipeline) = planned.iter().find(|pipeline| pipeline.name() == arguments.name) else {
        miette::bail!("this is a bug in Tributary: `{}` was not planned", arguments.name);
    };
    let mut lines = explained(pipeline);
    lines.push(("leaves out", left_out(pipeline, &planned)));
    for (label, text) in lines {
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

/// What its table does not say although it is in the log: where a pipeline is less than its query over everything.
fn left_out(pipeline: &Pipeline, upstream: &[Pipeline]) -> String {
    let metadata = &pipeline.file().metadata;
    let mut parts = Vec::new();
    if let Some(schedule) = metadata.schedule {
        parts.push(format!("what has come since the last run, which is {}", schedule.as_str()));
    }
    if pipeline.explain().on_close.is_some() {
        parts.push("what comes after its window has closed, which is a row of late_changes".to_owned());
    }
    let planned: BTreeSet<&str> = upstream.iter().map(Pipeline::name).collect();
    let reads = |source: &String| !planned.contains(source.as_str()) && !WHOLE.contains(&source.as_str());
    if upstream.iter().any(|pipeline| pipeline.sources().iter().any(reads)) {
        parts.push(format!(
            "events that come live when their history is folded, {HORIZON_DAYS} days behind the newest of their \
             subscription or customer: they are rows of late_events, and `tributary rebuild` applies them"
        ));
    }
    if parts.is_empty() { "—".to_owned() } else { parts.join("; ") }
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

/// One pipeline and those it reads, planned; whatever is wrong with other files does not matter.
async fn plan_upstream(config: &Config, name: &str) -> miette::Result<Vec<Pipeline>> {
    let (files, mut wrong) = readable(config)?;
    if let Some(error) = wrong.remove(name) {
        return Err(miette::Report::new(*error));
    }
    let wanted = upstream(&files, name);
    if wanted.is_empty() {
        let names: BTreeSet<&str> =
            files.iter().map(|file| file.metadata.name.as_str()).chain(wrong.keys().map(String::as_str)).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        miette::bail!(help = format!("there are: {names}"), "there is no pipeline `{name}`");
    }
    let relations = engine::relations().map_err(rim::engine_report)?;
    let planned = plan_all(wanted.clone(), &relations, &config.parameters, &config.settings()).await;
    planned.map_err(|error| {
        // A table that is missing may be the one of a file that cannot be read.
        let read = wrong.into_iter().find(|(name, _)| wanted.iter().any(|file| names(&file.text, name)));
        miette::Report::new(*read.map_or(error, |(_, unreadable)| unreadable))
    })
}

/// What is wrong with files, by the name of the pipeline that each should hold.
type Wrong = BTreeMap<String, Box<FileError>>;

/// The files of pipelines that can be read, and what is wrong with each of the others.
fn readable(config: &Config) -> miette::Result<(Vec<PipelineFile>, Wrong)> {
    let Some(dir) = pipeline_dir(config) else { return Ok((pipelines(config)?, BTreeMap::new())) };
    let unreadable = |path: &PathBuf, source| LoadError::Io { path: path.clone(), source };
    let entries = fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<PathBuf> =
        entries.map_err(|source| unreadable(&dir, source))?.iter().map(fs::DirEntry::path).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    paths.sort();
    let (mut files, mut wrong) = (Vec::new(), BTreeMap::new());
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|source| unreadable(&path, source))?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        match PipelineFile::parse(&path, text) {
            Ok(file) => files.push(file),
            Err(error) => {
                wrong.insert(name, error);
            }
        }
    }
    Ok((files, wrong))
}

/// Whether a name stands in a text, as a word.
fn names(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
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

//! `tributary query`

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::array::RecordBatch;
use clap::Args;
use miette::IntoDiagnostic;

use super::{
    Outcome, Place,
    asked::{self, Asked},
    output::{self, Output},
    rim, run,
};
use crate::{
    config::{Config, parameters},
    engine,
    serve::{Catalog, UserTable},
    stream::file::{LoadError, PipelineFile},
};

#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(super) struct Arguments {
    /// One SELECT; live data is in the schema public, test data in the schema test
    #[arg(group = "what")]
    sql: Option<String>,
    /// Run a pipeline's file as it is, once, in batch: with its parameters, over live data and test data
    #[arg(long, value_name = "FILE", group = "what")]
    file: Option<PathBuf>,
    /// Run the file with these parameters: a TOML file of `name = value`
    #[arg(long, value_name = "FILE", requires = "file")]
    params: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    asked: Asked,
    /// How rows are written
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { sql, file, params, place, asked, output } = &arguments;
    if let Some(file) = file {
        let rows = run_file(file, params.as_deref(), place, asked).await?;
        output::print(&rows.schema(), std::slice::from_ref(&rows), *output)?;
        return Ok(Outcome::Done);
    }
    let catalog = if asked.is_history() { asked.catalog(place, None).await? } else { catalog(place).await? };
    let rows = catalog.sql(sql.as_deref().unwrap_or_default()).await.map_err(rim::report)?;
    let schema = Arc::clone(rows.schema().inner());
    let batches = rows.collect().await.into_diagnostic()?;
    output::print(&schema, &batches, *output)?;
    Ok(Outcome::Done)
}

/// What a pipeline's file says of the tables that were asked for; it need not be one of those that are configured.
async fn run_file(path: &Path, params: Option<&Path>, place: &Place, asked: &Asked) -> miette::Result<RecordBatch> {
    let text = fs::read_to_string(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
    let file = PipelineFile::parse(path, text).map_err(|error| miette::Report::new(*error))?;
    let name = file.metadata.name.clone();
    let mut question = asked.question(place, None)?;
    question.pipelines.retain(|other| other.metadata.name != name);
    question.pipelines.push(file);
    if let Some(path) = params {
        question.parameters.insert(name.clone(), parameters(path).map_err(rim::report)?);
    }
    let home = place.home(&place.config()?).await?;
    question.run(&home, &name).await.map_err(rim::engine_report)?.ok_or_else(|| asked::nothing(place))
}

/// The tables of a data directory as of its last checkpoint; none before the first.
pub(super) async fn tables(place: &Place, config: &Config) -> miette::Result<Vec<UserTable>> {
    let zone = config.zone().map_err(rim::report)?;
    let home = place.home(config).await?;
    engine::committed_tables(&home, zone, config.allowed_lateness()).await.map_err(rim::engine_report)
}

/// The same, to be queried.
pub(super) async fn catalog(place: &Place) -> miette::Result<Catalog> {
    let config = place.config()?;
    let tables = tables(place, &config).await?;
    if tables.is_empty() {
        return Err(asked::nothing(place));
    }
    let rates = engine::committed_rates(&tables).await.map_err(rim::engine_report)?;
    run::catalog(&config, tables, rates).await
}

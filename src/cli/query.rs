//! `tributary query`

use std::sync::Arc;

use clap::Args;
use miette::IntoDiagnostic;

use super::{
    Outcome, Place,
    asked::{self, Asked},
    output::{self, Output},
    rim, run,
};
use crate::{
    config::Config,
    engine,
    serve::{Catalog, UserTable},
};

#[derive(Args)]
pub(super) struct Arguments {
    /// One SELECT; live data is in the schema public, test data in the schema test
    sql: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    asked: Asked,
    /// How rows are written
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { place, asked, .. } = &arguments;
    let catalog = if asked.is_history() { asked.catalog(place, None).await? } else { catalog(place).await? };
    let rows = catalog.sql(&arguments.sql).await.map_err(rim::report)?;
    let schema = Arc::clone(rows.schema().inner());
    let batches = rows.collect().await.into_diagnostic()?;
    output::print(&schema, &batches, arguments.output)?;
    Ok(Outcome::Done)
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

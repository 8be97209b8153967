//! `tributary query`

use std::sync::Arc;

use clap::Args;
use miette::IntoDiagnostic;

use super::{
    Outcome, Place,
    output::{self, Output},
    rim,
};
use crate::{engine, serve::Catalog, stream::calendar};

#[derive(Args)]
pub(super) struct Arguments {
    /// One SELECT; live data is in the schema public, test data in the schema test
    sql: String,
    #[command(flatten)]
    place: Place,
    /// How rows are written
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let catalog = catalog(&arguments.place).await?;
    let rows = catalog.sql(&arguments.sql).await.map_err(rim::report)?;
    let schema = Arc::clone(rows.schema().inner());
    let batches = rows.collect().await.into_diagnostic()?;
    output::print(&schema, &batches, arguments.output)?;
    Ok(Outcome::Done)
}

/// The tables of a data directory as of its last checkpoint.
pub(super) async fn catalog(place: &Place) -> miette::Result<Catalog> {
    let zone = place.config()?.zone().map_err(rim::report)?;
    let tables = engine::committed_tables(&place.data_dir, zone).await.map_err(rim::engine_report)?;
    if tables.is_empty() {
        miette::bail!(
            help = "run `tributary run --once` on it first",
            "there are no tables in {}",
            place.data_dir.display()
        );
    }
    Catalog::new(tables, vec![calendar::local_date()]).await.map_err(rim::report)
}

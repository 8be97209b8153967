//! `tributary test`

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Outcome, Place, output, pipeline_dir, pipelines, rim};
use crate::{
    config::Config,
    engine,
    stream::sidecar::{self, Sidecar},
};

/// Where tests are, below the directory of pipelines.
const TESTS: &str = "tests";

#[derive(Args)]
pub(super) struct Arguments {
    /// Pipelines whose tests to run; all if none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let config = arguments.place.config()?;
    let dir = pipeline_dir(&config).map(|dir| dir.join(TESTS));
    let files = pipelines(&config)?;
    let sidecars = chosen(dir.as_deref(), &arguments.names)?;
    let relations = engine::relations().map_err(rim::engine_report)?;
    // The defaults, whatever is configured: a test says the same everywhere.
    let settings = Config::default().settings();
    let (mut all, mut failed) = (0, 0);
    for sidecar in &sidecars {
        for case in &sidecar.tests {
            let found = sidecar.run(case, &files, &relations, &settings).await.map_err(report)?;
            let verdict = if found.is_empty() { "ok" } else { "FAILED" };
            output::say(format_args!("{}: {} … {verdict}", sidecar.pipeline, case.name))?;
            for line in &found {
                output::say(format_args!("    {line}"))?;
            }
            all += 1;
            failed += usize::from(!found.is_empty());
        }
    }
    output::say(format_args!("{all} tests, {failed} failed"))?;
    Ok(if failed > 0 { Outcome::Findings } else { Outcome::Done })
}

/// The files of tests for these pipelines.
fn chosen(dir: Option<&Path>, names: &[String]) -> miette::Result<Vec<Sidecar>> {
    let Some(dir) = dir.filter(|dir| dir.is_dir()) else {
        let expected = dir.map_or_else(|| PathBuf::from("pipelines").join(TESTS), Path::to_owned);
        miette::bail!(
            help = "tests stand beside pipelines; CONTRIBUTING.md shows how they are written",
            "there is no directory {}",
            expected.display()
        );
    };
    let mut sidecars = Sidecar::load_dir(dir).map_err(report)?;
    if let Some(name) = names.iter().find(|name| !sidecars.iter().any(|sidecar| sidecar.pipeline == **name)) {
        let tested: Vec<&str> = sidecars.iter().map(|sidecar| sidecar.pipeline.as_str()).collect();
        miette::bail!(
            help = format!("there are tests of: {}", tested.join(", ")),
            "there are no tests of `{name}` in {}",
            dir.display()
        );
    }
    sidecars.retain(|sidecar| names.is_empty() || names.contains(&sidecar.pipeline));
    Ok(sidecars)
}

/// A mistake in a pipeline's file keeps its place.
fn report(error: sidecar::Error) -> miette::Report {
    match error {
        sidecar::Error::Pipeline(file) => miette::Report::new(*file),
        other => rim::report(other),
    }
}

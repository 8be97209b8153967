//! `tributary plan`

use clap::Args;

use super::{Outcome, Place, output, pipelines, rim};
use crate::{
    config::Config,
    engine::{self, Standing, Step, Version},
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let config = arguments.place.config()?;
    let home = arguments.place.home(&config).await?;
    let steps = engine::plan(&home, &version(&config)?, &config.settings()).await;
    say(&steps.map_err(rim::engine_report)?)?;
    Ok(Outcome::Done)
}

/// The pipelines as they are in their files, with their parameters.
pub(super) fn version(config: &Config) -> miette::Result<Version> {
    Ok(Version { pipelines: pipelines(config)?, parameters: config.parameters.clone() })
}

/// What becomes of which pipeline.
pub(super) fn say(steps: &[Step]) -> miette::Result<()> {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY).set_header([
        "pipeline",
        "",
        "class",
        "columns",
        "rows to read",
    ]);
    for step in steps.iter().filter(|step| step.standing != Standing::Same) {
        let reads = if step.standing.rebuilds() { step.reads.to_string() } else { String::new() };
        let (change, columns) = (step.standing.to_string(), step.columns.join(", "));
        table.add_row([step.name.as_str(), &change, step.class.unwrap_or_default(), &columns, &reads]);
    }
    let count = |which: fn(&Standing) -> bool| steps.iter().filter(|step| which(&step.standing)).count();
    let rebuilt = count(Standing::rebuilds);
    let same = count(|change| *change == Standing::Same);
    if table.row_count() > 0 {
        output::say(table)?;
    }
    let reads: usize = steps.iter().map(|step| step.reads).sum();
    output::say(format_args!("{rebuilt} to rebuild, reading {reads} rows; {same} are as their files say"))
}

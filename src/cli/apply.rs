//! `tributary apply`

use clap::Args;

use super::{Outcome, Place, plan, request, rim};
use crate::engine::{self, Request, Standing};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let place = &arguments.place;
    let config = place.config()?;
    let version = plan::version(&config)?;
    let home = place.home(&config).await?;
    let steps = engine::plan(&home, &version, &config.settings()).await.map_err(rim::engine_report)?;
    plan::say(&steps)?;
    let change = Request::Apply(version.into());
    if steps.iter().all(|step| matches!(step.standing, Standing::Same | Standing::Paused)) {
        // An engine that runs may have something else on its way than the newest checkpoint says.
        return request::ask(&home, &change).await?.map_or(Ok(Outcome::Done), request::say);
    }
    request::perform(&config, place, home, change).await
}

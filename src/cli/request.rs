//! What `apply`, `pause` and `resume` have in common: the engine that runs is asked; where none runs, this process is the
//! engine for as long as it takes.

use super::{Outcome, Place, output, rim, run};
use crate::{
    config::Config,
    engine::{self, Answer, Request},
    log,
};

pub(super) async fn perform(config: &Config, place: &Place, request: Request) -> miette::Result<Outcome> {
    if let Some(answer) = ask(place, &request).await? {
        return say(answer);
    }
    let log = log::open(&config.log(&place.data_dir).map_err(rim::report)?).await.map_err(rim::report)?;
    let mut engine = run::open_engine(config, place, log).await?;
    let answer = engine.perform(request).await.map_err(rim::engine_report)?;
    engine.close().await;
    say(answer)
}

/// The answer of the engine that runs; none where none runs.
pub(super) async fn ask(place: &Place, request: &Request) -> miette::Result<Option<Answer>> {
    engine::ask(&place.data_dir, &rim::nonce(), request).await.map_err(rim::engine_report)
}

/// Says what came of a request.
pub(super) fn say(answer: Answer) -> miette::Result<Outcome> {
    if !answer.done {
        miette::bail!("{}", answer.message);
    }
    output::say(answer.message)?;
    Ok(Outcome::Done)
}

//! What `apply`, `pause`, `resume` and `replay` have in common: the engine that runs is asked; where none runs, this
//! process is the engine for as long as it takes.

use super::{Outcome, Place, output, rim, run};
use crate::{
    config::Config,
    engine::{self, Answer, Request},
    log,
    storage::Home,
};

pub(super) async fn perform(config: &Config, place: &Place, home: Home, request: Request) -> miette::Result<Outcome> {
    if let Some(answer) = ask(&home, &request).await? {
        return say(answer);
    }
    // One that runs on another machine would have to give way.
    let instead = "ask on the machine and with the data directory of the engine that runs";
    home.only_local("asking while no engine runs here", instead).map_err(rim::report)?;
    let log = log::open(&config.log(&place.data_dir).map_err(rim::report)?).await.map_err(rim::report)?;
    let mut engine = run::open_engine(config, run::engine_options(config, home)?, log).await?;
    let answer = engine.perform(request).await.map_err(rim::engine_report)?;
    engine.close().await;
    say(answer)
}

/// The answer of the engine that runs; none where none runs.
pub(super) async fn ask(home: &Home, request: &Request) -> miette::Result<Option<Answer>> {
    engine::ask(home, &rim::nonce(), request).await.map_err(rim::engine_report)
}

/// Says what came of a request.
pub(super) fn say(answer: Answer) -> miette::Result<Outcome> {
    if !answer.done {
        miette::bail!("{}", answer.message);
    }
    output::say(answer.message)?;
    Ok(Outcome::Done)
}

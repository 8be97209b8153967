//! `tributary pause`, `tributary resume` and `tributary replay`

use clap::Args;

use super::{Outcome, Place, request};
use crate::engine::Request;

#[derive(Args)]
pub(super) struct Arguments {
    /// Name of a pipeline
    name: String,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn pause(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { name, place } = arguments;
    perform(&place, Request::Pause { pipeline: name }).await
}

pub(super) async fn resume(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { name, place } = arguments;
    perform(&place, Request::Resume { pipeline: name }).await
}

pub(super) async fn replay(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { name, place } = arguments;
    perform(&place, Request::Replay { pipeline: name }).await
}

async fn perform(place: &Place, request: Request) -> miette::Result<Outcome> {
    let config = place.config()?;
    let home = place.home(&config).await?;
    request::perform(&config, place, home, request).await
}

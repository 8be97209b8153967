//! `tributary pause` and `tributary resume`

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
    request::perform(&place.config()?, &place, Request::Pause { pipeline: name }).await
}

pub(super) async fn resume(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { name, place } = arguments;
    request::perform(&place.config()?, &place, Request::Resume { pipeline: name }).await
}

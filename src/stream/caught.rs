//! A query that panics is the failure of its pipeline, and of no other work.
//!
//! Queries run code that is not ours over data that nobody has seen. What a panic says may hold a value of a row, so it
//! goes no further than the hook that prints it; whoever asks hears which pipeline it was.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use super::Error;

/// What the work of a pipeline comes to, also where it panics: then its state is of no use.
pub(super) async fn caught<T>(pipeline: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    ended.unwrap_or_else(|_| Err(Error::Panicked(pipeline.to_owned())))
}

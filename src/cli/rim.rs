//! Where the outside world comes in: the clock, randomness, the runtime, signals.

use std::{error::Error as StdError, io, sync::Arc, time::SystemTime};

use miette::{Diagnostic, IntoDiagnostic, Report};
use tokio::sync::watch;

use crate::{
    act,
    config::Config,
    stripe, threads,
    time::{Clock, EventTime},
};

/// The system's clock.
#[allow(clippy::disallowed_methods, reason = "the rim is where the real clock is read")]
pub(super) fn now() -> EventTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    EventTime::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The system's clock, to be passed in.
pub(super) fn clock() -> Clock {
    Arc::new(now)
}

/// Randomness for spreading retries out.
#[allow(clippy::disallowed_methods, reason = "the rim is where randomness comes in")]
pub(super) fn jitter() -> act::Jitter {
    Arc::new(|| rand::random_range(0.0..1.0))
}

/// Sixteen random bytes.
#[allow(clippy::disallowed_methods, reason = "the rim is where randomness comes in")]
pub(super) fn random() -> [u8; 16] {
    rand::random()
}

/// A random text, another one each time.
pub(super) fn nonce() -> String {
    hex::encode(random())
}

/// The door into the log.
pub(super) fn admission(config: &Config) -> miette::Result<stripe::admission::Admission> {
    let redactor = stripe::redaction::Redactor::builtin().map_err(report)?;
    Ok(stripe::admission::Admission::new(redactor, config.account()).with_key(config.log.key))
}

/// Any error as a report: its message, and those of its causes that it does not repeat.
pub(super) fn report(error: impl StdError) -> Report {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = inner.source();
    }
    Report::msg(text)
}

/// An error of the engine as a report; a mistake in a pipeline's file keeps its place.
pub(super) fn engine_report(error: crate::engine::Error) -> Report {
    match error {
        crate::engine::Error::Pipeline(file) => Report::new(*file),
        other => report(other),
    }
}

/// The reader of our output went away.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("the reader of the output went away")]
struct ReaderGone;

/// An error of writing to standard output as a report.
pub(super) fn output_report(error: io::Error) -> Report {
    if error.kind() == io::ErrorKind::BrokenPipe { Report::new(ReaderGone) } else { report(error) }
}

/// Whether the reader of our output went away, which is no failure.
pub(super) fn is_broken_pipe(report: &Report) -> bool {
    report.downcast_ref::<ReaderGone>().is_some()
}

/// Runs a command's future to its end.
pub(super) fn block_on<T>(future: impl Future<Output = miette::Result<T>>) -> miette::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads::count())
        .enable_all()
        .build()
        .into_diagnostic()?;
    let outcome = runtime.block_on(future);
    if outcome.is_err() {
        // What is still at work, such as requests to a store that is away, ends with the process. Without a runtime under
        // it, it would panic.
        std::mem::forget(runtime);
    }
    outcome
}

/// Becomes true at the first Ctrl-C or SIGTERM.
pub(super) fn stop_signal() -> miette::Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).into_diagnostic()?;
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        stop.send_replace(true);
    });
    Ok(stopped)
}

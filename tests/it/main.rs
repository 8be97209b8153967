//! One binary for all integration tests: linking it is what takes long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, say what they skip, and are the rim: they bring the clock in"
)]

mod alerts;
mod alerts_official;
mod alerts_rules;
mod alerts_support;
mod checkpoint;
mod delta;
mod delta_model;
mod documents;
mod end_to_end;
mod engine;
mod gateway;
mod how_we_count;
mod ledger;
mod log_conformance;
mod log_embedded;
mod log_kafka;
mod log_support;
mod model;
mod model_dataset;
mod model_registry;
mod model_telco;
mod needs;
mod oracle;
mod pipelines;
mod pipelines_items;
mod pipelines_limits;
mod serve;
mod serve_view;
mod sigma_views;
mod simulate;
mod stripe_reading;
mod stripe_redaction;
mod stripe_shapes;
mod stripe_support;
mod tables_read;

/// How long a test waits for what must come, on however busy a machine; a wait is over when it has come.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(180);

/// When a soak is over; after a minute where nobody says.
fn soak_end() -> std::time::Instant {
    let seconds = std::env::var("TRIBUTARY_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    std::time::Instant::now() + std::time::Duration::from_secs(seconds.unwrap_or(60))
}

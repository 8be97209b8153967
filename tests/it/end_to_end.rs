//! The promises of the whole product, kept by the real program in real processes on a directory of their own.

mod alerts;
mod bucket;
mod catalogue;
mod changes;
mod commands;
mod crash;
mod explain;
mod fencing;
mod history;
mod intake;
mod kafka;
mod kill_loop;
mod metrics;
mod operating;
mod pipelines;
mod rebuild;
mod revenue;
mod s3;
mod scores;
mod serving;
mod sidecar;
pub(crate) mod sigma;
mod support;
mod truth;

//! The promises of the whole product, kept by the real program in real processes on a directory of their own.

mod alerts;
mod commands;
mod crash;
mod explain;
mod history;
mod intake;
mod kafka;
mod metrics;
mod pipelines;
mod rebuild;
mod scores;
mod serving;
mod support;
mod truth;

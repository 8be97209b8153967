//! Tributary: stream-processing analytics for Stripe.
//!
//! Stripe's events go into a log, come out as an exact ledger of recurring revenue, flow through SQL pipelines, are
//! scored by a churn model, and land in Delta tables that PostgreSQL clients can query; expansions raise alerts.
//! `ARCHITECTURE.md` is the map of the modules; data only ever moves from the first to the last of them.

pub mod act;
pub mod cli;
pub mod config;
pub mod engine;
pub mod explain;
pub mod gateway;
pub mod ledger;
pub mod log;
pub mod model;
pub mod money;
pub mod serve;
pub mod simulate;
pub mod sink;
pub mod storage;
pub mod stream;
pub mod stripe;
pub mod tables;
pub mod telemetry;
pub mod threads;
pub mod time;

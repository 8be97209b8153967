//! The ledger, seen from outside: the worked cases of "How we count", and properties of random histories.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod any_order;
mod arrival;
pub(crate) mod book;
mod cases;
mod catalogue;
mod examples;
mod histories;
mod life;
mod money_events;
mod profiles;
mod properties;
mod recognition;
mod rules;
mod schedules;
mod sums;
mod usage;
mod versions;

//! The ledger, seen from outside: the worked cases of "How we count", and properties of random histories.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod book;
mod cases;
mod life;
mod money_events;
mod properties;
mod recognition;
mod rules;
mod schedules;
mod usage;

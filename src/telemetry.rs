//! Logging: to standard error only, for people on a terminal and as JSON elsewhere. Identifiers may be logged;
//! bodies, names, addresses and secrets never are.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise: our own news, and warnings of libraries.
const DEFAULT_FILTER: &str = "warn,tributary=info";

/// Starts logging for this process; a second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Fails only when a log has been set up before, which then stays.
    let _ = if io::stderr().is_terminal() { log.try_init() } else { log.json().try_init() };
}

//! How many threads work side by side: one number for the whole process, `[engine] threads` or the number of its cores.
//!
//! The command line sets it once, before it starts the runtime. What is computed does not depend on it, only how fast
//! that is, so it is asked for where work is divided and not passed through everything above.

use std::{num::NonZero, sync::OnceLock, thread};

static THREADS: OnceLock<NonZero<usize>> = OnceLock::new();

/// Sets the number, before anything has asked for it; later it stays as it is.
pub fn set(threads: NonZero<usize>) {
    // What is at work has been divided already.
    let _ = THREADS.set(threads);
}

/// How many threads work side by side; at least 1.
#[must_use]
pub fn count() -> usize {
    THREADS.get_or_init(|| thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)).get()
}

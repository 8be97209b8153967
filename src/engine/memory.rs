//! The memory budget. At it the log is not read any further until there is room again: the engine goes on serving where
//! the system would have ended it.

use std::{fs, time::Duration};

use tokio::time::Instant;

use super::{Engine, Error};

/// How often the memory in use is looked at, and waited for.
const LOOK: Duration = Duration::from_millis(100);

/// How long an engine that has to reach the log's end waits for room.
const PATIENCE: Duration = Duration::from_secs(10);

/// What of the machine's memory, or of the container's, is the budget if none is set: as many quarters. The rest is for
/// the system's file cache, and for what comes between two looks.
const DEFAULT_SHARE: u64 = 3;

const MIB: u64 = 1024 * 1024;

/// What the process uses of what it may use.
pub(super) struct Memory {
    budget: u64,
    used: u64,
    is_full: bool,
    looked: Option<Instant>,
}

impl Memory {
    /// With a budget in bytes; by default three quarters of what the machine, or the container, has.
    pub(super) fn new(budget: Option<u64>) -> Self {
        let budget = budget.or_else(|| available().map(|bytes| bytes / 4 * DEFAULT_SHARE)).unwrap_or(u64::MAX);
        Self { budget, used: 0, is_full: false, looked: None }
    }

    /// Bytes in use when they were last looked at, and the budget.
    pub(super) fn figures(&self) -> (u64, u64) {
        (self.used, self.budget)
    }

    /// Looks again, if it is time. Whether reading has to wait.
    fn look(&mut self) -> bool {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            self.note(resident().unwrap_or(0));
        }
        self.is_full
    }

    /// Full from the budget on, and until a sixteenth of it is free again.
    fn note(&mut self, used: u64) {
        let limit = if self.is_full { self.budget - self.budget / 16 } else { self.budget };
        self.used = used;
        self.is_full = used >= limit;
    }
}

impl Engine {
    /// Whether reading has to wait for memory. When that begins everything new goes to the tables, which makes room.
    pub(super) async fn is_out_of_memory(&mut self) -> Result<bool, Error> {
        let was = self.memory.is_full;
        let is = self.memory.look();
        let (used, budget) = self.memory.figures();
        if is && !was {
            let (used_mib, budget_mib) = (used / MIB, budget / MIB);
            tracing::warn!(used_mib, budget_mib, "the memory budget is used up; reading is paused until there is room");
            self.decide_checkpoint().await?;
        }
        if was && !is {
            tracing::info!(used_mib = used / MIB, "there is room in memory again; reading goes on");
        }
        Ok(is)
    }

    /// Waits a little for memory.
    pub(super) async fn rest(&self) {
        tokio::time::sleep(LOOK).await;
    }

    /// Waits until there is room in memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is none after a while.
    pub(super) async fn wait_for_room(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        while self.is_out_of_memory().await? {
            let (used, budget) = self.memory.figures();
            if began.elapsed() >= PATIENCE {
                return Err(Error::OutOfMemory { used_mib: used / MIB, budget_mib: budget / MIB });
            }
            self.rest().await;
        }
        Ok(())
    }
}

/// Bytes of this process in memory.
fn resident() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Bytes that the machine has, or what the container may use of them.
fn available() -> Option<u64> {
    let machine = kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:");
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|limit| limit.trim().parse().ok());
    machine.into_iter().chain(container).min()
}

/// The value of a line `NAME   123 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn reading_waits_from_the_budget_on_until_a_sixteenth_is_free() {
        let mut memory = Memory::new(Some(1_600));
        let full = [1_599, 1_600, 1_599, 1_500, 1_499, 1_599].map(|used| {
            memory.note(used);
            memory.is_full
        });
        assert_eq!(full, [false, true, true, true, false, false]);
    }

    #[test]
    fn the_system_says_what_is_used_and_what_there_is() {
        assert_eq!(kibibytes("VmPeak:\t 10 kB\nVmRSS:\t    123 kB\n", "VmRSS:"), Some(123 * 1024));
        assert_eq!(kibibytes("VmPeak:\t 10 kB\n", "VmRSS:"), None);
        let (used, there_is) = (resident().unwrap(), available().unwrap());
        assert!(MIB < used && used < there_is);
        assert_eq!(Memory::new(None).figures().1, there_is / 4 * DEFAULT_SHARE);
    }
}

//! Counters by name with a bound, for what is unknown or dropped. They promise a bounded memory whatever the input
//! says, and that nothing is lost from the sum.

use std::collections::HashMap;

/// Distinct unknown names kept apart. Stripe has about 180 object types and a few hundred enum values; far more
/// means that the input is not Stripe's.
pub const MAX_UNKNOWN_NAMES: usize = 1_000;

/// Distinct dropped paths kept apart: all of Stripe's objects together have about 4,000 paths.
pub const MAX_DROPPED_PATHS: usize = 4_096;

/// Bytes of a name that are kept: longer ones are not Stripe's.
pub const MAX_NAME_BYTES: usize = 160;

/// What readers did not know, as `object=payout` or `subscription.status=frozen`.
pub type UnknownCounts = Counts<MAX_UNKNOWN_NAMES>;

/// What redaction dropped, as `invoice.lines[].description`.
pub type DroppedPaths = Counts<MAX_DROPPED_PATHS>;

/// Counts by name, `LIMIT` names at most; what comes after is counted together in [`Counts::beyond_limit`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts<const LIMIT: usize> {
    names: HashMap<String, u64>,
    beyond_limit: u64,
}

impl<const LIMIT: usize> Counts<LIMIT> {
    /// Counts `name` once.
    pub fn count(&mut self, name: &str) {
        self.add(name, 1);
    }

    /// Counts `name` `times` times.
    pub fn add(&mut self, name: &str, times: u64) {
        let name = &name[..name.floor_char_boundary(MAX_NAME_BYTES)];
        if let Some(count) = self.names.get_mut(name) {
            *count += times;
        } else if self.names.len() < LIMIT {
            self.names.insert(name.to_owned(), times);
        } else {
            self.beyond_limit += times;
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (name, times) in &other.names {
            self.add(name, *times);
        }
        self.beyond_limit += other.beyond_limit;
    }

    /// How often `name` was counted.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.names.get(name).copied().unwrap_or(0)
    }

    /// Names that found no room any more.
    #[must_use]
    pub fn beyond_limit(&self) -> u64 {
        self.beyond_limit
    }

    /// Everything counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.names.values().sum::<u64>() + self.beyond_limit
    }

    /// The names with their counts, sorted by name.
    #[must_use]
    pub fn sorted(&self) -> Vec<(&str, u64)> {
        let mut rows: Vec<_> = self.names.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        rows.sort_unstable();
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_limit_stay_in_the_sum() {
        let mut counts = Counts::<2>::default();
        for name in ["a", "b", "a", "c", "d"] {
            counts.count(name);
        }
        assert_eq!(counts.sorted(), [("a", 2), ("b", 1)]);
        assert_eq!((counts.beyond_limit(), counts.total()), (2, 5));
        let mut sum = counts.clone();
        sum.merge(&counts);
        assert_eq!((sum.get("a"), sum.total()), (4, 10));
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let mut counts = UnknownCounts::default();
        counts.count(&"ü".repeat(1_000));
        assert_eq!(counts.sorted()[0].0.len(), MAX_NAME_BYTES);
    }
}

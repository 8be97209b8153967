//! What holds when an epoch ends, beside what it changed: small relations as a whole, and up to when the log is complete.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use chrono_tz::Tz;

/// The end of an epoch.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct EpochEnd {
    /// The whole content of the small relations, after the change.
    pub small: BTreeMap<String, RecordBatch>,
    /// Up to when the log is taken as complete.
    pub complete: Completeness,
    /// The greatest event time, in microseconds since 1970, and the zone in whose calendar schedules run.
    pub clock: Option<(i64, Tz)>,
}

/// For each account and mode the instant up to which its log is taken as complete, in microseconds since 1970: a window
/// that ends by then has closed. It never goes back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Completeness(BTreeMap<String, [i64; 2]>);

impl Completeness {
    /// Moves an account and mode on to an instant; one that has been passed changes nothing.
    pub fn advance(&mut self, account: &str, livemode: bool, micros: i64) {
        let known = match self.0.get_mut(account) {
            Some(known) => known,
            None => self.0.entry(account.to_owned()).or_insert([i64::MIN; 2]),
        };
        let known = &mut known[usize::from(livemode)];
        *known = micros.max(*known);
    }

    /// Up to when the log of an account and mode is complete; none before its first event.
    #[must_use]
    pub fn until(&self, account: &str, livemode: bool) -> Option<i64> {
        self.0.get(account).map(|known| known[usize::from(livemode)]).filter(|micros| *micros > i64::MIN)
    }

    /// Whether a window of an account and mode that ends at an instant has closed.
    #[must_use]
    pub fn has_passed(&self, account: &str, livemode: bool, window_end: i64) -> bool {
        self.until(account, livemode).is_some_and(|until| window_end <= until)
    }

    /// Account, mode and instant, of all of which anything is known.
    pub fn iter(&self) -> impl Iterator<Item = (&str, bool, i64)> {
        let both = self
            .0
            .iter()
            .flat_map(|(account, [test, live])| [(account.as_str(), false, *test), (account.as_str(), true, *live)]);
        both.filter(|(_, _, micros)| *micros > i64::MIN)
    }
}

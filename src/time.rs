//! Instants. Everything inside Tributary is UTC and event time; a zone matters only where a window or a
//! display needs a calendar day.

use std::{fmt, sync::Arc};

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// Tells the time; passed in at the rim, so that tests decide what it is.
pub type Clock = Arc<dyn Fn() -> EventTime + Send + Sync>;

/// Microseconds in one day.
pub const DAY_MICROS: i64 = 86_400_000_000;

/// An instant in UTC, in microseconds since 1970-01-01. Stripe's `created` has whole seconds; append times of
/// the log have milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventTime(i64);

impl EventTime {
    /// The earliest instant that can be told apart; smaller than every real one.
    pub const MIN: Self = Self(i64::MIN);

    /// From whole seconds since 1970, as Stripe writes times.
    #[must_use]
    pub fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// From milliseconds since 1970, as logs stamp their records.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// From microseconds since 1970.
    #[must_use]
    pub fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, rounded down.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This instant, `days` days of 24 hours later (earlier if negative).
    #[must_use]
    pub fn plus_days(self, days: i64) -> Self {
        Self(self.0.saturating_add(days.saturating_mul(DAY_MICROS)))
    }

    /// The calendar day in UTC.
    #[must_use]
    pub fn utc_day(self) -> NaiveDate {
        self.to_utc().date_naive()
    }

    /// As a chrono instant; values outside chrono's range are clamped to the epoch.
    #[must_use]
    pub fn to_utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default()
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

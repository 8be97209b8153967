//! The books the simulator keeps while it makes events, and the files they are written to.
//!
//! Promises that a day's closing is the state after the last event `created` on that day (UTC), the sum over items
//! of each item's monthly value rounded half-even to six places. Leaves to [`super`] when a value changes.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use chrono::{DateTime, NaiveDate};

use super::catalog::CURRENCIES;

/// Seconds of a day.
pub(super) const DAY: i64 = 86_400;

/// One customer at risk in one calendar month. Each probability is that of its own cause, as if the others could not
/// happen first.
#[derive(Clone, Debug, PartialEq)]
pub struct Hazard {
    /// `cus_…`
    pub customer_id: Box<str>,
    /// The first day of the calendar month (UTC).
    pub month: NaiveDate,
    /// The customer asks for all its subscriptions to end (its MRR leaves at the request) in the month.
    pub voluntary: f64,
    /// All its subscriptions are lost by payments that were never recovered, in the month; 0 when no payment's last
    /// retry can fall into it.
    pub involuntary: f64,
    /// The customer decides in the month to buy more.
    pub expansion: f64,
}

/// What is true of the simulated account.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// Day, currency and closing MRR in millionths of the major unit, under the profile `stripe`: every day from the
    /// currency's first counted one to the day of the last event.
    pub mrr_daily: Vec<(NaiveDate, &'static str, i128)>,
    /// Every customer-month that began with counted MRR; whole calendar months from the second one on.
    pub hazards: Vec<Hazard>,
    /// Events made, doubles not counted.
    pub events: u64,
}

impl Truth {
    /// Writes `mrr_daily.csv` (`day,currency,closing`) and `hazard_monthly.csv`
    /// (`customer_id,month,voluntary,involuntary,expansion`) into a folder, made if absent.
    ///
    /// # Errors
    /// When the folder or a file cannot be written.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut out = BufWriter::new(File::create(folder.join("mrr_daily.csv"))?);
        writeln!(out, "day,currency,closing")?;
        for (day, currency, micros) in &self.mrr_daily {
            let sign = if *micros < 0 { "-" } else { "" };
            let size = micros.unsigned_abs();
            writeln!(out, "{day},{currency},{sign}{}.{:06}", size / 1_000_000, size % 1_000_000)?;
        }
        out.flush()?;
        let mut out = BufWriter::new(File::create(folder.join("hazard_monthly.csv"))?);
        writeln!(out, "customer_id,month,voluntary,involuntary,expansion")?;
        for row in &self.hazards {
            let month = row.month.format("%Y-%m");
            let Hazard { customer_id, voluntary, involuntary, expansion, .. } = row;
            writeln!(out, "{customer_id},{month},{voluntary:.9},{involuntary:.9},{expansion:.9}")?;
        }
        out.flush()
    }
}

/// Running totals by currency, closed at each day's end.
pub(super) struct Books {
    day: Option<i64>,
    totals: [i128; CURRENCIES.len()],
    started: [bool; CURRENCIES.len()],
    closings: Vec<(NaiveDate, &'static str, i128)>,
}

impl Books {
    pub(super) fn new() -> Self {
        Self { day: None, totals: [0; CURRENCIES.len()], started: [false; CURRENCIES.len()], closings: Vec::new() }
    }

    /// An event was made at `at`: all earlier days are closed.
    pub(super) fn reach(&mut self, at: i64) {
        let today = at.div_euclid(DAY);
        let mut day = *self.day.get_or_insert(today);
        while day < today {
            self.close(day);
            day += 1;
        }
        self.day = Some(day);
    }

    /// MRR of a currency changed today.
    pub(super) fn change(&mut self, currency: usize, micros: i128) {
        self.totals[currency] += micros;
        self.started[currency] |= micros != 0;
    }

    /// Closes the last day.
    pub(super) fn finish(mut self) -> Vec<(NaiveDate, &'static str, i128)> {
        if let Some(day) = self.day {
            self.close(day);
        }
        self.closings
    }

    fn close(&mut self, day: i64) {
        for (at, currency) in CURRENCIES.iter().enumerate() {
            if self.started[at] {
                self.closings.push((date(day * DAY), currency.code, self.totals[at]));
            }
        }
    }
}

/// The UTC day of an instant.
pub(super) fn date(at: i64) -> NaiveDate {
    DateTime::from_timestamp(at, 0).map_or(NaiveDate::MIN, |time| time.date_naive())
}

//! Person-months: one row per customer at risk and month start, labelled by what happened next.
//!
//! At risk is a customer who pays at the month's start and has not already scheduled a cancellation (predicting
//! that one is leakage). The features are those in force: the latest row of a day *before* the snapshot. The label
//! says whether paid MRR fell to zero within the horizon; rows whose horizon ends after the data are censored and
//! left out, churned or not, because keeping only the known churns would bias the rate. What is left out is
//! counted. Blocks follow each other in time, and no label of one reaches into the next.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use chrono::{Datelike, Days, Months, NaiveDate};

use super::{
    Error,
    features::{FeatureNames, FeatureRow, Subject},
};

/// Default horizon of the label in days: one billing month.
pub const HORIZON_DAYS: u32 = 30;

/// Most person-months a data set holds: at 30 features about half a gigabyte. More are refused.
pub const MAX_EXAMPLES: usize = 1_000_000;

/// Share of the snapshots given to the calibration block, and again to the test block (each at least one).
pub const HOLDOUT_SHARE: f64 = 0.2;

/// Snapshots needed for three blocks that do not touch.
pub const MIN_SNAPSHOTS: usize = 3;

/// A stretch of days whose closing MRR is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayingInterval {
    /// First day that closes with MRR.
    pub start: NaiveDate,
    /// First day after it that closes without; none while the customer pays.
    pub end: Option<NaiveDate>,
}

/// Paying intervals from closings: (day, whether the day closes with MRR), ascending; days that are not listed
/// keep the state before them.
#[must_use]
pub fn paying_intervals(closings: impl IntoIterator<Item = (NaiveDate, bool)>) -> Vec<PayingInterval> {
    let mut intervals: Vec<PayingInterval> = Vec::new();
    for (day, paying) in closings {
        match (intervals.last_mut().filter(|open| open.end.is_none()), paying) {
            (None, true) => intervals.push(PayingInterval { start: day, end: None }),
            (Some(open), false) => open.end = Some(day),
            (None, false) | (Some(_), true) => {}
        }
    }
    intervals
}

/// How person-months are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Days from the snapshot within which churn counts, the snapshot's day included.
    pub horizon_days: u32,
    /// Last day that the data cover wholly.
    pub last_day: NaiveDate,
    /// Snapshots before this day are not used.
    pub first_snapshot: Option<NaiveDate>,
    /// Feature that is positive when a cancellation is already scheduled: such rows are not at risk.
    pub cancel_scheduled: Option<String>,
}

impl Options {
    /// The default horizon, all snapshots, `cancel_scheduled` not named.
    #[must_use]
    pub fn until(last_day: NaiveDate) -> Self {
        Self { horizon_days: HORIZON_DAYS, last_day, first_snapshot: None, cancel_scheduled: None }
    }
}

/// A customer at risk at a month's start.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Who.
    pub subject: Arc<Subject>,
    /// First day of the month; the state is the one at its first instant.
    pub snapshot: NaiveDate,
    /// Features in force, in the order of the names.
    pub values: Vec<Option<f64>>,
    /// Whether paid MRR fell to zero within the horizon.
    pub churned: bool,
}

/// Person-months of paying customers that did not become rows, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// The horizon ends after the data.
    pub censored: usize,
    /// A cancellation was already scheduled.
    pub cancel_scheduled: usize,
    /// No feature row before the snapshot.
    pub no_features: usize,
}

/// Person-months in order of time.
#[derive(Clone, Debug)]
pub struct Dataset {
    names: FeatureNames,
    examples: Vec<Example>,
    horizon_days: u32,
    left_out: LeftOut,
}

/// Three blocks in order of time; the horizon of each ends before the next begins.
#[derive(Clone, Copy, Debug)]
pub struct Split<'a> {
    /// Weights are fitted here.
    pub train: &'a [Example],
    /// Probabilities are recalibrated here.
    pub calibrate: &'a [Example],
    /// Metrics are measured here.
    pub test: &'a [Example],
}

impl Dataset {
    /// Person-months from feature rows (any order) and paying intervals (ascending for each customer).
    ///
    /// # Errors
    /// [`Error::Width`], [`Error::NotFinite`], [`Error::DuplicateRow`] and [`Error::Intervals`] for input that
    /// contradicts itself, [`Error::Options`] for an unknown column or no horizon, [`Error::TooManyRows`].
    pub fn build(
        names: FeatureNames,
        rows: &[FeatureRow],
        paying: &BTreeMap<Subject, Vec<PayingInterval>>,
        options: &Options,
    ) -> Result<Self, Error> {
        let scheduled =
            match &options.cancel_scheduled {
                Some(name) => Some(names.position(name).ok_or_else(|| {
                    Error::Options(format!("`cancel_scheduled` names `{name}`, which is not a feature"))
                })?),
                None => None,
            };
        let history = histories(&names, rows)?;
        let (mut examples, mut left_out) = (Vec::new(), LeftOut::default());
        for (subject, intervals) in paying {
            check_intervals(intervals)?;
            let rows = history.get(&key(&subject.account, subject.livemode, &subject.customer_id));
            let shared = Arc::new(subject.clone());
            for (interval, snapshot) in intervals.iter().flat_map(|i| month_starts(*i).map(move |s| (i, s))) {
                if snapshot > options.last_day {
                    break;
                }
                if options.first_snapshot.is_some_and(|first| snapshot < first) {
                    continue;
                }
                let horizon_end = snapshot + Days::new(options.horizon_days.into());
                let in_force = rows.and_then(|r| r[..r.partition_point(|row| row.as_of < snapshot)].last());
                let Some(row) = in_force else {
                    left_out.no_features += 1;
                    continue;
                };
                if scheduled.is_some_and(|i| row.values[i].is_some_and(|v| v > 0.0)) {
                    left_out.cancel_scheduled += 1;
                } else if horizon_end.pred_opt().is_none_or(|last| last > options.last_day) {
                    left_out.censored += 1;
                } else if examples.len() == MAX_EXAMPLES {
                    return Err(Error::TooManyRows { limit: MAX_EXAMPLES });
                } else {
                    let churned = interval.end.is_some_and(|end| end < horizon_end);
                    let values = row.values.clone();
                    examples.push(Example { subject: Arc::clone(&shared), snapshot, values, churned });
                }
            }
        }
        Self::from_examples(names, examples, options.horizon_days).map(|dataset| Self { left_out, ..dataset })
    }

    /// A data set of examples made elsewhere.
    ///
    /// # Errors
    /// As [`Dataset::build`] for values and horizon.
    pub fn from_examples(names: FeatureNames, mut examples: Vec<Example>, horizon_days: u32) -> Result<Self, Error> {
        if horizon_days == 0 {
            return Err(Error::Options("`horizon_days` must be at least 1".to_owned()));
        }
        examples.iter().try_for_each(|e| names.check(&e.values, Some(e.snapshot)))?;
        examples.sort_by(|a, b| a.snapshot.cmp(&b.snapshot).then_with(|| a.subject.cmp(&b.subject)));
        Ok(Self { names, examples, horizon_days, left_out: LeftOut::default() })
    }

    /// The feature names.
    #[must_use]
    pub fn names(&self) -> &FeatureNames {
        &self.names
    }

    /// The rows, by snapshot and customer.
    #[must_use]
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// Days of the label's horizon.
    #[must_use]
    pub fn horizon_days(&self) -> u32 {
        self.horizon_days
    }

    /// What did not become a row.
    #[must_use]
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// Cuts by time. Test takes the last [`HOLDOUT_SHARE`] of the snapshots, calibration as many of those whose
    /// horizon ends before test begins, training all whose horizon ends before calibration begins.
    ///
    /// # Errors
    /// [`Error::TooFewSnapshots`] when a block would be empty.
    pub fn split(&self) -> Result<Split<'_>, Error> {
        let mut snapshots: Vec<NaiveDate> = self.examples.iter().map(|e| e.snapshot).collect();
        snapshots.dedup();
        let too_few = Error::TooFewSnapshots { found: snapshots.len(), needed: MIN_SNAPSHOTS };
        let holdout = ((snapshots.len() as f64 * HOLDOUT_SHARE).round() as usize).max(1);
        let ends_before =
            |day: NaiveDate| snapshots.partition_point(|&s| s + Days::new(self.horizon_days.into()) <= day);
        let test_from = snapshots.len().saturating_sub(holdout);
        let calibrate_to = snapshots.get(test_from).map_or(0, |&day| ends_before(day));
        let calibrate_from = calibrate_to.saturating_sub(holdout);
        let train_to = snapshots.get(calibrate_from).map_or(0, |&day| ends_before(day));
        if train_to == 0 || calibrate_to == calibrate_from {
            return Err(too_few);
        }
        let rows = |from: usize, to: usize| {
            let at = |i: usize| match snapshots.get(i) {
                Some(&day) => self.examples.partition_point(|e| e.snapshot < day),
                None => self.examples.len(),
            };
            &self.examples[at(from)..at(to)]
        };
        Ok(Split {
            train: rows(0, train_to),
            calibrate: rows(calibrate_from, calibrate_to),
            test: rows(test_from, snapshots.len()),
        })
    }
}

type Key<'a> = (&'a str, bool, &'a str);

fn key<'a>(account: &'a str, livemode: bool, customer_id: &'a str) -> Key<'a> {
    (account, livemode, customer_id)
}

/// Rows of each customer, ascending by day.
fn histories<'a>(names: &FeatureNames, rows: &'a [FeatureRow]) -> Result<HashMap<Key<'a>, Vec<&'a FeatureRow>>, Error> {
    let mut history: HashMap<Key<'_>, Vec<&FeatureRow>> = HashMap::new();
    for row in rows {
        names.check(&row.values, Some(row.as_of))?;
        history.entry(key(&row.account, row.livemode, &row.customer_id)).or_default().push(row);
    }
    for rows in history.values_mut() {
        rows.sort_by_key(|row| row.as_of);
        if let Some(pair) = rows.windows(2).find(|pair| pair[0].as_of == pair[1].as_of) {
            return Err(Error::DuplicateRow { as_of: pair[0].as_of });
        }
    }
    Ok(history)
}

fn check_intervals(intervals: &[PayingInterval]) -> Result<(), Error> {
    let mut free_from = NaiveDate::MIN;
    for interval in intervals {
        if interval.start <= free_from || interval.end.is_some_and(|end| end <= interval.start) {
            return Err(Error::Intervals { near: interval.start });
        }
        free_from = interval.end.unwrap_or(NaiveDate::MAX);
    }
    Ok(())
}

/// Month starts at whose first instant the interval is open: its start lies before, its end not.
fn month_starts(interval: PayingInterval) -> impl Iterator<Item = NaiveDate> {
    let next = |day: NaiveDate| day.with_day(1).and_then(|first| first.checked_add_months(Months::new(1)));
    std::iter::successors(next(interval.start), move |&s| next(s))
        .take_while(move |&s| interval.end.is_none_or(|end| s <= end))
}

//! Revenue recognition: each line of a finalised invoice evenly over the period it pays for.
//!
//! Pure functions, exact until a row is written. What a row says is the difference of two rounded running values, so
//! that the rows of a line add up to its amount to the last digit, in any cut.
//!
//! A part of a line that is taken back (a refund, a credit note, a void, an invoice given up) is split at its instant:
//! what has been earned of it becomes contra-revenue at once, and the rest is cut from deferred revenue and never
//! recognised. So at every instant, net of tax:
//!
//! ```text
//! recognised − contra + deferred = billed − taken back
//! ```
//!
//! Days and months are those of UTC, as in Stripe's own reports. The examples there (docs.stripe.com/revenue-recognition,
//! settings and credit notes) are tests here.

use chrono::{Datelike, Months, NaiveDate};
use num_bigint::BigInt;
use num_traits::Zero;
use serde::{Deserialize, Serialize};

use super::packing::packed;
use crate::{
    money::{Amount, Currency, Error, Rational},
    time::EventTime,
};

/// How evenly "evenly" is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// With every instant alike, as Stripe does unless told otherwise.
    #[default]
    Millisecond,
    /// Whole days alike: the first counts, the last does not.
    Day,
    /// Calendar months alike, from the one in which the period begins.
    Month,
}

/// What a line pays for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Period {
    /// Its first instant.
    pub start: EventTime,
    /// The first instant after it; where that is no later than `start`, the line is earned at `start`.
    pub end: EventTime,
}

packed!(Period { start, end });

impl Period {
    /// How much of how much of the period has passed before `time`: nothing until it begins, all from its end on.
    fn elapsed(&self, method: Method, time: EventTime) -> (i64, i64) {
        if time <= self.start {
            return (0, 1);
        }
        let (passed, all) = match method {
            Method::Millisecond => (time.micros() - self.start.micros(), self.end.micros() - self.start.micros()),
            Method::Day => {
                let days = |to: EventTime| (to.utc_day() - self.start.utc_day()).num_days();
                (days(before(time)) + 1, days(self.end).max(1))
            }
            Method::Month => {
                let months = |to: EventTime| month_number(to) - month_number(self.start);
                (months(before(time)) + 1, self.months())
            }
        };
        if passed >= all { (1, 1) } else { (passed, all) }
    }

    /// The months the period spans, from its start and not from the calendar: the smallest number that reaches its end.
    fn months(&self) -> i64 {
        let start = self.start.to_utc();
        let calendar = (month_number(self.end) - month_number(self.start)).max(1);
        let reaches = |months: i64| {
            let months = u32::try_from(months).unwrap_or(u32::MAX);
            start.checked_add_months(Months::new(months)).is_none_or(|reached| reached >= self.end.to_utc())
        };
        if reaches(calendar) { calendar } else { calendar + 1 }
    }

    /// The first instant from which all is earned.
    #[must_use]
    pub fn earned_at(&self, method: Method) -> EventTime {
        match method {
            Method::Millisecond | Method::Day => self.end.max(self.start),
            Method::Month => first_of(month_number(self.start) + self.months() - 1).max(self.start),
        }
    }
}

/// The instant just before; shares are of what has passed before an instant.
fn before(time: EventTime) -> EventTime {
    EventTime::from_micros(time.micros() - 1)
}

/// Months since year 0.
fn month_number(time: EventTime) -> i64 {
    let day = time.utc_day();
    i64::from(day.year()) * 12 + i64::from(day.month0())
}

/// The first instant of a month by its number.
fn first_of(month: i64) -> EventTime {
    let year = i32::try_from(month.div_euclid(12)).unwrap_or(i32::MAX);
    let day = NaiveDate::from_ymd_opt(year, u32::try_from(month.rem_euclid(12)).unwrap_or(0) + 1, 1);
    let seconds = day.and_then(|day| day.and_hms_opt(0, 0, 0)).map(|instant| instant.and_utc().timestamp());
    EventTime::from_seconds(seconds.unwrap_or(i64::MAX / 1_000_000))
}

/// An amount that is earned over a period.
#[derive(Clone, PartialEq, Debug)]
pub struct Obligation {
    /// What the line bills, net of tax, in minor units; negative for a line that gives back.
    pub net_minor: Rational,
    /// Its currency.
    pub currency: Currency,
    /// What it pays for.
    pub period: Period,
    /// When its invoice was finalised.
    pub billed_at: EventTime,
}

/// A part of an obligation that is taken back; negative to give it again.
#[derive(Clone, PartialEq, Debug)]
pub struct TakenBack {
    /// When.
    pub at: EventTime,
    /// How much of the obligation, net of tax, in minor units.
    pub net_minor: Rational,
}

/// Changes of the books in one month; what a month ends with is the sum of all months up to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Booked {
    /// Billed.
    pub billed: Amount,
    /// Taken back of what was billed.
    pub taken_back: Amount,
    /// Earned.
    pub recognised: Amount,
    /// Earned before, and taken back: to be subtracted from revenue.
    pub contra: Amount,
    /// Change of what is billed and not yet earned; a balance below 0 is earned and not yet billed.
    pub deferred: Amount,
}

impl Booked {
    /// Whether nothing is booked.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Both together; `None` beyond `decimal(28,6)`.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        Some(Self {
            billed: self.billed.checked_add(other.billed)?,
            taken_back: self.taken_back.checked_add(other.taken_back)?,
            recognised: self.recognised.checked_add(other.recognised)?,
            contra: self.contra.checked_add(other.contra)?,
            deferred: self.deferred.checked_add(other.deferred)?,
        })
    }

    /// The opposite.
    #[must_use]
    pub fn negated(self) -> Self {
        Self {
            billed: -self.billed,
            taken_back: -self.taken_back,
            recognised: -self.recognised,
            contra: -self.contra,
            deferred: -self.deferred,
        }
    }
}

impl Obligation {
    /// The books up to `time`, as if nothing were taken back.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond `decimal(28,6)`.
    pub fn at(&self, method: Method, time: EventTime) -> Result<Booked, Error> {
        let share = |share| Amount::from_minor_share(&self.net_minor, share, self.currency);
        let billed = if self.billed_at < time { share((1, 1))? } else { Amount::ZERO };
        let recognised = share(self.period.elapsed(method, time))?;
        let deferred = billed.checked_sub(recognised).ok_or(Error::Overflow)?;
        Ok(Booked { billed, recognised, deferred, ..Booked::default() })
    }

    /// What taking back a part changes in the books up to `time`: contra-revenue for what had been earned of it, and
    /// for the rest less revenue from then on.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond `decimal(28,6)`.
    pub fn at_taken_back(&self, back: &TakenBack, method: Method, time: EventTime) -> Result<Booked, Error> {
        if time <= back.at {
            return Ok(Booked::default());
        }
        let share = |time| Amount::from_minor_share(&back.net_minor, self.period.elapsed(method, time), self.currency);
        let taken_back = Amount::from_minor(&back.net_minor, self.currency)?;
        let contra = share(back.at)?;
        let unearned = share(time)?.checked_sub(contra).ok_or(Error::Overflow)?;
        let rest = taken_back.checked_sub(contra).and_then(|rest| rest.checked_sub(unearned));
        Ok(Booked {
            billed: Amount::ZERO,
            taken_back,
            recognised: -unearned,
            contra,
            deferred: -rest.ok_or(Error::Overflow)?,
        })
    }

    /// The books of each month in which anything changes: the month's first day, and the change.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond `decimal(28,6)`.
    pub fn months(&self, method: Method) -> Result<Vec<(NaiveDate, Booked)>, Error> {
        let first = self.billed_at.min(self.period.start);
        let last = self.billed_at.max(self.period.earned_at(method));
        by_month(first, last, |time| self.at(method, time))
    }

    /// The same for a part that is taken back.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond `decimal(28,6)`.
    pub fn months_taken_back(&self, back: &TakenBack, method: Method) -> Result<Vec<(NaiveDate, Booked)>, Error> {
        let last = back.at.max(self.period.earned_at(method));
        by_month(back.at, last, |time| self.at_taken_back(back, method, time))
    }
}

/// Months of one line that are booked one by one: 50 years. What is left falls into the last of them.
pub const MAX_MONTHS: i64 = 600;

fn by_month(
    first: EventTime,
    last: EventTime,
    at: impl Fn(EventTime) -> Result<Booked, Error>,
) -> Result<Vec<(NaiveDate, Booked)>, Error> {
    let mut months = Vec::new();
    let mut so_far = Booked::default();
    let first = month_number(first);
    let last = month_number(last).min(first + MAX_MONTHS - 1);
    for month in first..=last {
        // Everything that there is to book lies before the end of time.
        let end = if month == first + MAX_MONTHS - 1 { EventTime::from_micros(i64::MAX) } else { first_of(month + 1) };
        let up_to = at(end)?;
        let change = up_to.plus(so_far.negated()).ok_or(Error::Overflow)?;
        so_far = up_to;
        if !change.is_nothing() {
            months.push((first_of(month).utc_day(), change));
        }
    }
    Ok(months)
}

/// Shares `amount` among lines in proportion to what they bill; nothing where they bill nothing together.
#[must_use]
pub fn share_out(amount: &Rational, nets: &[Rational]) -> Vec<Rational> {
    let all: Rational = nets.iter().sum();
    if all.is_zero() {
        return vec![Rational::zero(); nets.len()];
    }
    nets.iter().map(|net| amount * net / &all).collect()
}

/// The part of a gross amount (a refund, what is still owed) of an invoice that is not tax.
#[must_use]
pub fn net_of(gross_minor: i64, net_total: &Rational, gross_total: i64) -> Rational {
    let gross = Rational::from_integer(BigInt::from(gross_minor));
    if gross_total == 0 { gross } else { gross * net_total / BigInt::from(gross_total) }
}

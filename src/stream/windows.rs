//! Windows in event time: `TUMBLE` and `HOP` in FROM, and the scalar functions they are made of.
//!
//! `TUMBLE(table, time_column, INTERVAL '1' MONTH[, 'Europe/Berlin'])` gives each row the window it lies in, and
//! `HOP(table, time_column, slide, size[, zone])` each of the windows it lies in, as the columns `window_start` and
//! `window_end`, instants, and the date `window_day` on which the window begins. Rows without an instant are in none.
//!
//! Windows of days, weeks, months, quarters and years follow the zone's calendar: they begin at the first instant of
//! their first day, have 23 or 25 hours where the zone says so, and neither overlap nor leave a gap, also where there
//! is no midnight or where a minute past midnight becomes the day before again. Weeks begin on Mondays, and months are
//! counted from January. Windows of hours and less are counted from 1970-01-01T00:00Z; the zone only names their day.

mod described;
mod functions;
mod planner;

use arrow::datatypes::IntervalMonthDayNano;
use chrono::{Datelike, NaiveDate};
use chrono_tz::Tz;

pub(super) use self::described::described;
pub(super) use self::functions::{local_floor, local_hops, local_shift};
pub use self::planner::register;
pub(super) use self::planner::tables_in;
use super::calendar::{EPOCH_FROM_CE, first_instant, local_day};

/// The most windows of a HOP that a row may lie in: its rows are multiplied by as many.
pub const MAX_PANES: i64 = 8;

/// Monday, 1970-01-05, as days since 1970.
const A_MONDAY: i32 = 4;

/// The first instant of the window of an interval that another instant lies in.
pub(super) fn floor(interval: IntervalMonthDayNano, micros: i64, zone: Tz) -> Option<i64> {
    Span::of(interval).ok()?.shift(micros, 0, zone)
}

/// The length of a window, or the step from one to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Span {
    /// Months of the calendar, which divide or are a year.
    Months(i32),
    /// Days of the calendar.
    Days(i32),
    /// Microseconds.
    Fixed(i64),
}

impl Span {
    /// Reads a positive interval of one kind.
    fn of(interval: IntervalMonthDayNano) -> Result<Self, &'static str> {
        let IntervalMonthDayNano { months, days, nanoseconds } = interval;
        match (months, days, nanoseconds) {
            (1..=4 | 6 | 12, 0, 0) => Ok(Self::Months(months)),
            (_, 0, 0) if months != 0 => Err("windows of months have 1, 2, 3, 4, 6 or 12 of them"),
            (0, 1.., 0) => Ok(Self::Days(days)),
            (0, 0, 1_000..) if nanoseconds % 1_000 == 0 => Ok(Self::Fixed(nanoseconds / 1_000)),
            _ => Err("a window is a number of months, of days, or of hours and less, above 0"),
        }
    }

    /// How many of `self` make `other`, if a whole number does.
    fn times(self, other: IntervalMonthDayNano) -> Option<i64> {
        let (one, all) = match self {
            Self::Months(months) if other.days == 0 && other.nanoseconds == 0 => (months.into(), other.months.into()),
            Self::Days(days) if other.months == 0 && other.nanoseconds == 0 => (days.into(), other.days.into()),
            Self::Fixed(micros) if other.months == 0 && other.days == 0 && other.nanoseconds % 1_000 == 0 => {
                (micros, other.nanoseconds / 1_000)
            }
            _ => return None,
        };
        (all > 0 && all % one == 0).then_some(all / one)
    }

    /// The number of the pane that an instant lies in.
    fn pane(self, micros: i64, zone: Tz) -> Option<i64> {
        match self {
            Self::Fixed(length) => Some(micros.div_euclid(length)),
            Self::Days(length) => Some(i64::from((window_day(micros, zone)? - A_MONDAY).div_euclid(length))),
            Self::Months(length) => {
                let day = NaiveDate::from_num_days_from_ce_opt(window_day(micros, zone)? + EPOCH_FROM_CE)?;
                Some(i64::from((day.year() * 12 + i32::try_from(day.month0()).ok()?).div_euclid(length)))
            }
        }
    }

    /// The first instant of a pane.
    fn begin(self, pane: i64, zone: Tz) -> Option<i64> {
        let day = match self {
            Self::Fixed(length) => return pane.checked_mul(length),
            Self::Days(length) => i32::try_from(pane).ok()?.checked_mul(length)?.checked_add(A_MONDAY)?,
            Self::Months(length) => {
                let months = i32::try_from(pane).ok()?.checked_mul(length)?;
                let first =
                    NaiveDate::from_ymd_opt(months.div_euclid(12), months.rem_euclid(12).unsigned_abs() + 1, 1)?;
                first.num_days_from_ce() - EPOCH_FROM_CE
            }
        };
        first_instant(day, zone)
    }

    /// The first instant of the pane `count` panes after the one that an instant lies in.
    fn shift(self, micros: i64, count: i64, zone: Tz) -> Option<i64> {
        self.begin(self.pane(micros, zone)?.checked_add(count)?, zone)
    }

    /// The first instants of the `count` panes that end with the one an instant lies in, in their order. A day that the
    /// zone left out has no instant of its own, and begins no window.
    fn hops(self, micros: i64, count: i64, zone: Tz) -> Option<Vec<i64>> {
        let last = self.pane(micros, zone)?;
        let mut starts = (last - count + 1..=last).map(|pane| self.begin(pane, zone)).collect::<Option<Vec<_>>>()?;
        starts.dedup();
        Some(starts)
    }
}

/// The day whose first instant is the last one before or at an instant. It is the calendar's day, except where clocks
/// went back over midnight: what then comes a second time belongs to the day that had begun.
fn window_day(micros: i64, zone: Tz) -> Option<i32> {
    let day = local_day(micros, zone)?;
    Some(if first_instant(day + 1, zone)? <= micros { day + 1 } else { day })
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn at(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().unwrap().timestamp_micros()
    }

    fn zone(name: &str) -> Tz {
        name.parse().unwrap()
    }

    /// Instants where clocks change, and zones that have done odd things with them.
    const ZONES: [(&str, &str); 8] = [
        ("Africa/Cairo", "2024-04-20T00:00:00Z"),
        ("Asia/Beirut", "2024-03-26T00:00:00Z"),
        ("America/Havana", "2024-11-01T00:00:00Z"),
        ("Europe/Berlin", "2024-10-24T00:00:00Z"),
        // Clocks went back at a minute past midnight.
        ("America/St_Johns", "2010-11-04T00:00:00Z"),
        // A day was left out.
        ("Pacific/Apia", "2011-12-27T00:00:00Z"),
        // A gap of 44 minutes and 30 seconds after midnight.
        ("Africa/Monrovia", "1972-01-04T00:00:00Z"),
        ("Asia/Kathmandu", "2024-01-01T00:00:00Z"),
    ];

    #[test]
    fn windows_follow_each_other_without_gap_or_overlap_and_hold_their_rows() {
        for (name, from) in ZONES {
            let zone = zone(name);
            for span in [Span::Days(1), Span::Days(7), Span::Days(3), Span::Months(1), Span::Fixed(HOUR)] {
                let mut previous = None;
                for minutes in 0..8 * 24 * 60 {
                    let instant = at(from) + minutes * HOUR / 60;
                    let (start, end) = (span.shift(instant, 0, zone).unwrap(), span.shift(instant, 1, zone).unwrap());
                    assert!(start <= instant && instant < end, "{name} {span:?} {instant}: {start} {end}");
                    assert_eq!(span.shift(start, 0, zone), Some(start), "{name} {span:?}: a start is its own window's");
                    if let Some((known, until)) = previous.filter(|(known, _)| *known != start) {
                        assert_eq!(until, start, "{name} {span:?}: after {known}");
                    }
                    previous = Some((start, end));
                }
            }
        }
    }

    #[test]
    fn days_without_a_midnight_or_with_another_length_are_whole() {
        for (name, inside, start, hours) in [
            ("Africa/Cairo", "2024-04-26T12:00:00Z", "2024-04-25T22:00:00Z", 23),
            ("Africa/Cairo", "2024-04-25T12:00:00Z", "2024-04-24T22:00:00Z", 24),
            ("Asia/Beirut", "2024-03-31T12:00:00Z", "2024-03-30T22:00:00Z", 23),
            ("America/Havana", "2024-03-10T12:00:00Z", "2024-03-10T05:00:00Z", 23),
            ("America/Havana", "2024-11-03T04:30:00Z", "2024-11-03T04:00:00Z", 25),
            ("America/Havana", "2024-11-03T05:30:00Z", "2024-11-03T04:00:00Z", 25),
            ("Europe/Berlin", "2024-10-27T00:30:00Z", "2024-10-26T22:00:00Z", 25),
        ] {
            let (span, zone) = (Span::Days(1), zone(name));
            assert_eq!(span.shift(at(inside), 0, zone), Some(at(start)), "{name} {inside}");
            assert_eq!(span.shift(at(inside), 1, zone), Some(at(start) + hours * HOUR), "{name} {inside}");
        }
    }

    #[test]
    fn months_quarters_years_and_weeks_begin_where_the_calendar_says() {
        let berlin = zone("Europe/Berlin");
        for (span, start, end) in [
            (Span::Months(1), "2024-03-31T22:00:00Z", "2024-04-30T22:00:00Z"),
            (Span::Months(3), "2024-03-31T22:00:00Z", "2024-06-30T22:00:00Z"),
            (Span::Months(12), "2023-12-31T23:00:00Z", "2024-12-31T23:00:00Z"),
            // 2024-04-24 is a Wednesday.
            (Span::Days(7), "2024-04-21T22:00:00Z", "2024-04-28T22:00:00Z"),
            (Span::Fixed(HOUR), "2024-04-24T10:00:00Z", "2024-04-24T11:00:00Z"),
        ] {
            let instant = at("2024-04-24T10:30:00Z");
            assert_eq!(span.shift(instant, 0, berlin), Some(at(start)), "{span:?}");
            assert_eq!(span.shift(instant, 1, berlin), Some(at(end)), "{span:?}");
        }
        assert_eq!(Span::Days(7).shift(at("1969-12-31T12:00:00Z"), 0, Tz::UTC), Some(at("1969-12-29T00:00:00Z")));
    }

    #[test]
    fn a_row_lies_in_every_hop_that_holds_it_and_a_day_left_out_begins_none() {
        let hops = |span: Span, count, instant, name| span.hops(at(instant), count, zone(name)).unwrap();
        let days = hops(Span::Days(1), 3, "2024-04-26T12:00:00Z", "Africa/Cairo");
        assert_eq!(days, ["2024-04-23T22:00:00Z", "2024-04-24T22:00:00Z", "2024-04-25T22:00:00Z"].map(at));
        let days = hops(Span::Days(1), 3, "2011-12-31T02:00:00Z", "Pacific/Apia");
        assert_eq!(days, ["2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"].map(at));
    }

    #[test]
    fn an_interval_is_of_one_kind_and_a_size_a_multiple_of_its_slide() {
        let interval = IntervalMonthDayNano::new;
        assert_eq!(Span::of(interval(0, 7, 0)), Ok(Span::Days(7)));
        assert_eq!(Span::of(interval(0, 0, 3_600_000_000_000)), Ok(Span::Fixed(HOUR)));
        for wrong in [(0, 0, 0), (1, 1, 0), (5, 0, 0), (24, 0, 0), (0, -1, 0), (0, 0, 500), (-1, 0, 0)] {
            assert!(Span::of(interval(wrong.0, wrong.1, wrong.2)).is_err(), "{wrong:?}");
        }
        assert_eq!(Span::Days(2).times(interval(0, 6, 0)), Some(3));
        assert_eq!(Span::Days(2).times(interval(0, 5, 0)), None);
        assert_eq!(Span::Days(1).times(interval(1, 0, 0)), None);
        assert_eq!(Span::Months(1).times(interval(24, 0, 0)), Some(24));
    }
}

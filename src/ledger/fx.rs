//! Rates of exchange by day, and conversion with them: exact, dated, never guessed.
//!
//! A rate says how many units of a currency one unit of a base is worth. Conversion takes the last rate on or before
//! the day, so that a week-end takes Friday's, but none older than a bound; between two currencies neither of which is
//! the base it goes through the base. A value is exact until it is rounded, once, half to even. What is missing is an
//! error that names the currency and the day.
//!
//! Rates are facts of the world, not of an account: whatever account and mode loaded them, they convert for all. When
//! several sources can answer, the one whose rates are nearest to the day does, and the first by name among equals.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{Datelike, NaiveDate};
use num_bigint::BigInt;
use num_traits::ToPrimitive;

use super::rows::Change;
use crate::{
    money::{self, Amount, Currency, Rational, round_half_even},
    stripe::types::{FxDay, Scope},
    time::EventTime,
};

/// Decimal places of a rate.
pub const RATE_PLACES: u32 = 12;

/// Ten to the [`RATE_PLACES`].
const RATE_UNIT: i128 = 1_000_000_000_000;

/// Days from 0001-01-01 to 1970-01-01 in chrono's count.
const EPOCH_FROM_CE: i32 = 719_163;

/// How old a rate may be unless it is set otherwise: over every run of public holidays there has been.
pub const DEFAULT_MAX_AGE_DAYS: u32 = 7;

/// Why an amount cannot be converted.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// No rate, or none that is young enough.
    #[error(
        "no rate for {currency} on {}: {}; load one with `tributary rates`",
        date(*day),
        last.map_or_else(|| "there is none before".to_owned(), |last| format!("the last one is of {}", date(last)))
    )]
    Missing {
        /// Of which currency.
        currency: Currency,
        /// On which day, counted from 1970-01-01.
        day: i32,
        /// The day of the last rate before, if there is any.
        last: Option<i32>,
    },
    /// Rates of both, but no common base.
    #[error(
        "no rate from {from} to {to} on {}: there are rates of both, but from no source with one base; load a source \
         that has both with `tributary rates`",
        date(*day)
    )]
    NoCommonBase {
        /// From which currency.
        from: Currency,
        /// To which.
        to: Currency,
        /// On which day, counted from 1970-01-01.
        day: i32,
    },
    /// The result is beyond `decimal(28,6)`.
    #[error("{0}")]
    Money(#[from] money::Error),
}

/// A day as people write it.
fn date(day: i32) -> String {
    let date = day.checked_add(EPOCH_FROM_CE).and_then(NaiveDate::from_num_days_from_ce_opt);
    date.map_or_else(|| format!("day {day}"), |date| date.to_string())
}

/// A day as tables count it: days since 1970-01-01.
#[must_use]
pub fn day_number(day: NaiveDate) -> i32 {
    day.num_days_from_ce() - EPOCH_FROM_CE
}

/// A rate as the table has it. Keyed by day, currency and source.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct FxRate {
    pub scope: Scope,
    /// Days since 1970.
    pub day: i32,
    pub currency: Currency,
    /// With [`RATE_PLACES`] decimal places.
    pub rate: i128,
    pub base: Currency,
    pub source: Arc<str>,
    pub known_at: EventTime,
}

/// One rate in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Quote {
    day: i32,
    rate: i128,
    base: Currency,
    known_at: EventTime,
}

/// All rates of one source, by day.
type Book = BTreeMap<Currency, Vec<Quote>>;

/// All rates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    books: BTreeMap<(Arc<str>, Scope), Book>,
}

impl Rates {
    /// Takes in the rates of one day and says what that changed. A later record corrects an earlier one.
    pub fn learn(&mut self, scope: &Scope, day: &FxDay, known_at: EventTime, changes: &mut Vec<Change<FxRate>>) {
        let source: Arc<str> = day.source.as_str().into();
        for (currency, rate) in &day.rates {
            let scaled = round_half_even(&(rate * BigInt::from(RATE_UNIT))).to_i128();
            let Some(rate) = scaled.filter(|rate| (1..10_i128.pow(38)).contains(rate)) else { continue };
            let new = FxRate {
                scope: scope.clone(),
                day: day_number(day.day),
                currency: *currency,
                rate,
                base: day.base,
                source: Arc::clone(&source),
                known_at,
            };
            if let Some(before) = self.put(&new) {
                changes.push(Change { before, after: Some(new) });
            }
        }
    }

    /// Puts one rate in its place. What was there before, or `None` when nothing changed.
    #[allow(clippy::option_option, reason = "nothing changed is not the same as nothing was there")]
    pub fn put(&mut self, new: &FxRate) -> Option<Option<FxRate>> {
        let book = self.books.entry((Arc::clone(&new.source), new.scope.clone())).or_default();
        let quotes = book.entry(new.currency).or_default();
        let quote = Quote { day: new.day, rate: new.rate, base: new.base, known_at: new.known_at };
        match quotes.binary_search_by_key(&new.day, |quote| quote.day) {
            Err(at) => {
                quotes.insert(at, quote);
                Some(None)
            }
            Ok(at) => {
                let held = quotes[at];
                if (held.rate, held.base) == (quote.rate, quote.base) || quote.known_at < held.known_at {
                    return None;
                }
                quotes[at] = quote;
                Some(Some(FxRate { rate: held.rate, base: held.base, known_at: held.known_at, ..new.clone() }))
            }
        }
    }

    /// How many units of `to` one unit of `from` is worth on `day`, by rates at most `max_age_days` old.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::NoCommonBase`].
    pub fn rate(&self, from: Currency, to: Currency, day: i32, max_age_days: u32) -> Result<Rational, Error> {
        if from == to {
            return Ok(Rational::from_integer(1.into()));
        }
        let oldest = day.saturating_sub(i32::try_from(max_age_days).unwrap_or(i32::MAX));
        let mut best: Option<(i32, Rational)> = None;
        for book in self.books.values() {
            let fresh = |currency| last(book, currency, day).filter(|quote| quote.day >= oldest);
            let (of_from, of_to) = (fresh(from), fresh(to));
            let answer = match (of_from, of_to) {
                (_, Some(quote)) if quote.base == from => Some((quote.day, ratio(quote.rate, RATE_UNIT))),
                (Some(quote), _) if quote.base == to => Some((quote.day, ratio(RATE_UNIT, quote.rate))),
                (Some(one), Some(other)) if one.base == other.base => {
                    Some((one.day.min(other.day), ratio(other.rate, one.rate)))
                }
                _ => None,
            };
            if let Some((of, rate)) = answer
                && best.as_ref().is_none_or(|(day, _)| of > *day)
            {
                best = Some((of, rate));
            }
        }
        best.map(|(_, rate)| rate).ok_or_else(|| self.missing(from, to, day, oldest))
    }

    /// An amount of `from` in `to` on `day`, rounded once, half to even, to six places.
    ///
    /// # Errors
    /// As [`Self::rate`], and [`Error::Money`] beyond `decimal(28,6)`.
    pub fn convert(
        &self,
        amount: &Rational,
        from: Currency,
        to: Currency,
        day: i32,
        max_age_days: u32,
    ) -> Result<Amount, Error> {
        Ok(Amount::round(&(amount * self.rate(from, to, day, max_age_days)?))?)
    }

    /// Which currency has no rate that is young enough.
    fn missing(&self, from: Currency, to: Currency, day: i32, oldest: i32) -> Error {
        let last = |currency| self.books.values().filter_map(|book| last(book, currency, day)).map(|q| q.day).max();
        let is_base =
            |currency| self.books.values().flat_map(BTreeMap::values).flatten().any(|quote| quote.base == currency);
        // A base has no rate of its own.
        let lacking = [from, to].into_iter().find(|currency| match last(*currency) {
            Some(day) => day < oldest,
            None => !is_base(*currency),
        });
        match lacking {
            Some(currency) => Error::Missing { currency, day, last: last(currency) },
            // Rates of both, or one is the base of other rates.
            None => Error::NoCommonBase { from, to, day },
        }
    }
}

/// The last rate of a currency on or before a day.
fn last(book: &Book, currency: Currency, day: i32) -> Option<&Quote> {
    let quotes = book.get(&currency)?;
    let after = quotes.partition_point(|quote| quote.day <= day);
    quotes.get(after.checked_sub(1)?)
}

fn ratio(numerator: i128, denominator: i128) -> Rational {
    Rational::new(numerator.into(), denominator.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::parse_decimal;

    fn code(text: &str) -> Currency {
        text.parse().unwrap()
    }

    fn day(text: &str) -> i32 {
        day_number(text.parse().unwrap())
    }

    fn scope() -> Scope {
        Scope { account: "acct_1".into(), livemode: true }
    }

    fn put(rates: &mut Rates, source: &str, base: &str, on: &str, quotes: &[(&str, &str)]) -> usize {
        let quoted = FxDay {
            day: on.parse().unwrap(),
            base: code(base),
            source: source.to_owned(),
            rates: quotes.iter().map(|(currency, rate)| (code(currency), parse_decimal(rate).unwrap())).collect(),
        };
        let mut changes = Vec::new();
        rates.learn(&scope(), &quoted, EventTime::from_seconds(1), &mut changes);
        changes.len()
    }

    fn ecb() -> Rates {
        let mut rates = Rates::default();
        put(&mut rates, "ecb", "eur", "2026-03-05", &[("usd", "1.1"), ("jpy", "160"), ("brl", "6")]);
        put(&mut rates, "ecb", "eur", "2026-03-06", &[("usd", "1.25"), ("jpy", "150")]);
        rates
    }

    fn convert(rates: &Rates, amount: &str, from: &str, to: &str, on: &str) -> Result<String, String> {
        rates
            .convert(&parse_decimal(amount).unwrap(), code(from), code(to), day(on), DEFAULT_MAX_AGE_DAYS)
            .map(|amount| amount.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_days_rate_converts_to_and_from_the_base_and_across_it() {
        let rates = ecb();
        assert_eq!(convert(&rates, "100", "eur", "usd", "2026-03-06").unwrap(), "125.000000");
        assert_eq!(convert(&rates, "100", "usd", "eur", "2026-03-06").unwrap(), "80.000000");
        assert_eq!(convert(&rates, "100", "usd", "jpy", "2026-03-06").unwrap(), "12000.000000");
        assert_eq!(convert(&rates, "100", "usd", "jpy", "2026-03-05").unwrap(), "14545.454545");
        assert_eq!(convert(&rates, "-1", "jpy", "usd", "2026-03-06").unwrap(), "-0.008333");
        // Its own currency needs no rate at all.
        assert_eq!(convert(&Rates::default(), "7.5", "usd", "usd", "1970-01-01").unwrap(), "7.500000");
    }

    #[test]
    fn a_week_end_takes_the_last_rate_before_and_an_old_rate_is_an_error_that_names_it() {
        let rates = ecb();
        for on in ["2026-03-07", "2026-03-08", "2026-03-13"] {
            assert_eq!(convert(&rates, "1", "eur", "usd", on).unwrap(), "1.250000", "{on}");
        }
        assert_eq!(
            convert(&rates, "1", "usd", "eur", "2026-03-14").unwrap_err(),
            "no rate for usd on 2026-03-14: the last one is of 2026-03-06; load one with `tributary rates`"
        );
        assert_eq!(convert(&rates, "1", "brl", "eur", "2026-03-07").unwrap(), "0.166667");
        assert_eq!(
            convert(&rates, "1", "usd", "eur", "2026-03-04").unwrap_err(),
            "no rate for usd on 2026-03-04: there is none before; load one with `tributary rates`"
        );
        assert_eq!(
            convert(&rates, "1", "eur", "chf", "2026-03-06").unwrap_err(),
            "no rate for chf on 2026-03-06: there is none before; load one with `tributary rates`"
        );
    }

    #[test]
    fn the_source_nearest_to_the_day_answers_and_bases_are_not_mixed() {
        let mut rates = ecb();
        put(&mut rates, "bank", "usd", "2026-03-07", &[("brl", "5"), ("eur", "0.5")]);
        assert_eq!(convert(&rates, "10", "usd", "eur", "2026-03-07").unwrap(), "5.000000");
        assert_eq!(convert(&rates, "10", "usd", "eur", "2026-03-06").unwrap(), "8.000000");
        assert_eq!(convert(&rates, "10", "brl", "eur", "2026-03-07").unwrap(), "1.000000");
        let refused = convert(&rates, "10", "brl", "jpy", "2026-03-13").unwrap_err();
        assert!(refused.contains("no rate from brl to jpy on 2026-03-13"), "{refused}");
    }

    #[test]
    fn a_later_record_corrects_an_earlier_one_and_the_same_one_changes_nothing() {
        let mut rates = ecb();
        assert_eq!(put(&mut rates, "ecb", "eur", "2026-03-06", &[("usd", "1.25"), ("jpy", "150")]), 0);
        assert_eq!(put(&mut rates, "ecb", "eur", "2026-03-06", &[("usd", "1.5")]), 1);
        assert_eq!(convert(&rates, "1", "eur", "usd", "2026-03-06").unwrap(), "1.500000");
    }

    proptest! {
        #[test]
        fn a_rate_and_its_inverse_cancel_out(a in 1..10_i128.pow(18), b in 1..10_i128.pow(18)) {
            let mut rates = Rates::default();
            let exact = |scaled: i128| crate::money::exact_text(&ratio(scaled, RATE_UNIT));
            put(&mut rates, "x", "eur", "2026-01-01", &[("usd", &exact(a)), ("jpy", &exact(b))]);
            let rate = |from, to| rates.rate(code(from), code(to), day("2026-01-01"), 0).unwrap();
            let one = Rational::from_integer(1.into());
            prop_assert_eq!(rate("usd", "jpy") * rate("jpy", "usd"), one.clone());
            prop_assert_eq!(rate("usd", "eur") * rate("eur", "jpy"), rate("usd", "jpy"));
        }
    }
}

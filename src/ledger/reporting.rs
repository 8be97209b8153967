//! The bridge of recurring revenue in one reporting currency.
//!
//! What a customer did in one instant is netted over its currencies, each at its day's rate, and classified by the
//! sum: a subscription in dollars that gives way to one in euros in the same second is one expansion or contraction, by
//! what it is worth. Closing is the sum of the native closings at the day's rate, and `fx` is what closes the bridge:
//! closing − opening − Σ movements. So rates never make an expansion or churn.
//!
//! Values are exact until they are written: each term is the difference of two rounded running sums (opening, opening
//! and imported, and so on to closing), so that the bridge closes to the last place and a constant rate gives an `fx`
//! of 0, not of a rounding error.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
};

use num_bigint::BigInt;
use num_traits::{Signed, Zero};

use super::{
    fx::{Error, Rates},
    rows::MovementKind,
};
use crate::{
    money::{Amount, Currency, Rational},
    stripe::types::Scope,
};

/// What is converted: to which currency, by which rates.
#[derive(Clone, Copy, Debug)]
pub struct Conversion<'a> {
    /// The rates.
    pub rates: &'a Rates,
    /// The reporting currency.
    pub to: Currency,
    /// How old a rate may be.
    pub max_age_days: u32,
}

impl Conversion<'_> {
    fn exact(&self, micros: i128, currency: Currency, day: i32) -> Result<Rational, Error> {
        if micros == 0 {
            return Ok(Rational::zero());
        }
        let amount = Rational::new(micros.into(), BigInt::from(10).pow(crate::money::SCALE));
        Ok(amount * self.rates.rate(currency, self.to, day, self.max_age_days)?)
    }
}

/// A day of the bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct ReportingDay {
    pub scope: Scope,
    /// Days since 1970.
    pub day: i32,
    pub opening: Amount,
    /// In the order imported, new, reactivation, expansion, contraction, churn.
    pub moved: [Amount; 6],
    pub fx: Amount,
    pub closing: Amount,
}

/// Gathers movements by account, mode and day.
#[derive(Default, Debug)]
pub struct Bridge {
    scopes: BTreeMap<Scope, Movements>,
}

/// By day, then by kind and currency, in millionths.
type Sums = BTreeMap<i32, BTreeMap<(usize, Currency), i128>>;

#[derive(Default, Debug)]
struct Movements {
    sums: Sums,
    /// What went up or down in one instant of one customer: its currencies have to be netted first.
    instants: HashMap<(String, i64), Vec<Leg>>,
}

#[derive(Debug)]
struct Leg {
    day: i32,
    currency: Currency,
    kind: MovementKind,
    micros: i128,
}

impl Bridge {
    /// Takes in a row of `mrr_movements`; `instant` is its time in microseconds, `day` its calendar day.
    #[allow(clippy::too_many_arguments, reason = "a row")]
    pub fn add(
        &mut self,
        scope: &Scope,
        customer: &str,
        instant: i64,
        day: i32,
        currency: Currency,
        kind: MovementKind,
        change: Amount,
    ) {
        if !self.scopes.contains_key(scope) {
            self.scopes.insert(scope.clone(), Movements::default());
        }
        let Some(movements) = self.scopes.get_mut(scope) else { return };
        let leg = Leg { day, currency, kind, micros: change.micros() };
        if matches!(kind, MovementKind::Expansion | MovementKind::Contraction) {
            movements.instants.entry((customer.to_owned(), instant)).or_default().push(leg);
        } else {
            count(&mut movements.sums, &leg, kind);
        }
    }

    /// The days of `wanted`, from each scope's first movement to its last, or to the day `until` names for it.
    ///
    /// # Errors
    /// When a rate is missing for a day that is wanted, or for the one before it.
    pub fn days(
        self,
        conversion: &Conversion<'_>,
        until: &BTreeMap<Scope, i32>,
        wanted: &RangeInclusive<i32>,
    ) -> Result<Vec<ReportingDay>, Error> {
        let mut days = Vec::new();
        for (scope, movements) in self.scopes {
            let sums = movements.netted(conversion, wanted)?;
            let (Some(first), Some(last)) = (sums.keys().next().copied(), sums.keys().next_back().copied()) else {
                continue;
            };
            let last = until.get(&scope).map_or(last, |until| last.max(*until)).min(*wanted.end());
            let mut native: BTreeMap<Currency, i128> = BTreeMap::new();
            let mut opening = Rational::zero();
            for day in first..=last {
                let moved = sums.get(&day);
                for ((_, currency), micros) in moved.into_iter().flatten() {
                    *native.entry(*currency).or_default() += micros;
                }
                // The day before the first one that is wanted gives its opening.
                if day.saturating_add(1) < *wanted.start() {
                    continue;
                }
                let mut closing = Rational::zero();
                for (currency, micros) in &native {
                    closing += conversion.exact(*micros, *currency, day)?;
                }
                if wanted.contains(&day) {
                    days.push(bridge(&scope, day, &opening, moved, &closing, conversion)?);
                }
                opening = closing;
            }
        }
        Ok(days)
    }
}

/// One day: each term is the difference of two rounded running sums.
fn bridge(
    scope: &Scope,
    day: i32,
    opening: &Rational,
    moved: Option<&BTreeMap<(usize, Currency), i128>>,
    closing: &Rational,
    conversion: &Conversion<'_>,
) -> Result<ReportingDay, Error> {
    let minus = |a: Amount, b: Amount| Amount::from_micros(a.micros() - b.micros());
    let mut exact = opening.clone();
    let mut rounded = Amount::round(&exact)?;
    let mut terms = [Amount::ZERO; 6];
    for (place, term) in terms.iter_mut().enumerate() {
        for ((_, currency), micros) in moved.into_iter().flatten().filter(|((kind, _), _)| *kind == place) {
            exact += conversion.exact(*micros, *currency, day)?;
        }
        let sum = Amount::round(&exact)?;
        *term = minus(sum, rounded);
        rounded = sum;
    }
    let (opening, closing) = (Amount::round(opening)?, Amount::round(closing)?);
    Ok(ReportingDay { scope: scope.clone(), day, opening, moved: terms, fx: minus(closing, rounded), closing })
}

fn count(sums: &mut Sums, leg: &Leg, kind: MovementKind) {
    *sums.entry(leg.day).or_default().entry((kind as usize, leg.currency)).or_default() += leg.micros;
}

impl Movements {
    /// The sums with every instant netted. What lies outside of the wanted days need not be told apart, and asks for
    /// no rate.
    fn netted(self, conversion: &Conversion<'_>, wanted: &RangeInclusive<i32>) -> Result<Sums, Error> {
        let Self { mut sums, instants } = self;
        for legs in instants.into_values() {
            let alike = legs.windows(2).all(|pair| pair[0].kind == pair[1].kind);
            let mut net = None;
            if !alike && legs.iter().any(|leg| wanted.contains(&leg.day)) {
                let mut sum = Rational::zero();
                for leg in &legs {
                    sum += conversion.exact(leg.micros, leg.currency, leg.day)?;
                }
                let falls = sum.is_negative();
                net = Some(if falls { MovementKind::Contraction } else { MovementKind::Expansion });
            }
            for leg in &legs {
                count(&mut sums, leg, net.unwrap_or(leg.kind));
            }
        }
        Ok(sums)
    }
}

/// The kind of a word in `mrr_movements`.
#[must_use]
pub fn kind(word: &str) -> Option<MovementKind> {
    MovementKind::ALL.into_iter().find(|kind| kind.as_str() == word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ledger::fx::day_number, money::parse_decimal, stripe::types::FxDay, time::EventTime};

    const DAY: i32 = 20_000;

    fn code(text: &str) -> Currency {
        text.parse().unwrap()
    }

    fn amount(text: &str) -> Amount {
        Amount::round(&parse_decimal(text).unwrap()).unwrap()
    }

    fn scope() -> Scope {
        Scope { account: "acct_1".into(), livemode: true }
    }

    /// Rates of one euro, by day from [`DAY`] on.
    fn rates(by_day: &[&[(&str, &str)]]) -> Rates {
        let mut rates = Rates::default();
        for (at, quotes) in by_day.iter().enumerate() {
            let day = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap() + chrono::Days::new(DAY as u64 + at as u64);
            assert_eq!(day_number(day), DAY + at as i32);
            let quoted = FxDay {
                day,
                base: code("eur"),
                source: "ecb".to_owned(),
                rates: quotes.iter().map(|(to, rate)| (code(to), parse_decimal(rate).unwrap())).collect(),
            };
            rates.learn(&scope(), &quoted, EventTime::from_seconds(1), &mut Vec::new());
        }
        rates
    }

    type Row<'a> = (&'a str, i32, &'a str, MovementKind, &'a str);

    fn gathered(rows: &[Row<'_>]) -> Bridge {
        let mut bridge = Bridge::default();
        for (customer, day, currency, kind, change) in rows {
            let day = DAY + day;
            bridge.add(&scope(), customer, i64::from(day), day, code(currency), *kind, amount(change));
        }
        bridge
    }

    fn days(bridge: Bridge, rates: &Rates, to: &str, until: i32) -> Result<Vec<ReportingDay>, Error> {
        let conversion = Conversion { rates, to: code(to), max_age_days: 7 };
        bridge.days(&conversion, &[(scope(), DAY + until)].into(), &(i32::MIN..=i32::MAX))
    }

    use MovementKind::{Churn, Contraction, Expansion, New};

    #[test]
    fn bridge_1_000_and_100_new_and_50_expansion_less_40_contraction_60_churn_and_5_fx_is_1_045() {
        let bridge = gathered(&[
            ("cus_1", 0, "usd", New, "500"),
            ("cus_2", 0, "eur", New, "400"),
            ("cus_3", 1, "usd", New, "100"),
            ("cus_1", 1, "usd", Expansion, "50"),
            ("cus_4", 1, "usd", Contraction, "-40"),
            ("cus_5", 1, "usd", Churn, "-60"),
        ]);
        let days = days(bridge, &rates(&[&[("usd", "1.25")], &[("usd", "1.2375")]]), "usd", 1).unwrap();
        let [first, second] = days.as_slice() else { panic!("{days:?}") };
        assert_eq!((first.opening, first.closing, first.fx), (Amount::ZERO, amount("1000"), Amount::ZERO));
        assert_eq!((second.opening, second.fx, second.closing), (amount("1000"), amount("-5"), amount("1045")));
        assert_eq!(
            second.moved.map(|term| term.to_string()),
            ["0.000000", "100.000000", "0.000000", "50.000000", "-40.000000", "-60.000000"]
        );
    }

    #[test]
    fn a_swap_of_currencies_in_one_second_is_one_movement_by_its_worth() {
        let swap = [("cus_1", 0, "usd", Contraction, "-100"), ("cus_1", 0, "eur", Expansion, "95")];
        let of = |rate: &str| {
            let mut bridge = gathered(&swap);
            // Another customer's instant is not netted with it.
            bridge.add(&scope(), "cus_2", i64::from(DAY), DAY, code("usd"), Contraction, amount("-1"));
            days(bridge, &rates(&[&[("usd", rate)]]), "usd", 0).unwrap()[0].moved
        };
        assert_eq!(of("1.1")[3..5], [amount("4.5"), amount("-1")]);
        assert_eq!(of("1")[3..5], [Amount::ZERO, amount("-6")]);
        assert_eq!(of("1.052631578948")[4], amount("-1"));
    }

    #[test]
    fn a_quiet_day_has_nothing_but_fx_and_a_missing_rate_is_an_error() {
        let rows = [("cus_1", 0, "eur", New, "100")];
        let rates = rates(&[&[("usd", "1.1")], &[("usd", "1.2")]]);
        let quiet = days(gathered(&rows), &rates, "usd", 3).unwrap();
        assert_eq!(quiet.iter().map(|day| day.fx).collect::<Vec<_>>(), ["0", "10", "0", "0"].map(amount));
        assert!(matches!(days(gathered(&rows), &rates, "usd", 9), Err(Error::Missing { day, .. }) if day == DAY + 9));
        assert!(matches!(days(gathered(&rows), &rates, "gbp", 0), Err(Error::Missing { .. })));
        // Days that nobody asks for need no rate.
        let conversion = Conversion { rates: &rates, to: code("usd"), max_age_days: 7 };
        let some = gathered(&rows).days(&conversion, &[(scope(), DAY + 90)].into(), &(DAY + 1..=DAY + 2)).unwrap();
        assert_eq!(some, quiet[1..3]);
    }

    fn row() -> impl Strategy<Value = (u8, i32, u8, u8, i64)> {
        (0..3_u8, 0..4_i32, 0..3_u8, 0..6_u8, -5_000_000_000..5_000_000_000_i64)
    }

    proptest! {
        #[test]
        fn the_bridge_closes_and_a_constant_rate_gives_no_fx(
            rows in prop::collection::vec(row(), 1..40),
            usd in 1..5_000_000_u32,
            jpy in 1..500_000_000_u32,
            moves in any::<bool>(),
            to in 0..3_usize,
        ) {
            let rate = |base: u32, day: u32| format!("{}.{:06}", (base + day * 777) / 1_000_000, (base + day * 777) % 1_000_000);
            let quotes: Vec<Vec<(&str, String)>> = (0..5)
                .map(|day| if moves { day } else { 0 })
                .map(|day| vec![("usd", rate(usd, day)), ("jpy", rate(jpy, day))])
                .collect();
            let borrowed: Vec<Vec<(&str, &str)>> =
                quotes.iter().map(|day| day.iter().map(|(to, rate)| (*to, rate.as_str())).collect()).collect();
            let rates = rates(&borrowed.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let mut bridge = Bridge::default();
            let mut native: BTreeMap<(i32, Currency), i128> = BTreeMap::new();
            for (customer, day, currency, kind, micros) in rows {
                let currency = code(["usd", "eur", "jpy"][usize::from(currency)]);
                let kind = MovementKind::ALL[usize::from(kind)];
                bridge.add(
                    &scope(), &customer.to_string(), i64::from(day), DAY + day, currency, kind,
                    Amount::from_micros(micros.into()),
                );
                *native.entry((day, currency)).or_default() += i128::from(micros);
            }
            let to = code(["usd", "eur", "jpy"][to]);
            let conversion = Conversion { rates: &rates, to, max_age_days: 0 };
            let until = [(scope(), DAY + 4)].into();
            let days = bridge.days(&conversion, &until, &(i32::MIN..=i32::MAX)).unwrap();
            let mut opening = Amount::ZERO;
            for day in &days {
                let moved: i128 = day.moved.iter().map(|term| term.micros()).sum();
                prop_assert_eq!(day.opening.micros() + moved + day.fx.micros(), day.closing.micros());
                prop_assert_eq!(day.opening, opening);
                if !moves {
                    prop_assert_eq!(day.fx, Amount::ZERO);
                }
                let exact: Rational = native
                    .iter()
                    .filter(|((on, _), _)| DAY + on <= day.day)
                    .map(|((_, currency), micros)| conversion.exact(*micros, *currency, day.day).unwrap())
                    .sum();
                prop_assert_eq!(day.closing, Amount::round(&exact).unwrap());
                opening = day.closing;
            }
        }
    }
}

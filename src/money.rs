//! Exact money: currencies with Stripe's exponents, and amounts as decimals with six places. No floats.
//!
//! Inside a computation values are [`Rational`]s; they become an [`Amount`] once, half-even, when a row is
//! written. A change is always the difference of two such amounts, so that sums close. What a billing period costs is a
//! [`PeriodAmount`], with twelve places: Stripe's unit amounts have twelve in minor units at most.

use std::{fmt, iter::Sum, ops::Neg, str::FromStr};

use num_bigint::BigInt;
use num_rational::{BigRational, Ratio};
use num_traits::{Signed, ToPrimitive, Zero};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Exact intermediate value.
pub type Rational = BigRational;

/// A small exact factor, such as the share of a year that is a month.
pub type Factor = Ratio<i64>;

/// Decimal places of an [`Amount`]; the scale of every money column.
pub const SCALE: u32 = 6;
const UNIT: i128 = 1_000_000;

/// The largest magnitude a `decimal(28,6)` column holds, in millionths.
pub const MAX_MICROS: i128 = 10_i128.pow(28) - 1;

/// Sorted, as the two lists below are (docs.stripe.com/currencies, "Zero-decimal currencies").
const ZERO_DECIMAL: [[u8; 3]; 15] = [
    *b"bif", *b"clp", *b"djf", *b"gnf", *b"jpy", *b"kmf", *b"krw", *b"mga", *b"pyg", *b"rwf", *b"vnd", *b"vuv",
    *b"xaf", *b"xof", *b"xpf",
];
/// The same page, "Three-decimal currencies".
const THREE_DECIMAL: [[u8; 3]; 5] = [*b"bhd", *b"jod", *b"kwd", *b"omr", *b"tnd"];
/// The other currencies that Stripe charges in, or did (docs.stripe.com/currencies). ISK and UGX are here, "special
/// cases" there. CYP, MTL, ROL, SIT, SKK and TRL are no more: they are columns of the European Central Bank's rates.
const TWO_DECIMAL: [[u8; 3]; 139] = [
    *b"aed", *b"afn", *b"all", *b"amd", *b"ang", *b"aoa", *b"ars", *b"aud", *b"awg", *b"azn", *b"bam", *b"bbd",
    *b"bdt", *b"bgn", *b"bmd", *b"bnd", *b"bob", *b"brl", *b"bsd", *b"btn", *b"bwp", *b"byn", *b"bzd", *b"cad",
    *b"cdf", *b"chf", *b"cny", *b"cop", *b"crc", *b"cve", *b"cyp", *b"czk", *b"dkk", *b"dop", *b"dzd", *b"eek",
    *b"egp", *b"etb", *b"eur", *b"fjd", *b"fkp", *b"gbp", *b"gel", *b"ghs", *b"gip", *b"gmd", *b"gtq", *b"gyd",
    *b"hkd", *b"hnl", *b"hrk", *b"htg", *b"huf", *b"idr", *b"ils", *b"inr", *b"isk", *b"jmd", *b"kes", *b"kgs",
    *b"khr", *b"kyd", *b"kzt", *b"lak", *b"lbp", *b"lkr", *b"lrd", *b"lsl", *b"ltl", *b"lvl", *b"mad", *b"mdl",
    *b"mkd", *b"mmk", *b"mnt", *b"mop", *b"mro", *b"mru", *b"mtl", *b"mur", *b"mvr", *b"mwk", *b"mxn", *b"myr",
    *b"mzn", *b"nad", *b"ngn", *b"nio", *b"nok", *b"npr", *b"nzd", *b"pab", *b"pen", *b"pgk", *b"php", *b"pkr",
    *b"pln", *b"qar", *b"rol", *b"ron", *b"rsd", *b"rub", *b"sar", *b"sbd", *b"scr", *b"sek", *b"sgd", *b"shp",
    *b"sit", *b"skk", *b"sle", *b"sll", *b"sos", *b"srd", *b"std", *b"stn", *b"svc", *b"szl", *b"thb", *b"tjs",
    *b"top", *b"trl", *b"try", *b"ttd", *b"twd", *b"tzs", *b"uah", *b"ugx", *b"usd", *b"uyu", *b"uzs", *b"vef",
    *b"ves", *b"wst", *b"xcd", *b"xcg", *b"yer", *b"zar", *b"zmw",
];

/// What can be wrong with a money value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// None of the currencies that are known.
    #[error("`{0}` is not a currency that Stripe charges in: expected a three-letter ISO 4217 code such as `eur`")]
    Currency(String),
    /// Not a decimal number.
    #[error("`{0}` is not a decimal number")]
    Decimal(String),
    /// Beyond `decimal(28,6)`.
    #[error("amount is beyond decimal(28,6)")]
    Overflow,
}

/// A currency whose minor unit is known: a three-letter code, lower case as Stripe writes it. A code that is not known
/// is no currency: amounts in it would be a guess, ten or a hundred times too large.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The code in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }

    /// Digits after the decimal point in Stripe's minor units: 0, 2 or 3. ISK and UGX are two-decimal in the
    /// API although they have no minor unit.
    #[must_use]
    pub fn exponent(&self) -> u32 {
        if ZERO_DECIMAL.contains(&self.0) {
            0
        } else if THREE_DECIMAL.contains(&self.0) {
            3
        } else {
            2
        }
    }
}

impl FromStr for Currency {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let code = <[u8; 3]>::try_from(text.as_bytes()).map(|code| code.map(|letter| letter.to_ascii_lowercase()));
        let known = |code: &[u8; 3]| {
            TWO_DECIMAL.binary_search(code).is_ok() || ZERO_DECIMAL.contains(code) || THREE_DECIMAL.contains(code)
        };
        code.ok().filter(known).map(Self).ok_or_else(|| Error::Currency(text.chars().take(32).collect()))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Money in major units with six decimal places, within `decimal(28,6)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amount(i128);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From millionths of a major unit.
    #[must_use]
    pub const fn from_micros(micros: i128) -> Self {
        Self(micros)
    }

    /// Millionths of a major unit: the raw value of a `decimal(28,6)` column.
    #[must_use]
    pub const fn micros(self) -> i128 {
        self.0
    }

    /// Whether there is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Rounds an exact value in major units half-even to six places.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond `decimal(28,6)`.
    pub fn round(major: &Rational) -> Result<Self, Error> {
        let micros = round_half_even(&(major * BigInt::from(UNIT))).to_i128().ok_or(Error::Overflow)?;
        if micros.abs() > MAX_MICROS {
            return Err(Error::Overflow);
        }
        Ok(Self(micros))
    }

    /// Rounds an exact value in Stripe's minor units of `currency`.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond `decimal(28,6)`.
    pub fn from_minor(minor: &Rational, currency: Currency) -> Result<Self, Error> {
        Self::from_minor_share(minor, (1, 1), currency)
    }

    /// The same of `above / below` of the value; `below` is positive.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond `decimal(28,6)`.
    pub fn from_minor_share(minor: &Rational, (above, below): (i64, i64), currency: Currency) -> Result<Self, Error> {
        let micros_a_minor = UNIT / 10_i128.pow(currency.exponent());
        // Nearly all amounts and shares of them: one division instead of several of large numbers.
        let small = || {
            let (numerator, denominator) = (minor.numer().to_i64()?, minor.denom().to_i64()?);
            let dividend = i128::from(numerator).checked_mul(above.into())?.checked_mul(micros_a_minor)?;
            Some(divide_half_even(dividend, i128::from(denominator) * i128::from(below)))
        };
        let exact = || {
            let share = Rational::new(above.into(), below.into());
            round_half_even(&(minor * share * BigInt::from(micros_a_minor))).to_i128().ok_or(Error::Overflow)
        };
        let micros = small().map_or_else(exact, Ok)?;
        if micros.abs() > MAX_MICROS { Err(Error::Overflow) } else { Ok(Self(micros)) }
    }

    /// Sum, if it fits.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).filter(|v| v.abs() <= MAX_MICROS).map(Self)
    }

    /// Difference, if it fits.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(-other)
    }
}

/// Money for one billing period in major units with twelve decimal places, within `decimal(38,12)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeriodAmount(i128);

impl PeriodAmount {
    /// The largest magnitude, in units of 10⁻¹²: a thousand million million a period is a mistake somewhere. It keeps
    /// every product with a [`Factor`] inside `i128`.
    pub const MAX_PICOS: i128 = 10_i128.pow(27);

    const PICOS: i64 = 1_000_000_000_000;

    /// From units of 10⁻¹².
    #[must_use]
    pub const fn from_picos(picos: i128) -> Self {
        Self(picos)
    }

    /// Units of 10⁻¹²: the raw value of a `decimal(38,12)` column.
    #[must_use]
    pub const fn picos(self) -> i128 {
        self.0
    }

    /// Rounds an exact value in Stripe's minor units of `currency` half-even to twelve places of a major unit.
    ///
    /// # Errors
    /// [`Error::Overflow`] beyond [`Self::MAX_PICOS`].
    pub fn from_minor(minor: &Rational, currency: Currency) -> Result<Self, Error> {
        let scale = Self::PICOS / 10_i64.pow(currency.exponent());
        let picos = match (minor.numer().to_i64(), minor.denom().to_i64()) {
            // Nearly all, as above.
            (Some(above), Some(below)) => divide_half_even(i128::from(above) * i128::from(scale), below.into()),
            _ => round_half_even(&(minor * BigInt::from(scale))).to_i128().ok_or(Error::Overflow)?,
        };
        if picos.abs() > Self::MAX_PICOS { Err(Error::Overflow) } else { Ok(Self(picos)) }
    }

    /// The exact value in Stripe's minor units of `currency`.
    #[must_use]
    pub fn to_minor(self, currency: Currency) -> Rational {
        Rational::new(self.0.into(), (Self::PICOS / 10_i64.pow(currency.exponent())).into())
    }

    /// `factor` of it, rounded half-even to six places. `factor` has at most 32 bits above and 40 below the line, as
    /// the shares of a month have.
    #[must_use]
    pub fn times(self, factor: Factor) -> Amount {
        let (above, below) = (i128::from(*factor.numer()), i128::from(*factor.denom()) * UNIT);
        match (self.0.checked_mul(above), below) {
            (Some(product), below) => Amount(divide_half_even(product, below)),
            (None, _) => {
                let exact = Rational::new(BigInt::from(self.0) * above, BigInt::from(below));
                Amount(round_half_even(&exact).to_i128().unwrap_or(MAX_MICROS).clamp(-MAX_MICROS, MAX_MICROS))
            }
        }
    }
}

/// Without trailing zeros.
impl fmt::Display for PeriodAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = (self.0.unsigned_abs() / 10_u128.pow(12), self.0.unsigned_abs() % 10_u128.pow(12));
        let fraction = format!("{fraction:012}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            fraction => write!(f, "{sign}{whole}.{fraction}"),
        }
    }
}

/// `above / below`, rounded to the nearest integer, ties to the even one. `below` is positive.
fn divide_half_even(above: i128, below: i128) -> i128 {
    let (quotient, rest) = (above.div_euclid(below), above.rem_euclid(below));
    let up = rest > below - rest || (rest == below - rest && quotient % 2 != 0);
    quotient + i128::from(up)
}

/// An exact factor as a [`Rational`].
#[must_use]
pub fn exact(factor: Factor) -> Rational {
    Rational::new((*factor.numer()).into(), (*factor.denom()).into())
}

impl Neg for Amount {
    type Output = Self;

    fn neg(self) -> Self {
        Self(-self.0)
    }
}

/// Sums stay far inside `i128`: 10^28 × 10^9 rows still fit.
impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        Self(iter.map(|a| a.0).sum())
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}", magnitude / UNIT.unsigned_abs(), magnitude % UNIT.unsigned_abs())
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Rounds to the nearest integer, ties to the even one.
#[must_use]
pub fn round_half_even(value: &Rational) -> BigInt {
    let floor = value.floor().to_integer();
    let twice = (value - Rational::from_integer(floor.clone())) * BigInt::from(2);
    let one = Rational::from_integer(BigInt::from(1));
    let odd = !(&floor % BigInt::from(2)).is_zero();
    if twice > one || (twice == one && odd) { floor + 1 } else { floor }
}

/// An exact value as text that [`parse_exact`] reads: a decimal where it has one, else a fraction.
#[must_use]
pub fn exact_text(value: &Rational) -> String {
    const MOST_PLACES: usize = 20;
    let mut scaled = value.abs();
    let mut places = 0;
    while !scaled.is_integer() && places < MOST_PLACES {
        scaled *= BigInt::from(10);
        places += 1;
    }
    if !scaled.is_integer() {
        return value.to_string();
    }
    let digits = format!("{:0>width$}", scaled.to_integer(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let sign = if value.is_negative() { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// Reads what [`exact_text`] wrote: a decimal, or a fraction such as `100/119`.
///
/// # Errors
/// [`Error::Decimal`] when it is neither.
pub fn parse_exact(text: &str) -> Result<Rational, Error> {
    let Some((above, below)) = text.split_once('/') else {
        return parse_decimal(text);
    };
    let (above, below) = (parse_decimal(above)?, parse_decimal(below)?);
    if below.is_zero() { Err(Error::Decimal(text.chars().take(32).collect())) } else { Ok(above / below) }
}

/// Reads a JSON decimal (`"0.0125"`, `-3`, `1e3` is refused) exactly.
///
/// # Errors
/// [`Error::Decimal`] when the text is not a plain decimal number of at most 64 digits.
pub fn parse_decimal(text: &str) -> Result<Rational, Error> {
    let bad = || Error::Decimal(text.chars().take(32).collect());
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || whole.len() + fraction.len() > 64 || (digits.contains('.') && fraction.is_empty()) {
        return Err(bad());
    }
    if !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let numerator: BigInt = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    let value = Rational::new(numerator, BigInt::from(10).pow(fraction.len() as u32));
    Ok(if negative { -value.abs() } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ratio(numerator: i64, denominator: i64) -> Rational {
        Rational::new(numerator.into(), denominator.into())
    }

    #[test]
    fn ties_go_to_the_even_neighbour() {
        for (numerator, denominator, rounded) in [(1, 2, 0), (3, 2, 2), (5, 2, 2), (-1, 2, 0), (-3, 2, -2), (7, 3, 2)] {
            assert_eq!(round_half_even(&ratio(numerator, denominator)), BigInt::from(rounded));
        }
        assert_eq!(Amount::round(&ratio(1, 2_000_000)), Ok(Amount::ZERO));
        assert_eq!(Amount::round(&ratio(3, 2_000_000)), Ok(Amount::from_micros(2)));
    }

    #[test]
    fn minor_units_have_the_exponent_stripe_gives_them() {
        for (code, text) in [("usd", "12.34"), ("jpy", "1234"), ("kwd", "1.234"), ("isk", "12.34"), ("ugx", "12.34")] {
            let amount = Amount::from_minor(&ratio(1_234, 1), code.parse().unwrap());
            assert_eq!(amount, Amount::round(&parse_decimal(text).unwrap()), "{code}");
        }
        for (codes, exponent) in [(&ZERO_DECIMAL[..], 0), (&TWO_DECIMAL, 2), (&THREE_DECIMAL, 3)] {
            assert!(codes.is_sorted());
            for code in codes {
                let code = std::str::from_utf8(code).unwrap();
                let currency: Currency = code.to_uppercase().parse().unwrap();
                assert_eq!((currency.as_str(), currency.exponent()), (code, exponent));
                let one = Amount::from_minor(&ratio(10_i64.pow(exponent), 1), currency);
                assert_eq!(one, Ok(Amount::from_micros(UNIT)), "{code}");
            }
        }
    }

    #[test]
    fn what_is_no_known_currency_is_an_error_and_never_two_places() {
        for code in ["US", "USDX", "", "u$d", "xyz", "btc", "öl"] {
            assert_eq!(code.parse::<Currency>(), Err(Error::Currency(code.to_owned())));
        }
    }

    #[test]
    fn amounts_stop_at_what_a_column_holds() {
        let most = Amount::from_micros(MAX_MICROS);
        assert_eq!(most.to_string(), "9999999999999999999999.999999");
        assert_eq!(most.checked_add(Amount::from_micros(1)), None);
        assert_eq!(Amount::round(&Rational::from_integer(BigInt::from(10).pow(22))), Err(Error::Overflow));
    }

    #[test]
    fn decimals_are_read_exactly_or_refused() {
        assert_eq!(parse_decimal("-0.000000000001").unwrap(), ratio(-1, 1_000_000_000_000));
        for bad in ["", "-", ".5", "5.", "1e3", "+1", "1 ", "٣", &"9".repeat(65)] {
            assert!(parse_decimal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exact_values_are_decimals_where_they_can_be() {
        for (numerator, denominator, text) in
            [(25, 2, "12.5"), (-1, 4, "-0.25"), (100, 119, "100/119"), (7, 1, "7"), (1, 1_000, "0.001")]
        {
            assert_eq!(exact_text(&ratio(numerator, denominator)), text);
            assert_eq!(parse_exact(text), Ok(ratio(numerator, denominator)));
        }
        assert!(parse_exact("1/0").is_err() && parse_exact("a/b").is_err());
    }

    proptest! {
        #[test]
        fn minor_units_of_any_size_round_as_exact_numbers_do(
            above in any::<i128>(), below in 1..i128::MAX, shifts in (0_u32..128, 0_u32..127), code in prop::sample::select(vec!["usd", "jpy", "kwd"]),
        ) {
            let minor = Rational::new((above >> shifts.0).into(), (below >> shifts.1).max(1).into());
            let currency: Currency = code.parse().unwrap();
            let major = &minor / BigInt::from(10_u32.pow(currency.exponent()));
            prop_assert_eq!(Amount::from_minor(&minor, currency), Amount::round(&major));
        }

        #[test]
        fn rounding_is_to_the_nearest_and_symmetric(numerator in any::<i64>(), denominator in 1..1_000_000_i64) {
            let value = ratio(numerator, denominator);
            let rounded = round_half_even(&value);
            let distance = (&value - Rational::from_integer(rounded.clone())).abs();
            prop_assert!(distance <= ratio(1, 2));
            prop_assert!(distance < ratio(1, 2) || (&rounded % 2_u32).is_zero());
            prop_assert_eq!(round_half_even(&-value), -rounded);
        }

        #[test]
        fn a_period_amount_times_a_factor_is_rounded_once(
            picos in -PeriodAmount::MAX_PICOS..=PeriodAmount::MAX_PICOS,
            above in 1..1_000_000_i64,
            below in 1..1_000_000_000_i64,
        ) {
            let factor = Factor::new(above, below);
            let amount = Rational::new(picos.into(), 1_000_000_000_000_i64.into()) * exact(factor);
            if let Ok(rounded) = Amount::round(&amount) {
                prop_assert_eq!(PeriodAmount::from_picos(picos).times(factor), rounded);
            }
            let usd: Currency = "usd".parse().unwrap();
            let period = PeriodAmount::from_picos(picos);
            prop_assert_eq!(PeriodAmount::from_minor(&period.to_minor(usd), usd), Ok(period));
        }

        #[test]
        fn what_is_written_reads_back(micros in -MAX_MICROS..=MAX_MICROS) {
            let amount = Amount::from_micros(micros);
            prop_assert_eq!(Amount::round(&parse_decimal(&amount.to_string()).unwrap()), Ok(amount));
        }
    }
}

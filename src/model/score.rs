//! A model as it is used: values in, probability, band and reasons out.
//!
//! The logit is a sum: the baseline (a customer with the mean of every feature) plus one effect per feature,
//! slope · w (x − mean) / deviation. The reasons are the largest of these very terms, so they explain the
//! probability exactly. Scoring is pure, takes microseconds and gives the same bits before and after storage.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    Error,
    calibrate::Calibration,
    exact,
    features::FeatureNames,
    fit::{LinearModel, sigmoid},
};

/// Most reasons given with a score: what a person reads at a glance.
pub const MAX_REASONS: usize = 3;

/// An effect below this moves the odds by less than one per cent and is no reason.
pub const MIN_EFFECT: f64 = 0.01;

/// How urgent a probability is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Band {
    /// At or below the first threshold.
    Low,
    /// Above the first.
    Medium,
    /// Above the second.
    High,
    /// Above the third.
    Critical,
}

impl Band {
    /// All bands, ascending.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The code in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Band {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the bands begin: three ascending numbers within 0 and 1, above which medium, high and critical begin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BandRule {
    /// Quantiles of the predictions on the test block, so that a known share of customers is in each band.
    Quantiles([f64; 3]),
    /// Probabilities.
    Absolute([f64; 3]),
}

impl Default for BandRule {
    /// At most half the customers are medium or worse, a fifth high or worse, a twentieth critical: about what a
    /// team can look at, call and visit.
    fn default() -> Self {
        Self::Quantiles([0.5, 0.8, 0.95])
    }
}

impl BandRule {
    /// The thresholds, given predictions to take quantiles of (not empty).
    pub(super) fn thresholds(self, probabilities: &[f64]) -> Result<[f64; 3], Error> {
        let (Self::Quantiles(cuts) | Self::Absolute(cuts)) = self;
        if !cuts.iter().all(|c| (0.0..=1.0).contains(c)) || !cuts.is_sorted() {
            return Err(Error::Options(format!("bands {cuts:?} must ascend within 0 and 1")));
        }
        let Self::Quantiles(_) = self else { return Ok(cuts) };
        let mut sorted = probabilities.to_vec();
        sorted.sort_by(f64::total_cmp);
        // The largest prediction of the share below the cut: a tie across the cut stays below.
        Ok(cuts.map(|cut| {
            let rank = (cut * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        }))
    }
}

/// One feature's part in a score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The feature.
    pub feature: String,
    /// What it adds to the log-odds against the mean customer; positive raises the risk.
    pub effect: f64,
    /// The customer's value; none if unknown.
    pub value: Option<f64>,
    /// For people, such as "2 failed payments in 30 days: raises the risk".
    pub text: String,
}

/// A customer's risk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Of churn within the model's horizon.
    pub probability: f64,
    /// Of that probability.
    pub band: Band,
    /// Largest effects first, at most [`MAX_REASONS`].
    pub reasons: Vec<Reason>,
}

/// A trained, calibrated model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    names: FeatureNames,
    linear: LinearModel,
    calibration: Calibration,
    thresholds: [Threshold; 3],
    texts: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Threshold(#[serde(with = "exact")] f64);

impl Model {
    pub(super) fn new(
        names: FeatureNames,
        linear: LinearModel,
        calibration: Calibration,
        thresholds: [f64; 3],
        texts: BTreeMap<String, String>,
    ) -> Self {
        Self { names, linear, calibration, thresholds: thresholds.map(Threshold), texts }
    }

    /// The features, in the order in which [`Model::score`] takes their values.
    #[must_use]
    pub fn names(&self) -> &FeatureNames {
        &self.names
    }

    /// The linear part, before recalibration.
    #[must_use]
    pub fn linear(&self) -> &LinearModel {
        &self.linear
    }

    /// The recalibration.
    #[must_use]
    pub fn calibration(&self) -> Calibration {
        self.calibration
    }

    /// Probabilities above which medium, high and critical begin.
    #[must_use]
    pub fn thresholds(&self) -> [f64; 3] {
        self.thresholds.map(|t| t.0)
    }

    /// Refuses rows of another features query than the one trained on.
    ///
    /// # Errors
    /// [`Error::Features`] when names or their order differ.
    pub fn check_names(&self, found: &FeatureNames) -> Result<(), Error> {
        if self.names == *found {
            return Ok(());
        }
        let list = |names: &FeatureNames| names.as_slice().to_vec();
        Err(Error::Features { trained: list(&self.names), found: list(found) })
    }

    /// Calibrated log-odds of a customer with the mean of every feature.
    #[must_use]
    pub fn baseline(&self) -> f64 {
        self.calibration.apply(self.linear.intercept())
    }

    /// What each feature adds to the baseline, in log-odds; baseline + Σ effects is the logit of the score.
    ///
    /// # Errors
    /// [`Error::Width`] and [`Error::NotFinite`].
    pub fn effects(&self, values: &[Option<f64>]) -> Result<Vec<f64>, Error> {
        self.names.check(values, None)?;
        Ok(self.linear.effects(values).map(|effect| self.calibration.slope * effect).collect())
    }

    /// Probability, band and reasons for one customer.
    ///
    /// # Errors
    /// [`Error::Width`] and [`Error::NotFinite`].
    pub fn score(&self, values: &[Option<f64>]) -> Result<Score, Error> {
        let effects = self.effects(values)?;
        let probability = sigmoid(effects.iter().fold(self.baseline(), |sum, effect| sum + effect));
        let mut order: Vec<usize> = (0..effects.len()).filter(|&j| effects[j].abs() >= MIN_EFFECT).collect();
        // Stable, so equal effects keep the order of the features.
        order.sort_by(|&a, &b| effects[b].abs().total_cmp(&effects[a].abs()));
        order.truncate(MAX_REASONS);
        let reasons = order.into_iter().map(|j| self.reason(j, effects[j], values[j])).collect();
        Ok(Score { probability, band: self.band(probability), reasons })
    }

    /// The band of a probability.
    #[must_use]
    pub fn band(&self, probability: f64) -> Band {
        Band::ALL[self.thresholds.iter().filter(|t| probability > t.0).count()]
    }

    fn reason(&self, j: usize, effect: f64, value: Option<f64>) -> Reason {
        let feature = &self.names.as_slice()[j];
        let fact = match (value, self.texts.get(feature)) {
            (Some(v), Some(text)) => fill(text, v),
            (Some(v), None) => format!("{} is {}", feature.replace('_', " "), number(v)),
            (None, _) => format!("{} is unknown", feature.replace('_', " ")),
        };
        let direction = if effect > 0.0 { "raises" } else { "lowers" };
        Reason { feature: feature.clone(), effect, value, text: format!("{fact}: {direction} the risk") }
    }

    /// Whether the parts belong together, for a model read from a file.
    pub(super) fn is_sound(&self) -> bool {
        self.linear.fits(&self.names) && self.thresholds().is_sorted()
    }
}

/// `{value}` becomes the number, `{s}` an "s" unless the number is 1.
fn fill(text: &str, value: f64) -> String {
    text.replace("{value}", &number(value)).replace("{s}", if value == 1.0 { "" } else { "s" })
}

/// Whole numbers without decimals, others with at most two.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".to_owned() } else { short.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_a_person_writes_them() {
        let texts = [2.0, 100.0, 0.5, 1.239, -0.001, 1e6].map(number);
        assert_eq!(texts, ["2", "100", "0.5", "1.24", "0", "1000000"]);
        assert_eq!(fill("{value} failed payment{s} in 30 days", 1.0), "1 failed payment in 30 days");
        assert_eq!(fill("{value} failed payment{s} in 30 days", 2.0), "2 failed payments in 30 days");
    }

    #[test]
    fn quantile_bands_never_exceed_their_share() {
        let scores: Vec<f64> = (0..100).map(|i| f64::from(i) / 100.0).collect();
        let [_, _, critical] = BandRule::default().thresholds(&scores).unwrap();
        assert_eq!(scores.iter().filter(|p| **p > critical).count(), 5);
        let [medium, ..] = BandRule::default().thresholds(&[0.2; 10]).unwrap();
        assert_eq!(medium, 0.2, "equal scores are all low");
        assert!(BandRule::Absolute([0.5, 0.2, 0.9]).thresholds(&scores).is_err());
    }
}

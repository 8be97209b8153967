//! Fits the linear part: a logistic regression by linfa, whose positive class is always churn.
//!
//! Minimises Σ log-loss + α/2·‖w‖² over standardised columns, the intercept free (α is 1/C of scikit-learn).
//! linfa-logistic 0.8.1 calls the more frequent class positive, so the sign is taken from the labels it reports.
//! It reports no convergence either, so the gradient at the result is computed here and checked.

use linfa::{Dataset, traits::Fit};
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2, ArrayView1, Axis, ShapeBuilder};
use serde::{Deserialize, Serialize};

use super::{
    Error, exact,
    features::FeatureNames,
    standardise::{self, Column},
};

/// Version of linfa-logistic, as pinned in `Cargo.toml`; stored with every model.
pub const LINFA_LOGISTIC_VERSION: &str = "0.8.1";

/// The gradient at the result may be this many times the tolerance: the library's own last step is not reported.
const GRADIENT_SLACK: f64 = 10.0;

/// Hyper-parameters of the fit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitOptions {
    /// Weight of the L2 penalty, positive.
    pub alpha: f64,
    /// Most L-BFGS iterations.
    pub max_iterations: u64,
    /// Length of the gradient, divided by the rows, at which to stop. Relative to the rows because the loss is
    /// their sum: a fixed length would be beyond the precision of a long sum.
    pub gradient_tolerance_per_row: f64,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self { alpha: 1.0, max_iterations: 500, gradient_tolerance_per_row: 1e-7 }
    }
}

/// Weights of one feature, on the logit and per standard deviation; positive raises the risk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// Of the value.
    #[serde(with = "exact")]
    pub value: f64,
    /// Of the flag "value missing"; 0 where there is none.
    #[serde(with = "exact")]
    pub missing: f64,
}

/// A fitted logistic regression: logit(churn) = intercept + Σ effects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearModel {
    #[serde(with = "exact")]
    intercept: f64,
    columns: Vec<Column>,
    weights: Vec<Weight>,
}

impl LinearModel {
    /// Learns columns and weights from rows and their labels, one each.
    ///
    /// # Errors
    /// [`Error::Width`] and [`Error::NotFinite`] for bad rows, [`Error::OneClass`], [`Error::Options`] for
    /// impossible hyper-parameters, [`Error::NotConverged`].
    pub fn fit<R: AsRef<[Option<f64>]>>(
        names: &FeatureNames,
        rows: &[R],
        churned: &[bool],
        options: &FitOptions,
    ) -> Result<Self, Error> {
        check(names, rows, churned, options)?;
        let columns = standardise::learn(rows);
        let width = columns.len() + columns.iter().filter(|c| c.missing.is_some()).count();
        // Column-major: the gradient multiplies by the transpose, which is then read in order of memory.
        let mut x = Array2::zeros((rows.len(), width).f());
        for (mut line, row) in x.axis_iter_mut(Axis(0)).zip(rows) {
            line.iter_mut().zip(design(&columns, row.as_ref())).for_each(|(cell, value)| *cell = value);
        }
        let data = Dataset::new(x, Array1::from_iter(churned.iter().copied()));
        let fitted = LogisticRegression::default()
            .alpha(options.alpha)
            .max_iterations(options.max_iterations)
            .gradient_tolerance(options.gradient_tolerance_per_row * rows.len() as f64)
            .fit(&data)
            .map_err(|e| Error::Defect(format!("linfa-logistic: {e}")))?;
        let sign = if fitted.labels().pos.class { 1.0 } else { -1.0 };
        let (intercept, flat) = (sign * fitted.intercept(), fitted.params() * sign);

        let gradient_per_row =
            gradient_length(data.records(), churned, intercept, flat.view(), options.alpha) / rows.len() as f64;
        if gradient_per_row.is_nan() || gradient_per_row > GRADIENT_SLACK * options.gradient_tolerance_per_row {
            return Err(Error::NotConverged { gradient_per_row, max_iterations: options.max_iterations });
        }
        let mut flat = flat.into_iter();
        let mut next = || flat.next().unwrap_or_default();
        let weights = columns
            .iter()
            .map(|c| Weight { value: next(), missing: if c.missing.is_some() { next() } else { 0.0 } })
            .collect();
        Ok(Self { intercept, columns, weights })
    }

    /// Logit of a customer with the mean of every column.
    #[must_use]
    pub fn intercept(&self) -> f64 {
        self.intercept
    }

    /// Weights in the order of the features.
    #[must_use]
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// How each feature is read.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// What each feature adds to the intercept: w (x − mean) / deviation, plus the same for its missing flag.
    pub(super) fn effects<'a>(&'a self, values: &'a [Option<f64>]) -> impl Iterator<Item = f64> + 'a {
        let terms = self.columns.iter().zip(&self.weights).zip(values);
        terms.map(|((c, w), v)| w.value * c.value(*v) + w.missing * c.missing(*v))
    }

    /// Log-odds of churn, before recalibration. `values` as in training.
    #[must_use]
    pub fn logit(&self, values: &[Option<f64>]) -> f64 {
        self.effects(values).fold(self.intercept, |sum, effect| sum + effect)
    }

    /// Whether the parts belong together, for a model read from a file.
    pub(super) fn fits(&self, names: &FeatureNames) -> bool {
        self.columns.len() == names.as_slice().len()
            && self.weights.len() == self.columns.len()
            && self.columns.iter().all(|c| c.low <= c.high)
    }
}

fn check<R: AsRef<[Option<f64>]>>(
    names: &FeatureNames,
    rows: &[R],
    churned: &[bool],
    options: &FitOptions,
) -> Result<(), Error> {
    let positive = |v: f64| v.is_finite() && v > 0.0;
    if !positive(options.alpha) || !positive(options.gradient_tolerance_per_row) || options.max_iterations == 0 {
        return Err(Error::Options("`alpha`, `max_iterations` and the tolerance must be positive".to_owned()));
    }
    if rows.len() != churned.len() {
        return Err(Error::Options(format!("{} rows have {} labels", rows.len(), churned.len())));
    }
    rows.iter().try_for_each(|row| names.check(row.as_ref(), None))?;
    match (churned.contains(&true), churned.contains(&false)) {
        (true, true) => Ok(()),
        (only, _) => Err(Error::OneClass { churned: only }),
    }
}

/// Standardised values, each followed by its flag where there is one.
fn design<'a>(columns: &'a [Column], row: &'a [Option<f64>]) -> impl Iterator<Item = f64> + 'a {
    columns
        .iter()
        .zip(row)
        .flat_map(|(c, v)| std::iter::once(c.value(*v)).chain(c.missing.is_some().then(|| c.missing(*v))))
}

/// Euclidean length of the gradient of the minimised loss.
fn gradient_length(x: &Array2<f64>, churned: &[bool], intercept: f64, w: ArrayView1<'_, f64>, alpha: f64) -> f64 {
    let mut residual = x.dot(&w) + intercept;
    for (z, &y) in residual.iter_mut().zip(churned) {
        *z = sigmoid(*z) - if y { 1.0 } else { 0.0 };
    }
    let by_weight = x.t().dot(&residual) + &w * alpha;
    (by_weight.dot(&by_weight) + residual.sum().powi(2)).sqrt()
}

/// 1 / (1 + e^−z).
#[must_use]
pub fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

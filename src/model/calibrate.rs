//! Two-parameter recalibration of logits: z becomes slope·z + offset.
//!
//! Platt's method on the log-odds scale, where the identity (1, 0) means "already calibrated". linfa's own is
//! single precision and cannot be stored. Fitted by Newton's method on the log loss, with the offset free, so that
//! on its block the mean prediction equals the observed rate.

use serde::{Deserialize, Serialize};

use super::{exact, fit::sigmoid};

/// Precision of the prior on the slope, around 1: a standard deviation of one half. It keeps a block with few
/// churns from bending the curve and vanishes against a few hundred rows.
pub const SLOPE_PRECISION: f64 = 4.0;

/// Newton's method doubles its correct digits each step; more steps than this mean there is no minimum.
const MAX_STEPS: usize = 60;
const MAX_HALVINGS: usize = 40;
/// Gradient per row at the minimum.
const TOLERANCE: f64 = 1e-10;
/// Relative rounding of the summed loss: near the minimum it hides the last decreases.
const LOSS_ROUNDING: f64 = 1e-12;

/// The line that logits are mapped by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Below 1: predictions were too extreme.
    #[serde(with = "exact")]
    pub slope: f64,
    /// Above 0: predictions were too low.
    #[serde(with = "exact")]
    pub offset: f64,
}

impl Calibration {
    /// Minimises Σ log-loss(slope·z + offset) + precision/2·(slope − 1)². None when there is no finite minimum:
    /// one class only or, without a prior, logits that are all alike or separate the classes.
    #[must_use]
    pub fn fit(logits: &[f64], churned: &[bool], slope_precision: f64) -> Option<Self> {
        if !churned.contains(&true) || !churned.contains(&false) || slope_precision <= 0.0 && apart(logits, churned) {
            return None;
        }
        let loss = |c: Self| {
            let data: f64 = logits.iter().zip(churned).map(|(&z, &y)| log_loss(c.apply(z), y)).sum();
            data + slope_precision / 2.0 * (c.slope - 1.0).powi(2)
        };
        let mut at = Self { slope: 1.0, offset: 0.0 };
        let mut current = loss(at);
        for _ in 0..MAX_STEPS {
            let (mut g, mut h) = ([slope_precision * (at.slope - 1.0), 0.0], [slope_precision, 0.0, 0.0]);
            for (&z, &y) in logits.iter().zip(churned) {
                let p = sigmoid(at.apply(z));
                let (r, v) = (p - if y { 1.0 } else { 0.0 }, p * (1.0 - p));
                g = [g[0] + r * z, g[1] + r];
                h = [h[0] + v * z * z, h[1] + v * z, h[2] + v];
            }
            if g[0].hypot(g[1]) <= TOLERANCE * logits.len() as f64 {
                return Some(at);
            }
            let determinant = h[0] * h[2] - h[1] * h[1];
            if determinant.is_nan() || determinant <= f64::EPSILON * h[0] * h[2] {
                return None;
            }
            let step = [(h[2] * g[0] - h[1] * g[1]) / determinant, (h[0] * g[1] - h[1] * g[0]) / determinant];
            let candidates = (0..MAX_HALVINGS)
                .map(|k| 0.5_f64.powi(k as i32))
                .map(|share| Self { slope: at.slope - share * step[0], offset: at.offset - share * step[1] });
            let bound = current + LOSS_ROUNDING * current.abs().max(1.0);
            let (next, lower) = candidates.map(|c| (c, loss(c))).find(|(_, l)| *l <= bound)?;
            (at, current) = (next, lower);
        }
        None
    }

    /// The recalibrated logit.
    #[must_use]
    pub fn apply(self, logit: f64) -> f64 {
        self.slope * logit + self.offset
    }
}

/// Whether some logit parts the classes, equality on it allowed: then ever steeper slopes fit ever better.
fn apart(logits: &[f64], churned: &[bool]) -> bool {
    let range = |class: bool| {
        let of_class = logits.iter().zip(churned).filter(|(_, y)| **y == class).map(|(z, _)| *z);
        of_class.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), z| (low.min(z), high.max(z)))
    };
    let ((low_stayed, high_stayed), (low_churned, high_churned)) = (range(false), range(true));
    high_stayed <= low_churned || high_churned <= low_stayed
}

/// −ln P(label), from the logit; stable for large ones.
fn log_loss(logit: f64, churned: bool) -> f64 {
    let z = if churned { -logit } else { logit };
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distorted_logit_is_straightened() {
        // Exact frequencies of p(z) at each logit, shown to the fit as 2z + 1.
        let (mut logits, mut churned) = (Vec::new(), Vec::new());
        for z in [-2.0, -1.0, 0.0, 1.5] {
            let hits = (sigmoid(z) * 100_000.0).round() as usize;
            logits.extend(std::iter::repeat_n(2.0 * z + 1.0, 100_000));
            churned.extend((0..100_000).map(|i| i < hits));
        }
        let found = Calibration::fit(&logits, &churned, 0.0).unwrap();
        assert!((found.slope - 0.5).abs() < 1e-4 && (found.offset + 0.5).abs() < 1e-4, "{found:?}");
    }

    #[test]
    fn without_a_minimum_there_is_no_calibration_and_the_prior_gives_one() {
        let (separated, labels) = ([-1.0, -1.0, 1.0, 1.0], [false, false, true, true]);
        assert_eq!(Calibration::fit(&separated, &labels, 0.0), None);
        assert!(Calibration::fit(&separated, &labels, SLOPE_PRECISION).is_some());
        assert_eq!(Calibration::fit(&[0.5; 4], &labels, 0.0), None);
        assert_eq!(Calibration::fit(&separated, &[true; 4], SLOPE_PRECISION), None);
    }
}

//! Measures predicted probabilities against outcomes, in f64 and independent of the order of the rows.
//!
//! Notation: n rows, p the prediction, y the outcome (1 churned), r = Σy/n the base rate. "Null" is the constant
//! prediction r: the best that can be said without any feature, so a useful model beats it.

use serde::{Deserialize, Serialize};

use super::{Error, calibrate::Calibration};

/// Predictions are kept this far from 0 and 1 in logarithms, so that one certain mistake costs 34, not infinity.
const CLIP: f64 = 1e-15;

/// Bins of the calibration table.
pub const BINS: usize = 10;

/// One bin of the calibration table. Rows with equal predictions are never parted, so a bin may be large or absent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Rows.
    pub rows: usize,
    /// Mean prediction.
    pub predicted: f64,
    /// Share that churned.
    pub observed: f64,
}

/// How good predictions are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// n.
    pub rows: usize,
    /// Σy.
    pub churned: usize,
    /// r = Σy/n.
    pub base_rate: f64,
    /// Σp/n; equals the base rate when calibrated in the large.
    pub mean_predicted: f64,
    /// −Σ(y ln p + (1−y) ln(1−p))/n; lower is better.
    pub log_loss: f64,
    /// Log loss of the null: the entropy of r.
    pub null_log_loss: f64,
    /// Σ(p−y)²/n; lower is better.
    pub brier: f64,
    /// Brier score of the null: r(1−r).
    pub null_brier: f64,
    /// Chance that a churned row is ranked above one that stayed, ties counting half. None with one class only.
    pub auc: Option<f64>,
    /// Churn rate of the tenth with the highest predictions, divided by r. None without churn.
    pub top_decile_lift: Option<f64>,
    /// Slope of the logistic regression of y on logit(p); 1 when calibrated, below 1 when too extreme. None where
    /// it has no finite solution.
    pub calibration_slope: Option<f64>,
    /// Intercept of the same regression; 0 when calibrated.
    pub calibration_intercept: Option<f64>,
    /// Deciles by prediction, ascending.
    pub calibration: Vec<Bin>,
}

/// All metrics of `probabilities` against `churned`.
///
/// # Errors
/// [`Error::Options`] when there are no rows, unequally many, or a prediction is not within 0 and 1.
pub fn evaluate(probabilities: &[f64], churned: &[bool]) -> Result<Metrics, Error> {
    if probabilities.is_empty() || probabilities.len() != churned.len() {
        let (rows, labels) = (probabilities.len(), churned.len());
        return Err(Error::Options(format!("{rows} predictions cannot be measured against {labels} outcomes")));
    }
    if probabilities.iter().any(|p| !(0.0..=1.0).contains(p)) {
        return Err(Error::Options("a prediction is not a probability".to_owned()));
    }
    let n = probabilities.len() as f64;
    let hits = churned.iter().filter(|y| **y).count();
    let rate = hits as f64 / n;
    let mean =
        |f: &dyn Fn(f64, bool) -> f64| probabilities.iter().zip(churned).map(|(&p, &y)| f(p, y)).sum::<f64>() / n;
    let groups = tied_groups(probabilities, churned);
    let logits: Vec<f64> = probabilities.iter().map(|&p| logit(p)).collect();
    let line = Calibration::fit(&logits, churned, 0.0);
    Ok(Metrics {
        rows: probabilities.len(),
        churned: hits,
        base_rate: rate,
        mean_predicted: mean(&|p, _| p),
        log_loss: mean(&log_loss),
        null_log_loss: mean(&|_, y| log_loss(rate, y)),
        brier: mean(&|p, y| (p - if y { 1.0 } else { 0.0 }).powi(2)),
        null_brier: rate * (1.0 - rate),
        auc: auc_of(&groups),
        top_decile_lift: lift_of(&groups, 0.1),
        calibration_slope: line.map(|c| c.slope),
        calibration_intercept: line.map(|c| c.offset),
        calibration: bins_of(&groups),
    })
}

/// Rank AUC with mid-ranks: (Σ ranks of the churned − m(m+1)/2) / (m·(n−m)), m = Σy. Any finite scores will do.
/// None with one class only.
#[must_use]
pub fn auc(scores: &[f64], churned: &[bool]) -> Option<f64> {
    auc_of(&tied_groups(scores, churned))
}

/// Rows with one and the same score.
struct Group {
    score: f64,
    rows: usize,
    churned: usize,
}

/// Ascending by score.
fn tied_groups(scores: &[f64], churned: &[bool]) -> Vec<Group> {
    let mut pairs: Vec<(f64, bool)> = scores.iter().copied().zip(churned.iter().copied()).collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    pairs
        .chunk_by(|a, b| a.0 == b.0)
        .map(|tie| Group { score: tie[0].0, rows: tie.len(), churned: tie.iter().filter(|(_, y)| *y).count() })
        .collect()
}

fn auc_of(groups: &[Group]) -> Option<f64> {
    let (mut below, mut rank_sum, mut m) = (0.0, 0.0, 0.0);
    for group in groups {
        let (rows, churned) = (group.rows as f64, group.churned as f64);
        rank_sum += churned * (below + (rows + 1.0) / 2.0);
        below += rows;
        m += churned;
    }
    let pairs = m * (below - m);
    (pairs > 0.0).then(|| (rank_sum - m * (m + 1.0) / 2.0) / pairs)
}

/// Churn rate of the top `share` of the rows over the base rate; a tie across the cut counts in proportion.
fn lift_of(groups: &[Group], share: f64) -> Option<f64> {
    let (n, m) = groups.iter().fold((0.0, 0.0), |(n, m), g| (n + g.rows as f64, m + g.churned as f64));
    let wanted = n * share;
    let (mut taken, mut hits) = (0.0, 0.0);
    for group in groups.iter().rev() {
        let take = (wanted - taken).min(group.rows as f64);
        taken += take;
        hits += group.churned as f64 * take / group.rows as f64;
    }
    (m > 0.0).then(|| (hits / taken) / (m / n))
}

/// A group belongs to the decile of its mid-rank.
fn bins_of(groups: &[Group]) -> Vec<Bin> {
    let n: usize = groups.iter().map(|g| g.rows).sum();
    let mut sums = [(0_usize, 0.0, 0_usize); BINS];
    let mut below = 0;
    for group in groups {
        let bin = ((2 * below + group.rows) * BINS / (2 * n)).min(BINS - 1);
        let sum = &mut sums[bin];
        *sum = (sum.0 + group.rows, sum.1 + group.score * group.rows as f64, sum.2 + group.churned);
        below += group.rows;
    }
    let filled = sums.into_iter().filter(|(rows, ..)| *rows > 0);
    filled
        .map(|(rows, predicted, churned)| Bin {
            rows,
            predicted: predicted / rows as f64,
            observed: churned as f64 / rows as f64,
        })
        .collect()
}

fn log_loss(p: f64, churned: bool) -> f64 {
    let p = p.clamp(CLIP, 1.0 - CLIP);
    -(if churned { p } else { 1.0 - p }).ln()
}

fn logit(p: f64) -> f64 {
    let p = p.clamp(CLIP, 1.0 - CLIP);
    (p / (1.0 - p)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: bool = false;
    const Y: bool = true;

    #[test]
    fn auc_counts_ties_as_half() {
        assert_eq!(auc(&[0.0, 0.0, 1.0], &[N, Y, Y]), Some(0.75));
        assert_eq!(auc(&[0.3; 4], &[N, Y, N, Y]), Some(0.5));
        assert_eq!(auc(&[-2.0, -1.0, 0.0, 5.0], &[N, N, Y, Y]), Some(1.0));
        assert_eq!(auc(&[4.0, 3.0, 2.0, 1.0], &[N, N, Y, Y]), Some(0.0));
        // Pairs: 0.8 beats both, 0.4 beats one and ties one: (2 + 1.5) / 4.
        assert_eq!(auc(&[0.1, 0.4, 0.4, 0.8], &[N, N, Y, Y]), Some(0.875));
        assert_eq!(auc(&[0.1, 0.9], &[Y, Y]), None);
    }

    #[test]
    fn loss_and_brier_equal_their_formulas_by_hand() {
        let m = evaluate(&[0.8, 0.4, 0.2, 0.2], &[Y, N, N, N]).unwrap();
        let expected = -(0.8_f64.ln() + 0.6_f64.ln() + 2.0 * 0.8_f64.ln()) / 4.0;
        assert!((m.log_loss - expected).abs() < 1e-15);
        assert!((m.brier - (0.04 + 0.16 + 0.04 + 0.04) / 4.0).abs() < 1e-15);
        assert_eq!((m.base_rate, m.null_brier), (0.25, 0.1875));
        let entropy = -(0.25 * 0.25_f64.ln() + 0.75 * 0.75_f64.ln());
        assert!((m.null_log_loss - entropy).abs() < 1e-15);
        assert!((m.mean_predicted - 0.4).abs() < 1e-15);
    }

    #[test]
    fn lift_is_the_rate_of_the_top_tenth_and_shares_ties() {
        let mut scores: Vec<f64> = (0..20).map(f64::from).collect();
        let churned: Vec<bool> = (0..20).map(|i| i == 19 || i == 3).collect();
        // Top two rows hold one of the two churns: rate 1/2 over 1/10.
        assert_eq!(lift_of(&tied_groups(&scores, &churned), 0.1), Some(5.0));
        scores.fill(1.0);
        let lift = lift_of(&tied_groups(&scores, &churned), 0.1).unwrap();
        assert!((lift - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_calibration_table_covers_every_row_once() {
        let scores: Vec<f64> = (0..25).map(|i| f64::from(i / 2) / 25.0).collect();
        let churned: Vec<bool> = (0..25).map(|i| i % 3 == 0).collect();
        let bins = evaluate(&scores, &churned).unwrap().calibration;
        assert_eq!(bins.iter().map(|b| b.rows).sum::<usize>(), 25);
        assert!(bins.windows(2).all(|pair| pair[0].predicted < pair[1].predicted));
        assert_eq!(evaluate(&[0.5; 25], &churned).unwrap().calibration.len(), 1);
    }

    #[test]
    fn what_is_not_a_probability_is_refused() {
        assert!(evaluate(&[f64::NAN], &[Y]).is_err() && evaluate(&[1.5], &[Y]).is_err());
        assert!(evaluate(&[], &[]).is_err() && evaluate(&[0.5], &[Y, N]).is_err());
    }
}

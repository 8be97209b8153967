//! From a data set to a model with its evidence: fit on the first block, recalibrate on the second, measure on the
//! third. The model is stored as it was measured; it is not fitted again on all rows.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::{
    BandRule, Error, Model,
    calibrate::{Calibration, SLOPE_PRECISION},
    dataset::{Dataset, Example},
    evaluate::{Metrics, evaluate},
    features::FeatureNames,
    fit::{FitOptions, LINFA_LOGISTIC_VERSION, LinearModel, sigmoid},
    score::Band,
};

/// Fewest person-months to train on.
pub const MIN_TRAIN_ROWS: usize = 200;
/// Fewest of each outcome to train on: with fewer, weights are mostly chance.
pub const MIN_TRAIN_OUTCOMES: usize = 20;
/// Fewest person-months to calibrate and to test on, each.
pub const MIN_HOLDOUT_ROWS: usize = 50;
/// Fewest of each outcome to calibrate and to test on, each.
pub const MIN_HOLDOUT_OUTCOMES: usize = 5;

/// Penalties that are tried, as multiples of the one asked for.
const PENALTIES: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

/// How to train.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Hyper-parameters.
    pub fit: FitOptions,
    /// Where bands begin.
    pub bands: BandRule,
    /// Texts of reasons by feature: `{value}` becomes the value, `{s}` an "s" unless it is 1. A feature without
    /// one is named.
    pub texts: BTreeMap<String, String>,
}

/// One block of the split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockReport {
    /// First snapshot.
    pub first_snapshot: NaiveDate,
    /// Last snapshot.
    pub last_snapshot: NaiveDate,
    /// Person-months.
    pub rows: usize,
    /// Of them churned.
    pub churned: usize,
    /// churned / rows.
    pub base_rate: f64,
}

/// What a band held on the test block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BandReport {
    /// The band.
    pub band: Band,
    /// It begins above this probability.
    pub above: f64,
    /// Person-months in it.
    pub rows: usize,
    /// Share that churned; none without rows.
    pub churn_rate: Option<f64>,
}

/// The evidence for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Days of the label's horizon, the snapshot's day included.
    pub horizon_days: u32,
    /// Where the weights come from.
    pub train: BlockReport,
    /// Where the calibration comes from.
    pub calibrate: BlockReport,
    /// Where the metrics and band quantiles come from.
    pub test: BlockReport,
    /// Hyper-parameters.
    pub fit: FitOptions,
    /// Slope of the recalibration; well below 1 means the training block was overfitted.
    pub calibration_slope: f64,
    /// Version of linfa-logistic.
    pub linfa_logistic: String,
    /// How bands were asked for.
    pub band_rule: BandRule,
    /// What they are.
    pub bands: Vec<BandReport>,
    /// On the test block.
    pub metrics: Metrics,
}

/// A model and its evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// To score with.
    pub model: Model,
    /// To judge it by.
    pub report: Report,
}

/// Trains a model; the same arguments give the same model, bit for bit on one machine.
///
/// # Errors
/// [`Error::TooFewSnapshots`], [`Error::TooLittle`] and [`Error::OneClass`] while there is too little history,
/// [`Error::NoSignal`] when the ranking does not hold out of time, [`Error::NotConverged`], [`Error::Options`].
pub fn train(dataset: &Dataset, options: &Options) -> Result<Trained, Error> {
    let names = dataset.names();
    if let Some(name) = options.texts.keys().find(|name| names.position(name).is_none()) {
        return Err(Error::Options(format!("there is a text for `{name}`, which is not a feature")));
    }
    let split = dataset.split()?;
    let blocks = (
        block("train", split.train, MIN_TRAIN_ROWS, MIN_TRAIN_OUTCOMES)?,
        block("calibrate", split.calibrate, MIN_HOLDOUT_ROWS, MIN_HOLDOUT_OUTCOMES)?,
        block("test", split.test, MIN_HOLDOUT_ROWS, MIN_HOLDOUT_OUTCOMES)?,
    );

    let (fit, linear, calibration) = fitted(names, split.train, split.calibrate, &options.fit)?;
    if calibration.slope <= 0.0 {
        return Err(Error::NoSignal { slope: calibration.slope });
    }
    let logits = |examples: &[Example]| examples.iter().map(|e| linear.logit(&e.values)).collect::<Vec<_>>();

    let outcomes = labels(split.test);
    let predicted: Vec<f64> = logits(split.test).into_iter().map(|z| sigmoid(calibration.apply(z))).collect();
    let thresholds = options.bands.thresholds(&predicted)?;
    let model = Model::new(names.clone(), linear, calibration, thresholds, options.texts.clone());
    let report = Report {
        horizon_days: dataset.horizon_days(),
        train: blocks.0,
        calibrate: blocks.1,
        test: blocks.2,
        fit,
        calibration_slope: calibration.slope,
        linfa_logistic: LINFA_LOGISTIC_VERSION.to_owned(),
        band_rule: options.bands,
        bands: bands(&model, &predicted, &outcomes),
        metrics: evaluate(&predicted, &outcomes)?,
    };
    Ok(Trained { model, report })
}

/// Fits with the penalty asked for and with heavier ones, and keeps what predicts the calibration block best: with few
/// churned customers a light penalty follows their accidents.
fn fitted(
    names: &FeatureNames,
    train: &[Example],
    calibrate: &[Example],
    options: &FitOptions,
) -> Result<(FitOptions, LinearModel, Calibration), Error> {
    let rows: Vec<&[Option<f64>]> = train.iter().map(|e| e.values.as_slice()).collect();
    let (train_labels, outcomes) = (labels(train), labels(calibrate));
    let mut best: Option<(f64, (FitOptions, LinearModel, Calibration))> = None;
    for factor in PENALTIES {
        let options = FitOptions { alpha: options.alpha * factor, ..*options };
        let linear = LinearModel::fit(names, &rows, &train_labels, &options)?;
        let logits: Vec<f64> = calibrate.iter().map(|e| linear.logit(&e.values)).collect();
        let calibration = Calibration::fit(&logits, &outcomes, SLOPE_PRECISION)
            .ok_or_else(|| Error::Defect("the recalibration has no minimum".to_owned()))?;
        let predicted: Vec<f64> = logits.into_iter().map(|z| sigmoid(calibration.apply(z))).collect();
        let loss = evaluate(&predicted, &outcomes)?.log_loss;
        if best.as_ref().is_none_or(|(least, _)| loss < *least) {
            best = Some((loss, (options, linear, calibration)));
        }
    }
    best.map(|(_, best)| best).ok_or_else(|| Error::Defect("no penalty was tried".to_owned()))
}

fn labels(examples: &[Example]) -> Vec<bool> {
    examples.iter().map(|e| e.churned).collect()
}

/// Describes a block and refuses one that is too small.
fn block(name: &'static str, examples: &[Example], min_rows: usize, min_outcomes: usize) -> Result<BlockReport, Error> {
    let rows = examples.len();
    let churned = examples.iter().filter(|e| e.churned).count();
    let (Some(first), Some(last)) = (examples.first(), examples.last()) else {
        return Err(Error::TooLittle { block: name, what: "person-months", found: 0, needed: min_rows });
    };
    if rows < min_rows {
        return Err(Error::TooLittle { block: name, what: "person-months", found: rows, needed: min_rows });
    }
    if churned == 0 || churned == rows {
        return Err(Error::OneClass { churned: churned > 0 });
    }
    for (what, found) in [("customers who churned", churned), ("customers who stayed", rows - churned)] {
        if found < min_outcomes {
            return Err(Error::TooLittle { block: name, what, found, needed: min_outcomes });
        }
    }
    Ok(BlockReport {
        first_snapshot: first.snapshot,
        last_snapshot: last.snapshot,
        rows,
        churned,
        base_rate: churned as f64 / rows as f64,
    })
}

fn bands(model: &Model, predicted: &[f64], outcomes: &[bool]) -> Vec<BandReport> {
    let [medium, high, critical] = model.thresholds();
    let starts = [0.0, medium, high, critical];
    let report = |(band, above): (Band, f64)| {
        let inside: Vec<bool> =
            predicted.iter().zip(outcomes).filter(|(p, _)| model.band(**p) == band).map(|(_, y)| *y).collect();
        let churned = inside.iter().filter(|y| **y).count();
        let churn_rate = (!inside.is_empty()).then(|| churned as f64 / inside.len() as f64);
        BandReport { band, above, rows: inside.len(), churn_rate }
    };
    Band::ALL.into_iter().zip(starts).map(report).collect()
}

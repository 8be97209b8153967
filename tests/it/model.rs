//! Training and scoring: known coefficients found again, the direction of the classes, explanations that add up, and
//! refusals that say what to do.

use std::sync::Arc;

use chrono::{Months, NaiveDate};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tributary::model::{
    Band, BandRule, Error, Model, Options, Trained,
    dataset::{Dataset, Example},
    features::{FeatureNames, Subject},
    fit::{FitOptions, LinearModel, sigmoid},
    train,
};

pub(super) fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

pub(super) fn names(list: &[&str]) -> FeatureNames {
    FeatureNames::new(list.iter().map(|n| (*n).to_owned()).collect()).unwrap()
}

pub(super) fn subject(i: usize) -> Subject {
    Subject { account: "acct_1".to_owned(), livemode: true, customer_id: format!("cus_{i:05}") }
}

const MONTHS: u32 = 20;
pub(super) const NAMES: [&str; 3] = ["failed_payments_30d", "tenure_years", "days_to_card_expiry"];

/// The truth of the synthetic customers: hazard by features; an unknown card expiry adds 0.7.
fn true_logit(intercept: f64, values: &[Option<f64>]) -> f64 {
    let [failed, tenure, expiry] = values else { panic!("three features") };
    let expiry = expiry.map_or(0.7, |days| -0.004 * (days - 200.0));
    intercept + 0.9 * failed.unwrap() - 0.6 * tenure.unwrap() + expiry
}

/// `per_month` customers at each of [`MONTHS`] month starts.
pub(super) fn synthetic(intercept: f64, per_month: usize, seed: u64) -> Dataset {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut examples = Vec::new();
    for month in 0..MONTHS {
        for i in 0..per_month {
            let failed = (rng.random::<f64>().powi(3) * 4.0).floor();
            let tenure = rng.random::<f64>() * 4.0;
            let expiry = rng.random_bool(0.8).then(|| rng.random_range(0..400) as f64);
            let values = vec![Some(failed), Some(tenure), expiry];
            let churned = rng.random::<f64>() < sigmoid(true_logit(intercept, &values));
            let snapshot = day("2024-01-01") + Months::new(month);
            examples.push(Example { subject: Arc::new(subject(i)), snapshot, values, churned });
        }
    }
    Dataset::from_examples(names(&NAMES), examples, 30).unwrap()
}

pub(super) fn trained(intercept: f64, per_month: usize) -> (Dataset, Trained) {
    let dataset = synthetic(intercept, per_month, 7);
    let text = "{value} failed payment{s} in 30 days".to_owned();
    let options = Options { texts: [(NAMES[0].to_owned(), text)].into(), ..Options::default() };
    let trained = train(&dataset, &options).unwrap();
    (dataset, trained)
}

/// Calibrated weight of a feature per unit of its value.
fn per_unit(model: &Model, j: usize) -> f64 {
    let linear = model.linear();
    model.calibration().slope * linear.weights()[j].value / linear.columns()[j].value.deviation
}

#[test]
fn known_coefficients_are_recovered_and_probabilities_are_calibrated() {
    let (dataset, Trained { model, report }) = trained(-2.5, 2_000);
    for (j, truth) in [0.9, -0.6, -0.004].into_iter().enumerate() {
        let found = per_unit(&model, j);
        assert!((found / truth - 1.0).abs() < 0.15, "{}: {found} for {truth}", NAMES[j]);
    }
    let known = model.effects(&[Some(0.0), Some(2.0), Some(200.0)]).unwrap()[2];
    let unknown = model.effects(&[Some(0.0), Some(2.0), None]).unwrap()[2];
    assert!((unknown - known - 0.7).abs() < 0.1, "an unknown value has its own weight: {}", unknown - known);

    let metrics = &report.metrics;
    assert!((metrics.mean_predicted / metrics.base_rate - 1.0).abs() < 0.05, "{metrics:?}");
    assert!((metrics.calibration_slope.unwrap() - 1.0).abs() < 0.1, "{metrics:?}");
    assert!(metrics.log_loss < metrics.null_log_loss && metrics.brier < metrics.null_brier);
    let test = dataset.split().unwrap().test;
    let off = test.iter().map(|e| {
        let truth = sigmoid(true_logit(-2.5, &e.values));
        (model.score(&e.values).unwrap().probability - truth).abs()
    });
    assert!(off.sum::<f64>() / (test.len() as f64) < 0.01);
}

#[test]
fn positive_means_churn_whether_churn_is_rare_common_or_even() {
    for (intercept, expected) in [(-2.5, 0.0..0.3), (2.5, 0.7..1.0)] {
        let (_, Trained { model, report }) = trained(intercept, 500);
        assert!(expected.contains(&report.train.base_rate), "{}", report.train.base_rate);
        assert!(per_unit(&model, 0) > 0.5 && per_unit(&model, 1) < -0.3);
        let risk = |failed| model.score(&[Some(failed), Some(2.0), Some(200.0)]).unwrap().probability;
        assert!(risk(3.0) > risk(0.0));
        assert!(report.metrics.auc.unwrap() > 0.6 && report.calibration_slope > 0.5);
    }
    // Equally many of both: the library then takes the class it meets first.
    for first in [true, false] {
        let churned: Vec<bool> = (0..100).map(|i| (i % 2 == 0) == first).collect();
        let rows: Vec<Vec<Option<f64>>> = churned
            .iter()
            .enumerate()
            .map(|(i, &y)| vec![Some((i / 2 % 10) as f64 + if y { 3.0 } else { 0.0 })])
            .collect();
        let model = LinearModel::fit(&names(&["x"]), &rows, &churned, &FitOptions::default()).unwrap();
        assert!(model.weights()[0].value > 0.0 && model.logit(&[Some(12.0)]) > 0.0);
    }
}

#[test]
fn an_explanation_adds_up_to_the_score_and_names_the_largest_effects() {
    let (dataset, Trained { model, .. }) = trained(-2.5, 500);
    for example in dataset.examples().iter().step_by(97) {
        let score = model.score(&example.values).unwrap();
        let effects = model.effects(&example.values).unwrap();
        let logit = effects.iter().fold(model.baseline(), |sum, effect| sum + effect);
        assert_eq!(sigmoid(logit).to_bits(), score.probability.to_bits());
        assert!((logit - model.calibration().apply(model.linear().logit(&example.values))).abs() < 1e-12);
        assert!(score.reasons.is_sorted_by(|a, b| a.effect.abs() >= b.effect.abs()));
        for reason in &score.reasons {
            let j = model.names().position(&reason.feature).unwrap();
            assert_eq!((reason.effect, reason.value), (effects[j], example.values[j]));
        }
    }
    let score = model.score(&[Some(2.0), Some(2.1), None]).unwrap();
    assert_eq!(score.reasons[0].text, "2 failed payments in 30 days: raises the risk");
    assert!(score.reasons.iter().any(|r| r.text == "days to card expiry is unknown: raises the risk"), "{score:?}");
    let calm = model.score(&[Some(0.0), Some(4.0), Some(390.0)]).unwrap();
    assert!(calm.reasons.iter().all(|r| r.effect < 0.0 && r.text.ends_with(": lowers the risk")), "{calm:?}");
    assert!(calm.band < score.band && score.band >= Band::High);
}

#[test]
fn bands_are_reported_as_they_fell_on_the_test_block() {
    let (dataset, Trained { report, .. }) = trained(-2.5, 500);
    let [low, medium, high, critical] = report.bands.as_slice() else { panic!("four bands") };
    assert_eq!(low.rows + medium.rows + high.rows + critical.rows, report.test.rows);
    assert!(critical.rows * 20 <= report.test.rows && (high.rows + critical.rows) * 5 <= report.test.rows);
    assert!(low.churn_rate < medium.churn_rate && medium.churn_rate < high.churn_rate);
    assert!(high.churn_rate < critical.churn_rate);
    let absolute = Options { bands: BandRule::Absolute([0.1, 0.2, 0.4]), ..Options::default() };
    assert_eq!(train(&dataset, &absolute).unwrap().model.thresholds(), [0.1, 0.2, 0.4]);
}

#[test]
fn training_twice_gives_the_same_model_whatever_the_order_of_rows() {
    let dataset = synthetic(-2.5, 200, 3);
    let mut shuffled = dataset.examples().to_vec();
    shuffled.reverse();
    let again = Dataset::from_examples(names(&NAMES), shuffled, 30).unwrap();
    assert_eq!(train(&dataset, &Options::default()).unwrap(), train(&again, &Options::default()).unwrap());
}

#[test]
fn too_little_history_is_refused_with_what_is_missing() {
    let refusal = |dataset: &Dataset| train(dataset, &Options::default()).unwrap_err().to_string();
    let message = refusal(&synthetic(-2.5, 5, 1));
    assert!(message.contains("train block has") && message.contains("at least 200"), "{message}");
    let message = refusal(&synthetic(-7.0, 100, 1));
    assert!(message.contains("churned") && message.contains("wait"), "{message}");
    let empty = Dataset::from_examples(names(&["x"]), vec![], 30).unwrap();
    let message = refusal(&empty);
    assert!(message.contains("0 month starts") && message.contains('3'), "{message}");

    let mut same = synthetic(-2.5, 100, 1).examples().to_vec();
    same.iter_mut().for_each(|e| e.churned = false);
    let message = refusal(&Dataset::from_examples(names(&NAMES), same, 30).unwrap());
    assert!(message.contains("no customer of the block churned"), "{message}");
}

#[test]
fn a_ranking_that_turns_around_out_of_time_is_refused() {
    let mut examples = synthetic(-1.0, 500, 5).examples().to_vec();
    let later = day("2024-01-01") + Months::new(MONTHS / 2);
    for example in examples.iter_mut().filter(|e| e.snapshot >= later) {
        example.churned = !example.churned;
    }
    let dataset = Dataset::from_examples(names(&NAMES), examples, 30).unwrap();
    assert!(matches!(train(&dataset, &Options::default()), Err(Error::NoSignal { slope }) if slope <= 0.0));
}

#[test]
fn a_fit_that_is_cut_short_is_an_error_not_a_model() {
    let dataset = synthetic(-2.5, 200, 5);
    let fit = FitOptions { max_iterations: 1, ..FitOptions::default() };
    let short = train(&dataset, &Options { fit, ..Options::default() });
    assert!(matches!(short, Err(Error::NotConverged { .. })), "{short:?}");
    let fit = FitOptions { alpha: 0.0, ..FitOptions::default() };
    assert!(matches!(train(&dataset, &Options { fit, ..Options::default() }), Err(Error::Options(_))));
}

#[test]
fn values_that_cannot_be_scored_are_refused() {
    let (_, Trained { model, .. }) = trained(-2.5, 200);
    assert!(matches!(model.score(&[Some(1.0)]), Err(Error::Width { found: 1, expected: 3 })));
    assert!(matches!(model.score(&[Some(f64::NAN), None, None]), Err(Error::NotFinite { .. })));
    let mut renamed = NAMES;
    renamed.swap(0, 1);
    assert!(model.check_names(&names(&NAMES)).is_ok());
    assert!(matches!(model.check_names(&names(&renamed)), Err(Error::Features { .. })));
}

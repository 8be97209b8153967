//! The fit on public data: IBM's Telco churn set gives the AUC and log loss that scikit-learn gives with the same
//! penalty, encoding and 5-fold stratified cross-validation (AUC 0.845, log loss 0.4174).

use std::fs;

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use tributary::model::{
    evaluate::evaluate,
    features::FeatureNames,
    fit::{FitOptions, LinearModel, sigmoid},
};

use crate::needs;

const FOLDS: usize = 5;
const NUMERIC: [&str; 4] = ["SeniorCitizen", "tenure", "MonthlyCharges", "TotalCharges"];

/// One column per number and per category of the others; a blank total is that of a first month, 0.
fn encode(csv: &str) -> (FeatureNames, Vec<Vec<Option<f64>>>, Vec<bool>) {
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let records: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert!(records.iter().all(|r| r.len() == header.len()));
    let mut names = Vec::new();
    let mut rows = vec![Vec::new(); records.len()];
    for (j, column) in header.iter().enumerate().filter(|(_, c)| !["customerID", "Churn"].contains(*c)) {
        if NUMERIC.contains(column) {
            names.push((*column).to_owned());
            for (row, record) in rows.iter_mut().zip(&records) {
                row.push(Some(record[j].trim().parse().unwrap_or(0.0)));
            }
            continue;
        }
        let mut categories: Vec<&str> = records.iter().map(|r| r[j]).collect();
        categories.sort_unstable();
        categories.dedup();
        for category in categories {
            names.push(format!("{column}={category}"));
            for (row, record) in rows.iter_mut().zip(&records) {
                row.push(Some(if record[j] == category { 1.0 } else { 0.0 }));
            }
        }
    }
    let churned = records.iter().map(|r| r[header.len() - 1] == "Yes").collect();
    (FeatureNames::new(names).unwrap(), rows, churned)
}

#[test]
fn telco_churn_scores_as_published() {
    let Some(path) = needs::shared_data("telco-churn/Telco-Customer-Churn.csv") else { return };
    let csv = fs::read_to_string(path).unwrap();
    let (names, rows, churned) = encode(&csv);
    assert_eq!((rows.len(), churned.iter().filter(|y| **y).count()), (7_043, 1_869));

    let mut fold_of = vec![0; rows.len()];
    let mut rng = StdRng::seed_from_u64(42);
    for class in [true, false] {
        let mut members: Vec<usize> = (0..rows.len()).filter(|&i| churned[i] == class).collect();
        members.shuffle(&mut rng);
        members.into_iter().enumerate().for_each(|(k, i)| fold_of[i] = k % FOLDS);
    }
    let (mut auc, mut log_loss, mut brier, mut lift) = (0.0, 0.0, 0.0, 0.0);
    for fold in 0..FOLDS {
        let (held, kept): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|&i| fold_of[i] == fold);
        let train_rows: Vec<&[Option<f64>]> = kept.iter().map(|&i| rows[i].as_slice()).collect();
        let train_labels: Vec<bool> = kept.iter().map(|&i| churned[i]).collect();
        let model = LinearModel::fit(&names, &train_rows, &train_labels, &FitOptions::default()).unwrap();
        let predicted: Vec<f64> = held.iter().map(|&i| sigmoid(model.logit(&rows[i]))).collect();
        let outcomes: Vec<bool> = held.iter().map(|&i| churned[i]).collect();
        let metrics = evaluate(&predicted, &outcomes).unwrap();
        auc += metrics.auc.unwrap() / FOLDS as f64;
        log_loss += metrics.log_loss / FOLDS as f64;
        brier += metrics.brier / FOLDS as f64;
        lift += metrics.top_decile_lift.unwrap() / FOLDS as f64;
    }
    println!("Telco churn, {FOLDS} folds: AUC {auc:.4}, log loss {log_loss:.4}, Brier {brier:.4}, lift {lift:.2}");
    assert!((auc - 0.845).abs() < 0.01 && (log_loss - 0.4174).abs() < 0.005);
    assert!((brier - 0.1356).abs() < 0.003 && (lift - 2.87).abs() < 0.15);
}

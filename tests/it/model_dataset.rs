//! Person-months: features without leakage, labels by hand, what is left out, and blocks apart in time.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{Days, Months};
use tributary::model::{
    Error,
    dataset::{self, Dataset, Example, PayingInterval, paying_intervals},
    features::{FeatureNames, FeatureRow},
};

use super::model::{day, names, subject};

#[test]
fn blocks_follow_in_time_and_no_label_reaches_into_the_next() {
    for (months, horizon) in [(3, 28), (4, 30), (6, 30), (14, 30), (20, 30), (20, 95)] {
        let examples = (0..months).map(|m| Example {
            subject: Arc::new(subject(0)),
            snapshot: day("2023-01-01") + Months::new(m),
            values: vec![Some(1.0)],
            churned: false,
        });
        let dataset = Dataset::from_examples(names(&["x"]), examples.collect(), horizon).unwrap();
        let split = dataset.split().unwrap();
        for (before, after) in [(split.train, split.calibrate), (split.calibrate, split.test)] {
            assert!(before.last().unwrap().snapshot + Days::new(horizon.into()) <= after[0].snapshot);
        }
        assert_eq!(split.test.last(), dataset.examples().last());
    }
}

/// A data set of one customer with one feature row before each given day's features.
fn one_customer(rows: &[(&str, f64, f64)], paying: Vec<PayingInterval>, last_day: &str) -> Result<Dataset, Error> {
    let rows: Vec<FeatureRow> = rows
        .iter()
        .map(|(as_of, x, scheduled)| FeatureRow {
            account: "acct_1".to_owned(),
            livemode: true,
            customer_id: "cus_00001".to_owned(),
            as_of: day(as_of),
            values: vec![Some(*x), Some(*scheduled)],
        })
        .collect();
    let mut options = dataset::Options::until(day(last_day));
    options.cancel_scheduled = Some("cancel_scheduled".to_owned());
    Dataset::build(names(&["x", "cancel_scheduled"]), &rows, &BTreeMap::from([(subject(1), paying)]), &options)
}

fn paying(start: &str, end: Option<&str>) -> PayingInterval {
    PayingInterval { start: day(start), end: end.map(day) }
}

/// (snapshot, x, churned) of each row.
fn summary(dataset: &Dataset) -> Vec<(String, f64, bool)> {
    let rows = dataset.examples().iter();
    rows.map(|e| (e.snapshot.to_string(), e.values[0].unwrap(), e.churned)).collect()
}

#[test]
fn a_snapshot_sees_only_days_before_it_and_the_label_only_its_horizon() {
    let rows = [("2024-01-10", 1.0, 0.0), ("2024-01-31", 2.0, 0.0), ("2024-03-01", 3.0, 0.0), ("2024-04-15", 4.0, 0.0)];
    // The horizon of 1 March covers 1 to 30 March.
    for (end, churned) in [("2024-03-30", true), ("2024-03-31", false)] {
        let dataset = one_customer(&rows, vec![paying("2024-01-05", Some(end))], "2024-12-31").unwrap();
        let expected = [("2024-02-01", 2.0, false), ("2024-03-01", 2.0, churned)];
        assert_eq!(summary(&dataset), expected.map(|(s, x, y)| (s.to_owned(), x, y)));
    }
}

#[test]
fn who_does_not_pay_at_the_snapshot_is_not_at_risk() {
    let rows = [("2024-01-10", 1.0, 0.0)];
    // Pays from the snapshot's own day on: not yet at its first instant. Stops on it: still at its first instant.
    let intervals = vec![paying("2024-02-01", Some("2024-03-01")), paying("2024-06-20", Some("2024-06-25"))];
    let dataset = one_customer(&rows, intervals, "2024-12-31").unwrap();
    assert_eq!(summary(&dataset), [("2024-03-01".to_owned(), 1.0, true)]);
}

#[test]
fn scheduled_cancellations_censored_months_and_missing_features_are_left_out_and_counted() {
    let rows = [("2024-02-10", 1.0, 0.0), ("2024-03-20", 2.0, 1.0), ("2024-04-20", 3.0, 0.0)];
    // 1 June plus 30 days ends on 30 June: known on that day, not on the day before.
    for (last_day, censored) in [("2024-06-30", 0), ("2024-06-29", 1)] {
        let dataset = one_customer(&rows, vec![paying("2024-01-05", None)], last_day).unwrap();
        let left_out = dataset.left_out();
        assert_eq!((left_out.no_features, left_out.cancel_scheduled, left_out.censored), (1, 1, censored));
        let kept = ["2024-03-01", "2024-05-01", "2024-06-01"];
        let found: Vec<String> = summary(&dataset).into_iter().map(|(snapshot, ..)| snapshot).collect();
        assert_eq!(found, kept[..3 - censored]);
    }
    // A churn that is already known is censored too: the months beside it that end well are not known yet.
    let churned = vec![paying("2024-01-05", Some("2024-06-03"))];
    assert_eq!(one_customer(&rows, churned, "2024-06-10").unwrap().left_out().censored, 1);
}

#[test]
fn closings_become_intervals() {
    let closings = [
        ("2024-01-03", true),
        ("2024-01-09", true),
        ("2024-02-01", false),
        ("2024-02-02", false),
        ("2024-03-05", true),
    ];
    let intervals = paying_intervals(closings.map(|(d, p)| (day(d), p)));
    assert_eq!(intervals, [paying("2024-01-03", Some("2024-02-01")), paying("2024-03-05", None)]);
}

#[test]
fn input_that_contradicts_itself_is_refused() {
    let open = vec![paying("2024-01-05", None)];
    let twice = one_customer(&[("2024-01-10", 1.0, 0.0), ("2024-01-10", 2.0, 0.0)], open.clone(), "2024-12-31");
    assert!(matches!(twice, Err(Error::DuplicateRow { .. })));
    let nan = one_customer(&[("2024-01-10", f64::NAN, 0.0)], open.clone(), "2024-12-31");
    let message = nan.unwrap_err().to_string();
    assert!(message.contains("`x`") && message.contains("2024-01-10") && message.contains("NULL"), "{message}");
    for bad in [
        vec![paying("2024-01-05", None), paying("2024-03-05", None)],
        vec![paying("2024-01-05", Some("2024-01-05"))],
        vec![paying("2024-01-05", Some("2024-02-05")), paying("2024-02-05", None)],
    ] {
        assert!(matches!(one_customer(&[], bad, "2024-12-31"), Err(Error::Intervals { .. })));
    }
    let mut options = dataset::Options::until(day("2024-12-31"));
    options.cancel_scheduled = Some("nonesuch".to_owned());
    let unknown = Dataset::build(names(&["x"]), &[], &BTreeMap::new(), &options);
    assert!(unknown.unwrap_err().to_string().contains("nonesuch"));
    assert!(FeatureNames::new(vec![]).is_err() && FeatureNames::new(vec!["x".into(), "x".into()]).is_err());
}

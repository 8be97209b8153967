//! The ledger against the books that the simulator keeps for itself.

use std::collections::BTreeMap;

use super::support::{Site, micros};

const MOVEMENTS: [&str; 6] = ["imported", "new", "reactivation", "expansion", "contraction", "churn"];

/// Rows of a CSV without quoted values, by column.
fn table(csv: &str) -> Vec<BTreeMap<&str, &str>> {
    let mut lines = csv.lines();
    let columns: Vec<_> = lines.next().unwrap().split(',').collect();
    lines.map(|line| columns.iter().copied().zip(line.split(',')).collect()).collect()
}

/// Closing MRR in millionths by day and currency.
fn closings<'a>(rows: &[BTreeMap<&'a str, &'a str>]) -> BTreeMap<(&'a str, &'a str), i128> {
    let closings: BTreeMap<_, _> =
        rows.iter().map(|row| ((row["day"], row["currency"]), micros(row["closing"]))).collect();
    assert_eq!(closings.len(), rows.len(), "one row for each day and currency");
    closings
}

/// Checks `mrr_daily` of a data directory against the truth written beside it.
pub(super) fn assert_equals_truth(site: &Site, data: &str, truth: &str) {
    let (truth, csv) = (
        site.read(&format!("{truth}/mrr_daily.csv")),
        site.query(data, "csv", "SELECT * FROM mrr_daily ORDER BY currency, day"),
    );
    let (truth, rows) = (closings(&table(&truth)), table(&csv));
    assert!(truth.len() > 300, "{} days are too few to prove anything", truth.len());
    assert!(truth.keys().any(|(_, currency)| *currency == "jpy") && truth.keys().any(|(_, c)| *c == "usd"));
    let ours = closings(&rows);
    let wrong: Vec<_> = truth.iter().filter(|(key, closing)| ours.get(*key) != Some(*closing)).take(5).collect();
    assert!(
        wrong.is_empty(),
        "truth {wrong:?}, ours {:?}",
        wrong.iter().map(|(key, _)| ours.get(*key)).collect::<Vec<_>>()
    );
    assert_eq!(ours.len(), truth.len(), "days and currencies");

    let mut closing_before: BTreeMap<&str, i128> = BTreeMap::new();
    for row in &rows {
        let (opening, closing) = (micros(row["opening"]), micros(row["closing"]));
        let moved: i128 = MOVEMENTS.iter().map(|column| micros(row[column])).sum();
        assert_eq!(opening + moved, closing, "the bridge closes: {row:?}");
        let before = closing_before.insert(row["currency"], closing).unwrap_or(0);
        assert_eq!(opening, before, "a day opens with what the day before closed with: {row:?}");
        assert!(micros(row["contraction"]) <= 0 && micros(row["churn"]) <= 0, "{row:?}");
        assert!(micros(row["new"]) >= 0 && micros(row["expansion"]) >= 0, "{row:?}");
    }
    for kind in ["new", "expansion", "contraction", "churn"] {
        assert!(rows.iter().any(|row| micros(row[kind]) != 0), "no {kind} at all in this account");
    }
}

/// Simulates, reads and compares an account for each seed.
fn equals_truth(arguments: &str) {
    for seed in [7, 8] {
        let site = Site::new();
        site.simulate("events.jsonl", &format!("--customers 150 --months 6 --seed {seed} --truth truth {arguments}"));
        site.run("ingest events.jsonl --data-dir data");
        let said = site.run("run --once --data-dir data");
        assert!(said.err.contains(" 0 rejected, 0 late"), "{}", said.err);
        assert_equals_truth(&site, "data", "truth");
        for table in ["late_events", "rejected_events", "ledger_gaps"] {
            assert_eq!(site.number("data", &format!("SELECT count(*) FROM {table}")), 0, "seed {seed}: {table}");
        }
        let archived = site.number("data", "SELECT count(*) FROM events_archive");
        assert_eq!(archived, site.read("events.jsonl").lines().count() as i64, "every event is in the archive");
    }
}

#[test]
fn the_simulators_truth_equals_the_ledger_on_every_day() {
    equals_truth("");
}

#[test]
fn the_simulators_truth_equals_the_ledger_in_the_older_shape() {
    equals_truth("--api-version 2024-06-20");
}

#[test]
fn the_simulators_truth_equals_the_ledger_when_events_come_late_and_twice() {
    equals_truth("--disorder 0.1");
    equals_truth("--disorder 0.3 --api-version 2024-06-20");
}

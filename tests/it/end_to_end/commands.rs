//! `check`, `explain` and `query` as a person and a script see them.

use std::fs;

use serde_json::Value;

use super::support::{Said, Site};

/// The output of a command, whatever came of it.
fn said(site: &Site, arguments: &str) -> Said {
    Said::of(site.command(arguments).output().unwrap())
}

#[test]
fn the_shipped_pipelines_pass_the_check_with_their_classes() {
    let site = Site::new();
    let checked = site.run("check").out;
    for (name, class) in
        [("mrr_daily", "aggregate"), ("expansion_events", "stateless"), ("churn_features", "aggregate")]
    {
        let line = checked.lines().find(|line| line.contains(name)).unwrap();
        assert!(line.contains(class), "{line}");
        let explained = site.run(&format!("explain {name}")).out;
        let line = explained.lines().find(|line| line.starts_with("class")).unwrap();
        assert!(line.ends_with(class), "{explained}");
    }
    let features = site.run("explain churn_features").out;
    assert!(features.contains("for the changed (account, livemode, customer_id)"), "{features}");
    let unknown = said(&site, "explain nothing");
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("mrr_daily"), "it names those there are: {}", unknown.err);
    assert_eq!(said(&site, "explain").code, 2);
}

#[test]
fn a_pipeline_that_is_wrong_fails_the_check_with_its_line_and_a_caret() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/expansion_events.sql");
    let shipped = fs::read_to_string(shipped).unwrap();
    let line_of = |text: &str, part: &str| 1 + text.lines().position(|line| line.contains(part)).unwrap();
    for (right, wrong, word) in [
        ("mrr_delta >= $min_amount", "mrr_dleta >= $min_amount", "mrr_dleta"),
        ("FROM mrr_movements", "FROM mrr_movement", "mrr_movement"),
        ("grain: [account, livemode, movement_id]", "grain: [account, livemode, movement]", "movement"),
        ("= 'expansion' AND", "= 'expansion' AND AND", "AND"),
        ("mrr_delta >= $min_amount", "mrr_delta >= random()", "random"),
    ] {
        let site = Site::new();
        let broken = shipped.replace(right, wrong);
        site.write("sql/expansion_events.sql", &broken);
        site.write("tributary.toml", "[pipelines]\ndir = \"sql\"\n");
        let checked = said(&site, "check");
        assert_eq!(checked.code, 1, "{wrong}: {}", checked.out);
        let place = format!("expansion_events.sql:{}:", line_of(&broken, wrong));
        assert!(checked.err.contains(&place), "{place}: {}", checked.err);
        assert!(checked.err.contains("▲") || checked.err.contains('┬'), "a caret: {}", checked.err);
        assert!(checked.err.contains(word), "{}", checked.err);
        // The engine refuses it in the same words, and makes no table.
        assert_eq!(said(&site, "run --once --data-dir data").code, 1);
        assert!(!site.path("data/tables").exists());
    }
}

/// A file of a pipeline that gives `movement_id` and `mrr_delta`.
fn movements(name: &str, query: &str) -> String {
    format!(
        "/*---\nname: {name}\ndescription: d\nowner: o\nmode: upsert\ngrain: [account, livemode, movement_id]\n\
         time_column: movement_id\ncolumns:\n  movement_id: {{ description: m }}\n  mrr_delta: {{ description: d }}\n\
         ---*/\n{query}"
    )
}

#[test]
fn explain_shows_what_is_wrong_with_a_file_and_minds_no_other_one() {
    let site = Site::new();
    let select = "SELECT account, livemode, movement_id, mrr_delta\nFROM";
    site.write("pipelines/good.sql", &movements("good", &format!("{select} mrr_movements")));
    let largest = format!("{select} mrr_movements\nORDER BY mrr_delta DESC, movement_id LIMIT 3");
    site.write("pipelines/largest.sql", &movements("largest", &largest));
    site.write("pipelines/after.sql", &movements("after", &format!("{select} largest")));
    site.write("pipelines/a_headless.sql", "SELECT 1");
    site.write("pipelines/headed.sql", &movements("headed", &format!("{select} a_headless")));

    let good = site.run("explain good").out;
    let line = |label: &str| good.lines().find(|line| line.starts_with(label)).unwrap_or_default().to_owned();
    assert!(line("class").ends_with("stateless"), "{good}");
    assert!(line("leaves out").contains("late_events"), "{good}");

    for (name, place, reason) in [
        ("largest", "largest.sql:14:", "cannot be maintained"),
        ("after", "largest.sql:14:", "cannot be maintained"),
        ("a_headless", "a_headless.sql:1:", "does not begin with its metadata"),
        ("headed", "a_headless.sql:1:", "does not begin with its metadata"),
    ] {
        let refused = said(&site, &format!("explain {name}"));
        assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{name}: {}", refused.err);
        assert!(refused.err.contains(place), "{name}: {}", refused.err);
        assert!(refused.err.contains('▲') || refused.err.contains('┬'), "a caret: {}", refused.err);
        assert!(refused.words().contains(reason) && refused.err.contains("help:"), "{name}: {}", refused.err);
    }
    assert!(said(&site, "explain largest").words().contains("schedule:"), "how it can be written instead");
    let unknown = said(&site, "explain nothing");
    assert!(unknown.words().contains("a_headless, after, good, headed, largest"), "{}", unknown.err);
}

#[test]
fn answers_come_as_a_table_as_json_and_as_csv_and_nothing_can_be_written() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 20 --months 2 --seed 3");
    site.run("ingest events.jsonl --data-dir data");
    site.run("run --once --data-dir data");
    let sql = "SELECT day, currency, closing, customers, is_final FROM mrr_daily ORDER BY day, currency LIMIT 2";

    let csv = site.query("data", "csv", sql);
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "day,currency,closing,customers,is_final"));
    assert!(lines[1].starts_with("2024-01-"), "{csv}");

    let rows = site.rows("data", sql);
    assert_eq!(rows.len(), 2);
    assert!(rows[0]["closing"].is_string(), "money is not a float: {}", rows[0]);
    assert!(rows[0]["customers"].is_number() && rows[0]["is_final"].is_boolean(), "{}", rows[0]);
    assert!(lines[1].contains(rows[0]["closing"].as_str().unwrap()));

    let table = site.query("data", "table", sql);
    assert!(table.contains("| day ") && table.contains("closing"), "{table}");
    let lists = site.rows("data", "SELECT causes FROM mrr_movements LIMIT 1");
    assert!(matches!(&lists[0]["causes"], Value::Array(causes) if !causes.is_empty()), "{lists:?}");
    assert_eq!(site.query("data", "csv", "SELECT day FROM mrr_daily WHERE day < '2000-01-01'").trim(), "day");

    for sql in ["DELETE FROM mrr_daily", "CREATE TABLE x (a INT)", "SELECT 1; SELECT 2", "COPY mrr_daily TO 'x.csv'"] {
        let refused = Said::of(site.command("query --data-dir data").arg(sql).output().unwrap());
        assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{sql}");
        assert!(!refused.err.is_empty());
    }
    assert!(!site.path("x.csv").exists());
    let empty = Said::of(site.command("query --data-dir nowhere").arg("SELECT 1").output().unwrap());
    assert_eq!(empty.code, 1);
    assert!(empty.err.contains("tributary run"), "it says what to do: {}", empty.err);
    assert!(!site.path("nowhere").exists(), "asking makes no directory");
}

//! `tributary test`: the shipped tests hold, and a test that does not says where.

use std::{collections::BTreeSet, fs, path::Path};

use super::support::{Said, Site};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines");

/// What came of a command; messages without the ends of their lines.
fn said(site: &Site, arguments: &str) -> Said {
    let said = Said::of(site.command(arguments).output().unwrap());
    Said { err: said.err.replace("\n  │ ", " "), ..said }
}

/// A site with a shipped pipeline and its tests, each changed a little.
fn site(pipeline: &str, sql: impl Fn(String) -> String, tests: impl Fn(String) -> String) -> Site {
    let site = Site::new();
    let read = |path: String| fs::read_to_string(Path::new(SHIPPED).join(path)).unwrap();
    site.write(&format!("pipelines/{pipeline}.sql"), &sql(read(format!("{pipeline}.sql"))));
    site.write(&format!("pipelines/tests/{pipeline}.yml"), &tests(read(format!("tests/{pipeline}.yml"))));
    site
}

/// Replaces what must be there.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

#[test]
fn the_tests_of_the_shipped_pipelines_hold_whatever_is_configured() {
    let site = Site::new();
    site.write("tributary.toml", &format!("[merchant]\nzone = \"Asia/Tokyo\"\n[pipelines]\ndir = \"{SHIPPED}\"\n"));
    let tested = site.run("test").out;
    let pipelines: BTreeSet<&str> = tested.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    assert!(pipelines.len() >= 8, "{pipelines:?}");
    assert!(tested.lines().last().unwrap().ends_with(" tests, 0 failed"), "{tested}");
    let one = site.run("test arpa ltv").out;
    assert!(one.contains("arpa: ") && one.contains("ltv: ") && one.ends_with("2 tests, 0 failed\n"), "{one}");
}

#[test]
fn a_test_that_does_not_hold_names_the_row_with_both_values_and_exits_with_3() {
    // The smallest amount itself is left out: one row is missing.
    let strict = |sql: String| replaced(&sql, ">= $min_amount", "> $min_amount");
    let failed = said(&site("expansion_events", strict, |tests| tests), "test");
    assert_eq!(failed.code, 3, "{}", failed.err);
    assert!(failed.out.contains("of paying customers alone … FAILED"), "{}", failed.out);
    assert!(failed.out.contains("    missing: movement_id = a, customer_id = cus_a, mrr_delta = 30"), "{}", failed.out);
    assert!(failed.out.ends_with("3 tests, 1 failed\n"), "{}", failed.out);

    let wrong = |tests: String| replaced(&tests, "day: 2026-03-02, closing: 130,", "day: 2026-03-02, closing: 100,");
    let failed = said(&site("mrr_daily", |sql| sql, wrong), "test mrr_daily");
    assert_eq!(failed.code, 3, "{}", failed.err);
    assert!(failed.out.contains("    day = 2026-03-02: closing expected 100, was 130\n"), "{}", failed.out);

    let less = |tests: String| replaced(&tests, "- { day: 2026-03-03, closing: 0, customers: 0 }", "");
    let failed = said(&site("mrr_daily", |sql| sql, less), "test");
    assert!(failed.out.contains("    not expected: day = 2026-03-03, closing = 0, customers = 0\n"), "{}", failed.out);
    assert_eq!(failed.code, 3);

    // A value of which the table could not hold every digit is no value.
    let finer = |tests: String| replaced(&tests, "mrr_delta: \"29.999999\"", "mrr_delta: \"29.9999999\"");
    let refused = said(&site("expansion_events", |sql| sql, finer), "test");
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(refused.err.contains("`mrr_delta` has 6 decimal places"), "{}", refused.err);
}

#[test]
fn a_pipeline_that_fails_on_the_rows_fails_its_test() {
    let divides = |sql: String| replaced(&sql, "NULLIF(mrr_before, 0)", "mrr_before");
    let failed = said(&site("expansion_events", divides, |tests| tests), "test");
    assert_eq!(failed.code, 3, "{}", failed.err);
    assert!(failed.out.contains("    epoch 1: pipeline expansion_events: the query failed"), "{}", failed.out);
}

#[test]
fn a_test_that_is_not_right_says_what_to_write() {
    for (from, to, message) in [
        ("pipeline: customer_mrr", "pipeline: customer_mmr", "there is no pipeline `customer_mmr`"),
        ("- mrr_movements:", "- mrr_ledger:", "does not read `mrr_ledger`; it reads mrr_movements"),
        ("movement_id: a, ", "", "a row lacks its key `movement_id`"),
        ("mrr_before: 0,", "before: 0,", "there is no column `before`"),
        ("mrr: 87 }", "mmr: 87 }", "row 3 names other columns than row 1"),
        ("mrr_delta: 58 }", "mrr_delta: many }", "`mrr_delta`"),
        ("- { movement_id: a, __op: -1 }", "- { movement_id: x, __op: -1 }", "__op: -1 for a row that is not there"),
        ("    given:", "    giben:", "customer_mrr.yml is not right"),
    ] {
        let refused = said(&site("customer_mrr", |sql| sql, |tests| replaced(&tests, from, to)), "test");
        assert_eq!(refused.code, 1, "{to}: {}", refused.out);
        assert!(refused.err.contains(message), "{message}: {}", refused.err);
    }
    let timeless = |tests: String| replaced(&tests, "at_time: 2026-03-02T12:00:00Z", "params: {}");
    let refused = said(&site("mrr_daily", |sql| sql, timeless), "test");
    assert!(refused.err.contains("at_time"), "{}", refused.err);
    assert_eq!(said(&site("mrr_daily", |sql| sql, |tests| tests), "test arpa").code, 1);
    assert_eq!(said(&Site::new(), "test").code, 1, "there is no directory of tests");
}

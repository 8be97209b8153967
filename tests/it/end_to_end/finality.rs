//! `is_final` says of every window whether it is over, in `query` and in `psql` alike.

use tributary::tables;

use super::{
    serving::Psql,
    support::{Running, Site},
};
use crate::needs;

/// A user's own query, whose windows are weeks of the merchant's zone.
const WEEKS: &str = "/*---\nname: weeks\ndescription: d\nowner: o\nmode: upsert\n\
    grain: [account, livemode, window_end]\ntime_column: window_end\ncolumns:\n  window_end: { description: w }\n  \
    movements: { description: n }\n---*/\nSELECT account, livemode, window_end, COUNT(*) AS movements \
    FROM TUMBLE(mrr_movements, occurred_at, INTERVAL '1' WEEK, 'America/New_York') \
    GROUP BY account, livemode, window_end";

/// Up to when the log of a mode is complete: the watermark of all, and three days before its own last event.
const COMPLETE: &str = "(SELECT LEAST((SELECT MAX(watermark) FROM pipeline_status), \
    (SELECT MAX(last_event_at) FROM log_clock) - INTERVAL '3 days') AS complete) AS c";

/// What `is_final` must be, by the column that says of which window a row is: in the words of the zone's calendar.
fn expected(column: &str) -> String {
    let today = "local_date(c.complete, 'America/New_York')";
    match column {
        "window_end" => "t.window_end <= c.complete".to_owned(),
        "month" => format!("t.month < CAST(date_trunc('month', {today}) AS DATE)"),
        day => format!("t.{day} < {today}"),
    }
}

/// Every table that has it, with the column.
fn tables_with_it() -> Vec<(String, &'static str)> {
    let all = tables::all().unwrap().iter().filter(|table| table.has_is_final);
    let mut found: Vec<_> = all
        .map(|table| {
            let is_key = |column: &&str| table.key.iter().any(|key| key == column);
            (table.name.clone(), ["day", "as_of", "month"].into_iter().find(is_key).unwrap())
        })
        .collect();
    found.push(("weeks".to_owned(), "window_end"));
    found
}

/// Rows of a table whose windows are over, those whose are not, and those of which the wrong thing is said.
fn counted(table: &str, column: &str, schema: &str) -> String {
    let complete = COMPLETE.replace("log_clock", &format!("{schema}.log_clock"));
    format!(
        "SELECT count(*) FILTER (WHERE is_final) AS closed, count(*) FILTER (WHERE NOT is_final) AS open, \
         count(*) FILTER (WHERE is_final IS DISTINCT FROM ({})) AS wrong FROM {schema}.{table} AS t, {complete}",
        expected(column)
    )
}

#[test]
fn a_window_is_final_when_the_watermark_has_passed_its_end_where_the_merchant_is() {
    let site = Site::new();
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    super::crash::copy(&shipped, &site.path("pipelines"));
    site.write("pipelines/weeks.sql", WEEKS);
    site.write("tributary.toml", "[merchant]\nzone = \"America/New_York\"\n");
    site.simulate("events.jsonl", "--customers 60 --months 6 --seed 54");
    let events = site.read("events.jsonl");
    // Test data ends two months earlier: what comes later says nothing of it.
    let until: String = events.lines().take(events.lines().count() / 2).map(|line| format!("{line}\n")).collect();
    site.ingest("data", &events);
    site.ingest("data", &until.replace("\"livemode\":true", "\"livemode\":false"));
    site.run("run --once --data-dir data");

    let tables = tables_with_it();
    assert!(tables.len() > 12, "{tables:?}");
    let mut asked = Vec::new();
    for (table, column) in &tables {
        for schema in ["public", "test"] {
            let sql = counted(table, column, schema);
            let csv = site.query("data", "csv", &sql);
            let counts: Vec<i64> = csv.lines().nth(1).unwrap().split(',').map(|n| n.parse().unwrap()).collect();
            assert!(counts[0] > 0 && counts[1] > 0, "{schema}.{table} has windows on one side alone: {csv}");
            assert_eq!(counts[2], 0, "{schema}.{table}: {csv}");
            asked.push((sql, csv.lines().nth(1).unwrap().replace(',', "|")));
        }
    }
    let stored = site.run("query --data-dir data --output csv --file pipelines/mrr_daily.sql").out;
    assert!(!stored.lines().next().unwrap().contains("is_final"), "it is computed on reading: {stored}");

    if !needs::psql() {
        return;
    }
    let mut engine = Running::start(&site, "--data-dir data", &[]);
    let psql = Psql::of(&mut engine, &site, "data");
    for (sql, answer) in asked {
        assert_eq!(psql.answer(&sql), answer, "{sql}");
    }
    engine.stop();
}

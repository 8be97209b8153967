//! Queries that run on a schedule, from a file to its table: over restarts, new SQL, past moments and backtests.

use std::collections::BTreeSet;

use super::{
    alerts::seats,
    closing,
    crash::durable,
    support::{Running, Said, Site, assert_same_lines, until},
};

pub(super) const QUERY: &str = "SELECT account, livemode, customer_id, SUM(mrr_delta) AS mrr FROM mrr_movements \
    WHERE occurred_at < $as_of AND currency = 'usd' GROUP BY account, livemode, customer_id \
    ORDER BY mrr DESC, account, livemode, customer_id LIMIT 7";

pub(super) const ALL: &str = "SELECT * FROM top_customers ORDER BY mrr DESC, customer_id";

pub(super) fn file(metadata: &str, query: &str) -> String {
    format!(
        "/*---\nname: top_customers\ndescription: d\nowner: o\nmode: upsert\n{metadata}\n\
         grain: [account, livemode, customer_id]\ntime_column: customer_id\ncolumns:\n  \
         customer_id: {{ description: c }}\n  mrr: {{ description: m }}\n---*/\n{query}"
    )
}

fn said(site: &Site, arguments: &str) -> Said {
    Said::of(site.command(arguments).output().unwrap())
}

/// What the query says now at a boundary.
fn batch(site: &Site, at: &str) -> String {
    batch_of(site, "data", QUERY, at)
}

/// What a query says now at a boundary.
pub(super) fn batch_of(site: &Site, data: &str, query: &str, at: &str) -> String {
    let at = format!("arrow_cast('{at}', 'Timestamp(µs, \"UTC\")')");
    let sql = format!("SELECT * FROM ({}) ORDER BY mrr DESC, customer_id", query.replace("$as_of", &at));
    site.query(data, "csv", &sql)
}

/// The boundary of the last run.
fn ran(site: &Site) -> String {
    ran_in(site, "data")
}

pub(super) fn ran_in(site: &Site, data: &str) -> String {
    let sql = "SELECT last_run_at FROM pipeline_status WHERE pipeline = 'top_customers'";
    site.query(data, "csv", sql).lines().nth(1).unwrap().to_owned()
}

#[test]
fn a_snapshot_is_the_batch_answer_at_the_last_boundary_that_the_log_has_crossed() {
    let site = Site::new();
    site.write("pipelines/top_customers.sql", &file("schedule: monthly", QUERY));
    site.simulate("events.jsonl", "--customers 60 --months 6 --seed 6");
    let events = site.read("events.jsonl");
    let lines: Vec<&str> = events.lines().collect();
    let (first, second) = lines.split_at(lines.len() / 2);

    site.ingest("data", &first.join("\n"));
    site.run("run --once --data-dir data");
    let (begun, early) = (ran(&site), site.query("data", "csv", ALL));
    assert!(begun.contains("-01T00:00:00"), "{begun}");
    assert_same_lines("the first half", &early, &batch(&site, &begun));
    assert_eq!(early.lines().count(), 8);

    site.ingest("data", &second.join("\n"));
    site.run("run --once --data-dir data");
    let (boundary, late) = (ran(&site), site.query("data", "csv", ALL));
    assert!(boundary > begun, "{boundary} {begun}");
    assert_same_lines("the second half", &late, &batch(&site, &boundary));
    assert_ne!(early, late);
    site.run("run --once --data-dir data");
    assert_eq!((ran(&site), site.query("data", "csv", ALL)), (boundary.clone(), late.clone()), "nothing was crossed");

    let explained = site.run("explain top_customers --data-dir data").out;
    for line in ["snapshot\n", "monthly\n", "as of 2024-", "7 rows"] {
        assert!(explained.contains(line), "{line}: {explained}");
    }
    assert!(site.run("status --data-dir data").out.contains("top_customers: ran last as of 2024-"));
    let past =
        Said::of(site.command("query --data-dir data --output csv --as-of 2024-03-31").arg(ALL).output().unwrap());
    assert_same_lines("a past moment", &past.out, &batch(&site, "2024-03-01T00:00:00Z"));

    let range = "--from 2024-01-01 --to 2030-12-31 --data-dir data";
    let backtest = said(&site, &format!("backtest top_customers {range} --output csv"));
    assert_eq!(backtest.code, 0, "{}", backtest.err);
    let sorted = |text: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines[1..].sort_unstable();
        lines.join("\n")
    };
    assert_same_lines("a backtest", &sorted(&backtest.out), &sorted(&late));
    let epochs = site.run(&format!("backtest top_customers {range} --epochs")).out;
    let months: BTreeSet<&str> = epochs.lines().map(|line| &line[..7]).collect();
    assert!(months.len() >= 3 && months.len() == epochs.lines().count(), "once a month: {epochs}");

    site.write("other/top_customers.sql", &file("schedule: monthly", &QUERY.replace("LIMIT 7", "LIMIT 3")));
    let diff = site.run("diff top_customers --sql other/top_customers.sql --data-dir data").out;
    assert!(diff.starts_with("top_customers: 7 rows before, 3 after: 0 added, 4 removed, 0 changed\n"), "{diff}");
    site.write("pipelines/top_customers.sql", &site.read("other/top_customers.sql"));
    let plan = site.run("plan --data-dir data").out;
    assert!(plan.contains(" changed ") && plan.contains(" snapshot "), "{plan}");
    site.run("apply --data-dir data");
    let few: Vec<&str> = late.lines().take(4).collect();
    assert_eq!(site.query("data", "csv", ALL).lines().collect::<Vec<_>>(), few, "it runs at once");
    assert_eq!(ran(&site), boundary);
}

/// Takes seconds, whatever it reads.
const SLOW: &str = "SELECT account, livemode, customer_id, SUM(mrr_delta) AS mrr FROM mrr_movements WHERE (SELECT COUNT(*) \
    FROM generate_series(1, 20000) AS a CROSS JOIN generate_series(1, 20000) AS b WHERE a.value * b.value % 7 = 3) > 0 \
    GROUP BY account, livemode, customer_id";

#[test]
fn a_long_run_goes_on_beside_the_epochs_and_says_what_there_was_when_it_fell_due() {
    let site = Site::new();
    site.write("pipelines/top_customers.sql", &file("schedule: daily", SLOW));
    let start = || Running::start(&site, "--data-dir data", &[("TRIBUTARY_ENGINE__CHECKPOINT_SECONDS", "0")]);
    let monday = 1_767_571_200;
    let come = |name: &str, at: u64, events: i64| {
        site.ingest("data", &seats(name, at, (1, at), 1, None));
        until("the event to be durable", || (durable(&site, "data") == events).then_some(()));
    };
    let customers = || site.query("data", "csv", "SELECT customer_id FROM top_customers ORDER BY customer_id");
    let told = |expected: &str| {
        let said = format!("{expected} to be told");
        until(&said, || (customers().lines().skip(1).collect::<Vec<_>>().join(" ") == expected).then_some(()));
    };
    let mut engine = start();
    engine.word_after("port=");
    come("one", monday + 3_600, 1);
    come("two", monday + 7_200, 2);
    assert_eq!(customers().lines().count(), 1, "epochs and checkpoints did not wait for the run");
    told("cus_one");

    // What is interrupted is run again, though nothing comes any more.
    come("three", monday + 86_400, 3);
    assert_eq!(customers().lines().count(), 2);
    engine.kill();
    let engine = start();
    told("cus_one cus_three cus_two");
    engine.stop();
    site.ingest("data", &seats("four", monday + 2 * 86_400, (1, monday + 2 * 86_400), 1, None));
    site.run("run --once --data-dir data");
    told("cus_four cus_one cus_three cus_two");
}

#[test]
fn an_apply_to_a_running_engine_fills_what_emits_on_close_and_what_runs_on_a_schedule() {
    let site = Site::new();
    let other = "SELECT account, livemode, customer_id, SUM(mrr_delta) AS mrr FROM mrr_movements \
        GROUP BY account, livemode, customer_id";
    site.write("pipelines/top_customers.sql", &file("", other));
    site.simulate("events.jsonl", "--customers 40 --months 5 --seed 3");
    let events = site.read("events.jsonl");
    site.ingest("data", &events);
    let mut engine = Running::start(&site, "--data-dir data", &[]);
    engine.word_after("port=");
    until("the engine to have read everything", || {
        let sql = "SELECT count(*) FROM events_archive";
        let asked = site.command("query --output csv --data-dir data").arg(sql).output().unwrap();
        let out = String::from_utf8(asked.stdout).unwrap();
        (out.lines().nth(1)?.parse::<usize>().ok()? >= events.lines().count()).then_some(())
    });
    site.write("pipelines/top_customers.sql", &file("schedule: weekly", QUERY));
    site.write("pipelines/closed_months.sql", &closing::file("append", closing::QUERY));
    let applied = site.run("apply --data-dir data").out;
    assert!(applied.ends_with("rebuilt: closed_months, top_customers; removed: none\n"), "{applied}");
    engine.stop();
    assert_same_lines("the schedule", &site.query("data", "csv", ALL), &batch(&site, &ran(&site)));
    let closed = site.query("data", "csv", closing::ALL);
    assert!(closed.lines().count() > 3, "{closed}");
    assert_same_lines("the windows", &closed, &closing::batch(&site, closing::CLOSED));
    site.run("run --once --data-dir data");
    assert_eq!(site.query("data", "csv", closing::ALL), closed, "a start changes nothing");
}

#[test]
fn the_clock_of_a_snapshot_is_the_boundary_in_the_merchants_zone() {
    let site = Site::new();
    let query = "SELECT account, livemode, customer_id, SUM(mrr_delta) AS mrr FROM mrr_movements \
        WHERE occurred_at < now() GROUP BY account, livemode, customer_id ORDER BY mrr DESC, customer_id LIMIT 1";
    site.write("pipelines/top_customers.sql", &file("schedule: daily", query));
    let tests = "pipeline: top_customers\ntests:\n  - name: it runs when a day is over\n    \
        params: { merchant.zone: America/New_York }\n    \
        at_time: [2026-03-02T12:00:00Z, 2026-03-03T04:59:59Z, 2026-03-03T05:00:00Z]\n    given:\n      - mrr_movements:\n          \
        - { movement_id: a, occurred_at: 2026-03-02T04:00:00Z, customer_id: cus_a, mrr_delta: 5 }\n      - mrr_movements:\n          \
        - { movement_id: b, occurred_at: 2026-03-03T04:00:00Z, customer_id: cus_b, mrr_delta: 7 }\n      - mrr_movements:\n          \
        - { movement_id: c, occurred_at: 2026-03-03T05:00:00Z, customer_id: cus_c, mrr_delta: 9 }\n    expect:\n      \
        - { customer_id: cus_b, mrr: 7 }\n";
    site.write("pipelines/tests/top_customers.yml", tests);
    assert_eq!(site.run("test").out.lines().last(), Some("1 tests, 0 failed"));
    let quiet = tests.replace("2026-03-03T05:00:00Z]", "2026-03-03T04:59:59Z]");
    site.write("pipelines/tests/top_customers.yml", &quiet);
    let failed = said(&site, "test");
    assert!(failed.code == 3 && failed.out.contains("not expected: customer_id = cus_a, mrr = 5"), "{}", failed.out);
    site.write("pipelines/tests/top_customers.yml", &tests.replace("    at_time", "    # at_time"));
    assert!(said(&site, "test").err.contains("follows time: say with at_time"));
}

#[test]
fn what_no_class_maintains_is_refused_with_the_offer_of_a_schedule() {
    let site = Site::new();
    for (metadata, query, messages) in [
        ("", QUERY.replace("$as_of", "now()"), ["`now` gives another value", "schedule: daily"]),
        ("", QUERY.replace("occurred_at < $as_of AND", ""), ["LIMIT cannot be computed", "schedule: daily"]),
        ("", QUERY.to_owned(), ["there is none", "schedule: daily"]),
        ("schedule: daily", QUERY.replace("$as_of", "$as_of AND random() < 0.5"), ["`random`", "$parameters"]),
        ("schedule: daily", QUERY.replace("SUM(", "APPROX_MEDIAN("), ["approx_median", "exact one"]),
        ("schedule: daily\nemit: on_close", QUERY.to_owned(), ["with every run", "leave emit out"]),
        ("schedule: sometimes", QUERY.to_owned(), ["sometimes", "monthly"]),
        (
            "schedule: daily\nparameters: { as_of: { type: text, default: x, description: d } }",
            QUERY.to_owned(),
            ["no name for a parameter", "boundary of the schedule"],
        ),
    ] {
        site.write("pipelines/top_customers.sql", &file(metadata, &query));
        let refused = said(&site, "check");
        assert_eq!(refused.code, 1, "{metadata} {query}: {}", refused.out);
        let err = refused.err.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
        for message in messages.into_iter().chain(["top_customers.sql:"]) {
            assert!(err.contains(message), "{message}: {err}");
        }
    }
}

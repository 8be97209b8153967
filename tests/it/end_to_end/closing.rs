//! Emit on close, from a file to its table: over restarts, late events, new SQL, past moments and backtests.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::support::{Said, Site, assert_same_lines};

pub(super) const QUERY: &str = "SELECT account, livemode, window_end, window_day, currency, kind, SUM(mrr_delta) AS mrr_delta, \
    COUNT(*) AS movements FROM TUMBLE(mrr_movements, occurred_at, INTERVAL '1' MONTH, 'Europe/Berlin') \
    GROUP BY account, livemode, window_end, window_day, currency, kind";

/// Those of the query, without what is computed on reading.
const COLUMNS: &str = "account, livemode, window_end, window_day, currency, kind, mrr_delta, movements";

pub(super) const ALL: &str = "SELECT account, livemode, window_end, window_day, currency, kind, mrr_delta, movements \
    FROM closed_months ORDER BY window_end, currency, kind";

pub(super) fn file(mode: &str, query: &str) -> String {
    format!(
        "/*---\nname: closed_months\ndescription: d\nowner: o\nmode: {mode}\nemit: on_close\n\
         grain: [account, livemode, window_end, currency, kind]\ntime_column: window_end\ncolumns:\n  \
         window_end: {{ description: w }}\n  window_day: {{ description: w }}\n  currency: {{ description: c }}\n  \
         kind: {{ description: k }}\n  mrr_delta: {{ description: m }}\n  movements: {{ description: n }}\n---*/\n{query}"
    )
}

fn said(site: &Site, arguments: &str) -> Said {
    Said::of(site.command(arguments).output().unwrap())
}

/// What the query says now, of windows that have closed or not.
pub(super) fn batch(site: &Site, condition: &str) -> String {
    let sql = format!("SELECT * FROM ({QUERY}) WHERE window_end {condition} ORDER BY window_end, currency, kind");
    site.query("data", "csv", &sql)
}

pub(super) const CLOSED: &str = "<= (SELECT MAX(watermark) FROM pipeline_status)";
const OPEN: &str = "> (SELECT MAX(watermark) FROM pipeline_status)";

/// Holds that nothing got lost at a gate, however epochs were cut: what was released, with what came too late put over
/// it in its order, is what `query` says now of windows that have closed. Rows released, and late changes.
pub(super) fn assert_all_released_or_late(site: &Site, data: &str, table: &str, query: &str) -> (usize, usize) {
    let of_key = |row: &Value| {
        let key = ["account", "livemode", "window_end", "currency", "kind"].map(|name| (name, &row[name]));
        serde_json::to_string(&BTreeMap::from(key)).unwrap()
    };
    let by_key = |sql: &str| {
        let rows = site.rows(data, sql);
        let number = rows.len();
        let rows: BTreeMap<String, Value> = rows.into_iter().map(|row| (of_key(&row), row)).collect();
        assert_eq!(rows.len(), number, "a row was released twice");
        rows
    };
    let mut said = by_key(&format!("SELECT {COLUMNS} FROM {table}"));
    let released = said.len();
    let late = site.rows(data, &format!("SELECT * FROM late_changes WHERE pipeline = '{table}' ORDER BY number"));
    for (number, change) in (1..).zip(&late) {
        let row = |column: &str| change[column].as_str().map(|text| serde_json::from_str::<Value>(text).unwrap());
        let key = of_key(&row("row_key").unwrap());
        assert_eq!(change["number"], number, "{change}");
        assert!(change["window_end"].as_str() <= change["complete_until"].as_str(), "{change}");
        assert_eq!(said.remove(&key), row("row_before"), "{change}");
        said.extend(row("row_after").map(|row| (key, row)));
    }
    let closed = format!(
        "SELECT q.* FROM ({query}) AS q JOIN log_clock AS c ON q.account = c.account AND q.livemode = c.livemode WHERE \
         q.window_end <= c.last_event_at - INTERVAL '3 days' AND q.window_end {CLOSED}"
    );
    assert_eq!(said, by_key(&closed), "{table} of {data}");
    let counted = format!("SELECT late_changes FROM pipeline_status WHERE pipeline = '{table}'");
    assert_eq!(site.number(data, &counted), late.len() as i64);
    (released, late.len())
}

/// The same by week.
pub(super) fn by_week(text: &str) -> String {
    text.replace("'1' MONTH", "'1' WEEK").replace("closed_months", "closed_weeks")
}

/// What was durable of closed weeks and late changes at one kill or another: it must stay.
#[derive(Default)]
pub(super) struct Durable(BTreeSet<String>);

impl Durable {
    pub(super) fn look(&mut self, site: &Site, data: &str) {
        let now = Self::now(site, data);
        assert!(self.0.is_subset(&now), "{:?} is gone or changed", self.0.difference(&now).next());
        self.0 = now;
    }

    fn now(site: &Site, data: &str) -> BTreeSet<String> {
        let mut rows = BTreeSet::new();
        for (table, columns) in [("closed_weeks", COLUMNS), ("late_changes", "*")] {
            let mut query = site.command(&format!("query --output csv --data-dir {data}"));
            let said = Said::of(query.arg(format!("SELECT {columns} FROM {table}")).output().unwrap());
            assert!(said.code == 0 || said.err.contains("there are no tables"), "{}", said.err);
            rows.extend(said.out.lines().map(|line| format!("{table}: {line}")));
        }
        rows
    }
}

/// All events of one early customer, and all others.
pub(super) fn without_one_customer(events: &str) -> (Vec<&str>, Vec<&str>) {
    let subscribed = events.lines().find(|line| line.contains("\"customer.subscription.created\"")).unwrap();
    let (_, customer) = subscribed.split_once("\"customer\":\"").unwrap();
    let customer = format!("\"{}\"", customer.split_once('"').unwrap().0);
    events.lines().partition(|line| line.contains(&customer))
}

fn status(site: &Site, column: &str) -> i64 {
    site.number("data", &format!("SELECT {column} FROM pipeline_status WHERE pipeline = 'closed_months'"))
}

#[test]
fn a_window_is_released_once_and_what_comes_later_is_counted_and_kept() {
    let site = Site::new();
    site.write("pipelines/closed_months.sql", &file("append", QUERY));
    site.simulate("events.jsonl", "--customers 60 --months 6 --seed 6");
    let events = site.read("events.jsonl");
    // They come last of all.
    let (late, others) = without_one_customer(&events);
    let half = others.len() / 2;

    site.ingest("data", &others[..half].join("\n"));
    site.run("run --once --data-dir data");
    let first = site.query("data", "csv", ALL);
    assert!(first.lines().count() > 3, "{first}");
    assert_same_lines("the first half", &first, &batch(&site, CLOSED));
    let open = batch(&site, OPEN).lines().count() as i64 - 1;
    assert!(open > 0);
    assert_eq!((status(&site, "held_rows"), status(&site, "late_changes")), (open, 0));

    site.ingest("data", &others[half..].join("\n"));
    site.run("run --once --data-dir data");
    let second = site.query("data", "csv", ALL);
    assert!(second.lines().count() > first.lines().count(), "more windows have closed");
    assert!(first.lines().all(|line| second.contains(line)), "{first}{second}");
    assert_same_lines("the second half", &second, &batch(&site, CLOSED));
    let as_of = "query --data-dir data --output csv --as-of 2024-03-31";
    let past = Said::of(site.command(as_of).arg(ALL).output().unwrap());
    let month_ends = |csv: &str| csv.lines().skip(1).filter_map(|line| line.split(',').nth(2)).max().map(str::to_owned);
    assert!(month_ends(&past.out).unwrap() < month_ends(&second).unwrap(), "{}", past.out);
    assert!(past.out.lines().all(|line| second.contains(line)), "{}{second}", past.out);

    site.ingest("data", &late.join("\n"));
    site.run("run --once --data-dir data");
    let third = site.query("data", "csv", ALL);
    assert!(second.lines().all(|line| third.contains(line)), "what was released stays: {second}{third}");
    let now = batch(&site, CLOSED);
    let stale = third.lines().filter(|line| !now.contains(line)).count();
    let missing = now.lines().filter(|line| {
        let key = |line: &str| line.rsplitn(3, ',').nth(2).unwrap().to_owned();
        !third.lines().any(|other| key(other) == key(line))
    });
    let differing = (stale + missing.count()) as i64;
    assert!(differing > 0, "{third}{now}");
    assert_eq!(status(&site, "late_changes"), differing, "{third}{now}");
    assert_eq!(assert_all_released_or_late(&site, "data", "closed_months", QUERY).1 as i64, differing);
    let late = site.query("data", "csv", "SELECT * FROM late_changes ORDER BY number");
    site.run("run --once --data-dir data");
    assert_same_lines("a start", &site.query("data", "csv", "SELECT * FROM late_changes ORDER BY number"), &late);

    let shown = site.run("status --data-dir data").out;
    assert!(shown.contains(&format!("closed_months: {open_rows} rows wait", open_rows = status(&site, "held_rows"))));
    assert!(shown.contains(&format!(", {differing} changes came too late")), "{shown}");
    let explained = site.run("explain closed_months --data-dir data").out;
    for line in [
        "each month in Europe/Berlin: a row lies in one window".to_owned(),
        "once, when the watermark has passed their window_end".to_owned(),
        format!("{differing} changes came too late"),
        format!(" {} rows, ", status(&site, "state_rows")),
    ] {
        assert!(explained.contains(&line), "{line}: {explained}");
    }

    let range = "--from 2024-01-01 --to 2030-12-31 --output csv --data-dir data";
    let sorted = |text: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines[1..].sort_unstable();
        lines.join("\n")
    };
    let by_day = said(&site, &format!("backtest closed_months {range}"));
    assert_eq!(by_day.code, 0, "{}", by_day.err);
    assert_same_lines("a backtest reads an orderly log", &sorted(&by_day.out), &sorted(&now));
    let as_known = said(&site, &format!("backtest closed_months --by known-at {range}"));
    assert_eq!(as_known.code, 0, "{}", as_known.err);

    // Worked out anew, closed windows take in what came late.
    assert_ne!(third, now);
    let replayed = site.run("replay closed_months --data-dir data").out;
    assert_eq!(replayed, "rebuilt: closed_months; removed: none\n");
    assert_same_lines("after a replay", &site.query("data", "csv", ALL), &now);
    assert_eq!(status(&site, "late_changes"), 0);
    site.run("run --once --data-dir data");
    assert_same_lines("a start after a replay", &site.query("data", "csv", ALL), &now);

    // New SQL is a new table: what is known by now.
    site.write("pipelines/closed_months.sql", &file("upsert", &format!("{QUERY} HAVING COUNT(*) > 0")));
    site.run("apply --data-dir data");
    assert_same_lines("after an apply", &site.query("data", "csv", ALL), &now);
    assert_eq!(status(&site, "late_changes"), 0);
    assert_same_lines("an apply", &site.query("data", "csv", "SELECT * FROM late_changes ORDER BY number"), &late);
}

#[test]
fn a_test_says_where_the_log_ends_in_each_epoch() {
    let site = Site::new();
    site.write("pipelines/closed_months.sql", &file("append", QUERY));
    let tests = "pipeline: closed_months\ntests:\n  - name: a month is what it was when it closed\n    \
        at_time: [2026-03-15T00:00:00Z, 2026-03-31T22:00:00Z, 2026-04-02T00:00:00Z]\n    given:\n      - mrr_movements:\n          \
        - { movement_id: a, occurred_at: 2026-03-02T08:00:00Z, currency: usd, kind: new, mrr_delta: 5 }\n      - mrr_movements:\n          \
        - { movement_id: b, occurred_at: 2026-03-03T08:00:00Z, currency: usd, kind: new, mrr_delta: 7 }\n      - mrr_movements:\n          \
        - { movement_id: c, occurred_at: 2026-03-04T08:00:00Z, currency: usd, kind: new, mrr_delta: 100 }\n          \
        - { movement_id: d, occurred_at: 2026-04-01T08:00:00Z, currency: usd, kind: new, mrr_delta: 1 }\n    expect:\n      \
        - { window_day: 2026-03-01, window_end: 2026-03-31T22:00:00Z, mrr_delta: 12, movements: 2 }\n";
    site.write("pipelines/tests/closed_months.yml", tests);
    assert_eq!(site.run("test").out.lines().last(), Some("1 tests, 0 failed"));

    for (from, to, message) in [
        ("2026-03-31T22:00:00Z, 2026", "2026-03-31T21:59:59Z, 2026", "mrr_delta expected 12, was 112"),
        ("[2026-03-15T00:00:00Z, ", "[", "at_time has 2 instants for 3 epochs"),
        ("at_time", "params: {}\n    # ", "follows time: say with at_time where the log ends"),
        ("2026-03-15T00:00:00Z", "soon", "`at_time`"),
    ] {
        site.write("pipelines/tests/closed_months.yml", &tests.replace(from, to));
        let failed = said(&site, "test");
        assert!(failed.code != 0 && (failed.out + &failed.err.replace("\n  │ ", " ")).contains(message), "{message}");
    }
}

#[test]
fn what_cannot_close_is_refused_with_its_place() {
    let site = Site::new();
    for (from, to, message) in [
        ("window_end, currency, kind]", "window_day, currency, kind]", "do not say when their window closes"),
        ("window_end, window_day,", "CAST(window_end AS DATE) AS window_end, window_day,", "do not say when"),
        ("emit: on_close", "emit: sometimes", "on_close"),
        ("emit: on_close\n", "", "can change after they were written"),
    ] {
        site.write("pipelines/closed_months.sql", &file("append", QUERY).replacen(from, to, 1));
        let refused = said(&site, "check");
        assert_eq!(refused.code, 1, "{to}: {}", refused.out);
        assert!(refused.err.contains(message) && refused.err.contains("closed_months.sql:"), "{to}: {}", refused.err);
    }
    site.write("pipelines/closed_months.sql", &file("append", QUERY));
    site.write("pipelines/late_changes.sql", &file("append", QUERY).replace("closed_months", "late_changes"));
    let refused = said(&site, "check");
    assert!(refused.code == 1 && refused.err.contains("`late_changes` is a table of the engine"), "{}", refused.err);
}

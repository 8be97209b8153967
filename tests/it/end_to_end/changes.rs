//! Changing SQL: `diff`, `backtest`, `plan` and `apply`, on a data directory and on the engine that runs on it.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use tributary::tables;

use super::{
    serving::Psql,
    support::{Running, Said, Site, assert_same_lines, until},
};
use crate::needs;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines");

/// The pipelines of these tests: of each class one, one that reads another, and what alerts and scores read.
const PIPELINES: [&str; 6] =
    ["churn_features", "customer_months", "expansion_events", "mrr_by_price", "mrr_daily", "cohort_revenue_retention"];

pub(super) const MINE: &str = "/*---\nname: mine\ndescription: d\nowner: o\nmode: upsert\ngrain: [account, livemode, kind]\n\
    time_column: kind\ncolumns:\n  kind: { description: k }\n  n: { description: n }\n---*/\n\
    SELECT account, livemode, kind, COUNT(*) AS n FROM mrr_movements GROUP BY account, livemode, kind";

fn said(site: &Site, arguments: &str) -> Said {
    Said::of(site.command(arguments).output().unwrap())
}

/// Replaces what must be there.
pub(super) fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

pub(super) fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(SHIPPED).join(format!("{name}.sql"))).unwrap()
}

/// A site with some pipelines of its own, and the events of an account in two halves.
fn site() -> (Site, String, String) {
    let site = Site::new();
    for name in PIPELINES {
        site.write(&format!("pipelines/{name}.sql"), &shipped(name));
    }
    site.simulate("events.jsonl", "--customers 60 --months 5 --seed 6");
    let events = site.read("events.jsonl");
    let half = events.lines().count() / 2;
    let part = |lines: &mut dyn Iterator<Item = &str>| lines.collect::<Vec<_>>().join("\n");
    let (first, second) = (part(&mut events.lines().take(half)), part(&mut events.lines().skip(half)));
    (site, first, second)
}

#[test]
fn a_diff_tells_rows_that_went_and_changed_and_what_that_adds_up_to() {
    let (site, first, _) = site();
    site.ingest("data", &first);
    site.run("run --once --data-dir data");
    site.write("larger.toml", "min_amount = \"50\"\n");
    let all = site.number("data", "SELECT count(*) FROM expansion_events");
    let large = site.number("data", "SELECT count(*) FROM expansion_events WHERE mrr_delta >= 50");
    assert!(0 < large && large < all, "{large} of {all}");

    let diff = site.run("diff expansion_events --params larger.toml --data-dir data --limit 1000").out;
    let gone = all - large;
    let head = format!("expansion_events: {all} rows before, {large} after: 0 added, {gone} removed, 0 changed\n");
    assert!(diff.starts_with(&head), "{head}{diff}");
    assert_eq!(diff.lines().filter(|line| line.starts_with("removed  ")).count() as i64, gone);
    for row in site.rows(
        "data",
        "SELECT currency, sum(mrr_delta) AS before, sum(mrr_delta) FILTER (WHERE mrr_delta >= 50) \
         AS after FROM expansion_events GROUP BY currency",
    ) {
        let text = |name: &str| {
            let text = row[name].as_str().unwrap_or("—");
            if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                text.to_owned()
            }
        };
        let place = format!(" live {} ", text("currency"));
        let line = diff.lines().find(|line| line.contains(&place) && line.contains("mrr_delta")).unwrap();
        assert!(line.contains(&text("before")) && line.contains(&text("after")), "{line}: {row}");
    }

    let more = shipped("mrr_daily").replace("closing * 12 AS arr", "closing * 13 AS arr");
    site.write("other/mrr_daily.sql", &more);
    let diff = site.run("diff mrr_daily --sql other/mrr_daily.sql --data-dir data --limit 1").out;
    let days = site.number("data", "SELECT count(*) FROM mrr_daily WHERE arr <> 0");
    assert!(diff.contains(&format!(": 0 added, 0 removed, {days} changed\n")), "{diff}");
    assert!(diff.contains("changed  account = ") && diff.contains(": arr "), "{diff}");
    assert!(diff.contains(&format!("… and {} more", days - 1)), "{diff}");
    let same = site.run(&format!("diff mrr_daily --sql {SHIPPED}/mrr_daily.sql --data-dir data")).out;
    assert!(same.contains(": 0 added, 0 removed, 0 changed\n") && !same.contains('≠'), "{same}");

    assert_eq!(said(&site, "diff mrr_daily --data-dir data").code, 2, "with what?");
    assert_eq!(said(&site, &format!("diff mrr_daily --sql {SHIPPED}/arpa.sql --data-dir data")).code, 1);
    let empty = said(&site, &format!("diff mrr_daily --sql {SHIPPED}/mrr_daily.sql --data-dir nowhere"));
    assert!(empty.code == 1 && empty.err.contains("tributary run"), "{}", empty.err);
}

#[test]
fn a_backtest_ends_in_the_table_and_can_be_asked_what_each_day_changed() {
    let (site, first, second) = site();
    site.ingest("data", &first);
    site.run("run --once --data-dir data");
    site.ingest("data", &second);
    site.run("run --once --data-dir data");
    let columns = |sql: &str| site.query("data", "csv", sql);
    for (pipeline, order) in [("mrr_daily", "day, currency"), ("customer_months", "customer_id, currency, month")] {
        // Without what is computed on reading.
        let fields = tables::get(pipeline).unwrap().schema.fields();
        let names = fields.iter().map(|field| format!("\"{}\"", field.name())).collect::<Vec<_>>().join(", ");
        let expected = columns(&format!("SELECT {names} FROM {pipeline} ORDER BY {order}"));
        for by in ["day", "known-at"] {
            let arguments = format!("backtest {pipeline} --from 2024-01-01 --to 2030-12-31 --by {by} --output csv");
            let found = site.run(&format!("{arguments} --data-dir data")).out;
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines[1..].sort();
                lines.join("\n")
            };
            assert_same_lines((pipeline, by), &sorted(&found), &sorted(&expected));
        }
    }
    let to = "--from 2024-02-01 --to 2024-02-29 --data-dir data";
    let february = site.run(&format!("backtest mrr_daily {to} --output csv")).out;
    let of_february = "SELECT count(*) FROM mrr_daily WHERE day BETWEEN '2024-02-01' AND '2024-02-29'";
    assert_eq!(february.lines().count() as i64 - 1, site.number("data", of_february));
    let epochs = site.run(&format!("backtest mrr_daily {to} --epochs")).out;
    let movements = "SELECT count(DISTINCT CAST(occurred_at AS DATE)) FROM mrr_movements \
        WHERE occurred_at >= '2024-02-01' AND occurred_at < '2024-03-01'";
    assert!(epochs.lines().count() as i64 >= site.number("data", movements), "{epochs}");
    assert!(epochs.lines().all(|line| line.starts_with("2024-02-")), "{epochs}");
    let totals = site.run(&format!("backtest mrr_daily {to} --totals")).out;
    let new = site.rows(
        "data",
        &of_february.replace("count(*)", "sum(new) AS new").replace("WHERE", "WHERE currency = 'usd' AND"),
    );
    let new = new[0]["new"].as_str().unwrap().trim_end_matches('0').trim_end_matches('.').to_owned();
    let line = totals.lines().find(|line| line.contains(" usd ") && line.contains(" new ")).unwrap();
    assert!(line.ends_with(&format!(" {new}")), "{line}: {new}");

    site.write("berlin.toml", "zone = \"Asia/Tokyo\"\n");
    let moved = site.run(&format!("backtest mrr_daily {to} --params berlin.toml --output csv")).out;
    assert_ne!(moved, february, "the parameters are used");
    assert_eq!(said(&site, "backtest mrr_daily --from 2024-02-30 --to 2024-03-01 --data-dir data").code, 1);
    assert_eq!(said(&site, "backtest mrr_daily --from 2024-03-02 --to 2024-03-01 --data-dir data").code, 1);
    assert_eq!(said(&site, "backtest nothing --from 2024-03-01 --to 2024-03-01 --data-dir data").code, 1);
}

#[test]
fn a_pipeline_over_the_archive_follows_every_epoch() {
    let (site, first, second) = site();
    let over = "kind, COUNT(*) AS n FROM mrr_movements GROUP BY account, livemode, kind";
    let archive = "\"type\" AS kind, COUNT(*) AS n FROM events_archive GROUP BY account, livemode, \"type\"";
    site.write("pipelines/mine.sql", &replaced(MINE, over, archive));
    for part in [first, second] {
        site.ingest("data", &part);
        site.run("run --once --data-dir data");
        let events = site.number("data", "SELECT count(*) FROM events_archive");
        assert_eq!(site.number("data", "SELECT sum(n) FROM mine"), events);
    }
}

#[test]
fn a_plan_says_what_is_rebuilt_and_why_and_an_apply_without_an_engine_does_it() {
    let (site, first, _) = site();
    site.ingest("data", &first);
    site.run("run --once --data-dir data");
    assert_eq!(site.run("plan --data-dir data").out, "0 to rebuild, reading 0 rows; 6 are as their files say\n");

    site.write("pipelines/mine.sql", MINE);
    let retold = shipped("customer_months").replace("imported, new,", "imported, new + 0 AS new,");
    site.write("pipelines/customer_months.sql", &retold);
    fs::remove_file(site.path("pipelines/mrr_by_price.sql")).unwrap();
    let plan = site.run("plan --data-dir data").out;
    let line = |name: &str| plan.lines().find(|line| line.contains(&format!("│ {name} "))).unwrap_or_default();
    let movements = site.number("data", "SELECT count(*) FROM mrr_movements");
    let clocks = 1;
    let months = site.number("data", "SELECT count(*) FROM customer_months");
    assert!(line("mine").contains(" new ") && line("mine").contains(&format!(" {movements} ")), "{plan}");
    assert!(line("customer_months").contains(" changed "), "{plan}");
    assert!(line("cohort_revenue_retention").contains(" reads customer_months "), "{plan}");
    assert!(line("cohort_revenue_retention").contains(&format!(" {} ", months + clocks)), "{plan}");
    assert!(line("mrr_by_price").contains(" removed "), "{plan}");
    assert!(line("mrr_daily").is_empty(), "{plan}");
    assert!(plan.contains("3 to rebuild") && plan.ends_with("3 are as their files say\n"), "{plan}");

    site.run("apply --data-dir data");
    assert_eq!(site.run("plan --data-dir data").out, "0 to rebuild, reading 0 rows; 6 are as their files say\n");
    assert!(site.number("data", "SELECT count(*) FROM mine") > 1);
    let wider = MINE
        .replace("  n: {", "  mrr: { description: m }\n  n: {")
        .replace("COUNT(*) AS n", "SUM(mrr_delta) AS mrr, CAST(COUNT(*) AS DECIMAL(28, 6)) AS n");
    site.write("pipelines/mine.sql", &wider);
    let plan = site.run("plan --data-dir data").out;
    for column in ["-n bigint", "+n decimal(28,6)", "+mrr decimal("] {
        assert!(plan.contains(column), "{column}: {plan}");
    }
    let rows = "SELECT * FROM mine ORDER BY kind";
    let before = site.query("data", "csv", rows);
    site.run("apply --data-dir data");
    assert!(site.query("data", "csv", rows).starts_with("account,livemode,kind,mrr,n\n"));
    // Going back is applying the old file.
    site.write("pipelines/mine.sql", MINE);
    site.run("apply --data-dir data");
    assert_eq!(site.query("data", "csv", rows), before);
    site.write("pipelines/mine.sql", &MINE.replace("COUNT(*)", "COUNT(nothing)"));
    let refused = said(&site, "apply --data-dir data");
    assert!(refused.code == 1 && refused.err.contains("mine.sql:"), "{}", refused.err);
}

/// Versions that are put in place while events come, and in how many parts these come.
const VERSIONS: usize = 4;
const PARTS: usize = 20;

#[test]
fn an_apply_to_a_running_engine_ends_in_the_tables_of_an_engine_that_had_the_new_files_all_along() {
    let (site, first, second) = site();
    site.ingest("data", &first);
    let mut engine = Running::start(&site, "--data-dir data", &[]);
    let psql = needs::psql().then(|| Psql::of(&mut engine, &site, "data"));
    engine.word_after("port=");
    let read = |records: usize| {
        until("the engine to have read everything", || {
            let sql = "SELECT count(*) FROM events_archive";
            let asked = site.command("query --output csv --data-dir data").arg(sql).output().unwrap();
            let out = String::from_utf8(asked.stdout).unwrap();
            (out.lines().nth(1)?.parse::<usize>().ok()? >= records).then_some(())
        });
    };
    read(first.lines().count());

    // New, changed with one that reads it, with other columns, and gone.
    site.write("pipelines/mine.sql", MINE);
    let retold = shipped("customer_months").replace("imported, new,", "imported, new + 0 AS new,");
    site.write("pipelines/customer_months.sql", &retold);
    fs::remove_file(site.path("pipelines/mrr_by_price.sql")).unwrap();
    let applied = site.run("apply --data-dir data").out;
    let done = "rebuilt: customer_months, cohort_revenue_retention, mine; removed: mrr_by_price\n";
    assert!(applied.ends_with(done), "{applied}");
    let wider = MINE
        .replace("  n: {", "  mrr: { description: m }\n  n: {")
        .replace("COUNT(*)", "SUM(mrr_delta) AS mrr, COUNT(*)");
    site.write("pipelines/mine.sql", &wider);
    assert!(site.run("apply --data-dir data").out.ends_with("rebuilt: mine; removed: none\n"));
    assert!(site.run("apply --data-dir data").out.starts_with("0 to rebuild"));

    // The second half arrives while one version after the other is built and put in place.
    let lines: Vec<&str> = second.lines().collect();
    let mut wide = true;
    let applied = AtomicUsize::new(0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for (number, part) in lines.chunks(lines.len().div_ceil(PARTS)).enumerate() {
                // As evenly over the versions as may be.
                until("the next version", || (applied.load(Relaxed) * PARTS >= number * VERSIONS).then_some(()));
                site.ingest("data", &part.join("\n"));
            }
        });
        // All say the same of the customers' months, and none is applied again when all events have come: what passes
        // while a version is built must reach it.
        while !writer.is_finished() {
            let number = applied.load(Relaxed);
            let sum = format!("imported, new + {number}.0 - {number}.0 AS new,");
            site.write("pipelines/customer_months.sql", &replaced(&shipped("customer_months"), "imported, new,", &sum));
            wide = number % 2 == 1;
            site.write("pipelines/mine.sql", if wide { &wider } else { MINE });
            let said = site.run("apply --data-dir data").out;
            assert!(
                said.ends_with("rebuilt: customer_months, cohort_revenue_retention, mine; removed: none\n"),
                "{said}"
            );
            applied.fetch_add(1, Relaxed);
        }
    });
    assert!(applied.load(Relaxed) >= VERSIONS);
    read(first.lines().count() + lines.len());
    // A value that cannot be computed: the old version goes on.
    let now = site.read("pipelines/mine.sql");
    site.write("pipelines/mine.sql", &replaced(&wider, "SUM(mrr_delta)", "SUM(mrr_delta / (mrr_after - mrr_after))"));
    let refused = said(&site, "apply --data-dir data");
    assert!(refused.code == 1 && refused.err.contains("nothing was changed"), "{}{}", refused.out, refused.err);
    site.write("pipelines/mine.sql", &now);
    if let Some(psql) = psql {
        assert_eq!(psql.answer("SELECT sum(n) FROM mine"), psql.answer("SELECT count(*) FROM mrr_movements"));
        assert_eq!(psql.answer("\\d mine").contains("mrr"), wide, "the columns of the newest version");
        assert_eq!(
            psql.answer("SELECT count(*) FROM information_schema.tables WHERE table_name = 'mrr_by_price'"),
            "0"
        );
    }
    engine.stop();

    site.ingest("other", &format!("{first}\n{second}"));
    site.run("run --once --data-dir other");
    assert_eq!(site.run("plan --data-dir data").out, "0 to rebuild, reading 0 rows; 6 are as their files say\n");
    for name in
        ["churn_features", "customer_months", "expansion_events", "mrr_daily", "cohort_revenue_retention", "mine"]
    {
        let sorted = |data: &str| {
            let mut lines: Vec<String> =
                site.query(data, "csv", &format!("SELECT * FROM {name}")).lines().map(str::to_owned).collect();
            lines.sort();
            lines.join("\n")
        };
        let (applied, expected) = (sorted("data"), sorted("other"));
        assert!(expected.lines().count() > 2, "{name}");
        assert_same_lines(name, &applied, &expected);
    }
}

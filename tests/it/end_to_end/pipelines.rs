//! What happens to a data directory when its pipelines change.

use std::process::Stdio;

use super::support::{Said, Site};

const RIGHT: &str = "/*---\nname: mine\ndescription: d\nowner: o\nmode: upsert\ngrain: [account, livemode, kind]\n\
    time_column: kind\ncolumns:\n  kind: { description: k }\n  n: { description: n }\n---*/\n\
    SELECT account, livemode, kind, COUNT(*) AS n FROM mrr_movements GROUP BY account, livemode, kind";

#[test]
fn a_pipeline_can_be_added_broken_mended_and_removed_and_costs_the_others_nothing() {
    let site = Site::new();
    for (name, text) in [
        ("churn_features", include_str!("../../../pipelines/churn_features.sql")),
        ("expansion_events", include_str!("../../../pipelines/expansion_events.sql")),
        ("mrr_daily", include_str!("../../../pipelines/mrr_daily.sql")),
    ] {
        site.write(&format!("pipelines/{name}.sql"), text);
    }
    site.simulate("events.jsonl", "--customers 60 --months 4 --seed 6");
    let events = site.read("events.jsonl");
    let half = events.lines().count() / 2;
    let part = |lines: &mut dyn Iterator<Item = &str>| lines.collect::<Vec<_>>().join("\n");
    site.ingest("data", &part(&mut events.lines().take(half)));
    site.run("run --once --data-dir data");

    let mine = "SELECT * FROM mine ORDER BY kind";
    let batch = "SELECT account, livemode, kind, count(*) AS n FROM mrr_movements GROUP BY 1, 2, 3 ORDER BY kind";
    site.write("pipelines/mine.sql", RIGHT);
    site.run("run --once --data-dir data");
    let filled = site.rows("data", mine);
    assert!(filled.len() > 1);
    assert_eq!(filled, site.rows("data", batch), "a new pipeline is filled from what is there");

    // Another column, and a value that cannot be computed.
    let broken = RIGHT
        .replace("  n: {", "  x: { description: x }\n  n: {")
        .replace(", COUNT(*)", ", 1 / 0 * COUNT(*) AS x, COUNT(*)");
    site.write("pipelines/mine.sql", &broken);
    site.ingest("data", &part(&mut events.lines().skip(half)));
    let said = Said::of(site.command("run --once --data-dir data").output().unwrap());
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("these pipelines failed and their tables are behind: mine"), "{}", said.err);
    assert_eq!(site.number("data", "SELECT count(*) FROM events_archive"), events.lines().count() as i64);
    let closes = "SELECT count(*) FROM mrr_daily WHERE opening + imported + new + reactivation + expansion \
        + contraction + churn <> closing";
    assert_eq!(site.number("data", closes), 0);

    site.write("pipelines/mine.sql", RIGHT);
    site.run("run --once --data-dir data");
    let mended = site.rows("data", mine);
    assert_eq!(mended, site.rows("data", batch), "a mended pipeline is whole again");
    assert_ne!(mended, filled);

    std::fs::remove_file(site.path("pipelines/mine.sql")).unwrap();
    site.run("run --once --data-dir data");
    let said = Said::of(site.command("query --data-dir data").arg(mine).output().unwrap());
    assert_eq!(said.code, 1, "a removed pipeline's table is not shown");
}

/// A pipeline's file with a column for each name.
fn pipeline(name: &str, grain: &str, columns: &str, sql: &str) -> String {
    let columns: String = columns.split(' ').map(|column| format!("  {column}: {{ description: c }}\n")).collect();
    format!(
        "/*---\nname: {name}\ndescription: d\nowner: o\nmode: upsert\ngrain: [account, livemode, {grain}]\n\
         time_column: {grain}\ncolumns:\n{columns}---*/\n{sql}"
    )
}

#[test]
fn joins_and_windows_are_kept_true_across_starts_and_say_the_same_when_they_are_queried() {
    let monthly = "SELECT account, livemode, window_day, COUNT(DISTINCT customer_id) AS customers, \
        MEDIAN(amount) AS middle FROM TUMBLE(billing_events, occurred_at, INTERVAL '1' MONTH, 'Africa/Cairo') \
        GROUP BY account, livemode, window_day";
    let paid = "SELECT m.account, m.livemode, m.movement_id, LAG(m.occurred_at) OVER (PARTITION BY m.account, \
        m.livemode, m.customer_id ORDER BY m.occurred_at, m.movement_id) AS before, (SELECT COUNT(*) FROM \
        billing_events AS b WHERE b.account = m.account AND b.livemode = m.livemode AND b.customer_id = m.customer_id) \
        AS events FROM mrr_movements AS m";
    let site = Site::new();
    site.write("pipelines/monthly.sql", &pipeline("monthly", "window_day", "window_day customers middle", monthly));
    site.write("pipelines/paid.sql", &pipeline("paid", "movement_id", "movement_id before events", paid));
    site.simulate("events.jsonl", "--customers 60 --months 5 --seed 8 --disorder 0.1");
    let events: Vec<String> = site.read("events.jsonl").lines().map(str::to_owned).collect();
    for part in events.chunks(events.len() / 3 + 1) {
        site.ingest("data", &part.join("\n"));
        site.run("run --once --data-dir data");
        for (name, key, sql) in [("monthly", "window_day", monthly), ("paid", "movement_id", paid)] {
            let kept = site.rows("data", &format!("SELECT * FROM {name} ORDER BY {key}"));
            assert!(!kept.is_empty(), "{name}");
            assert_eq!(kept, site.rows("data", &format!("SELECT * FROM ({sql}) ORDER BY {key}")), "{name}");
        }
    }
    let said = site.run("explain paid").out;
    assert!(said.contains("keyed") && said.contains("account, livemode, customer_id"), "{said}");

    let day = |zone: &str, instant: &str, size: &str| {
        let sql = format!(
            "SELECT window_start, window_end, window_day FROM TUMBLE((SELECT arrow_cast('{instant}', \
             'Timestamp(Microsecond, Some(\"UTC\"))') AS at), at, INTERVAL {size}, '{zone}')"
        );
        format!("{:?}", site.rows("data", &sql))
    };
    for (zone, instant, size, bounds) in [
        (
            "Africa/Cairo",
            "2024-04-26T12:00:00Z",
            "'1' DAY",
            ["2024-04-25T22:00:00Z", "2024-04-26T21:00:00Z", "2024-04-26"],
        ),
        (
            "Asia/Beirut",
            "2024-03-30T22:30:00Z",
            "'1' DAY",
            ["2024-03-30T22:00:00Z", "2024-03-31T21:00:00Z", "2024-03-31"],
        ),
        (
            "America/Havana",
            "2024-11-03T05:30:00Z",
            "'1' DAY",
            ["2024-11-03T04:00:00Z", "2024-11-04T05:00:00Z", "2024-11-03"],
        ),
        (
            "Europe/Berlin",
            "2024-05-01T00:00:00Z",
            "'1' QUARTER",
            ["2024-03-31T22:00:00Z", "2024-06-30T22:00:00Z", "2024-04-01"],
        ),
    ] {
        let rows = day(zone, instant, size);
        assert!(bounds.iter().all(|bound| rows.contains(bound)), "{zone} {instant} {size}: {rows}");
    }
    let many = "SELECT * FROM HOP(mrr_movements, occurred_at, INTERVAL '1' DAY, INTERVAL '90' DAY)";
    let said = Said::of(site.command("query --data-dir data").arg(many).output().unwrap());
    assert!(said.code == 1 && said.err.contains("90 windows"), "{}", said.err);
}

#[test]
fn it_is_no_failure_when_the_reader_of_the_output_goes_away() {
    let site = Site::new();
    let mut child = site.command("simulate --customers 300 --months 6").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

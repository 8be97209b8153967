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

#[test]
fn it_is_no_failure_when_the_reader_of_the_output_goes_away() {
    let site = Site::new();
    let mut child = site.command("simulate --customers 300 --months 6").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

//! Kills around a changed pipeline that is put in place while events come: what is there afterwards is its old version
//! or its new one, whole, with what reads it; and what was said to be done is done.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use super::{
    changes::{MINE, replaced, shipped},
    crash::Numbers,
    support::{Running, Said, Site, assert_same_lines, files, until, within},
};

/// Kills of each seed, and the parts in which the events come.
const ROUNDS: usize = 8;

/// An engine is killed within this time after the command was given, or after its request lies there.
const AFTER_THE_COMMAND: Duration = Duration::from_millis(900);
const AFTER_THE_REQUEST: Duration = Duration::from_millis(400);

/// Checkpoints as often as may be.
const OFTEN: [(&str, &str); 1] = [("TRIBUTARY_ENGINE__CHECKPOINT_SECONDS", "0")];

const TOTAL: &str = "/*---\nname: mine_total\ndescription: d\nowner: o\nmode: upsert\ngrain: [account, livemode]\n\
    time_column: account\ncolumns:\n  n: { description: n }\n---*/\n\
    SELECT account, livemode, SUM(n) AS n FROM mine GROUP BY account, livemode";

/// The count of a version; every second one has a column more.
fn columns(version: usize) -> String {
    let more = if version % 2 == 1 { "SUM(mrr_delta) AS mrr, " } else { "" };
    format!("{more}COUNT(*) * {version} AS n")
}

fn write(site: &Site, version: usize) {
    let described = if version % 2 == 1 { "  mrr: { description: m }\n  n: {" } else { "  n: {" };
    let text = replaced(&replaced(MINE, "COUNT(*) AS n", &columns(version)), "  n: {", described);
    site.write("pipelines/mine.sql", &text);
}

/// What the tables of a data directory say, and what they say by a version; the columns are part of it.
fn answers(site: &Site, data: &str, version: Option<usize>) -> [String; 2] {
    let batch = version.map(|version| {
        let columns = columns(version);
        format!("(SELECT account, livemode, kind, {columns} FROM mrr_movements GROUP BY account, livemode, kind)")
    });
    let mine = batch.as_deref().unwrap_or("mine");
    let total = match &batch {
        Some(batch) => format!("(SELECT account, livemode, SUM(n) AS n FROM {batch} GROUP BY account, livemode)"),
        None => "mine_total".to_owned(),
    };
    [(mine, "kind"), (&total, "account")]
        .map(|(rows, order)| site.query(data, "csv", &format!("SELECT * FROM {rows} ORDER BY {order}")))
}

/// Whether a command that ends by itself has succeeded.
fn ended(mut command: Child) -> bool {
    until("apply to end", || command.try_wait().unwrap());
    let said = Said::of(command.wait_with_output().unwrap());
    assert!(said.code == 0 || said.code == 1, "{}", said.err);
    assert!(!said.err.contains("a bug") && !said.err.contains("panicked"), "{}", said.err);
    said.code == 0
}

/// Puts a new version in place and kills the engine meanwhile; which of the two is there then.
fn round(site: &Site, numbers: &mut Numbers, part: &str, old: usize, new: usize) -> usize {
    let mut engine = Running::start(site, "--data-dir data", &OFTEN);
    engine.word_after("port=");
    site.ingest("data", part);
    write(site, new);
    let mut apply = site.command("apply --data-dir data");
    let mut apply = apply.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut moments = AFTER_THE_COMMAND;
    if numbers.below(2) == 0 {
        moments = AFTER_THE_REQUEST;
        let requests = site.path("data/engine/requests");
        until("the request", || {
            let asked = files(&requests).iter().any(|path| path.extension().is_some_and(|kind| kind == "request"));
            (asked || apply.try_wait().unwrap().is_some()).then_some(())
        });
    }
    within(moments.mul_f64(numbers.below(1_000) as f64 / 1_000.0), || None::<()>);
    let said = engine.kill();
    assert!(!said.contains("ERROR"), "{said}");
    let done = ended(apply);
    let there = answers(site, "data", None);
    let found = [old, new].into_iter().find(|version| answers(site, "data", Some(*version)) == there);
    let found = found.unwrap_or_else(|| panic!("neither version {old} nor {new}:\n{}\n{}", there[0], there[1]));
    assert!(!done || found == new, "it was said to be done");
    found
}

#[test]
fn a_kill_while_a_changed_pipeline_is_put_in_place_leaves_the_old_version_or_the_new_one_whole() {
    let mut outcomes = (0, 0);
    for seed in [3, 11, 14] {
        let site = Site::new();
        for name in ["customer_months", "mrr_daily"] {
            site.write(&format!("pipelines/{name}.sql"), &shipped(name));
        }
        site.write("pipelines/mine_total.sql", TOTAL);
        site.simulate("events.jsonl", &format!("--customers 60 --months 5 --seed {seed}"));
        let events = site.read("events.jsonl");
        let lines: Vec<&str> = events.lines().collect();
        let parts: Vec<_> = lines.chunks(lines.len().div_ceil(ROUNDS + 1)).map(|part| part.join("\n")).collect();
        let mut numbers = Numbers(seed);
        write(&site, 1);
        site.ingest("data", &parts[0]);
        site.run("run --once --data-dir data");

        let mut version = 1;
        for (number, part) in parts[1..].iter().enumerate() {
            let new = number + 2;
            let found = round(&site, &mut numbers, part, version, new);
            if found == new {
                outcomes.1 += 1
            } else {
                outcomes.0 += 1
            }
            // A start makes what the files say, whichever version was there.
            version = if numbers.below(2) == 0 { version } else { new };
            write(&site, version);
        }
        site.run("run --once --data-dir data");
        assert_eq!(answers(&site, "data", None), answers(&site, "data", Some(version)));
        site.ingest("other", &events);
        site.run("run --once --data-dir other");
        for (table, order) in [("mine", "kind"), ("mine_total", "account"), ("mrr_daily", "currency, day")] {
            let sql = format!("SELECT * FROM {table} ORDER BY {order}");
            assert_same_lines(table, &site.query("data", "csv", &sql), &site.query("other", "csv", &sql));
        }
    }
    println!("{} times the old version, {} times the new one", outcomes.0, outcomes.1);
    assert!(outcomes.0 > 0 && outcomes.1 > 0, "{outcomes:?}: the kills come all too early or too late");
}

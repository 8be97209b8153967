//! Operating it: `pause`, `resume`, `status`, `backup` and `restore`, while the engine runs and while it does not.

use std::{fs, thread, time::Duration};

use super::support::{Running, Said, Site, assert_same_lines, until};

const FRAGILE: &str = "/*---\nname: fragile\ndescription: d\nowner: o\nmode: upsert\ngrain: [account, livemode, movement_id]\n\
    time_column: occurred_at\ncolumns:\n  movement_id: { description: m }\n  occurred_at: { description: o }\n\
    \x20 share: { description: s }\n---*/\n\
    SELECT account, livemode, movement_id, occurred_at, mrr_delta / mrr_before AS share FROM mrr_movements";

fn said(site: &Site, arguments: &str) -> Said {
    Said::of(site.command(arguments).output().unwrap())
}

/// The events of an account in two halves.
fn halves(site: &Site) -> (String, String) {
    site.simulate("events.jsonl", "--customers 60 --months 5 --seed 8");
    let events = site.read("events.jsonl");
    let half = events.lines().count() / 2;
    let part = |lines: &mut dyn Iterator<Item = &str>| lines.collect::<Vec<_>>().join("\n");
    (part(&mut events.lines().take(half)), part(&mut events.lines().skip(half)))
}

/// Waits until the tables on disk have so many events.
fn committed(site: &Site, data: &str, events: usize) {
    until("the engine to have committed what there is", || {
        let sql = "SELECT count(*) FROM events_archive";
        let asked = site.command(&format!("query --output csv --data-dir {data}")).arg(sql).output().unwrap();
        let out = String::from_utf8(asked.stdout).unwrap();
        (out.lines().nth(1)?.parse::<usize>().ok()? == events).then_some(())
    });
}

/// The line of a pipeline in what `status` shows.
fn line_of(status: &str, pipeline: &str) -> String {
    let line = status.lines().find(|line| line.contains(&format!("│ {pipeline} ")));
    line.unwrap_or_else(|| panic!("no {pipeline} in:\n{status}")).to_owned()
}

fn sorted(site: &Site, data: &str, table: &str) -> String {
    let mut lines: Vec<String> =
        site.query(data, "csv", &format!("SELECT * FROM {table}")).lines().map(str::to_owned).collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn a_paused_pipeline_stands_still_over_a_restart_until_it_is_resumed() {
    let site = Site::new();
    let (first, second) = halves(&site);
    site.ingest("data", &first);
    let engine = Running::start(&site, "--data-dir data", &[]);
    committed(&site, "data", first.lines().count());
    let paused = site.run("pause expansion_events --data-dir data").out;
    assert!(paused.contains("tributary resume expansion_events"), "{paused}");
    let count = |table: &str| site.number("data", &format!("SELECT count(*) FROM {table}"));
    let (expansions, days) = (count("expansion_events"), count("mrr_daily"));
    assert!(expansions > 0);
    site.ingest("data", &second);
    committed(&site, "data", first.lines().count() + second.lines().count());
    assert_eq!(count("expansion_events"), expansions, "it stands still");
    assert!(count("mrr_daily") > days, "the others do not");
    let status = site.run("status --data-dir data").out;
    assert!(line_of(&status, "expansion_events").contains(" paused "), "{status}");
    assert!(line_of(&status, "mrr_daily").contains(" running "), "{status}");
    engine.stop();

    site.run("run --once --data-dir data");
    assert_eq!(count("expansion_events"), expansions, "also over a restart");
    let plan = site.run("plan --data-dir data").out;
    assert!(line_of(&plan, "expansion_events").contains(" paused "), "{plan}");
    let refused = said(&site, "resume mrr_daily --data-dir data");
    assert!(refused.code == 1 && refused.err.contains("neither paused nor failed"), "{}", refused.err);
    let refused = said(&site, "replay expansion_events --data-dir data");
    assert!(refused.code == 1 && refused.err.contains("tributary resume expansion_events"), "{}", refused.err);
    let engine = Running::start(&site, "--data-dir data", &[]);
    until("the engine to run", || site.run("status --data-dir data").out.contains("engine      running").then_some(()));
    site.run("resume expansion_events --data-dir data");
    let before = sorted(&site, "data", "mrr_daily");
    let replayed = site.run("replay mrr_daily --data-dir data").out;
    assert!(replayed.contains("rebuilt: mrr_daily"), "{replayed}");
    assert_same_lines("a replay changes nothing", &sorted(&site, "data", "mrr_daily"), &before);
    engine.stop();
    let expected = "SELECT count(*) FROM mrr_movements WHERE kind = 'expansion'";
    assert_eq!(count("expansion_events"), site.number("data", expected));
    assert!(count("expansion_events") > expansions);
    assert!(line_of(&site.run("status --data-dir data").out, "expansion_events").contains(" running "));

    // Without an engine the command is the engine.
    site.run("pause expansion_events --data-dir data");
    assert!(line_of(&site.run("status --data-dir data").out, "expansion_events").contains(" paused "));
    site.run("resume expansion_events --data-dir data");
    assert!(line_of(&site.run("status --data-dir data").out, "expansion_events").contains(" running "));
    let unknown = said(&site, "pause nothing --data-dir data");
    assert!(unknown.code == 1 && unknown.err.contains("mrr_daily"), "it names those there are: {}", unknown.err);
}

#[test]
fn a_changed_file_of_a_paused_pipeline_waits_until_it_is_resumed() {
    let site = Site::new();
    let (first, _) = halves(&site);
    let file = |share: &str, digits: u8| {
        let cast = format!("CAST({share} AS DECIMAL({digits}, 6)) AS share");
        site.write("pipelines/fragile.sql", &FRAGILE.replace("mrr_delta / mrr_before AS share", &cast));
    };
    file("mrr_delta", 28);
    site.ingest("data", &first);
    let engine = Running::start(&site, "--data-dir data", &[]);
    committed(&site, "data", first.lines().count());
    site.run("pause fragile --data-dir data");
    let shares = || site.query("data", "csv", "SELECT sum(abs(share)) AS s FROM fragile");
    let before = shares();

    file("mrr_delta + mrr_delta", 28);
    let applied = site.run("apply --data-dir data").out;
    assert!(applied.contains("once they are resumed: fragile"), "{applied}");
    assert!(line_of(&site.run("status --data-dir data").out, "fragile").contains(" paused "));
    assert_eq!(shares(), before, "it stands still");
    file("mrr_delta", 24);
    let refused = said(&site, "apply --data-dir data");
    assert!(refused.code == 1 && refused.err.contains("paused"), "other columns: {}", refused.err);
    site.run("resume fragile --data-dir data");
    engine.stop();
    let twice = "SELECT sum(abs(CAST(mrr_delta + mrr_delta AS DECIMAL(28, 6)))) AS s FROM mrr_movements";
    assert_eq!(shares(), site.query("data", "csv", twice));
    assert_ne!(shares(), before);
}

#[test]
fn requests_that_are_left_over_or_broken_are_refused_and_the_engine_goes_on() {
    let site = Site::new();
    let (first, _) = halves(&site);
    site.ingest("data", &first);
    site.run("run --once --data-dir data");
    let pause = r#"{"ask":"pause","pipeline":"mrr_daily"}"#;
    let path = |name: &str| site.path(&format!("data/engine/requests/{name}"));
    site.write("data/engine/requests/left.request", pause);
    let mut engine = Running::start(&site, "--data-dir data", &[]);
    engine.word_after("port=");
    let answer = fs::read_to_string(path("left.answer")).unwrap();
    assert!(answer.contains("ask again") && !path("left.request").exists(), "{answer}");
    assert!(line_of(&site.run("status --data-dir data").out, "mrr_daily").contains(" running "));

    // No file, no request, and one whose answer cannot be written.
    fs::create_dir(path("dir.request")).unwrap();
    fs::write(path("bad.request"), "{").unwrap();
    fs::create_dir(path("stuck.answer")).unwrap();
    fs::write(path("whole"), pause).unwrap();
    fs::rename(path("whole"), path("stuck.request")).unwrap();
    let taken = || path("bad.answer").exists() && !path("stuck.request").exists();
    until("the requests to be taken", || taken().then_some(()));
    let answer = fs::read_to_string(path("bad.answer")).unwrap();
    assert!(answer.contains("not understood"), "{answer}");
    site.run("pause churn_features --data-dir data");
    assert!(line_of(&site.run("status --data-dir data").out, "mrr_daily").contains(" paused "));
    let said = engine.stop();
    assert_eq!(said.matches("could not be read or answered").count(), 1, "{said}");
}

#[test]
fn the_status_shows_what_a_pipeline_keeps_and_costs_and_why_one_failed() {
    let site = Site::new();
    let (first, _) = halves(&site);
    assert_eq!(said(&site, "status --data-dir data").code, 1, "there is nothing yet");
    for name in ["mrr_daily", "churn_features", "expansion_events"] {
        let path = format!("{}/pipelines/{name}.sql", env!("CARGO_MANIFEST_DIR"));
        site.write(&format!("pipelines/{name}.sql"), &fs::read_to_string(path).unwrap());
    }
    site.write("pipelines/fragile.sql", FRAGILE);
    site.ingest("data", &first);
    assert_eq!(said(&site, "run --once --data-dir data").code, 1, "new customers had nothing before");
    let status = said(&site, "status --data-dir data");
    assert_eq!(status.code, 3, "{}", status.err);
    assert!(
        status.out.contains("engine      not running, checkpoint ") && status.out.contains("lag         0 records")
    );
    assert!(line_of(&status.out, "fragile").contains(" failed "), "{}", status.out);
    let time = status.out.lines().find_map(|line| line.strip_prefix("time        ")).unwrap();
    let stages: Vec<&str> = time.split(", ").filter_map(|stage| stage.split(' ').next()).collect();
    assert_eq!(stages, ["read", "ledger", "tables", "pipelines", "score", "checkpoint"]);
    assert!(!time.contains("pipelines 0.00 s"), "{time}");
    let why = status.out.lines().find(|line| line.starts_with("fragile: ")).unwrap();
    assert!(why.contains("zero"), "{why}");

    let sql = "SELECT pipeline, state, error, class, groups, state_bytes, epochs, last_epoch_micros, watermark \
        FROM pipeline_status ORDER BY pipeline";
    let rows = site.rows("data", sql);
    assert_eq!(rows.len(), 4);
    let of = |name: &str| rows.iter().find(|row| row["pipeline"] == name).unwrap();
    let groups = "SELECT count(DISTINCT concat(currency, CAST(CAST(occurred_at AS DATE) AS TEXT))) FROM mrr_movements";
    assert_eq!(of("mrr_daily")["groups"], site.number("data", groups), "{rows:?}");
    for number in ["state_bytes", "epochs", "last_epoch_micros"] {
        assert!(of("mrr_daily")[number].as_i64().unwrap() > 0, "{number}: {rows:?}");
    }
    assert_eq!(of("expansion_events")["class"], "stateless");
    assert_eq!((&of("fragile")["state"], of("mrr_daily")["state"].as_str()), (&"failed".into(), Some("running")));
    assert!(of("fragile")["error"].as_str().unwrap().contains("zero") && of("mrr_daily")["watermark"].is_string());

    let replayed = site.run("replay mrr_daily --data-dir data").out;
    assert_eq!(replayed, "rebuilt: mrr_daily; removed: none\n", "another's failure is none of its business");
    assert!(line_of(&said(&site, "status --data-dir data").out, "fragile").contains(" failed "));
    site.ingest(
        "data",
        "{\"id\":\"evt_x\",\"object\":\"event\",\"type\":\"ping\",\"created\":1719800000,\"livemode\":true,\
        \"data\":{\"object\":{\"id\":\"x\",\"object\":\"ping\"}}}",
    );
    assert!(said(&site, "status --data-dir data").out.contains("lag         1 records"));
    let refused = said(&site, "apply --data-dir data");
    let truth = refused.err.contains("fragile") && !refused.err.contains("nothing was changed");
    assert!(refused.code == 1 && truth, "{}", refused.err);
    site.write("pipelines/fragile.sql", &FRAGILE.replace("/ mrr_before", "/ NULLIF(mrr_before, 0)"));
    let resumed = site.run("resume fragile --data-dir data").out;
    assert!(resumed.contains("rebuilt: fragile"), "the start has done it: {resumed}");
    assert!(line_of(&site.run("status --data-dir data").out, "fragile").contains(" running "));
    let movements = site.number("data", "SELECT count(*) FROM mrr_movements");
    assert_eq!(site.number("data", "SELECT count(*) FROM fragile"), movements);
}

#[test]
fn a_backup_of_a_running_engine_goes_on_to_the_same_tables() {
    let site = Site::new();
    let (first, second) = halves(&site);
    site.ingest("data", &first);
    let engine = Running::start(&site, "--data-dir data", &[("TRIBUTARY_ENGINE__CHECKPOINT_SECONDS", "1")]);
    committed(&site, "data", first.lines().count());
    // The second half arrives while the copy is made.
    let lines: Vec<&str> = second.lines().collect();
    let backups = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            lines.chunks(lines.len().div_ceil(12)).for_each(|part| {
                site.ingest("data", &part.join("\n"));
            })
        });
        let mut backups = 0;
        while !writer.is_finished() && backups < 4 {
            site.run(&format!("backup copies/{backups} --data-dir data"));
            backups += 1;
            thread::sleep(Duration::from_millis(1));
        }
        backups
    });
    assert!(backups > 0);
    let refused = said(&site, "backup copies/0 --data-dir data");
    assert!(refused.code == 1 && refused.err.contains("is there already"), "{}", refused.err);
    committed(&site, "data", first.lines().count() + lines.len());
    engine.stop();
    let all = sorted(&site, "data", "mrr_ledger");
    let names = ["mrr_daily", "mrr_movements", "expansion_events", "churn_features", "customer_months"];

    for number in 0..backups {
        let data = format!("restored{number}");
        let restored = site.run(&format!("restore copies/{number} --data-dir {data}")).out;
        assert!(restored.contains("checkpoint ") && restored.contains("with the event log"), "{restored}");
        assert!(!site.path(&data).join("backup.json").exists());
        let before = site.number(&data, "SELECT count(*) FROM events_archive");
        assert!(before >= first.lines().count() as i64, "{before}");
        // What came after the copy comes again; what is in it already is told twice.
        site.ingest(&data, &second);
        site.run(&format!("run --once --data-dir {data}"));
        assert_eq!(sorted(&site, &data, "mrr_ledger").lines().count(), all.lines().count(), "{number}");
        for name in names {
            let (copy, original) = (sorted(&site, &data, name), sorted(&site, "data", name));
            assert!(original.lines().count() > 2, "{name}");
            assert_same_lines((number, name), &copy, &original);
        }
    }
    let refused = said(&site, "restore copies/0 --data-dir data");
    assert!(refused.code == 1 && refused.err.contains("is there already"), "{}", refused.err);
    let refused = said(&site, "restore data --data-dir fresh");
    assert!(refused.code == 1 && refused.err.contains("no whole backup"), "{}", refused.err);
    assert!(!site.path("fresh").exists());
    let left = fs::read_dir(site.path("data")).unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("backup")).collect();
    assert!(left.is_empty(), "{left:?}");

    // Also of a directory on which nothing runs.
    site.run("backup copies/still --data-dir data");
    site.run("restore copies/still --data-dir still");
    assert_same_lines("still", &sorted(&site, "still", "mrr_ledger"), &all);
}

#[test]
fn at_the_memory_budget_reading_waits_and_goes_on_where_there_is_room() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 20 --months 2 --seed 8");
    site.ingest("data", &site.read("events.jsonl"));
    site.write("tributary.toml", "[engine]\nmemory_mib = 1\n");
    let once = said(&site, "run --once --data-dir data");
    let words = once.words();
    assert!(once.code != 0 && words.contains("the budget is 1 MiB"), "{words}");
    assert!(words.contains("engine.memory_mib"), "{words}");

    // One that goes on serves, and says in its status why it does not read.
    let mut engine = Running::start(&site, "--data-dir data", &[]);
    engine.word_after("port=");
    let waits = until("the engine to say that it waits", || {
        let status = said(&site, "status --data-dir data").out;
        status.contains("of 1 MiB, reading waits for room").then_some(status)
    });
    assert!(!waits.contains("lag         0 records"), "{waits}");
    engine.stop();

    site.write("tributary.toml", "");
    let said = site.run("run --once --data-dir data");
    assert!(said.err.contains(&format!("{} records read", site.read("events.jsonl").lines().count())), "{}", said.err);
}

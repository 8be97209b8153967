//! Tables, checkpoints and outbox in a bucket of a real S3 server: as good as a directory.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{
    bucket::{Bucket, SECRET, Server, squeezed},
    crash::{Numbers, copy, durable, held_back},
    same::{NOT_IN_EVERY_ACCOUNT, assert_same_tables},
    support::{Running, Said, Site, until, within},
};
use crate::PATIENCE;

/// Events that come at once.
const EVENTS_A_PIECE: usize = 250;

/// Lines by which an event is held back at most.
const HELD_BACK: u64 = 200;

/// Longest that an engine lives here: it starts, and has a piece to write.
const LONGEST_LIFE: Duration = Duration::from_secs(6);

/// Checkpoints as often as may be.
const OFTEN: [(&str, &str); 1] = [("TRIBUTARY_ENGINE__CHECKPOINT_SECONDS", "0")];

fn said(site: &Site, arguments: &str) -> Said {
    Said::of(site.command(arguments).output().unwrap())
}

fn pieces(site: &Site, numbers: &mut Numbers) -> Vec<String> {
    site.simulate("events.jsonl", "--customers 60 --months 4 --seed 31 --disorder 0.1");
    let events = site.read("events.jsonl") + "not an event\n";
    let lines = held_back(events.lines(), HELD_BACK, numbers);
    lines.chunks(EVENTS_A_PIECE).map(|piece| piece.join("\n")).collect()
}

/// The tables of a site against those that an engine on a directory makes of the same log.
fn assert_as_on_a_directory(site: &Site) {
    let calm = Site::new();
    copy(&site.path("data/log"), &calm.path("data/log"));
    calm.run("run --once --data-dir data");
    assert_same_tables((site, "data"), (&calm, "data"), &NOT_IN_EVERY_ACCOUNT);
}

#[test]
fn on_a_bucket_an_engine_that_is_killed_ends_in_the_tables_of_one_on_a_directory() {
    let Some(bucket) = Bucket::new() else { return };
    let site = bucket.site("");
    let mut numbers = Numbers(17);
    let pieces = pieces(&site, &mut numbers);
    assert!(pieces.len() > 4, "{} pieces", pieces.len());
    let (mut ingested, mut in_the_middle) = (0, 0);
    let mut longest = LONGEST_LIFE;
    for piece in &pieces {
        site.ingest("data", piece);
        ingested += piece.lines().count() as i64;
        let life = longest.mul_f64(numbers.below(1_000) as f64 / 1_000.0);
        let engine = Running::start(&site, "--data-dir data", &OFTEN);
        let began = Instant::now();
        until("its hour", || (began.elapsed() > life).then_some(()));
        let said = engine.kill();
        assert!(!said.contains("ERROR") && !said.contains("WARN"), "{said}");
        if durable(&site, "data") < ingested {
            in_the_middle += 1;
        } else {
            // The quicker the machine, the shorter the lives that leave something undone.
            longest /= 2;
        }
    }
    assert!(in_the_middle >= 2, "{in_the_middle} of {} kills came before all was durable", pieces.len());
    site.run("run --once --data-dir data");
    assert_eq!(durable(&site, "data"), ingested);
    assert_as_on_a_directory(&site);
    for local in ["tables", "outbox", "engine/gen", "engine/checkpoints", "engine/blobs"] {
        assert!(!site.path("data").join(local).exists(), "{local} is in the data directory");
    }

    // Commands that read do so from the bucket, from any directory.
    let status = site.run("status --data-dir data").out;
    assert!(status.contains("not running here, checkpoint") && status.contains("lag         0 records"), "{status}");
    assert!(site.run("plan --data-dir data").out.starts_with("0 to rebuild"));
    let customer = site.rows("elsewhere", "SELECT customer_id FROM mrr_movements ORDER BY movement_id LIMIT 1");
    let customer = customer[0]["customer_id"].as_str().unwrap();
    assert!(site.run(&format!("customer {customer} --data-dir elsewhere")).out.contains(customer));
    let history = "query --data-dir data --output csv --as-of 2020-01-01";
    let then = Said::of(site.command(history).arg("SELECT count(*) FROM mrr_ledger").output().unwrap());
    assert_eq!((then.code, then.out.lines().nth(1)), (0, Some("0")), "{}", then.err);
    let said = site.run("run --once --data-dir data").err;
    assert!(said.starts_with("0 records read"), "nothing is read again: {said}");
}

#[test]
fn a_bucket_that_goes_away_and_comes_back_loses_nothing() {
    let Some(server) = Server::start() else { return };
    let site = server.bucket.site("");
    let mut numbers = Numbers(5);
    let pieces = pieces(&site, &mut numbers);
    let mut engine = Running::start(&site, "--data-dir data", &OFTEN);
    engine.word_after("port=");
    let mut ingested = 0;
    let mut stops = 0;
    for (number, piece) in pieces.iter().enumerate() {
        site.ingest("data", piece);
        ingested += piece.lines().count() as i64;
        if number % 2 == 1 {
            // At any moment of an epoch, a checkpoint or none.
            let moment = Duration::from_millis(numbers.below(800));
            let began = Instant::now();
            until("the moment", || (began.elapsed() > moment).then_some(()));
            server.kill();
            // Its next checkpoint at the latest finds nobody.
            within(Duration::from_secs(3), || engine.has_ended().then_some(()));
            server.restart();
        }
        let all = within(PATIENCE, || {
            if engine.has_ended() {
                let next = Running::start(&site, "--data-dir data", &OFTEN);
                let Said { code, err: said, .. } = std::mem::replace(&mut engine, next).ended();
                stops += 1;
                assert_eq!(code, 1, "{said}");
                assert!(squeezed(&said).contains("startagain"), "it says what to do: {said}");
                assert!(!said.contains(SECRET), "{said}");
            }
            (durable(&site, "data") == ingested).then_some(())
        });
        all.unwrap_or_else(|| panic!("not all became durable:\n{}", engine.said()));
    }
    println!("{} outages, {stops} ended the engine", pieces.len() / 2);
    engine.stop();
    assert_as_on_a_directory(&site);
}

#[test]
fn what_is_wrong_with_a_bucket_is_told_at_once_and_without_secrets() {
    let Some(bucket) = Bucket::new() else { return };
    let run = "run --once --data-dir data";
    let refused = |site: &Site, parts: &[&str]| {
        let said = said(site, run);
        let report = squeezed(&said.err);
        assert_eq!(said.code, 1, "{report}");
        for part in parts {
            assert!(report.contains(&squeezed(part)), "{part}: {report}");
        }
        for hidden in [SECRET, "wrong-secret", "wrong-key"] {
            assert!(!said.err.contains(hidden) && !said.out.contains(hidden), "{}", said.err);
        }
        assert!(!site.path("data/tables").exists() && !site.path("data/engine").exists());
    };
    for (key, secret) in [("tributary", "wrong-secret"), ("wrong-key", "wrong-secret")] {
        let site = Site::with([("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)]);
        site.write("tributary.toml", &bucket.config());
        refused(&site, &["refuses the credentials", "AWS_SECRET_ACCESS_KEY", "s3://tributary/"]);
    }
    let elsewhere = Bucket { url: "s3://nobodys-bucket/x".to_owned(), endpoint: bucket.endpoint.clone() };
    refused(&elsewhere.site(""), &["there is no bucket for s3://nobodys-bucket/x/", "create it"]);
    // A port that nobody listens on any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let away = Bucket { url: bucket.url.clone(), endpoint: format!("http://127.0.0.1:{port}") };
    refused(&away.site(""), &["cannot be reached", "storage.endpoint"]);
    let plain = bucket.site("");
    plain.write("tributary.toml", &bucket.config().replace("allow_http = true", ""));
    refused(&plain, &["storage.endpoint", "allow_http"]);
}

#[test]
fn what_is_only_for_a_directory_is_refused_on_a_bucket_with_what_to_do_instead() {
    let Some(bucket) = Bucket::new() else { return };
    let site = bucket.site("");
    site.simulate("events.jsonl", "--customers 20 --months 2 --seed 3");
    site.run("ingest events.jsonl --data-dir data");
    site.run("run --once --data-dir data");
    let before = site.run("status --data-dir data").out;
    for (command, instead) in [
        ("rebuild --data-dir data", "name another prefix"),
        ("backup copy --data-dir data", "a tool of the store"),
        ("restore copy --data-dir fresh", "copy what was kept"),
        ("pause mrr_daily --data-dir data", "with the data directory of the engine that runs"),
    ] {
        let said = said(&site, command);
        let report = squeezed(&said.err);
        assert_eq!(said.code, 1, "{command}: {report}");
        assert!(report.contains("s3://tributary/"), "{command}: {report}");
        assert!(report.contains(&squeezed(instead)), "{command}: {report}");
    }
    assert!(!site.path("copy").exists() && !site.path("data/rebuild").exists());
    assert_eq!(site.run("status --data-dir data").out, before, "nothing was changed");

    // The engine that runs is asked as on a directory.
    let mut engine = Running::start(&site, "--data-dir data", &[]);
    engine.word_after("port=");
    assert!(site.run("pause mrr_daily --data-dir data").out.starts_with("mrr_daily is paused"));
    assert!(site.run("resume mrr_daily --data-dir data").out.starts_with("rebuilt: mrr_daily"));
    // An engine with another log does not take the bucket from it.
    site.run("ingest events.jsonl --data-dir other");
    let refused = said(&site, "run --once --data-dir other");
    assert!(squeezed(&refused.err).contains("theeventlogisnottheone"), "{}", refused.err);
    site.ingest("data", &site.read("events.jsonl").lines().next().unwrap().replace("\"evt_", "\"evt_new_"));
    let known = fs::read_to_string(site.path("events.jsonl")).unwrap().lines().count() as i64;
    until("it to go on", || (durable(&site, "data") == known + 1).then_some(()));
    engine.stop();
}

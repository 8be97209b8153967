//! Making everything again: what was late is applied, rules can change, damage is mended, and a kill does no harm.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tributary::engine::MAX_RECORDS_AN_EPOCH;

use super::{
    alerts::{SECRET, grows},
    closing,
    crash::Numbers,
    scheduled,
    support::{Said, Site, assert_same_lines, files, within},
};

/// What one ledger says, however its events arrived. `revision` counts changes, which depend on arrival; so does which
/// of the two events that tell of one refund is heard first, and with it the day of the refund in `churn_features`.
pub(super) const LEDGER: [(&str, &str); 9] = [
    (
        "mrr_ledger",
        "SELECT subscription_item_id, price_id, currency, event_time, sum(mrr_delta) AS mrr_delta FROM mrr_ledger \
         GROUP BY 1, 2, 3, 4 HAVING sum(mrr_delta) <> 0 ORDER BY 1, 2, 3, 4",
    ),
    (
        "mrr_movements",
        "SELECT movement_id, occurred_at, customer_id, currency, kind, cause, causes, mrr_before, mrr_after, \
         mrr_delta, event_ids FROM mrr_movements ORDER BY movement_id",
    ),
    (
        "expansion_events",
        "SELECT movement_id, occurred_at, customer_id, currency, mrr_before, mrr_after, mrr_delta, pct_change, cause \
         FROM expansion_events ORDER BY movement_id",
    ),
    ("mrr_daily", "SELECT * FROM mrr_daily ORDER BY currency, day"),
    (
        "outlook_ledger",
        "SELECT measure, subscription_item_id, price_id, currency, event_time, sum(amount_delta) AS amount FROM \
         outlook_ledger GROUP BY 1, 2, 3, 4, 5 HAVING sum(amount_delta) <> 0 ORDER BY 1, 2, 3, 4, 5",
    ),
    ("scheduled_mrr", "SELECT count(*) AS rows FROM scheduled_mrr"),
    ("metered_usage", "SELECT count(*) > 0 AS some FROM metered_usage"),
    ("recognised_revenue", "SELECT count(*) > 0 AS some FROM recognised_revenue"),
    ("late_events", "SELECT count(*) AS late FROM late_events"),
];

/// Alerts of any expansion, to nobody who listens; with the secret in `CS_SECRET`.
pub(super) const ALERTS: &str = "[webhooks.cs]\nurl = \"http://127.0.0.1:9/\"\nsecret_env = \"CS_SECRET\"\n\
    allow_private = true\n\n[alerts.any]\nmin_amount = \"1\"\nwebhooks = [\"cs\"]\n";

/// What a rebuild must not change.
pub(super) const KEPT: [(&str, &str); 2] = [
    ("events_archive", "SELECT * FROM events_archive ORDER BY partition, \"offset\""),
    ("rejected_events", "SELECT * FROM rejected_events ORDER BY partition, \"offset\""),
];

pub(super) fn answers(site: &Site, data: &str, queries: &[(&str, &str)]) -> Vec<(String, String)> {
    queries.iter().map(|(table, sql)| ((*table).to_owned(), site.query(data, "csv", sql))).collect()
}

pub(super) fn assert_same(left: &[(String, String)], right: &[(String, String)]) {
    for ((table, left), (_, right)) in left.iter().zip(right) {
        assert_same_lines(table, left, right);
    }
}

/// The events of an account in order, and its tables in `data/calm`.
fn calm(site: &Site, arguments: &str) -> Vec<String> {
    site.simulate("events.jsonl", arguments);
    let events = site.read("events.jsonl");
    site.ingest("calm", &events);
    site.run("run --once --data-dir calm");
    events.lines().map(str::to_owned).collect()
}

/// Runs the engine after every piece, as if it had been live all the time.
fn live(site: &Site, data: &str, lines: &[String]) {
    for piece in lines.chunks(900) {
        site.ingest(data, &piece.join("\n"));
        site.run(&format!("run --once --data-dir {data}"));
    }
}

fn shuffled(lines: &[String], seed: u64) -> Vec<String> {
    let mut numbers = Numbers(seed);
    let mut places: Vec<(u64, &String)> = lines.iter().map(|line| (numbers.below(1 << 40), line)).collect();
    places.sort();
    places.into_iter().map(|(_, line)| line.clone()).collect()
}

#[test]
fn any_shuffle_at_all_gives_the_same_ledger_after_a_rebuild() {
    let site = Site::new();
    let lines = calm(&site, "--customers 70 --months 6 --seed 31");
    let mut arrived = shuffled(&lines, 7);
    arrived.insert(100, "not an event".to_owned());
    live(&site, "data", &arrived);
    let late = site.number("data", "SELECT count(*) FROM late_events");
    assert!(late > 20, "only {late} events came too late to be applied");
    assert_ne!(answers(&site, "data", &LEDGER[..1]), answers(&site, "calm", &LEDGER[..1]));
    let kept = answers(&site, "data", &KEPT);

    let said = site.run("rebuild --data-dir data").out;
    assert!(said.contains(&format!("late events applied: {late}")), "{said}");
    assert!(said.contains(&format!("{} records read", arrived.len())) && said.contains("1 rejected, 0 late"), "{said}");
    assert_same(&answers(&site, "data", &LEDGER), &answers(&site, "calm", &LEDGER));
    assert_same(&answers(&site, "data", &KEPT), &kept);
    assert!(!site.path("data/rebuild").exists());

    // The engine goes on from there, and a second rebuild finds nothing to change.
    site.ingest("data", &lines[0]);
    assert!(site.run("run --once --data-dir data").err.contains("1 records read"));
    let said = site.run("rebuild --data-dir data").out;
    assert!(
        said.contains("late events applied: 0") && said.contains(" 0 entries of the current ledger differ"),
        "{said}"
    );
    assert_same(&answers(&site, "data", &LEDGER), &answers(&site, "calm", &LEDGER));
}

#[test]
fn other_rules_are_refused_until_a_rebuild_makes_the_ledger_with_them() {
    let site = Site::new();
    let lines = calm(&site, "--customers 70 --months 5 --seed 32");
    site.ingest("data", &lines.join("\n"));
    site.run("run --once --data-dir data");
    assert_same(&answers(&site, "data", &LEDGER), &answers(&site, "calm", &LEDGER));
    fs::remove_dir_all(site.path("calm")).unwrap();

    site.write("tributary.toml", "[revenue]\nprofile = \"chartmogul\"\n");
    site.ingest("calm", &lines.join("\n"));
    site.run("run --once --data-dir calm");
    let refused = Said::of(site.command("run --once --data-dir data").output().unwrap());
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("tributary rebuild"), "{}", refused.err);
    assert_ne!(answers(&site, "data", &LEDGER), answers(&site, "calm", &LEDGER));
    site.run("rebuild --data-dir data");
    assert_same(&answers(&site, "data", &LEDGER), &answers(&site, "calm", &LEDGER));
    site.run("run --once --data-dir data");
}

#[test]
fn a_rebuild_mends_damaged_checkpoints_and_reads_from_the_archive_what_the_log_has_lost() {
    let site = Site::new();
    let mut lines = calm(&site, "--customers 60 --months 4 --seed 33");
    lines.insert(10, "not an event".to_owned());
    site.ingest("data", &lines.join("\n"));
    site.run("run --once --data-dir data");
    let kept = answers(&site, "data", &KEPT);
    let clock = answers(&site, "data", &[("log_clock", "SELECT * FROM log_clock")]);

    for manifest in files(&site.path("data/engine/checkpoints")) {
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace("\"offsets\"", "\"0ffsets\"")).unwrap();
    }
    let refused = Said::of(site.command("run --once --data-dir data").output().unwrap());
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("tributary rebuild"), "{}", refused.err);

    // As a broker's retention does.
    let log = rusqlite::Connection::open(site.path("data/log/log.sqlite")).unwrap();
    let deleted = log.execute("DELETE FROM records WHERE id & ((1 << 48) - 1) < 200", []).unwrap();
    assert!(deleted > 400, "{deleted}");
    drop(log);
    let said = site.run("rebuild --data-dir data");
    assert!(said.err.contains("not readable, and not needed any more"), "{}", said.err);
    assert!(said.err.contains("4 partitions of the log came from events_archive"), "{}", said.err);
    assert_same(&answers(&site, "data", &LEDGER), &answers(&site, "calm", &LEDGER));
    assert_same(&answers(&site, "data", &KEPT), &kept);
    assert_same(&answers(&site, "data", &[("log_clock", "SELECT * FROM log_clock")]), &clock);
    site.run("run --once --data-dir data");

    // What is in neither cannot be made again, and nothing is touched.
    fs::remove_dir_all(site.path("data/tables/events_archive")).unwrap();
    let refused = Said::of(site.command("rebuild --data-dir data").output().unwrap());
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("nothing was changed"), "{}", refused.err);
    assert_same(&answers(&site, "data", &LEDGER), &answers(&site, "calm", &LEDGER));
}

/// A rebuild that ends with the test.
struct Rebuilding(Child);

impl Drop for Rebuilding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_rebuild_that_was_killed_leaves_the_old_tables_or_the_new_ones() {
    let site = Site::new();
    let lines = calm(&site, "--customers 60 --months 4 --seed 34");
    live(&site, "data", &shuffled(&lines, 3));
    let (old, new) = (answers(&site, "data", &LEDGER), answers(&site, "calm", &LEDGER));
    assert_ne!(old, new);
    let kept = answers(&site, "data", &KEPT);
    let (mut numbers, mut kills) = (Numbers(11), 0);
    for _ in 0..6 {
        let child =
            site.command("rebuild --data-dir data").stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut rebuilding = Rebuilding(child);
        // From "has hardly begun" to "is nearly done".
        let goal = 1 + numbers.below(90) as usize;
        let there = || (files(&site.path("data/rebuild")).len() >= goal).then_some(());
        within(Duration::from_secs(2), there);
        kills += usize::from(rebuilding.0.try_wait().unwrap().is_none());
        drop(rebuilding);
        // The next start settles what was left.
        site.run("run --once --data-dir data");
        assert!(!site.path("data/rebuild").exists());
        let now = answers(&site, "data", &LEDGER);
        assert!(now == old || now == new, "neither the old nor the new tables");
        assert_same(&answers(&site, "data", &KEPT), &kept);
    }
    assert!(kills >= 3, "only {kills} rebuilds were killed before they were done");
    site.run("rebuild --data-dir data");
    assert_same(&answers(&site, "data", &LEDGER), &new);
    assert_same(&answers(&site, "data", &KEPT), &kept);
}

#[test]
fn a_rebuild_alerts_nobody_and_keeps_what_was_said() {
    let site = Site::new();
    site.write("tributary.toml", ALERTS);
    let run = |arguments: &str| {
        let mut command: Command = site.command(arguments);
        let said = Said::of(command.env("CS_SECRET", SECRET).output().unwrap());
        assert_eq!(said.code, 0, "{}", said.err);
    };
    let outbox = || {
        let mut names: Vec<_> =
            files(&site.path("data/outbox")).into_iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    run("run --once --data-dir data");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    site.ingest("data", &grows("one", now + 60, 5));
    run("run --once --data-dir data");
    let said = outbox();
    assert_eq!(said.len(), 2, "one alert and the control file: {said:?}");
    run("rebuild --data-dir data");
    assert_eq!(outbox(), said);
    run("run --once --data-dir data");
    assert_eq!(outbox(), said);
    site.ingest("data", &grows("two", now + 60, 5));
    run("run --once --data-dir data");
    assert_eq!(outbox().len(), 3, "and what comes later is told");
}

/// Reads what was released.
const BEST_MONTHS: &str = "/*---\nname: best_months\ndescription: d\nowner: o\nmode: upsert\n\
    grain: [account, livemode, currency]\ntime_column: currency\ncolumns:\n  currency: { description: c }\n  \
    best: { description: b }\n---*/\nSELECT account, livemode, currency, MAX(mrr_delta) AS best FROM closed_months \
    GROUP BY account, livemode, currency";

#[test]
fn after_a_rebuild_nothing_is_late_for_a_closed_window_or_for_the_last_run_of_a_schedule() {
    let site = Site::new();
    let all_customers = scheduled::QUERY.replace("AND currency = 'usd' ", "").replace("LIMIT 7", "LIMIT 1000");
    site.write("pipelines/closed_months.sql", &closing::file("append", closing::QUERY));
    site.write("pipelines/best_months.sql", BEST_MONTHS);
    site.write("pipelines/top_customers.sql", &scheduled::file("schedule: monthly", &all_customers));
    site.simulate("events.jsonl", "--customers 50 --months 6 --seed 35");
    let events = site.read("events.jsonl");
    let (late, others) = closing::without_one_customer(&events);
    // More records than an epoch reads, so that windows close long before the end of the log.
    site.ingest("data", &(others.join("\n") + "\n").repeat(MAX_RECORDS_AN_EPOCH / others.len() + 1));
    site.run("run --once --data-dir data");
    site.ingest("data", &late.join("\n"));
    site.run("run --once --data-dir data");
    let (released, late) = closing::assert_all_released_or_late(&site, "data", "closed_months", closing::QUERY);
    assert!(released > 5 && late > 1, "{released} released, {late} late");
    let batch = |site: &Site| scheduled::batch_of(site, "data", &all_customers, &scheduled::ran_in(site, "data"));
    assert_ne!(site.query("data", "csv", scheduled::ALL), batch(&site));

    let said = site.run("rebuild --data-dir data").out;
    assert!(said.contains(&format!("late changes of closed windows, now in them: {late}\n")), "{said}");
    let check = || {
        let closed = site.query("data", "csv", closing::ALL);
        assert_same_lines("closed windows", &closed, &closing::batch(&site, closing::CLOSED));
        assert_eq!(closing::assert_all_released_or_late(&site, "data", "closed_months", closing::QUERY).1, 0);
        assert_same_lines("a schedule", &site.query("data", "csv", scheduled::ALL), &batch(&site));
        let best = |from: &str| {
            let sql = "SELECT account, livemode, currency, MAX(mrr_delta) AS best FROM ";
            site.query("data", "csv", &format!("{sql}{from} GROUP BY account, livemode, currency ORDER BY currency"))
        };
        let read = site.query("data", "csv", "SELECT * FROM best_months ORDER BY currency");
        assert_same_lines("what reads them", &read, &best("closed_months"));
        closed
    };
    let closed = check();
    site.run("run --once --data-dir data");
    assert_eq!(check(), closed, "a start changes nothing");
}

#[test]
fn an_event_that_is_skipped_is_kept_and_counts_nowhere_until_it_is_skipped_no_more() {
    let site = Site::new();
    let lines = calm(&site, "--customers 40 --months 5 --seed 33");
    let (poison, id) = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.contains(r#""type":"customer.subscription.updated""#))
        .map(|(place, line)| (place, serde_json::from_str::<serde_json::Value>(line).unwrap()))
        .find(|(_, event)| event["data"]["previous_attributes"]["items"].is_object())
        .map(|(place, event)| (place, event["id"].as_str().unwrap().to_owned()))
        .expect("somebody changes its plan");
    let mut without = lines.clone();
    without.remove(poison);
    site.ingest("without", &without.join("\n"));
    site.run("run --once --data-dir without");
    let (all, less) = (answers(&site, "calm", &LEDGER), answers(&site, "without", &LEDGER));
    assert_ne!(all, less);

    // What has been read is taken out by a rebuild, and what has not is not read.
    site.ingest("data", &lines.join("\n"));
    site.run("run --once --data-dir data");
    site.write("tributary.toml", &format!("[engine]\nskip = [\"{id}\"]\n"));
    site.run("rebuild --data-dir data");
    site.ingest("fresh", &lines.join("\n"));
    assert!(site.run("run --once --data-dir fresh").err.contains("1 rejected"));
    for data in ["data", "fresh"] {
        assert_same(&answers(&site, data, &LEDGER), &less);
        let kept = site.rows(data, "SELECT reason, event_id, type, body FROM rejected_events");
        let told = (&kept[0]["reason"], &kept[0]["event_id"], &kept[0]["type"]);
        assert_eq!(told, (&"skipped".into(), &id.as_str().into(), &"customer.subscription.updated".into()));
        assert!(kept[0]["body"].as_str().unwrap().contains(&id), "it is kept whole");
        assert_eq!(site.number(data, &format!("SELECT count(*) FROM events_archive WHERE event_id = '{id}'")), 0);
    }

    site.write("tributary.toml", "");
    site.run("rebuild --data-dir data");
    assert_same(&answers(&site, "data", &LEDGER), &all);
}

//! Runs that are killed, against a run that is left alone.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    alerts::seats,
    closing,
    same::assert_same_tables,
    scheduled,
    support::{Running, Said, Site, assert_same_lines, files, within},
};
use crate::PATIENCE;

/// Events that come at once; small, so that corrections cross the ends of epochs.
const EVENTS_A_PIECE: usize = 600;

/// Lines by which an event is held back at most: about three weeks of this account; the ledger keeps 30 days open.
const HELD_BACK: u64 = 800;

/// How long an engine may make no new file before the tables are asked whether it has anything left to do.
const IDLE_AFTER: Duration = Duration::from_secs(2);

/// A generator of numbers that are the same in every run (Knuth's MMIX constants).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Holds every second event back, by at most so many lines.
pub(super) fn held_back<'a>(lines: impl Iterator<Item = &'a str>, most: u64, numbers: &mut Numbers) -> Vec<&'a str> {
    let mut places: Vec<(u64, &str)> = (0..)
        .zip(lines)
        .map(|(at, line)| (if numbers.below(2) == 0 { at + numbers.below(most) } else { at }, line))
        .collect();
    places.sort_by_key(|(place, _)| *place);
    places.into_iter().map(|(_, line)| line).collect()
}

/// Copies a directory with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
}

/// The shipped pipelines, and beside them one that emits on close.
pub(super) fn with_closed_weeks(site: &Site) {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines"), &site.path("pipelines"));
    let file = closing::file("append", closing::QUERY);
    site.write("pipelines/closed_weeks.sql", &closing::by_week(&file));
}

/// What the kills of a run did.
#[derive(Debug, Default)]
struct Kills {
    all: usize,
    /// Those that came before what was in the log was durable in the tables.
    in_the_middle: usize,
    /// How many records were, after each.
    durable: Vec<i64>,
}

/// Records of the log that are durable in the tables.
pub(super) fn durable(site: &Site, data: &str) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM events_archive) + (SELECT count(*) FROM rejected_events)";
    let asked = site.command(&format!("query --output csv --data-dir {data}")).arg(sql).output().unwrap();
    let said = Said::of(asked);
    if said.code != 0 {
        assert!(said.err.contains("there are no tables"), "{}", said.err);
        return 0;
    }
    said.out.lines().nth(1).unwrap().parse().unwrap()
}

/// What is told by schedules and rates of exchange, which the simulated account has none of: the subscription that comes
/// first will be worth something else in 2030, and two days of rates are in the log of `data`. Returns their number.
fn add_schedule_and_rates(site: &Site, data: &str, events: &mut String) -> i64 {
    let priced = |event: &Value| {
        let price = &event["data"]["object"]["items"]["data"][0]["price"];
        event["type"] == "customer.subscription.created" && price["unit_amount"].is_number()
    };
    let mut parsed = events.lines().map(|line| (line, serde_json::from_str::<Value>(line).unwrap()));
    let (line, event) = parsed.find(|(_, event)| priced(event)).unwrap();
    let subscription = &event["data"]["object"];
    let price = &subscription["items"]["data"][0]["price"]["id"];
    let phase = |start: u64, end: Option<u64>, quantity: u32| {
        let items = [json!({ "price": price, "quantity": quantity })];
        json!({ "start_date": start, "end_date": end, "currency": subscription["currency"], "items": items })
    };
    let (created, changes) = (event["created"].as_u64().unwrap(), 1_893_456_000);
    let schedule = json!({
        "id": "sub_sched_1", "object": "subscription_schedule", "customer": subscription["customer"],
        "subscription": subscription["id"], "status": "active", "end_behavior": "release", "created": created,
        "current_phase": { "start_date": created, "end_date": changes },
        "phases": [phase(created, Some(changes), 1), phase(changes, None, 7)],
    });
    let told = json!({
        "id": "evt_sched_1", "object": "event", "api_version": event["api_version"], "created": created + 60,
        "livemode": event["livemode"], "type": "subscription_schedule.created", "data": { "object": schedule },
    });
    *events = events.replacen(line, &format!("{line}\n{told}"), 1);
    site.write("rates.csv", "day,currency,rate\n2024-03-01,eur,0.92\n2024-03-04,eur,0.93\n");
    site.run(&format!("rates rates.csv --source bank --base usd --data-dir {data}"));
    2
}

/// The events of changes that the end of their subscription followed so soon that they are not too late after it.
fn before_cancellations(site: &Site, events: &str) -> Vec<String> {
    site.ingest("orderly", events);
    site.run("run --once --data-dir orderly");
    let sql = "SELECT DISTINCT l.event_ids FROM mrr_ledger AS l JOIN mrr_ledger AS c ON l.subscription_id = c.subscription_id \
               AND c.event_time > l.event_time AND c.event_time < l.event_time + INTERVAL '25 days' \
               JOIN events_archive AS e ON e.type = 'customer.subscription.deleted' AND array_has(c.event_ids, e.event_id) \
               WHERE l.cause IN ('plan_change', 'quantity_change', 'resume')";
    let ids = site.rows("orderly", sql).into_iter().flat_map(|row| row["event_ids"].as_array().unwrap().clone());
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// Feeds the log, in which there is something, piece by piece to engines that are killed at random moments.
fn run_with_kills(site: &Site, data: &str, mut ingested: i64, pieces: &[String], numbers: &mut Numbers) -> Kills {
    let mut kills = Kills::default();
    let mut closed = closing::Durable::default();
    for piece in pieces {
        site.ingest(data, piece);
        ingested += piece.lines().count() as i64;
        for most in [40, 180] {
            // From "has hardly begun" to "has committed and waits".
            let goal = files(&site.path(data)).len() + numbers.below(most) as usize;
            let variables = [("TRIBUTARY_ENGINE__CHECKPOINT_SECONDS", "0")];
            let engine = Running::start(site, &format!("--data-dir {data}"), &variables);
            let (mut there, mut since) = (0, Instant::now());
            let lived = within(PATIENCE, || {
                let now_there = files(&site.path(data)).len();
                if now_there != there {
                    (there, since) = (now_there, Instant::now());
                }
                let mut waits = false;
                if since.elapsed() > IDLE_AFTER {
                    (waits, since) = (durable(site, data) == ingested, Instant::now());
                }
                (waits || there > goal).then_some(())
            });
            lived.expect("an engine takes in what there is");
            let said = engine.kill();
            assert!(!said.contains("ERROR") && !said.contains("WARN"), "{said}");
            closed.look(site, data);
            kills.all += 1;
            let now_durable = durable(site, data);
            if now_durable < ingested {
                kills.in_the_middle += 1;
            }
            kills.durable.push(now_durable);
        }
    }
    kills
}

#[test]
fn a_run_that_was_killed_ends_in_the_same_tables() {
    let site = Site::new();
    with_closed_weeks(&site);
    site.write("pipelines/top_customers.sql", &scheduled::file("schedule: weekly", scheduled::QUERY));
    site.simulate("events.jsonl", "--customers 160 --months 6 --seed 5 --disorder 0.1 --truth truth");
    let mut events = site.read("events.jsonl");
    let rates = add_schedule_and_rates(&site, "killed", &mut events);
    events += "not an event\n";
    let mut numbers = Numbers(13);
    let lines = held_back(events.lines(), HELD_BACK, &mut numbers);
    // These come when what followed them has long been durable, and is reversed.
    let corrections = before_cancellations(&site, &events);
    let (last, first): (Vec<&str>, Vec<&str>) =
        lines.into_iter().partition(|line| corrections.iter().any(|id| line.contains(id.as_str())));
    let lines = [first, last].concat();
    let pieces: Vec<String> = lines.chunks(EVENTS_A_PIECE).map(|piece| piece.join("\n")).collect();
    assert!(pieces.len() >= 10, "{} pieces", pieces.len());

    // A model of another account scores from the first event on.
    site.simulate("elsewhere.jsonl", "--customers 400 --months 12 --seed 21");
    site.run("ingest elsewhere.jsonl --data-dir elsewhere");
    site.run("run --once --data-dir elsewhere");
    site.run("train --data-dir elsewhere");
    copy(&site.path("elsewhere/models"), &site.path("killed/models"));

    let kills = run_with_kills(&site, "killed", rates, &pieces, &mut numbers);
    // The same log, identity and times included, for a run that nobody disturbs.
    copy(&site.path("killed/log"), &site.path("calm/log"));
    copy(&site.path("killed/models"), &site.path("calm/models"));
    let rest = site.run("run --once --data-dir killed").err;
    let all = site.run("run --once --data-dir calm").err;

    let reversals = site.number("killed", "SELECT count(reverses_entry_id) FROM mrr_ledger");
    println!("{kills:?}, {reversals} reversals\nafter them: {rest}undisturbed: {all}");
    assert!(kills.in_the_middle >= 6, "{kills:?}");
    assert!(reversals > 0, "nothing came late enough to be corrected, of {corrections:?} neither");
    assert_eq!(site.number("killed", "SELECT count(*) FROM rejected_events"), 1);
    assert_eq!(site.number("killed", "SELECT count(*) FROM late_events"), 0);
    assert_same_tables((&site, "killed"), (&site, "calm"), &[]);
    super::truth::assert_equals_truth(&site, "killed", "truth");

    // What a window released, and what a run on a schedule saw, depends on where epochs were cut, so the two runs need not
    // agree on what came late. They agree on what the query says in the end, and on the next run.
    let query = closing::by_week(closing::QUERY);
    let (released, late) = closing::assert_all_released_or_late(&site, "killed", "closed_weeks", &query);
    assert!(released > 0 && late > 0, "{released} rows of closed weeks, {late} late changes");
    closing::assert_all_released_or_late(&site, "calm", "closed_weeks", &query);
    let first_of_august = 1_722_470_400;
    for data in ["killed", "calm"] {
        let before = scheduled::ran_in(&site, data);
        site.ingest(data, &seats("last", first_of_august, (1, first_of_august), 1, None));
        site.run(&format!("run --once --data-dir {data}"));
        let boundary = scheduled::ran_in(&site, data);
        assert!(boundary > before, "{boundary} {before}");
        let now = scheduled::batch_of(&site, data, scheduled::QUERY, &boundary);
        assert_same_lines(data, &site.query(data, "csv", scheduled::ALL), &now);
        closing::assert_all_released_or_late(&site, data, "closed_weeks", &query);
    }
    assert_same_lines("both", &site.query("killed", "csv", scheduled::ALL), &site.query("calm", "csv", scheduled::ALL));
}

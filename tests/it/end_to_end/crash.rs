//! Runs that are killed, against a run that is left alone.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    alerts::seats,
    closing, scheduled,
    support::{Running, SOON, Said, Site, assert_same_lines, files, within},
};

/// What must be the same row by row. `revision` counts how often a row changed, which depends on how the log was cut
/// into epochs; so do the entries of the ledger that took each other back, and which of the two events that tell of one
/// refund, in two partitions of the log, is read first.
pub(super) const SAME: [(&str, &str); 15] = [
    ("events_archive", "SELECT * FROM events_archive ORDER BY partition, \"offset\""),
    ("rejected_events", "SELECT * FROM rejected_events ORDER BY partition, \"offset\""),
    ("billing_events", "SELECT * FROM billing_events WHERE kind <> 'refund' ORDER BY event_id, kind, object_id"),
    (
        "refunds",
        "SELECT customer_id, occurred_at, currency, sum(amount) AS amount FROM billing_events WHERE kind = 'refund' \
         GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    ),
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
    ("mrr_daily", "SELECT * FROM mrr_daily ORDER BY account, currency, day"),
    ("churn_features", "SELECT * FROM churn_features ORDER BY account, customer_id, as_of"),
    ("net_revenue_retention", "SELECT * FROM net_revenue_retention ORDER BY account, currency, month"),
    ("logo_churn", "SELECT * FROM logo_churn ORDER BY account, month"),
    ("cohort_revenue_retention", "SELECT * FROM cohort_revenue_retention ORDER BY account, cohort, currency, month"),
    ("mrr_by_price", "SELECT * FROM mrr_by_price ORDER BY account, price_id, currency, valid_from"),
    ("recoveries", "SELECT * FROM recoveries ORDER BY invoice_id"),
    ("customer_scores", "SELECT * FROM customer_scores ORDER BY customer_id"),
];

/// Events that come at once; small, so that corrections cross the ends of epochs.
const EVENTS_A_PIECE: usize = 600;

/// Lines by which an event is held back at most: about three weeks of this account; the ledger keeps 30 days open.
const HELD_BACK: u64 = 800;

/// How long an engine lives that has begun to serve and has nothing more to write.
const LONGEST_LIFE: Duration = Duration::from_millis(1_500);

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

/// Feeds the log piece by piece to engines that are killed at random moments.
fn run_with_kills(site: &Site, data: &str, pieces: &[String], numbers: &mut Numbers) -> Kills {
    let mut kills = Kills::default();
    let mut closed = closing::Durable::default();
    let mut ingested = 0;
    for piece in pieces {
        site.ingest(data, piece);
        ingested += piece.lines().count() as i64;
        for most in [40, 180] {
            // From "has hardly begun" to "has committed and waits".
            let goal = files(&site.path(data)).len() + numbers.below(most) as usize;
            let variables = [("TRIBUTARY_ENGINE__CHECKPOINT_SECONDS", "0")];
            let engine = Running::start(site, &format!("--data-dir {data}"), &variables);
            let mut serves_since = None;
            within(SOON, || {
                if serves_since.is_none() && engine.said().contains("PostgreSQL:") {
                    serves_since = Some(Instant::now());
                }
                let is_idle = serves_since.is_some_and(|since| since.elapsed() > LONGEST_LIFE);
                (is_idle || files(&site.path(data)).len() > goal).then_some(())
            });
            let said = engine.kill();
            assert!(!said.contains("ERROR") && !said.contains("WARN"), "{said}");
            closed.look(site, data);
            kills.all += 1;
            if durable(site, data) < ingested {
                kills.in_the_middle += 1;
            }
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
    let events = site.read("events.jsonl") + "not an event\n";
    let mut numbers = Numbers(13);
    let lines = held_back(events.lines(), HELD_BACK, &mut numbers);
    let pieces: Vec<String> = lines.chunks(EVENTS_A_PIECE).map(|piece| piece.join("\n")).collect();
    assert!(pieces.len() >= 10, "{} pieces", pieces.len());

    // A model of another account scores from the first event on.
    site.simulate("elsewhere.jsonl", "--customers 400 --months 12 --seed 21");
    site.run("ingest elsewhere.jsonl --data-dir elsewhere");
    site.run("run --once --data-dir elsewhere");
    site.run("train --data-dir elsewhere");
    copy(&site.path("elsewhere/models"), &site.path("killed/models"));

    let kills = run_with_kills(&site, "killed", &pieces, &mut numbers);
    // The same log, identity and times included, for a run that nobody disturbs.
    copy(&site.path("killed/log"), &site.path("calm/log"));
    copy(&site.path("killed/models"), &site.path("calm/models"));
    let rest = site.run("run --once --data-dir killed").err;
    let all = site.run("run --once --data-dir calm").err;

    let reversals = site.number("killed", "SELECT count(reverses_entry_id) FROM mrr_ledger");
    println!("{kills:?}, {reversals} reversals\nafter them: {rest}undisturbed: {all}");
    assert!(kills.in_the_middle >= 6, "{kills:?}");
    assert!(reversals > 0, "nothing came late enough to be corrected");
    assert_eq!(site.number("killed", "SELECT count(*) FROM rejected_events"), 1);
    assert_eq!(site.number("killed", "SELECT count(*) FROM late_events"), 0);
    for (table, sql) in SAME {
        let (killed, calm) = (site.query("killed", "csv", sql), site.query("calm", "csv", sql));
        assert!(calm.lines().count() > 1, "{table} is empty");
        assert_same_lines(table, &killed, &calm);
    }
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

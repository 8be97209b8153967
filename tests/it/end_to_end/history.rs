//! The same question, asked as of a past day, as known at a past moment, and under another profile.

use tributary::tables;

use super::support::{Said, Site, assert_same_lines};

/// What is asked; `revision` counts changes, and is 1 in what is worked out.
const QUESTIONS: [(&str, &str); 6] = [
    (
        "mrr_movements",
        "SELECT movement_id, occurred_at, customer_id, currency, kind, cause, causes, mrr_before, mrr_after, \
         mrr_delta, event_ids FROM mrr_movements ORDER BY movement_id",
    ),
    ("mrr_daily", "SELECT * FROM mrr_daily ORDER BY currency, day"),
    (
        "expansion_events",
        "SELECT movement_id, occurred_at, customer_id, currency, mrr_before, mrr_after, pct_change, cause \
         FROM expansion_events ORDER BY movement_id",
    ),
    ("churn_features", "SELECT * FROM churn_features ORDER BY customer_id, as_of"),
    ("log_clock", "SELECT * FROM log_clock"),
    ("ledger_gaps", "SELECT * FROM ledger_gaps ORDER BY event_id, reason, object_id"),
];

/// What only a ledger of the same log says alike.
const ROWS: [(&str, &str); 4] = [
    ("mrr_ledger", "SELECT * FROM mrr_ledger ORDER BY entry_id"),
    ("item_states", "SELECT * FROM item_states ORDER BY subscription_item_id, valid_from, known_at, revision"),
    ("billing_events", "SELECT * FROM billing_events ORDER BY event_id, kind, object_id"),
    ("events_archive", "SELECT * FROM events_archive ORDER BY partition, \"offset\""),
];

fn ask(site: &Site, data: &str, asked: &[&str], sql: &str) -> String {
    let mut command = site.command(&format!("query --data-dir {data} --output csv"));
    let said = Said::of(command.args(asked).arg(sql).output().unwrap());
    assert_eq!(said.code, 0, "{asked:?} {sql}\n{}", said.err);
    said.out
}

fn answers(site: &Site, data: &str, asked: &[&str], questions: &[(&str, &str)]) -> Vec<(String, String)> {
    questions.iter().map(|(name, sql)| ((*name).to_owned(), ask(site, data, asked, sql))).collect()
}

fn assert_same(left: &[(String, String)], right: &[(String, String)]) {
    for ((name, left), (_, right)) in left.iter().zip(right) {
        assert_same_lines(name, left, right);
    }
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339()
}

fn created(line: &str) -> i64 {
    let event: serde_json::Value = serde_json::from_str(line).unwrap();
    event["created"].as_i64().unwrap()
}

#[test]
fn a_question_is_answered_as_it_was_before_late_events_came() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 80 --months 6 --seed 41");
    let events = site.read("events.jsonl");
    let lines: Vec<&str> = events.lines().collect();
    let cut = lines.len() * 2 / 3;
    // Changes of the last three weeks that have not arrived yet.
    let horizon = created(lines[cut - 1]) - 21 * 86_400;
    let is_late = |(at, line): &(usize, &&str)| {
        line.contains("customer.subscription.updated") && created(line) > horizon && at % 3 == 0
    };
    let first = lines[..cut].iter().enumerate();
    let (late, prompt): (Vec<_>, Vec<_>) = first.partition(|pair| is_late(pair));
    let text = |lines: &[(usize, &&str)]| lines.iter().map(|(_, line)| format!("{line}\n")).collect::<String>();
    assert!(late.len() > 5, "{}", late.len());
    site.ingest("data", &text(&prompt));
    site.run("run --once --data-dir data");
    let before = answers(&site, "data", &[], &QUESTIONS);
    let rows_before = answers(&site, "data", &[], &ROWS);
    let known_at = now();

    site.ingest("data", &text(&late));
    site.run("run --once --data-dir data");
    site.ingest("data", &lines[cut..].iter().map(|line| format!("{line}\n")).collect::<String>());
    site.run("run --once --data-dir data");
    let after = answers(&site, "data", &[], &QUESTIONS);
    let reversed = site.number("data", "SELECT count(reverses_entry_id) FROM mrr_ledger");
    assert!(reversed > 0, "nothing that was said had to be taken back");
    assert_ne!(before, after);

    let asked = ["--known-at", known_at.as_str()];
    assert_same(&answers(&site, "data", &asked, &QUESTIONS), &before);
    assert_same(&answers(&site, "data", &asked, &ROWS), &rows_before);
    // As known now it is what the tables hold.
    let now = now();
    assert_same(&answers(&site, "data", &["--known-at", &now], &QUESTIONS), &after);
    assert_same(&answers(&site, "data", &["--known-at", &now], &ROWS), &answers(&site, "data", &[], &ROWS));

    // A rebuild keeps what was known when, although it reads everything at once.
    site.run("rebuild --data-dir data");
    assert_same(&answers(&site, "data", &asked, &QUESTIONS), &before);
    assert_same(&answers(&site, "data", &[], &QUESTIONS), &after);

    // A day, both as it is now known and as it was then.
    let days = "SELECT currency, day, closing, customers FROM mrr_daily ORDER BY currency, day";
    let on = chrono::DateTime::from_timestamp(created(prompt[prompt.len() - 1].1), 0).unwrap().date_naive().to_string();
    let then = ask(&site, "data", &["--as-of", &on, "--known-at", &known_at], days);
    assert_ne!(then, ask(&site, "data", &["--as-of", &on], days), "late events changed what had been by {on}");
}

#[test]
fn as_of_a_day_the_log_ends_with_it() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 80 --months 5 --seed 42");
    let events = site.read("events.jsonl");
    site.ingest("all", &events);
    site.run("run --once --data-dir all");
    let end = "2024-03-20T23:59:59Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp();
    let until: String = events.lines().filter(|line| created(line) <= end).map(|line| format!("{line}\n")).collect();
    site.ingest("until", &until);
    site.run("run --once --data-dir until");
    // Whether a window is final is told by what came after it.
    let stored = |name: &str| {
        let columns = tables::get(name).unwrap().schema.fields();
        columns.iter().map(|field| format!("\"{}\"", field.name())).collect::<Vec<_>>().join(", ")
    };
    let questions = QUESTIONS[..4].iter().map(|(name, sql)| (*name, sql.replacen('*', &stored(name), 1)));
    let questions: Vec<(&str, String)> = questions.collect();
    let questions: Vec<(&str, &str)> = questions.iter().map(|(name, sql)| (*name, sql.as_str())).collect();
    let asked = answers(&site, "all", &["--as-of", "2024-03-20"], &questions);
    assert_same(&asked, &answers(&site, "until", &[], &questions));
    assert_ne!(asked, answers(&site, "all", &[], &questions));
    // A day ends where the merchant is.
    let clock = |asked: &str| ask(&site, "all", &["--as-of", asked], "SELECT last_event_at FROM log_clock");
    assert!(clock("2024-03-20").contains("2024-03-20T23:59:59.999999Z"), "{}", clock("2024-03-20"));
    site.write("tributary.toml", "[merchant]\nzone = \"America/New_York\"\n");
    assert!(clock("2024-03-20").contains("2024-03-21T03:59:59.999999Z"), "{}", clock("2024-03-20"));
}

#[test]
fn another_profiles_history_is_what_its_own_engine_would_have_made() {
    for (seed, version) in [(43, "2025-03-31"), (44, "2024-06-20")] {
        let site = Site::new();
        site.simulate("events.jsonl", &format!("--customers 120 --months 6 --seed {seed} --api-version {version}"));
        site.ingest("stripe", &site.read("events.jsonl"));
        site.run("run --once --data-dir stripe");
        for profile in ["chartmogul", "profitwell"] {
            site.write("tributary.toml", &format!("[revenue]\nprofile = \"{profile}\"\n"));
            site.ingest(profile, &site.read("events.jsonl"));
            site.run(&format!("run --once --data-dir {profile}"));
            std::fs::remove_file(site.path("tributary.toml")).unwrap();
            let other = answers(&site, "stripe", &["--profile", profile], &QUESTIONS[..5]);
            // A profile's causes and events of one second are told from the last state of it.
            let engines = answers(&site, profile, &[], &QUESTIONS[..5]);
            assert_ne!(engines[1], answers(&site, "stripe", &[], &QUESTIONS[..5])[1], "{profile} counts otherwise");
            for ((name, left), (_, right)) in other.iter().zip(&engines).skip(1) {
                assert_same_lines((name, profile, version), left, right);
            }
            let amounts = "SELECT movement_id, occurred_at, customer_id, currency, kind, mrr_before, mrr_after \
                           FROM mrr_movements ORDER BY movement_id";
            let outlook = "SELECT measure, event_time, subscription_item_id, currency, SUM(amount_delta) AS amount \
                           FROM outlook_ledger GROUP BY 1, 2, 3, 4 HAVING SUM(amount_delta) <> 0 ORDER BY 1, 2, 3, 4";
            for sql in [amounts, outlook] {
                let (left, right) = (ask(&site, "stripe", &["--profile", profile], sql), ask(&site, profile, &[], sql));
                assert!(right.lines().count() > 1, "{profile} {sql}");
                assert_same_lines(profile, &left, &right);
            }
        }
        let same = answers(&site, "stripe", &["--profile", "stripe"], &QUESTIONS);
        assert_same(&same, &answers(&site, "stripe", &[], &QUESTIONS));
    }
}

#[test]
fn what_cannot_be_asked_for_says_why() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 10 --months 2 --seed 45");
    site.run("ingest events.jsonl --data-dir data");
    site.run("run --once --data-dir data");
    for (asked, sql, reason) in [
        (["--as-of", "2024-02-01"], "SELECT * FROM customer_scores", "only as they are now"),
        (["--profile", "custom"], "SELECT 1", "[revenue.custom]"),
        (["--profile", "chartmogul"], "SELECT * FROM scheduled_mrr", "by the rules of the engine that made them"),
        (["--profile", "chartmogul"], "SELECT * FROM usage_run_rate", "metered_usage cannot be asked for"),
        (["--known-at", "yesterday"], "SELECT 1", "neither a day nor an instant"),
        (["--as-of", "2024-02-30"], "SELECT 1", "--as-of"),
        (["--as-of", "2024-02-01"], "DELETE FROM mrr_daily", "only queries"),
    ] {
        let said = Said::of(site.command("query --data-dir data").args(asked).arg(sql).output().unwrap());
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{asked:?} {sql}");
        assert!(said.words().contains(reason), "{asked:?}: {}", said.err);
    }
    let wrong = Said::of(site.command("query --data-dir data --profile baremetrics").arg("SELECT 1").output().unwrap());
    assert!(wrong.code == 2 && wrong.err.contains("chartmogul"), "{}", wrong.err);
    let none = ask(&site, "data", &["--known-at", "2020-01-01"], "SELECT count(*) AS n FROM mrr_daily");
    assert_eq!(none, "n\n0\n", "before the first event nothing was known");
    let prices = "SELECT count(*) AS n FROM prices";
    let now = ask(&site, "data", &[], prices);
    assert_ne!(now, "n\n0\n");
    assert_eq!(ask(&site, "data", &["--known-at", "2020-01-01"], prices), now, "keyed tables say what they say now");
    let test = ask(&site, "data", &["--as-of", "2024-02-01"], "SELECT count(*) AS n FROM test.mrr_daily");
    assert_eq!(test, "n\n0\n", "live data is not in the schema of test data");
}

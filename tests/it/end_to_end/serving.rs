//! `psql` against a running engine.

use std::{fs, process::Command};

use super::support::{Running, Said, Site, until};
use crate::needs;

/// A `psql` session's address and password.
pub(super) struct Psql {
    port: String,
    password: String,
}

impl Psql {
    /// Waits until the engine of a data directory serves.
    pub(super) fn of(engine: &mut Running, site: &Site, data: &str) -> Self {
        let port = engine.word_after("port=");
        let password = fs::read_to_string(site.path(data).join("postgres.password")).unwrap();
        Self { port, password: password.trim().to_owned() }
    }

    fn ask(&self, user: &str, password: &str, sql: &str) -> Said {
        let place = format!("host=127.0.0.1 port={} user={user} dbname=tributary connect_timeout=10", self.port);
        let psql = Command::new("psql")
            .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", &place, "-c", sql])
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "10")
            .output();
        Said::of(psql.unwrap())
    }

    /// The answer, without the last end of line.
    pub(super) fn answer(&self, sql: &str) -> String {
        let said = self.ask("tributary", &self.password, sql);
        assert_eq!(said.code, 0, "{sql}\n{}", said.err);
        said.out.trim_end().to_owned()
    }
}

#[test]
fn psql_reads_rows_of_the_last_second() {
    if !needs::psql() {
        return;
    }
    let site = Site::new();
    site.simulate("first.jsonl", "--customers 60 --months 3 --seed 3");
    site.run("ingest first.jsonl --data-dir data");
    site.run("run --once --data-dir data");
    // Nothing becomes durable while the test looks: what it sees comes from memory.
    let variables = [("TRIBUTARY_ENGINE__CHECKPOINT_SECONDS", "3600")];
    let mut engine = Running::start(&site, "--data-dir data", &variables);
    let psql = Psql::of(&mut engine, &site, "data");

    let tables = psql.answer("\\dt");
    for table in ["mrr_daily", "mrr_ledger", "mrr_movements", "expansion_events", "churn_features", "events_archive"] {
        assert!(tables.lines().any(|line| line.starts_with(&format!("public|{table}|"))), "{table} in:\n{tables}");
    }
    assert!(psql.answer("\\d mrr_daily").contains("closing"));
    let committed = site.number("data", "SELECT count(*) FROM mrr_daily");
    assert_eq!(psql.answer("SELECT count(*) FROM mrr_daily"), committed.to_string());
    let closes = "SELECT count(*) FROM mrr_daily \
                  WHERE opening + imported + new + reactivation + expansion + contraction + churn <> closing";
    assert_eq!(psql.answer(closes), "0");

    site.simulate("second.jsonl", "--customers 20 --months 4 --seed 4");
    let second = site.read("second.jsonl");
    let (before, more) = (site.number("data", "SELECT count(*) FROM events_archive"), second.lines().count());
    site.ingest("data", &second);
    let all = (before + more as i64).to_string();
    until("the second batch in psql", || (psql.answer("SELECT count(*) FROM events_archive") == all).then_some(()));
    until("its days", || (psql.answer("SELECT max(day) >= '2024-04-30' FROM mrr_daily") == "t").then_some(()));
    assert_eq!(psql.answer(closes), "0");
    let durable = site.number("data", "SELECT count(*) FROM events_archive");
    assert_eq!(durable, before, "this batch was seen before it was durable");

    // What is seen is what stays.
    let daily = psql.answer("SELECT day, currency, closing FROM mrr_daily ORDER BY day, currency");
    engine.stop();
    let rows = site.query("data", "csv", "SELECT day, currency, closing FROM mrr_daily ORDER BY day, currency");
    let stored: Vec<String> = rows.lines().skip(1).map(|line| line.replace(',', "|")).collect();
    assert_eq!(daily.lines().collect::<Vec<_>>(), stored);
}

#[test]
fn psql_gets_in_with_the_password_alone_and_changes_nothing() {
    if !needs::psql() {
        return;
    }
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 20 --months 2 --seed 3");
    site.run("ingest events.jsonl --data-dir data");
    let mut engine = Running::start(&site, "--data-dir data", &[]);
    let psql = Psql::of(&mut engine, &site, "data");
    until("rows", || (psql.answer("SELECT count(*) > 0 FROM mrr_daily") == "t").then_some(()));

    for (user, password) in [("tributary", "wrong"), ("tributary", ""), ("postgres", psql.password.as_str())] {
        let refused = psql.ask(user, password, "SELECT 1");
        assert_ne!(refused.code, 0, "{user} with {password:?} got in: {}", refused.out);
    }
    let before = psql.answer("SELECT count(*) FROM mrr_daily");
    for sql in [
        "INSERT INTO mrr_daily SELECT * FROM mrr_daily",
        "DELETE FROM mrr_daily",
        "UPDATE mrr_daily SET closing = 0",
        "DROP TABLE mrr_daily",
        "CREATE TABLE stolen AS SELECT * FROM mrr_daily",
        "COPY mrr_daily TO '/tmp/stolen.csv'",
        "CREATE EXTERNAL TABLE passwd STORED AS CSV LOCATION '/etc/passwd'",
    ] {
        let refused = psql.ask("tributary", &psql.password, sql);
        assert_ne!(refused.code, 0, "{sql}: {}", refused.out);
        assert!(refused.err.contains("ERROR"), "{sql}: {}", refused.err);
    }
    assert_eq!(psql.answer("SELECT count(*) FROM mrr_daily"), before);
    let said = engine.stop();
    assert!(!said.contains(&psql.password), "the password was written to standard error");
}

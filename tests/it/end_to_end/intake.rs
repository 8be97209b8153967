//! What comes in through `ingest` and the webhook: what cannot be read, what is personal, what is only a test.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::{
    serving::Psql,
    support::{Running, Site, assert_same_lines, files, until},
};
use crate::needs;

const WEBHOOK_SECRET: &str = "whsec_end_to_end";

#[test]
fn what_cannot_be_read_is_kept_and_counted() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 40 --months 3 --seed 9");
    let events = site.read("events.jsonl");
    site.ingest("clean", &events);
    site.run("run --once --data-dir clean");

    let thin = json!({
        "id": "evt_thin", "object": "v2.core.event", "type": "v1.billing.meter.no_meter_found", "livemode": true,
        "created": "2024-09-26T17:46:22.134Z",
    });
    let mut without_id: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    without_id.as_object_mut().unwrap().remove("id");
    let bad = [
        "garbage that names secret.person@example.com".to_owned(),
        "{\"object\": \"event\", \"id\": \"evt_torn\"".to_owned(),
        "[1, 2]".to_owned(),
        thin.to_string(),
        without_id.to_string(),
        json!({ "id": "cus_alone", "object": "customer" }).to_string(),
    ];
    // A bad line after every hundred good ones.
    let mut mixed = String::new();
    for (at, line) in events.lines().enumerate() {
        mixed.push_str(line);
        mixed.push('\n');
        if at % 100 == 99
            && let Some(bad) = bad.get(at / 100)
        {
            mixed.push_str(bad);
            mixed.push('\n');
        }
    }
    let said = site.ingest("mixed", &mixed);
    assert!(said.err.contains("6 could not be read as events"), "{}", said.err);
    assert!(said.err.contains(&format!("{} events appended", events.lines().count())), "{}", said.err);
    let ran = site.run("run --once --data-dir mixed");
    assert!(ran.err.contains("6 rejected"), "{}", ran.err);

    let sql = "SELECT reason, count(*) AS times FROM rejected_events GROUP BY reason ORDER BY reason";
    let reasons = site.query("mixed", "csv", sql);
    assert_eq!(reasons, "reason,times\nevent_incomplete,1\nnot_an_event,2\nnot_json,2\nthin_event,1\n");
    let thin =
        site.rows("mixed", "SELECT event_id, type, received_at FROM rejected_events WHERE reason = 'thin_event'");
    assert_eq!(
        (&thin[0]["event_id"], &thin[0]["type"]),
        (&json!("evt_thin"), &json!("v1.billing.meter.no_meter_found"))
    );
    assert!(thin[0]["received_at"].is_string());
    for sql in [
        "SELECT * FROM mrr_daily ORDER BY day, currency",
        "SELECT * FROM mrr_movements ORDER BY movement_id",
        "SELECT event_id, body FROM events_archive ORDER BY event_id",
    ] {
        assert_same_lines(sql, &site.query("mixed", "csv", sql), &site.query("clean", "csv", sql));
    }
    assert_holds_nowhere(&site, "mixed", "secret.person");
}

#[test]
fn test_mode_is_never_mixed_with_live_data() {
    let site = Site::new();
    site.simulate("live.jsonl", "--customers 40 --months 3 --seed 9");
    site.simulate("test.jsonl", "--customers 30 --months 4 --seed 10");
    let live = site.read("live.jsonl");
    let test = site.read("test.jsonl").replace("\"livemode\":true", "\"livemode\":false");
    site.ingest("live", &live);
    site.run("run --once --data-dir live");
    site.ingest("both", &live);
    site.ingest("both", &test);
    site.run("run --once --data-dir both");

    for table in ["mrr_daily", "mrr_movements", "mrr_ledger", "item_states", "events_archive", "churn_features"] {
        let count = |data, schema| site.number(data, &format!("SELECT count(*) FROM {schema}.{table}"));
        assert_eq!(count("both", "public"), count("live", "public"), "{table} in public");
        assert!(count("both", "test") > 0, "{table} in test");
        let modes = |schema| site.query("both", "csv", &format!("SELECT DISTINCT livemode FROM {schema}.{table}"));
        assert_eq!((modes("public").as_str(), modes("test").as_str()), ("livemode\ntrue\n", "livemode\nfalse\n"));
    }
    // Whether a day is final is a matter of how far the whole log has been read.
    let daily = "SELECT day, currency, opening, new, churn, closing, customers FROM mrr_daily ORDER BY day, currency";
    let (both, live) = (site.query("both", "csv", daily), site.query("live", "csv", daily));
    assert_same_lines("without a schema it is live data", &both, &live);
}

/// Posts a body signed by Stripe's SDK; the status of the answer.
fn post_with_the_sdk(python: &str, url: &str, secret: &str, body: &str) -> String {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/sign_event.py");
    let mut process =
        Command::new(python).args([program, url, secret]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Checks that a text is in no file of a data directory, nor in any column of any table.
fn assert_holds_nowhere(site: &Site, data: &str, text: &str) {
    for file in files(&site.path(data)) {
        let bytes = fs::read(&file).unwrap();
        let found = bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()));
        assert!(!found, "{text} is in {}", file.display());
    }
    // Parquet is compressed.
    let tables =
        site.rows(data, "SELECT DISTINCT table_name FROM information_schema.tables WHERE table_schema = 'public'");
    assert!(tables.len() > 10, "{tables:?}");
    for table in tables {
        let rows = site.query(data, "csv", &format!("SELECT * FROM {}", table["table_name"].as_str().unwrap()));
        assert!(!rows.to_lowercase().contains(&text.to_lowercase()), "{text} is in {table}");
    }
}

#[test]
fn an_event_signed_by_stripes_own_sdk_is_seen_in_psql() {
    let Some(python) = needs::python() else { return };
    if !needs::psql() {
        return;
    }
    let site = Site::new();
    let event = |id: &str, name: &str| {
        let customer = json!({
            "id": "cus_planted", "object": "customer", "created": 1_735_700_000, "livemode": true, "currency": "usd",
            "name": name, "email": "ada.planted@example.com", "phone": "+15550199",
            "description": format!("Account of {name}"),
            "address": { "line1": "1 Plantedstreet", "city": "Plantedtown", "country": "GB" },
            "metadata": { "owner": name, "ada.planted@example.com": "1" }, "tax_exempt": "none",
        });
        let event = json!({
            "id": id, "object": "event", "api_version": "2025-03-31.basil", "created": 1_735_700_000,
            "livemode": true, "pending_webhooks": 1, "type": "customer.created", "data": { "object": customer },
            "request": { "id": "req_1", "idempotency_key": "ada.planted@example.com" },
        });
        event.to_string()
    };
    let variables = [("TRIBUTARY_GATEWAY__LISTEN", "127.0.0.1:0"), ("TRIBUTARY_WEBHOOK_SECRET", WEBHOOK_SECRET)];
    let mut engine = Running::start(&site, "--data-dir data", &variables);
    let psql = Psql::of(&mut engine, &site, "data");
    let url = engine.word_after("POST ");

    assert_eq!(post_with_the_sdk(&python, &url, "whsec_another", &event("evt_forged", "Ada Planted")), "400");
    assert_eq!(post_with_the_sdk(&python, &url, WEBHOOK_SECRET, &event("evt_signed", "Ada Planted")), "200");
    assert_eq!(post_with_the_sdk(&python, &url, WEBHOOK_SECRET, &event("evt_last", "Зоя Planted 💶")), "200");
    until("the signed events in psql", || {
        let seen = psql.answer("SELECT event_id FROM events_archive ORDER BY event_id");
        (seen == "evt_last\nevt_signed").then_some(())
    });
    let kept = "SELECT body LIKE '%cus_planted%' AND body LIKE '%\"currency\":\"usd\"%' FROM events_archive LIMIT 1";
    assert_eq!(
        psql.answer(kept),
        "t",
        "what is not personal is kept: {}",
        psql.answer("SELECT body FROM events_archive")
    );
    let said = engine.stop();

    assert_eq!(site.number("data", "SELECT count(*) FROM events_archive"), 2);
    assert_eq!(site.number("data", "SELECT count(*) FROM rejected_events"), 0, "a forged event leaves no trace");
    // Its marks in everything that is personal; `cus_planted` is a Stripe id, and is kept.
    for text in
        ["ada.planted", "Ada Planted", "Зоя", "15550199", "Plantedstreet", "Plantedtown", "evt_forged", WEBHOOK_SECRET]
    {
        assert_holds_nowhere(&site, "data", text);
        assert!(!said.contains(text), "{text} was written to standard error");
    }
}

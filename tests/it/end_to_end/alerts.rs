//! Alerts as another company's program receives them: signed, once, and of what is new alone.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::support::{Running, Said, Site};
use crate::{PATIENCE, needs};

pub(super) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A receiver written with the official library of Standard Webhooks; it ends with the test.
pub(super) struct Receiver {
    process: Child,
    pub(super) messages: mpsc::Receiver<Value>,
    pub(super) port: String,
    /// Ids of the alerts that came.
    told: BTreeSet<String>,
}

impl Receiver {
    pub(super) fn start(python: &str) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/receiver.py");
        let mut process =
            Command::new(python).args([program, SECRET]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap();
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { process, messages, port, told: BTreeSet::new() }
    }

    /// The next message, which must be new, about this customer and rightly signed.
    fn expects(&mut self, customer: &str, delta: &str) {
        let (id, expansion) = self.next(customer);
        assert_eq!((&expansion["customer_id"], &expansion["mrr_delta"]), (&json!(customer), &json!(delta)));
        assert!(self.told.insert(id), "each alert has an id of its own");
    }

    /// After a crash, what was sent and not yet noted comes again under its id.
    fn expects_after_a_crash(&mut self, customer: &str, delta: &str) {
        loop {
            let (id, expansion) = self.next(customer);
            if !self.told.contains(&id) {
                assert_eq!((&expansion["customer_id"], &expansion["mrr_delta"]), (&json!(customer), &json!(delta)));
                self.told.insert(id);
                return;
            }
        }
    }

    fn next(&self, waiting_for: &str) -> (String, Value) {
        let message = self.messages.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no alert of {waiting_for}"));
        assert_eq!((&message["verified"], &message["status"]), (&json!(true), &json!(200)), "{message}");
        assert_eq!(message["message"]["type"], "mrr.expansion", "{message}");
        (message["id"].as_str().unwrap().to_owned(), message["message"]["data"]["expansion"].clone())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A customer who subscribes to something for 10.00 a month ten minutes before `time`, and takes `quantity` of it then.
pub(super) fn grows(name: &str, time: u64, quantity: u32) -> String {
    let began = time - 600;
    seats(name, began, (1, began), 1, None) + &seats(name, began, (2, time), quantity, Some(1))
}

/// The event with a number and a time of a subscription for 10.00 a month and seat; of its creation, or of a change.
pub(super) fn seats(name: &str, began: u64, (number, time): (u32, u64), quantity: u32, before: Option<u32>) -> String {
    let price = json!({
        "id": "price_10", "object": "price", "active": true, "billing_scheme": "per_unit", "currency": "usd",
        "livemode": true, "product": "prod_1", "type": "recurring", "unit_amount": 1000,
        "unit_amount_decimal": "1000", "created": 1_700_000_000, "tiers_mode": null, "transform_quantity": null,
        "recurring": { "interval": "month", "interval_count": 1, "usage_type": "licensed" },
    });
    let item = json!({
        "id": format!("si_{name}"), "object": "subscription_item", "quantity": quantity, "price": price,
        "subscription": format!("sub_{name}"), "created": began, "discounts": [],
        "current_period_start": began, "current_period_end": began + 2_592_000,
    });
    let subscription = json!({
        "id": format!("sub_{name}"), "object": "subscription", "customer": format!("cus_{name}"),
        "currency": "usd", "status": "active", "livemode": true, "created": began, "start_date": began,
        "cancel_at_period_end": false, "discounts": [],
        "items": { "object": "list", "data": [item], "has_more": false, "total_count": 1 },
    });
    let mut data = json!({ "object": subscription });
    if let Some(before) = before {
        let items = json!({ "data": [{ "id": format!("si_{name}"), "quantity": before }] });
        data["previous_attributes"] = json!({ "quantity": before, "items": items });
    }
    let kind = if before.is_some() { "updated" } else { "created" };
    let event = json!({
        "id": format!("evt_{name}_{number}"), "object": "event", "api_version": "2025-03-31.basil",
        "created": time, "livemode": true, "type": format!("customer.subscription.{kind}"), "data": data,
    });
    event.to_string() + "\n"
}

/// A site on which expansions from 25.00 on alert.
fn alerting(receiver: &Receiver) -> Site {
    let site = Site::new();
    let config = format!(
        "[webhooks.cs]\nurl = \"http://127.0.0.1:{}/hook\"\nsecret_env = \"CS_SECRET\"\nallow_private = true\n\n\
         [alerts.big]\nmin_amount = \"25\"\nwebhooks = [\"cs\"]\n",
        receiver.port
    );
    site.write("tributary.toml", &config);
    site
}

/// An engine that reads, and so has its rules active.
fn started(site: &Site) -> Running {
    let mut engine = Running::start(site, "--data-dir data", &[("CS_SECRET", SECRET)]);
    engine.word_after("port=");
    engine
}

#[test]
fn an_expansion_alerts_once_and_a_backfill_alerts_nobody() {
    let Some(python) = needs::python() else { return };
    let mut receiver = Receiver::start(&python);
    let site = alerting(&receiver);
    let start = || started(&site);

    let engine = start();
    // From before there was such a rule.
    site.ingest("data", &grows("before", now() - 3_600, 9));
    // 10 → 30 is too little to tell.
    site.ingest("data", &grows("small", now(), 3));
    let big = grows("big", now(), 5);
    site.ingest("data", &big);
    receiver.expects("cus_big", "40.000000");
    engine.stop();

    // What follows the next alert would have come before it, had it been told again.
    let engine = start();
    site.ingest("data", &grows("later", now(), 4));
    receiver.expects("cus_later", "30.000000");
    engine.kill();

    // Old events, with big expansions among them, and one of long ago by hand.
    site.simulate("old.jsonl", "--customers 150 --months 6 --seed 8");
    let engine = start();
    site.ingest("data", &site.read("old.jsonl"));
    site.ingest("data", &grows("long_ago", now() - 100 * 86_400, 9));
    // The same events once more are no news either.
    site.ingest("data", &big);
    site.ingest("data", &grows("last", now(), 6));
    receiver.expects_after_a_crash("cus_last", "50.000000");
    let said = engine.stop();

    assert!(receiver.messages.try_recv().is_err(), "nothing else was sent");
    assert!(!said.contains(SECRET));
    let sql = "SELECT count(*) FROM expansion_events WHERE mrr_delta >= 25";
    let expansions = site.number("data", sql);
    assert!(expansions > 10, "only {expansions} expansions were there to be told");
    let small = site.rows("data", "SELECT mrr_delta FROM expansion_events WHERE customer_id = 'cus_small'");
    assert_eq!(small[0]["mrr_delta"], "20.000000");
}

#[test]
fn history_that_is_brought_in_alerts_nobody_however_young_and_is_never_late() {
    let Some(python) = needs::python() else { return };
    let mut receiver = Receiver::start(&python);
    let site = alerting(&receiver);
    let engine = started(&site);
    site.ingest("data", &grows("first", now(), 5));
    receiver.expects("cus_first", "40.000000");
    engine.stop();

    site.ingest("data", &grows("young", now(), 9));
    // A change of long before the newest of its subscription: live it would be late.
    site.ingest("data", &seats("first", now() - 90 * 86_400, (3, now() - 90 * 86_400), 1, None));
    let backfill = || site.command("run --once --backfill --data-dir data").env("CS_SECRET", SECRET).output().unwrap();
    let said = Said::of(backfill());
    assert!(said.err.contains("0 rejected, 0 late"), "{}", said.err);

    let engine = started(&site);
    site.ingest("data", &grows("next", now(), 4));
    receiver.expects("cus_next", "30.000000");
    engine.stop();
    let young = site.rows("data", "SELECT mrr_delta FROM expansion_events WHERE customer_id = 'cus_young'");
    assert_eq!(young[0]["mrr_delta"], "80.000000");
}

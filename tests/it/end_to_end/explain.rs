//! `tributary customer` and `tributary movement`: a number followed to its cause, by the real program.

use serde_json::{Value, json};

use super::support::{Said, Site};

/// 2024-03-01T00:00:00Z.
const START: i64 = 1_709_251_200;
const DAY: i64 = 86_400;

fn price(id: &str, unit: i64, interval: &str) -> Value {
    json!({
        "id": id, "object": "price", "active": true, "billing_scheme": "per_unit", "currency": "usd", "livemode": true,
        "product": format!("prod_{id}"), "type": "recurring", "unit_amount": unit, "unit_amount_decimal": unit.to_string(),
        "created": START, "tiers_mode": null, "transform_quantity": null, "tax_behavior": "unspecified",
        "recurring": { "interval": interval, "interval_count": 1, "usage_type": "licensed" },
    })
}

fn item(id: &str, price: &Value, quantity: i64) -> Value {
    json!({
        "id": id, "object": "subscription_item", "quantity": quantity, "price": price, "subscription": "sub_1",
        "created": START, "discounts": [], "current_period_start": START, "current_period_end": START + 30 * DAY,
    })
}

fn event(id: &str, day: i64, kind: &str, customer: &str, items: &[Value], previous: Option<Value>) -> String {
    let subscription = json!({
        "id": format!("sub_{customer}"), "object": "subscription", "customer": format!("cus_{customer}"),
        "currency": "usd", "status": "active", "livemode": true, "created": START, "start_date": START,
        "cancel_at_period_end": false, "discounts": [],
        "items": { "object": "list", "data": items, "has_more": false, "total_count": items.len() },
    });
    let mut data = json!({ "object": subscription });
    if let Some(previous) = previous {
        data["previous_attributes"] = previous;
    }
    let event = json!({
        "id": id, "object": "event", "api_version": "2025-03-31.basil", "created": START + day * DAY, "livemode": true,
        "type": format!("customer.subscription.{kind}"), "data": data,
    });
    event.to_string() + "\n"
}

fn was(id: &str, quantity: i64) -> Option<Value> {
    Some(json!({ "items": { "data": [{ "id": id, "quantity": quantity }] } }))
}

fn said(site: &Site, arguments: &str) -> Said {
    Said::of(site.command(arguments).output().unwrap())
}

/// The lines of an answer with this word in them.
fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.contains(word)).collect()
}

#[test]
fn a_customers_story_shows_the_arithmetic_of_every_item() {
    let site = Site::new();
    let mut discounted = item("si_discounted", &price("price_seats", 2_900, "month"), 3);
    discounted["discounts"] = json!([{
        "id": "di_1", "object": "discount", "start": START, "end": null, "customer": "cus_rich",
        "source": { "type": "coupon", "coupon": {
            "id": "SUMMER", "object": "coupon", "percent_off": 10, "amount_off": null, "currency": null,
            "duration": "forever", "duration_in_months": null, "created": START, "livemode": true, "valid": true,
        } },
    }]);
    let mut tiers = price("price_tiers", 0, "month");
    tiers["billing_scheme"] = json!("tiered");
    tiers["tiers_mode"] = json!("volume");
    tiers["unit_amount"] = Value::Null;
    tiers["unit_amount_decimal"] = Value::Null;
    tiers["tiers"] = json!([
        { "up_to": 1000, "unit_amount": 10, "unit_amount_decimal": "10", "flat_amount": null },
        { "up_to": null, "unit_amount": 5, "unit_amount_decimal": "5", "flat_amount": null },
    ]);
    let tiered = item("si_tiered", &tiers, 500);
    let mut taxed = item("si_taxed", &price("price_yearly", 119_000, "year"), 1);
    taxed["tax_rates"] = json!([{
        "id": "txr_1", "object": "tax_rate", "inclusive": true, "percentage": 19.0, "active": true, "livemode": true,
        "created": START,
    }]);
    let items = [discounted, tiered, taxed];
    site.ingest("data", &event("evt_1", 0, "created", "rich", &items, None));
    site.run("run --once --data-dir data");

    let story = site.run("customer cus_rich --data-dir data").out;
    println!("{story}");
    for sum in [
        "si_discounted  price_seats  active  3 × 29.00 × 12/12 − 10 % (SUMMER, forever) = 78.30 usd",
        "si_tiered  price_tiers  active  50.00 (500 in volume tiers) × 12/12 = 50.00 usd",
        "si_taxed  price_yearly  active  1 × 1190.00 × 1/12 × 100/119 without tax = 83.333333 usd",
        "new  0.00 → 211.633333 usd (+211.633333)",
        "MRR at the end: 211.633333 usd",
        "event     customer.subscription.created  evt_1",
    ] {
        assert!(story.contains(sum), "{sum}\n{story}");
    }
    assert_eq!(lines(&story, "  entry  ").len(), 3, "{story}");

    let json: Value = serde_json::from_str(&site.run("customer cus_rich --data-dir data --output json").out).unwrap();
    assert_eq!(json["mrr"]["usd"], "211.633333");
    assert_eq!(json["moments"][0]["time"], "2024-03-01T00:00:00Z");
    assert_eq!(json["moments"][0]["states"][0]["arithmetic"]["worth"], "78.30");
    let under = site.run("customer cus_rich --data-dir data --profile profitwell").out;
    assert!(under.contains("counted by profitwell") && under.contains("− 10 % (SUMMER, forever) = 78.30"), "{under}");
}

#[test]
fn a_story_tells_what_a_late_event_changed_and_a_movement_leads_back_to_its_events() {
    let site = Site::new();
    let seats = price("price_seats", 2_900, "month");
    let quantity = |quantity| [item("si_1", &seats, quantity)];
    site.ingest("data", &event("evt_created", 0, "created", "grown", &quantity(1), None));
    site.ingest("data", &event("evt_third", 20, "updated", "grown", &quantity(3), was("si_1", 2)));
    site.run("run --once --data-dir data");
    let known_at = chrono::Utc::now().to_rfc3339();
    let before = site.run("customer cus_grown --data-dir data").out;
    assert!(before.contains("expansion  29.00 → 87.00 usd (+58.00)"), "{before}");
    site.ingest("data", &event("evt_second", 10, "updated", "grown", &quantity(2), was("si_1", 1)));
    site.run("run --once --data-dir data");

    let story = site.run("customer cus_grown --data-dir data").out;
    println!("{story}");
    let steps = ["new  0.00 → 29.00", "expansion  29.00 → 58.00 usd (+29.00)", "expansion  58.00 → 87.00 usd (+29.00)"];
    let places: Vec<_> =
        steps.iter().map(|step| story.find(step).unwrap_or_else(|| panic!("{step}\n{story}"))).collect();
    assert!(places.is_sorted(), "{story}");
    assert!(story.contains("2 × 29.00 × 12/12 = 58.00 usd"), "{story}");
    let taken_back = lines(&story, "taken back when a late event came");
    assert_eq!(taken_back.len(), 1, "{story}");
    assert!(taken_back[0].contains(": now "), "{story}");
    // The story as it was known before is the one that was told then.
    let mut command = site.command("customer cus_grown --data-dir data --known-at");
    let then = Said::of(command.arg(&known_at).output().unwrap()).out;
    let rest = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(rest(&then), rest(&before));

    let sql = "SELECT movement_id FROM mrr_movements WHERE mrr_after = 87";
    let id = site.rows("data", sql)[0]["movement_id"].as_str().unwrap().to_owned();
    let origin = site.run(&format!("movement {id} --data-dir data")).out;
    println!("{origin}");
    for part in [
        "customer cus_grown at 2024-03-21T00:00:00Z: expansion  58.00 → 87.00 usd (+29.00)  quantity_change",
        "before    si_1  price_seats  active  2 × 29.00 × 12/12 = 58.00 usd  since 2024-03-11T00:00:00Z",
        "after     si_1  price_seats  active  3 × 29.00 × 12/12 = 87.00 usd",
        "event     2024-03-21T00:00:00Z  customer.subscription.updated  evt_third",
    ] {
        assert!(origin.contains(part), "{part}\n{origin}");
    }
    let json: Value =
        serde_json::from_str(&site.run(&format!("movement {id} --data-dir data --output json")).out).unwrap();
    assert_eq!(
        (&json["movement"]["kind"], &json["entries"][0]["entry"]["mrr_delta"]),
        (&json!("expansion"), &json!("29.00"))
    );
    assert_eq!(json["events"][0]["event_id"], "evt_third");

    let unknown = said(&site, "movement nothing --data-dir data");
    assert!(unknown.code == 1 && unknown.err.contains("mrr_movements"), "{}", unknown.err);
    let unknown = said(&site, "customer cus_nobody --data-dir data");
    assert!(unknown.code == 1 && unknown.err.contains("cus_nobody"), "{}", unknown.err);
    let live = said(&site, "customer cus_grown --test-mode --data-dir data");
    assert!(live.code == 1 && live.err.contains("--test-mode"), "{}", live.err);
    let other = said(&site, "customer cus_grown --account acct_other --data-dir data");
    assert!(other.code == 1 && other.err.contains("self"), "{}", other.err);
}

#[test]
fn every_item_of_a_simulated_account_adds_up_to_the_customers_ledger() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 40 --months 6 --seed 51");
    site.run("ingest events.jsonl --data-dir data");
    site.run("run --once --data-dir data");
    let customers =
        site.rows("data", "SELECT customer_id FROM mrr_movements GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 6");
    let mut sums = 0;
    for customer in customers {
        let id = customer["customer_id"].as_str().unwrap();
        let story: Value =
            serde_json::from_str(&site.run(&format!("customer {id} --data-dir data --output json")).out).unwrap();
        // By item the value its state counts for, and what the entries so far add up to.
        let mut counts = std::collections::BTreeMap::<String, i128>::new();
        let mut entries = std::collections::BTreeMap::<String, i128>::new();
        for moment in story["moments"].as_array().unwrap() {
            for state in moment["states"].as_array().unwrap().iter().filter(|s| s["superseded"] == json!(false)) {
                let item = state["subscription_item_id"].as_str().unwrap().to_owned();
                counts.insert(item, super::support::micros(state["arithmetic"]["counts"].as_str().unwrap()));
            }
            for entry in moment["entries"].as_array().unwrap().iter().filter(|e| e["reversed"].is_null()) {
                let item = entry["subscription_item_id"].as_str().unwrap().to_owned();
                *entries.entry(item).or_default() += super::support::micros(entry["mrr_delta"].as_str().unwrap());
            }
            for (item, counts) in &counts {
                let sum = entries.get(item).copied().unwrap_or_default();
                assert_eq!(*counts, sum, "{id} {item} at {}: {story}", moment["time"]);
                sums += 1;
            }
        }
    }
    assert!(sums > 50, "{sums}");
}

//! What redaction promises: nothing personal passes, nothing the readers need is lost, and what is dropped is counted.

use std::sync::LazyLock;

use serde_json::{Value, json};
use tributary::stripe::{
    Admission, AdmissionCounts, DroppedPaths, Redactor, UnknownCounts, ids::AccountId, read_event, types::Object,
};

use crate::stripe_support::{Sample, fixture_events, webhook_events};

/// Fields whose values must never be stored, wherever they are. `name` is personal but on products and plans.
static PERSONAL: LazyLock<Vec<&str>> = LazyLock::new(|| {
    "name email phone line1 line2 city postal_code last4 dynamic_last4 fingerprint exp_month exp_year description \
     metadata receipt_email receipt_url receipt_number hosted_invoice_url invoice_pdf pdf url client_secret \
     customer_email customer_name customer_phone footer memo comment custom_fields evidence ip_address \
     billing_zip value statement_descriptor statement_descriptor_suffix calculated_statement_descriptor \
     failure_message seller_message network_transaction_id account_name verified_name verified_email \
     business_name individual_name shipping customer_shipping idempotency_key message tax_id images"
        .split(' ')
        .collect()
});

static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| Redactor::builtin().unwrap());

fn redact(body: &str, dropped: &mut DroppedPaths) -> String {
    let mut out = Vec::new();
    REDACTOR.redact(body.as_bytes(), &mut out, dropped).unwrap();
    String::from_utf8(out).unwrap()
}

fn samples() -> impl Iterator<Item = Sample> {
    webhook_events().into_iter().chain(fixture_events())
}

/// The scalars under personal fields, as JSON text.
fn personal(value: &Value, inside: bool, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let catalogue = matches!(map.get("object").and_then(Value::as_str), Some("product" | "plan" | "price"));
            for (key, value) in map {
                let exempt = catalogue && key == "name";
                personal(value, inside || (PERSONAL.contains(&key.as_str()) && !exempt), found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| personal(value, inside, found)),
        Value::String(text) if inside && text.len() > 2 => found.push(value.to_string()),
        _ => {}
    }
}

#[test]
fn nothing_personal_of_stripes_own_webhooks_is_stored() {
    let mut looked_for = 0;
    for sample in webhook_events() {
        let event: Value = serde_json::from_str(&sample.body).unwrap();
        let mut found = Vec::new();
        personal(&event, false, &mut found);
        let stored = redact(&sample.body, &mut DroppedPaths::default());
        for secret in &found {
            assert!(!stored.contains(secret.as_str()), "{}: {secret} is stored", sample.name);
        }
        looked_for += found.len();
    }
    eprintln!("{looked_for} personal values looked for");
}

/// Plants `planted` under every personal field of every hash, and in place of those that are there.
fn plant(value: &mut Value, planted: &str) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(|value| plant(value, planted));
            for key in PERSONAL.iter().copied() {
                let planted = if key == "metadata" { json!({ planted: planted }) } else { json!(planted) };
                map.insert(key.to_owned(), planted);
            }
            map.insert(planted.to_owned(), json!(planted));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| plant(value, planted)),
        _ => {}
    }
}

#[test]
fn planted_addresses_and_cards_are_found_nowhere_even_in_previous_attributes() {
    for planted in ["jenny.rosen@example.com", "4000 0000 0000 0002"] {
        let mut counts = DroppedPaths::default();
        // `value` of an alert or a credit grant is an amount, and kept.
        for sample in samples().filter(|sample| !sample.object.starts_with("billing.")) {
            let mut event: Value = serde_json::from_str(&sample.body).unwrap();
            let mut object = event["data"]["object"].take();
            plant(&mut object, planted);
            event["data"] = json!({ "object": object, "previous_attributes": object });
            plant(&mut event["request"], planted);
            let stored = redact(&event.to_string(), &mut counts);
            assert!(!stored.contains(planted), "{}: {stored}", sample.name);
            assert!(!counts.sorted().iter().any(|(path, _)| path.contains(planted)));
        }
    }
}

#[test]
fn the_readers_find_after_redaction_all_they_found_before() {
    let read = |body: &str| {
        let mut unknown = UnknownCounts::default();
        let event = read_event(body.as_bytes(), &AccountId::from("own"), &mut unknown);
        event.map(|event| (event.object, event.before, event.scope, event.id, event.kind, event.created, unknown))
    };
    let mut subscriptions = 0;
    for sample in samples() {
        let mut event: Value = serde_json::from_str(&sample.body).unwrap();
        let stored = redact(&sample.body, &mut DroppedPaths::default());
        assert_eq!(read(&sample.body), read(&stored), "{}", sample.name);
        // And for all that can have changed.
        event["data"]["previous_attributes"] = event["data"]["object"].clone();
        let (whole, stored) =
            (read(&event.to_string()), read(&redact(&event.to_string(), &mut DroppedPaths::default())));
        assert_eq!(whole, stored, "{}", sample.name);
        if let Ok((Object::Subscription(object), Some(before), ..)) = whole {
            assert_eq!(Object::Subscription(object), *before);
            subscriptions += 1;
        }
    }
    eprintln!("{subscriptions} subscriptions with a state before");
}

#[test]
fn redacting_twice_changes_nothing_and_fits_the_contract() {
    let schema: Value = serde_json::from_str(include_str!("../../schemas/event_topic.schema.json")).unwrap();
    let [event, rejection] = ["event", "rejection"].map(|name| &schema["$defs"][name]);
    let fits = |record: &str, schema: &Value, name: &str| {
        let record: Value = serde_json::from_str(record).unwrap();
        let (record, properties) = (record.as_object().unwrap(), schema["properties"].as_object().unwrap());
        for key in record.keys() {
            assert!(properties.contains_key(key), "{name}: {key} is not in the contract");
        }
        for key in schema["required"].as_array().unwrap() {
            assert!(record.contains_key(key.as_str().unwrap()), "{name} has no {key}");
        }
    };
    for sample in samples() {
        let once = redact(&sample.body, &mut DroppedPaths::default());
        let mut dropped = DroppedPaths::default();
        let twice = redact(&once, &mut dropped);
        assert_eq!(once, twice, "{}", sample.name);
        fits(&once, event, &sample.name);
    }
    let admission = Admission::new(Redactor::builtin().unwrap(), AccountId::from("own"));
    let record = admission.admit(b"{", &mut AdmissionCounts::default());
    fits(std::str::from_utf8(&record.body).unwrap(), rejection, "rejection");
    let reasons = rejection["properties"]["reason"]["enum"].as_array().unwrap();
    for body in ["{", "[]", r#"{"object":"v2.core.event"}"#, r#"{"object":"event"}"#] {
        let record = admission.admit(body.as_bytes(), &mut AdmissionCounts::default());
        let record: Value = serde_json::from_slice(&record.body).unwrap();
        assert!(reasons.contains(&record["reason"]), "{record}");
    }
}

#[test]
fn what_is_dropped_is_counted_by_path_and_data_never_is_a_path() {
    let body = json!({
        "id": "evt_1", "object": "event", "created": 1, "livemode": true, "type": "invoice.paid",
        "pending_webhooks": 2, "request": { "id": "req_1", "idempotency_key": "jenny" },
        "data": { "object": {
            "object": "invoice", "id": "in_1", "customer": { "id": "cus_1", "email": "jenny@example.com" },
            "Jenny Rosen": 1, "metadata": { "jenny": 1 },
            "lines": { "data": [{ "id": "il_1", "description": "x" }, { "id": "il_2", "description": "y" }] },
        } },
    });
    let mut dropped = DroppedPaths::default();
    let stored = redact(&body.to_string(), &mut dropped);
    assert_eq!(
        dropped.sorted(),
        [
            ("event.pending_webhooks", 1),
            ("event.request.idempotency_key", 1),
            ("invoice.?", 1),
            ("invoice.customer{}", 1),
            ("invoice.lines.data[].description", 2),
            ("invoice.metadata", 1),
        ]
    );
    let object =
        r#"{"object":"invoice","id":"in_1","customer":{"id":"cus_1"},"lines":{"data":[{"id":"il_1"},{"id":"il_2"}]}}"#;
    assert_eq!(
        serde_json::from_str::<Value>(&stored).unwrap()["data"]["object"],
        serde_json::from_str::<Value>(object).unwrap()
    );
}

#[test]
fn numbers_are_stored_byte_for_byte() {
    let body = r#"{"id":"evt_1","object":"event","created":1,"livemode":true,"type":"a.b","data":{"object":
        {"object":"coupon","id":"c","percent_off":33.300000000000000001,"amount_off":12345678901234567890}}}"#;
    let stored = redact(body, &mut DroppedPaths::default());
    assert!(stored.contains(r#""percent_off":33.300000000000000001,"amount_off":12345678901234567890}"#), "{stored}");
}

#[test]
fn a_wrong_policy_is_refused_with_its_reason() {
    let refused = |yaml: &str| Redactor::from_yaml(yaml).unwrap_err().to_string();
    let policy = |objects: &str| format!("version: 1\nevent: {{}}\nother: {{}}\nshapes: {{}}\nobjects:\n{objects}");
    assert!(refused("version: 2\nevent: {}\nother: {}\nshapes: {}\nobjects: {}").contains("version 2"));
    assert!(refused(&policy("  a: { keep: [id, id] }")).contains("named twice"));
    assert!(refused(&policy("  a: { keep: [b, b.c] }")).contains("both whole and in part"));
    assert!(refused(&policy("  a: { like: { b: nothing } }")).contains("like `nothing`"));
    assert!(refused(&policy("  a: { keep: [\"items[].id\"] }")).contains("dotted paths"));
    assert!(refused(&policy("  a: { kep: [id] }")).contains("kep"));
}

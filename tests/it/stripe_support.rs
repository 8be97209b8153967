//! Stripe's own bodies as test material: webhook bodies, and the example objects of seven API versions as events.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use crate::needs;

/// An event nobody here wrote.
pub(crate) struct Sample {
    /// The file, and the object in it.
    pub(crate) name: String,
    /// The object's type.
    pub(crate) object: String,
    /// The API version it is rendered in.
    pub(crate) version: String,
    /// The event.
    pub(crate) body: String,
}

fn files(folder: &str) -> Vec<(String, String)> {
    let Some(folder) = needs::shared_data(folder) else { return Vec::new() };
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Real webhook bodies, byte for byte.
pub(crate) fn webhook_events() -> Vec<Sample> {
    files("webhook-events")
        .into_iter()
        .map(|(name, body)| {
            let event: Value = serde_json::from_str(&body).unwrap();
            let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
            Sample {
                object: text(&event["data"]["object"]["object"]),
                version: text(&event["api_version"]),
                name,
                body,
            }
        })
        .collect()
}

/// The example objects of all versions, as Stripe publishes them.
pub(crate) fn fixtures() -> BTreeMap<String, Value> {
    files("openapi-fixtures")
        .into_iter()
        .map(|(version, text)| (version, serde_json::from_str(&text).unwrap()))
        .collect()
}

/// The example objects of all versions, each as the object of an event.
pub(crate) fn fixture_events() -> Vec<Sample> {
    let mut samples = Vec::new();
    for (version, fixtures) in fixtures() {
        for (name, object) in fixtures["resources"].as_object().unwrap() {
            let event = json!({
                "id": format!("evt_{name}"), "object": "event", "api_version": version, "created": 1_700_000_000,
                "livemode": false, "type": format!("{name}.updated"), "data": { "object": object },
            });
            samples.push(Sample {
                name: format!("{version}/{name}"),
                object: object["object"].as_str().unwrap_or("none").to_owned(),
                version: version.clone(),
                body: event.to_string(),
            });
        }
    }
    samples
}

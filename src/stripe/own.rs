//! Our own records in Stripe's envelope: what the API gave at some time, what a file says, rates of exchange.
//!
//! They enter the log by the same door as events, so that they are redacted, archived and read alike, and a rebuild
//! finds them again. Their ids are hashes of what they say: the same thing said twice is one event.

pub mod file;

use std::fmt::Write as _;

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{Error, envelope::Head, ids::AccountId, types::FxDay};
use crate::{money::exact_text, time::EventTime};

/// The type of a record that holds an object as Stripe's API gave it; its `created` is the as-of time.
pub const SNAPSHOT: &str = "tributary.snapshot";
/// The type of a record that holds an object of a catalogue file, in the shape of Stripe's API.
pub const FILE: &str = "tributary.file";
/// The type of a record with the rates of exchange of one day, and the name of its object.
pub const FX_RATES: &str = "tributary.fx_rates";

/// Puts objects into Stripe's envelope.
#[derive(Clone, Debug)]
pub struct Wrapping {
    /// [`SNAPSHOT`], [`FILE`] or [`FX_RATES`].
    pub kind: &'static str,
    /// As of when what the objects say is so; whole seconds.
    pub as_of: EventTime,
    /// Whose the objects are; `None` is the account of the merchant.
    pub account: Option<AccountId>,
    /// The mode of an object that does not say.
    pub livemode: bool,
}

impl Wrapping {
    /// The event around one object.
    ///
    /// # Errors
    /// [`Error::NotJson`] and [`Error::NotAnEvent`] for what is no object of Stripe's; [`Error::AnEvent`] for an event.
    pub fn wrap(&self, object: &[u8]) -> Result<Vec<u8>, Error> {
        /// What an object says of itself.
        #[derive(serde::Deserialize)]
        struct Mode {
            #[serde(default)]
            livemode: Option<bool>,
        }
        let raw: &RawValue = serde_json::from_slice(object).map_err(|error| Error::json(&error))?;
        if !raw.get().starts_with('{') {
            return Err(Error::NotAnEvent);
        }
        match Head::parse(raw)?.object.text() {
            None => return Err(Error::NotAnEvent),
            Some("event" | "v2.core.event") => return Err(Error::AnEvent),
            Some(_) => {}
        }
        let said = serde_json::from_str::<Mode>(raw.get()).ok().and_then(|mode| mode.livemode);
        let livemode = said.unwrap_or(self.livemode);
        let account = self.account.as_ref().map_or("", AccountId::as_str);
        let created = self.as_of.seconds();
        let id = self.id(account, livemode, raw.get());
        let mut out = format!(
            r#"{{"id":"{id}","object":"event","created":{created},"livemode":{livemode},"type":"{}""#,
            self.kind
        );
        if !account.is_empty() {
            let account = serde_json::Value::from(account);
            let _ = write!(out, r#","account":{account}"#);
        }
        let _ = write!(out, r#","data":{{"object":{}}}}}"#, raw.get());
        Ok(out.into_bytes())
    }

    /// A hash of all that the record says.
    fn id(&self, account: &str, livemode: bool, object: &str) -> String {
        let mut hash = Sha256::new();
        for part in [self.kind, account, if livemode { "live" } else { "test" }, object] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(self.as_of.seconds().to_le_bytes());
        format!("evt_own_{}", hex::encode(&hash.finalize()[..12]))
    }
}

/// The object of a record with the rates of one day, as JSON.
#[must_use]
pub fn rates_object(day: &FxDay) -> String {
    let FxDay { day, base, source, rates } = day;
    let rates: serde_json::Map<String, serde_json::Value> =
        rates.iter().map(|(currency, rate)| (currency.to_string(), exact_text(rate).into())).collect();
    serde_json::json!({
        // Also the key of the record: what is said of one day stays in order.
        "id": format!("{source}:{day}"),
        "object": FX_RATES,
        "day": day.to_string(),
        "base": base.as_str(),
        "source": source,
        "rates": rates,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::{
        Admission, AdmissionCounts, Redactor, UnknownCounts,
        admission::LogRecord,
        read_record,
        types::{Event, Object, Provenance},
    };

    fn wrapping(kind: &'static str) -> Wrapping {
        Wrapping { kind, as_of: EventTime::from_seconds(1_700_000_000), account: None, livemode: true }
    }

    /// Through the door and out of the log again.
    fn admitted(wrapping: &Wrapping, object: &str) -> Event {
        let admission = Admission::new(Redactor::builtin().unwrap(), AccountId::from("own"));
        let body = wrapping.wrap(object.as_bytes()).unwrap();
        let record = admission.admit(&body, &mut AdmissionCounts::default());
        match read_record(&record.body, &AccountId::from("own"), &mut UnknownCounts::default()).unwrap() {
            LogRecord::Event(event) => *event,
            LogRecord::Rejection { reason, .. } => panic!("rejected: {reason}"),
        }
    }

    #[test]
    fn a_snapshot_passes_the_door_like_an_event_and_says_what_it_is() {
        let object = r#"{"object":"price","id":"price_1","livemode":false,"currency":"usd","tiers_mode":"volume",
            "tiers":[{"up_to":null,"unit_amount_decimal":"0.0125"}],"recurring":{"interval":"month"}}"#;
        let event = admitted(&wrapping(SNAPSHOT), object);
        assert_eq!(event.provenance(), Provenance::Snapshot);
        assert_eq!(event.created.seconds(), 1_700_000_000);
        assert!(!event.scope.livemode, "the object knows its mode");
        assert_eq!(event.scope.account.as_str(), "own");
        let Object::Price(price) = event.object else { panic!("not a price") };
        assert_eq!(price.tiers.unwrap()[0].unit_amount.to_string(), "1/80");
        let other = Wrapping { account: Some("acct_\"2".into()), ..wrapping(FILE) };
        let event = admitted(&other, r#"{"object":"coupon","id":"c","percent_off":10}"#);
        assert_eq!((event.scope.account.as_str(), event.scope.livemode), ("acct_\"2", true));
        assert_eq!(event.provenance(), Provenance::File);
    }

    #[test]
    fn the_same_thing_said_twice_is_one_event_and_anything_else_is_another() {
        let object = br#"{"object":"coupon","id":"c"}"#;
        let id = |wrapping: &Wrapping, object: &[u8]| {
            let body: serde_json::Value = serde_json::from_slice(&wrapping.wrap(object).unwrap()).unwrap();
            body["id"].as_str().unwrap().to_owned()
        };
        let first = id(&wrapping(SNAPSHOT), object);
        assert_eq!(first, id(&wrapping(SNAPSHOT), object));
        for other in [
            wrapping(FILE),
            Wrapping { as_of: EventTime::from_seconds(5), ..wrapping(SNAPSHOT) },
            Wrapping { livemode: false, ..wrapping(SNAPSHOT) },
            Wrapping { account: Some("acct_2".into()), ..wrapping(SNAPSHOT) },
        ] {
            assert_ne!(first, id(&other, object), "{other:?}");
        }
        assert_ne!(first, id(&wrapping(SNAPSHOT), br#"{"object":"coupon","id":"d"}"#));
    }

    #[test]
    fn what_is_no_object_is_told_apart() {
        let reason = |body: &[u8]| wrapping(SNAPSHOT).wrap(body).unwrap_err().reason();
        assert_eq!(reason(b"{\"object\":"), "not_json");
        assert_eq!(reason(b"[1]"), "not_an_event");
        assert_eq!(reason(br#"{"id":"x"}"#), "not_an_event");
        assert_eq!(reason(br#"{"object":"event","id":"evt_1"}"#), "an_event");
    }

    #[test]
    fn rates_are_read_as_they_were_written() {
        let day = FxDay {
            day: "2026-03-06".parse().unwrap(),
            base: "eur".parse().unwrap(),
            source: "ecb".to_owned(),
            rates: [("usd", "1.0837"), ("jpy", "160")]
                .map(|(code, rate)| (code.parse().unwrap(), crate::money::parse_decimal(rate).unwrap()))
                .into(),
        };
        let event = admitted(&wrapping(FX_RATES), &rates_object(&day));
        assert_eq!(event.object, Object::FxRates(Box::new(day)));
        assert!(!event.moves_clock());
    }
}

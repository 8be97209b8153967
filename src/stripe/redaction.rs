//! Redaction: what of an event may be stored. Deny by default: only paths that `schemas/redaction.yml` names are
//! kept, inside `previous_attributes` too; everything else is dropped and counted by path.
//!
//! One pass over the JSON writes the kept parts straight to the output, numbers byte for byte. The output is compact
//! JSON; redacting it again changes nothing. Free text that may be kept is scanned for card numbers and e-mail
//! addresses. The readers must find in the output all they find in the input: a property test says so.

mod policy;
mod scan;

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Error,
    counts::DroppedPaths,
    envelope::{self, Envelope, Head},
    read::lenient,
};
use policy::{Policy, Rule, Table};

/// Put in the place of free text that held a card number or an e-mail address.
pub const REDACTED: &str = "[redacted]";

/// The longest key that is repeated in a count: Stripe's have 50 bytes at most.
const MAX_KEY_BYTES: usize = 64;

/// A compiled redaction policy. Immutable and cheap to share.
#[derive(Clone, Debug)]
pub struct Redactor {
    policy: Policy,
}

impl Redactor {
    /// The policy that ships with Tributary, `schemas/redaction.yml`.
    ///
    /// # Errors
    /// None with the file as shipped: a test compiles it.
    pub fn builtin() -> Result<Self, Error> {
        Self::from_yaml(include_str!("../../schemas/redaction.yml"))
    }

    /// Compiles a policy.
    ///
    /// # Errors
    /// [`Error::Policy`] says what is wrong with it.
    pub fn from_yaml(yaml: &str) -> Result<Self, Error> {
        Ok(Self { policy: Policy::from_yaml(yaml)? })
    }

    /// Appends the redacted event in `body` to `out` and counts what it drops. On an error `out` is as before.
    ///
    /// # Errors
    /// As [`Envelope::parse`].
    pub fn redact(&self, body: &[u8], out: &mut Vec<u8>, dropped: &mut DroppedPaths) -> Result<(), Error> {
        let body = envelope::text(body)?;
        let envelope = Envelope::parse_str(body)?;
        let head = Head::parse(envelope.object)?;
        self.redact_as(body, head.object.text(), out, dropped)
    }

    /// As [`Redactor::redact`] for an event whose object is known to be an `object`.
    pub(super) fn redact_as(
        &self,
        body: &str,
        object: Option<&str>,
        out: &mut Vec<u8>,
        dropped: &mut DroppedPaths,
    ) -> Result<(), Error> {
        let known = object.and_then(|name| Some((name, self.policy.object(name)?)));
        let (object_name, object) = known.unwrap_or(("other", self.policy.other()));
        let start = out.len();
        let mut walk =
            Walk { policy: &self.policy, object, object_name, out, dropped, path: String::with_capacity(128) };
        walk.path.push_str("event");
        let mut deserializer = serde_json::Deserializer::from_str(body);
        let result = Value { walk: &mut walk, rule: self.policy.event() }.deserialize(&mut deserializer);
        result.and_then(|()| deserializer.end()).map_err(|error| {
            out.truncate(start);
            Error::json(&error)
        })
    }
}

/// Where the walk is, and what it writes to.
struct Walk<'w> {
    policy: &'w Policy,
    /// The rule of the event's object, and its name in paths.
    object: Rule,
    object_name: &'w str,
    out: &'w mut Vec<u8>,
    dropped: &'w mut DroppedPaths,
    /// The path so far, for counting.
    path: String,
}

impl Walk<'_> {
    /// Counts a dropped field of the object at the path.
    fn drop_field(&mut self, key: &str) {
        let length = self.path.len();
        // Keys of Stripe's are plain; anything else is data, and not ours to repeat in a metric.
        let plain = key.len() <= MAX_KEY_BYTES && key.bytes().all(policy::is_plain);
        self.path.push('.');
        self.path.push_str(if plain { key } else { "?" });
        self.dropped.count(&self.path);
        self.path.truncate(length);
    }

    /// Counts the value at the path as dropped; `suffix` says what of it.
    fn drop_value(&mut self, suffix: &str) {
        let length = self.path.len();
        self.path.push_str(suffix);
        self.dropped.count(&self.path);
        self.path.truncate(length);
    }

    /// Counts the value at the path as dropped and leaves null in its place, which the readers take for absent.
    fn nothing(&mut self, suffix: &str) {
        self.drop_value(suffix);
        self.out.extend_from_slice(b"null");
    }

    /// Copies what a field without fields of its own may hold.
    fn leaf(&mut self, json: &str, rule: Rule) {
        match json.as_bytes().first() {
            Some(b'{') => self.reference(json),
            Some(b'[') => self.array(json, rule),
            Some(b'"') if rule == Rule::Text => self.text(json),
            _ => self.out.extend_from_slice(json.as_bytes()),
        }
    }

    /// An expanded object in the place of its id: cut down to that.
    fn reference(&mut self, json: &str) {
        match serde_json::from_str(json) {
            Ok(Reference { id: Some(id) }) if id.get().starts_with('"') => {
                self.drop_value("{}");
                self.out.extend_from_slice(b"{\"id\":");
                self.out.extend_from_slice(id.get().as_bytes());
                self.out.push(b'}');
            }
            _ => self.nothing("{}"),
        }
    }

    /// An array of scalars or expanded objects; arrays in it are dropped.
    fn array(&mut self, json: &str, rule: Rule) {
        let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(json) else {
            return self.nothing("[]");
        };
        self.out.push(b'[');
        for (at, element) in elements.into_iter().map(RawValue::get).enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            if element.starts_with('[') {
                self.nothing("[][]");
            } else {
                self.leaf(element, rule);
            }
        }
        self.out.push(b']');
    }

    /// Free text, unless it holds a card number or an e-mail address.
    fn text(&mut self, json: &str) {
        match serde_json::from_str::<lenient::Key<'_>>(json) {
            Ok(text) if !scan::is_personal(&text.0) => self.out.extend_from_slice(json.as_bytes()),
            Ok(_) => {
                self.drop_value("=personal");
                self.out.push(b'"');
                self.out.extend_from_slice(REDACTED.as_bytes());
                self.out.push(b'"');
            }
            Err(_) => self.nothing(""),
        }
    }
}

/// An expanded object, as far as it is needed in the place of its id.
#[derive(Deserialize)]
struct Reference<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

/// Copies one value as its rule allows.
struct Value<'a, 'w> {
    walk: &'a mut Walk<'w>,
    rule: Rule,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.rule {
            Rule::Scalar | Rule::Text => {
                self.walk.leaf(<&RawValue>::deserialize(deserializer)?.get(), self.rule);
                Ok(())
            }
            Rule::Fields { table, or_id } => deserializer.deserialize_any(Fields { walk: self.walk, table, or_id }),
            Rule::Object => {
                let path = std::mem::replace(&mut self.walk.path, self.walk.object_name.to_owned());
                let rule = self.walk.object;
                let result = Value { walk: self.walk, rule }.deserialize(deserializer);
                self.walk.path = path;
                result
            }
        }
    }
}

/// Copies an object, or each object of an array, field by field. A scalar in its place is dropped, unless it may be
/// an id.
struct Fields<'a, 'w> {
    walk: &'a mut Walk<'w>,
    table: usize,
    or_id: bool,
}

impl<'de> Visitor<'de> for Fields<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.walk.out.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        if self.or_id {
            return serde_json::to_writer(&mut *self.walk.out, value).map_err(E::custom);
        }
        self.walk.nothing("");
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.walk.nothing("");
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.walk.nothing("");
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.walk.nothing("");
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.walk.nothing("");
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { walk, table, or_id } = self;
        let path = walk.path.len();
        walk.path.push_str("[]");
        walk.out.push(b'[');
        let mut comma = false;
        while seq.next_element_seed(Element { walk, table, or_id, comma })?.is_some() {
            comma = true;
        }
        walk.out.push(b']');
        walk.path.truncate(path);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { walk, table, .. } = self;
        let table = walk.policy.table(table);
        let path = walk.path.len();
        walk.out.push(b'{');
        let mut comma = false;
        while let Some(rule) = map.next_key_seed(Key { walk, table, comma })? {
            let Some(rule) = rule else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            map.next_value_seed(Value { walk, rule })?;
            walk.path.truncate(path);
            comma = true;
        }
        walk.out.push(b'}');
        Ok(())
    }
}

/// An element of an array of objects, with the comma before it.
struct Element<'a, 'w> {
    walk: &'a mut Walk<'w>,
    table: usize,
    or_id: bool,
    comma: bool,
}

impl<'de> DeserializeSeed<'de> for Element<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.comma {
            self.walk.out.push(b',');
        }
        deserializer.deserialize_any(Fields { walk: self.walk, table: self.table, or_id: self.or_id })
    }
}

/// A key: written if its value may be kept, counted if not. Yields the rule of the value.
struct Key<'a, 'w> {
    walk: &'a mut Walk<'w>,
    table: &'a Table,
    comma: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = Option<Rule>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Rule>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = Option<Rule>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<Rule>, E> {
        let is_currency = || key.len() == 3 && key.bytes().all(|byte| byte.is_ascii_lowercase());
        let (rule, shown) = match (self.table.field(key), self.table.currencies()) {
            (Some(rule), _) => (rule, key),
            (None, Some(rule)) if is_currency() => (rule, "*"),
            _ => {
                self.walk.drop_field(key);
                return Ok(None);
            }
        };
        if self.comma {
            self.walk.out.push(b',');
        }
        self.walk.out.push(b'"');
        self.walk.out.extend_from_slice(key.as_bytes());
        self.walk.out.extend_from_slice(b"\":");
        self.walk.path.push('.');
        self.walk.path.push_str(shown);
        Ok(Some(rule))
    }
}

//! Undoes `previous_attributes`: the object as it was before, as JSON text. Working on text keeps every number
//! exactly as Stripe wrote it.

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::fmt;

use super::lenient::Key;
use crate::stripe::Error;

/// Hashes in hashes that are merged; deeper ones are replaced whole. Stripe nests five levels at most, and the
/// bound keeps hostile input from exhausting the stack.
const MAX_DEPTH: usize = 32;

/// The members of an object, their values unread.
struct Members<'a>(Vec<(Key<'a>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

/// `object` before the changes whose old values are `previous`: hashes are merged, null means that there was
/// nothing, arrays and scalars are replaced.
pub(super) fn undo(object: &RawValue, previous: &RawValue) -> Result<String, Error> {
    let mut out = String::with_capacity(object.get().len() + previous.get().len());
    merge(object.get(), previous.get(), 0, &mut out).map_err(|error| Error::json(&error))?;
    Ok(out)
}

fn merge(object: &str, previous: &str, depth: usize, out: &mut String) -> Result<(), serde_json::Error> {
    let now: Members<'_> = serde_json::from_str(object)?;
    let mut then: Members<'_> = serde_json::from_str(previous)?;
    out.push('{');
    for (key, value) in &now.0 {
        let Some(at) = then.0.iter().position(|(old, _)| old.0 == key.0) else {
            member(key, value.get(), out)?;
            continue;
        };
        let (_, old) = then.0.swap_remove(at);
        let both_hashes = value.get().starts_with('{') && old.get().starts_with('{');
        if both_hashes && depth < MAX_DEPTH {
            member(key, "", out)?;
            merge(value.get(), old.get(), depth + 1, out)?;
        } else if old.get() != "null" {
            member(key, old.get(), out)?;
        }
    }
    for (key, old) in &then.0 {
        if old.get() != "null" {
            member(key, old.get(), out)?;
        }
    }
    out.push('}');
    Ok(())
}

/// Writes `"key":value`, after a comma where one is due.
fn member(key: &Key<'_>, value: &str, out: &mut String) -> Result<(), serde_json::Error> {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push_str(&serde_json::to_string(&key.0)?);
    out.push(':');
    out.push_str(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(object: &str, previous: &str) -> String {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        undo(&raw(object), &raw(previous)).unwrap()
    }

    #[test]
    fn hashes_merge_arrays_are_replaced_and_null_was_absent() {
        assert_eq!(
            undone(
                r#"{"a":1,"h":{"x":1,"y":{"z":2},"new":3},"list":[1,2,{"k":1}],"gone":null,"n":0.10}"#,
                r#"{"h":{"y":{"z":1},"new":null},"list":[9],"gone":{"back":true},"dropped":1.50}"#
            ),
            r#"{"a":1,"h":{"x":1,"y":{"z":1}},"list":[9],"gone":{"back":true},"n":0.10,"dropped":1.50}"#
        );
        assert_eq!(undone(r#"{"a":{}}"#, r#"{"a":{"b":null}}"#), r#"{"a":{}}"#);
        assert_eq!(undone("{}", "{}"), "{}");
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |leaf: &str| format!("{}{leaf}{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
        assert_eq!(undone(&deep("1"), &deep("2")), deep("2"));
    }
}

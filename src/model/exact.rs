//! Reads floats from JSON to the last bit, for `#[serde(with = "exact")]`.
//!
//! serde_json writes the shortest text that identifies a float but, by default, reads it only to within one unit
//! in the last place. A loaded model must score bit for bit as the trained one did, so the number's text is parsed
//! by the standard library, which is exact.

use serde::{Deserialize, Deserializer, Serializer, de::Error};
use serde_json::value::RawValue;

pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(*value)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    let value = raw.get().parse::<f64>().map_err(|_| D::Error::custom("expected a number"))?;
    if value.is_finite() { Ok(value) } else { Err(D::Error::custom("expected a finite number")) }
}

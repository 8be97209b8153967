//! Building blocks of the raw structs that serde derives for the readers: each accepts any JSON value in its
//! place, so that one odd field never loses an event. What they cannot use they read as absent.

use std::{borrow::Cow, fmt, marker::PhantomData};

use num_bigint::BigInt;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use crate::{
    money::{Currency, Rational, parse_decimal},
    time::EventTime,
};

/// The largest exponent of ten accepted in a JSON number; Stripe writes none at all.
const MAX_EXPONENT: i32 = 64;

/// Visits of values that are of no use here: drained, and read as the default.
macro_rules! absent {
    ($($visit:ident)*) => {$(absent!(@ $visit);)*};
    (@ scalars) => {
        absent!(@ numbers);
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok(Self::Value::default()) }
    };
    (@ numbers) => {
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok(Self::Value::default()) }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok(Self::Value::default()) }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok(Self::Value::default()) }
    };
    (@ text) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok(Self::Value::default()) }
    };
    (@ null) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok(Self::Value::default()) }
    };
    (@ seq) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
    (@ map) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
    (@ expecting) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("any JSON value") }
    };
}

/// A scalar, or the `id` of an expanded object.
#[derive(Clone, Debug, Default)]
pub(crate) enum Scalar<'a> {
    /// Null, missing, or of no use.
    #[default]
    Absent,
    /// `true` or `false`.
    Bool(bool),
    /// An integer within `i64`.
    Integer(i64),
    /// Text.
    Text(Cow<'a, str>),
}

impl<'a> Scalar<'a> {
    /// The text, if it is text.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text, if it is text.
    pub(crate) fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text as an owned string.
    pub(crate) fn string(self) -> Option<String> {
        self.into_text().map(Cow::into_owned)
    }

    /// An identifier: text that is not empty.
    pub(crate) fn id<T: for<'b> From<&'b str>>(&self) -> Option<T> {
        self.text().filter(|text| !text.is_empty()).map(T::from)
    }

    /// The boolean, if it is one.
    pub(crate) fn bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// The instant, from whole seconds since 1970.
    pub(crate) fn time(&self) -> Option<EventTime> {
        self.integer().map(EventTime::from_seconds)
    }

    /// The currency, if the text is one.
    pub(crate) fn currency(&self) -> Option<Currency> {
        self.text().and_then(|text| text.parse().ok())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor<'a>(PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for ScalarVisitor<'a> {
            type Value = Scalar<'a>;

            absent! { expecting null seq }

            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Integer(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(value).map_or(Scalar::Absent, Scalar::Integer))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Absent)
            }

            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Borrowed(value)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Owned(value.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut id = Scalar::Absent;
                while let Some(key) = map.next_key::<Key<'de>>()? {
                    if key.0 == "id" {
                        let text = map.next_value::<Key<'de>>()?.0;
                        id = if text.is_empty() { Scalar::Absent } else { Scalar::Text(text) };
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(id)
            }
        }

        deserializer.deserialize_any(ScalarVisitor(PhantomData))
    }
}

/// Text, borrowed where possible; anything else reads as empty text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Key<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor<'a>(PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for KeyVisitor<'a> {
            type Value = Key<'a>;

            absent! { expecting null scalars seq map }

            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(value)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(value.to_owned())))
            }
        }

        deserializer.deserialize_any(KeyVisitor(PhantomData))
    }
}

/// A number kept as it is written, in a JSON string or as a JSON number.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Decimal<'a>(#[serde(borrow)] Option<&'a RawValue>);

impl Decimal<'_> {
    /// The exact value, if it is a number.
    pub(crate) fn rational(self) -> Option<Rational> {
        let text = self.0?.get();
        let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        if let Ok(integer) = text.parse::<i64>() {
            return Some(Rational::from_integer(integer.into()));
        }
        let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else {
            return parse_decimal(text).ok();
        };
        let exponent: i32 = exponent.parse().ok().filter(|exponent: &i32| exponent.abs() <= MAX_EXPONENT)?;
        let scale = Rational::from_integer(BigInt::from(10)).pow(exponent);
        parse_decimal(mantissa).ok().map(|mantissa| mantissa * scale)
    }
}

/// An object, if it is one.
#[derive(Clone, Debug)]
pub(crate) struct Maybe<T>(pub(crate) Option<T>);

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MaybeVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for MaybeVisitor<T> {
            type Value = Maybe<T>;

            absent! { expecting null scalars text seq }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|value| Maybe(Some(value)))
            }
        }

        deserializer.deserialize_any(MaybeVisitor(PhantomData))
    }
}

/// An identifier, or the whole object in its place.
#[derive(Clone, Debug, Default)]
pub(crate) enum Ref<'a, T> {
    /// Null, missing, or of no use.
    #[default]
    Absent,
    /// An identifier.
    Id(Cow<'a, str>),
    /// The object.
    Full(Box<T>),
}

impl<'de: 'a, 'a, T: Deserialize<'de>> Deserialize<'de> for Ref<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RefVisitor<'a, T>(PhantomData<(&'a (), T)>);

        impl<'de: 'a, 'a, T: Deserialize<'de>> Visitor<'de> for RefVisitor<'a, T> {
            type Value = Ref<'a, T>;

            absent! { expecting null scalars seq }

            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(if value.is_empty() { Ref::Absent } else { Ref::Id(Cow::Borrowed(value)) })
            }

            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(if value.is_empty() { Ref::Absent } else { Ref::Id(Cow::Owned(value.to_owned())) })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|value| Ref::Full(Box::new(value)))
            }
        }

        deserializer.deserialize_any(RefVisitor(PhantomData))
    }
}

/// An array, if it is one.
#[derive(Clone, Debug)]
pub(crate) struct Many<T>(pub(crate) Vec<T>);

impl<T> Default for Many<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ManyVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ManyVisitor<T> {
            type Value = Many<T>;

            absent! { expecting null scalars text map }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(Many(values))
            }
        }

        deserializer.deserialize_any(ManyVisitor(PhantomData))
    }
}

/// An array, or nothing at all: where it matters whether a body has it.
#[derive(Clone, Debug)]
pub(crate) struct Listed<T>(pub(crate) Option<Vec<T>>);

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Listed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListedVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListedVisitor<T> {
            type Value = Listed<T>;

            absent! { expecting null scalars text map }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(Listed(Some(values)))
            }
        }

        deserializer.deserialize_any(ListedVisitor(PhantomData))
    }
}

/// An object whose keys are data, such as `currency_options`.
#[derive(Clone, Debug)]
pub(crate) struct Pairs<'a, T>(pub(crate) Vec<(Cow<'a, str>, T)>);

impl<T> Default for Pairs<'_, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de: 'a, 'a, T: Deserialize<'de>> Deserialize<'de> for Pairs<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<'a, T>(PhantomData<(&'a (), T)>);

        impl<'de: 'a, 'a, T: Deserialize<'de>> Visitor<'de> for PairsVisitor<'a, T> {
            type Value = Pairs<'a, T>;

            absent! { expecting null scalars text seq }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(key) = map.next_key::<Key<'de>>()? {
                    pairs.push((key.0, map.next_value()?));
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_any(PairsVisitor(PhantomData))
    }
}

/// One of Stripe's embedded lists.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
pub(crate) struct List<T> {
    #[serde(default)]
    pub(crate) data: Many<T>,
    #[serde(default)]
    has_more: Truth,
}

impl<T> List<T> {
    /// Whether Stripe has more entries than it embedded.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more.0
    }
}

/// `true`, or anything else.
#[derive(Clone, Copy, Debug, Default)]
struct Truth(bool);

impl<'de> Deserialize<'de> for Truth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Scalar::deserialize(deserializer).map(|scalar| Self(scalar.bool() == Some(true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(json: &str) -> Option<String> {
        serde_json::from_str::<Decimal<'_>>(json).unwrap().rational().map(|value| value.to_string())
    }

    #[test]
    fn decimals_are_exact_however_they_are_written() {
        for (json, exact) in [
            ("1999", "1999"),
            (r#""0.000000000001""#, "1/1000000000000"),
            ("0.1", "1/10"),
            ("33.333333333333333333", "33333333333333333333/1000000000000000000"),
            ("1e3", "1000"),
            ("25E-1", "5/2"),
            ("-0.5", "-1/2"),
        ] {
            assert_eq!(decimal(json).as_deref(), Some(exact), "{json}");
        }
        for odd in ["null", "true", "{}", "[1]", r#""twelve""#, r#""""#, "1e999999"] {
            assert_eq!(decimal(odd), None, "{odd}");
        }
    }

    #[test]
    fn any_value_fits_any_place() {
        for json in
            ["null", "true", "-1", "18446744073709551615", "1.5", r#""x\n""#, "[[{}]]", r#"{"id":{"a":[1]},"b":2}"#]
        {
            serde_json::from_str::<Scalar<'_>>(json).unwrap();
            serde_json::from_str::<Key<'_>>(json).unwrap();
            serde_json::from_str::<Decimal<'_>>(json).unwrap();
            serde_json::from_str::<Maybe<Pairs<'_, Decimal<'_>>>>(json).unwrap();
            serde_json::from_str::<Ref<'_, Pairs<'_, Decimal<'_>>>>(json).unwrap();
            serde_json::from_str::<Many<Scalar<'_>>>(json).unwrap();
            serde_json::from_str::<Listed<Scalar<'_>>>(json).unwrap();
            serde_json::from_str::<Pairs<'_, Scalar<'_>>>(json).unwrap();
            serde_json::from_str::<Maybe<List<Scalar<'_>>>>(json).unwrap();
        }
    }

    #[test]
    fn an_expanded_object_reads_as_its_id() {
        let scalar: Scalar<'_> = serde_json::from_str(r#"{"object":"customer","id":"cus_1","name":"x"}"#).unwrap();
        assert_eq!(scalar.text(), Some("cus_1"));
    }
}

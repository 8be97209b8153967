//! Any of Stripe's objects, read by the one reader that its `object` field names.
//!
//! Stripe writes that field among the first, so an object is read where it lies in the body, in the same pass: the few
//! fields before it are kept unread and given to the reader again.

use std::{borrow::Cow, fmt, vec};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error as _, IgnoredAny, IntoDeserializer, MapAccess, Visitor,
        value::{CowStrDeserializer, MapAccessDeserializer},
    },
};
use serde_json::value::RawValue;

use super::{
    credit_note::{self, RawCreditNote},
    customer::{self, RawCustomer, RawProduct},
    discount::{self, RawCoupon, RawDiscount, RawPromotionCode},
    fx::{self, RawRates},
    invoice::{self, RawInvoice},
    lenient::{Key, Scalar},
    missing, own,
    payment::{self, RawInvoicePayment, RawPayment},
    price::{self, RawPrice},
    schedule::{self, RawSchedule},
    subscription::{self, RawSubscription},
};
use crate::stripe::{Error, UnknownCounts, types::Object};

/// An object as its reader takes it.
pub(super) enum RawObject<'a> {
    Customer(Box<RawCustomer<'a>>),
    Subscription(Box<RawSubscription<'a>>),
    Invoice(Box<RawInvoice<'a>>),
    InvoicePayment(Box<RawInvoicePayment<'a>>),
    CreditNote(Box<RawCreditNote<'a>>),
    Schedule(Box<RawSchedule<'a>>),
    Charge(Box<RawPayment<'a>>),
    PaymentIntent(Box<RawPayment<'a>>),
    Refund(Box<RawPayment<'a>>),
    Dispute(Box<RawPayment<'a>>),
    Price(Box<RawPrice<'a>>),
    Product(Box<RawProduct<'a>>),
    Coupon(Box<RawCoupon<'a>>),
    Discount(Box<RawDiscount<'a>>),
    PromotionCode(Box<RawPromotionCode<'a>>),
    FxRates(Box<RawRates<'a>>),
    /// One that no reader knows.
    Other(String),
    /// It does not say what it is.
    Nameless,
}

impl<'de> RawObject<'de> {
    /// The fields of an object of that name.
    fn of<D: Deserializer<'de>>(name: Scalar<'de>, fields: D) -> Result<Self, D::Error> {
        fn boxed<'de, T: Deserialize<'de>, D: Deserializer<'de>>(fields: D) -> Result<Box<T>, D::Error> {
            T::deserialize(fields).map(Box::new)
        }
        Ok(match name.text() {
            Some("customer") => Self::Customer(boxed(fields)?),
            Some("subscription") => Self::Subscription(boxed(fields)?),
            Some("invoice") => Self::Invoice(boxed(fields)?),
            Some("invoice_payment") => Self::InvoicePayment(boxed(fields)?),
            Some("credit_note") => Self::CreditNote(boxed(fields)?),
            Some("subscription_schedule") => Self::Schedule(boxed(fields)?),
            Some("charge") => Self::Charge(boxed(fields)?),
            Some("payment_intent") => Self::PaymentIntent(boxed(fields)?),
            Some("refund") => Self::Refund(boxed(fields)?),
            Some("dispute") => Self::Dispute(boxed(fields)?),
            Some("price" | "plan") => Self::Price(boxed(fields)?),
            Some("product") => Self::Product(boxed(fields)?),
            Some("coupon") => Self::Coupon(boxed(fields)?),
            Some("discount") => Self::Discount(boxed(fields)?),
            Some("promotion_code") => Self::PromotionCode(boxed(fields)?),
            Some(own::FX_RATES) => Self::FxRates(boxed(fields)?),
            other => {
                let other = other.map(str::to_owned);
                IgnoredAny::deserialize(fields)?;
                other.map_or(Self::Nameless, Self::Other)
            }
        })
    }

    /// The object; what its reader does not know is counted.
    pub(super) fn read(self, unknown: &mut UnknownCounts) -> Result<Object, Error> {
        Ok(match self {
            Self::Customer(raw) => Object::Customer(customer::read_customer(*raw, unknown)?),
            Self::Subscription(raw) => Object::Subscription(Box::new(subscription::read(*raw, unknown)?)),
            Self::Invoice(raw) => Object::Invoice(Box::new(invoice::read(*raw, unknown))),
            Self::InvoicePayment(raw) => Object::InvoicePayment(payment::read_invoice_payment(*raw)?),
            Self::CreditNote(raw) => Object::CreditNote(Box::new(credit_note::read(*raw, unknown)?)),
            Self::Schedule(raw) => Object::Schedule(Box::new(schedule::read(*raw, unknown)?)),
            Self::Charge(raw) => Object::Charge(payment::read_charge(*raw, unknown)?),
            Self::PaymentIntent(raw) => Object::PaymentIntent(payment::read_payment_intent(*raw, unknown)?),
            Self::Refund(raw) => Object::Refund(payment::read_refund(*raw, unknown)?),
            Self::Dispute(raw) => Object::Dispute(payment::read_dispute(*raw, unknown)?),
            Self::Price(raw) => Object::Price(Box::new(price::read(*raw, unknown)?)),
            Self::Product(raw) => Object::Product(customer::read_product(*raw)?),
            Self::Coupon(raw) => Object::Coupon(discount::read_coupon(*raw, unknown)?),
            Self::Discount(raw) => match discount::read_discount(*raw, unknown) {
                Some(discount) => Object::Discount(Box::new(discount)),
                None => Object::Other("discount".to_owned()),
            },
            Self::PromotionCode(raw) => Object::PromotionCode(Box::new(discount::read_promotion_code(*raw, unknown)?)),
            Self::FxRates(raw) => Object::FxRates(Box::new(fx::read(*raw, unknown)?)),
            Self::Other(name) => {
                unknown.count(&format!("object={name}"));
                Object::Other(name)
            }
            Self::Nameless => return Err(missing("event", "data.object.object")),
        })
    }
}

impl<'de> Deserialize<'de> for RawObject<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = RawObject<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut unread = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    if key == "object" {
                        let name = map.next_value()?;
                        let fields = Fields { unread: unread.into_iter(), value: None, map };
                        return RawObject::of(name, MapAccessDeserializer::new(fields));
                    }
                    unread.push((key, map.next_value()?));
                }
                Ok(RawObject::Nameless)
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// The fields of an object: those that were passed, and then the others.
struct Fields<'de, A> {
    unread: vec::IntoIter<(Cow<'de, str>, &'de RawValue)>,
    value: Option<&'de RawValue>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some((key, value)) = self.unread.next() else { return self.map.next_key_seed(seed) };
        self.value = Some(value);
        let key: CowStrDeserializer<'_, A::Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        let Some(value) = self.value.take() else { return self.map.next_value_seed(seed) };
        let mut value = serde_json::Deserializer::from_str(value.get());
        seed.deserialize(&mut value).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_reads_alike_wherever_it_says_what_it_is() {
        let read = |json: &str| {
            let raw: RawObject<'_> = serde_json::from_str(json).unwrap();
            raw.read(&mut UnknownCounts::default())
        };
        let rest = r#""id":"in_1","customer":{"id":"cus_1"},"total":7,"a\u0062":[1],"status":"paid""#;
        let first = read(&format!(r#"{{"object":"invoice",{rest}}}"#)).unwrap();
        assert!(matches!(&first, Object::Invoice(invoice) if invoice.total == Some(7) && invoice.customer.is_some()));
        assert_eq!(read(&format!(r#"{{{rest},"object":"invoice"}}"#)).unwrap(), first);
        assert_eq!(read(&format!(r#"{{{rest},"object":"payout"}}"#)).unwrap(), Object::Other("payout".to_owned()));
        for nameless in [format!("{{{rest}}}"), format!(r#"{{"object":7,{rest}}}"#), "{}".to_owned()] {
            assert_eq!(read(&nameless).unwrap_err(), missing("event", "data.object.object"));
        }
    }
}

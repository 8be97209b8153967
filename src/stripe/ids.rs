//! Identifiers of Stripe objects: opaque, cheap to copy around, never mixed up with one another.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as Stripe writes it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<Arc<str>> for $name {
            fn from(text: Arc<str>) -> Self {
                Self(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text).map(Self)
            }
        }
    )*};
}

/// Reads text straight into its place.
struct Text;

impl de::Visitor<'_> for Text {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an identifier")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Arc<str>, E> {
        Ok(text.into())
    }
}

ids! {
    /// `acct_…`, or the configured name of the account whose own events carry none.
    AccountId,
    /// `evt_…`: the key duplicates are found by. Not orderable.
    EventId,
    /// `cus_…`
    CustomerId,
    /// `sub_…`
    SubscriptionId,
    /// `si_…`
    SubscriptionItemId,
    /// `price_…` or `plan_…`
    PriceId,
    /// `prod_…`
    ProductId,
    /// A coupon's id: free text chosen by the merchant.
    CouponId,
    /// `di_…`
    DiscountId,
    /// `in_…`
    InvoiceId,
    /// `ch_…` or `py_…`
    ChargeId,
}

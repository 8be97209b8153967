//! How plain values are packed: ids, numbers, times, words, and lists of them.

use std::sync::Arc;

use super::{Pack, Packer, Unpacker, packed_by_serde, packed_words};
use crate::{
    ledger::{
        catalogue::Need,
        rows::{Cause, Measure, MovementKind},
    },
    money::{Amount, Currency, Rational},
    stripe::{
        ids::{DiscountId, EventId, PriceId, ProductId, SubscriptionId, SubscriptionItemId},
        types::{Interval, SubscriptionStatus},
    },
    time::EventTime,
};

macro_rules! packed_texts {
    ($($type:ty),* $(,)?) => {$(
        impl Pack for $type {
            fn pack(&self, to: &mut Packer) {
                to.text(self.as_str());
            }

            fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
                from.text().map(|text| Self::from(Arc::clone(text)))
            }
        }
    )*};
}

packed_texts!(DiscountId, EventId, PriceId, ProductId, SubscriptionId, SubscriptionItemId);
packed_by_serde!(Need, Rational);
packed_words!(Interval { Day, Week, Month, Year });
packed_words!(MovementKind { Imported, New, Reactivation, Expansion, Contraction, Churn });
packed_words!(Measure { Mrr, Trial, CancelScheduled });

impl Pack for Cause {
    fn pack(&self, to: &mut Packer) {
        to.byte(*self as u8);
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        Self::ALL.get(usize::from(from.byte()?)).copied()
    }
}

impl Pack for Currency {
    fn pack(&self, to: &mut Packer) {
        to.text(self.as_str());
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        from.text()?.parse().ok()
    }
}

/// The ones of Stripe's by a number, an unknown one as text behind 0.
impl Pack for SubscriptionStatus {
    fn pack(&self, to: &mut Packer) {
        to.byte(match self {
            Self::Other(_) => 0,
            Self::Active => 1,
            Self::PastDue => 2,
            Self::Trialing => 3,
            Self::Incomplete => 4,
            Self::IncompleteExpired => 5,
            Self::Unpaid => 6,
            Self::Canceled => 7,
            Self::Paused => 8,
        });
        if let Self::Other(word) = self {
            to.text(word);
        }
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        Some(match from.byte()? {
            0 => Self::Other(from.text()?.to_string()),
            1 => Self::Active,
            2 => Self::PastDue,
            3 => Self::Trialing,
            4 => Self::Incomplete,
            5 => Self::IncompleteExpired,
            6 => Self::Unpaid,
            7 => Self::Canceled,
            8 => Self::Paused,
            _ => return None,
        })
    }
}

impl Pack for bool {
    fn pack(&self, to: &mut Packer) {
        to.byte(u8::from(*self));
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        match from.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Pack for u32 {
    fn pack(&self, to: &mut Packer) {
        to.number((*self).into());
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        from.number()?.try_into().ok()
    }
}

/// Hashes, which have no small values.
impl Pack for u64 {
    fn pack(&self, to: &mut Packer) {
        to.bytes.extend_from_slice(&self.to_le_bytes());
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        from.array().map(Self::from_le_bytes)
    }
}

/// The sign in the lowest bit.
impl Pack for i64 {
    fn pack(&self, to: &mut Packer) {
        to.number(((self << 1) ^ (self >> 63)) as u64);
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        let number = from.number()?;
        Some((number >> 1) as Self ^ -((number & 1) as Self))
    }
}

/// Nearly all amounts need no more than 62 bits; the others have theirs behind a mark that none of those has.
impl Pack for Amount {
    fn pack(&self, to: &mut Packer) {
        match i64::try_from(self.micros()) {
            Ok(micros) if micros != i64::MIN => micros.pack(to),
            _ => {
                i64::MIN.pack(to);
                to.bytes.extend_from_slice(&self.micros().to_le_bytes());
            }
        }
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        match i64::unpack(from)? {
            i64::MIN => from.array().map(i128::from_le_bytes).map(Self::from_micros),
            micros => Some(Self::from_micros(micros.into())),
        }
    }
}

/// Seconds since 1970 where it has only those, as Stripe's have; behind a mark of one byte, so that neither needs
/// arithmetic.
impl Pack for EventTime {
    fn pack(&self, to: &mut Packer) {
        match u32::try_from(self.seconds()) {
            Ok(seconds) if Self::from_seconds(seconds.into()) == *self => {
                to.bytes.push(0);
                to.bytes.extend_from_slice(&seconds.to_le_bytes());
            }
            _ => {
                to.bytes.push(1);
                to.bytes.extend_from_slice(&self.micros().to_le_bytes());
            }
        }
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        match from.byte()? {
            0 => from.array().map(|bytes| Self::from_seconds(u32::from_le_bytes(bytes).into())),
            1 => from.array().map(|bytes| Self::from_micros(i64::from_le_bytes(bytes))),
            _ => None,
        }
    }
}

impl<T: Pack> Pack for Option<T> {
    fn pack(&self, to: &mut Packer) {
        self.is_some().pack(to);
        if let Some(value) = self {
            value.pack(to);
        }
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        Some(if bool::unpack(from)? { Some(T::unpack(from)?) } else { None })
    }
}

impl<T: Pack> Pack for Box<T> {
    fn pack(&self, to: &mut Packer) {
        (**self).pack(to);
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        T::unpack(from).map(Self::new)
    }
}

impl<T: Pack> Pack for Vec<T> {
    fn pack(&self, to: &mut Packer) {
        to.number(self.len() as u64);
        for element in self {
            element.pack(to);
        }
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        let length = usize::try_from(from.number()?).ok()?;
        // No element is smaller than a byte, so that damaged bytes cannot ask for all memory.
        let mut list = Self::with_capacity(length.min(from.bytes.len()));
        for _ in 0..length {
            list.push(T::unpack(from)?);
        }
        Some(list)
    }
}

impl<A: Pack, B: Pack> Pack for (A, B) {
    fn pack(&self, to: &mut Packer) {
        self.0.pack(to);
        self.1.pack(to);
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        Some((A::unpack(from)?, B::unpack(from)?))
    }
}

impl<A: Pack, B: Pack, C: Pack> Pack for (A, B, C) {
    fn pack(&self, to: &mut Packer) {
        self.0.pack(to);
        self.1.pack(to);
        self.2.pack(to);
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        Some((A::unpack(from)?, B::unpack(from)?, C::unpack(from)?))
    }
}

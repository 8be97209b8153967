//! A customer's state as bytes, and back.
//!
//! Written by hand, and not by the library that writes checkpoints, because most of a state is ids that occur in it
//! again and again: here every text, every content and every value is stored once and shared again when it is read. That
//! halves the bytes, and more than halves the time to read and write them.

use std::{collections::HashMap, hash::Hasher, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    catalogue::Need,
    content::Content,
    hash::{Fingerprint, QuickHash},
    rows::{Cause, Measure, MovementKind},
    valuation::Valued,
};
use crate::{
    money::{Amount, Currency, Rational},
    stripe::{
        ids::{DiscountId, EventId, PriceId, ProductId, SubscriptionId, SubscriptionItemId},
        types::{Interval, SubscriptionStatus},
    },
    time::EventTime,
};

/// What a customer's state consists of.
pub(crate) trait Pack: Sized {
    fn pack(&self, to: &mut Packer);
    /// `None` if the bytes are not those of such a thing.
    fn unpack(from: &mut Unpacker<'_>) -> Option<Self>;
}

/// Packs a structure field by field; those behind the semicolon are not stored.
macro_rules! packed {
    ($type:ty { $($field:ident),* $(,)? $(; $left_out:ident)* }) => {
        impl $crate::ledger::packing::Pack for $type {
            fn pack(&self, to: &mut $crate::ledger::packing::Packer) {
                let Self { $($field,)* $($left_out: _,)* } = self;
                $($field.pack(to);)*
            }

            fn unpack(from: &mut $crate::ledger::packing::Unpacker<'_>) -> Option<Self> {
                Some(Self {
                    $($field: $crate::ledger::packing::Pack::unpack(from)?,)*
                    $($left_out: Default::default(),)*
                })
            }
        }
    };
}

/// Packs what is rare, or small, as checkpoints do.
macro_rules! packed_by_serde {
    ($($type:ty),* $(,)?) => {$(
        impl $crate::ledger::packing::Pack for $type {
            fn pack(&self, to: &mut $crate::ledger::packing::Packer) {
                to.serde(self);
            }

            fn unpack(from: &mut $crate::ledger::packing::Unpacker<'_>) -> Option<Self> {
                from.serde()
            }
        }
    )*};
}

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

pub(crate) use {packed, packed_by_serde};

packed_texts!(DiscountId, EventId, PriceId, ProductId, SubscriptionId, SubscriptionItemId);
packed_by_serde!(Cause, Interval, Measure, MovementKind, Need, Rational, SubscriptionStatus);

/// Writes bytes; its room is used again for the next customer.
#[derive(Default)]
pub(crate) struct Packer {
    bytes: Vec<u8>,
    /// By a hash: the number of a text, and where it lies in the bytes.
    texts: HashMap<u64, (usize, std::ops::Range<usize>), QuickHash>,
    /// Texts written, those included whose hash is another's.
    written: usize,
    contents: Vec<Arc<Content>>,
    values: Vec<Arc<Valued>>,
    error: Option<postcard::Error>,
}

impl Packer {
    /// Everything as bytes.
    ///
    /// # Errors
    /// What serde cannot write.
    pub(crate) fn bytes_of(&mut self, state: &impl Pack) -> Result<&[u8], postcard::Error> {
        self.bytes.clear();
        self.texts.clear();
        self.written = 0;
        state.pack(self);
        self.contents.clear();
        self.values.clear();
        match self.error.take() {
            Some(error) => Err(error),
            None => Ok(&self.bytes),
        }
    }

    /// A number, seven bits a byte.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// Text: the number of an equal one before it, or 0 and the text.
    fn text(&mut self, text: &str) {
        let mut print = Fingerprint::new();
        print.write(text.as_bytes());
        let hash = print.finish();
        let known = self.texts.get(&hash);
        if let Some((number, held)) = known
            && self.bytes[held.clone()] == *text.as_bytes()
        {
            let number = *number as u64;
            return self.number(number);
        }
        let collides = known.is_some();
        self.number(0);
        self.number(text.len() as u64);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text.as_bytes());
        self.written += 1;
        if !collides {
            self.texts.insert(hash, (self.written, start..self.bytes.len()));
        }
    }

    pub(crate) fn serde(&mut self, value: &impl Serialize) {
        match postcard::to_extend(value, std::mem::take(&mut self.bytes)) {
            Ok(bytes) => self.bytes = bytes,
            Err(error) => self.error = Some(error),
        }
    }

    /// The number of an identical thing before it, or 0 and the thing.
    fn shared<T: Pack>(&mut self, thing: &Arc<T>, seen: fn(&mut Self) -> &mut Vec<Arc<T>>) {
        // New ones are mostly like the last.
        match seen(self).iter().rposition(|held| Arc::ptr_eq(held, thing)) {
            Some(place) => self.number(place as u64 + 1),
            None => {
                self.number(0);
                (**thing).pack(self);
                seen(self).push(Arc::clone(thing));
            }
        }
    }
}

/// Reads bytes.
pub(crate) struct Unpacker<'a> {
    bytes: &'a [u8],
    texts: Vec<Arc<str>>,
    contents: Vec<Arc<Content>>,
    values: Vec<Arc<Valued>>,
}

impl<'a> Unpacker<'a> {
    /// What the bytes hold, and nothing else; `None` if they do not.
    pub(crate) fn read<T: Pack>(bytes: &'a [u8]) -> Option<T> {
        let mut from = Self::new(bytes);
        let state = T::unpack(&mut from)?;
        from.bytes.is_empty().then_some(state)
    }

    /// What the bytes begin with.
    pub(crate) fn begin<T: Pack>(bytes: &'a [u8]) -> Option<T> {
        T::unpack(&mut Self::new(bytes))
    }

    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, texts: Vec::new(), contents: Vec::new(), values: Vec::new() }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&Arc<str>> {
        let number = self.number()?;
        if let Some(place) = number.checked_sub(1) {
            return self.texts.get(usize::try_from(place).ok()?);
        }
        let length = self.number()?;
        let text = std::str::from_utf8(self.take(usize::try_from(length).ok()?)?).ok()?;
        self.texts.push(text.into());
        self.texts.last()
    }

    pub(crate) fn serde<T: DeserializeOwned>(&mut self) -> Option<T> {
        let (value, rest) = postcard::take_from_bytes(self.bytes).ok()?;
        self.bytes = rest;
        Some(value)
    }

    fn shared<T: Pack>(&mut self, seen: fn(&mut Self) -> &mut Vec<Arc<T>>) -> Option<Arc<T>> {
        let number = self.number()?;
        if let Some(place) = number.checked_sub(1) {
            return seen(self).get(usize::try_from(place).ok()?).map(Arc::clone);
        }
        let thing = Arc::new(T::unpack(self)?);
        seen(self).push(Arc::clone(&thing));
        Some(thing)
    }
}

impl Pack for Arc<Content> {
    fn pack(&self, to: &mut Packer) {
        to.shared(self, |to| &mut to.contents);
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        from.shared(|from| &mut from.contents)
    }
}

impl Pack for Arc<Valued> {
    fn pack(&self, to: &mut Packer) {
        to.shared(self, |to| &mut to.values);
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        from.shared(|from| &mut from.values)
    }
}

impl Pack for Arc<str> {
    fn pack(&self, to: &mut Packer) {
        to.text(self);
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        from.text().map(Arc::clone)
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

impl Pack for bool {
    fn pack(&self, to: &mut Packer) {
        to.bytes.push(u8::from(*self));
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

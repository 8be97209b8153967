//! A customer's state as bytes, and back.
//!
//! Written by hand, and not by the library that writes checkpoints, because most of a state is ids that occur in it
//! again and again: here a text is stored once among its neighbours, every content and every value once in all, and
//! they are shared again when they are read. That is fewer bytes, and less to allocate.

mod values;

use std::{ops::Range, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use super::{content::Content, valuation::Valued};

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

/// Packs one of a few words, given in the order in which they are declared.
macro_rules! packed_words {
    ($type:ident { $($word:ident),* $(,)? }) => {
        impl $crate::ledger::packing::Pack for $type {
            fn pack(&self, to: &mut $crate::ledger::packing::Packer) {
                match self {
                    $(Self::$word)|* => to.byte(*self as u8),
                }
            }

            fn unpack(from: &mut $crate::ledger::packing::Unpacker<'_>) -> Option<Self> {
                [$(Self::$word),*].get(usize::from(from.byte()?)).copied()
            }
        }
    };
}

pub(crate) use {packed, packed_by_serde, packed_words};

/// Texts among which an equal one is looked for: more than most states have, few enough to look at each.
const TEXTS_SEARCHED: usize = 64;

/// What tells most texts apart: length, beginning and end.
fn mark(text: &[u8]) -> u64 {
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let (first, last) = match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => (word(text), 0),
    };
    first.rotate_left(8) ^ last ^ (text.len() as u64).rotate_left(56)
}

/// Writes bytes; its room is used again for the next customer.
#[derive(Default)]
pub(crate) struct Packer {
    bytes: Vec<u8>,
    /// What texts are found by, and where they lie in the bytes.
    marks: Vec<u64>,
    texts: Vec<Range<usize>>,
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
        self.marks.clear();
        self.texts.clear();
        state.pack(self);
        self.contents.clear();
        self.values.clear();
        match self.error.take() {
            Some(error) => Err(error),
            None => Ok(&self.bytes),
        }
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// A number, seven bits a byte.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// Text: the number of an equal one among the last before it, or 0 and the text.
    fn text(&mut self, text: &str) {
        let text = text.as_bytes();
        let mark = mark(text);
        let searched = self.marks.len().saturating_sub(TEXTS_SEARCHED);
        let known = self.marks[searched..].iter().rposition(|other| *other == mark).map(|place| searched + place);
        if let Some(place) = known
            && self.bytes[self.texts[place].clone()] == *text
        {
            return self.number(place as u64 + 1);
        }
        self.number(0);
        self.number(text.len() as u64);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text);
        self.marks.push(mark);
        self.texts.push(start..self.bytes.len());
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

/// About so many bytes of a state have one text that is new.
const BYTES_A_TEXT: usize = 48;

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
        from.texts.reserve(bytes.len() / BYTES_A_TEXT);
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

    pub(crate) fn byte(&mut self) -> Option<u8> {
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

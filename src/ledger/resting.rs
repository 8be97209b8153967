//! A customer whom nothing concerns: the bytes of its state, and what has been heard since without reading them.
//!
//! Most snapshots of a subscription repeat what the one before said of revenue: a renewed period, other metadata. Where
//! nothing of the customer waits for anything, such a [`Repeat`] is only put beside the bytes. It is taken in when the
//! customer is next opened, one after the other and exactly as it would have been when it came: a late event finds
//! them in their seconds, and histories have folded as far.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    Arrival, Error,
    content::{self, Content},
    customer::CustomerState,
    hash::short,
    history::HORIZON_DAYS,
    order::{Stage, Trace},
    packing::{Packer, Unpacker, packed},
    state::corrupt,
    visits::Brought,
};
use crate::{
    stripe::{
        ids::{EventId, SubscriptionId},
        types::{Event, Subscription},
    },
    time::EventTime,
};

/// Repeats kept beside a customer's bytes; with one more it is opened. Of those that histories have folded one a
/// subscription is kept, so that only who repeats itself every other day gets there.
pub const MAX_REPEATS: usize = 16;

/// Bytes of a [`Repeat`]: an id of 200 letters, where Stripe's have 28. A longer one opens its customer.
const MAX_REPEAT_BYTES: usize = 256;

/// A customer's state at rest.
#[derive(Serialize, Deserialize)]
pub(crate) struct Resting {
    state: Bytes,
    /// The subscriptions whose snapshots can be compared with the newest.
    calm: Box<[Calm]>,
    /// One [`Repeat`] after the other, in the order in which they came.
    repeats: Bytes,
    /// Whether it changed since the last checkpoint.
    #[serde(skip)]
    pub(crate) unsaved: bool,
}

/// A subscription of which nothing waits, and what its newest snapshot said.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Calm {
    /// Fingerprint of its id.
    subscription: u64,
    /// Its place among the customer's subscriptions.
    place: u32,
    /// See [`content::print`].
    content: u64,
    newest: EventTime,
}

impl Calm {
    pub(crate) fn new(place: usize, id: &SubscriptionId, content: &Content, newest: EventTime) -> Self {
        Self { subscription: short(&[id.as_str()]), place: place as u32, content: content.print, newest }
    }
}

/// What a snapshot of a subscription is compared by: worked out once, while its event is at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sketch {
    /// Fingerprint of the subscription's id.
    subscription: u64,
    /// See [`content::print`].
    pub(crate) content: u64,
    pub(crate) trace: Trace,
}

impl Sketch {
    /// That of a subscription in the body of an event.
    pub(crate) fn of(event: &Event, subscription: &Subscription) -> Self {
        Self {
            subscription: short(&[subscription.id.as_str()]),
            content: content::print(subscription),
            trace: Trace::of(event, subscription),
        }
    }
}

/// A snapshot, newer than all before it of its subscription, of the same content.
#[derive(Clone, Debug)]
pub(crate) struct Repeat {
    pub(crate) place: u32,
    pub(crate) time: EventTime,
    /// Whether histories folded when it came.
    pub(crate) folding: bool,
    pub(crate) event_id: EventId,
    pub(crate) appended_at: EventTime,
    pub(crate) trace: Trace,
}

packed!(Repeat { place, time, folding, event_id, appended_at, trace });

/// What a new repeat asks of those before it: where they begin.
struct Head {
    place: u32,
    time: EventTime,
    folding: bool,
}

packed!(Head { place, time, folding });

/// Room to write in; nothing in it is read.
#[derive(Default)]
pub(crate) struct Scratch {
    packer: Packer,
    kept: Vec<u8>,
}

impl Resting {
    pub(crate) fn of(state: &CustomerState, scratch: &mut Scratch) -> Result<Self, Error> {
        let bytes = scratch.packer.bytes_of(state).map_err(|error| corrupt(CUSTOMER, &error))?;
        let calm = state.calm().into();
        Ok(Self { state: Bytes(bytes.into()), calm, repeats: Bytes::default(), unsaved: false })
    }

    /// The state without what was repeated since.
    pub(crate) fn open(&self) -> Result<CustomerState, Error> {
        Unpacker::read(&self.state.0).ok_or_else(damaged)
    }

    /// What was repeated since, in the order in which it came.
    pub(crate) fn repeats(&self) -> impl Iterator<Item = Result<Repeat, Error>> {
        self.stored().map(|repeat| Unpacker::read(repeat?).ok_or_else(damaged))
    }

    /// The bytes of each repeat. They lie one behind the other, each behind its length.
    fn stored(&self) -> impl Iterator<Item = Result<&[u8], Error>> {
        let mut bytes = &*self.repeats.0;
        std::iter::from_fn(move || {
            if bytes.is_empty() {
                return None;
            }
            let repeat = bytes.split_first_chunk().and_then(|(length, rest)| {
                let length = u16::from_le_bytes(*length);
                rest.split_at_checked(length.into())
            });
            let (repeat, behind) = repeat.unwrap_or_default();
            bytes = behind;
            Some(if repeat.is_empty() { Err(damaged()) } else { Ok(repeat) })
        })
    }

    /// Takes in an event that only repeats what is known. False if it does not: the customer must then be opened.
    pub(crate) fn repeat(
        &mut self,
        Brought { arrival: Arrival { event, appended_at }, sketch }: Brought<'_>,
        folding: bool,
        scratch: &mut Scratch,
    ) -> Result<bool, Error> {
        let Some(Sketch { subscription, content, trace }) = sketch else { return Ok(false) };
        if trace.stage != Stage::Ordinary {
            return Ok(false);
        }
        let time = event.created;
        let same = |calm: &Calm| calm.subscription == subscription && calm.content == content;
        let Some(index) = self.calm.iter().position(|calm| calm.newest < time && same(calm)) else {
            return Ok(false);
        };
        let Calm { place, .. } = self.calm[index];
        let event_id = event.id.clone();
        let kept = self.keep(&Repeat { place, time, folding, event_id, appended_at, trace }, scratch)?;
        if kept {
            self.calm[index].newest = time;
        }
        Ok(kept)
    }

    /// Puts a repeat behind the others, without those that its history folds when it comes: of these the last will do,
    /// because nothing of the others would be left. False if there are too many.
    fn keep(&mut self, repeat: &Repeat, scratch: &mut Scratch) -> Result<bool, Error> {
        let horizon = repeat.time.plus_days(-HORIZON_DAYS);
        let Scratch { packer, kept } = scratch;
        kept.clear();
        let mut count = 0;
        // Where the last one that is folded lies in what is kept.
        let mut folded: Option<std::ops::Range<usize>> = None;
        for stored in self.stored() {
            let stored = stored?;
            let other: Head = Unpacker::begin(stored).ok_or_else(damaged)?;
            let start = kept.len();
            put(kept, stored);
            count += 1;
            if repeat.folding && other.place == repeat.place && other.time < horizon {
                let mut here = start..kept.len();
                if let Some(older) = folded.take() {
                    here = here.start - older.len()..here.end - older.len();
                    kept.drain(older);
                    count -= 1;
                }
                folded = Some(here);
            }
        }
        if count == MAX_REPEATS {
            return Ok(false);
        }
        let bytes = packer.bytes_of(repeat).map_err(|error| corrupt(CUSTOMER, &error))?;
        if bytes.len() > MAX_REPEAT_BYTES {
            return Ok(false);
        }
        put(kept, bytes);
        // One comes as another goes, mostly, and they are as long.
        if self.repeats.0.len() == kept.len() {
            self.repeats.0.copy_from_slice(kept);
        } else {
            self.repeats.0 = kept.as_slice().into();
        }
        Ok(true)
    }
}

/// Puts a repeat behind others, behind its length.
fn put(kept: &mut Vec<u8>, repeat: &[u8]) {
    kept.extend_from_slice(&(repeat.len() as u16).to_le_bytes());
    kept.extend_from_slice(repeat);
}

fn damaged() -> Error {
    corrupt(CUSTOMER, &"its bytes end early, or go on where they should end")
}

/// What of a checkpoint these bytes are, for errors.
const CUSTOMER: &str = "a customer";

/// Bytes that are stored and read back whole.
#[derive(Default)]
struct Bytes(Box<[u8]>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;

        impl de::Visitor<'_> for Whole {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.into()))
            }
        }
        deserializer.deserialize_bytes(Whole)
    }
}

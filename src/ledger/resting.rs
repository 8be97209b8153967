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
    content::Content,
    customer::CustomerState,
    hash::short,
    history::HORIZON_DAYS,
    order::{Stage, Trace},
    state::corrupt,
};
use crate::{
    stripe::{
        ids::SubscriptionId,
        types::{Object, Subscription},
    },
    time::EventTime,
};

/// Repeats kept beside a customer's bytes; with one more it is opened. Of those that histories have folded one a
/// subscription is kept, so that only who repeats itself every other day gets there.
pub const MAX_REPEATS: usize = 16;

/// Bytes of [`Said`]: an id of 170 letters, where Stripe's have 28. A longer one opens its customer.
const MAX_SAID_BYTES: usize = 256;

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
    /// [`Content::print`].
    content: u64,
    newest: EventTime,
}

impl Calm {
    pub(crate) fn new(place: usize, id: &SubscriptionId, content: &Content, newest: EventTime) -> Self {
        Self { subscription: short(&[id.as_str()]), place: place as u32, content: content.print(), newest }
    }

    fn is_repeated_by(&self, id: u64, subscription: &Subscription) -> bool {
        self.subscription == id && self.content == Content::of(subscription).print()
    }
}

/// A snapshot, newer than all before it of its subscription, of the same content.
pub(crate) struct Repeat<'a> {
    pub(crate) place: u32,
    pub(crate) time: EventTime,
    /// Whether histories folded when it came.
    pub(crate) folding: bool,
    pub(crate) said: Said<'a>,
}

/// What matters of a repeat only when its customer is opened.
#[derive(Serialize, Deserialize)]
pub(crate) struct Said<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) appended_at: EventTime,
    pub(crate) trace: Trace,
}

/// A repeat as it is stored: the next one is put behind it without reading what it said.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    place: u32,
    time: EventTime,
    folding: bool,
    said: &'a [u8],
}

impl Resting {
    /// `scratch` is room to write in; nothing in it is read.
    pub(crate) fn of(state: &CustomerState, scratch: &mut Vec<u8>) -> Result<Self, Error> {
        scratch.clear();
        let written = postcard::to_extend(state, std::mem::take(scratch));
        *scratch = written.map_err(|error| corrupt(CUSTOMER, &error))?;
        let state_bytes = Bytes(scratch.as_slice().into());
        Ok(Self { state: state_bytes, calm: state.calm().into(), repeats: Bytes::default(), unsaved: false })
    }

    /// The state without what was repeated since.
    pub(crate) fn open(&self) -> Result<CustomerState, Error> {
        postcard::from_bytes(&self.state.0).map_err(|error| corrupt(CUSTOMER, &error))
    }

    /// What was repeated since, in the order in which it came.
    pub(crate) fn repeats(&self) -> impl Iterator<Item = Result<Repeat<'_>, Error>> {
        self.stored().map(|stored| {
            let (Stored { place, time, folding, said }, _) = stored?;
            let said = postcard::from_bytes(said).map_err(|error| corrupt(CUSTOMER, &error))?;
            Ok(Repeat { place, time, folding, said })
        })
    }

    /// The repeats as they are stored, with the bytes that each is.
    fn stored(&self) -> impl Iterator<Item = Result<(Stored<'_>, &[u8]), Error>> {
        let mut bytes = &*self.repeats.0;
        std::iter::from_fn(move || {
            if bytes.is_empty() {
                return None;
            }
            let all = std::mem::take(&mut bytes);
            Some(match postcard::take_from_bytes(all) {
                Ok((repeat, behind)) => {
                    bytes = behind;
                    Ok((repeat, &all[..all.len() - behind.len()]))
                }
                Err(error) => Err(corrupt(CUSTOMER, &error)),
            })
        })
    }

    /// Takes in an event that only repeats what is known. False if it does not: the customer must then be opened.
    pub(crate) fn repeat(
        &mut self,
        Arrival { event, appended_at }: Arrival<'_>,
        folding: bool,
        scratch: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let Object::Subscription(subscription) = &event.object else { return Ok(false) };
        if self.calm.is_empty() || Stage::of(event) != Stage::Ordinary {
            return Ok(false);
        }
        let id = short(&[subscription.id.as_str()]);
        let calm =
            self.calm.iter().position(|calm| calm.newest < event.created && calm.is_repeated_by(id, subscription));
        let Some(index) = calm else { return Ok(false) };
        let Calm { place, .. } = self.calm[index];
        let said = Said { event_id: event.id.as_str(), appended_at, trace: Trace::of(event, subscription) };
        let kept = self.keep(place, event.created, folding, &said, scratch)?;
        if kept {
            self.calm[index].newest = event.created;
        }
        Ok(kept)
    }

    /// Puts a repeat behind the others, without those that its history folds when it comes: of these the last will do,
    /// because nothing of the others would be left. False if there are too many.
    fn keep(
        &mut self,
        place: u32,
        time: EventTime,
        folding: bool,
        said: &Said<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let horizon = time.plus_days(-HORIZON_DAYS);
        scratch.clear();
        let mut kept = 0;
        // Where the last one that is folded lies in what is kept.
        let mut folded: Option<std::ops::Range<usize>> = None;
        for stored in self.stored() {
            let (other, bytes) = stored?;
            if folding && other.place == place && other.time < horizon {
                if let Some(older) = folded.take() {
                    scratch.drain(older);
                    kept -= 1;
                }
                folded = Some(scratch.len()..scratch.len() + bytes.len());
            }
            scratch.extend_from_slice(bytes);
            kept += 1;
        }
        if kept == MAX_REPEATS {
            return Ok(false);
        }
        let mut room = [0; MAX_SAID_BYTES];
        let Ok(said) = postcard::to_slice(said, &mut room) else { return Ok(false) };
        let written = postcard::to_extend(&Stored { place, time, folding, said }, std::mem::take(scratch));
        *scratch = written.map_err(|error| corrupt(CUSTOMER, &error))?;
        self.repeats.0 = scratch.as_slice().into();
        Ok(true)
    }
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

//! Who said a thing, and whom to believe when two say different things.

use serde::{Deserialize, Serialize};

use crate::{
    stripe::types::{Event, Provenance},
    time::EventTime,
};

/// Where a fact comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) provenance: Provenance,
    /// When it was said: an event's time, a snapshot's or a file's as-of time.
    pub(crate) time: EventTime,
    /// The end of its event's id, which tells events of one second apart.
    tail: u64,
}

impl Origin {
    /// Whether what is said here replaces another value said by `held`: a better source does, and a later file corrects
    /// an earlier one. What two events or two snapshots contradict each other in cannot change in Stripe, so what was
    /// said first stands, whichever arrives first (docs/how-we-count.md "Prices by reference").
    pub(crate) fn beats(self, held: Self) -> bool {
        let (this, other) = ((self.time, self.tail), (held.time, held.tail));
        match self.provenance.cmp(&held.provenance) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal if self.provenance == Provenance::File => this > other,
            std::cmp::Ordering::Equal => this < other,
            std::cmp::Ordering::Less => false,
        }
    }

    /// Takes note that a better source has said the same. True if it is better.
    pub(crate) fn confirm(&mut self, other: Self) -> bool {
        let better = other.beats(*self);
        if better {
            *self = other;
        }
        better
    }

    /// For what can change in Stripe: whether it is said later. A file never overrides the others.
    fn is_later(self, held: Self) -> bool {
        let rank = |origin: Self| (origin.provenance != Provenance::File, origin.time, origin.provenance);
        rank(self) > rank(held)
    }
}

/// The record that tells something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Telling {
    /// When the log took it in.
    pub(crate) at: EventTime,
    pub(crate) origin: Origin,
    /// Its object's life ends with it.
    pub(crate) ends: bool,
}

impl Telling {
    pub(crate) fn of(event: &Event, at: EventTime) -> Self {
        let id = event.id.as_str().as_bytes();
        let tail = id[id.len().saturating_sub(8)..].iter().fold(0, |tail, byte| (tail << 8) | u64::from(*byte));
        let origin = Origin { provenance: event.provenance(), time: event.created, tail };
        Self { at, origin, ends: event.is_deletion() }
    }

    /// Of what held right before.
    pub(crate) fn before(&self) -> Self {
        let time = EventTime::from_micros(self.origin.time.micros().saturating_sub(1));
        Self { origin: Origin { time, ..self.origin }, ..*self }
    }
}

/// Something that can change, as it was last said.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Said<T> {
    pub(crate) what: T,
    pub(crate) origin: Origin,
}

impl<T: PartialEq> Said<T> {
    pub(crate) fn of(what: T, origin: Origin) -> Self {
        Self { what, origin }
    }

    /// Takes note that the same is said once more. True if that is later than known.
    pub(crate) fn hear_again(&mut self, origin: Origin) -> bool {
        let later = origin.is_later(self.origin);
        if later {
            self.origin = origin;
        }
        later
    }

    /// Takes in what is said; of two things said in one second by equal sources the greater one stands. True if
    /// anything changed.
    pub(crate) fn hear<K: Ord>(&mut self, what: T, origin: Origin, rank: impl Fn(&T) -> K) -> bool {
        let same_place = !origin.is_later(self.origin) && !self.origin.is_later(origin);
        if origin.is_later(self.origin) || (same_place && rank(&what) > rank(&self.what)) {
            *self = Self { what, origin };
            return true;
        }
        false
    }
}

//! A customer's own discounts by time, from what its events and snapshots tell of them.
//!
//! What an event says holds from the event on. What it says of a discount that began before reaches back to the
//! discount's start, as far as nothing else was told of that time: a customer whose old coupon is first seen today did
//! not get it today. In the shape with one discount (`customer.discount`) the new one takes the place of the old.

use serde::{Deserialize, Serialize};

use super::{
    catalogue::Shelf,
    packing::{packed, packed_by_serde},
};
use crate::{
    stripe::ids::{DiscountId, EventId},
    time::EventTime,
};

/// Changes of a customer's own discounts that are kept; the oldest merge first. Customers have a handful in a life.
pub const MAX_DISCOUNT_CHANGES: usize = 64;

/// What decides how far back a telling reaches.
#[derive(Clone, Copy)]
pub(crate) struct Reach<'a> {
    /// Knows when discounts began.
    pub(crate) shelf: &'a Shelf,
    /// The second up to which the subscription has folded: what was written until then stays.
    pub(crate) folded: Option<EventTime>,
}

/// What an event tells of the customer's own discounts, in the order of one second: what a whole customer says, then
/// what began or took another's place, then what ended.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum DiscountMove {
    /// All of them, and those that there were before, where the event says so.
    Are { all: Vec<DiscountId>, had: Vec<DiscountId> },
    /// One began.
    Add(DiscountId),
    /// The customer was switched to another coupon (`customer.discount.updated`).
    Switch { from: Option<DiscountId>, to: DiscountId },
    /// One ended.
    Remove(DiscountId),
}

packed_by_serde!(DiscountMove);

impl DiscountMove {
    fn apply(&self, held: &mut Vec<DiscountId>) {
        match self {
            Self::Are { all, .. } => held.clone_from(all),
            Self::Add(id) => add(held, id),
            Self::Remove(id) => held.retain(|other| other != id),
            Self::Switch { from, to } => {
                match held.iter().position(|other| Some(other) == from.as_ref()) {
                    Some(place) => held[place] = to.clone(),
                    None if held.contains(to) => {}
                    // The one that it took the place of is not known, but for that there is only one.
                    None => *held = vec![to.clone()],
                }
            }
        }
    }

    /// The discounts that it tells of, and of each whether it ended with this.
    fn told(&self) -> Vec<(&DiscountId, bool)> {
        match self {
            Self::Are { all, had } => {
                let gone = had.iter().filter(|id| !all.contains(id)).map(|id| (id, true));
                gone.chain(all.iter().map(|id| (id, false))).collect()
            }
            Self::Add(id) => vec![(id, false)],
            Self::Switch { from, to } => from.iter().map(|id| (id, true)).chain([(to, false)]).collect(),
            Self::Remove(id) => vec![(id, true)],
        }
    }

    /// Whether it says what the customer had before it, as far as `id` goes.
    fn tells_of(&self, id: &DiscountId) -> bool {
        matches!(self, Self::Are { .. }) || self.told().iter().any(|(told, _)| *told == id)
    }

    /// Whether the customer has `id` alone by it.
    fn leaves_only(&self, id: &DiscountId) -> bool {
        match self {
            Self::Are { all, .. } => all.as_slice() == std::slice::from_ref(id),
            Self::Switch { to, .. } => to == id,
            Self::Add(_) | Self::Remove(_) => false,
        }
    }
}

fn add(held: &mut Vec<DiscountId>, id: &DiscountId) {
    if !held.contains(id) {
        held.push(id.clone());
    }
}

/// A change of the customer's own discounts.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct DiscountChange {
    pub(crate) time: EventTime,
    pub(crate) what: DiscountMove,
    pub(crate) event_id: EventId,
    pub(crate) appended_at: EventTime,
}

packed!(DiscountChange { time, what, event_id, appended_at });

/// A discount that held before it was told of.
struct Early<'a> {
    from: EventTime,
    id: &'a DiscountId,
    /// It took the place of any other.
    alone: bool,
}

/// The changes of a customer's own discounts, by time.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct OwnDiscounts(Vec<DiscountChange>);

impl super::packing::Pack for OwnDiscounts {
    fn pack(&self, to: &mut super::packing::Packer) {
        self.0.pack(to);
    }

    fn unpack(from: &mut super::packing::Unpacker<'_>) -> Option<Self> {
        super::packing::Pack::unpack(from).map(Self)
    }
}

impl OwnDiscounts {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether that is known already.
    pub(crate) fn knows(&self, time: EventTime, event: &EventId) -> bool {
        self.0.iter().any(|change| change.time == time && change.event_id == *event)
    }

    /// Puts a change in its place. The first time from which on anything can be otherwise, and the discounts that
    /// began before they were told of, each with its start.
    pub(crate) fn insert(
        &mut self,
        change: DiscountChange,
        shelf: &Shelf,
    ) -> (EventTime, Vec<(EventTime, DiscountId)>) {
        let key = (change.time, &change.what, &change.event_id);
        let place = self.0.partition_point(|other| (other.time, &other.what, &other.event_id) < key);
        let time = change.time;
        // What is told later may have reached back beyond this time.
        let reached = (place..self.0.len()).flat_map(|later| self.early(later, shelf)).map(|early| early.from).min();
        self.0.insert(place, change);
        let early: Vec<_> = self.early(place, shelf).map(|early| (early.from, early.id.clone())).collect();
        let first = early.iter().map(|(from, _)| *from).chain(reached).chain([time]).min();
        if self.0.len() > MAX_DISCOUNT_CHANGES {
            self.merge_oldest();
        }
        (first.unwrap_or(time), early)
    }

    fn merge_oldest(&mut self) {
        let mut all = Vec::new();
        self.0.remove(0).what.apply(&mut all);
        self.0[0].what.apply(&mut all);
        self.0[0].what = DiscountMove::Are { all, had: Vec::new() };
    }

    /// The discounts at a time.
    pub(crate) fn at(&self, time: EventTime, reach: Reach<'_>) -> Vec<DiscountId> {
        let past = self.0.partition_point(|change| change.time <= time);
        let mut held = Vec::new();
        self.0[..past].iter().for_each(|change| change.what.apply(&mut held));
        for early in self.all_early(past, reach).filter(|(_, early)| early.from <= time).map(|(_, early)| early) {
            if early.alone {
                held.retain(|other| other == early.id);
            }
            add(&mut held, early.id);
        }
        held
    }

    /// When each change takes effect, with the change.
    pub(crate) fn effects<'a: 'b, 'b>(
        &'a self,
        reach: Reach<'b>,
    ) -> impl Iterator<Item = (EventTime, &'a DiscountChange)> + use<'a, 'b> {
        let told = self.0.iter().map(|change| (change.time, change));
        told.chain(self.all_early(0, reach).map(|(change, early)| (early.from, change)))
    }

    /// What changes from place `first` on reach back to, as far as the subscription has not folded.
    fn all_early<'a: 'b, 'b>(
        &'a self,
        first: usize,
        reach: Reach<'b>,
    ) -> impl Iterator<Item = (&'a DiscountChange, Early<'a>)> + use<'a, 'b> {
        let places = first..self.0.len();
        let early = places.flat_map(move |place| self.early(place, reach.shelf).map(move |one| (&self.0[place], one)));
        early.filter(move |(_, early)| reach.folded.is_none_or(|folded| early.from > folded))
    }

    /// The discounts that a change tells of and that began before it, when nothing was told of the time between.
    fn early<'a: 'b, 'b>(&'a self, place: usize, shelf: &'b Shelf) -> impl Iterator<Item = Early<'a>> + use<'a, 'b> {
        let change = &self.0[place];
        let before = &self.0[..self.0.partition_point(|other| other.time < change.time)];
        change.what.told().into_iter().filter_map(move |(id, ended)| {
            let told_at = if ended { just_before(change.time) } else { change.time };
            let known = before.iter().rfind(|other| other.what.tells_of(id)).map(|other| other.time);
            let from = match (shelf.discount(id, told_at), known) {
                (Some(facts), _) => facts.start?,
                // Until its start is known it may have held since ever.
                (None, None) => EventTime::MIN,
                (None, Some(_)) => return None,
            };
            let reaches = from < change.time && known.is_none_or(|known| from > known);
            reaches.then(|| Early { from, id, alone: !ended && change.what.leaves_only(id) })
        })
    }
}

fn just_before(time: EventTime) -> EventTime {
    EventTime::from_micros(time.micros().saturating_sub(1))
}

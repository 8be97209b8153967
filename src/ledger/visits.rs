//! Whom a batch concerns: one visit a customer, with all that the batch brings to it, in the order of the log.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use super::{Arrival, Ledger, catalogue::Needs, hash::QuickHash, resting::Sketch};
use crate::{
    stripe::{
        ids::CustomerId,
        types::{Event, Object, Scope},
    },
    time::EventTime,
};

/// A customer as it is looked up.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Whom<'a> {
    /// A hash of the rest; its highest bits name the bucket.
    pub(crate) key: u64,
    pub(crate) scope: &'a Scope,
    pub(crate) customer: Cow<'a, CustomerId>,
}

impl<'a> Whom<'a> {
    pub(crate) fn new(scope: &'a Scope, customer: Cow<'a, CustomerId>) -> Self {
        Self { key: Ledger::key_of(scope, &customer), scope, customer }
    }
}

/// What is read of an event only once: of a snapshot of a subscription, while it is at hand.
#[derive(Clone)]
pub(crate) struct Glance<'a> {
    pub(crate) whom: Whom<'a>,
    pub(crate) sketch: Sketch,
}

impl<'a> Glance<'a> {
    pub(crate) fn at(event: &'a Event) -> Option<Self> {
        let Object::Subscription(subscription) = &event.object else { return None };
        let whom = Whom::new(&event.scope, Cow::Borrowed(&subscription.customer));
        Some(Self { whom, sketch: Sketch::of(event, subscription) })
    }
}

/// An event that is brought to its customer.
#[derive(Clone, Copy)]
pub(crate) struct Brought<'a> {
    pub(crate) arrival: Arrival<'a>,
    /// Of a snapshot of a subscription.
    pub(crate) sketch: Option<Sketch>,
}

/// One customer's part of a batch.
pub(crate) struct Visit<'a> {
    pub(crate) whom: Whom<'a>,
    /// Something it waited for is known, or a time has come: when the newest record that led here was appended.
    pub(crate) reminded: Option<EventTime>,
    /// The places of the first and the last event that it is brought.
    brought: Option<(usize, usize)>,
}

/// What is known otherwise than before, by account and mode.
pub(crate) type Revised<'a> = BTreeMap<&'a Scope, Needs>;

/// The visits of a batch, in the order in which it first concerns their customers.
pub(crate) struct Visits<'a> {
    /// Places of visits by the keys of their customers. Where two customers have one key, the later has the next.
    by_key: HashMap<u64, usize, QuickHash>,
    pub(crate) visits: Vec<Visit<'a>>,
    pub(crate) revised: Revised<'a>,
    pub(crate) events: Events<'a>,
}

/// What the batch brings, each with the place of the next for the same customer.
pub(crate) struct Events<'a>(Vec<(Brought<'a>, Option<usize>)>);

impl<'a> Events<'a> {
    /// What a visit brings.
    pub(crate) fn of<'e>(&'e self, visit: &Visit<'a>) -> impl Iterator<Item = Brought<'a>> + use<'e, 'a> {
        let mut next = visit.brought.map(|(first, _)| first);
        std::iter::from_fn(move || {
            let (brought, behind) = *self.0.get(next?)?;
            next = behind;
            Some(brought)
        })
    }
}

impl<'a> Visits<'a> {
    /// With room for a batch of so many events.
    pub(crate) fn with_capacity(events: usize) -> Self {
        Self {
            by_key: HashMap::with_capacity_and_hasher(events, QuickHash::default()),
            visits: Vec::new(),
            revised: BTreeMap::new(),
            events: Events(Vec::with_capacity(events)),
        }
    }

    /// Brings an event to its customer.
    pub(crate) fn bring(&mut self, brought: Brought<'a>, whom: Whom<'a>) {
        let place = self.events.0.len();
        self.events.0.push((brought, None));
        let visit = self.of(whom);
        let before = visit.brought;
        visit.brought = Some(before.map_or((place, place), |(first, _)| (first, place)));
        if let Some((_, last)) = before {
            self.events.0[last].1 = Some(place);
        }
    }

    /// Asks for a visit that no event of the customer's brings.
    pub(crate) fn remind(&mut self, scope: &'a Scope, customer: CustomerId, appended_at: EventTime) {
        let visit = self.of(Whom::new(scope, Cow::Owned(customer)));
        visit.reminded = visit.reminded.max(Some(appended_at));
    }

    /// Notes that `needs` are known otherwise than before.
    pub(crate) fn revise(&mut self, scope: &'a Scope, needs: Needs) {
        self.revised.insert(scope, needs);
    }

    fn of(&mut self, whom: Whom<'a>) -> &mut Visit<'a> {
        let next = self.visits.len();
        let mut key = whom.key;
        let place = loop {
            let place = *self.by_key.entry(key).or_insert(next);
            if place == next || self.visits[place].whom == whom {
                break place;
            }
            key = key.wrapping_add(1);
        };
        if place == next {
            self.visits.push(Visit { whom, reminded: None, brought: None });
        }
        &mut self.visits[place]
    }
}

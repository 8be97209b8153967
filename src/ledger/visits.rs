//! Whom a batch concerns: one visit a customer, with all that the batch brings to it, in the order of the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Arrival, catalogue::Need, hash::QuickHash};
use crate::{
    stripe::{ids::CustomerId, types::Scope},
    time::EventTime,
};

/// One customer's part of a batch.
pub(crate) struct Visit<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) customer: CustomerId,
    pub(crate) arrivals: Vec<Arrival<'a>>,
    /// Something it waited for is known, or a time has come: when the newest record that led here was appended.
    pub(crate) reminded: Option<EventTime>,
}

/// What is known otherwise than before, by account and mode.
pub(crate) type Revised<'a> = BTreeMap<&'a Scope, BTreeSet<Need>>;

/// The visits of a batch, in the order in which it first concerns their customers.
#[derive(Default)]
pub(crate) struct Visits<'a> {
    by_customer: HashMap<(&'a Scope, CustomerId), usize, QuickHash>,
    visits: Vec<Visit<'a>>,
    revised: Revised<'a>,
}

impl<'a> Visits<'a> {
    /// Brings an event to its customer.
    pub(crate) fn bring(&mut self, arrival: Arrival<'a>, customer: &CustomerId) {
        self.of(&arrival.event.scope, customer.clone()).arrivals.push(arrival);
    }

    /// Asks for a visit that no event of the customer's brings.
    pub(crate) fn remind(&mut self, scope: &'a Scope, customer: CustomerId, appended_at: EventTime) {
        let visit = self.of(scope, customer);
        visit.reminded = visit.reminded.max(Some(appended_at));
    }

    /// Notes that `needs` are known otherwise than before.
    pub(crate) fn revise(&mut self, scope: &'a Scope, needs: BTreeSet<Need>) {
        self.revised.insert(scope, needs);
    }

    pub(crate) fn finish(self) -> (Vec<Visit<'a>>, Revised<'a>) {
        (self.visits, self.revised)
    }

    fn of(&mut self, scope: &'a Scope, customer: CustomerId) -> &mut Visit<'a> {
        let next = self.visits.len();
        let index = *self.by_customer.entry((scope, customer.clone())).or_insert(next);
        if index == next {
            self.visits.push(Visit { scope, customer, arrivals: Vec::new(), reminded: None });
        }
        &mut self.visits[index]
    }
}

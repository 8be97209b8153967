//! A fact that can change, by the times at which it was told: what was told last before an instant holds at it, and
//! what was told first holds before. The same however the tellings arrive.

use serde::{Deserialize, Serialize};

use crate::time::EventTime;

/// What is told.
pub(crate) trait Fact: Clone {
    /// Whether it is the same fact.
    fn agrees(&self, other: &Self) -> bool;

    /// Of two that were told of one second, whether this one stands. It decides nothing real, but alike everywhere.
    fn outranks(&self, other: &Self) -> bool;

    /// Takes in what the same fact tells, `earlier` or not. True if anything is known otherwise.
    fn merge(&mut self, other: Self, earlier: bool) -> bool;
}

impl Fact for crate::money::Rational {
    fn agrees(&self, other: &Self) -> bool {
        self == other
    }

    fn outranks(&self, other: &Self) -> bool {
        self > other
    }

    fn merge(&mut self, _: Self, _: bool) -> bool {
        false
    }
}

/// From the first to the last time at which the same was told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Span<T> {
    first: EventTime,
    last: EventTime,
    what: T,
}

impl<T> Span<T> {
    fn at(time: EventTime, what: T) -> Self {
        Self { first: time, last: time, what }
    }
}

/// What a telling did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// Nothing.
    Nothing,
    /// The same was told of another time.
    Again,
    /// Something is known otherwise.
    Otherwise,
}

/// A fact by the times at which it was told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Dated<T>(Vec<Span<T>>);

impl<T: Fact> Dated<T> {
    pub(crate) fn new(time: EventTime, what: T) -> Self {
        Self(vec![Span::at(time, what)])
    }

    /// What holds at a time.
    pub(crate) fn at(&self, time: EventTime) -> Option<&T> {
        let after = self.0.partition_point(|span| span.first <= time);
        self.0.get(after.saturating_sub(1)).map(|span| &span.what)
    }

    /// Each value with the time from which it holds.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (EventTime, &T)> {
        self.0.iter().map(|span| (span.first, &span.what))
    }

    /// Takes in what is told of a time.
    pub(crate) fn tell(&mut self, time: EventTime, what: T) -> Told {
        let mut next = self.0.partition_point(|span| span.first <= time);
        if let Some(span) = next.checked_sub(1).and_then(|held| self.0.get_mut(held)) {
            if span.what.agrees(&what) {
                let later = time > span.last;
                span.last = span.last.max(time);
                return match (span.what.merge(what, false), later) {
                    (true, _) => Told::Otherwise,
                    (false, true) => Told::Again,
                    (false, false) => Told::Nothing,
                };
            }
            if (span.first == time || span.last == time) && !what.outranks(&span.what) {
                return Told::Nothing;
            }
            // What was told on both sides of this time was told again after it.
            let again = (span.last > time).then(|| Span::at(span.last, span.what.clone()));
            if span.first == time {
                next -= 1;
                self.0.remove(next);
            } else if span.last >= time {
                span.last = span.first;
            }
            if let Some(again) = again {
                self.0.insert(next, again);
                self.0.insert(next, Span::at(time, what));
                return Told::Otherwise;
            }
        }
        match self.0.get_mut(next).filter(|span| span.what.agrees(&what)) {
            Some(later) => {
                later.first = time;
                // What was told first holds before it already.
                let known = !later.what.merge(what, true) && next == 0;
                if known { Told::Again } else { Told::Otherwise }
            }
            None => {
                self.0.insert(next, Span::at(time, what));
                Told::Otherwise
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Rational;

    #[test]
    fn what_was_told_last_before_an_instant_holds_whatever_order_it_came_in() {
        let told = [(0, 1), (10, 1), (5, 2), (20, 3), (20, 4)]
            .map(|(time, value)| (EventTime::from_seconds(time), Rational::from_integer(value.into())));
        let orders = (0..120).map(|mut code| {
            let mut left: Vec<usize> = (0..5).collect();
            (1..=5)
                .rev()
                .map(|count| {
                    let at = code % count;
                    code /= count;
                    left.remove(at)
                })
                .collect::<Vec<_>>()
        });
        for order in orders {
            let mut order_of = order.iter().map(|index| told[*index].clone());
            let (time, value) = order_of.next().unwrap();
            let mut dated = Dated::new(time, value);
            order_of.for_each(|(time, value)| {
                dated.tell(time, value);
            });
            let at = |seconds| dated.at(EventTime::from_seconds(seconds)).unwrap().to_string();
            assert_eq!(
                [-1, 0, 4, 5, 9, 10, 19, 20, 99].map(at),
                ["1", "1", "1", "2", "2", "1", "1", "4", "4"],
                "{order:?}"
            );
        }
    }
}

//! The history of one subscription: its snapshots by second, what each second was worth, and what was written of it.
//!
//! A snapshot goes into its second whenever it arrives; everything from there on is worked out again and only the
//! difference is written. Seconds more than 30 days behind the subscription's own newest event fold into a base: that
//! bounds memory, and it alone decides what is late. While something is still unknown (a price, a discount) the
//! history does not fold, so that the answer can still be put in its place.

use std::sync::Arc;

use super::{
    catalogue::{Need, Needs},
    content::{self, Content},
    entries::Slot,
    order::{Stage, Trace},
    packing::packed,
    replay::Context,
    resting::{Repeat, Sketch},
    valuation::{Gap, Valued},
};
use crate::{
    stripe::{
        ids::{EventId, SubscriptionItemId},
        types::{Event, Object, Subscription},
    },
    time::EventTime,
};

/// How far a base trails its entity's newest event: Stripe's own archive of events goes back that far.
pub const HORIZON_DAYS: i64 = 30;

/// Seconds kept of one subscription. Past that the oldest fold before their time, and what is older than the fold is
/// late: only a subscription that changes every ten minutes gets there.
pub const MAX_STEPS: usize = 4096;

/// Reason of the gap where something is now known better that folded history rests on.
pub(crate) const FOLDED: &str = "history_folded";

/// One snapshot.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Snap {
    pub(super) id: EventId,
    pub(super) appended_at: EventTime,
    pub(super) trace: Trace,
    pub(super) content: Arc<Content>,
    /// The content with `previous_attributes` undone; kept only until the history's beginning is known.
    pub(super) before: Option<Arc<Content>>,
}

packed!(Snap { id, appended_at, trace, content, before });

impl Snap {
    /// Reads an event; `keep_before` says whether the content before it may be asked for.
    fn of(
        event: &Event,
        subscription: &Subscription,
        sketch: Sketch,
        appended_at: EventTime,
        keep_before: bool,
    ) -> Self {
        let before = match event.before.as_deref() {
            Some(Object::Subscription(before)) if keep_before => Some(Arc::new(Content::of(before))),
            _ => None,
        };
        Self {
            id: event.id.clone(),
            appended_at,
            content: Arc::new(Content::sketched(subscription, sketch.content)),
            trace: sketch.trace,
            before,
        }
    }
}

/// The state after a second.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct State {
    pub(crate) valued: Arc<Valued>,
    pub(super) print: Option<u64>,
    pub(super) known_at: EventTime,
    pub(super) event_id: Option<EventId>,
}

packed!(State { valued, print, known_at, event_id });

impl State {
    pub(super) fn content(&self) -> Option<&Arc<Content>> {
        self.valued.content.as_ref()
    }
}

/// One second in which something happened, or in which something outside the subscription changed its value: its
/// customer's discount or deletion, or the end of a discount.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Step {
    pub(crate) time: EventTime,
    pub(super) snaps: Vec<Snap>,
    pub(super) after: State,
    /// What was written of this second.
    pub(crate) slots: Vec<Slot>,
    /// The item states that were written of this second.
    pub(super) shown: Vec<Shown>,
}

packed!(Step { time, snaps, after, slots, shown });

/// The item state last written of a second.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Shown {
    pub(super) item: SubscriptionItemId,
    /// Fingerprint of what was written.
    pub(super) print: u64,
    pub(super) revision: u32,
    /// Of an item that went: what the subscription was before, on which the row rests.
    pub(super) was: Option<Arc<Content>>,
}

packed!(Shown { item, print, revision, was });

/// What became of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Inserted {
    New,
    Duplicate,
    Late,
}

/// The history of one subscription.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct History {
    /// Its `*.created` event was seen, so that nothing lies before the first snapshot.
    pub(super) creation_seen: bool,
    pub(super) newest: EventTime,
    pub(super) base: Option<(EventTime, State)>,
    /// What lies before the first snapshot, for something first seen in mid-life.
    pub(super) opening: Option<Box<Step>>,
    pub(super) steps: Vec<Step>,
    pub(super) gaps: Vec<u64>,
    /// First and last second that have to be worked out again.
    pub(super) dirty: Option<(EventTime, EventTime)>,
}

packed!(History { creation_seen, newest, base, opening, steps, gaps; dirty });

impl History {
    /// Whether the history's beginning is still open.
    pub(crate) fn begins_open(&self) -> bool {
        !self.creation_seen && self.base.is_none()
    }

    /// Takes in the snapshot of an event.
    pub(crate) fn hear(
        &mut self,
        event: &Event,
        subscription: &Subscription,
        sketch: Sketch,
        appended_at: EventTime,
        folding: bool,
    ) -> Inserted {
        let snap = Snap::of(event, subscription, sketch, appended_at, self.begins_open());
        self.insert(snap, event.created, folding)
    }

    /// Puts a snapshot in its second.
    fn insert(&mut self, mut snap: Snap, time: EventTime, folding: bool) -> Inserted {
        let position = self.steps.partition_point(|step| step.time < time);
        let here = self.steps.get(position).is_some_and(|step| step.time == time);
        if here && self.steps[position].snaps.iter().any(|other| other.id == snap.id) {
            return Inserted::Duplicate;
        }
        if !self.reaches(time, folding) {
            return Inserted::Late;
        }
        let seen = self.is_seen();
        if position > 0 {
            content::share(&mut snap.content, self.steps[position - 1].after.content());
        } else if let Some((_, state)) = &self.base {
            content::share(&mut snap.content, state.content());
        }
        if snap.trace.stage == Stage::Created && !self.creation_seen {
            self.creation_seen = true;
            for snap in self.steps.iter_mut().flat_map(|step| &mut step.snaps) {
                snap.before = None;
            }
        }
        if snap.trace.stage == Stage::Created && self.opening.is_some() {
            self.touch(EventTime::MIN, time);
        }
        if !self.begins_open() {
            snap.before = None;
        }
        if !here {
            content::insert_tight(&mut self.steps, position, Step { time, ..Step::default() });
        }
        let snaps = &mut self.steps[position].snaps;
        content::insert_tight(snaps, snaps.len(), snap);
        self.newest = if seen { self.newest.max(time) } else { time };
        self.touch(time, time);
        Inserted::New
    }

    /// Whether nothing here waits for anything, be it a time to come.
    pub(crate) fn is_settled(&self) -> bool {
        self.dirty.is_none()
            && self.seconds().all(|step| step.after.valued.needs.is_empty())
            && self
                .newest_state()
                .is_none_or(|(_, State { valued, .. })| valued.needs.is_empty() && valued.valid_until.is_none())
    }

    /// The newest content and its time, if a newer snapshot of the same content would change nothing.
    pub(crate) fn calm(&self) -> Option<(&Content, EventTime)> {
        let (time, state) = self.newest_state().filter(|_| !self.begins_open())?;
        let Valued { content, ended, prints, .. } = &*state.valued;
        let content = content.as_deref()?;
        (!ended && prints.len() == content.items.len()).then_some((content, time.max(self.newest)))
    }

    /// What lies before the first snapshot, and every second that has not folded.
    fn seconds(&self) -> impl Iterator<Item = &Step> {
        self.opening.as_deref().into_iter().chain(&self.steps)
    }

    /// Whether any snapshot has come.
    fn is_seen(&self) -> bool {
        self.base.is_some() || !self.steps.is_empty()
    }

    fn newest_state(&self) -> Option<(EventTime, &State)> {
        let of_base = || self.base.as_ref().map(|(time, state)| (*time, state));
        self.steps.last().map(|step| (step.time, &step.after)).or_else(of_base)
    }

    /// Takes in a snapshot that repeats the newest content.
    pub(crate) fn repeat(&mut self, repeat: Repeat) {
        let content = self.newest_state().and_then(|(_, state)| state.valued.content.clone());
        let Some(content) = content else { return };
        let Repeat { time, folding, event_id: id, appended_at, trace, .. } = repeat;
        self.insert(Snap { id, appended_at, trace, content, before: None }, time, folding);
    }

    /// Asks for everything from `from` on to be worked out again, at least up to `to`.
    pub(crate) fn touch(&mut self, from: EventTime, to: EventTime) {
        self.dirty = Some(match self.dirty {
            Some((first, last)) => (first.min(from), last.max(to)),
            None => (from, to),
        });
    }

    /// Asks for everything that waits for something, or whose value has run out by `now`, to be worked out again.
    pub(crate) fn touch_unsettled(&mut self, now: EventTime) {
        if let Some(first) =
            self.seconds().filter(|step| !step.after.valued.needs.is_empty()).map(|step| step.time).min()
        {
            self.touch(first, EventTime::from_micros(i64::MAX));
        }
        if let Some(last) = self.steps.last()
            && last.after.valued.valid_until.is_some_and(|until| until <= now)
        {
            self.touch(last.time, last.time);
        }
    }

    /// Asks for everything to be worked out again if it rests on one of `needs`. True if it does, or if what has folded
    /// does: that stays as it was until a rebuild.
    pub(crate) fn touch_users(&mut self, needs: &Needs, discounted: bool) -> bool {
        let contents = self.seconds().filter_map(|step| step.after.valued.content.as_deref());
        let any = contents.into_iter().any(|content| rests_on(content, needs, discounted).next().is_some());
        if any {
            self.touch(EventTime::MIN, EventTime::from_micros(i64::MAX));
        }
        any || self.folded_content().is_some_and(|content| rests_on(content, needs, discounted).next().is_some())
    }

    /// Tells of each corrected fact that what has folded rests on it.
    pub(crate) fn report_folded(
        &mut self,
        needs: &Needs,
        discounted: bool,
        appended_at: EventTime,
        cx: &mut Context<'_>,
    ) {
        let Some(content) = self.folded_content() else { return };
        let corrected: Vec<Arc<str>> = rests_on(content, needs, discounted)
            .filter(|(_, corrected)| **corrected)
            .map(|(need, _)| need.object_id().into())
            .collect();
        let Some((time, State { event_id: Some(event_id), .. })) = self.base.clone() else { return };
        for object_id in corrected {
            self.report(Gap { reason: FOLDED, object_id }, time, appended_at, &event_id, cx);
        }
    }

    fn folded_content(&self) -> Option<&Content> {
        self.base.as_ref().and_then(|(_, state)| state.valued.content.as_deref())
    }

    /// The last second that has folded.
    pub(crate) fn folded(&self) -> Option<EventTime> {
        self.base.as_ref().map(|(time, _)| *time)
    }

    /// Whether a change at `time` can still be taken in: the same whether what is out of reach has folded yet or not.
    pub(crate) fn reaches(&self, time: EventTime, folding: bool) -> bool {
        let past = folding && self.is_seen() && time < self.newest.plus_days(-HORIZON_DAYS);
        !past && self.base.as_ref().is_none_or(|(base, _)| time > *base)
    }

    /// The rows that are written and not reversed, with their times.
    pub(crate) fn written(&self) -> impl Iterator<Item = (EventTime, &Slot)> {
        self.seconds().flat_map(|step| step.slots.iter().filter(|slot| slot.live).map(move |slot| (step.time, slot)))
    }

    /// Folds what is out of reach of any event that is not late; hands over what was written of it.
    pub(crate) fn fold(&mut self, folding: bool, mut hand_over: impl FnMut(EventTime, &Slot)) {
        if !folding {
            return;
        }
        let horizon = self.newest.plus_days(-HORIZON_DAYS);
        let too_many = self.steps.len().saturating_sub(MAX_STEPS);
        let unfolded = |(index, step): (usize, &Step)| {
            index >= too_many && (step.time >= horizon || !step.after.valued.needs.is_empty())
        };
        let keep_from = self.steps.iter().enumerate().position(unfolded).unwrap_or(self.steps.len());
        let opening_waits = self.opening.as_ref().is_some_and(|step| !step.after.valued.needs.is_empty());
        // An earlier snapshot than the first can still come until that is out of reach, and would be the beginning.
        let begun = self.base.is_some() || self.steps[..keep_from].iter().any(|step| !step.snaps.is_empty());
        if keep_from > 0 && begun && !(opening_waits && too_many == 0) {
            let opening = self.opening.take();
            for step in opening.as_deref().into_iter().chain(&self.steps[..keep_from]) {
                for slot in step.slots.iter().filter(|slot| slot.live) {
                    hand_over(step.time, slot);
                }
            }
            let last = self.steps.drain(..keep_from).next_back();
            self.base = last.map(|step| (step.time, step.after));
            for snap in self.steps.iter_mut().flat_map(|step| &mut step.snaps) {
                snap.before = None;
            }
        }
        self.thin_out(horizon);
    }

    /// While something is awaited, of a run of seconds out of reach in which nothing happened the last one will do: it
    /// carries the state that the next order is worked out from.
    fn thin_out(&mut self, horizon: EventTime) {
        let quiet = |step: &Step, before: &Step| {
            step.time < horizon
                && step.snaps.len() == 1
                && step.slots.is_empty()
                && step.shown.is_empty()
                && step.after.valued.content == before.after.valued.content
        };
        // What lies before the first snapshot rests on it.
        let begins = self.steps.iter().position(|step| self.base.is_some() || !step.snaps.is_empty());
        let mut index = begins.map_or(self.steps.len(), |first| first + 1);
        while index + 1 < self.steps.len() && self.steps[index + 1].time < horizon {
            let [before, step, next] = [index - 1, index, index + 1].map(|index| &self.steps[index]);
            if quiet(step, before) && quiet(next, step) {
                self.steps.remove(index);
            } else {
                index += 1;
            }
        }
    }
}

/// Those of `needs` that a state rests on: its prices, and any discount where it has one.
fn rests_on<'n>(content: &Content, needs: &'n Needs, discounted: bool) -> impl Iterator<Item = (&'n Need, &'n bool)> {
    let discounted =
        discounted || !content.discounts.is_empty() || content.items.iter().any(|item| !item.discounts.is_empty());
    needs.iter().filter(move |(need, _)| match need {
        Need::Price(id) => content.items.iter().any(|item| item.price == *id),
        _ => discounted,
    })
}

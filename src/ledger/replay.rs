//! The replay of one subscription: what each second was worth, and the difference to what was written of it.
//!
//! Starts at the earliest second that something new concerns and stops where nothing changes any more, so that the
//! usual event, one more at the end, costs one second's work.

use std::sync::Arc;

use super::{
    catalogue::Shelf,
    content::{self, Content},
    entries::{self, Place},
    hash::short,
    history::{History, Shown, Snap, State, Step},
    order::{self, Evidence, Stage, Trace},
    own_discounts::Reach,
    parts::{self, Memo, Part, Shared},
    rows::{Delta, LedgerGap, flag},
    rules::{BackdatedStart, Rules},
    states,
    valuation::{self, Gap, Valued},
};
use crate::{
    money::Rational,
    stripe::{
        ids::{CustomerId, DiscountId, EventId, SubscriptionId, SubscriptionItemId},
        types::{Scope, SubscriptionStatus},
    },
    time::EventTime,
};

/// Gaps remembered of one subscription, so that each is reported once; past that they may repeat.
const MAX_GAPS: usize = 64;

/// What a customer does to all its subscriptions, by time.
pub(crate) trait Surroundings {
    /// When the customer was deleted: time, append time, event.
    fn deleted(&self) -> Option<(EventTime, EventTime, &EventId)>;
    /// The customer's own discounts at a time.
    fn discounts_at(&self, time: EventTime, reach: Reach<'_>) -> Vec<DiscountId>;
    /// The share of an item's amount that is not inclusive tax, as its last invoice line before a time told.
    fn net_share_at(&self, item: &SubscriptionItemId, time: EventTime) -> Option<Rational>;
    /// Whether nothing of the customer ever changed what its subscriptions are worth.
    fn is_plain(&self) -> bool;
    /// The events that changed the customer at exactly this time, with their append times.
    fn changes_at(&self, time: EventTime, reach: Reach<'_>) -> Vec<(EventTime, &EventId)>;
    /// When the last was appended of the changes up to a time: all that its subscriptions are worth then rests on them.
    fn known_by(&self, time: EventTime, reach: Reach<'_>) -> EventTime;
    /// All times at which it changed.
    fn change_times(&self, reach: Reach<'_>) -> Vec<EventTime>;
}

/// What a replay works with.
pub(crate) struct Context<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) customer: &'a CustomerId,
    pub(crate) rules: &'a Rules,
    pub(crate) shelf: &'a mut Shelf,
    pub(crate) shelf_changed: &'a mut bool,
    pub(crate) memo: &'a mut Memo,
    pub(crate) delta: &'a mut Delta,
    /// When the newest record that led here was appended.
    pub(crate) trigger: EventTime,
    pub(crate) folding: bool,
}

impl History {
    /// Works out again what was asked for and writes the difference: from which second on, if anything was written.
    pub(crate) fn replay(
        &mut self,
        id: &SubscriptionId,
        around: &dyn Surroundings,
        cx: &mut Context<'_>,
    ) -> Option<EventTime> {
        let (from, to) = self.dirty.take()?;
        let from = self.place_marks(around, cx.shelf).map_or(from, |placed| placed.min(from));
        let mut index = self.steps.partition_point(|step| step.time < from);
        // What lies before the first snapshot rests on it.
        if self.base.is_none() && self.steps[..index].iter().all(|step| step.snaps.is_empty()) {
            index = 0;
        }
        let mut written = None;
        let mut state = match (index.checked_sub(1), &self.base) {
            (Some(before), _) => self.steps[before].after.clone(),
            (None, Some((_, state))) => state.clone(),
            (None, None) => {
                written = self.replay_opening(id, around, cx);
                // What changed between that and the first snapshot.
                self.place_marks(around, cx.shelf);
                self.opening.as_ref().map(|opening| opening.after.clone()).unwrap_or_default()
            }
        };
        loop {
            let next = self.steps.get(index).map(|step| step.time);
            if let Some(until) = state.valued.valid_until {
                if next.map_or(until <= cx.shelf.now(), |next| until < next) {
                    content::insert_tight(&mut self.steps, index, Step { time: until, ..Step::default() });
                } else if next.is_none() {
                    *cx.shelf_changed |= cx.shelf.remind(until, cx.customer);
                }
            }
            let Some(step) = self.steps.get_mut(index) else { break };
            let mut step = std::mem::take(step);
            let wrote = self.work_out(&mut step, &state, id, around, cx);
            let (changed, time) = (wrote.state, step.time);
            written = earlier(written, wrote.entries);
            state = step.after.clone();
            self.steps[index] = step;
            // After the last second there may still be the end of a discount to come.
            if !changed && time >= to && index + 1 < self.steps.len() {
                break;
            }
            index += 1;
        }
        written
    }

    /// Puts an empty second wherever the customer changed, so that the value is worked out there; the first one added.
    fn place_marks(&mut self, around: &dyn Surroundings, shelf: &Shelf) -> Option<EventTime> {
        let imported = self.opening.as_ref().filter(|_| !self.creation_seen).map(|step| step.time);
        let first = self.steps.iter().find(|step| !step.snaps.is_empty()).map(|step| step.time);
        let first = self.base.as_ref().map(|(time, _)| *time).or(imported).or(first)?;
        let mut added: Option<EventTime> = None;
        for time in around.change_times(Reach { shelf, folded: self.folded() }) {
            let position = self.steps.partition_point(|step| step.time < time);
            if time > first && self.steps.get(position).is_none_or(|step| step.time != time) {
                content::insert_tight(&mut self.steps, position, Step { time, ..Step::default() });
                added = Some(added.map_or(time, |earlier| earlier.min(time)));
            }
        }
        added
    }

    /// Works out what lies before the first snapshot. Something first seen through anything but its creation had a
    /// value before: that of the first snapshot with `previous_attributes` undone, since its start or its trial's end.
    /// Where the rules count a backdated subscription from its start, that lies before its creation.
    fn replay_opening(
        &mut self,
        id: &SubscriptionId,
        around: &dyn Surroundings,
        cx: &mut Context<'_>,
    ) -> Option<EventTime> {
        let imported = !self.creation_seen;
        let backdated = cx.rules.backdated_start == BackdatedStart::StartDate;
        let first = self.steps.iter().find(|step| !step.snaps.is_empty()).filter(|_| imported || backdated);
        let found = first.map(|step| {
            let (order, _) = in_order(None, &step.snaps);
            // What was created in a second is what it was at its end: that is the state that is shown of it.
            let snap = &step.snaps[if imported { order[0] } else { order[order.len() - 1] }];
            let content = Arc::clone(snap.before.as_ref().filter(|_| imported).unwrap_or(&snap.content));
            let print = imported.then(|| snap.trace.before.unwrap_or(snap.trace.print));
            let time = if imported { opening_time(&content, step.time) } else { content.started.unwrap_or(step.time) };
            // What is backdated is valued as it was when it was created.
            let seen = if imported { time } else { step.time };
            // What is backdated is gone from its start on if it was in the second of its creation.
            let ends = around.deleted().is_some_and(|(deleted, ..)| deleted <= seen)
                || !imported && step.snaps.iter().any(|snap| snap.trace.stage == Stage::Deleted);
            let known_by = around.known_by(seen, Reach { shelf: cx.shelf, folded: None });
            let heard = step.snaps.iter().map(|snap| snap.appended_at).filter(|_| !imported).max();
            let known_at = known_by.max(snap.appended_at).max(heard.unwrap_or(known_by));
            (time, step.time, seen, content, ends, print, known_at, snap.id.clone())
        });
        let found = found.filter(|(time, first, ..)| imported || time < first);
        let mut written = None;
        // What was written of it elsewhere goes. Its revisions go on: it may come back to where it was.
        let mut step = self.opening.take().unwrap_or_default();
        if found.as_ref().is_none_or(|(time, ..)| step.time != *time) {
            let nothing = State::default();
            let (kind, alone) = (Kind::Imported, Evidence::Alone);
            let wrote = self.write(&mut step, &nothing, nothing.clone(), None, &[], kind, alone, id, around, cx);
            written = wrote.entries;
        }
        let Some((time, _, seen, content, ends, print, known_at, event_id)) = found else {
            // Where it counts from its start, an earlier snapshot may bring it back.
            self.opening = (backdated && !(step.slots.is_empty() && step.shown.is_empty())).then_some(step);
            return written;
        };
        step.time = time;
        let ended =
            ends || matches!(content.status, SubscriptionStatus::Canceled | SubscriptionStatus::IncompleteExpired);
        let (valued, parts) = self.value(&content, ended, (seen, time), known_at, &event_id, around, cx);
        let valued = if imported { valued } else { unshown(valued) };
        let after = State { valued, print, known_at, event_id: Some(event_id.clone()) };
        let events = [event_id];
        let before = State::default();
        let kind = if imported { Kind::Imported } else { Kind::Backdated };
        let wrote = self.write(&mut step, &before, after, Some(&parts), &events, kind, Evidence::Alone, id, around, cx);
        self.opening = Some(step);
        earlier(written, wrote.entries)
    }

    /// Works out one second.
    fn work_out(
        &mut self,
        step: &mut Step,
        before: &State,
        id: &SubscriptionId,
        around: &dyn Surroundings,
        cx: &mut Context<'_>,
    ) -> Wrote {
        let early = self.is_before_beginning(step);
        if early && before.valued.valid_until.is_none_or(|until| step.time < until) {
            // What was written of it goes, and what was before goes on.
            let state = step.after != *before;
            let unshown = State { valued: unshown(Arc::clone(&before.valued)), ..before.clone() };
            let (after, alone) = (unshown.clone(), Evidence::Alone);
            let wrote = self.write(step, &unshown, after, None, &[], Kind::Second, alone, id, around, cx);
            step.after = before.clone();
            return Wrote { state, ..wrote };
        }
        let (order, evidence) = in_order(before.print, &step.snaps);
        let last = order.last().map(|index| &step.snaps[*index]);
        let Some(content) = last.map(|snap| &snap.content).or(before.content()) else {
            return Wrote::default();
        };
        let deleted = around.deleted().filter(|(time, ..)| *time <= step.time);
        let ended = before.valued.ended
            || deleted.is_some()
            || step.snaps.iter().any(|snap| snap.trace.stage == Stage::Deleted);
        let reach = Reach { shelf: cx.shelf, folded: self.folded() };
        let around_here = around.changes_at(step.time, reach);
        let mut known_at = step.snaps.iter().map(|snap| snap.appended_at).max().unwrap_or(before.known_at);
        if step.snaps.is_empty() && around_here.is_empty() {
            // The end of a discount is known when the clock has reached it.
            let first_known = if step.after == State::default() { cx.trigger } else { step.after.known_at };
            known_at = known_at.max(first_known);
        }
        let mut events: Vec<EventId> = order.iter().map(|index| step.snaps[*index].id.clone()).collect();
        for (appended_at, event) in around_here {
            known_at = known_at.max(appended_at);
            events.push(event.clone());
        }
        let event_id = events.last().or(before.event_id.as_ref()).cloned();
        if events.is_empty() {
            events.extend(event_id.clone());
        }
        let Some(event_id) = event_id else {
            return Wrote::default();
        };
        // The common case: a renewal or anything else that leaves the content as it was.
        let unchanged = before.content() == Some(content)
            && before.valued.ended == ended
            && before.valued.needs.is_empty()
            && before.valued.valid_until.is_none_or(|until| step.time < until)
            && before.valued.prints.len() == content.items.len()
            && around.is_plain();
        let content = Arc::clone(content);
        let print = last.map(|snap| snap.trace.print).or(before.print);
        let (valued, parts) = if unchanged {
            (Arc::clone(&before.valued), None)
        } else {
            known_at = known_at.max(around.known_by(step.time, reach));
            let (valued, parts) = self.value(&content, ended, (step.time, step.time), known_at, &event_id, around, cx);
            (if early { unshown(valued) } else { valued }, Some(parts))
        };
        if evidence == Evidence::Arbitrary {
            let gap = Gap { reason: "order_arbitrary", object_id: event_id.as_str().into() };
            self.report(gap, step.time, known_at, &event_id, cx);
        }
        let after = State { valued, print, known_at, event_id: Some(event_id) };
        self.write(step, before, after, parts.as_deref(), &events, Kind::Second, evidence, id, around, cx)
    }

    /// Whether it is a second before the first snapshot in which nothing can have happened: before the creation, or not
    /// after what was imported.
    fn is_before_beginning(&self, step: &Step) -> bool {
        let mut earlier = self.steps.iter().take_while(|other| other.time < step.time);
        let imported = self.opening.as_ref().is_some_and(|opening| step.time <= opening.time);
        (self.creation_seen || imported)
            && self.base.is_none()
            && step.snaps.is_empty()
            && earlier.all(|other| other.snaps.is_empty())
    }

    /// The value at `time` of a state as it was `seen`.
    #[allow(clippy::too_many_arguments, reason = "the whole of a state")]
    fn value(
        &mut self,
        content: &Arc<Content>,
        ended: bool,
        (seen, time): (EventTime, EventTime),
        known_at: EventTime,
        event_id: &EventId,
        around: &dyn Surroundings,
        cx: &mut Context<'_>,
    ) -> (Arc<Valued>, Vec<Part>) {
        let mut gaps = Vec::new();
        let parts = parts_at(content, seen, self.folded(), around, cx);
        let prints = parts.iter().map(|part| (part.item.clone(), parts::print(content, ended, part))).collect();
        let valued = valuation::value(content, ended, &parts, prints, time, cx.rules, &mut gaps);
        for need in &valued.needs {
            *cx.shelf_changed |= cx.shelf.wait(need.clone(), cx.customer);
        }
        for gap in gaps {
            self.report(gap, time, known_at, event_id, cx);
        }
        (Arc::new(valued), parts)
    }

    pub(super) fn report(
        &mut self,
        gap: Gap,
        time: EventTime,
        known_at: EventTime,
        event_id: &EventId,
        cx: &mut Context<'_>,
    ) {
        let print = short(&[gap.reason, &gap.object_id]);
        if self.gaps.contains(&print) {
            return;
        }
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push(print);
        }
        cx.delta.gaps.push(LedgerGap {
            scope: cx.scope.clone(),
            occurred_at: time,
            known_at,
            customer_id: Some(cx.customer.clone()),
            object_id: gap.object_id,
            reason: gap.reason.into(),
            event_id: event_id.clone(),
        });
    }

    /// Writes the difference between what a second is worth and what was written of it.
    #[allow(clippy::too_many_arguments, reason = "the whole of a second")]
    fn write(
        &mut self,
        step: &mut Step,
        before: &State,
        after: State,
        parts: Option<&[Part]>,
        events: &[EventId],
        kind: Kind,
        evidence: Evidence,
        id: &SubscriptionId,
        around: &dyn Surroundings,
        cx: &mut Context<'_>,
    ) -> Wrote {
        let same = Arc::ptr_eq(&before.valued, &after.valued);
        let mut wrote = Wrote { entries: None, state: step.after != after };
        if !(same && step.slots.is_empty()) {
            let mut wanted =
                if same { Vec::new() } else { entries::between(&before.valued, &after.valued, kind == Kind::Imported) };
            for entry in &mut wanted {
                entry.known_at = entry.known_at.max(after.known_at).max(before.known_at);
            }
            let place = place(cx, id, step.time, kind != Kind::Second);
            let written = entries::reconcile(&mut step.slots, wanted, events, &place, cx.delta);
            wrote.entries = written.then_some(step.time);
        }
        if !(same && step.shown.is_empty()) {
            // Before the log only what was imported has states, be it that they no longer hold.
            self.show(step, before, &after, parts, kind != Kind::Second, evidence, id, around, cx);
        }
        step.after = after;
        wrote
    }

    /// Writes the item states of a second that are not written yet, or no longer hold.
    #[allow(clippy::too_many_arguments, reason = "the whole of a second")]
    fn show(
        &self,
        step: &mut Step,
        before: &State,
        after: &State,
        parts: Option<&[Part]>,
        opening: bool,
        evidence: Evidence,
        id: &SubscriptionId,
        around: &dyn Surroundings,
        cx: &mut Context<'_>,
    ) {
        let (old, new) = (&before.valued.prints, &after.valued.prints);
        let print_in = |prints: &[(SubscriptionItemId, u64)], item: &SubscriptionItemId| {
            prints.iter().find(|(id, _)| id == item).map(|(_, print)| *print)
        };
        let mut wanted: Vec<(SubscriptionItemId, u64)> =
            new.iter().filter(|(item, print)| print_in(old, item) != Some(*print)).cloned().collect();
        let ended = after.valued.ended;
        // What went is shown as it was, at the time at which it went.
        let went = |item: &SubscriptionItemId| print_in(new, item).is_none() && print_in(old, item).is_some();
        let parts_before = match before.content() {
            Some(content) if old.iter().any(|(item, _)| went(item)) => {
                parts_at(content, step.time, self.folded(), around, cx)
            }
            _ => Vec::new(),
        };
        if let Some(content) = after.content() {
            let left = parts_before.iter().filter(|part| went(&part.item));
            wanted.extend(left.map(|part| (part.item.clone(), parts::print(content, ended, part) ^ REMOVED)));
        }
        for shown in &step.shown {
            if !wanted.iter().any(|(other, _)| *other == shown.item) {
                wanted.push((shown.item.clone(), print_in(new, &shown.item).unwrap_or(WITHDRAWN)));
            }
        }
        wanted.retain(|(item, print)| !step.shown.iter().any(|shown| shown.item == *item && shown.print == *print));
        let Some(event_id) = after.event_id.as_ref().or(step.after.event_id.as_ref()).cloned() else { return };
        for (item, print) in wanted {
            let known = step.shown.iter().position(|shown| shown.item == item);
            let written = known.map(|index| &step.shown[index]);
            let (content, gone): (_, &[&'static str]) = match print {
                _ if went(&item) && ended => (before.content(), &[flag::REMOVED, flag::DELETED]),
                _ if went(&item) => (before.content(), &[flag::REMOVED]),
                WITHDRAWN => {
                    (written.and_then(|shown| shown.was.as_ref()).or(step.after.content()), &[flag::WITHDRAWN])
                }
                _ if ended => (after.content(), &[flag::DELETED]),
                _ => (after.content(), &[]),
            };
            let Some(content) = content.cloned() else { continue };
            let worked_out;
            let parts = match parts {
                _ if went(&item) => &parts_before,
                Some(parts) if print != WITHDRAWN => parts,
                _ => {
                    worked_out = parts_at(&content, step.time, self.folded(), around, cx);
                    &worked_out
                }
            };
            let Some(position) = parts.iter().position(|part| part.item == item) else { continue };
            let revision = written.map_or(1, |shown| shown.revision + 1);
            let known_at = if went(&item) { after.known_at.max(before.known_at) } else { after.known_at };
            let row = states::Row {
                scope: cx.scope,
                customer: cx.customer,
                subscription: id,
                content: after.content().unwrap_or(&content),
                gone,
                reconstructed: opening,
                time: step.time,
                known_at: if revision == 1 { known_at } else { known_at.max(cx.trigger) },
                event_id: event_id.clone(),
                order_evidence: evidence.as_str(),
            };
            cx.delta.item_states.push(row.of(&parts[position], position, revision));
            let was = went(&item).then(|| Arc::clone(&content));
            let shown = Shown { item, print, revision, was };
            match known {
                Some(index) => step.shown[index] = shown,
                None => {
                    let end = step.shown.len();
                    content::insert_tight(&mut step.shown, end, shown);
                }
            }
        }
    }
}

/// What a second is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One in which something happened.
    Second,
    /// The beginning of something first seen in mid-life.
    Imported,
    /// The start, before its creation, of something backdated.
    Backdated,
}

/// What working out a second did.
#[derive(Clone, Copy, Default)]
struct Wrote {
    /// When the rows of the ledger are that were written.
    entries: Option<EventTime>,
    /// The state after it is another than before.
    state: bool,
}

/// The earlier of two times, where there are any.
pub(crate) fn earlier(a: Option<EventTime>, b: Option<EventTime>) -> Option<EventTime> {
    a.into_iter().chain(b).min()
}

fn in_order(before: Option<u64>, snaps: &[Snap]) -> (Vec<usize>, Evidence) {
    match snaps {
        [] => (Vec::new(), Evidence::Alone),
        [_] => (vec![0], Evidence::Alone),
        _ => {
            // Snapshots that are alike in everything are told apart by their ids, so that rows list them alike.
            let mut alike: Vec<usize> = (0..snaps.len()).collect();
            alike.sort_unstable_by_key(|index| &snaps[*index].id);
            let traces: Vec<&Trace> = alike.iter().map(|index| &snaps[*index].trace).collect();
            let (order, evidence) = order::order(before, &traces);
            (order.into_iter().map(|index| alike[index]).collect(), evidence)
        }
    }
}

/// When the value before the first snapshot began: at the start, or at the end of a trial that was over by then
/// (docs/how-we-count.md "Movements", `imported`).
fn opening_time(content: &Content, first: EventTime) -> EventTime {
    let trial_end = content.trial_end.filter(|end| *end <= first);
    content.started.max(trial_end).map_or(first, |time| time.min(first))
}

fn place<'a>(cx: &Context<'a>, subscription: &'a SubscriptionId, time: EventTime, opening: bool) -> Place<'a> {
    Place { scope: cx.scope, customer: cx.customer, subscription, time, opening, trigger: cx.trigger }
}

/// A value of before the creation: which states are shown is not a matter of rules, they begin with the creation.
fn unshown(mut valued: Arc<Valued>) -> Arc<Valued> {
    Arc::make_mut(&mut valued).prints.clear();
    valued
}

/// The parts of a state at a time.
fn parts_at(
    content: &Content,
    time: EventTime,
    folded: Option<EventTime>,
    around: &dyn Surroundings,
    cx: &mut Context<'_>,
) -> Vec<Part> {
    let discounts = around.discounts_at(time, Reach { shelf: cx.shelf, folded });
    let shared = Shared::of(content, &discounts);
    parts::of(content, shared, cx.shelf, time, |item| around.net_share_at(item, time), cx.memo)
}

/// Mixed into the fingerprint of what an item was when it went.
const REMOVED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Stands for a state that was written and does not hold; no fingerprint is this.
const WITHDRAWN: u64 = u64::MAX;

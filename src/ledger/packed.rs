//! A history as it is stored: every content and every value once, however many seconds share them, and an event's id
//! once a second.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    content::Content,
    entries::Slot,
    history::{History, Shown, Snap, State, Step},
    order::Trace,
    valuation::Valued,
};
use crate::{stripe::ids::EventId, time::EventTime};

/// The place of a content or a value in its list.
type Place = u32;

#[derive(Serialize, Deserialize)]
struct Packed<'a> {
    contents: Vec<Arc<Content>>,
    values: Vec<(Option<Place>, Arc<Valued>)>,
    creation_seen: bool,
    newest: EventTime,
    base: Option<(EventTime, PackedState)>,
    opening: Option<PackedStep<'a>>,
    steps: Vec<PackedStep<'a>>,
    gaps: Cow<'a, [u64]>,
}

#[derive(Serialize, Deserialize)]
struct PackedStep<'a> {
    time: EventTime,
    snaps: Vec<PackedSnap>,
    after: PackedState,
    slots: Cow<'a, [Slot]>,
    shown: Cow<'a, [Shown]>,
}

#[derive(Serialize, Deserialize)]
struct PackedSnap {
    id: EventId,
    appended_at: EventTime,
    trace: Trace,
    content: Place,
    before: Option<Place>,
}

#[derive(Serialize, Deserialize)]
struct PackedState {
    values: Place,
    print: Option<u64>,
    known_at: EventTime,
    event: Event,
}

/// The event that a state rests on.
#[derive(Serialize, Deserialize)]
enum Event {
    None,
    /// That of a snapshot of its second.
    OfSnap(u32),
    Other(EventId),
}

impl Serialize for History {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut lists = Lists::default();
        let base = self.base.as_ref().map(|(time, state)| (*time, lists.state(state, &[])));
        let opening = self.opening.as_deref().map(|step| lists.step(step));
        let steps = self.steps.iter().map(|step| lists.step(step)).collect();
        let Lists { contents, values } = lists;
        let &Self { creation_seen, newest, ref gaps, .. } = self;
        Packed { contents, values, creation_seen, newest, base, opening, steps, gaps: Cow::Borrowed(gaps) }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for History {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let packed = Packed::deserialize(deserializer)?;
        packed.unpack().ok_or_else(|| de::Error::custom("a history names a content or a value that it does not hold"))
    }
}

/// What is shared, by identity; new ones are mostly like the last.
#[derive(Default)]
struct Lists {
    contents: Vec<Arc<Content>>,
    values: Vec<(Option<Place>, Arc<Valued>)>,
}

impl Lists {
    fn content(&mut self, content: &Arc<Content>) -> Place {
        let place = self.contents.iter().rposition(|held| Arc::ptr_eq(held, content)).unwrap_or_else(|| {
            self.contents.push(Arc::clone(content));
            self.contents.len() - 1
        });
        place as Place
    }

    fn values(&mut self, valued: &Arc<Valued>) -> Place {
        let place = self.values.iter().rposition(|(_, held)| Arc::ptr_eq(held, valued)).unwrap_or_else(|| {
            let content = valued.content.as_ref().map(|content| self.content(content));
            self.values.push((content, Arc::clone(valued)));
            self.values.len() - 1
        });
        place as Place
    }

    fn state(&mut self, state: &State, snaps: &[Snap]) -> PackedState {
        let event = state.event_id.as_ref().map_or(Event::None, |id| {
            let snap = snaps.iter().position(|snap| snap.id == *id);
            snap.map_or_else(|| Event::Other(id.clone()), |snap| Event::OfSnap(snap as u32))
        });
        PackedState { values: self.values(&state.valued), print: state.print, known_at: state.known_at, event }
    }

    fn step<'a>(&mut self, step: &'a Step) -> PackedStep<'a> {
        let snaps = step.snaps.iter().map(|snap| PackedSnap {
            id: snap.id.clone(),
            appended_at: snap.appended_at,
            trace: snap.trace.clone(),
            content: self.content(&snap.content),
            before: snap.before.as_ref().map(|before| self.content(before)),
        });
        PackedStep {
            time: step.time,
            snaps: snaps.collect(),
            after: self.state(&step.after, &step.snaps),
            slots: Cow::Borrowed(&step.slots),
            shown: Cow::Borrowed(&step.shown),
        }
    }
}

impl Packed<'_> {
    fn unpack(self) -> Option<History> {
        let Self { contents, values, creation_seen, newest, base, opening, steps, gaps } = self;
        let content = |place: Place| contents.get(place as usize).map(Arc::clone);
        let mut valued = Vec::with_capacity(values.len());
        for (place, mut values) in values {
            if let Some(place) = place {
                Arc::make_mut(&mut values).content = Some(content(place)?);
            }
            valued.push(values);
        }
        let state = |state: PackedState, snaps: &[Snap]| {
            let PackedState { values, print, known_at, event } = state;
            let event_id = match event {
                Event::None => None,
                Event::OfSnap(snap) => Some(snaps.get(snap as usize)?.id.clone()),
                Event::Other(id) => Some(id),
            };
            Some(State { valued: Arc::clone(valued.get(values as usize)?), print, known_at, event_id })
        };
        let snap = |snap: PackedSnap| {
            let PackedSnap { id, appended_at, trace, content: place, before } = snap;
            let before = match before {
                Some(place) => Some(content(place)?),
                None => None,
            };
            Some(Snap { id, appended_at, trace, content: content(place)?, before })
        };
        let step = |step: PackedStep<'_>| {
            let PackedStep { time, snaps, after, slots, shown } = step;
            let snaps = snaps.into_iter().map(snap).collect::<Option<Vec<_>>>()?;
            let after = state(after, &snaps)?;
            Some(Step { time, snaps, after, slots: slots.into_owned(), shown: shown.into_owned() })
        };
        let base = match base {
            Some((time, after)) => Some((time, state(after, &[])?)),
            None => None,
        };
        let opening = match opening {
            Some(opening) => Some(Box::new(step(opening)?)),
            None => None,
        };
        let steps = steps.into_iter().map(step).collect::<Option<Vec<_>>>()?;
        Some(History { creation_seen, newest, base, opening, steps, gaps: gaps.into_owned(), dirty: None })
    }
}

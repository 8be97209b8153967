//! The order of snapshots that share one second.
//!
//! Stripe's times have whole seconds and neither arrival nor event ids say anything, so the order is worked out: the
//! walk from the state before that second that uses every snapshot, comparing whole states; if there is none, the
//! order of life, then evidence that only grows, then the content's fingerprint, which decides nothing real but
//! decides alike everywhere.

use serde::{Deserialize, Serialize};

use super::{
    content,
    packing::{packed, packed_words},
};
use crate::stripe::types::{Event, Object, Subscription};

/// Where in its object's life an event stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Stage {
    Created,
    Ordinary,
    Deleted,
}

packed_words!(Stage { Created, Ordinary, Deleted });

impl Stage {
    pub(crate) fn of(event: &Event) -> Self {
        if event.is_creation() {
            Self::Created
        } else if event.is_deletion() {
            Self::Deleted
        } else {
            Self::Ordinary
        }
    }
}

/// What ordering needs of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Trace {
    pub(crate) stage: Stage,
    /// Fingerprint of the state.
    pub(crate) print: u64,
    /// Fingerprint of the state with `previous_attributes` undone, where the event has them.
    pub(crate) before: Option<u64>,
    /// See [`content::progress`].
    pub(crate) progress: u64,
}

packed!(Trace { stage, print, before, progress });

impl Trace {
    /// That of a subscription in the body of an event.
    pub(crate) fn of(event: &Event, subscription: &Subscription) -> Self {
        let before = match event.before.as_deref() {
            Some(Object::Subscription(before)) => Some(content::fingerprint(before)),
            _ => None,
        };
        Self {
            stage: Stage::of(event),
            print: content::fingerprint(subscription),
            before,
            progress: content::progress(subscription),
        }
    }
}

/// What decided the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Evidence {
    /// There was one snapshot, or all are alike.
    Alone,
    /// A walk through whole states.
    Chain,
    /// The order of life or evidence that only grows.
    Lifecycle,
    /// Nothing real.
    Arbitrary,
}

impl Evidence {
    /// The code in `item_states`; none where there was nothing to decide.
    pub(crate) fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Alone => None,
            Self::Chain => Some("chain"),
            Self::Lifecycle => Some("lifecycle"),
            Self::Arbitrary => Some("arbitrary"),
        }
    }
}

/// More snapshots than this in one second of one subscription are ordered without looking for a walk: looking could
/// take too long, and Stripe does not write them.
const MAX_WALK: usize = 12;

/// Steps tried before looking for a walk is given up.
const MAX_TRIES: u32 = 20_000;

/// The order of `traces` (as indices) after a state with fingerprint `state` (`None`: nothing before). The result does
/// not depend on the order of the input, except among equal traces (docs/how-we-count.md "Late events, and asking what
/// was known").
pub(crate) fn order(state: Option<u64>, traces: &[&Trace]) -> (Vec<usize>, Evidence) {
    let mut indices: Vec<usize> = (0..traces.len()).collect();
    let rank = |index: &usize| (traces[*index].stage, traces[*index].progress);
    // The smallest fingerprint ends up last: it is the state that holds.
    indices.sort_by(|a, b| {
        let key = |i: &usize| (traces[*i].print, traces[*i].before);
        rank(a).cmp(&rank(b)).then(key(b).cmp(&key(a)))
    });
    let alike = indices.windows(2).all(|pair| traces[pair[0]].print == traces[pair[1]].print);
    if alike {
        return (indices, Evidence::Alone);
    }
    if traces.len() <= MAX_WALK
        && let Some(walk) = find_walk(state, traces, &indices)
    {
        return (walk, Evidence::Chain);
    }
    let last = indices.len() - 1;
    let decided = rank(&indices[last - 1]) < rank(&indices[last])
        || traces[indices[last - 1]].print == traces[indices[last]].print;
    (indices, if decided { Evidence::Lifecycle } else { Evidence::Arbitrary })
}

fn find_walk(state: Option<u64>, traces: &[&Trace], candidates: &[usize]) -> Option<Vec<usize>> {
    let mut walk = Vec::with_capacity(traces.len());
    let mut used = vec![false; traces.len()];
    let mut tries = 0;
    // Without a state before and without a creation, the walk may begin anywhere.
    let begins_anywhere = state.is_none() && traces.iter().all(|trace| trace.stage != Stage::Created);
    let starts: Vec<Option<u64>> =
        if begins_anywhere { candidates.iter().map(|index| traces[*index].before).collect() } else { vec![state] };
    starts.into_iter().any(|start| extend(start, traces, candidates, &mut walk, &mut used, &mut tries)).then_some(walk)
}

fn extend(
    state: Option<u64>,
    traces: &[&Trace],
    candidates: &[usize],
    walk: &mut Vec<usize>,
    used: &mut [bool],
    tries: &mut u32,
) -> bool {
    if walk.len() == traces.len() {
        return true;
    }
    for &index in candidates {
        *tries += 1;
        if *tries > MAX_TRIES {
            return false;
        }
        if used[index] || !follows(state, traces[index], walk.len() + 1 == traces.len()) {
            continue;
        }
        used[index] = true;
        walk.push(index);
        if extend(Some(traces[index].print), traces, candidates, walk, used, tries) {
            return true;
        }
        walk.pop();
        used[index] = false;
    }
    false
}

/// Whether a snapshot can come right after `state`. Without `previous_attributes` an event changed nothing, unless it
/// begins or ends a life.
fn follows(state: Option<u64>, trace: &Trace, last: bool) -> bool {
    match (trace.stage, trace.before) {
        (Stage::Created, _) => state.is_none(),
        (Stage::Deleted, None) => last,
        (_, Some(before)) => state == Some(before) && (trace.stage != Stage::Deleted || last),
        (Stage::Ordinary, None) => state == Some(trace.print),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(before: u64, print: u64) -> Trace {
        Trace { stage: Stage::Ordinary, print, before: Some(before), progress: 0 }
    }

    fn last_state(state: Option<u64>, traces: &[Trace]) -> (u64, Evidence) {
        let (indices, evidence) = order(state, &traces.iter().collect::<Vec<_>>());
        assert_eq!(indices.len(), traces.len());
        (traces[*indices.last().unwrap()].print, evidence)
    }

    #[test]
    fn a_walk_uses_every_snapshot_whatever_the_arrival_order() {
        let there_and_back = [update(1, 2), update(2, 1)];
        let [a, b] = there_and_back;
        assert_eq!(last_state(Some(1), &there_and_back), (1, Evidence::Chain));
        assert_eq!(last_state(Some(1), &[b, a]), (1, Evidence::Chain));
        // A pairwise comparison would go round in circles: 1 → 2 → 3 → 1 → 4.
        let cycle = [update(3, 1), update(1, 4), update(2, 3), update(1, 2)];
        assert_eq!(last_state(Some(1), &cycle), (4, Evidence::Chain));
    }

    #[test]
    fn creation_comes_first_and_deletion_last() {
        let created = Trace { stage: Stage::Created, print: 1, before: None, progress: 0 };
        let deleted = Trace { stage: Stage::Deleted, print: 9, before: None, progress: 0 };
        let (indices, evidence) = order(None, &[&deleted, &update(1, 2), &created]);
        assert_eq!((indices, evidence), (vec![2, 1, 0], Evidence::Chain));
    }

    #[test]
    fn without_a_walk_progress_decides_and_then_the_smallest_fingerprint() {
        let old = Trace { progress: 1, ..update(70, 5) };
        let new = Trace { progress: 2, ..update(80, 6) };
        assert_eq!(last_state(Some(1), &[new, old]), (6, Evidence::Lifecycle));
        assert_eq!(last_state(Some(1), &[update(70, 5), update(80, 6)]), (5, Evidence::Arbitrary));
        assert_eq!(last_state(Some(1), &[update(80, 6), update(70, 5)]), (5, Evidence::Arbitrary));
    }
}

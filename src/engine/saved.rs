//! What the newest checkpoint keeps of the state, by name: for each a blob with everything, and blobs with what changed
//! since, in order. A checkpoint writes what changed; everything is written again when it costs no more than that has.
//! Where what changed is in many blobs it is put into one.

use std::collections::BTreeMap;

use crate::stream::checkpoint::BlobRef;

/// Blobs with changes behind one with everything: a start reads all of them, and a manifest names them.
const MAX_CHANGES: usize = 64;

/// How large changes may grow, in sizes of what is written as a whole, while that can wait.
const MOST_CHANGES: u64 = 2;

/// Whether a state is to be written as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whole {
    /// Only what changed.
    Not,
    /// It comes as cheap as what changed has, but can wait.
    Soon,
    /// It was not yet, or has waited long enough.
    Now,
}

/// The blobs of a state as the manifest has them: `name` with everything, `name.000` and so on with changes.
#[derive(Clone, Default)]
pub(super) struct SavedState(BTreeMap<String, BlobRef>);

impl SavedState {
    pub(super) fn new(blobs: BTreeMap<String, BlobRef>) -> Self {
        Self(blobs)
    }

    /// As a manifest has it.
    pub(super) fn blobs(&self) -> &BTreeMap<String, BlobRef> {
        &self.0
    }

    /// The blobs of a state in the order in which they are put back.
    pub(super) fn parts(&self, name: &str) -> impl Iterator<Item = &BlobRef> {
        let end = format!("{name}/");
        // A digit comes after a point, and a point before a stroke.
        self.0.range(name.to_owned()..end).filter(move |(key, _)| is_of(key, name)).map(|(_, blob)| blob)
    }

    /// The bytes of some states.
    pub(super) fn bytes(&self, names: &[String]) -> u64 {
        names.iter().flat_map(|name| self.parts(name)).map(|blob| blob.bytes).sum()
    }

    /// Whether a state is to be written as a whole, and how large it was then.
    pub(super) fn wants_whole(&self, name: &str) -> (Whole, u64) {
        let Some(whole) = self.0.get(name) else { return (Whole::Now, 0) };
        let changes: u64 = self.parts(name).skip(1).map(|blob| blob.bytes).sum();
        let wants = if changes >= whole.bytes.saturating_mul(MOST_CHANGES) {
            Whole::Now
        } else if changes >= whole.bytes {
            Whole::Soon
        } else {
            Whole::Not
        };
        (wants, whole.bytes)
    }

    /// The states whose changes are in too many blobs.
    pub(super) fn scattered(&self) -> Vec<String> {
        let is_scattered = |name: &&str| self.parts(name).count() > MAX_CHANGES;
        self.names().filter(is_scattered).map(str::to_owned).collect()
    }

    /// Takes in one blob in the place of those with changes.
    pub(super) fn put_merged(&mut self, name: &str, blob: BlobRef) {
        self.0.retain(|key, _| key == name || !is_of(key, name));
        self.put_changes(name, blob);
    }

    /// Takes in a blob with everything.
    pub(super) fn put_whole(&mut self, name: &str, blob: BlobRef) {
        self.forget(name);
        self.0.insert(name.to_owned(), blob);
    }

    /// Takes in a blob with what changed since the last one.
    pub(super) fn put_changes(&mut self, name: &str, blob: BlobRef) {
        let number = self.parts(name).count().saturating_sub(1);
        self.0.insert(format!("{name}.{number:03}"), blob);
    }

    /// Forgets a state.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.retain(|key, _| !is_of(key, name));
    }

    /// Forgets the states whose names do not pass.
    pub(super) fn retain(&mut self, passes: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| passes(key.split_once('.').map_or(key, |(name, _)| name)));
    }

    /// The names of the states.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).filter(|key| !key.contains('.'))
    }
}

/// Whether a blob is of a state.
fn is_of(key: &str, name: &str) -> bool {
    key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(bytes: u64) -> BlobRef {
        BlobRef { path: format!("{bytes}"), bytes, sha256: String::new() }
    }

    fn parts(state: &SavedState, name: &str) -> Vec<u64> {
        state.parts(name).map(|blob| blob.bytes).collect()
    }

    #[test]
    fn a_state_is_written_whole_once_its_changes_are_as_large() {
        let mut state = SavedState::default();
        assert_eq!(state.wants_whole("a"), (Whole::Now, 0));
        state.put_whole("a", blob(100));
        state.put_whole("a_b", blob(7));
        for bytes in [60, 30] {
            assert_eq!(state.wants_whole("a"), (Whole::Not, 100));
            state.put_changes("a", blob(bytes));
        }
        assert_eq!((parts(&state, "a"), parts(&state, "a_b")), (vec![100, 60, 30], vec![7]));
        assert_eq!(state.wants_whole("a"), (Whole::Not, 100));
        state.put_changes("a", blob(10));
        assert_eq!(state.wants_whole("a"), (Whole::Soon, 100));
        state.put_changes("a", blob(100));
        assert_eq!(state.wants_whole("a"), (Whole::Now, 100));
        state.put_whole("a", blob(120));
        assert_eq!(parts(&state, "a"), [120]);
        assert_eq!(state.names().collect::<Vec<_>>(), ["a", "a_b"]);
        state.retain(|name| name != "a");
        assert_eq!((parts(&state, "a"), parts(&state, "a_b")), (vec![], vec![7]));
    }

    #[test]
    fn changes_are_put_back_in_the_order_in_which_they_came_and_are_not_too_many() {
        let mut state = SavedState::default();
        state.put_whole("a", blob(1_000_000));
        state.put_whole("a_b", blob(7));
        for bytes in 0..MAX_CHANGES as u64 {
            assert!(state.scattered().is_empty());
            state.put_changes("a", blob(bytes));
        }
        assert!(parts(&state, "a")[1..].is_sorted());
        assert_eq!(state.scattered(), ["a"]);
        state.put_merged("a", blob(500));
        state.put_changes("a", blob(3));
        assert_eq!((parts(&state, "a"), parts(&state, "a_b")), (vec![1_000_000, 500, 3], vec![7]));
    }
}

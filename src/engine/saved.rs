//! What the newest checkpoint keeps of the state, by name: for each a blob with everything, and blobs with what changed
//! since, in order. A checkpoint writes what changed; everything is written again when it costs no more than that has.

use std::collections::BTreeMap;

use crate::stream::checkpoint::BlobRef;

/// Blobs with changes behind one with everything: a start reads all of them.
const MAX_CHANGES: usize = 64;

/// The blobs of a state as the manifest has them: `name` with everything, `name.000` and so on with changes.
#[derive(Default)]
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

    /// Whether a state must be written as a whole: there is none, or so much has changed that it comes as cheap.
    pub(super) fn wants_whole(&self, name: &str) -> bool {
        let Some(whole) = self.0.get(name) else { return true };
        let changes: Vec<u64> = self.parts(name).skip(1).map(|blob| blob.bytes).collect();
        changes.len() >= MAX_CHANGES || changes.iter().sum::<u64>() >= whole.bytes
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
        assert!(state.wants_whole("a"));
        state.put_whole("a", blob(100));
        state.put_whole("a_b", blob(7));
        for bytes in [60, 30] {
            assert!(!state.wants_whole("a"));
            state.put_changes("a", blob(bytes));
        }
        assert_eq!((parts(&state, "a"), parts(&state, "a_b")), (vec![100, 60, 30], vec![7]));
        assert!(!state.wants_whole("a"));
        state.put_changes("a", blob(10));
        assert!(state.wants_whole("a"));
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
        for bytes in 0..MAX_CHANGES as u64 {
            assert!(!state.wants_whole("a"));
            state.put_changes("a", blob(bytes));
        }
        assert!(state.wants_whole("a"));
        assert!(parts(&state, "a")[1..].is_sorted());
    }
}

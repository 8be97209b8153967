//! The rows that a keyed pipeline keeps: for every key how often each row of each linear part is there.
//!
//! The rows of a key lie in one run of bytes, in order: each takes its own bytes and [`HEADER`] more. What came and went
//! since the last checkpoint is kept beside them, so that a checkpoint writes that alone; before the first one, and where
//! none ever comes, nothing is.

use datafusion::common::HashMap;

use super::Error;

pub(super) type Bytes = Box<[u8]>;

/// Rows that came or went.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Change {
    pub(super) key: Bytes,
    pub(super) leaf: u16,
    pub(super) row: Bytes,
    /// How many more there are.
    pub(super) weight: i64,
}

/// One change a row, in order; without those that come to nothing.
pub(super) fn net(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_unstable();
    changes.dedup_by(|later, earlier| {
        let same = (&later.key, later.leaf, &later.row) == (&earlier.key, earlier.leaf, &earlier.row);
        earlier.weight += if same { later.weight } else { 0 };
        same
    });
    changes.retain(|change| change.weight != 0);
    changes
}

/// Before the bytes of a row: the linear part, how often it is there, and its length.
const HEADER: usize = 2 + 8 + 4;

/// A row that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row<'a> {
    pub(super) leaf: u16,
    pub(super) bytes: &'a [u8],
    pub(super) times: u64,
}

/// All rows by key.
#[derive(Default)]
pub(super) struct Kept {
    keys: HashMap<Bytes, Run>,
    /// How many different rows there are.
    rows: usize,
    /// What came and went since all was last saved; none before that.
    unsaved: Option<Vec<Change>>,
}

impl Kept {
    /// Adds rows, and takes rows back; `changes` are net.
    pub(super) fn change(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        for changes in changes.chunk_by(|a, b| a.key == b.key) {
            let key = &changes[0].key;
            let (run, more) = Run::merged(self.keys.get(key), changes)?;
            self.rows = self.rows.saturating_add_signed(more);
            if run.0.is_empty() {
                self.keys.remove(key);
            } else if let Some(known) = self.keys.get_mut(key) {
                *known = run;
            } else {
                self.keys.insert(key.clone(), run);
            }
        }
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.extend(changes);
        }
        Ok(())
    }

    /// The rows of one key, in order.
    pub(super) fn of(&self, key: &Bytes) -> impl Iterator<Item = Row<'_>> {
        self.keys.get(key).into_iter().flat_map(Run::rows)
    }

    /// The rows of each key.
    pub(super) fn by_key(&self) -> impl Iterator<Item = impl Iterator<Item = Row<'_>>> {
        self.keys.values().map(Run::rows)
    }

    /// How many keys there are.
    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// How many different rows there are.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// What came and went since the last call; of the first one nothing, which must save all.
    pub(super) fn take_unsaved(&mut self) -> Vec<Change> {
        net(self.unsaved.replace(Vec::new()).unwrap_or_default())
    }
}

/// The rows of a key, in the order of linear part and bytes.
struct Run(Box<[u8]>);

impl Run {
    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (leaf, after) = rest.split_first_chunk()?;
            let (times, after) = after.split_first_chunk()?;
            let (length, after) = after.split_first_chunk()?;
            let (bytes, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            Some(Row { leaf: u16::from_le_bytes(*leaf), times: u64::from_le_bytes(*times), bytes })
        })
    }

    /// The rows of a key after some changes, and how many more different ones there are.
    fn merged(run: Option<&Self>, changes: &[Change]) -> Result<(Self, isize), Error> {
        let room: usize = changes.iter().map(|change| HEADER + change.row.len()).sum();
        let mut merged = Vec::with_capacity(room + run.map_or(0, |run| run.0.len()));
        let mut rows = run.into_iter().flat_map(Self::rows).peekable();
        let mut more = 0;
        for Change { leaf, row: bytes, weight, .. } in changes {
            let place = |row: &Row<'_>| (row.leaf, row.bytes).cmp(&(*leaf, bytes));
            while let Some(row) = rows.next_if(|row| place(row).is_lt()) {
                put(row, &mut merged)?;
            }
            let times = rows.next_if(|row| place(row).is_eq()).map_or(0, |row| row.times);
            let left = times
                .checked_add_signed(*weight)
                .ok_or_else(|| Error::Internal("a row was taken back that was not kept".to_owned()))?;
            if left > 0 {
                put(Row { leaf: *leaf, bytes, times: left }, &mut merged)?;
            }
            more += isize::from(left > 0) - isize::from(times > 0);
        }
        for row in rows {
            put(row, &mut merged)?;
        }
        Ok((Self(merged.into_boxed_slice()), more))
    }
}

fn put(Row { leaf, bytes, times }: Row<'_>, run: &mut Vec<u8>) -> Result<(), Error> {
    let length = u32::try_from(bytes.len())
        .map_err(|_| Error::Limit("a row has more than 4 GB: select fewer columns".to_owned()))?;
    run.extend_from_slice(&leaf.to_le_bytes());
    run.extend_from_slice(&times.to_le_bytes());
    run.extend_from_slice(&length.to_le_bytes());
    run.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(of: &[(&str, u16, &str, i64)]) -> Vec<Change> {
        let change = |(key, leaf, row, weight): &(&str, u16, &str, i64)| Change {
            key: key.as_bytes().into(),
            leaf: *leaf,
            row: row.as_bytes().into(),
            weight: *weight,
        };
        net(of.iter().map(change).collect())
    }

    fn content(kept: &Kept) -> Vec<(u16, String, u64)> {
        let text = |row: Row<'_>| (row.leaf, String::from_utf8_lossy(row.bytes).into_owned(), row.times);
        let mut keys: Vec<&Bytes> = kept.keys.keys().collect();
        keys.sort_unstable();
        keys.into_iter().flat_map(|key| kept.of(key)).map(text).collect()
    }

    #[test]
    fn rows_come_and_go_in_any_order_and_lie_in_order() {
        let mut kept = Kept::default();
        kept.change(changes(&[("b", 1, "y", 1), ("b", 0, "z", 2), ("a", 0, "x", 1)])).unwrap();
        kept.change(changes(&[("b", 0, "a", 1), ("b", 1, "y", 2), ("b", 0, "z", -1)])).unwrap();
        let rows = |of: &[(u16, &str, u64)]| of.iter().map(|(l, b, t)| (*l, (*b).to_owned(), *t)).collect::<Vec<_>>();
        assert_eq!(content(&kept), rows(&[(0, "x", 1), (0, "a", 1), (0, "z", 1), (1, "y", 3)]));
        assert_eq!((kept.keys(), kept.rows()), (2, 4));
        kept.change(changes(&[("a", 0, "x", -1)])).unwrap();
        assert_eq!((kept.keys(), kept.rows()), (1, 3));
        assert!(kept.change(changes(&[("a", 0, "x", -1)])).is_err(), "it is not there");
    }

    #[test]
    fn what_was_not_saved_makes_the_same_of_what_was() {
        let (mut kept, mut again) = (Kept::default(), Kept::default());
        for rows in [&mut kept, &mut again] {
            rows.change(changes(&[("a", 0, "x", 3), ("b", 0, "y", 1)])).unwrap();
        }
        assert!(kept.take_unsaved().is_empty(), "all is to be saved");
        kept.change(changes(&[("a", 0, "x", -2), ("b", 0, "y", -1)])).unwrap();
        kept.change(changes(&[("b", 0, "y", 1), ("c", 2, "z", 1)])).unwrap();
        again.change(kept.take_unsaved()).unwrap();
        assert_eq!(content(&again), content(&kept));
        assert_eq!(again.rows(), kept.rows());
        assert!(kept.take_unsaved().is_empty());
    }
}

//! The watermark: event time up to which the log can be taken as complete.
//!
//! It depends on the records read and on where the log ended then, never on a clock. It never drops a row; it only says
//! which windows are final.

use serde::{Deserialize, Serialize};

use crate::time::EventTime;

/// How far an event's time may be ahead of its append: beyond that its clock is wrong, and it must not make all other
/// events late.
pub(super) const MAX_SKEW_MICROS: i64 = 5 * 60 * 1_000_000;

/// The progress of event time in each partition.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Watermark {
    partitions: Vec<Option<EventTime>>,
}

impl Watermark {
    pub(crate) fn new(partitions: usize) -> Self {
        Self { partitions: vec![None; partitions] }
    }

    /// Takes note of one record.
    pub(crate) fn observe(&mut self, partition: u32, event: EventTime, appended_at: EventTime) {
        let clamped = event.min(EventTime::from_micros(appended_at.micros().saturating_add(MAX_SKEW_MICROS)));
        if let Some(newest) = self.partitions.get_mut(partition as usize) {
            *newest = (*newest).max(Some(clamped));
        }
    }

    /// The watermark when partitions have been read to `offsets` and end at `ends`: a partition that has been read to
    /// its end holds nothing back. `None` before the first event.
    pub(crate) fn at(&self, offsets: &[u64], ends: &[u64], lateness_micros: i64) -> Option<EventTime> {
        let newest = self.partitions.iter().copied().flatten().max()?;
        let waiting = self
            .partitions
            .iter()
            .zip(offsets.iter().zip(ends))
            .filter(|(_, (offset, end))| offset < end)
            .map(|(newest, _)| newest.unwrap_or(EventTime::MIN))
            .min();
        let base = waiting.map_or(newest, |held| held.min(newest));
        Some(EventTime::from_micros(base.micros().saturating_sub(lateness_micros)))
    }
}

/// The instant up to which the log of an account and mode is complete when its last event was at `last_event`: another
/// one's events say nothing of it. What ends by then is final, and its window has closed.
pub(super) fn complete(watermark: i64, last_event: i64, lateness_micros: i64) -> i64 {
    watermark.min(last_event.saturating_sub(lateness_micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> EventTime {
        EventTime::from_seconds(seconds)
    }

    #[test]
    fn a_partition_holds_the_watermark_back_until_it_is_read_to_its_end() {
        let mut watermark = Watermark::new(2);
        assert_eq!(watermark.at(&[0, 0], &[0, 0], 0), None);
        watermark.observe(0, at(100), at(100));
        watermark.observe(1, at(50), at(100));
        assert_eq!(watermark.at(&[1, 1], &[2, 2], 0), Some(at(50)));
        assert_eq!(watermark.at(&[1, 1], &[2, 1], 0), Some(at(100)));
        assert_eq!(watermark.at(&[1, 1], &[1, 1], 10_000_000), Some(at(90)));
    }

    #[test]
    fn an_event_from_the_future_does_not_make_the_others_late() {
        let mut watermark = Watermark::new(1);
        watermark.observe(0, at(10_000_000), at(100));
        assert_eq!(watermark.at(&[1], &[1], 0), Some(at(400)));
    }
}

//! Reading the log: records with what they say. While there is a backlog the records of the next epoch are read and
//! decoded beside the work on this one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use super::{
    Engine, Error, Options,
    decode::{Decoded, decode},
};
use crate::{
    log::{EventLog, Record},
    stripe::{
        counts::UnknownCounts,
        ids::{AccountId, EventId},
    },
};

/// Records of one epoch when there is a backlog: large enough that the fixed cost of an epoch is small beside them. As
/// many are read ahead.
pub const MAX_RECORDS_AN_EPOCH: usize = 20_000;

/// How long an epoch waits for its first record.
const LINGER: Duration = Duration::from_millis(25);

/// What was read.
pub(super) struct Read {
    /// Of each partition the end offset, before it was read.
    pub(super) ends: Vec<u64>,
    /// The same after it was read: what is older in the log than a record that was read lies before these.
    pub(super) later_ends: Vec<u64>,
    pub(super) records: Vec<Record>,
    /// What each record says.
    pub(super) decoded: Vec<Decoded>,
    pub(super) unknown: UnknownCounts,
}

/// A read on its way.
pub(super) type Ahead = JoinHandle<Result<Read, Error>>;

impl Engine {
    /// The next records of every partition; none after a little while when there are none.
    pub(super) async fn read(&mut self) -> Result<Read, Error> {
        match self.ahead.take() {
            Some(ahead) => ahead.await.map_err(|error| Error::Internal(error.to_string()))?,
            None => self.reading().await,
        }
    }

    /// Begins to read what follows the records that are worked on.
    pub(super) fn read_ahead(&mut self) {
        self.ahead = Some(tokio::spawn(self.reading()));
    }

    fn reading(&self) -> impl Future<Output = Result<Read, Error>> + Send + use<> {
        let Options { account, skip, .. } = &self.options;
        read(Arc::clone(&self.log), self.offsets.clone(), account.clone(), Arc::clone(skip))
    }
}

async fn read(
    log: Arc<dyn EventLog>,
    offsets: Vec<u64>,
    account: AccountId,
    skip: Arc<BTreeSet<EventId>>,
) -> Result<Read, Error> {
    let ends = log.end_offsets().await?;
    let waiting: Vec<usize> = (0..offsets.len()).filter(|p| offsets[*p] < ends[*p]).collect();
    if waiting.is_empty() {
        // Every partition is at its end: look again after a while.
        tokio::time::sleep(LINGER).await;
    }
    let share = MAX_RECORDS_AN_EPOCH.div_ceil(waiting.len().max(1));
    let reads = waiting.into_iter().map(|p| log.read(u32::try_from(p).unwrap_or(u32::MAX), offsets[p], share, LINGER));
    let records: Vec<Record> = futures::future::try_join_all(reads).await?.into_iter().flatten().collect();
    let mut unknown = UnknownCounts::default();
    let decoded = tokio::task::block_in_place(|| decode(&records, &account, &skip, &mut unknown))?;
    let later_ends = if records.is_empty() { ends.clone() } else { log.end_offsets().await? };
    Ok(Read { ends, later_ends, records, decoded, unknown })
}

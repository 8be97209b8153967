//! The event log: where Stripe's events lie, durable and in order, before anything reads them.
//!
//! One trait and two transports: [`embedded`] for a single machine without any set-up, [`kafka`] for production.
//! Both pass the same conformance suite. The log knows nothing of what its records mean.

pub mod embedded;
pub mod kafka;
mod partition;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

pub use self::partition::partition_of;
use crate::time::EventTime;

/// The largest record, key and body together: Stripe's largest events are a few hundred kilobytes.
pub const MAX_RECORD_BYTES: usize = 4 * 1024 * 1024;

/// A record to be appended.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Decides the partition: records of one key stay in order.
    pub key: Bytes,
    /// What is stored; with the key at most [`MAX_RECORD_BYTES`].
    pub body: Bytes,
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub struct Record {
    /// From 0.
    pub partition: u32,
    /// From 0, increasing by at least one within a partition.
    pub offset: u64,
    /// When the log took it in.
    pub appended_at: EventTime,
    /// The key it was appended with.
    pub key: Bytes,
    /// The body it was appended with.
    pub body: Bytes,
}

/// Where a record was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// From 0.
    pub partition: u32,
    /// From 0.
    pub offset: u64,
}

/// What can go wrong with a log, by what the caller should do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Try again: the store or the broker is busy or away.
    #[error("the event log is not available: {0}; trying again may help")]
    Unavailable(String),
    /// Fix the configuration or the topic.
    #[error("the event log is not usable: {0}")]
    Configuration(String),
    /// Fix the input.
    #[error("a record of {bytes} bytes is larger than the limit of {MAX_RECORD_BYTES}")]
    TooLarge {
        /// The record's size.
        bytes: usize,
    },
    /// The log no longer has, or never had, what was asked for.
    #[error(
        "partition {partition} has no offset {offset} (it begins at {begins} and ends before {ends}); restore the log, \
         or go on from the archive with `tributary rebuild`"
    )]
    Gone {
        /// Where.
        partition: u32,
        /// What was asked for.
        offset: u64,
        /// The first offset there is.
        begins: u64,
        /// The offset of the next record.
        ends: u64,
    },
}

/// An append-only log of partitions. Cheap to share; safe to use from many tasks and, for one store, from many
/// processes at once.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// A name that changes when the log is created anew, so that offsets of another log are never used on it.
    async fn identity(&self) -> Result<String, Error>;

    /// How many partitions there are; fixed for the life of a log.
    async fn partitions(&self) -> Result<u32, Error>;

    /// Appends all records; durable when it returns. Records of one key keep their order, and so do records of
    /// appends that wait for each other. The positions are in the order of the records.
    ///
    /// After an error, or when the future is dropped, some records or all may have been appended all the same:
    /// appending again may store them twice, which readers must bear.
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, Error>;

    /// Reads up to `max` records (fewer when they are large) of a partition from offset `from` on, in order; waits
    /// up to `wait` for the first one and returns an empty list when none came. `from` may be the end offset; beyond
    /// it, or before the first record, is [`Error::Gone`].
    ///
    /// An empty list is no proof of the end where records come over a network: compare with
    /// [`end_offsets`](Self::end_offsets). Reading each partition on from where its last read ended is fast;
    /// jumping about is correct, and slow.
    async fn read(&self, partition: u32, from: u64, max: usize, wait: Duration) -> Result<Vec<Record>, Error>;

    /// For every partition the offset that the next record will get.
    async fn end_offsets(&self) -> Result<Vec<u64>, Error>;
}

/// Which log to open.
#[derive(Clone, Debug)]
pub enum Options {
    /// A directory on this machine.
    Embedded {
        /// The file is `<dir>/log.sqlite`.
        dir: PathBuf,
        /// Used when the log is created.
        partitions: u32,
    },
    /// Apache Kafka.
    Kafka(kafka::Options),
}

/// Opens (for the embedded one: creates if absent) the log that `options` describe.
///
/// # Errors
/// See [`Error`].
pub async fn open(options: &Options) -> Result<Arc<dyn EventLog>, Error> {
    Ok(match options {
        Options::Embedded { dir, partitions } => Arc::new(embedded::EmbeddedLog::open(dir, *partitions).await?),
        Options::Kafka(options) => Arc::new(kafka::KafkaLog::connect(options).await?),
    })
}

/// The bytes of all records together, when each is small enough.
fn checked_bytes(records: &[NewRecord]) -> Result<usize, Error> {
    let mut total = 0;
    for record in records {
        let bytes = record.key.len() + record.body.len();
        if bytes > MAX_RECORD_BYTES {
            return Err(Error::TooLarge { bytes });
        }
        total += bytes;
    }
    Ok(total)
}

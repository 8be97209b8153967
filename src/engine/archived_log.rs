//! The whole log, where the transport keeps only its newest part: what is gone there is read from the archive.
//!
//! A record of the archive has the offset, the append time and the body that it had in the log, and so has an event that
//! was left out. Another rejected record comes back as the rejection that was written of it. Keys are not archived, and
//! nobody reads them behind the log.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Int64Type, TimestampMicrosecondType},
};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::{
    catalog::TableProvider,
    logical_expr::{Expr, cast, col, lit},
    prelude::SessionContext,
};

use super::Error;
use crate::{
    log::{self, EventLog, NewRecord, Position, Record},
    stripe::admission,
    tables,
    time::EventTime,
};

/// How long a broker may take to say where a partition begins.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Tables that hold records of the log.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    pub(super) events: Arc<dyn TableProvider>,
    pub(super) rejected: Arc<dyn TableProvider>,
}

/// A log with its beginning.
pub(super) struct ArchivedLog {
    log: Arc<dyn EventLog>,
    /// The first offset the log itself still has, for each partition.
    begins: Vec<u64>,
    archive: Option<Archive>,
}

impl ArchivedLog {
    /// Asks the log where its partitions begin. `archived` are the offsets up to which the archive is known to have
    /// everything, where that is known.
    ///
    /// # Errors
    /// [`Error::Incomplete`] when records are neither in the log nor in the archive.
    pub(super) async fn open(
        log: Arc<dyn EventLog>,
        archive: Option<Archive>,
        archived: Option<&[u64]>,
    ) -> Result<Self, Error> {
        let mut begins = Vec::new();
        let ends = log.end_offsets().await?;
        for (partition, end) in (0..).zip(&ends) {
            begins.push(match log.read(partition, 0, 1, ANSWER_LIMIT.min(wait_for(*end))).await {
                Ok(_) => 0,
                Err(log::Error::Gone { begins, .. }) => begins,
                Err(error) => return Err(error.into()),
            });
        }
        for (partition, begins) in begins.iter().enumerate().filter(|(_, begins)| **begins > 0) {
            let has = match (archived, &archive) {
                (_, None) => 0,
                (Some(offsets), Some(_)) => offsets.get(partition).copied().unwrap_or_default(),
                (None, Some(archive)) => archive.end(partition as u64).await?,
            };
            if has < *begins {
                return Err(Error::Incomplete(format!(
                    "partition {partition} of the log begins at offset {begins}, and the archive ends at {has}: the \
                     records between are lost; restore the log or the tables from a backup"
                )));
            }
        }
        Ok(Self { log, begins, archive })
    }

    /// How many partitions have lost their beginning.
    pub(super) fn shortened(&self) -> usize {
        self.begins.iter().filter(|begins| **begins > 0).count()
    }
}

/// A partition that has nothing is not waited for.
fn wait_for(end: u64) -> Duration {
    if end == 0 { Duration::ZERO } else { ANSWER_LIMIT }
}

#[async_trait]
impl EventLog for ArchivedLog {
    async fn identity(&self) -> Result<String, log::Error> {
        self.log.identity().await
    }

    async fn partitions(&self) -> Result<u32, log::Error> {
        self.log.partitions().await
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, log::Error> {
        self.log.append(records).await
    }

    async fn read(&self, partition: u32, from: u64, max: usize, wait: Duration) -> Result<Vec<Record>, log::Error> {
        let begins = self.begins.get(partition as usize).copied().unwrap_or_default();
        if from < begins
            && let Some(archive) = &self.archive
        {
            let unavailable = |error: Error| log::Error::Unavailable(error.to_string());
            let records = archive.read(partition, from..begins, max).await.map_err(unavailable)?;
            if !records.is_empty() {
                return Ok(records);
            }
        }
        self.log.read(partition, from.max(begins), max, wait).await
    }

    async fn end_offsets(&self) -> Result<Vec<u64>, log::Error> {
        self.log.end_offsets().await
    }
}

impl Archive {
    async fn read(&self, partition: u32, offsets: std::ops::Range<u64>, max: usize) -> Result<Vec<Record>, Error> {
        let columns = ["offset", "received_at", "event_id", "type"];
        let here = |column: &str| cast(col(format!("\"{column}\"")), tables_bigint());
        let within: Expr = here("partition")
            .eq(lit(i64::from(partition)))
            .and(here("offset").gt_eq(lit(signed(offsets.start))))
            .and(here("offset").lt(lit(signed(offsets.end))));
        let mut records = Vec::new();
        for (table, said) in [(&self.events, &["body"][..]), (&self.rejected, &["body", "reason"][..])] {
            let batches = SessionContext::new()
                .read_table(Arc::clone(table))?
                .filter(within.clone())?
                .select(columns.iter().chain(said).map(|column| col(format!("\"{column}\""))))?
                .sort(vec![col("\"offset\"").sort(true, false)])?
                .limit(0, Some(max))?
                .collect()
                .await?;
            for batch in &batches {
                read_records(batch, partition, &mut records)?;
            }
        }
        records.sort_by_key(|record| record.offset);
        records.truncate(max);
        Ok(records)
    }

    /// The offset after the last one archived.
    async fn end(&self, partition: u64) -> Result<u64, Error> {
        use datafusion::functions_aggregate::expr_fn::max;
        let mut end = 0;
        for table in [&self.events, &self.rejected] {
            let batches = SessionContext::new()
                .read_table(Arc::clone(table))?
                .filter(cast(col("partition"), tables_bigint()).eq(lit(signed(partition))))?
                .aggregate(vec![], vec![max(col("\"offset\""))])?
                .collect()
                .await?;
            for batch in batches.iter().filter(|batch| batch.num_rows() > 0 && batch.column(0).is_valid(0)) {
                let last = batch.column(0).as_primitive::<Int64Type>().value(0);
                end = end.max(u64::try_from(last).unwrap_or_default() + 1);
            }
        }
        Ok(end)
    }
}

fn tables_bigint() -> arrow::datatypes::DataType {
    arrow::datatypes::DataType::Int64
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// Reads rows of either table: a rejected record has its reason behind the body, which is mostly empty.
fn read_records(batch: &RecordBatch, partition: u32, records: &mut Vec<Record>) -> Result<(), Error> {
    let text = |index: usize| arrow::compute::cast(batch.column(index), &arrow::datatypes::DataType::Utf8);
    let (ids, kinds, bodies) = (text(2)?, text(3)?, text(4)?);
    let (ids, kinds, bodies) = (ids.as_string::<i32>(), kinds.as_string::<i32>(), bodies.as_string::<i32>());
    let reasons = if batch.num_columns() > 5 { text(5)? } else { text(4)? };
    let reasons = reasons.as_string::<i32>();
    let times = arrow::compute::cast(batch.column(1), &tables::timestamptz())?;
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let offsets = batch.column(0).as_primitive::<Int64Type>();
    for row in 0..batch.num_rows() {
        let optional = |column: &arrow::array::StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
        let body = if bodies.is_valid(row) {
            Bytes::copy_from_slice(bodies.value(row).as_bytes())
        } else {
            admission::rejection_again(reasons.value(row), optional(ids).as_deref(), optional(kinds).as_deref())
        };
        records.push(Record {
            partition,
            offset: u64::try_from(offsets.value(row)).unwrap_or_default(),
            appended_at: EventTime::from_micros(times.value(row)),
            key: Bytes::new(),
            body,
        });
    }
    Ok(())
}

//! Scheduled snapshots: a query that no other class can maintain, run again in batch when the log's clock crosses a
//! boundary of its schedule, and compared by key with the answer before.
//!
//! Boundaries are the first instants of the hours, days, weeks or months of a zone. Of several that an epoch crosses the
//! latest alone counts; `$as_of`, `now()` and `current_date` are that boundary. Between two runs the table stands still.
//! The clock is the greatest event time, never that of the wall, so that a replay runs at the same boundaries.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{IntervalMonthDayNano, SchemaRef},
};
use chrono_tz::Tz;
use datafusion::{
    catalog::TableProvider,
    common::{ScalarValue, tree_node::TreeNodeRecursion},
    logical_expr::{Limit, LogicalPlan, Volatility},
    prelude::SessionContext,
};

use super::{
    Error, batch,
    caught::caught,
    class::{Refusal, function_that, refuse, refuse_disordered, refuse_unstable},
    conversion,
    epoch::EpochEnd,
    file::{PipelineFile, Schedule},
    pipeline::{RowDelta, difference},
    windows,
};

/// Tables by name, as queries read them.
pub type Tables = BTreeMap<String, Arc<dyn TableProvider>>;

/// The most rows that an answer may have: it is held until the next one, and written with the checkpoint.
const MAX_ROWS_OF_A_SNAPSHOT: usize = 1_000_000;

/// The most rows that the tables it reads may have together: some ten seconds of a core beside the epochs.
const MAX_ROWS_OF_ITS_SOURCES: usize = 20_000_000;

/// Where a saved answer says of which boundary it is.
const AS_OF: &str = "as_of";

/// A run that is due, apart from its pipeline, so that it can go on beside the epochs.
pub struct Run {
    file: PipelineFile,
    parameters: Vec<(String, ScalarValue)>,
    schema: SchemaRef,
    as_of: i64,
    sources: Tables,
}

/// What came of a run: its boundary, and the whole answer.
pub struct Answer(i64, RecordBatch);

impl Run {
    /// Runs the query.
    ///
    /// # Errors
    /// When it fails or panics, or a limit is passed.
    pub async fn answer(self) -> Result<Answer, Error> {
        let name = self.file.metadata.name.clone();
        caught(&name, self.answered()).await
    }

    async fn answered(self) -> Result<Answer, Error> {
        let mut read = 0;
        for table in self.sources.values() {
            read += SessionContext::new().read_table(Arc::clone(table))?.count().await?;
        }
        check_sources(read)?;
        let rows = batch::run(&self.file, self.parameters, Some(self.as_of), &self.schema, &self.sources).await?;
        check_answer(rows.num_rows())?;
        Ok(Answer(self.as_of, rows))
    }
}

/// A query at work that is run on a schedule.
pub(super) struct Snapshot {
    schedule: Schedule,
    parameters: Vec<(String, ScalarValue)>,
    schema: SchemaRef,
    /// The boundary of the last run, and its answer.
    last: Option<(i64, RecordBatch)>,
}

impl Snapshot {
    pub(super) fn new(schedule: Schedule, parameters: Vec<(String, ScalarValue)>, schema: &SchemaRef) -> Self {
        Self { schedule, parameters, schema: Arc::clone(schema), last: None }
    }

    /// The boundary at which it is to be run by the end of an epoch, if it was not yet.
    pub(super) fn due(&self, end: &EpochEnd) -> Option<i64> {
        let (clock, zone) = end.clock?;
        let boundary = boundary(self.schedule, clock, zone)?;
        self.last.as_ref().is_none_or(|(last, _)| *last < boundary).then_some(boundary)
    }

    /// A run at a boundary over some tables.
    pub(super) fn at(&self, file: &PipelineFile, as_of: i64, sources: Tables) -> Run {
        let (parameters, schema) = (self.parameters.clone(), Arc::clone(&self.schema));
        Run { file: file.clone(), parameters, schema, as_of, sources }
    }

    /// How the answer of a run differs from the last one. One that is not of a later boundary changes nothing.
    pub(super) fn take(&mut self, Answer(as_of, rows): Answer, key: &[usize], name: &str) -> Result<RowDelta, Error> {
        let nothing = RecordBatch::new_empty(Arc::clone(&self.schema));
        let before = match &self.last {
            Some((last, _)) if *last >= as_of => return Ok(RowDelta::none(&self.schema)),
            Some((_, rows)) => rows,
            None => &nothing,
        };
        let delta = difference(before, &rows, key, name)?;
        self.last = Some((as_of, rows));
        Ok(delta)
    }

    pub(super) fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// The boundary of the last run.
    pub(super) fn last_run(&self) -> Option<i64> {
        self.last.as_ref().map(|(at, _)| *at)
    }

    /// Rows of the last answer.
    pub(super) fn rows(&self) -> usize {
        self.last.as_ref().map_or(0, |(_, rows)| rows.num_rows())
    }

    /// The last answer, with its boundary in the schema's metadata.
    pub(super) fn save(&self) -> Result<Option<RecordBatch>, Error> {
        let Some((as_of, rows)) = &self.last else { return Ok(None) };
        let metadata = [(AS_OF.to_owned(), as_of.to_string())].into();
        let schema = Arc::new(self.schema.as_ref().clone().with_metadata(metadata));
        Ok(Some(RecordBatch::try_new(schema, rows.columns().to_vec())?))
    }

    /// Puts back what [`Self::save`] gave.
    pub(super) fn load(&mut self, saved: &RecordBatch) -> Result<(), Error> {
        let as_of = saved.schema().metadata().get(AS_OF).and_then(|as_of| as_of.parse().ok());
        let as_of = as_of.ok_or_else(|| Error::Internal("a saved snapshot is of no boundary".to_owned()))?;
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), saved.columns().to_vec())?;
        self.last = Some((as_of, rows));
        Ok(())
    }
}

fn check_sources(rows: usize) -> Result<(), Error> {
    if rows > MAX_ROWS_OF_ITS_SOURCES {
        return Err(Error::Limit(format!(
            "a snapshot would read {rows} rows, and at most {MAX_ROWS_OF_ITS_SOURCES} can be: let it read a pipeline that \
             aggregates them first"
        )));
    }
    Ok(())
}

fn check_answer(rows: usize) -> Result<(), Error> {
    if rows > MAX_ROWS_OF_A_SNAPSHOT {
        return Err(Error::Limit(format!(
            "a snapshot has {rows} rows, and at most {MAX_ROWS_OF_A_SNAPSHOT} can be: filter or group them"
        )));
    }
    Ok(())
}

/// The last boundary of a schedule that is not after an instant.
pub(super) fn boundary(schedule: Schedule, micros: i64, zone: Tz) -> Option<i64> {
    let interval = |months, days, hours: i64| IntervalMonthDayNano::new(months, days, hours * 3_600_000_000_000);
    let interval = match schedule {
        Schedule::Hourly => interval(0, 0, 1),
        Schedule::Daily => interval(0, 1, 0),
        Schedule::Weekly => interval(0, 7, 0),
        Schedule::Monthly => interval(1, 0, 0),
    };
    windows::floor(interval, micros, zone)
}

/// Whether a query gives the same answer on every run over the same rows at one boundary.
pub(super) fn check(plan: &LogicalPlan) -> Result<(), Refusal> {
    // What is stable is a function of the time at which the query runs, which is the boundary, or of rates.
    let is_unstable =
        |name: &str, volatility: Volatility| volatility == Volatility::Volatile || name == conversion::NAME;
    if let Some(name) = function_that(plan, &is_unstable)? {
        return refuse_unstable(&name);
    }
    refuse_disordered(plan)?;
    let mut unordered = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Limit(Limit { input, .. }) = node {
            unordered |= !is_sorted(input);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if unordered {
        return refuse(
            "which rows LIMIT keeps hangs on an order that is not given",
            "LIMIT",
            "write ORDER BY before it",
        );
    }
    Ok(())
}

fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => plan.inputs().into_iter().all(is_sorted),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use chrono::DateTime;
    use datafusion::{
        catalog::Session,
        logical_expr::{Expr, TableType},
        physical_plan::ExecutionPlan,
    };

    use super::*;
    use crate::stream::pipeline::tests::{copying, schema};

    /// A table that cannot be read without a panic.
    #[derive(Debug)]
    struct Panicking;

    #[async_trait]
    impl TableProvider for Panicking {
        fn schema(&self) -> SchemaRef {
            schema()
        }

        fn table_type(&self) -> TableType {
            TableType::Base
        }

        async fn scan(
            &self,
            _: &dyn Session,
            _: Option<&Vec<usize>>,
            _: &[Expr],
            _: Option<usize>,
        ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
            panic!("over a row of cus_1")
        }
    }

    #[tokio::test]
    async fn a_panic_is_the_failure_of_the_run_which_stays_due() {
        let mut pipeline = copying("broken", "given", "schedule: daily\n").await;
        let end = EpochEnd { clock: Some((0, Tz::UTC)), ..EpochEnd::default() };
        let tables: Tables = [("given".to_owned(), Arc::new(Panicking) as Arc<dyn TableProvider>)].into();
        let said = pipeline.run(&end, &tables).await.unwrap_err();
        assert!(matches!(&said, Error::Panicked(name) if name == "broken"), "{said}");
        assert!(pipeline.has_work(&BTreeMap::new(), &end));
    }

    #[test]
    fn too_many_rows_stop_a_snapshot_and_it_says_what_to_do() {
        assert!(check_sources(MAX_ROWS_OF_ITS_SOURCES).is_ok() && check_answer(MAX_ROWS_OF_A_SNAPSHOT).is_ok());
        let read = check_sources(MAX_ROWS_OF_ITS_SOURCES + 1).unwrap_err().to_string();
        assert!(read.contains("20000001 rows") && read.contains("aggregates them first"), "{read}");
        let had = check_answer(MAX_ROWS_OF_A_SNAPSHOT + 1).unwrap_err().to_string();
        assert!(had.contains("1000001 rows") && had.contains("filter or group"), "{had}");
    }

    #[test]
    fn a_boundary_is_a_first_instant_of_the_calendar_also_where_there_is_no_midnight() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
        let cairo: Tz = "Africa/Cairo".parse().unwrap();
        for (schedule, now, last) in [
            // On 2024-04-26 clocks went from 00:00 to 01:00.
            (Schedule::Daily, "2024-04-26T15:00:00+03:00", "2024-04-26T01:00:00+03:00"),
            (Schedule::Daily, "2024-04-25T23:59:59+02:00", "2024-04-25T00:00:00+02:00"),
            (Schedule::Weekly, "2024-04-28T12:00:00+03:00", "2024-04-22T00:00:00+02:00"),
            (Schedule::Monthly, "2024-05-01T00:00:00+03:00", "2024-05-01T00:00:00+03:00"),
            (Schedule::Monthly, "2024-04-30T23:59:59+03:00", "2024-04-01T00:00:00+02:00"),
            (Schedule::Hourly, "2024-04-26T15:59:59+03:00", "2024-04-26T15:00:00+03:00"),
        ] {
            assert_eq!(boundary(schedule, at(now), cairo), Some(at(last)), "{schedule:?} {now}");
        }
    }
}

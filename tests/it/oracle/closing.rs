//! What queries that emit on close must have released: of each window, the batch answer at the moment it closed.

use std::collections::BTreeMap;

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::{concat_batches, filter_record_batch},
    datatypes::TimestampMicrosecondType,
};
use tributary::stream::pipeline::Pipeline;

use super::{
    answers::{Answer, Batch},
    corpus::{self, plan},
    history::{Relations, orderly},
};

type Complete = BTreeMap<(String, String), i64>;

/// What one of them has released, by batch SQL alone.
#[derive(Clone)]
pub(super) struct Closing {
    released: RecordBatch,
    /// The whole answer at the end of the last epoch.
    last: RecordBatch,
    complete: Complete,
    late: u64,
}

impl Closing {
    pub(super) fn new(pipeline: &Pipeline) -> Self {
        let nothing = RecordBatch::new_empty(pipeline.schema().clone());
        Self { released: nothing.clone(), last: nothing, complete: Complete::new(), late: 0 }
    }

    /// What must have been released after one more epoch; the pipeline must have counted and told of what came too late.
    pub(super) fn follow(
        &mut self,
        pipeline: &Pipeline,
        answer: Answer,
        complete: &Complete,
        told: &[u64],
        said: &str,
    ) -> Answer {
        let now = answer.rows();
        let [were_closed, are_closed] =
            [&self.last, &now].map(|rows| Answer::of(pipeline, closed(rows, &self.complete)));
        let before = self.late;
        self.late += were_closed.differing(&are_closed);
        assert!(told.iter().copied().eq(before + 1..=self.late), "{said}: {told:?}");
        let still_open = filter(&now, |row| !has_closed(&now, row, &self.complete));
        self.released = concat_batches(now.schema_ref(), [&self.released, &closed(&still_open, complete)]).unwrap();
        self.last = now;
        self.complete.clone_from(complete);
        assert_eq!(pipeline.explain().on_close.map(|on_close| on_close.late_changes), Some(self.late), "{said}");
        Answer::of(pipeline, self.released.clone())
    }
}

fn closed(rows: &RecordBatch, complete: &Complete) -> RecordBatch {
    filter(rows, |row| has_closed(rows, row, complete))
}

fn filter(rows: &RecordBatch, keep: impl Fn(usize) -> bool) -> RecordBatch {
    filter_record_batch(rows, &(0..rows.num_rows()).map(|row| Some(keep(row))).collect::<BooleanArray>()).unwrap()
}

fn has_closed(rows: &RecordBatch, row: usize, complete: &Complete) -> bool {
    let column = |name: &str| rows.column_by_name(name).unwrap();
    let account = column("account").as_string::<i32>().value(row).to_owned();
    let mode = column("livemode").as_boolean().value(row).to_string();
    let end = column("window_end").as_primitive::<TimestampMicrosecondType>().value(row);
    complete.get(&(account, mode)).is_some_and(|complete| end <= *complete)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_an_orderly_log_what_was_released_is_batch_over_all_closed_windows_however_epochs_are_cut() {
    // What reads rows that are edited is late by nature.
    let queries: Vec<_> = corpus::queries().into_iter().filter(|query| query.when == "emit: on_close").collect();
    for (seed, epochs) in [(1, 1), (1, 7), (2, 60), (3, 180)] {
        let mut pipelines = plan(&queries).await.pipelines;
        pipelines.retain(|pipeline| pipeline.sources().iter().eq(["payments"]));
        assert!(pipelines.len() >= 3);
        let mut answers: BTreeMap<String, Answer> = BTreeMap::new();
        let mut relations = Relations::default();
        for facts in orderly(seed, epochs) {
            let (deltas, end) = (relations.apply(&facts), relations.end(0));
            for pipeline in &mut pipelines {
                let delta = pipeline.advance(&deltas, &end).await.unwrap();
                let said = format!("{} of seed {seed} in {epochs} epochs", pipeline.name());
                assert_eq!(delta.removed.num_rows(), 0, "{said}: what was released is never taken back");
                answers.entry(pipeline.name().to_owned()).or_insert_with(|| Answer::new(pipeline)).add(&delta, &said);
            }
        }
        let batch = Batch::over(&relations.tables());
        let mut open = 0;
        for pipeline in &pipelines {
            let said = format!("{} of seed {seed} in {epochs} epochs", pipeline.name());
            let all = batch.answer(pipeline).await.rows();
            let expected = closed(&all, &relations.complete(0));
            assert!(expected.num_rows() > 0, "{said}");
            open += all.num_rows() - expected.num_rows();
            answers[pipeline.name()].assert_equals(&Answer::of(pipeline, expected), &said);
            assert_eq!(pipeline.explain().on_close.unwrap().late_changes, 0, "{said}");
        }
        assert!(open > 0, "seed {seed} ends within a window");
    }
}

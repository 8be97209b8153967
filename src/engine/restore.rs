//! Putting back what the newest checkpoint keeps: the ledger, the pipelines and the scores, side by side on all cores.
//!
//! Each of them is a job, which reads, checks, decodes and takes in its bytes on one thread. There are as many threads as
//! work side by side anywhere, so that memory holds the bytes of so many, and the largest begin, so that none ends long
//! after the others.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    thread,
};

use arrow::array::RecordBatch;
use tokio::{runtime::Handle, task::block_in_place, time::Instant};

use super::{
    Engine, Error, FEATURES, SCORES, State,
    blobs::{from_file, from_ipc, is_ledger_file, pipeline_state},
    checkpoint::failed,
    saved::SavedState,
    scoring::Scorer,
    store::Reader,
};
use crate::{
    ledger::Ledger,
    stream::{
        checkpoint::{Checkpoints, Ownership},
        epoch::EpochEnd,
        pipeline::{Pipeline, RowDelta, Saved},
    },
    threads,
};

/// What is to be put back.
enum Job<'a> {
    Ledger(&'a mut Ledger),
    Pipeline(&'a mut Pipeline),
    /// The scores, with the rows of the features and of the scores.
    Scores(&'a mut Scorer, Reader, Reader),
}

/// Of what it is put back.
struct Source<'a> {
    saved: &'a SavedState,
    ownership: Ownership,
    end: EpochEnd,
    runtime: Handle,
}

impl Engine {
    /// Puts back the buckets of the ledger, the scores, and the state of every pipeline at work but those that are built
    /// `anew`.
    pub(super) fn restore(&mut self, anew: &BTreeSet<String>) -> Result<(), Error> {
        let (ownership, end, runtime) = (self.checkpoints.ownership(), self.end(), Handle::current());
        let source = Source { saved: &self.saved_state, ownership, end, runtime };
        let mut jobs = vec![(source.ledger_bytes(), Job::Ledger(&mut self.ledger))];
        if let (Some(features), Some(scores)) = (self.store.get(FEATURES), self.store.get(SCORES)) {
            // Its table is about as large as its state.
            let bytes = source.pipeline_bytes(FEATURES);
            jobs.push((bytes, Job::Scores(&mut self.scorer, features.reader(), scores.reader())));
        }
        for running in &mut self.pipelines {
            if running.state == State::Works && !anew.contains(running.pipeline.name()) {
                let bytes = source.pipeline_bytes(running.pipeline.name());
                jobs.push((bytes, Job::Pipeline(&mut running.pipeline)));
            }
        }
        jobs.sort_by_key(|(bytes, _)| *bytes);
        if let Some(scores) = block_in_place(|| side_by_side(jobs, &source))? {
            self.store.change(SCORES, &scores)?;
        }
        Ok(())
    }
}

/// Does all jobs, the last ones first; how the scores differ from what the model in force says.
fn side_by_side(jobs: Vec<(u64, Job<'_>)>, source: &Source<'_>) -> Result<Option<RowDelta>, Error> {
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads::count()).map(|_| scope.spawn(|| source.work(&jobs))).collect();
        let mut scores = None;
        for worker in workers {
            let done = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            scores = scores.or(done?);
        }
        Ok(scores)
    })
}

impl Source<'_> {
    fn ledger_bytes(&self) -> u64 {
        let files = self.saved.names().filter(|name| is_ledger_file(name));
        files.flat_map(|name| self.saved.parts(name)).map(|blob| blob.bytes).sum()
    }

    fn pipeline_bytes(&self, name: &str) -> u64 {
        self.saved.bytes(&pipeline_state(name))
    }

    /// Does jobs until there are none.
    fn work(&self, jobs: &Mutex<Vec<(u64, Job<'_>)>>) -> Result<Option<RowDelta>, Error> {
        let mut scores = None;
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((bytes, job)) = job else { return Ok(scores) };
            let began = Instant::now();
            let what = match job {
                Job::Ledger(ledger) => {
                    self.ledger(ledger)?;
                    "ledger".to_owned()
                }
                Job::Pipeline(pipeline) => {
                    self.pipeline(pipeline)?;
                    pipeline.name().to_owned()
                }
                Job::Scores(scorer, features, old) => {
                    scores = Some(self.scores(scorer, &features, &old)?);
                    SCORES.to_owned()
                }
            };
            tracing::debug!(what, bytes, seconds = began.elapsed().as_secs_f64(), "put back");
        }
    }

    fn ledger(&self, ledger: &mut Ledger) -> Result<(), Error> {
        for name in self.saved.names().filter(|name| is_ledger_file(name)) {
            for blob in self.saved.parts(name) {
                let file = self.runtime.block_on(self.ownership.read_blob(blob))?;
                for (bucket, bytes) in from_file(&file)? {
                    ledger.restore_bucket(bucket, bytes)?;
                }
            }
        }
        ledger.clear_dirty();
        Ok(())
    }

    fn pipeline(&self, pipeline: &mut Pipeline) -> Result<(), Error> {
        let [state, held] = pipeline_state(pipeline.name());
        let state = self.batches(&state)?;
        let saved = Saved { whole: !state.is_empty(), state, held: self.batches(&held)?.pop() };
        let loaded = self.runtime.block_on(pipeline.load(&saved, &self.end));
        loaded.map_err(|error| failed(pipeline, error))?;
        pipeline.mark_saved();
        Ok(())
    }

    /// The rows of the blobs of a state.
    fn batches(&self, name: &str) -> Result<Vec<RecordBatch>, Error> {
        let mut batches = Vec::new();
        for blob in self.saved.parts(name) {
            batches.extend(from_ipc(self.runtime.block_on(self.ownership.read_blob(blob))?)?);
        }
        Ok(batches)
    }

    fn scores(&self, scorer: &mut Scorer, features: &Reader, scores: &Reader) -> Result<RowDelta, Error> {
        scorer.refresh_model();
        scorer.restore(&self.runtime.block_on(scores.content())?)?;
        if !scorer.is_at_rest() {
            scorer.learn(&self.runtime.block_on(features.content())?)?;
        }
        scorer.rescore()
    }
}

/// Puts the ledger's catalogue back, with which its clock begins.
pub(super) async fn restore_catalogue(
    ledger: &mut Ledger,
    checkpoints: &Checkpoints,
    state: &SavedState,
) -> Result<(), Error> {
    for blob in state.parts("catalogue") {
        ledger.restore_catalogue(&checkpoints.read_blob(blob).await?)?;
    }
    Ok(())
}

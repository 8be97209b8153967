//! The pipelines of one epoch side by side on all cores, each as soon as those that it reads are done.
//!
//! What a pipeline says depends on what it reads alone, so the order in which others run beside it changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
    thread,
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use super::{
    Error,
    epoch::EpochEnd,
    pipeline::{Pipeline, RowDelta},
    snapshot::Tables,
};
use crate::threads;

/// Where the tables of pipelines are kept.
pub(crate) trait Keeper {
    /// What makes keeping them impossible.
    type Error;

    /// The tables that a scheduled pipeline reads, as they are after the change; without all of them it stays due.
    fn sources(&self, pipeline: &Pipeline) -> Result<Option<Tables>, Error>;

    /// Takes in what changed in the table of a pipeline.
    fn keep(&mut self, name: &str, delta: &RowDelta) -> Result<(), Self::Error>;
}

/// What came of a pipeline in an epoch.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// Wall time.
    pub(crate) cost: Duration,
    pub(crate) failed: Option<Error>,
}

/// Brings the pipelines that an epoch concerns up to date; they stand each after those that it reads, and so do the
/// outcomes. What changed in their tables is kept and added to `changed`. One that fails keeps those that read it from
/// running, and no other.
///
/// # Errors
/// The first that the keeper gives. Some pipelines are ahead of their tables then.
pub(crate) fn advance<K: Keeper>(
    pipelines: Vec<&mut Pipeline>,
    changed: &mut BTreeMap<String, RowDelta>,
    end: &EpochEnd,
    keeper: &mut K,
) -> Result<Vec<Outcome>, K::Error> {
    let runtime = Handle::current();
    let order: Vec<String> = pipelines.iter().map(|pipeline| pipeline.name().to_owned()).collect();
    let unfinished = order.iter().cloned().collect();
    let mut round = Round { waiting: pipelines, unfinished, changed, end, keeper, outcomes: Vec::new() };
    let side_by_side = || {
        thread::scope(|scope| {
            let (finished, next) = mpsc::channel();
            let mut at_work = BTreeMap::new();
            loop {
                while at_work.len() < threads::count()
                    && let Some(task) = round.next()
                {
                    let name = task.pipeline.name().to_owned();
                    let (done, runtime) = (Done(finished.clone(), name.clone()), runtime.clone());
                    let thread = scope.spawn(move || {
                        let _done = done;
                        task.run(&runtime)
                    });
                    at_work.insert(name, thread);
                }
                if at_work.is_empty() {
                    return Ok(());
                }
                let Some((name, thread)) = next.recv().ok().and_then(|name| at_work.remove_entry(&name)) else {
                    continue;
                };
                let panicked = |_| (Duration::ZERO, Err(Error::Panicked(name.clone())));
                let (cost, advanced) = thread.join().unwrap_or_else(panicked);
                round.take_in(name, cost, advanced)?;
            }
        })
    };
    tokio::task::block_in_place(side_by_side)?;
    let mut outcomes = round.outcomes;
    outcomes.sort_by_key(|outcome| order.iter().position(|name| *name == outcome.name));
    Ok(outcomes)
}

/// The pipelines of an epoch, as far as they have come.
struct Round<'a, K> {
    waiting: Vec<&'a mut Pipeline>,
    /// Those that wait, are at work or have failed: what reads them waits.
    unfinished: BTreeSet<String>,
    changed: &'a mut BTreeMap<String, RowDelta>,
    end: &'a EpochEnd,
    keeper: &'a mut K,
    outcomes: Vec<Outcome>,
}

impl<'a, K: Keeper> Round<'a, K> {
    /// The work of the first pipeline that can run now, past those that the epoch does not concern.
    fn next(&mut self) -> Option<Task<'a>> {
        while let Some(i) = self.waiting.iter().position(|p| p.sources().is_disjoint(&self.unfinished)) {
            let pipeline = self.waiting.remove(i);
            match self.sources(pipeline) {
                Ok(Some(sources)) => {
                    let read = self.changed.iter().filter(|(name, _)| pipeline.sources().contains(*name));
                    let changed = read.map(|(name, delta)| (name.clone(), delta.clone())).collect();
                    return Some(Task { pipeline, changed, sources, end: self.end });
                }
                Ok(None) => {
                    self.unfinished.remove(pipeline.name());
                }
                Err(error) => {
                    let name = pipeline.name().to_owned();
                    self.outcomes.push(Outcome { name, cost: Duration::ZERO, failed: Some(error) });
                }
            }
        }
        None
    }

    /// The tables that a pipeline reads, which only one on a schedule does; nothing if there is no work for it.
    fn sources(&self, pipeline: &Pipeline) -> Result<Option<Tables>, Error> {
        if !pipeline.has_work(self.changed, self.end) {
            return Ok(None);
        }
        if pipeline.is_snapshot() { self.keeper.sources(pipeline) } else { Ok(Some(Tables::new())) }
    }

    fn take_in(&mut self, name: String, cost: Duration, advanced: Result<RowDelta, Error>) -> Result<(), K::Error> {
        let failed = match advanced {
            Ok(delta) => {
                self.unfinished.remove(&name);
                if !delta.is_empty() {
                    self.keeper.keep(&name, &delta)?;
                    self.changed.insert(name.clone(), delta);
                }
                None
            }
            Err(error) => Some(error),
        };
        self.outcomes.push(Outcome { name, cost, failed });
        Ok(())
    }
}

/// A pipeline with what it needs to run.
struct Task<'a> {
    pipeline: &'a mut Pipeline,
    changed: BTreeMap<String, RowDelta>,
    sources: Tables,
    end: &'a EpochEnd,
}

impl Task<'_> {
    /// What changes in its table, and the wall time that it took.
    fn run(self, runtime: &Handle) -> (Duration, Result<RowDelta, Error>) {
        let begin = Instant::now();
        let advanced = runtime.block_on(async {
            if self.pipeline.is_snapshot() {
                self.pipeline.run(self.end, &self.sources).await
            } else {
                self.pipeline.advance(&self.changed, self.end).await
            }
        });
        (begin.elapsed(), advanced)
    }
}

/// Says which thread has ended, however it ended.
struct Done(mpsc::Sender<String>, String);

impl Drop for Done {
    fn drop(&mut self) {
        let _ = self.0.send(std::mem::take(&mut self.1));
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;

    use super::*;
    use crate::stream::pipeline::tests::{copying, panicking, row, schema};

    struct Nowhere;

    impl Keeper for Nowhere {
        type Error = Error;

        fn sources(&self, _: &Pipeline) -> Result<Option<Tables>, Error> {
            Ok(None)
        }

        fn keep(&mut self, _: &str, _: &RowDelta) -> Result<(), Error> {
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_is_the_failure_of_its_pipeline_and_of_those_that_read_it_alone() {
        let mut broken = panicking("broken", "given").await;
        let (mut reader, mut other) = (copying("reader", "broken", "").await, copying("other", "given", "").await);
        let delta = RowDelta { removed: RecordBatch::new_empty(schema()), added: row("in_1") };
        let mut changed = BTreeMap::from([("given".to_owned(), delta)]);
        let pipelines = vec![&mut broken, &mut reader, &mut other];
        let outcomes = advance(pipelines, &mut changed, &EpochEnd::default(), &mut Nowhere).unwrap();
        let outcomes: Vec<_> = outcomes.iter().map(|outcome| (&*outcome.name, outcome.failed.as_ref())).collect();
        let [("broken", Some(failed)), ("other", None)] = &outcomes[..] else { panic!("{outcomes:?}") };
        assert!(matches!(failed, Error::Panicked(name) if name == "broken"), "{failed}");
        let said = failed.to_string();
        assert!(said.contains("stopped `broken`: please report it") && !said.contains("cus_1"), "{said}");
        assert!(changed.keys().eq(["given", "other"]), "{changed:?}");
    }
}

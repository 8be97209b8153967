//! The pipelines of one epoch side by side on all cores, each as soon as those that it reads are done.
//!
//! What a pipeline says depends on what it reads alone, so the order in which others run beside it changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZero,
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
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let runtime = Handle::current();
    let order: Vec<String> = pipelines.iter().map(|pipeline| pipeline.name().to_owned()).collect();
    let mut unfinished: BTreeSet<String> = order.iter().cloned().collect();
    let mut waiting = pipelines;
    let mut outcomes = Vec::new();
    let side_by_side = || {
        thread::scope(|scope| {
            let (finished, next) = mpsc::channel();
            let mut at_work = BTreeMap::new();
            loop {
                while at_work.len() < threads
                    && let Some(i) = waiting.iter().position(|p| p.sources().is_disjoint(&unfinished))
                {
                    let pipeline = waiting.remove(i);
                    let name = pipeline.name().to_owned();
                    let sources = if !pipeline.has_work(changed, end) {
                        Ok(None)
                    } else if pipeline.is_snapshot() {
                        keeper.sources(pipeline)
                    } else {
                        Ok(Some(Tables::new()))
                    };
                    let sources = match sources {
                        Ok(Some(sources)) => sources,
                        Ok(None) => {
                            unfinished.remove(&name);
                            continue;
                        }
                        Err(error) => {
                            outcomes.push(Outcome { name, cost: Duration::ZERO, failed: Some(error) });
                            continue;
                        }
                    };
                    let read = changed.iter().filter(|(name, _)| pipeline.sources().contains(*name));
                    let read: BTreeMap<String, RowDelta> =
                        read.map(|(name, delta)| (name.clone(), delta.clone())).collect();
                    let (done, runtime) = (Done(finished.clone(), name.clone()), runtime.clone());
                    let thread = scope.spawn(move || {
                        let _done = done;
                        let begin = Instant::now();
                        let advanced = runtime.block_on(async {
                            if pipeline.is_snapshot() {
                                pipeline.run(end, &sources).await
                            } else {
                                pipeline.advance(&read, end).await
                            }
                        });
                        (begin.elapsed(), advanced)
                    });
                    at_work.insert(name, thread);
                }
                let Some((name, thread)) = (!at_work.is_empty())
                    .then(|| next.recv().ok())
                    .flatten()
                    .and_then(|name| at_work.remove_entry(&name))
                else {
                    return Ok(());
                };
                let (cost, advanced) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                let failed = match advanced {
                    Ok(delta) => {
                        unfinished.remove(&name);
                        if !delta.is_empty() {
                            keeper.keep(&name, &delta)?;
                            changed.insert(name.clone(), delta);
                        }
                        None
                    }
                    Err(error) => Some(error),
                };
                outcomes.push(Outcome { name, cost, failed });
            }
        })
    };
    tokio::task::block_in_place(side_by_side)?;
    outcomes.sort_by_key(|outcome| order.iter().position(|name| *name == outcome.name));
    Ok(outcomes)
}

/// Says which thread has ended, however it ended.
struct Done(mpsc::Sender<String>, String);

impl Drop for Done {
    fn drop(&mut self) {
        let _ = self.0.send(std::mem::take(&mut self.1));
    }
}

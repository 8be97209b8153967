//! The pipelines at work in an engine: which follow their sources, what their epochs cost, and which have stopped.

use std::{collections::BTreeMap, time::Duration};

use super::{EXPANSIONS, Engine, Error, FEATURES, store::Store};
use crate::stream::{
    self, Tables,
    pipeline::{Pipeline, RowDelta},
    together::{self, Keeper},
};

/// Whether a pipeline follows its sources.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum State {
    Works,
    /// Somebody wants its table to stand still.
    Paused,
    /// Why it, or one that it reads, stopped.
    Failed(String),
}

/// A pipeline at work, with what its epochs cost.
pub(super) struct Running {
    pub(super) pipeline: Pipeline,
    pub(super) state: State,
    pub(super) epochs: u64,
    pub(super) last_epoch_micros: u64,
    pub(super) epochs_micros: u64,
}

impl Running {
    pub(super) fn new(pipeline: Pipeline) -> Self {
        Self { pipeline, state: State::Works, epochs: 0, last_epoch_micros: 0, epochs_micros: 0 }
    }

    pub(super) fn failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }

    pub(super) fn note_cost(&mut self, cost: Duration) {
        self.last_epoch_micros = u64::try_from(cost.as_micros()).unwrap_or(u64::MAX);
        self.epochs += 1;
        self.epochs_micros = self.epochs_micros.saturating_add(self.last_epoch_micros);
    }
}

impl Keeper for Store {
    type Error = Error;

    /// They run beside the epochs: see [`super::scheduled`].
    fn sources(&self, _: &Pipeline) -> Result<Option<Tables>, stream::Error> {
        Ok(None)
    }

    fn keep(&mut self, name: &str, delta: &RowDelta) -> Result<(), Error> {
        self.change(name, delta)
    }
}

impl Engine {
    /// Brings every pipeline up to date that reads something that changed, or whose windows may close, and begins those
    /// that are due on their schedules; what changed in the features. A pipeline that fails stops alone, with those that
    /// read it.
    pub(super) async fn advance_pipelines(
        &mut self,
        mut changed: BTreeMap<String, RowDelta>,
    ) -> Result<Option<RowDelta>, Error> {
        self.end_runs(&mut changed)?;
        let end = self.end();
        let at_work = self.pipelines.iter_mut().filter(|running| running.state == State::Works);
        let pipelines = at_work.map(|running| &mut running.pipeline).collect();
        let mut late = Vec::new();
        for outcome in together::advance(pipelines, &mut changed, &end, &mut self.store)? {
            if let Some(running) = self.pipelines.iter_mut().find(|r| r.pipeline.name() == outcome.name) {
                running.note_cost(outcome.cost);
                let changes = running.pipeline.take_late();
                late.extend(changes.into_iter().map(|change| (outcome.name.clone(), change)));
            }
            if let Some(error) = outcome.failed {
                self.fail(&outcome.name, &error);
            }
        }
        self.keep_late(&late).await?;
        self.begin_runs(&end);
        if let Some(coming) = &mut self.coming {
            coming.note(&changed, &end);
        }
        if let Some(delta) = changed.get(EXPANSIONS) {
            self.pending_alerts.add(delta)?;
        }
        Ok(changed.remove(FEATURES))
    }

    /// Stops a pipeline and those that read it; they are rebuilt at the next start, or when they are resumed.
    pub(super) fn fail(&mut self, name: &str, error: &stream::Error) {
        tracing::error!(
            pipeline = name, %error,
            "a pipeline stopped; `tributary resume` rebuilds it, and so does the next start of the engine"
        );
        let mut stopped = vec![name.to_owned()];
        for running in &mut self.pipelines {
            // What reads only a table that stands still is not behind.
            if running.state == State::Paused && running.pipeline.name() != name {
                continue;
            }
            let source = running.pipeline.sources().iter().find(|source| stopped.contains(*source));
            let why = match source {
                _ if running.pipeline.name() == name => error.to_string(),
                Some(source) => format!("{source}, which it reads, stopped"),
                None => continue,
            };
            stopped.push(running.pipeline.name().to_owned());
            if running.state != State::Paused {
                running.state = State::Failed(why);
            }
        }
    }
}

//! Queries that run on a schedule, beside the epochs: each over its sources as they were at the end of the epoch in which
//! it fell due. Its table changes in the first epoch after the answer is there.
//!
//! One that reads the table of another, directly or not, waits until that one is done, and runs over what there is then.
//! What a stop or a crash interrupts falls due again.

use std::collections::{BTreeMap, BTreeSet};

use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};

use super::{Engine, Error, Running, State};
use crate::stream::{self, Answer, epoch::EpochEnd, pipeline::RowDelta};

/// The runs on their way, by pipeline.
pub(super) type Runs = BTreeMap<String, OnItsWay>;

pub(super) struct OnItsWay {
    /// Of the pipeline that began it.
    fingerprint: String,
    began: Instant,
    /// Of one task.
    task: JoinSet<Result<Answer, stream::Error>>,
    answer: Option<Result<Answer, stream::Error>>,
}

impl OnItsWay {
    /// Whether its pipeline still waits for it.
    fn is_for(&self, running: &Running) -> bool {
        running.state == State::Works && running.pipeline.fingerprint() == self.fingerprint
    }

    /// Whether it is done.
    fn look(&mut self) -> bool {
        let joined = self.task.try_join_next();
        self.note(joined);
        self.answer.is_some()
    }

    /// Waits until it is done.
    async fn wait(&mut self) {
        let joined = self.task.join_next().await;
        self.note(joined);
    }

    /// A run that came to no answer is the failure of its pipeline alone. What a panic said may be about a row.
    fn note(&mut self, joined: Option<Result<Result<Answer, stream::Error>, JoinError>>) {
        if let Some(joined) = joined {
            let cut_off = |_| Err(stream::Error::Internal("a run on a schedule was cut off".to_owned()));
            self.answer = Some(joined.unwrap_or_else(cut_off));
        }
    }
}

impl Engine {
    /// Pipelines that fell due on their schedule and can be run.
    fn due(&self, end: &EpochEnd) -> Vec<usize> {
        let mut moving: BTreeSet<&str> = self.runs.keys().map(String::as_str).collect();
        let mut due = Vec::new();
        for (place, Running { pipeline, state, .. }) in self.pipelines.iter().enumerate() {
            let is_due = pipeline.is_snapshot() && *state == State::Works && pipeline.has_work(&BTreeMap::new(), end);
            let reads_moving = pipeline.sources().iter().any(|source| moving.contains(source.as_str()));
            if is_due && !reads_moving && !moving.contains(pipeline.name()) {
                due.push(place);
            }
            if is_due || reads_moving {
                moving.insert(pipeline.name());
            }
        }
        due
    }

    /// Begins what is due at the end of an epoch.
    pub(super) fn begin_runs(&mut self, end: &EpochEnd) {
        for place in self.due(end) {
            let pipeline = &self.pipelines[place].pipeline;
            if let Some(run) = pipeline.begin_run(end, self.store.frozen(pipeline.sources())) {
                let mut task = JoinSet::new();
                task.spawn(run.answer());
                let fingerprint = pipeline.fingerprint().to_owned();
                let on_its_way = OnItsWay { fingerprint, began: Instant::now(), task, answer: None };
                self.runs.insert(pipeline.name().to_owned(), on_its_way);
            }
        }
    }

    /// Takes the answers that are there; what they change is added to `changed`.
    pub(super) fn end_runs(&mut self, changed: &mut BTreeMap<String, RowDelta>) -> Result<(), Error> {
        let waits = |name: &String, run: &mut OnItsWay| {
            self.pipelines.iter().any(|running| running.pipeline.name() == name && run.is_for(running))
        };
        self.runs.retain(waits);
        let mut done = Vec::new();
        for (name, run) in &mut self.runs {
            run.look();
            if let Some(answer) = run.answer.take() {
                done.push((name.clone(), run.began.elapsed(), answer));
            }
        }
        for (name, cost, answer) in done {
            self.runs.remove(&name);
            let Some(running) = self.pipelines.iter_mut().find(|running| running.pipeline.name() == name) else {
                continue;
            };
            running.note_cost(cost);
            match answer.and_then(|answer| running.pipeline.end_run(answer)) {
                Ok(delta) if delta.is_empty() => {}
                Ok(delta) => {
                    self.store.change(&name, &delta)?;
                    changed.insert(name, delta);
                }
                Err(error) => self.fail(&name, &error),
            }
        }
        Ok(())
    }

    /// Whether an epoch without records has something to do: a run ended, or can begin.
    pub(super) fn has_runs_to_see_to(&mut self) -> Result<bool, Error> {
        let mut done = !self.due(&self.end()).is_empty();
        for run in self.runs.values_mut() {
            done |= run.look();
        }
        Ok(done)
    }

    /// Goes on until no run is on its way or can begin.
    pub(super) async fn finish_runs(&mut self) -> Result<(), Error> {
        loop {
            self.follow(BTreeMap::new()).await?;
            if self.runs.is_empty() {
                return Ok(());
            }
            for run in self.runs.values_mut() {
                run.wait().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_that_comes_to_no_answer_fails_its_pipeline_and_not_the_engine() {
        let mut task: JoinSet<Result<Answer, stream::Error>> = JoinSet::new();
        task.spawn(async { panic!("over a row of cus_1") });
        let mut run = OnItsWay { fingerprint: String::new(), began: Instant::now(), task, answer: None };
        run.wait().await;
        assert!(run.look());
        let said = run.answer.and_then(Result::err).unwrap().to_string();
        assert!(said.contains("was cut off") && !said.contains("cus_1"), "{said}");
    }
}

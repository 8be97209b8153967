//! Making the epochs since the last checkpoint durable: stage, decide, apply, publish; then alert.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{
    runtime::Handle,
    task::{JoinError, JoinSet},
};

use super::{
    Engine, Error, FAILED, Laps, PAUSED, PipelineStatus, Running, Stages, State,
    blobs::{ledger_file, pipeline_state, to_file, to_ipc},
    captured::{Captured, Durable, StateBlobs, apply},
    watermark::Watermark,
};
use crate::{
    act::Change,
    ledger::{BUCKETS, Rules},
    stream::{checkpoint::Manifest, pipeline::Pipeline},
    stripe::ids::AccountId,
    time::EventTime,
};

/// Ledger buckets in one state file: few enough files to sync, small enough ones to write when little changed.
const BUCKETS_A_FILE: usize = 16;

/// What the engine itself remembers.
#[derive(Serialize, Deserialize)]
pub(super) struct EngineState {
    pub(super) watermark: Watermark,
    /// Account, mode and the instant up to which its windows have closed, in microseconds since 1970.
    #[serde(default)]
    pub(super) complete: Vec<(String, bool, i64)>,
    /// How the pipelines were, for those who look at the checkpoint.
    #[serde(default)]
    pub(super) pipelines: Vec<PipelineStatus>,
    /// Where the time went, up to this checkpoint.
    #[serde(default)]
    pub(super) stages: Stages,
    /// Bytes of memory in use, and the budget.
    #[serde(default)]
    pub(super) memory: (u64, u64),
}

/// A checkpoint that is made durable beside the epochs.
pub(super) struct UnderWay {
    /// What it makes durable of the rows that readers see.
    marks: BTreeMap<String, u64>,
    /// What alerts are made of.
    changes: Vec<Change>,
    /// Of one task; of none once it has failed. No other checkpoint follows then: it would lack what this one captured.
    task: JoinSet<Result<Durable, Error>>,
}

impl Engine {
    /// Takes a checkpoint, if anything is new since the last one, and waits until it is applied.
    pub(super) async fn checkpoint(&mut self) -> Result<(), Error> {
        self.begin_checkpoint().await?;
        self.end_checkpoint().await
    }

    /// Takes a checkpoint even if nothing is new, and waits until it is applied.
    pub(super) async fn decide_checkpoint(&mut self) -> Result<(), Error> {
        self.end_checkpoint().await?;
        self.capture().await?;
        self.end_checkpoint().await
    }

    /// Begins a checkpoint, if anything is new since the last one; it is made durable beside the epochs that follow. Also
    /// an engine that has nothing to write finds out here that another one has taken over.
    pub(super) async fn begin_checkpoint(&mut self) -> Result<(), Error> {
        self.end_checkpoint().await?;
        self.checkpoints.check_generation().await?;
        if self.is_durable() { Ok(()) } else { self.capture().await }
    }

    /// Whether nothing is new since the last checkpoint.
    fn is_durable(&self) -> bool {
        self.checkpoints.latest().is_some_and(|newest| {
            newest.offsets == self.offsets
                && newest.fingerprints == self.fingerprints()
                && newest.tables.keys().eq(self.store.names())
        }) && !self.store.has_new()
            && self.pipelines.iter().all(|running| running.state != State::Works || running.pipeline.is_saved())
    }

    /// Captures what the epochs so far came to, and begins to make it durable. No other checkpoint may be under way.
    async fn capture(&mut self) -> Result<(), Error> {
        let mut laps = Laps::start();
        let (marks, changes) = (self.store.marks(), self.pending_alerts.take());
        self.under_way = Some(UnderWay { marks, changes, task: JoinSet::new() });
        let blobs = self.capture_state().await?;
        let watermark = self.watermark_now.load(Ordering::Relaxed);
        let manifest = Manifest {
            number: self.checkpoints.next_number(),
            generation: 0,
            nonce: String::new(),
            repeats: None,
            log_identity: self.log_identity.clone(),
            offsets: self.offsets.clone(),
            watermark: (watermark > i64::MIN).then_some(EventTime::from_micros(watermark)),
            committed_at: EventTime::MIN,
            fingerprints: self.fingerprints(),
            state: BTreeMap::new(),
            tables: BTreeMap::new(),
        };
        let complete = self.complete.iter().map(|(account, livemode, at)| (account.to_owned(), livemode, at));
        let engine = EngineState {
            watermark: self.watermark.clone(),
            complete: complete.collect(),
            pipelines: self.statuses(),
            stages: self.progress.stages,
            memory: self.memory.figures(),
        };
        let captured = Captured { manifest, rows: self.store.take_new(), blobs, engine };
        let tables = (self.store.delta.clone(), self.commits.clone());
        let (checkpoints, clock) = (Arc::clone(&self.checkpoints), Arc::clone(&self.clock));
        if let Some(under_way) = &mut self.under_way {
            // On a thread of its own, because much of it is work for a processor.
            let runtime = Handle::current();
            under_way
                .task
                .spawn_blocking(move || runtime.block_on(captured.make_durable(&checkpoints, &clock, tables)));
        }
        self.progress.stages.checkpoint += laps.lap();
        Ok(())
    }

    /// Whether a checkpoint is being made durable.
    pub(super) fn is_checkpoint_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Goes on with a checkpoint that has been applied, if one has.
    pub(super) async fn look_after_checkpoint(&mut self) -> Result<(), Error> {
        match self.under_way.as_mut().and_then(|under_way| under_way.task.try_join_next()) {
            Some(durable) => self.applied(durable).await,
            None => Ok(()),
        }
    }

    /// Waits until the last checkpoint is applied.
    pub(super) async fn end_checkpoint(&mut self) -> Result<(), Error> {
        let mut laps = Laps::start();
        let Some(under_way) = &mut self.under_way else { return Ok(()) };
        let durable = under_way.task.join_next().await;
        self.progress.stages.checkpoint += laps.lap();
        self.applied(durable.ok_or_else(|| Error::Internal("the last checkpoint failed".to_owned()))?).await
    }

    /// Readers move to the new snapshots, and alerts are sent.
    async fn applied(&mut self, durable: Result<Result<Durable, Error>, JoinError>) -> Result<(), Error> {
        let mut laps = Laps::start();
        let Durable { saved, applied } = durable.map_err(|error| Error::Internal(error.to_string()))??;
        let Some(UnderWay { marks, changes, .. }) = self.under_way.take() else { return Ok(()) };
        self.saved_state = saved;
        (self.store.delta, self.commits) = applied;
        self.store.committed(&marks)?;
        self.progress.checkpoints += 1;
        self.watch.send_replace(self.progress);
        self.offer(changes).await?;
        self.progress.stages.checkpoint += laps.lap();
        Ok(())
    }

    /// Brings Delta to the newest manifest and publishes which versions belong together, at a start.
    pub(super) async fn apply_newest(&mut self) -> Result<(), Error> {
        if let Some(manifest) = self.checkpoints.latest() {
            let tables = (self.store.delta.clone(), self.commits.clone());
            (self.store.delta, self.commits) = apply(&self.checkpoints.ownership(), &manifest, tables).await?;
        }
        Ok(())
    }

    /// Gives changes to the alerts, unless they are of history that is brought in.
    pub(super) async fn offer(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        if let Some(alerts) = &self.alerts
            && !self.backfills
            && !changes.is_empty()
        {
            alerts.offer(changes).await?;
        }
        Ok(())
    }

    /// What the next start compares with: the rules, and each pipeline that is whole.
    fn fingerprints(&self) -> BTreeMap<String, String> {
        self.pipelines
            .iter()
            .map(|running| {
                let fingerprint = match running.state {
                    State::Works => running.pipeline.fingerprint(),
                    State::Paused => PAUSED,
                    State::Failed(_) => FAILED,
                };
                (running.pipeline.name().to_owned(), fingerprint.to_owned())
            })
            .chain([(
                super::LEDGER_FINGERPRINT.to_owned(),
                rules_fingerprint(&self.options.rules, &self.options.account),
            )])
            .collect()
    }

    /// The state that changed since the last checkpoint, as bytes.
    async fn capture_state(&mut self) -> Result<StateBlobs, Error> {
        let mut blobs = StateBlobs::new(self.saved_state.clone());
        let dirty = self.ledger.dirty_buckets();
        for file in 0..BUCKETS / BUCKETS_A_FILE {
            let buckets = file * BUCKETS_A_FILE..(file + 1) * BUCKETS_A_FILE;
            let buckets: Vec<u8> = buckets.filter_map(|bucket| u8::try_from(bucket).ok()).collect();
            if !buckets.iter().any(|bucket| dirty.contains(bucket)) {
                continue;
            }
            let name = ledger_file(file);
            let whole = blobs.wants_whole(&name);
            let mut encoded: Vec<(u8, Vec<u8>)> = Vec::with_capacity(buckets.len());
            for bucket in buckets {
                if whole || dirty.contains(&bucket) {
                    encoded.push((bucket, self.ledger.encode_bucket(bucket, whole)?));
                }
            }
            blobs.put(name, to_file(&encoded)?, whole);
            blobs.make_room(&self.checkpoints).await?;
        }
        if self.ledger.catalogue_dirty() {
            blobs.put("catalogue".to_owned(), self.ledger.encode_catalogue()?.into(), true);
        }
        self.ledger.clear_dirty();
        for Running { pipeline, state, .. } in &mut self.pipelines {
            if *state != State::Works || pipeline.is_saved() {
                continue;
            }
            let [of_class, of_gate] = pipeline_state(pipeline.name());
            let saved = pipeline.save(blobs.wants_whole(&of_class)).map_err(|error| failed(pipeline, error))?;
            for rows in saved.state {
                blobs.put(of_class.clone(), to_ipc(&[rows])?, saved.whole);
            }
            if let Some(rows) = saved.held {
                blobs.put(of_gate, to_ipc(&[rows])?, true);
            }
            pipeline.mark_saved();
            blobs.make_room(&self.checkpoints).await?;
        }
        Ok(blobs)
    }
}

/// Changes whenever the rules would count otherwise, or for somebody else.
pub(super) fn rules_fingerprint(rules: &Rules, account: &AccountId) -> String {
    hex::encode(&Sha256::digest(format!("{rules:?} {account:?}"))[..16])
}

pub(super) fn failed(pipeline: &Pipeline, source: crate::stream::Error) -> Error {
    Error::PipelineFailed { name: pipeline.name().to_owned(), source }
}

//! Making the epochs since the last checkpoint durable: stage, decide, apply, publish; then alert.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use bytes::Bytes;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{
    runtime::Handle,
    task::{JoinError, JoinSet},
};

use super::{
    CHECKPOINTS_A_MAINTENANCE, Engine, Error, FAILED, Laps, PAUSED, PipelineStatus, Running, Stages, State,
    blobs::{ledger_file, pipeline_state, to_file, to_ipc},
    saved::SavedState,
    store::Store,
    watermark::Watermark,
};
use crate::{
    act::Change,
    ledger::{BUCKETS, Rules},
    sink::{self, commits, delta::DeltaTable},
    stream::{
        checkpoint::{Checkpoints, Manifest, Ownership, TableWork},
        pipeline::Pipeline,
    },
    stripe::ids::AccountId,
    time::EventTime,
};

/// Bytes of state that are stored at once: more wait until these are.
const BLOB_BYTES_AT_ONCE: usize = 64 * 1024 * 1024;

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
}

/// A decided checkpoint that is being applied to the tables, beside the epochs.
pub(super) struct Application {
    /// What it makes durable of the rows that readers see.
    marks: BTreeMap<String, u64>,
    /// What alerts are made of.
    changes: Vec<Change>,
    /// Of one task.
    task: JoinSet<Result<Applied, sink::Error>>,
}

/// The tables with the checkpoint, and the one that says which versions belong together.
type Applied = (BTreeMap<String, DeltaTable>, DeltaTable);

impl Engine {
    /// Takes a checkpoint, if anything is new since the last one, and waits until it is applied.
    pub(super) async fn checkpoint(&mut self) -> Result<(), Error> {
        self.begin_checkpoint().await?;
        self.end_checkpoint().await
    }

    /// Takes a checkpoint even if nothing is new.
    pub(super) async fn decide_checkpoint(&mut self) -> Result<(), Error> {
        self.end_checkpoint().await?;
        let laps = Laps::start();
        let marks = self.store.marks();
        let tables = self.store.work(&self.checkpoints).await?;
        self.decide(marks, tables, laps).await?;
        self.end_checkpoint().await
    }

    /// Decides a checkpoint, if anything is new since the last one; it is applied beside the epochs that follow. Also an
    /// engine that has nothing to write finds out here that another one has taken over.
    pub(super) async fn begin_checkpoint(&mut self) -> Result<(), Error> {
        self.end_checkpoint().await?;
        let laps = Laps::start();
        self.checkpoints.check_generation().await?;
        let marks = self.store.marks();
        let tables = self.store.work(&self.checkpoints).await?;
        let latest = self.checkpoints.latest();
        let number = self.checkpoints.next_number();
        let fingerprints = self.fingerprints();
        let idle = latest.is_some_and(|manifest| {
            manifest.offsets == self.offsets
                && manifest.fingerprints == fingerprints
                && manifest.tables.keys().eq(tables.keys())
        }) && tables.values().all(|work| work.pending.iter().all(|work| work.number < number));
        if idle { Ok(()) } else { self.decide(marks, tables, laps).await }
    }

    async fn decide(
        &mut self,
        marks: BTreeMap<String, u64>,
        tables: BTreeMap<String, TableWork>,
        mut laps: Laps,
    ) -> Result<(), Error> {
        let (number, fingerprints) = (self.checkpoints.next_number(), self.fingerprints());
        self.save_state().await?;
        let watermark = self.watermark_now.load(Ordering::Relaxed);
        let manifest = Manifest {
            number,
            generation: 0,
            nonce: String::new(),
            repeats: None,
            log_identity: self.log_identity.clone(),
            offsets: self.offsets.clone(),
            watermark: (watermark > i64::MIN).then_some(EventTime::from_micros(watermark)),
            committed_at: (self.clock)(),
            fingerprints,
            state: self.saved_state.blobs().clone(),
            tables,
        };
        let manifest = self.checkpoints.decide(manifest).await?.clone();
        let changes = self.pending_alerts.take();
        let (ownership, tables) = (self.checkpoints.ownership(), self.store.delta.clone());
        let commits = self.commits.clone();
        let mut task = JoinSet::new();
        // On a thread of its own, because much of it is work for a processor.
        let runtime = Handle::current();
        task.spawn_blocking(move || {
            runtime.block_on(async {
                let applied = apply(&ownership, &manifest, tables, commits).await?;
                // By the number, so that engines which live shortly maintain too.
                let is_due = number.is_multiple_of(CHECKPOINTS_A_MAINTENANCE);
                if is_due { maintain(&ownership, &manifest, applied).await } else { Ok(applied) }
            })
        });
        self.application = Some(Application { marks, changes, task });
        self.progress.stages.checkpoint += laps.lap();
        Ok(())
    }

    /// Goes on with a checkpoint that has been applied, if one has.
    pub(super) async fn look_after_checkpoint(&mut self) -> Result<(), Error> {
        match self.application.as_mut().and_then(|application| application.task.try_join_next()) {
            Some(applied) => self.applied(applied).await,
            None => Ok(()),
        }
    }

    /// Waits until the last checkpoint is applied.
    pub(super) async fn end_checkpoint(&mut self) -> Result<(), Error> {
        let mut laps = Laps::start();
        match &mut self.application {
            Some(application) => match application.task.join_next().await {
                Some(applied) => {
                    self.progress.stages.checkpoint += laps.lap();
                    self.applied(applied).await
                }
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Readers move to the new snapshots, and alerts are sent.
    async fn applied(&mut self, applied: Result<Result<Applied, sink::Error>, JoinError>) -> Result<(), Error> {
        let mut laps = Laps::start();
        let Some(Application { marks, changes, .. }) = self.application.take() else { return Ok(()) };
        (self.store.delta, self.commits) = applied.map_err(|error| Error::Internal(error.to_string()))??;
        self.store.committed(&marks)?;
        self.progress.checkpoints += 1;
        self.watch.send_replace(self.progress);
        self.offer(changes).await?;
        self.checkpoints.prune().await?;
        self.progress.stages.checkpoint += laps.lap();
        Ok(())
    }

    /// Brings Delta to the newest manifest and publishes which versions belong together, at a start.
    pub(super) async fn apply_newest(&mut self) -> Result<(), Error> {
        if let Some(manifest) = self.checkpoints.latest() {
            let (tables, commits) = (self.store.delta.clone(), self.commits.clone());
            (self.store.delta, self.commits) = apply(&self.checkpoints.ownership(), manifest, tables, commits).await?;
        }
        Ok(())
    }

    /// Gives changes to the alerts.
    pub(super) async fn offer(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        if let Some(alerts) = &self.alerts
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

    async fn save_state(&mut self) -> Result<(), Error> {
        let mut puts = Puts::new(&self.checkpoints, &mut self.saved_state);
        let dirty = self.ledger.dirty_buckets();
        for file in 0..BUCKETS / BUCKETS_A_FILE {
            let buckets = file * BUCKETS_A_FILE..(file + 1) * BUCKETS_A_FILE;
            let buckets: Vec<u8> = buckets.filter_map(|bucket| u8::try_from(bucket).ok()).collect();
            if !buckets.iter().any(|bucket| dirty.contains(bucket)) {
                continue;
            }
            let name = ledger_file(file);
            let whole = puts.saved.wants_whole(&name);
            let mut encoded: Vec<(u8, Vec<u8>)> = Vec::with_capacity(buckets.len());
            for bucket in buckets {
                if whole || dirty.contains(&bucket) {
                    encoded.push((bucket, self.ledger.encode_bucket(bucket, whole)?));
                }
            }
            puts.put(name, to_file(&encoded)?, whole).await?;
        }
        if self.ledger.catalogue_dirty() {
            puts.put("catalogue".to_owned(), self.ledger.encode_catalogue()?.into(), true).await?;
        }
        self.ledger.clear_dirty();
        for Running { pipeline, state, .. } in &mut self.pipelines {
            if *state != State::Works || pipeline.is_saved() {
                continue;
            }
            let [of_class, of_gate] = pipeline_state(pipeline.name());
            let saved = pipeline.save(puts.saved.wants_whole(&of_class)).map_err(|error| failed(pipeline, error))?;
            for rows in saved.state {
                puts.put(of_class.clone(), to_ipc(&rows)?, saved.whole).await?;
            }
            if let Some(rows) = saved.held {
                puts.put(of_gate, to_ipc(&rows)?, true).await?;
            }
            pipeline.mark_saved();
        }
        puts.finish().await?;
        let complete = self.complete.iter().map(|(account, livemode, at)| (account.to_owned(), livemode, at));
        let (complete, pipelines) = (complete.collect(), self.statuses());
        let (watermark, stages) = (self.watermark.clone(), self.progress.stages);
        let engine = EngineState { watermark, complete, pipelines, stages };
        let engine = serde_json::to_vec(&engine).map_err(|e| Error::Internal(e.to_string()))?;
        let mut puts = Puts::new(&self.checkpoints, &mut self.saved_state);
        puts.put("engine".to_owned(), engine.into(), true).await?;
        puts.finish().await
    }
}

/// Blobs on their way, many at once: each waits for the disk.
struct Puts<'a> {
    checkpoints: &'a Checkpoints,
    saved: &'a mut SavedState,
    waiting: Vec<(String, Bytes, bool)>,
    bytes: usize,
}

impl<'a> Puts<'a> {
    fn new(checkpoints: &'a Checkpoints, saved: &'a mut SavedState) -> Self {
        Self { checkpoints, saved, waiting: Vec::new(), bytes: 0 }
    }

    /// Adds a state, or what changed of it.
    async fn put(&mut self, name: String, bytes: Bytes, whole: bool) -> Result<(), Error> {
        self.bytes += bytes.len();
        self.waiting.push((name, bytes, whole));
        if self.bytes >= BLOB_BYTES_AT_ONCE { self.finish().await } else { Ok(()) }
    }

    /// Everything so far is stored when it returns.
    async fn finish(&mut self) -> Result<(), Error> {
        let checkpoints = self.checkpoints;
        let puts = std::mem::take(&mut self.waiting).into_iter().map(|(name, bytes, whole)| async move {
            Ok::<_, Error>((checkpoints.put_blob(&name, bytes).await?, name, whole))
        });
        for (blob, name, whole) in try_join_all(puts).await? {
            if whole {
                self.saved.put_whole(&name, blob);
            } else {
                self.saved.put_changes(&name, blob);
            }
        }
        self.bytes = 0;
        Ok(())
    }
}

/// Brings the tables to a manifest and publishes which versions belong together.
async fn apply(
    ownership: &Ownership,
    manifest: &Manifest,
    mut tables: BTreeMap<String, DeltaTable>,
    mut commits: DeltaTable,
) -> Result<Applied, sink::Error> {
    sink::apply::apply(ownership, manifest, tables.values_mut()).await?;
    commits::publish(&mut commits, ownership, manifest, &tables).await?;
    Ok((tables, commits))
}

/// Merges small files and deletes what nobody needs, when nothing decided is unapplied.
async fn maintain(
    ownership: &Ownership,
    manifest: &Manifest,
    (mut tables, mut commits): Applied,
) -> Result<Applied, sink::Error> {
    for (name, table) in &mut tables {
        table.maintain(ownership, &Store::staged_files(manifest, name)).await?;
    }
    commits.maintain(ownership, &BTreeSet::new()).await?;
    Ok((tables, commits))
}

/// Changes whenever the rules would count otherwise, or for somebody else.
pub(super) fn rules_fingerprint(rules: &Rules, account: &AccountId) -> String {
    hex::encode(&Sha256::digest(format!("{rules:?} {account:?}"))[..16])
}

pub(super) fn failed(pipeline: &Pipeline, source: crate::stream::Error) -> Error {
    Error::PipelineFailed { name: pipeline.name().to_owned(), source }
}

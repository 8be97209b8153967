//! Making the epochs since the last checkpoint durable: stage, decide, apply, publish; then alert.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    sync::atomic::Ordering,
};

use arrow::{
    array::RecordBatch,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    CHECKPOINTS_A_MAINTENANCE, Engine, Error, FAILED, Laps, PAUSED, PipelineStatus, Stages, State, saved::SavedState,
    store::Store, watermark::Watermark,
};
use crate::{
    ledger::{BUCKETS, Ledger, Rules},
    sink::{apply, commits},
    stream::{
        checkpoint::{Checkpoints, Manifest, TableWork},
        pipeline::{Pipeline, Saved},
    },
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
}

/// The names of a pipeline's state: that of its class, and the rows that it holds until their windows close.
pub(super) fn pipeline_state(name: &str) -> [String; 2] {
    [format!("pipeline-{name}"), format!("held-{name}")]
}

impl Engine {
    /// Takes a checkpoint, if anything is new since the last one. Also an engine that has nothing to write finds out
    /// here that another one has taken over.
    pub(super) async fn checkpoint(&mut self) -> Result<(), Error> {
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

    /// Takes a checkpoint even if nothing is new.
    pub(super) async fn decide_checkpoint(&mut self) -> Result<(), Error> {
        let laps = Laps::start();
        let marks = self.store.marks();
        let tables = self.store.work(&self.checkpoints).await?;
        self.decide(marks, tables, laps).await
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
        self.checkpoints.decide(manifest).await?;
        self.apply_newest().await?;
        self.store.committed(&marks)?;
        self.progress.checkpoints += 1;
        self.watch.send_replace(self.progress);
        self.offer_alerts().await?;
        self.checkpoints.prune().await?;
        // By the number, so that engines which live shortly maintain too.
        if number.is_multiple_of(CHECKPOINTS_A_MAINTENANCE) {
            self.maintain().await?;
        }
        self.progress.stages.checkpoint += laps.lap();
        Ok(())
    }

    /// Brings Delta to the newest manifest and publishes which versions belong together.
    pub(super) async fn apply_newest(&mut self) -> Result<(), Error> {
        if let Some(manifest) = self.checkpoints.latest() {
            apply::apply(&self.checkpoints, manifest, self.store.delta.values_mut()).await?;
            let ownership = self.checkpoints.ownership();
            commits::publish(&mut self.commits, &ownership, manifest, &self.store.delta).await?;
        }
        Ok(())
    }

    pub(super) async fn offer_alerts(&mut self) -> Result<(), Error> {
        let changes = self.pending_alerts.take();
        if let Some(alerts) = &self.alerts
            && !changes.is_empty()
        {
            alerts.offer(changes).await?;
        }
        Ok(())
    }

    async fn maintain(&mut self) -> Result<(), Error> {
        let ownership = self.checkpoints.ownership();
        if let Some(manifest) = self.checkpoints.latest() {
            for (name, table) in &mut self.store.delta {
                table.maintain(&ownership, &Store::staged_files(manifest, name)).await?;
            }
        }
        self.commits.maintain(&ownership, &BTreeSet::new()).await?;
        self.store.committed(&BTreeMap::new())
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
        let dirty = self.ledger.dirty_buckets();
        for file in 0..BUCKETS / BUCKETS_A_FILE {
            let buckets = file * BUCKETS_A_FILE..(file + 1) * BUCKETS_A_FILE;
            let buckets: Vec<u8> = buckets.filter_map(|bucket| u8::try_from(bucket).ok()).collect();
            if !buckets.iter().any(|bucket| dirty.contains(bucket)) {
                continue;
            }
            let name = format!("ledger-{file:02}");
            let whole = self.saved_state.wants_whole(&name);
            let mut encoded: Vec<(u8, Vec<u8>)> = Vec::with_capacity(buckets.len());
            for bucket in buckets {
                if whole || dirty.contains(&bucket) {
                    encoded.push((bucket, self.ledger.encode_bucket(bucket, whole)?));
                }
            }
            let bytes = postcard::to_stdvec(&encoded).map_err(|e| Error::Internal(e.to_string()))?;
            self.save(&name, bytes.into(), whole).await?;
        }
        if self.ledger.catalogue_dirty() {
            let bytes = self.ledger.encode_catalogue()?;
            self.save("catalogue", bytes.into(), true).await?;
        }
        self.ledger.clear_dirty();
        for i in 0..self.pipelines.len() {
            if self.pipelines[i].state != State::Works || self.pipelines[i].pipeline.is_saved() {
                continue;
            }
            let pipeline = &mut self.pipelines[i].pipeline;
            let [of_class, of_gate] = pipeline_state(pipeline.name());
            let wants_whole = self.saved_state.wants_whole(&of_class);
            let saved = pipeline.save(wants_whole).map_err(|error| failed(pipeline, error))?;
            let Saved { state, whole, held } = saved;
            for rows in state {
                self.save(&of_class, to_ipc(&rows)?, whole).await?;
            }
            if let Some(rows) = held {
                self.save(&of_gate, to_ipc(&rows)?, true).await?;
            }
            self.pipelines[i].pipeline.mark_saved();
        }
        let complete = self.complete.iter().map(|(account, livemode, at)| (account.to_owned(), livemode, at));
        let (complete, pipelines) = (complete.collect(), self.statuses());
        let (watermark, stages) = (self.watermark.clone(), self.progress.stages);
        let state = EngineState { watermark, complete, pipelines, stages };
        let bytes = serde_json::to_vec(&state).map_err(|e| Error::Internal(e.to_string()))?;
        self.save("engine", bytes.into(), true).await
    }

    /// Writes a state, or what changed of it.
    async fn save(&mut self, name: &str, bytes: Bytes, whole: bool) -> Result<(), Error> {
        let blob = self.checkpoints.put_blob(name, bytes).await?;
        if whole {
            self.saved_state.put_whole(name, blob);
        } else {
            self.saved_state.put_changes(name, blob);
        }
        Ok(())
    }
}

/// Changes whenever the rules would count otherwise, or for somebody else.
pub(super) fn rules_fingerprint(rules: &Rules, account: &AccountId) -> String {
    hex::encode(&Sha256::digest(format!("{rules:?} {account:?}"))[..16])
}

/// Puts the ledger back as it was when `state` was saved.
pub(super) async fn restore_ledger(
    ledger: &mut Ledger,
    checkpoints: &Checkpoints,
    state: &SavedState,
) -> Result<(), Error> {
    for blob in state.parts("catalogue") {
        ledger.restore_catalogue(&checkpoints.read_blob(blob).await?)?;
    }
    for name in state.names().filter(|name| name.starts_with("ledger-")) {
        for blob in state.parts(name) {
            let bytes = checkpoints.read_blob(blob).await?;
            let buckets: Vec<(u8, Vec<u8>)> =
                postcard::from_bytes(&bytes).map_err(|e| Error::Internal(format!("{name}: {e}")))?;
            for (bucket, bytes) in buckets {
                ledger.restore_bucket(bucket, &bytes)?;
            }
        }
    }
    ledger.clear_dirty();
    Ok(())
}

pub(super) fn failed(pipeline: &Pipeline, source: crate::stream::Error) -> Error {
    Error::PipelineFailed { name: pipeline.name().to_owned(), source }
}

fn to_ipc(batch: &RecordBatch) -> Result<Bytes, Error> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?.into())
}

/// The batches of an IPC stream.
pub(super) fn from_ipc(bytes: Bytes) -> Result<Vec<RecordBatch>, Error> {
    Ok(StreamReader::try_new(Cursor::new(bytes), None)?.collect::<Result<_, _>>()?)
}

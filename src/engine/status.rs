//! How the pipelines are: what `pipeline_status` and `tributary status` show, of a running engine and of the newest
//! checkpoint.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use serde::{Deserialize, Serialize};

use super::{Engine, Error, Running, Stages, State, blobs::pipeline_state, checkpoint::EngineState, readers::newest};
use crate::{
    storage::Home,
    stream::checkpoint::{self, Manifest},
    tables,
    time::EventTime,
};

/// The table.
pub(super) const STATUS: &str = "pipeline_status";

/// How one pipeline is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// Its name.
    pub name: String,
    /// `running`, `paused` or `failed`.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// How it is maintained.
    pub class: String,
    /// Groups in its state.
    pub groups: u64,
    /// Bytes of its state in the newest checkpoint.
    pub state_bytes: u64,
    /// Epochs since the engine started in which there was something to do for it.
    pub epochs: u64,
    /// What the last of them cost, in microseconds.
    pub last_epoch_micros: u64,
    /// What all of them cost, in microseconds.
    pub epochs_micros: u64,
    /// Rows of its state: a group is one, a key may have many.
    #[serde(default)]
    pub state_rows: u64,
    /// The boundary of its schedule at which it last ran.
    #[serde(default)]
    pub last_run_at: Option<EventTime>,
    /// Rows that wait for their windows to close; none where it does not emit on close.
    #[serde(default)]
    pub held_rows: Option<u64>,
    /// Changes of rows whose windows had closed, since it was built.
    #[serde(default)]
    pub late_changes: Option<u64>,
}

/// How a data directory is, as of its newest checkpoint.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether an engine runs on it, on this machine.
    pub running: bool,
    /// The newest decision.
    pub manifest: Manifest,
    /// The pipelines, each after those it reads.
    pub pipelines: Vec<PipelineStatus>,
    /// Where the time of the engine that took it went.
    pub stages: Stages,
    /// Bytes of memory that engine used, and its budget, at which reading waits.
    pub memory: (u64, u64),
}

/// How a data directory is; `None` before the first checkpoint.
///
/// # Errors
/// When the newest checkpoint cannot be read.
pub async fn status(home: &Home) -> Result<Option<Status>, Error> {
    let Some(manifest) = newest(home).await? else { return Ok(None) };
    let (pipelines, stages, memory) = match of_manifest(home, &manifest).await? {
        Some(state) => (state.pipelines, state.stages, state.memory),
        None => Default::default(),
    };
    Ok(Some(Status { running: checkpoint::is_locked(&home.engine_dir())?, manifest, pipelines, stages, memory }))
}

/// How the engine was when a manifest was decided. A blob of it may go while an engine runs: nothing is known then.
pub(super) async fn of_manifest(home: &Home, manifest: &Manifest) -> Result<Option<EngineState>, Error> {
    let Some(blob) = manifest.state.get("engine") else { return Ok(None) };
    let bytes = match checkpoint::peek_blob(home.checkpoints().as_ref(), blob).await {
        Ok(bytes) => bytes,
        Err(checkpoint::Error::Damaged { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Internal(error.to_string()))
}

/// Rows of [`STATUS`]: every pipeline in both modes and of no account, because its state is of all of them.
pub(super) fn rows(
    pipelines: &[PipelineStatus],
    watermark: Option<EventTime>,
    lag: Option<u64>,
) -> Result<RecordBatch, Error> {
    let both = || pipelines.iter().flat_map(|status| [(true, status), (false, status)]);
    let text = |of: fn(&PipelineStatus) -> Option<&str>| -> ArrayRef {
        Arc::new(both().map(|(_, status)| of(status)).collect::<StringArray>())
    };
    let number = |of: fn(&PipelineStatus) -> u64| -> ArrayRef {
        let numbers = both().map(|(_, status)| i64::try_from(of(status)).unwrap_or(i64::MAX));
        Arc::new(Int64Array::from_iter_values(numbers))
    };
    let optional = |of: fn(&PipelineStatus) -> Option<u64>| -> ArrayRef {
        let numbers = both().map(|(_, status)| of(status).map(|n| i64::try_from(n).unwrap_or(i64::MAX)));
        Arc::new(numbers.collect::<Int64Array>())
    };
    let watermark = watermark.map(EventTime::micros);
    let watermarks: TimestampMicrosecondArray = both().map(|_| watermark).collect();
    let runs: TimestampMicrosecondArray = both().map(|(_, status)| status.last_run_at.map(EventTime::micros)).collect();
    let lag = lag.map(|lag| i64::try_from(lag).unwrap_or(i64::MAX));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(both().map(|_| Some("")).collect::<StringArray>()),
        Arc::new(both().map(|(live, _)| Some(live)).collect::<BooleanArray>()),
        text(|status| Some(&status.name)),
        text(|status| Some(&status.state)),
        text(|status| status.error.as_deref()),
        text(|status| Some(&status.class)),
        number(|status| status.groups),
        number(|status| status.state_bytes),
        number(|status| status.epochs),
        number(|status| status.last_epoch_micros),
        number(|status| status.epochs_micros),
        Arc::new(watermarks.with_timezone("UTC")),
        Arc::new(both().map(|_| lag).collect::<Int64Array>()),
        optional(|status| Some(status.state_rows)),
        Arc::new(runs.with_timezone("UTC")),
        optional(|status| status.held_rows),
        optional(|status| status.late_changes),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&tables::get(STATUS)?.schema), columns)?)
}

impl Engine {
    /// How every pipeline is now.
    pub(super) fn statuses(&self) -> Vec<PipelineStatus> {
        let bytes = |name: &str| self.saved_state.bytes(&pipeline_state(name));
        self.pipelines.iter().map(|running| running.status(bytes(running.pipeline.name()))).collect()
    }

    /// Shows readers how the pipelines are.
    pub(super) fn note_status(&self) -> Result<(), Error> {
        let watermark = self.watermark_now.load(std::sync::atomic::Ordering::Relaxed);
        let watermark = (watermark > i64::MIN).then(|| EventTime::from_micros(watermark));
        let rows = rows(&self.statuses(), watermark, Some(self.progress.lag))?;
        self.status.set(vec![rows]);
        Ok(())
    }
}

impl Running {
    fn status(&self, state_bytes: u64) -> PipelineStatus {
        let explanation = self.pipeline.explain();
        let (state, error) = match &self.state {
            State::Works => ("running", None),
            State::Paused => ("paused", None),
            State::Failed(error) => ("failed", Some(error.clone())),
        };
        PipelineStatus {
            name: self.pipeline.name().to_owned(),
            state: state.to_owned(),
            error,
            class: explanation.class.to_owned(),
            groups: explanation.groups as u64,
            state_bytes,
            epochs: self.epochs,
            last_epoch_micros: self.last_epoch_micros,
            epochs_micros: self.epochs_micros,
            state_rows: explanation.state_rows as u64,
            last_run_at: explanation.last_run.map(EventTime::from_micros),
            held_rows: explanation.on_close.map(|on_close| on_close.held_rows as u64),
            late_changes: explanation.on_close.map(|on_close| on_close.late_changes),
        }
    }
}

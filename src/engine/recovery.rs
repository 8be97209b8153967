//! Starting: claim the data directory, go back to the newest checkpoint, and rebuild what no longer fits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicI64},
};

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::{concat_batches, filter_record_batch},
    datatypes::{Int8Type, SchemaRef},
};
use futures::future::join_all;
use tokio::sync::watch;

use super::{
    CLOCK, EXPANSIONS, Engine, Error, FAILED, FEATURES, LEDGER_FINGERPRINT, Memory, Options, PAUSED, PendingAlerts,
    Progress, Requests, Running, SCORES, SavedState, Scorer, Shown, State, Watermark, backup,
    blobs::{from_ipc, is_of_pipeline, pipeline_state},
    checkpoint::{EngineState, rules_fingerprint},
    late::LATE_CHANGES,
    rates,
    restore::restore_catalogue,
    scheduled::Runs,
    store::{Definition, Store},
    swap,
};
use crate::{
    act,
    ledger::Ledger,
    log::EventLog,
    sink::{self, apply, commits, delta::DeltaTable},
    storage::Location,
    stream::{
        self, Cell, Relation,
        checkpoint::{Checkpoints, Manifest},
        conversion::SharedRates,
        epoch::Completeness,
        graph::plan_all,
        pipeline::{Pipeline, RowDelta, difference},
    },
    stripe::{counts::UnknownCounts, types::Scope},
    tables::{self, OP_COLUMN, Source, rows},
    time::{Clock, EventTime},
};

/// The engine's relations that pipelines can read.
///
/// # Errors
/// When the contract is broken: a bug.
pub fn relations() -> Result<BTreeMap<String, Relation>, Error> {
    let all = tables::all().map_err(|error| Error::Internal(error.to_string()))?;
    Ok(all
        .iter()
        .filter(|table| table.source == Source::Engine && ![SCORES, LATE_CHANGES].contains(&table.name.as_str()))
        .map(|table| {
            let small = table.name == CLOCK;
            (table.name.clone(), Relation { schema: Arc::clone(&table.schema), appended: table.is_appended(), small })
        })
        .collect())
}

impl Engine {
    /// Starts on a data directory: from its newest checkpoint, or from the log's beginning. `nonce` is a random text,
    /// another one for every start.
    ///
    /// # Errors
    /// See [`Error`]; nothing is changed when a pipeline's file is not right.
    pub async fn open(
        options: Options,
        log: Arc<dyn EventLog>,
        alerts: Option<(act::Options, act::Jitter)>,
        clock: Clock,
        nonce: String,
    ) -> Result<Self, Error> {
        let relations = relations()?;
        let files = options.pipelines.clone();
        let pipelines = plan_all(files, &relations, &options.parameters, &options.settings).await?;
        let log_identity = log.identity().await?;
        let partitions = log.partitions().await? as usize;
        let checkpoints = claim(&options, nonce, |manifest| {
            check_log(manifest, &log_identity, partitions)?;
            check_rules(manifest, &options)
        });
        let (requests, checkpoints) = checkpoints.await?;
        let checkpoints = Arc::new(checkpoints);
        let latest = checkpoints.latest();
        let root = options.state().tables();
        let known_as = |name: &str| latest.as_ref().and_then(|manifest| manifest.fingerprints.get(name));
        let mut stale: BTreeSet<String> = pipelines
            .iter()
            .filter(|p| known_as(p.name()).is_none_or(|known| known != p.fingerprint() && known != PAUSED))
            .map(|pipeline| pipeline.name().to_owned())
            .collect();
        let definitions = definitions(&pipelines)?;
        let mut delta = BTreeMap::new();
        let mut made_anew = BTreeMap::new();
        let opened = join_all(definitions.iter().map(|definition| definition.open(&root))).await;
        for (definition, opened) in definitions.iter().zip(opened) {
            let name = &definition.name;
            let known = latest.as_ref().and_then(|manifest| manifest.tables.get(name));
            match opened {
                // Made anew by a start that died before its first checkpoint.
                Ok(table)
                    if definition.derived && known.is_some_and(|known| known.incarnation != table.incarnation()) =>
                {
                    stale.insert(name.clone());
                    made_anew.insert(name.clone(), table);
                }
                Ok(table) => {
                    delta.insert(name.clone(), table);
                }
                Err(sink::Error::Mismatch { .. }) if definition.derived => {
                    stale.insert(name.clone());
                    checkpoints.check_generation().await?;
                    made_anew.insert(name.clone(), DeltaTable::make_anew(&root, definition.spec()).await?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        apply::recover(&checkpoints, &mut delta).await?;
        delta.extend(made_anew);
        let store = Store::new(delta, definitions)?;
        let commits = commits::open(&root).await?;
        if commits.applied_through() > latest.as_ref().map_or(0, |manifest| manifest.number) {
            return Err(Error::CommitsAhead);
        }

        let mut ledger = Ledger::new(options.rules.clone());
        let mut watermark = Watermark::new(partitions);
        let mut complete = Completeness::default();
        let mut saved_state = SavedState::default();
        if let Some(manifest) = &latest {
            saved_state = SavedState::new(manifest.state.clone());
            restore_catalogue(&mut ledger, &checkpoints, &saved_state).await?;
            for blob in saved_state.parts("engine") {
                let state: EngineState = serde_json::from_slice(&checkpoints.read_blob(blob).await?)
                    .map_err(|error| Error::Internal(format!("the engine's state: {error}")))?;
                watermark = state.watermark;
                for (account, livemode, at) in state.complete {
                    complete.advance(&account, livemode, at);
                }
            }
            let known: BTreeSet<String> = pipelines.iter().flat_map(|p| pipeline_state(p.name())).collect();
            saved_state.retain(|name| !is_of_pipeline(name) || known.contains(name));
        }
        let clock_rows: Vec<(Scope, EventTime, EventTime)> = ledger.clock().collect();
        let watermark_at = latest.as_ref().and_then(|m| m.watermark).unwrap_or(EventTime::MIN).micros();
        let mut engine = Self {
            log,
            log_identity,
            clock: Arc::clone(&clock),
            checkpoints,
            store,
            commits,
            ledger,
            rates: SharedRates::default(),
            pipelines: pipelines
                .into_iter()
                .map(|pipeline| {
                    // One whose table had to be made anew cannot stand still.
                    let paused = known_as(pipeline.name()).is_some_and(|known| known == PAUSED);
                    let state = if paused && !stale.contains(pipeline.name()) { State::Paused } else { State::Works };
                    Running { state, ..Running::new(pipeline) }
                })
                .collect(),
            scorer: Scorer::new(options.home.data_dir()),
            alerts: None,
            pending_alerts: PendingAlerts::default(),
            under_way: None,
            offsets: latest.as_ref().map_or_else(|| vec![0; partitions], |manifest| manifest.offsets.clone()),
            ends: vec![0; partitions],
            ahead: None,
            watermark,
            watermark_now: Arc::new(AtomicI64::new(watermark_at)),
            complete,
            newest_append: EventTime::MIN,
            log_clock: rows::log_clock(&clock_rows)?,
            unknown: UnknownCounts::default(),
            memory: Memory::new(options.memory),
            backfills: false,
            saved_state,
            progress: Progress::default(),
            watch: watch::channel(Progress::default()).0,
            requests,
            runs: Runs::new(),
            coming: None,
            rebuilt: BTreeSet::new(),
            status: Cell::default(),
            shown: watch::channel(Shown::default()).0,
            options,
        };
        engine.apply_newest().await?;
        let known = rates::load(&engine.content(rates::FX_RATES).await?)?;
        engine.rates.change(|rates| *rates = known);
        let anew = engine.to_build_anew(&stale);
        engine.restore(&anew)?;
        engine.build_anew(&anew).await?;
        engine.note_status()?;
        // Not before the directory is this engine's: another one may be sending the same alerts.
        if let Some((options, jitter)) = alerts {
            let ownership = engine.checkpoints.ownership();
            engine.alerts = Some(act::start(options, ownership, clock, jitter).await?);
        }
        if let Some(manifest) = latest {
            engine.offer_again(&manifest).await?;
        }
        Ok(engine)
    }

    /// The pipelines at work whose state is of no use: the stale ones, and those that read such.
    fn to_build_anew(&self, stale: &BTreeSet<String>) -> BTreeSet<String> {
        let mut anew = BTreeSet::new();
        for Running { pipeline, state, .. } in &self.pipelines {
            let reads_any = || pipeline.sources().iter().any(|source| anew.contains(source));
            if *state == State::Works && (stale.contains(pipeline.name()) || reads_any()) {
                anew.insert(pipeline.name().to_owned());
            }
        }
        anew
    }

    /// Builds pipelines from the relations they read. One that fails stops alone, as in an epoch.
    async fn build_anew(&mut self, anew: &BTreeSet<String>) -> Result<(), Error> {
        let end = self.end();
        let mut rebuilt: BTreeMap<String, RecordBatch> = BTreeMap::new();
        for i in 0..self.pipelines.len() {
            let name = self.pipelines[i].pipeline.name().to_owned();
            // What it reads may have failed.
            if !anew.contains(&name) || self.pipelines[i].state != State::Works {
                continue;
            }
            let reads = self.pipelines[i].pipeline.sources().clone();
            let mut sources = BTreeMap::new();
            for source in reads.iter().filter(|_| !self.pipelines[i].pipeline.is_snapshot()) {
                let added = match (rebuilt.get(source), end.small.get(source)) {
                    (Some(rows), _) | (None, Some(rows)) => rows.clone(),
                    (None, None) => self.content(source).await?,
                };
                sources.insert(source.clone(), RowDelta { removed: RecordBatch::new_empty(added.schema()), added });
            }
            let before = self.content(&name).await?;
            let pipeline = &mut self.pipelines[i].pipeline;
            let advanced = if pipeline.is_snapshot() {
                pipeline.run(&end, &self.store.frozen(&reads)).await
            } else {
                pipeline.advance(&sources, &end).await
            };
            let change = match advanced {
                Ok(output) => {
                    difference(&before, &output.added, pipeline.key(), &name).map(|delta| (output.added, delta))
                }
                Err(error) => Err(error),
            };
            let (after, delta) = match change {
                Ok(change) => change,
                Err(error) => {
                    self.fail(&name, &error);
                    continue;
                }
            };
            if after.num_rows() > 0 || before.num_rows() > 0 {
                tracing::info!(pipeline = name, rows = after.num_rows(), "rebuilt");
            }
            // What a failure kept from being announced is announced now; a change of the SQL announces nothing.
            let newest = self.checkpoints.latest();
            let known_as = newest.as_ref().and_then(|manifest| manifest.fingerprints.get(&name));
            let had_failed = known_as.is_some_and(|fingerprint| fingerprint == FAILED);
            if had_failed && name == EXPANSIONS {
                self.pending_alerts.add(&delta)?;
            }
            self.store.change(&name, &delta)?;
            if name == FEATURES {
                self.follow_features(&delta).await?;
            }
            self.rebuilt.insert(name.clone());
            rebuilt.insert(name, after);
        }
        Ok(())
    }

    /// The whole content of a table, in its contract's types.
    pub(super) async fn content(&self, table: &str) -> Result<RecordBatch, Error> {
        let stored = self.store.get(table).ok_or_else(|| Error::Internal(format!("there is no table {table}")))?;
        stored.reader().content().await
    }

    /// Offers the expansions of the newest checkpoint to the dispatcher once more: it may have died before taking
    /// them. Those it has are no news to it.
    async fn offer_again(&mut self, manifest: &Manifest) -> Result<(), Error> {
        let Some(table) = manifest.tables.get(EXPANSIONS) else { return Ok(()) };
        let schema = &tables::get(EXPANSIONS)?.schema;
        let newest = table.pending.iter().filter(|work| work.number == manifest.speaks_of());
        for blob in newest.filter_map(|work| work.changes.as_ref()) {
            for batch in from_ipc(self.checkpoints.read_blob(blob).await?)? {
                let Some(operations) = batch.column_by_name(OP_COLUMN) else { continue };
                let operations = operations.as_primitive::<Int8Type>();
                let side = |wanted: i8| -> Result<RecordBatch, Error> {
                    let mask: BooleanArray = operations.iter().map(|op| op.map(|op| op == wanted)).collect();
                    let rows = filter_record_batch(&batch, &mask)?;
                    Ok(RecordBatch::try_new(Arc::clone(schema), rows.columns()[..schema.fields().len()].to_vec())?)
                };
                self.pending_alerts.add(&RowDelta { removed: side(-1)?, added: side(1)? })?;
            }
        }
        let changes = self.pending_alerts.take();
        self.offer(changes).await
    }
}

impl Definition {
    async fn open(&self, root: &Location) -> Result<DeltaTable, sink::Error> {
        DeltaTable::open_or_create(root, self.spec()).await
    }
}

fn definitions(pipelines: &[Pipeline]) -> Result<Vec<Definition>, Error> {
    let all = tables::all().map_err(|error| Error::Internal(error.to_string()))?;
    let engine = all.iter().filter(|table| table.source == Source::Engine).map(|table| Definition {
        name: table.name.clone(),
        schema: Arc::clone(&table.schema),
        key: table.key.clone(),
        comment: table.description.clone(),
        derived: false,
    });
    Ok(engine.chain(pipelines.iter().map(definition)).collect())
}

/// The table of a pipeline.
pub(super) fn definition(pipeline: &Pipeline) -> Definition {
    Definition {
        name: pipeline.name().to_owned(),
        schema: Arc::clone(pipeline.schema()),
        key: pipeline.file().metadata.grain.clone(),
        comment: pipeline.file().metadata.description.clone(),
        derived: true,
    }
}

/// Claims the checkpoints of an engine, and the requests that others put to it, unless its newest manifest is `fit` for
/// something else.
async fn claim(
    options: &Options,
    nonce: String,
    fit: impl Fn(&Manifest) -> Result<(), Error>,
) -> Result<(Requests, Checkpoints), Error> {
    let (home, store) = (options.state(), options.state().checkpoints());
    let replaces = home.is_shared() || options.take_over;
    // An engine that may be at work is not stopped by one that could not go on.
    if replaces && let Some(newest) = stream::checkpoint::peek(store.as_ref()).await? {
        fit(&newest)?;
    }
    let directory = home.engine_dir();
    let lock = if replaces {
        stream::checkpoint::replace_lock(&directory, &nonce)?
    } else {
        stream::checkpoint::lock(&directory)?
    };
    let mut requests = Requests::new(options.home.data_dir());
    if options.workshop.is_none() {
        // At once: from the lock on others ask this engine.
        requests.refuse_left_over();
        backup::remove_left_over(options.home.data_dir());
    }
    if !home.is_shared() {
        swap::settle(home.data_dir())?;
    }
    let checkpoints = Checkpoints::claim_locked(store, lock, nonce).await?;
    checkpoints.latest().map_or(Ok(()), |newest| fit(&newest))?;
    Ok((requests, checkpoints))
}

pub(super) fn check_log(manifest: &Manifest, identity: &str, partitions: usize) -> Result<(), Error> {
    if manifest.log_identity != identity || manifest.offsets.len() != partitions {
        return Err(Error::OtherLog);
    }
    Ok(())
}

fn check_rules(manifest: &Manifest, options: &Options) -> Result<(), Error> {
    match manifest.fingerprints.get(LEDGER_FINGERPRINT) {
        Some(known) if *known != rules_fingerprint(&options.rules, &options.account) => Err(Error::OtherRules),
        _ => Ok(()),
    }
}

pub(super) fn conform(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let columns = rows
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| arrow::compute::cast(column, field.data_type()))
        .collect::<Result<Vec<_>, _>>()?;
    let rows = RecordBatch::try_new(Arc::clone(schema), columns)?;
    Ok(concat_batches(schema, [&rows])?)
}

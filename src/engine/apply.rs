//! New versions of pipelines while the engine runs: they are built in the background from the newest checkpoint, catch
//! up with the epochs that passed meanwhile, and take the place of the old between two epochs.
//!
//! Until then the old versions go on and serve. A version that cannot be built changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{catalog::TableProvider, datasource::MemTable, prelude::SessionContext};
use tokio::task::JoinHandle;

use super::{
    Answer, EXPANSIONS, Engine, Error, FEATURES, Options, Request, Running, State, Version, backup,
    blobs::pipeline_state,
    collect_one,
    recovery::{conform, definition, relations},
};
use crate::{
    sink::delta::DeltaTable,
    stream::{
        Tables,
        epoch::EpochEnd,
        file::PipelineFile,
        graph::{plan_all, upstream},
        maintained::{Content, Failed, Maintained},
        pipeline::{Pipeline, RowDelta, difference},
    },
};

/// Changed rows that may wait for a new version that is being built: some 200 MB. At the limit no epoch is read until it
/// is there.
const MAX_WAITING_ROWS: usize = 1_000_000;

/// New versions on their way.
pub(super) struct Coming {
    /// The request to answer; none when nobody waits.
    id: Option<String>,
    version: Version,
    /// All pipelines as they will be, each after those it reads.
    order: Vec<String>,
    /// Those that are built.
    built: BTreeSet<String>,
    reads: BTreeSet<String>,
    task: JoinHandle<Result<Maintained, Error>>,
    /// The epochs since it began: what changed of what is read, and how they ended.
    waiting: Vec<(BTreeMap<String, RowDelta>, EpochEnd)>,
    waiting_rows: usize,
}

impl Coming {
    /// Takes note of an epoch.
    pub(super) fn note(&mut self, changed: &BTreeMap<String, RowDelta>, end: &EpochEnd) {
        let of_interest = changed.iter().filter(|(name, _)| self.reads.contains(*name) && !self.built.contains(*name));
        let changed: BTreeMap<String, RowDelta> = of_interest.map(|(name, d)| (name.clone(), d.clone())).collect();
        let closes = self.waiting.last().is_none_or(|(_, last)| last.complete != end.complete);
        if closes || !changed.is_empty() {
            self.waiting_rows += changed.values().map(|d| d.removed.num_rows() + d.added.num_rows()).sum::<usize>();
            self.waiting.push((changed, end.clone()));
        }
    }

    fn is_due(&self) -> bool {
        self.task.is_finished() || self.waiting_rows >= MAX_WAITING_ROWS
    }
}

impl Engine {
    /// Carries out a request on an engine that was just started, and waits until it is done. The start itself has
    /// rebuilt what is new, changed or failed; that counts.
    ///
    /// # Errors
    /// See [`Error`]; a request that is refused is no error.
    pub async fn perform(&mut self, request: Request) -> Result<Answer, Error> {
        let failures = self.failures();
        let answer = match (&request, &failures) {
            (Request::Resume { pipeline } | Request::Replay { pipeline }, _) if self.rebuilt.contains(pipeline) => {
                Answer::done(format!("rebuilt: {pipeline}; removed: none"))
            }
            // They were tried a moment ago, of the same files.
            (Request::Apply(_), Some(failures)) => Answer::refused(failures.clone()),
            _ => match self.begin(None, request).await? {
                Some(answer) => answer,
                None => match (self.arrive().await?, failures) {
                    (answer, Some(failures)) if !answer.done => Answer::refused(failures),
                    (answer, _) => answer,
                },
            },
        };
        // What the start itself rebuilt, too.
        self.checkpoint().await?;
        if self.rebuilt.contains(EXPANSIONS) {
            self.offer_nothing_again().await?;
        }
        Ok(answer)
    }

    /// Builds those of `pipelines` that are not there yet, from the tables as they are now.
    ///
    /// # Errors
    /// When one cannot be built.
    pub(super) async fn add(&mut self, pipelines: Vec<PipelineFile>) -> Result<(), Error> {
        let version = Version { pipelines, parameters: self.options.parameters.clone() };
        let answer = match self.build(None, version, None).await? {
            Some(answer) => answer,
            None => self.arrive().await?,
        };
        if answer.done { Ok(()) } else { Err(Error::Incomplete(answer.message)) }
    }

    /// Which pipelines have failed, and why.
    fn failures(&self) -> Option<String> {
        let why = |running: &Running| match &running.state {
            State::Failed(why) => Some(format!("{} ({why})", running.pipeline.name())),
            State::Works | State::Paused => None,
        };
        let failed: Vec<String> = self.pipelines.iter().filter_map(why).collect();
        (!failed.is_empty()).then(|| {
            format!(
                "these pipelines failed and their tables are behind: {}; what else was new or changed was rebuilt",
                failed.join(", ")
            )
        })
    }

    /// A start offers what the newest checkpoint changed to the alerts: what was not to be announced must be older.
    async fn offer_nothing_again(&mut self) -> Result<(), Error> {
        self.decide_checkpoint().await
    }

    /// Between two epochs: goes on with what other processes asked for.
    pub(super) async fn attend(&mut self) -> Result<(), Error> {
        if let Some(coming) = &self.coming {
            if coming.is_due() {
                let id = coming.id.clone();
                let answer = self.arrive().await?;
                if !answer.done {
                    tracing::warn!(reason = answer.message, "the new versions of pipelines were given up");
                }
                if let Some(id) = id {
                    self.requests.answer(&id, &answer);
                }
            }
            return Ok(());
        }
        if let Some((id, request)) = self.requests.first() {
            // It may be meant for one that has taken over.
            self.checkpoints.check_generation().await?;
            if let Some(answer) = self.begin(Some(id.clone()), request).await? {
                self.requests.answer(&id, &answer);
            }
        }
        Ok(())
    }

    /// Begins with a request; the answer, unless it comes later.
    async fn begin(&mut self, id: Option<String>, request: Request) -> Result<Option<Answer>, Error> {
        match request {
            Request::Pause { pipeline } => self.pause(&pipeline).await.map(Some),
            Request::Snapshot { into } => {
                self.checkpoint().await?;
                let number = self.checkpoints.latest().map_or(0, |manifest| manifest.number);
                Ok(Some(match backup::link(self.options.home.data_dir(), &into) {
                    Ok(()) => Answer::done(format!("checkpoint {number}")),
                    // The engine goes on without the copy.
                    Err(error) => Answer::refused(error.to_string()),
                }))
            }
            Request::Resume { pipeline } => {
                let refusal = |state: &State| match state {
                    State::Works => {
                        Some(format!("{pipeline} is neither paused nor failed; tributary replay {pipeline}"))
                    }
                    State::Paused | State::Failed(_) => None,
                };
                self.build_again(id, &pipeline, refusal).await
            }
            Request::Replay { pipeline } => {
                let refusal = |state: &State| match state {
                    State::Paused => Some(format!("{pipeline} is paused; tributary resume {pipeline}")),
                    State::Works | State::Failed(_) => None,
                };
                self.build_again(id, &pipeline, refusal).await
            }
            Request::Apply(files) => match files.version() {
                Ok(version) => self.build(id, version, None).await,
                Err(error) => Ok(Some(Answer::refused(error.to_string()))),
            },
        }
    }

    fn unknown_pipeline(&self, name: &str) -> Answer {
        let names: Vec<&str> = self.pipelines.iter().map(|running| running.pipeline.name()).collect();
        Answer::refused(format!("there is no pipeline `{name}`; there are: {}", names.join(", ")))
    }

    /// Begins to build a pipeline of the same files anew, unless there is a reason against it.
    async fn build_again(
        &mut self,
        id: Option<String>,
        name: &str,
        refusal: impl Fn(&State) -> Option<String>,
    ) -> Result<Option<Answer>, Error> {
        let Some(running) = self.pipelines.iter().find(|running| running.pipeline.name() == name) else {
            return Ok(Some(self.unknown_pipeline(name)));
        };
        if let Some(reason) = refusal(&running.state) {
            return Ok(Some(Answer::refused(reason)));
        }
        let Options { pipelines, parameters, .. } = &self.options;
        let version = Version { pipelines: pipelines.clone(), parameters: parameters.clone() };
        self.build(id, version, Some(name)).await
    }

    async fn pause(&mut self, name: &str) -> Result<Answer, Error> {
        // It brings what it stored.
        self.end_checkpoint().await?;
        let Some(running) = self.pipelines.iter_mut().find(|running| running.pipeline.name() == name) else {
            return Ok(self.unknown_pipeline(name));
        };
        running.state = State::Paused;
        pipeline_state(name).iter().for_each(|state| self.saved_state.forget(state));
        self.note_status()?;
        self.checkpoint().await?;
        Ok(Answer::done(format!("{name} is paused: its table stands still until `tributary resume {name}`")))
    }

    /// Begins to build what `version` has otherwise, and `also` what it is about.
    async fn build(
        &mut self,
        id: Option<String>,
        version: Version,
        also: Option<&str>,
    ) -> Result<Option<Answer>, Error> {
        let (relations, settings) = (relations()?, &self.options.settings);
        let planned = match plan_all(version.pipelines.clone(), &relations, &version.parameters, settings).await {
            Ok(planned) => planned,
            Err(error) => return Ok(Some(Answer::refused(error.to_string()))),
        };
        let order: Vec<String> = planned.iter().map(|pipeline| pipeline.name().to_owned()).collect();
        // Where it is about one pipeline, another that failed is none of its business unless they are related.
        let related: Option<BTreeSet<String>> =
            also.map(|name| upstream(&version.pipelines, name).into_iter().map(|file| file.metadata.name).collect());
        let mut built = BTreeSet::new();
        let mut fresh: Vec<Pipeline> = Vec::new();
        let mut when_resumed: Vec<String> = Vec::new();
        for pipeline in planned {
            let name = pipeline.name();
            let running = self.pipelines.iter().find(|running| running.pipeline.name() == name);
            let reads_built = pipeline.sources().iter().any(|source| built.contains(source));
            let is = |state: State| running.is_some_and(|running| running.state == state);
            let stays_failed =
                running.is_some_and(Running::failed) && related.as_ref().is_some_and(|related| !related.contains(name));
            let same = running.is_some_and(|running| running.pipeline.fingerprint() == pipeline.fingerprint());
            let paused = also != Some(name) && is(State::Paused);
            // What reads it is planned over the columns that its file says.
            if paused && !self.store.get(name).is_some_and(|stored| stored.fits(&definition(&pipeline))) {
                return Ok(Some(Answer::refused(format!(
                    "nothing was changed: {name} is paused, and its file has other columns than its table; resume it \
                     first: tributary resume {name}"
                ))));
            }
            if paused && !same {
                when_resumed.push(name.to_owned());
            }
            let stays = paused || (also != Some(name) && (is(State::Works) || stays_failed) && same && !reads_built);
            if !stays {
                built.insert(name.to_owned());
                fresh.push(pipeline);
            }
        }
        let gone = self.pipelines.iter().any(|running| !order.iter().any(|name| name == running.pipeline.name()));
        if fresh.is_empty() && !gone {
            self.options.pipelines = version.pipelines;
            self.options.parameters = version.parameters;
            return Ok(Some(Answer::done(if when_resumed.is_empty() {
                "every pipeline is as its file says".to_owned()
            } else {
                format!("paused, and as their files say once they are resumed: {}", when_resumed.join(", "))
            })));
        }
        // From here on the tables on disk have everything, and later changes are noted.
        self.checkpoint().await?;
        let reads: BTreeSet<String> = fresh.iter().flat_map(|pipeline| pipeline.sources().iter().cloned()).collect();
        let end = self.end();
        let mut sources = Vec::new();
        for name in reads.iter().filter(|name| !built.contains(*name) && !end.small.contains_key(*name)) {
            let table = self.store.delta.get(name).zip(self.store.get(name));
            let (delta, stored) = table.ok_or_else(|| Error::Internal(format!("there is no table {name}")))?;
            sources.push((name.clone(), delta.provider(), Arc::clone(stored.schema())));
        }
        tracing::info!(pipelines = ?built, "building in the background");
        let task = tokio::spawn(from_tables(fresh, sources, end));
        let waiting = Vec::new();
        self.coming = Some(Coming { id, version, order, built, reads, task, waiting, waiting_rows: 0 });
        Ok(None)
    }

    /// Waits for the new versions, lets them catch up, and puts them in the place of the old.
    async fn arrive(&mut self) -> Result<Answer, Error> {
        // It changes which tables there are.
        self.end_checkpoint().await?;
        let Some(Coming { version, order, built, task, waiting, .. }) = self.coming.take() else {
            return Err(Error::Internal("nothing is being built".to_owned()));
        };
        let mut maintained = match task.await {
            Ok(Ok(maintained)) => maintained,
            Ok(Err(error)) => return Ok(Answer::refused(format!("nothing was changed: {error}"))),
            Err(error) => {
                return Ok(Answer::refused(format!("nothing was changed; this is a bug in Tributary: {error}")));
            }
        };
        let mut late = Vec::new();
        for (mut changed, end) in waiting {
            // What is due on its schedule is run in the first epoch in its place.
            if let Err(failed) = maintained.advance(&mut changed, &end, &Tables::new()) {
                return Ok(Answer::refused(format!("nothing was changed: {failed}")));
            }
            late.extend(maintained.take_late());
        }
        self.keep_late(&late).await?;
        let mut running: BTreeMap<String, Running> = std::mem::take(&mut self.pipelines)
            .into_iter()
            .map(|running| (running.pipeline.name().to_owned(), running))
            .collect();
        let mut anew = BTreeSet::new();
        let mut unannounced = false;
        let (fresh, tables) = maintained.into_parts();
        for pipeline in fresh {
            let name = pipeline.name().to_owned();
            let after = tables.get(&name).map(Content::batch).transpose();
            let after = after.map_err(|source| Error::PipelineFailed { name: name.clone(), source })?;
            let after = after.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(pipeline.schema())));
            if self.make_table(&pipeline).await? {
                anew.insert(name.clone());
            }
            let before = self.content(&name).await?;
            let delta = difference(&before, &after, pipeline.key(), &name);
            let delta = delta.map_err(|source| Error::PipelineFailed { name: name.clone(), source })?;
            self.store.change(&name, &delta)?;
            let stood_still = running.get(&name).is_some_and(|running| running.state != State::Works);
            // What standing still kept from being announced is announced now; a change of the SQL announces nothing.
            if name == EXPANSIONS && stood_still {
                self.pending_alerts.add(&delta)?;
            } else if name == EXPANSIONS {
                unannounced = !delta.is_empty();
            }
            if name == FEATURES {
                self.follow_features(&delta).await?;
            }
            running.insert(name, Running::new(pipeline));
        }
        self.pipelines = order.iter().filter_map(|name| running.remove(name)).collect();
        self.stop_readers_of_failed();
        // What runs on a schedule falls due again, over what there is now.
        self.runs.retain(|name, _| !built.contains(name));
        let gone: Vec<String> = running.into_keys().collect();
        for name in &gone {
            self.store.remove(name);
            pipeline_state(name).iter().for_each(|state| self.saved_state.forget(state));
        }
        self.options.pipelines = version.pipelines;
        self.options.parameters = version.parameters;
        self.note_status()?;
        self.checkpoint().await?;
        if unannounced {
            self.offer_nothing_again().await?;
        }
        let tables: Vec<_> = self.user_tables()?.into_iter().filter(|table| anew.contains(&table.name)).collect();
        self.shown.send_modify(|shown| shown.add(tables, &gone));
        let list = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let rebuilt = order.into_iter().filter(|name| built.contains(name)).collect();
        Ok(Answer::done(format!("rebuilt: {}; removed: {}", list(rebuilt), list(gone))))
    }

    /// What a new version reads may have failed while it was built, and not have been rebuilt with it.
    fn stop_readers_of_failed(&mut self) {
        let mut stopped: BTreeSet<String> = BTreeSet::new();
        for running in &mut self.pipelines {
            let source = running.pipeline.sources().iter().find(|source| stopped.contains(*source)).cloned();
            if running.state == State::Works
                && let Some(source) = source
            {
                running.state = State::Failed(format!("{source}, which it reads, stopped"));
            }
            if running.failed() {
                stopped.insert(running.pipeline.name().to_owned());
            }
        }
    }

    /// Makes the table of a pipeline, unless there is one with its columns; whether it was made.
    async fn make_table(&mut self, pipeline: &Pipeline) -> Result<bool, Error> {
        let definition = definition(pipeline);
        if self.store.get(&definition.name).is_some_and(|stored| stored.fits(&definition)) {
            return Ok(false);
        }
        self.checkpoints.check_generation().await?;
        let table = DeltaTable::make_anew(&self.options.state().tables(), definition.spec()).await?;
        self.store.insert(table, definition)?;
        Ok(true)
    }
}

/// Builds pipelines from whole tables.
async fn from_tables(
    fresh: Vec<Pipeline>,
    sources: Vec<(String, Arc<dyn TableProvider>, SchemaRef)>,
    end: EpochEnd,
) -> Result<Maintained, Error> {
    let whole = |added: RecordBatch| RowDelta { removed: RecordBatch::new_empty(added.schema()), added };
    let mut tables = Tables::new();
    for (name, rows) in &end.small {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]])?;
        tables.insert(name.clone(), Arc::new(table));
    }
    let mut changed: BTreeMap<String, RowDelta> =
        end.small.iter().map(|(name, rows)| (name.clone(), whole(rows.clone()))).collect();
    let maintained_reads: BTreeSet<String> =
        fresh.iter().filter(|p| !p.is_snapshot()).flat_map(|p| p.sources().iter().cloned()).collect();
    for (name, provider, schema) in sources {
        tables.insert(name.clone(), Arc::clone(&provider));
        if maintained_reads.contains(&name) {
            let rows = collect_one(SessionContext::new().read_table(provider)?).await?;
            changed.insert(name, whole(conform(&rows, &schema)?));
        }
    }
    let mut maintained = Maintained::new(fresh).map_err(|error| Error::Internal(error.to_string()))?;
    let advanced = maintained.advance(&mut changed, &end, &tables);
    advanced.map_err(|Failed { name, source }| Error::PipelineFailed { name, source })?;
    Ok(maintained)
}

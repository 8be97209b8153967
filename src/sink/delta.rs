//! One Delta table, written exactly once.
//!
//! Every commit carries an application transaction: the number of the checkpoint whose work it finishes. A number
//! that the table already has, or has passed, is skipped, so work can be applied any number of times. A commit counts
//! only on the very snapshot it was planned on: when somebody else (compaction, say) was quicker, it is planned again.
//! The table keeps Delta's lowest protocol, readable everywhere: no deletion vectors, no column mapping. Files and
//! commits are on disk before this module says so.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use deltalake::{
    DeltaTableError,
    kernel::{
        Action, Add, Transaction,
        transaction::{CommitBuilder, CommitProperties, TransactionError},
    },
    operations::vacuum::VacuumMode,
    protocol::{DeltaOperation, SaveMode, checkpoints::cleanup_metadata},
    writer::DeltaWriter,
};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, path::Path as ObjectPath};

use super::{
    Error, TableSpec,
    keyed::Changes,
    layout,
    rewrite::{self, Rewrite},
    storage,
};
use crate::{
    storage::Location,
    stream::checkpoint::{Ownership, StagedFile},
};

/// Somebody else's commits that a commit of ours gives way to before it gives up: compaction is one at a time.
const MAX_ATTEMPTS: u32 = 10;

/// How many staged files are looked up or deleted at once.
const CONCURRENT_REQUESTS: usize = 8;

/// A Delta table and its current snapshot. A copy goes on from the same snapshot; one of the two may commit.
#[derive(Clone)]
pub struct DeltaTable {
    spec: TableSpec,
    table: deltalake::DeltaTable,
    incarnation: String,
    transaction: String,
    applied: u64,
    provider: Arc<dyn TableProvider>,
}

/// What [`DeltaTable::maintain`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Maintained {
    /// Small files that were merged.
    pub merged: usize,
    /// Into how many.
    pub into: usize,
    /// Files of no snapshot that were deleted.
    pub deleted: usize,
    /// Commits of the log that were deleted.
    pub log_entries_deleted: usize,
}

impl DeltaTable {
    /// Opens the table `<root>/<spec.name>`, or creates it.
    ///
    /// # Errors
    /// [`Error::Spec`] when Delta cannot hold the columns as they are; [`Error::Mismatch`] when there is another table;
    /// [`Error::Damaged`] when it lacks a file.
    pub async fn open_or_create(root: &Location, spec: TableSpec) -> Result<Self, Error> {
        let table = layout::open_or_create(root, &spec).await?;
        check_files(&table, &spec.name).await?;
        Self::of(table, spec).await
    }

    /// Makes the table `<root>/<spec.name>` anew, empty and with these columns, whatever there is: by one commit, so
    /// that readers of an older snapshot go on, and a crash leaves the one or the other.
    ///
    /// # Errors
    /// [`Error::Spec`] when Delta cannot hold the columns as they are; [`Error::Storage`].
    pub async fn make_anew(root: &Location, spec: TableSpec) -> Result<Self, Error> {
        let table = layout::make_anew(root, &spec).await?;
        Self::of(table, spec).await
    }

    async fn of(table: deltalake::DeltaTable, spec: TableSpec) -> Result<Self, Error> {
        let failed = |source| storage(&spec.name, source);
        let incarnation = table.snapshot().map_err(failed)?.metadata().id().to_owned();
        let transaction = transaction(&spec.name, &incarnation);
        let provider = layout::provider(&table).map_err(failed)?;
        let mut table = Self { spec, table, incarnation, transaction, applied: 0, provider };
        table.adopt().await?;
        Ok(table)
    }

    /// What the table was opened with.
    #[must_use]
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Tells this making of the table from an earlier or later one under the same name.
    #[must_use]
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// The checkpoint up to which the table has everything; 0 before the first.
    #[must_use]
    pub fn applied_through(&self) -> u64 {
        self.applied
    }

    /// Delta's version of the current snapshot.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.table.version().unwrap_or_default()
    }

    /// The number of data files of the current snapshot.
    #[must_use]
    pub fn files(&self) -> usize {
        self.table.state.as_ref().map_or(0, |state| state.log_data().num_files())
    }

    /// The current snapshot for reading. Later commits do not change it.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn TableProvider> {
        Arc::clone(&self.provider)
    }

    /// Writes rows to files that are on disk when it is done, but not yet in the table. It needs the table no longer, and
    /// can go on beside other work.
    ///
    /// # Errors
    /// [`Error::Bug`] when the batches do not have the table's columns.
    pub fn stage(
        &self,
        batches: &[RecordBatch],
    ) -> impl Future<Output = Result<Vec<StagedFile>, Error>> + Send + use<> {
        let name = self.spec.name.clone();
        let batches: Result<Vec<_>, _> = batches.iter().map(|batch| self.conform(batch)).collect();
        let writer = layout::writer(&self.table, self.target_file_bytes());
        async move {
            let (batches, mut writer) = (batches?, writer.map_err(|source| storage(&name, source))?);
            let adds = rewrite::blocking(async move {
                for batch in batches {
                    writer.write(batch).await?;
                }
                writer.flush().await
            });
            let adds = adds.await.map_err(|source| storage(&name, source))?;
            adds.into_iter().map(|add| staged(add).map_err(|reason| bug(&name, reason))).collect()
        }
    }

    /// Adds staged files, as the work of checkpoint `number`; `false` when the table has that checkpoint already.
    ///
    /// # Errors
    /// [`Error::Diverged`] when a file is not there, or is not as it was staged: nothing is committed then.
    pub async fn append(&mut self, number: u64, files: &[StagedFile]) -> Result<bool, Error> {
        if self.applied >= number {
            return Ok(false);
        }
        // Delta would accept a file that is missing, and then the table cannot be read.
        self.check_staged(files).await?;
        let adds: Vec<_> = files.iter().map(|file| Action::Add(added(file))).collect();
        for _ in 0..MAX_ATTEMPTS {
            let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
            if self.commit(adds.clone(), Some(number), operation).await? {
                return Ok(true);
            }
            if self.applied >= number {
                return Ok(false);
            }
        }
        Err(self.contended())
    }

    /// Applies changes by key, as the work of checkpoint `number`; `false` when the table has that checkpoint
    /// already. The batches have the columns of [`change_schema`](super::change_schema): `__op` 1 puts the row, -1
    /// deletes its key (other columns are ignored); of one key the last row wins.
    ///
    /// Files that hold a changed key are read and written again without it, so the cost is that of the files which
    /// the keys lie in. All changes are held in memory at once, at most 2 GB of text in a column.
    ///
    /// # Errors
    /// [`Error::Bug`] when the batches do not have these columns, or NULL in a key.
    pub async fn upsert(&mut self, number: u64, changes: &[RecordBatch]) -> Result<bool, Error> {
        if self.applied >= number {
            return Ok(false);
        }
        let changes = Changes::consolidate(&self.spec, changes).map_err(|reason| self.bug(reason))?;
        let changes = Arc::new(changes);
        for _ in 0..MAX_ATTEMPTS {
            let rewrite = self.rewrite().map_err(|source| self.storage(source))?;
            let actions = rewrite.upsert(Arc::clone(&changes)).await.map_err(|source| self.storage(source))?;
            let operation = DeltaOperation::Merge {
                predicate: None,
                merge_predicate: Some(format!("key ({})", self.spec.key.join(", "))),
                matched_predicates: Vec::new(),
                not_matched_predicates: Vec::new(),
                not_matched_by_source_predicates: Vec::new(),
            };
            if self.commit(actions, Some(number), operation).await? {
                return Ok(true);
            }
            if self.applied >= number {
                return Ok(false);
            }
        }
        Err(self.contended())
    }

    /// Merges small files, deletes files of no snapshot and old log entries. `spare` are staged files that a manifest
    /// still refers to. Call it only when nothing decided is unapplied.
    ///
    /// # Errors
    /// [`Error::Storage`], and [`Error::Checkpoint`] when another engine has taken over; the table is then as it was or
    /// merged.
    pub async fn maintain(&mut self, ownership: &Ownership, spare: &BTreeSet<String>) -> Result<Maintained, Error> {
        let mut done = Maintained::default();
        let rewrite = self.rewrite().map_err(|source| self.storage(source))?;
        let actions = rewrite.compact().await.map_err(|source| self.storage(source))?;
        if !actions.is_empty() {
            let into = actions.iter().filter(|action| matches!(action, Action::Add(_))).count();
            let merged = actions.len() - into;
            let target_size = i64::try_from(self.target_file_bytes()).unwrap_or(i64::MAX);
            ownership.check().await?;
            // When somebody else was quicker, the next maintenance will do it.
            if self.commit(actions, None, DeltaOperation::Optimize { predicate: None, target_size }).await? {
                (done.merged, done.into) = (merged, into);
            }
        }
        done.deleted = self.delete_unused(ownership, spare).await?;
        done.log_entries_deleted = cleanup_metadata(&self.table, None).await.map_err(|source| self.storage(source))?;
        if done.log_entries_deleted > 0 {
            // The snapshot in memory still lists the entries that are gone.
            self.table.state = None;
            self.refresh().await?;
        }
        Ok(done)
    }

    /// Reads the newest snapshot. Needed only when another process may have written.
    ///
    /// # Errors
    /// [`Error::Storage`], also when the table's transaction cannot be read: that never counts as "none".
    pub async fn refresh(&mut self) -> Result<(), Error> {
        self.table.update_state().await.map_err(|source| storage(&self.spec.name, source))?;
        self.adopt().await
    }

    /// Makes the loaded snapshot the current one, if this program can go on from it.
    async fn adopt(&mut self) -> Result<(), Error> {
        let state = self.table.snapshot().map_err(|source| self.storage(source))?;
        layout::check(state, &self.spec)?;
        if state.metadata().id() != self.incarnation {
            let reason = "it was replaced by another table".to_owned();
            return Err(Error::Mismatch { table: self.spec.name.clone(), reason });
        }
        self.applied = applied(&self.table, &self.spec.name, &self.transaction).await?;
        self.provider = layout::provider(&self.table).map_err(|source| self.storage(source))?;
        Ok(())
    }

    /// Commits on the current snapshot and no other; `false`, with the newest snapshot loaded, when that is no longer
    /// the newest.
    async fn commit(
        &mut self,
        actions: Vec<Action>,
        number: Option<u64>,
        operation: DeltaOperation,
    ) -> Result<bool, Error> {
        let mut properties = CommitProperties::default().with_max_retries(0).with_cleanup_expired_logs(Some(false));
        if let Some(number) = number {
            let version = i64::try_from(number).map_err(|_| self.bug(format!("checkpoint {number}")))?;
            properties = properties.with_application_transaction(Transaction::new(&self.transaction, version));
        }
        let state = self.table.snapshot().map_err(|source| self.storage(source))?;
        let commit = CommitBuilder::from(properties).with_actions(actions);
        match commit.build(Some(state), self.table.log_store(), operation).await {
            Ok(commit) => {
                self.table.state = Some(commit.snapshot());
                self.provider = layout::provider(&self.table).map_err(|source| self.storage(source))?;
                self.applied = number.unwrap_or(self.applied);
                Ok(true)
            }
            Err(
                DeltaTableError::VersionAlreadyExists(_)
                | DeltaTableError::Transaction {
                    source: TransactionError::MaxCommitAttempts(_) | TransactionError::CommitConflict(_),
                },
            ) => {
                self.refresh().await?;
                Ok(false)
            }
            Err(source) => Err(self.storage(source)),
        }
    }

    async fn check_staged(&self, files: &[StagedFile]) -> Result<(), Error> {
        let store = self.table.object_store();
        let diverged = |reason| Error::Diverged { table: self.spec.name.clone(), reason };
        futures::stream::iter(files)
            .map(|file| {
                let store = Arc::clone(&store);
                async move {
                    let path = ObjectPath::parse(&file.path).map_err(|error| self.bug(error.to_string()))?;
                    match store.head(&path).await {
                        Ok(found) if found.size == file.bytes => Ok(()),
                        Ok(_) => Err(diverged(format!("the staged file {} has changed", file.path))),
                        Err(object_store::Error::NotFound { .. }) => {
                            Err(diverged(format!("the staged file {} is missing", file.path)))
                        }
                        Err(error) => Err(self.storage(error.into())),
                    }
                }
            })
            .buffer_unordered(CONCURRENT_REQUESTS)
            .try_collect()
            .await
    }

    /// Deletes files that no snapshot of the retention time refers to, and that are older than it.
    async fn delete_unused(&self, ownership: &Ownership, spare: &BTreeSet<String>) -> Result<usize, Error> {
        let plan = self.table.clone().vacuum().with_mode(VacuumMode::Full).with_dry_run(true);
        let (_, plan) = plan.await.map_err(|source| self.storage(source))?;
        let unused: Vec<_> = plan.files_deleted.into_iter().filter(|path| !spare.contains(path)).collect();
        let deleted = unused.len();
        ownership.check().await?;
        let store = self.table.object_store();
        futures::stream::iter(unused)
            .map(|path| {
                let store = Arc::clone(&store);
                async move {
                    let path = ObjectPath::parse(&path).map_err(|error| self.bug(error.to_string()))?;
                    match store.delete(&path).await {
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                        Err(error) => Err(self.storage(error.into())),
                    }
                }
            })
            .buffer_unordered(CONCURRENT_REQUESTS)
            .try_collect::<()>()
            .await?;
        Ok(deleted)
    }

    fn rewrite(&self) -> Result<Arc<Rewrite>, DeltaTableError> {
        Ok(Arc::new(Rewrite {
            store: self.table.object_store(),
            schema: Arc::clone(&self.spec.schema),
            partition_by: self.spec.partition_by.clone(),
            files: rewrite::files(self.table.snapshot()?),
            target_bytes: self.target_file_bytes(),
            table: self.table.clone(),
        }))
    }

    fn target_file_bytes(&self) -> u64 {
        if self.spec.key.is_empty() { rewrite::APPENDED_FILE_BYTES } else { rewrite::KEYED_FILE_BYTES }
    }

    fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        RecordBatch::try_new(Arc::clone(&self.spec.schema), batch.columns().to_vec())
            .map_err(|error| self.bug(format!("rows do not have the table's columns: {error}")))
    }

    fn storage(&self, source: DeltaTableError) -> Error {
        storage(&self.spec.name, source)
    }

    fn bug(&self, reason: String) -> Error {
        bug(&self.spec.name, reason)
    }

    fn contended(&self) -> Error {
        Error::Contended { table: self.spec.name.clone(), attempts: MAX_ATTEMPTS }
    }
}

/// What a manifest says of a file that was written.
fn staged(add: Add) -> Result<StagedFile, String> {
    let stats: Stats = serde_json::from_str(add.stats.as_deref().unwrap_or_default())
        .map_err(|error| format!("Delta wrote a file without statistics: {error}"))?;
    Ok(StagedFile {
        bytes: u64::try_from(add.size).map_err(|_| format!("{} has size {}", add.path, add.size))?,
        path: add.path,
        rows: stats.num_records,
        written_at_ms: add.modification_time,
        partition_values: add.partition_values.into_iter().collect(),
        stats: add.stats,
    })
}

fn bug(table: &str, reason: String) -> Error {
    Error::Bug { table: table.to_owned(), reason }
}

/// The newest snapshot of `<root>/<name>` for reading by a process that does not own it; `None` when there is no such
/// table.
///
/// # Errors
/// [`Error::Storage`].
pub async fn read(root: &Location, name: &str) -> Result<Option<Arc<dyn TableProvider>>, Error> {
    match load(root, name).await? {
        Some(table) => layout::provider(&table).map(Some).map_err(|source| storage(name, source)),
        None => Ok(None),
    }
}

/// The same, with the number of the last checkpoint whose work it has.
///
/// # Errors
/// [`Error::Storage`].
pub(super) async fn read_applied(root: &Location, name: &str) -> Result<Option<(Arc<dyn TableProvider>, u64)>, Error> {
    let Some(table) = load(root, name).await? else { return Ok(None) };
    let failed = |source| storage(name, source);
    let transaction = transaction(name, table.snapshot().map_err(failed)?.metadata().id());
    let applied = applied(&table, name, &transaction).await?;
    Ok(Some((layout::provider(&table).map_err(failed)?, applied)))
}

/// `<root>/<name>` as it was at `version`, for reading by a process that does not own it; `None` when there is no such
/// table.
///
/// # Errors
/// [`Error::Gone`] when there is no such version any more: the table was made again, or maintenance has deleted what
/// the version needs; [`Error::Storage`].
pub async fn read_version(root: &Location, name: &str, version: u64) -> Result<Option<Arc<dyn TableProvider>>, Error> {
    let gone = || Error::Gone { table: name.to_owned(), version };
    let failed = |source| storage(name, source);
    let mut table = layout::locate(root, name);
    if !table.verify_deltatable_existence().await.map_err(failed)? {
        return Ok(None);
    }
    if let Err(source) = table.load_version(version).await {
        // Whether the store or the version is the reason shows in the newest one.
        return Err(if load(root, name).await.is_ok() { gone() } else { failed(source) });
    }
    let newest = table.get_latest_version().await.map_err(|source| match source {
        DeltaTableError::InvalidVersion(_) => gone(),
        source => failed(source),
    })?;
    // Only of what the table has left behind files are deleted.
    if newest > version {
        check_files(&table, name).await.map_err(|error| match error {
            Error::Damaged { .. } => gone(),
            other => other,
        })?;
    }
    layout::provider(&table).map(Some).map_err(failed)
}

/// The newest snapshot of `<root>/<name>`, if the table has all its files; `None` when there is no such table.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Damaged`] when it lacks a file.
pub async fn read_whole(root: &Location, name: &str) -> Result<Option<Arc<dyn TableProvider>>, Error> {
    let Some(table) = load(root, name).await? else { return Ok(None) };
    check_files(&table, name).await?;
    layout::provider(&table).map(Some).map_err(|source| storage(name, source))
}

/// The name under which a table remembers which checkpoint it has.
fn transaction(name: &str, incarnation: &str) -> String {
    format!("tributary/{name}/{incarnation}")
}

/// The number of the last checkpoint whose work a loaded table has; 0 before the first.
async fn applied(table: &deltalake::DeltaTable, name: &str, transaction: &str) -> Result<u64, Error> {
    let failed = |source| storage(name, source);
    let state = table.snapshot().map_err(failed)?;
    let version = state.transaction_version(table.log_store().as_ref(), transaction).await.map_err(failed)?;
    let version = version.unwrap_or_default();
    u64::try_from(version).map_err(|_| bug(name, format!("transaction version {version}")))
}

async fn load(root: &Location, name: &str) -> Result<Option<deltalake::DeltaTable>, Error> {
    let mut table = layout::locate(root, name);
    if !table.verify_deltatable_existence().await.map_err(|source| storage(name, source))? {
        return Ok(None);
    }
    table.load().await.map_err(|source| storage(name, source))?;
    Ok(Some(table))
}

/// Checks that every file of the snapshot is there, as long as it was written. Delta itself notices when it reads one.
async fn check_files(table: &deltalake::DeltaTable, name: &str) -> Result<(), Error> {
    let failed = |source| storage(name, source);
    let active = rewrite::files(table.snapshot().map_err(failed)?);
    if active.is_empty() {
        return Ok(());
    }
    let there = table.object_store().list(None).map_ok(|found| (found.location, found.size));
    let there: HashMap<ObjectPath, u64> = there.try_collect().await.map_err(|error| failed(error.into()))?;
    for file in active {
        let reason = match there.get(&file.path) {
            Some(bytes) if *bytes == file.bytes => continue,
            Some(_) => "has another size than when it was written",
            None => "is missing",
        };
        return Err(Error::Damaged { table: name.to_owned(), file: file.path.to_string(), reason });
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Stats {
    #[serde(rename = "numRecords")]
    num_records: u64,
}

fn added(file: &StagedFile) -> Add {
    Add {
        path: file.path.clone(),
        partition_values: file.partition_values.clone().into_iter().collect(),
        size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
        modification_time: file.written_at_ms,
        data_change: true,
        stats: file.stats.clone(),
        ..Add::default()
    }
}

//! The checkpoint directory: who owns it, what is decided, what is kept. Real files, real processes.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result as StoreResult, path::Path as StorePath,
};
use tempfile::tempdir;
use tributary::{
    storage::{DurableFileSystem, Location},
    stream::checkpoint::{
        BlobRef, Checkpoints, Error, KEPT_MANIFESTS, Manifest, TableWork, Work, is_locked, lock, peek, replace_lock,
    },
    time::EventTime,
};

use crate::PATIENCE;

const CHILD_DIR: &str = "TRIBUTARY_TEST_CHILD_DIR";

fn manifest(number: u64) -> Manifest {
    Manifest {
        number,
        generation: 0,
        nonce: String::new(),
        repeats: None,
        log_identity: "log".to_owned(),
        offsets: vec![number * 10, 7],
        watermark: Some(EventTime::from_seconds(1_700_000_000)),
        committed_at: EventTime::from_seconds(1_700_000_001),
        fingerprints: BTreeMap::from([("mrr_daily".to_owned(), "f".to_owned())]),
        state: BTreeMap::new(),
        tables: BTreeMap::new(),
    }
}

fn with_state(number: u64, blobs: &[(&str, &BlobRef)]) -> Manifest {
    let state = blobs.iter().map(|(name, blob)| ((*name).to_owned(), (*blob).clone())).collect();
    Manifest { state, ..manifest(number) }
}

fn store_of(dir: &Path) -> Arc<dyn ObjectStore> {
    Location::directory(dir).unwrap().store()
}

fn newest_body(dir: &Path) -> std::path::PathBuf {
    let shard = std::fs::read_dir(dir.join("checkpoints")).unwrap().next().unwrap().unwrap().path();
    let mut bodies: Vec<_> = std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path()).collect();
    bodies.sort();
    bodies.pop().unwrap()
}

#[tokio::test]
async fn what_was_decided_is_there_after_a_restart() {
    let dir = tempdir().unwrap();
    let first = Checkpoints::claim(dir.path(), "a").await.unwrap();
    assert!(first.latest().is_none());
    assert!(peek(store_of(dir.path()).as_ref()).await.unwrap().is_none());
    let blob = first.put_blob("ledger", "state".into()).await.unwrap();
    let decided = first.decide(with_state(1, &[("ledger", &blob)])).await.unwrap().as_ref().clone();
    assert_eq!((decided.generation, decided.nonce.as_str()), (1, "a"));
    drop(first);

    let second = Checkpoints::claim(dir.path(), "b").await.unwrap();
    assert_eq!(second.generation(), 2);
    assert_eq!(second.latest().as_deref(), Some(&decided));
    assert_eq!(peek(store_of(dir.path()).as_ref()).await.unwrap(), Some(decided));
    assert_eq!(second.next_number(), 2);
    assert_eq!(second.read_blob(&blob).await.unwrap(), "state");
}

#[tokio::test]
async fn a_stale_generation_cannot_decide_and_is_told_who_took_over() {
    let dir = tempdir().unwrap();
    // Without a file lock two engines live at once, as on a shared store.
    let old = Checkpoints::claim_shared(store_of(dir.path()), "a").await.unwrap();
    old.decide(manifest(1)).await.unwrap();
    old.check_generation().await.unwrap();
    let new = Checkpoints::claim_shared(store_of(dir.path()), "b").await.unwrap();
    let told = |error: Error| {
        assert!(matches!(&error, Error::Superseded { own: 1, newer: 2, .. }), "{error}");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    };
    told(old.check_generation().await.unwrap_err());
    told(old.ownership().check().await.unwrap_err());
    told(old.decide(manifest(2)).await.unwrap_err());
    told(old.prune().await.unwrap_err());
    assert_eq!(new.decide(manifest(3)).await.unwrap().generation, 2);
}

/// What an engine does that was stopped between its last look and its request: the request arrives now.
fn arrives_late(dir: &Path, number: u64) -> std::io::Result<()> {
    let body = std::fs::read(newest_body(dir))?;
    let path = newest_body(dir).with_file_name(format!("{number:020}.json"));
    std::io::Write::write_all(&mut std::fs::File::create_new(path)?, &body)
}

#[tokio::test]
async fn who_takes_over_seals_what_was_decided_against_requests_under_way() {
    let dir = tempdir().unwrap();
    let old = Checkpoints::claim_shared(store_of(dir.path()), "a").await.unwrap();
    let kept = old.put_blob("kept", "kept".into()).await.unwrap();
    let decided = old.decide(with_state(1, &[("kept", &kept)])).await.unwrap().clone();
    let undecided = old.put_blob("undecided", "undecided".into()).await.unwrap();

    let new = Checkpoints::claim_shared(store_of(dir.path()), "b").await.unwrap();
    let sealed = new.latest().unwrap();
    assert_eq!((sealed.number, sealed.generation, sealed.speaks_of()), (2, 2, 1));
    assert_eq!((&sealed.offsets, &sealed.state), (&decided.offsets, &decided.state));
    assert_eq!(arrives_late(dir.path(), 2).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    let there = |blob: &BlobRef| dir.path().join(&blob.path).exists();
    assert!(there(&kept) && !there(&undecided));
    // One that takes over from it speaks of the same decision.
    let third = Checkpoints::claim_shared(store_of(dir.path()), "c").await.unwrap();
    assert_eq!((third.latest().unwrap().number, third.latest().unwrap().speaks_of()), (3, 1));
}

#[tokio::test]
async fn before_the_first_decision_what_an_older_engine_stored_stays_until_it_can_no_longer_decide() {
    let dir = tempdir().unwrap();
    let old = Checkpoints::claim_shared(store_of(dir.path()), "a").await.unwrap();
    let stored = old.put_blob("stored", "stored".into()).await.unwrap();
    let new = Checkpoints::claim_shared(store_of(dir.path()), "b").await.unwrap();
    assert!(new.latest().is_none() && dir.path().join(&stored.path).exists());
    new.decide(manifest(1)).await.unwrap();
    assert!(!dir.path().join(&stored.path).exists());
}

#[tokio::test]
async fn of_two_decisions_with_one_number_one_counts() {
    let dir = tempdir().unwrap();
    let checkpoints = Checkpoints::claim_shared(store_of(dir.path()), "a").await.unwrap();
    checkpoints.decide(manifest(1)).await.unwrap();
    arrives_late(dir.path(), 2).unwrap();
    assert!(matches!(checkpoints.decide(manifest(2)).await, Err(Error::Overtaken { number: 2 })));
}

#[tokio::test]
async fn a_lock_that_was_replaced_holds_nobody_back_and_its_holder_finds_out() {
    let dir = tempdir().unwrap();
    assert!(!is_locked(dir.path()).unwrap());
    let hangs = lock(dir.path()).unwrap();
    hangs.check().unwrap();
    assert!(hangs.keeps_out() && is_locked(dir.path()).unwrap());
    assert!(matches!(lock(dir.path()), Err(Error::Locked { .. })));
    let old = Checkpoints::claim_locked(store_of(dir.path()), hangs, "a").await.unwrap();
    old.decide(manifest(1)).await.unwrap();

    let taken = replace_lock(dir.path(), "b").unwrap();
    assert!(!taken.keeps_out() && is_locked(dir.path()).unwrap());
    let new = Checkpoints::claim_locked(store_of(dir.path()), taken, "b").await.unwrap();
    assert!(matches!(old.decide(manifest(2)).await, Err(Error::Superseded { .. })));
    new.decide(manifest(3)).await.unwrap();
    drop(old);
    // The end of the old one frees nothing.
    assert!(matches!(lock(dir.path()), Err(Error::Locked { .. })));
    drop(new);
    let next = lock(dir.path()).unwrap();
    let replaced = replace_lock(dir.path(), "c").unwrap();
    assert!(matches!(next.check(), Err(Error::Locked { .. })));
    replaced.check().unwrap();
}

/// A store that retries by itself: its first try won, and the second was told that the object exists.
#[derive(Debug)]
struct Retrying(DurableFileSystem);

impl std::fmt::Display for Retrying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Retrying")
    }
}

#[async_trait]
impl ObjectStore for Retrying {
    async fn put_opts(&self, path: &StorePath, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        self.0.put_opts(path, payload.clone(), opts.clone()).await?;
        self.0.put_opts(path, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        path: &StorePath,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, path: &StorePath, options: GetOptions) -> StoreResult<GetResult> {
        self.0.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, StoreResult<StorePath>>,
    ) -> BoxStream<'static, StoreResult<StorePath>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> StoreResult<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &StorePath, to: &StorePath, options: CopyOptions) -> StoreResult<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_winner_that_is_told_its_name_exists_goes_on() {
    let dir = tempdir().unwrap();
    let store = Arc::new(Retrying(DurableFileSystem::new_with_prefix(dir.path()).unwrap()));
    let checkpoints = Checkpoints::claim_shared(store, "a").await.unwrap();
    assert_eq!(checkpoints.generation(), 1);
    let blob = checkpoints.put_blob("ledger", "state".into()).await.unwrap();
    checkpoints.decide(with_state(1, &[("ledger", &blob)])).await.unwrap();
    checkpoints.decide(manifest(2)).await.unwrap();
    assert_eq!(peek(store_of(dir.path()).as_ref()).await.unwrap().unwrap().number, 2);
}

#[tokio::test]
async fn manifests_are_decided_in_order() {
    let dir = tempdir().unwrap();
    let checkpoints = Checkpoints::claim(dir.path(), "a").await.unwrap();
    assert!(matches!(checkpoints.decide(manifest(2)).await, Err(Error::Bug(_))));
    checkpoints.decide(manifest(1)).await.unwrap();
    assert!(matches!(checkpoints.decide(manifest(1)).await, Err(Error::Bug(_))));
}

#[tokio::test]
async fn a_torn_or_changed_manifest_is_an_error_and_not_an_older_state() {
    let dir = tempdir().unwrap();
    let checkpoints = Checkpoints::claim(dir.path(), "a").await.unwrap();
    checkpoints.decide(manifest(1)).await.unwrap();
    checkpoints.decide(manifest(2)).await.unwrap();
    drop(checkpoints);
    let path = newest_body(dir.path());
    let whole = std::fs::read_to_string(&path).unwrap();
    for damaged in [&whole[..whole.len() / 2], "", &whole.replace("[20,7]", "[21,7]")] {
        std::fs::write(&path, damaged).unwrap();
        let error = Checkpoints::claim(dir.path(), "b").await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
    std::fs::write(&path, whole.replace("\"format\":1", "\"format\":2")).unwrap();
    let error = Checkpoints::claim(dir.path(), "b").await.unwrap_err();
    assert!(error.to_string().contains("format 2, this program reads format 1"), "{error}");
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(Checkpoints::claim(dir.path(), "b").await.unwrap().next_number(), 3);
}

#[tokio::test]
async fn a_manifest_is_not_decided_without_its_blobs() {
    let dir = tempdir().unwrap();
    let checkpoints = Checkpoints::claim(dir.path(), "a").await.unwrap();
    let blob = checkpoints.put_blob("ledger", "state".into()).await.unwrap();
    std::fs::write(dir.path().join(&blob.path), "stat").unwrap();
    let error = checkpoints.decide(with_state(1, &[("ledger", &blob)])).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    std::fs::write(dir.path().join(&blob.path), "stale").unwrap();
    assert!(matches!(checkpoints.read_blob(&blob).await, Err(Error::Damaged { .. })));
    std::fs::remove_file(dir.path().join(&blob.path)).unwrap();
    let error = checkpoints.decide(with_state(1, &[("ledger", &blob)])).await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[tokio::test]
async fn pruning_keeps_what_the_last_manifests_need_and_every_name() {
    let dir = tempdir().unwrap();
    let checkpoints = Checkpoints::claim(dir.path(), "a").await.unwrap();
    let shared = checkpoints.put_blob("shared", "shared".into()).await.unwrap();
    let mut own = Vec::new();
    for number in 1..=5 {
        own.push(checkpoints.put_blob("own", format!("own {number}").into()).await.unwrap());
        let blobs = [("shared", &shared), ("own", &own[own.len() - 1])];
        checkpoints.decide(with_state(number, &blobs)).await.unwrap();
    }
    let undecided = checkpoints.put_blob("next", "next".into()).await.unwrap();
    checkpoints.prune().await.unwrap();
    let there = |blob: &BlobRef| dir.path().join(&blob.path).exists();
    assert!(there(&shared) && there(&undecided));
    assert_eq!(own.iter().map(there).collect::<Vec<_>>(), [false, false, false, true, true]);
    let shard = newest_body(dir.path()).parent().unwrap().to_owned();
    let sizes: Vec<_> =
        (1..=5).map(|number| std::fs::metadata(shard.join(format!("{number:020}.json"))).unwrap().len() > 0).collect();
    assert_eq!(sizes, [false, false, false, true, true]);
    assert_eq!(sizes.iter().filter(|kept| **kept).count(), KEPT_MANIFESTS);
    drop(checkpoints);

    // What was stored but never decided goes with the next engine, nothing else does.
    let next = Checkpoints::claim(dir.path(), "b").await.unwrap();
    assert!(!there(&undecided) && there(&shared) && there(&own[3]) && there(&own[4]));
    assert_eq!(next.latest().unwrap().number, 5);
}

#[tokio::test]
async fn unapplied_work_is_carried_on() {
    let work = |number| Work { number, appends: Vec::new(), changes: None };
    let table = TableWork { incarnation: "i".to_owned(), applied_through: 1, pending: vec![work(2), work(3), work(5)] };
    let manifest = Manifest { tables: BTreeMap::from([("t".to_owned(), table)]), ..manifest(5) };
    let numbers = |incarnation, through| {
        let work = manifest.unapplied("t", incarnation, through);
        work.iter().map(|work| work.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers("i", 0), [2, 3, 5]);
    assert_eq!(numbers("i", 3), [5]);
    assert!(numbers("i", 5).is_empty());
    assert!(numbers("made anew", 0).is_empty());
    assert!(manifest.unapplied("other", "i", 0).is_empty());
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Not a test by itself: the process that `a_second_engine_waits_until_the_first_is_gone` starts and kills.
#[tokio::test]
async fn child_claims_and_waits_to_be_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let _checkpoints = Checkpoints::claim(Path::new(&dir), "child").await.unwrap();
    std::fs::write(Path::new(&dir).join("claimed"), "").unwrap();
    std::thread::sleep(PATIENCE * 2);
}

#[tokio::test]
async fn a_second_engine_waits_until_the_first_is_gone() {
    let dir = tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "checkpoint::child_claims_and_waits_to_be_killed"])
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let child = KilledOnDrop(child);
    let started = Instant::now();
    while !dir.path().join("claimed").exists() {
        assert!(started.elapsed() < PATIENCE, "the child did not claim");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = Checkpoints::claim(dir.path(), "b").await.unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert!(error.to_string().contains("stop it first"), "{error}");
    drop(child);
    assert_eq!(Checkpoints::claim(dir.path(), "b").await.unwrap().generation(), 2);
}

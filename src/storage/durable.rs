//! A local directory as an object store whose writes survive a power cut.
//!
//! `object_store`'s own `LocalFileSystem` never calls fsync, so a decision could be gone, or a file of a table be
//! empty, after the machine comes back. [`DurableFileSystem`] is that store with one promise more: when a write
//! returns, the content and every directory entry that leads to it are on disk, and a file that was put is never
//! seen half written. Stores that promise this by themselves, such as S3, are used without it.

use std::{
    fmt,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart, local::LocalFileSystem,
    path::Path,
};

/// See the module.
#[derive(Debug, Default)]
pub struct DurableFileSystem {
    inner: Arc<LocalFileSystem>,
    staged: AtomicU64,
}

impl DurableFileSystem {
    /// A store whose paths are absolute paths of this machine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A store whose paths are relative to `dir`, which must exist.
    ///
    /// # Errors
    /// When `dir` cannot be found.
    pub fn new_with_prefix(dir: &std::path::Path) -> Result<Self> {
        Ok(Self { inner: Arc::new(LocalFileSystem::new_with_prefix(dir)?), staged: AtomicU64::new(0) })
    }
}

impl fmt::Display for DurableFileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Durable{}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for DurableFileSystem {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "a conditional update".into(),
                    implementer: self.to_string(),
                });
            }
        };
        let path = self.inner.path_to_filesystem(location)?;
        // `LocalFileSystem` hides names that end in `#` and digits from its listings.
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let mut staged = path.clone().into_os_string();
        staged.push(format!("#{}{number:06}", std::process::id()));
        blocking(location, move || put(&PathBuf::from(staged), &path, &payload, create)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        blocking(location, move || create_parent(&path)).await?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload { inner, store: Arc::clone(&self.inner), location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        sync(&self.inner, to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        sync(&self.inner, to).await
    }
}

#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    store: Arc<LocalFileSystem>,
    location: Path,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        sync(&self.store, &self.location).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

/// Writes and syncs under a hidden name first: the real name appears only with its whole content.
fn put(staged: &std::path::Path, path: &std::path::Path, payload: &PutPayload, create: bool) -> io::Result<()> {
    create_parent(path)?;
    // A leftover of a dead process with the same id may be another name of a finished file: unlink, never truncate.
    remove_if_present(staged)?;
    let written = (|| {
        let mut file = File::create_new(staged)?;
        payload.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()?;
        if create { fs::hard_link(staged, path) } else { fs::rename(staged, path) }
    })();
    let removed = remove_if_present(staged);
    written?;
    removed?;
    sync_parent(path)
}

fn remove_if_present(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn sync(store: &LocalFileSystem, location: &Path) -> Result<()> {
    let path = store.path_to_filesystem(location)?;
    blocking(location, move || sync_file(&path)).await
}

fn sync_file(path: &std::path::Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    sync_parent(path)
}

/// On Windows a directory cannot be opened like a file, and NTFS journals its entries.
fn sync_parent(path: &std::path::Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if cfg!(unix) => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn create_parent(path: &std::path::Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if parent.is_dir() {
        return Ok(());
    }
    create_parent(parent)?;
    match fs::create_dir(parent) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_parent(parent)
}

async fn blocking(location: &Path, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(work).await?.map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => Error::AlreadyExists { path: location.to_string(), source: source.into() },
        ErrorKind::NotFound => Error::NotFound { path: location.to_string(), source: source.into() },
        _ => Error::Generic { store: "DurableFileSystem", source: source.into() },
    })
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn a_name_is_created_once_and_nothing_else_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = DurableFileSystem::new_with_prefix(dir.path()).unwrap();
        let path = Path::from("a/b/c.json");
        store.put_opts(&path, "first".into(), PutMode::Create.into()).await.unwrap();
        let error = store.put_opts(&path, "second".into(), PutMode::Create.into()).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "first");
        store.put(&path, "third".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "third");
        assert_eq!(std::fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_a_dead_process_left_behind_is_neither_listed_nor_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let path = Path::from("c.json");
        DurableFileSystem::new_with_prefix(dir.path()).unwrap().put(&path, "old".into()).await.unwrap();
        // It died between giving the file its name and removing the hidden one, and this process has its id.
        let staged = dir.path().join(format!("c.json#{}{:06}", std::process::id(), 0));
        std::fs::hard_link(dir.path().join("c.json"), &staged).unwrap();
        let store = DurableFileSystem::new_with_prefix(dir.path()).unwrap();
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 1);
        let error = store.put_opts(&path, "new".into(), PutMode::Create.into()).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join("c.json")).unwrap(), "old");
    }

    #[tokio::test]
    async fn an_upload_in_parts_is_there_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let store = DurableFileSystem::new_with_prefix(dir.path()).unwrap();
        let path = Path::from("x/y.parquet");
        let mut upload = store.put_multipart(&path).await.unwrap();
        upload.put_part("ab".into()).await.unwrap();
        upload.put_part("cd".into()).await.unwrap();
        assert!(store.head(&path).await.is_err());
        upload.complete().await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "abcd");
    }
}

//! Where the engine keeps what it makes: tables, checkpoints and the outbox.
//!
//! A [`Location`] is a directory of this machine or a prefix of a bucket, and the two are used alike: through an
//! [`ObjectStore`] whose writes are durable when they return and which creates an object only if its name is free. A
//! [`Home`] is the data directory together with the location that tables, checkpoints and outbox lie below. The log,
//! requests, models and the password are local by nature and stay in the data directory.

mod bucket;
mod durable;

use std::{
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use object_store::{ObjectStore, path::Path as StorePath, prefix::PrefixStore};
use url::Url;

pub use self::{bucket::Options, durable::DurableFileSystem};

/// Where checkpoints live below a home; on a directory also the engine's lock.
pub const CHECKPOINT_DIR: &str = "engine";
/// Where Delta tables live below a home.
pub const TABLE_DIR: &str = "tables";
/// Where alerts live below a home.
const OUTBOX_DIR: &str = "outbox";

/// What can go wrong before anything is stored, by what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Name another directory.
    #[error("{0} cannot be used as a directory; name another one")]
    Directory(PathBuf),
    /// Fix the setting.
    #[error("the setting storage.{setting} is not right: {problem}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Fix the credentials. Never names them.
    #[error(
        "{url} refuses the credentials in the environment; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and (if it \
         is temporary) AWS_SESSION_TOKEN, what they are allowed to do, and this machine's clock"
    )]
    Denied {
        /// The location.
        url: String,
    },
    /// Create the bucket, or name another one.
    #[error("there is no bucket for {url}; create it, or mend storage.url, storage.region and storage.endpoint")]
    NoBucket {
        /// The location.
        url: String,
    },
    /// Mend the network or the address, and start again.
    #[error("{url} cannot be reached: {reason}; check storage.endpoint and the network, and try again")]
    Unreachable {
        /// The location.
        url: String,
        /// What happened.
        reason: String,
    },
    /// Do it in another way.
    #[error("{what} is only for what is in the data directory, and this is in {url}; {instead}")]
    OnlyLocal {
        /// What was tried.
        what: &'static str,
        /// The location.
        url: String,
        /// What to do instead.
        instead: &'static str,
    },
}

/// A directory, or a prefix of a bucket.
#[derive(Clone, Debug)]
pub struct Location {
    /// The whole file system, or the whole bucket.
    root: Arc<dyn ObjectStore>,
    /// Ends in a slash.
    url: Url,
}

impl Location {
    /// A directory of this machine, which need not exist.
    ///
    /// # Errors
    /// [`Error::Directory`] when it cannot be named by a URL.
    pub fn directory(dir: &Path) -> Result<Self, Error> {
        let invalid = || Error::Directory(dir.to_owned());
        let url = Url::from_directory_path(resolved(dir).map_err(|_| invalid())?).map_err(|()| invalid())?;
        StorePath::from_url_path(url.path()).map_err(|_| invalid())?;
        Ok(Self { root: Arc::new(DurableFileSystem::new()), url })
    }

    /// What lies below it.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{name}/", self.url.path()));
        Self { root: Arc::clone(&self.root), url }
    }

    /// Its address, which ends in a slash.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The store that paths of [`url`](Self::url) are paths of.
    #[must_use]
    pub fn root(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.root)
    }

    /// The store of what lies below it.
    #[must_use]
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        // Every location was checked when it was made, and names of children are our own.
        let prefix = StorePath::from_url_path(self.url.path()).unwrap_or_default();
        Arc::new(PrefixStore::new(self.root(), prefix))
    }
}

/// A data directory, and where its tables, checkpoints and outbox are.
#[derive(Clone, Debug)]
pub struct Home {
    data_dir: PathBuf,
    location: Location,
}

impl Home {
    /// Everything in one directory, which need not exist.
    ///
    /// # Errors
    /// [`Error::Directory`].
    pub fn directory(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let data_dir = dir.into();
        let location = Location::directory(&data_dir)?;
        Ok(Self { data_dir, location })
    }

    /// A data directory with tables, checkpoints and outbox in a bucket, which must answer.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Denied`], [`Error::NoBucket`] and [`Error::Unreachable`].
    pub async fn bucket(data_dir: impl Into<PathBuf>, options: &Options) -> Result<Self, Error> {
        Ok(Self { data_dir: data_dir.into(), location: options.open().await? })
    }

    /// The directory of what is local: log, requests, models, password.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Whether engines on several machines can get at it, so that no file lock keeps them apart.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.location.url.scheme() != "file"
    }

    /// The data directory, if everything is in it: what `what` needs.
    ///
    /// # Errors
    /// [`Error::OnlyLocal`], with what to do `instead`.
    pub fn only_local(&self, what: &'static str, instead: &'static str) -> Result<&Path, Error> {
        if self.is_shared() {
            return Err(Error::OnlyLocal { what, url: self.location.url.to_string(), instead });
        }
        Ok(&self.data_dir)
    }

    /// Where everything is.
    #[must_use]
    pub fn url(&self) -> &Url {
        self.location.url()
    }

    /// The Delta tables.
    #[must_use]
    pub fn tables(&self) -> Location {
        self.location.child(TABLE_DIR)
    }

    /// Generations, manifests and blobs.
    #[must_use]
    pub fn checkpoints(&self) -> Arc<dyn ObjectStore> {
        self.location.child(CHECKPOINT_DIR).store()
    }

    /// The local directory of the engine's lock and of requests.
    #[must_use]
    pub fn engine_dir(&self) -> PathBuf {
        self.data_dir.join(CHECKPOINT_DIR)
    }

    /// The alerts.
    #[must_use]
    pub fn outbox(&self) -> Arc<dyn ObjectStore> {
        self.location.child(OUTBOX_DIR).store()
    }
}

/// An absolute path without `..`, which no store has in its paths.
fn resolved(dir: &Path) -> std::io::Result<PathBuf> {
    if let Ok(found) = dir.canonicalize() {
        return Ok(found);
    }
    let mut path = PathBuf::new();
    for component in std::path::absolute(dir)?.components() {
        if component == Component::ParentDir {
            path.pop();
        } else {
            path.push(component);
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    #[tokio::test]
    async fn a_directory_that_does_not_exist_is_empty_and_is_made_by_the_first_write() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::directory(dir.path().join("elsewhere/../a b/data")).unwrap();
        assert!(!home.is_shared());
        let store = home.checkpoints();
        assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
        store.put(&"gen/1.json".into(), "x".into()).await.unwrap();
        let found: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].location.as_ref(), "gen/1.json");
        assert!(dir.path().join("a b/data/engine/gen/1.json").is_file());
        assert_eq!(home.only_local("x", "y").unwrap(), home.data_dir());
    }
}

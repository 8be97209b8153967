//! Who owns the checkpoints: generations, and the question whether an engine's own is still the newest.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::{BlobRef, Error, generation_path, read_checked};

/// Where Linux says the name of this machine.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The content of a generation's file: who claimed it.
#[derive(Serialize, Deserialize)]
pub(super) struct Claim {
    generation: u64,
    nonce: String,
    /// For people: which process, and where.
    #[serde(default)]
    process: u32,
    #[serde(default)]
    host: String,
}

impl Claim {
    pub(super) fn new(generation: u64, nonce: String) -> Self {
        let host = std::fs::read_to_string(HOST_NAME).unwrap_or_default().trim().to_owned();
        Self { generation, nonce, process: std::process::id(), host }
    }
}

/// An engine's claim, for all who write on its behalf: they check it right before, and read what it has stored.
#[derive(Clone, Debug)]
pub struct Ownership {
    store: Arc<dyn ObjectStore>,
    generation: u64,
}

impl Ownership {
    pub(super) fn new(store: Arc<dyn ObjectStore>, generation: u64) -> Self {
        Self { store, generation }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Reads a blob back, and makes sure that it is what was stored.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not.
    pub async fn read_blob(&self, blob: &BlobRef) -> Result<Bytes, Error> {
        read_checked(self.store.as_ref(), blob).await
    }

    /// Checks that no newer engine has claimed.
    ///
    /// # Errors
    /// [`Error::Superseded`] when one has, [`Error::Store`] when that cannot be found out.
    pub async fn check(&self) -> Result<(), Error> {
        let newer = self.generation + 1;
        let found = match self.store.get(&generation_path(newer)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // The file says that there is one, whatever is in it.
        let by = match serde_json::from_slice::<Claim>(&found) {
            Ok(Claim { process, host, .. }) if process > 0 => format!("process {process} on {host}"),
            _ => "a process that does not say which".to_owned(),
        };
        Err(Error::Superseded { own: self.generation, newer, by })
    }
}

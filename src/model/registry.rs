//! Where models live: `<dir>/<name>/<version>/{manifest.json, model.json}` and a pointer `<dir>/<name>/current`.
//!
//! A version is the start of the SHA-256 of `model.json`, so training again on the same data gives the same
//! version. A version appears whole or not at all (written aside, synced, renamed) and never changes; the pointer
//! moves by one rename, also back. Loading checks format and checksum before it trusts a file. One process writes.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Error, Model, Report, Trained, features::FeatureNames};

/// Format of both files; raised when either changes its meaning.
pub const FORMAT: u64 = 1;

/// Versions kept of a model besides the current one; saving one more deletes the one trained longest ago.
pub const MAX_VERSIONS: usize = 32;

/// Largest file that is read; a model with [`super::features::MAX_FEATURES`] features takes under 200 KB.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// Hexadecimal digits of the checksum that name a version.
const VERSION_DIGITS: usize = 12;

const MANIFEST: &str = "manifest.json";
const MODEL: &str = "model.json";
const CURRENT: &str = "current";
/// Not a legal name or version, so a leftover of a crash is never taken for one.
const ASIDE_PREFIX: &str = ".new-";

/// Where a model comes from and what it is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u64,
    /// Name of the model.
    pub name: String,
    /// Version.
    pub version: String,
    /// When it was trained.
    pub trained_at: DateTime<Utc>,
    /// Features in order.
    pub features: FeatureNames,
    /// SHA-256 of the SQL that gave the features.
    pub features_sql_sha256: String,
    /// SHA-256 of `model.json`.
    pub model_sha256: String,
    /// Blocks, hyper-parameters, bands and metrics.
    pub report: Report,
}

/// A stored model.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its papers.
    pub manifest: Manifest,
    /// To score with.
    pub model: Model,
}

/// A version in the registry.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub version: String,
    /// Its papers, or why they cannot be read: an old or damaged version does not hide the others.
    pub manifest: Result<Manifest, Error>,
}

/// Models under one directory.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: PathBuf,
}

impl Registry {
    /// Models under `dir`, which is created by the first save.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Stores a model durably and returns its manifest; does not make it current. A version that exists already is
    /// left as it is and its manifest returned.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Io`]; [`Error::Damaged`] when that version exists and is damaged.
    pub fn save(
        &self,
        name: &str,
        trained: &Trained,
        trained_at: DateTime<Utc>,
        features_sql_sha256: &str,
    ) -> Result<Manifest, Error> {
        let home = self.home(name)?;
        let body = to_json(&trained.model)?;
        let model_sha256 = hex::encode(Sha256::digest(&body));
        let version = model_sha256[..VERSION_DIGITS].to_owned();
        let place = home.join(&version);
        if place.join(MANIFEST).exists() {
            return self.load(name, &version).map(|stored| stored.manifest);
        }
        let manifest = Manifest {
            format: FORMAT,
            name: name.to_owned(),
            version: version.clone(),
            trained_at,
            features: trained.model.names().clone(),
            features_sql_sha256: features_sql_sha256.to_owned(),
            model_sha256,
            report: trained.report.clone(),
        };
        let aside = home.join(format!("{ASIDE_PREFIX}{version}"));
        for leftover in [&aside, &place] {
            remove_dir(leftover)?;
        }
        fs::create_dir_all(&aside).map_err(io_error(&aside))?;
        write_synced(&aside.join(MODEL), &body)?;
        write_synced(&aside.join(MANIFEST), &to_json(&manifest)?)?;
        sync_dir(&aside)?;
        fs::rename(&aside, &place).map_err(io_error(&place))?;
        for dir in [home.as_path(), self.dir.as_path()] {
            sync_dir(dir)?;
        }
        self.prune(name, &version)?;
        Ok(manifest)
    }

    /// Reads a version and verifies it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Damaged`], [`Error::Format`], [`Error::Name`], [`Error::Io`].
    pub fn load(&self, name: &str, version: &str) -> Result<Stored, Error> {
        let place = self.place(name, version)?;
        let manifest = read_manifest(&place)?;
        let path = place.join(MODEL);
        let damaged = |reason: &str| Error::Damaged { path: path.clone(), reason: reason.to_owned() };
        let body = match read_limited(&path) {
            Err(Error::Missing(_)) => return Err(damaged("the file is gone")),
            other => other?,
        };
        if hex::encode(Sha256::digest(&body)) != manifest.model_sha256 {
            return Err(damaged("its checksum is not the one in the manifest"));
        }
        let model: Model = serde_json::from_slice(&body).map_err(|e| damaged(&e.to_string()))?;
        if !model.is_sound() || *model.names() != manifest.features {
            return Err(damaged("its parts do not belong together"));
        }
        Ok(Stored { manifest, model })
    }

    /// The version that scores; none before the first [`Registry::set_current`].
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Io`], [`Error::Damaged`] for a pointer that is not a version.
    pub fn current(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.home(name)?.join(CURRENT);
        let body = match read_limited(&path) {
            Err(Error::Missing(_)) => return Ok(None),
            other => other?,
        };
        match String::from_utf8(body).ok().map(|text| text.trim_end().to_owned()).filter(|v| is_name(v)) {
            Some(version) => Ok(Some(version)),
            None => Err(Error::Damaged { path, reason: "it does not hold a version".to_owned() }),
        }
    }

    /// Reads the version that scores; none before the first [`Registry::set_current`].
    ///
    /// # Errors
    /// As [`Registry::current`] and [`Registry::load`].
    pub fn load_current(&self, name: &str) -> Result<Option<Stored>, Error> {
        self.current(name)?.map(|version| self.load(name, &version)).transpose()
    }

    /// Makes a version the one that scores, after loading it once. Going back to an older one is the same call.
    ///
    /// # Errors
    /// As [`Registry::load`]; the pointer then stays where it was.
    pub fn set_current(&self, name: &str, version: &str) -> Result<(), Error> {
        self.load(name, version)?;
        let home = self.home(name)?;
        let (aside, path) = (home.join(format!("{ASIDE_PREFIX}{CURRENT}")), home.join(CURRENT));
        write_synced(&aside, format!("{version}\n").as_bytes())?;
        fs::rename(&aside, &path).map_err(io_error(&path))?;
        sync_dir(&home)
    }

    /// All versions, the latest trained first, those with an unreadable manifest last.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Io`] for the directory itself.
    pub fn versions(&self, name: &str) -> Result<Vec<Listed>, Error> {
        let home = self.home(name)?;
        let entries = match fs::read_dir(&home) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io_error(&home))?,
        };
        let mut versions = Vec::new();
        for entry in entries {
            let path = entry.map_err(io_error(&home))?.path();
            let version = path.file_name().and_then(|n| n.to_str()).filter(|n| is_name(n));
            if let Some(version) = version.filter(|_| path.join(MANIFEST).exists()) {
                versions.push(Listed { version: version.to_owned(), manifest: read_manifest(&path) });
            }
        }
        let trained_at = |listed: &Listed| listed.manifest.as_ref().ok().map(|m| m.trained_at);
        versions.sort_by(|a, b| trained_at(b).cmp(&trained_at(a)).then_with(|| a.version.cmp(&b.version)));
        Ok(versions)
    }

    /// Deletes what is beyond [`MAX_VERSIONS`], sparing the current version and the one just saved.
    fn prune(&self, name: &str, saved: &str) -> Result<(), Error> {
        let current = self.current(name)?;
        let spared = |v: &Listed| v.version == saved || Some(&v.version) == current.as_ref();
        let versions = self.versions(name)?;
        for old in versions.iter().skip(MAX_VERSIONS).filter(|v| !spared(v)) {
            let place = self.place(name, &old.version)?;
            // The manifest goes first: without it the directory is no version, whatever a crash leaves of it.
            let manifest = place.join(MANIFEST);
            fs::remove_file(&manifest).map_err(io_error(&manifest))?;
            remove_dir(&place)?;
        }
        Ok(())
    }

    fn home(&self, name: &str) -> Result<PathBuf, Error> {
        if is_name(name) { Ok(self.dir.join(name)) } else { Err(Error::Name(name.to_owned())) }
    }

    fn place(&self, name: &str, version: &str) -> Result<PathBuf, Error> {
        if is_name(version) { Ok(self.home(name)?.join(version)) } else { Err(Error::Name(version.to_owned())) }
    }
}

fn is_name(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (1..=64).contains(&text.len()) && text.bytes().all(legal)
}

fn read_manifest(place: &Path) -> Result<Manifest, Error> {
    /// Read first: another format may have other fields.
    #[derive(Deserialize)]
    struct Head {
        format: u64,
    }
    let path = place.join(MANIFEST);
    let body = read_limited(&path)?;
    let damaged = |e: serde_json::Error| Error::Damaged { path: path.clone(), reason: e.to_string() };
    let Head { format } = serde_json::from_slice(&body).map_err(damaged)?;
    if format != FORMAT {
        return Err(Error::Format { path, found: format, supported: FORMAT });
    }
    serde_json::from_slice(&body).map_err(damaged)
}

fn read_limited(path: &Path) -> Result<Vec<u8>, Error> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::Missing(path.to_owned())),
        other => other.map_err(io_error(path))?,
    };
    let mut body = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut body).map_err(io_error(path))?;
    if body.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::Damaged { path: path.to_owned(), reason: format!("larger than {MAX_FILE_BYTES} bytes") });
    }
    Ok(body)
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::Defect(format!("a model cannot be written: {e}")))
}

fn write_synced(path: &Path, body: &[u8]) -> Result<(), Error> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(body)?;
        file.sync_all()
    };
    write().map_err(io_error(path))
}

fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error(path))
}

fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(path)(e)),
        _ => Ok(()),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

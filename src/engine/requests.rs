//! What other processes ask of a running engine: files in `<data-dir>/engine/requests/`, each of which gets an answer.
//!
//! ```text
//! <id>.request   written by who asks, under another name first, so that it is whole when it is seen
//! <id>.answer    written by the engine in its place; who asked removes it
//! ```
//!
//! A request is taken between two epochs. One that nobody waits for any more is carried out all the same, but not by the
//! next engine: what lies there at a start is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Error, Version};
use crate::{
    storage::{CHECKPOINT_DIR, Home},
    stream::{checkpoint, file::PipelineFile},
};

const DIR: &str = "requests";
const REQUEST: &str = "request";
const ANSWER: &str = "answer";

/// How often who asked looks for the answer.
const POLL: Duration = Duration::from_millis(20);

/// How many looks pass between two checks that the engine still lives.
const POLLS_A_CHECK: u32 = 25;

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Rebuild the pipelines that are new or changed, and then let them take the place of the old.
    Apply(Files),
    /// Let a pipeline's table stand still.
    Pause {
        /// Which.
        pipeline: String,
    },
    /// Rebuild a pipeline that is paused or has failed, and go on with it.
    Resume {
        /// Which.
        pipeline: String,
    },
    /// Work out a pipeline's answer anew from all that it reads, while the old one serves.
    Replay {
        /// Which.
        pipeline: String,
    },
    /// Take a checkpoint and link everything it consists of into a directory within the data directory.
    Snapshot {
        /// The directory's name.
        into: String,
    },
}

/// Pipelines as they go from one process to another: whole, so that what was planned is what is applied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Files {
    pipelines: Vec<(PathBuf, String)>,
    parameters: BTreeMap<String, BTreeMap<String, String>>,
}

impl From<Version> for Files {
    fn from(version: Version) -> Self {
        let pipelines = version.pipelines.into_iter().map(|file| (file.path, file.text)).collect();
        Self { pipelines, parameters: version.parameters }
    }
}

impl Files {
    pub(super) fn version(self) -> Result<Version, Error> {
        let files = self.pipelines.into_iter().map(|(path, text)| PipelineFile::parse(&path, text));
        Ok(Version { pipelines: files.collect::<Result<_, _>>()?, parameters: self.parameters })
    }
}

/// What came of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub done: bool,
    /// What was done, or why not.
    pub message: String,
}

impl Answer {
    pub(super) fn done(message: impl Into<String>) -> Self {
        Self { done: true, message: message.into() }
    }

    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self { done: false, message: message.into() }
    }
}

/// Asks the engine that runs on a data directory, and waits for its answer; `None` when none runs. `id` is a random text.
///
/// # Errors
/// [`Error::EngineGone`] when it ends before it answers.
pub async fn ask(home: &Home, id: &str, request: &Request) -> Result<Option<Answer>, Error> {
    let engine = home.engine_dir();
    if !engine.is_dir() || !checkpoint::is_locked(&engine)? {
        return Ok(None);
    }
    let dir = engine.join(DIR);
    fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
    let (request_path, answer_path) = (named(&dir, id, REQUEST), named(&dir, id, ANSWER));
    write(&request_path, request)?;
    let mut looks: u32 = 0;
    loop {
        tokio::time::sleep(POLL).await;
        if let Some(answer) = read::<Answer>(&answer_path)? {
            remove(&answer_path)?;
            return Ok(Some(answer));
        }
        looks += 1;
        if looks.is_multiple_of(POLLS_A_CHECK) && !checkpoint::is_locked(&engine)? {
            remove(&request_path)?;
            // It may have answered with its last breath.
            let answer = read(&answer_path)?;
            return answer.map(Some).ok_or(Error::EngineGone);
        }
    }
}

/// The requests to one engine. None of them, however broken, ends it.
pub(super) struct Requests {
    dir: PathBuf,
    /// Those that could not be read or answered: told of once, and not looked at again.
    skipped: BTreeSet<String>,
    /// Whether it was told that the directory cannot be read.
    unreadable: bool,
}

impl Requests {
    pub(super) fn new(data_dir: &Path) -> Self {
        let dir = data_dir.join(CHECKPOINT_DIR).join(DIR);
        Self { dir, skipped: BTreeSet::new(), unreadable: false }
    }

    /// Refuses what was asked of an engine that is no more: who asked may have given up, or have asked again.
    pub(super) fn refuse_left_over(&mut self) {
        for id in self.ids() {
            // One that was answered only has to go.
            if named(&self.dir, &id, ANSWER).exists() {
                if let Err(error) = remove(&named(&self.dir, &id, REQUEST)) {
                    self.skip(&id, &error);
                }
            } else {
                self.answer(&id, &Answer::refused("the engine was started again before this was done; ask again"));
            }
        }
    }

    /// The request that comes next, in the order of the ids.
    pub(super) fn first(&mut self) -> Option<(String, Request)> {
        for id in self.ids() {
            match fs::read(named(&self.dir, &id, REQUEST)).map(|bytes| serde_json::from_slice(&bytes)) {
                Ok(Ok(request)) => return Some((id, request)),
                // Of another version of the program.
                Ok(Err(error)) => self.answer(&id, &Answer::refused(format!("not understood: {error}"))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.skip(&id, &error),
            }
        }
        None
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, id: &str, answer: &Answer) {
        let written = write(&named(&self.dir, id, ANSWER), answer);
        // It was taken care of, also when nobody can be told.
        let removed = remove(&named(&self.dir, id, REQUEST));
        if let Err(error) = written.and(removed) {
            self.skip(id, &error);
        }
    }

    fn skip(&mut self, id: &str, error: &impl fmt::Display) {
        if self.skipped.insert(id.to_owned()) {
            tracing::warn!(id, %error, "a request could not be read or answered; it is not looked at again");
        }
    }

    /// The ids of the requests that wait, in order.
    fn ids(&mut self) -> Vec<String> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound && !self.unreadable {
                    self.unreadable = true;
                    tracing::warn!(dir = %self.dir.display(), %error, "requests cannot be read");
                }
                return Vec::new();
            }
        };
        let paths = entries.flatten().map(|entry| entry.path());
        let requests = paths.filter(|path| path.extension().is_some_and(|kind| kind == REQUEST) && path.is_file());
        let ids = requests.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
        let mut ids: Vec<String> = ids.filter(|id| !self.skipped.contains(id)).collect();
        ids.sort();
        ids
    }
}

fn named(dir: &Path, id: &str, kind: &str) -> PathBuf {
    dir.join(format!("{id}.{kind}"))
}

fn write(path: &Path, content: &impl Serialize) -> Result<(), Error> {
    let bytes = serde_json::to_vec(content).map_err(|error| Error::Internal(error.to_string()))?;
    let hidden = path.with_extension("new");
    fs::write(&hidden, bytes).and_then(|()| fs::rename(&hidden, path)).map_err(failed("write", path))
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Internal(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Directory { action, path, source }
}

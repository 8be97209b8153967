//! Putting tables and checkpoints that were made beside the old ones in their place.
//!
//! ```text
//! rebuild/engine/, rebuild/tables/   what is being made
//! rebuild/ready                      it is complete: from here on a start finishes the change
//! rebuild/old/                       what was there before, until the change is done
//! ```
//!
//! Before `ready` exists nothing has happened, and a start throws the new away. After it every step is one rename that
//! leaves no doubt about which steps are done, so the change can be taken up wherever it stopped. The caller holds the
//! lock of the data directory, whose file stays where it is.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::Error;

/// Where the new is made.
const WORKSHOP: &str = "rebuild";
/// The mark, in the workshop.
const READY: &str = "ready";
/// Where the old goes, in the workshop.
const OLD: &str = "old";

/// What changes places. Generations go on counting, so they move only where there are none.
const PARTS: [&str; 4] = ["engine/gen", "engine/checkpoints", "engine/blobs", "tables"];
const GENERATIONS: &str = PARTS[0];

/// The workshop of a data directory.
pub(super) fn workshop(data_dir: &Path) -> PathBuf {
    data_dir.join(WORKSHOP)
}

/// Whether the change has begun and is not done: the directory belongs to nobody's tables.
pub(super) fn is_unfinished(data_dir: &Path) -> bool {
    workshop(data_dir).join(READY).exists()
}

/// Finishes a change that was decided, or throws away what had only begun.
pub(super) fn settle(data_dir: &Path) -> Result<(), Error> {
    let workshop = workshop(data_dir);
    if !workshop.is_dir() {
        return Ok(());
    }
    if is_unfinished(data_dir) {
        tracing::info!("finishing a rebuild that was interrupted");
        return finish(data_dir);
    }
    tracing::info!("throwing away what a rebuild had begun before it was interrupted");
    remove(&workshop)
}

/// Decides that what was made takes the place of the old, and does it.
pub(super) fn swap(data_dir: &Path) -> Result<(), Error> {
    let ready = workshop(data_dir).join(READY);
    let mark = || File::create(&ready)?.sync_all();
    mark().map_err(failed("write", &ready))?;
    sync(&workshop(data_dir))?;
    finish(data_dir)
}

fn finish(data_dir: &Path) -> Result<(), Error> {
    for step in steps(data_dir) {
        step.take()?;
    }
    let workshop = workshop(data_dir);
    let ready = workshop.join(READY);
    fs::remove_file(&ready).map_err(failed("remove", &ready))?;
    sync(&workshop)?;
    remove(&workshop)
}

/// One rename.
struct Step {
    from: PathBuf,
    to: PathBuf,
}

/// The renames that are still to be done.
fn steps(data_dir: &Path) -> Vec<Step> {
    let workshop = workshop(data_dir);
    let mut steps = Vec::new();
    for part in PARTS {
        let (new, live) = (workshop.join(part), data_dir.join(part));
        if !new.is_dir() || (part == GENERATIONS && live.is_dir()) {
            continue;
        }
        if live.is_dir() {
            steps.push(Step { from: live.clone(), to: workshop.join(OLD).join(part) });
        }
        steps.push(Step { from: new, to: live });
    }
    steps
}

impl Step {
    fn take(&self) -> Result<(), Error> {
        let Self { from, to } = self;
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(failed("create", parent))?;
        }
        fs::rename(from, to).map_err(failed("rename", from))?;
        for parent in [to.parent(), from.parent()].into_iter().flatten() {
            sync(parent)?;
        }
        Ok(())
    }
}

/// Removes a directory with all that is in it, if it is there.
fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", dir)(error)),
        _ => dir.parent().map_or(Ok(()), sync),
    }
}

fn sync(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Directory { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory with a workshop; `had` says whether there were tables before.
    fn site(had: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: String, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for part in PARTS {
            put(format!("rebuild/{part}/1"), "new");
            if had {
                put(format!("{part}/1"), "old");
            }
        }
        put("engine/engine.lock".to_owned(), "");
        put("rebuild/engine/engine.lock".to_owned(), "");
        dir
    }

    fn assert_is(dir: &Path, text: &str, generations: &str) {
        for part in PARTS {
            let wanted = if part == GENERATIONS { generations } else { text };
            assert_eq!(fs::read_to_string(dir.join(part).join("1")).unwrap(), wanted, "{part}");
        }
        assert!(!workshop(dir).exists());
        assert!(dir.join("engine/engine.lock").exists());
    }

    #[test]
    fn killed_before_any_step_the_next_start_finishes_the_change() {
        for had in [true, false] {
            let all = steps(site(had).path()).len();
            assert_eq!(all, if had { 6 } else { 4 });
            for done in 0..=all {
                let site = site(had);
                let dir = site.path();
                fs::write(workshop(dir).join(READY), "").unwrap();
                for step in steps(dir).into_iter().take(done) {
                    step.take().unwrap();
                }
                assert!(is_unfinished(dir));
                settle(dir).unwrap();
                assert_is(dir, "new", if had { "old" } else { "new" });
                settle(dir).unwrap();
            }
        }
    }

    #[test]
    fn killed_before_the_decision_the_next_start_keeps_the_old() {
        let site = site(true);
        settle(site.path()).unwrap();
        assert_is(site.path(), "old", "old");
    }

    #[test]
    fn a_change_that_nobody_disturbs_is_done_at_once() {
        let site = site(true);
        swap(site.path()).unwrap();
        assert_is(site.path(), "new", "old");
    }
}

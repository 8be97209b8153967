//! The outbox: every alert as a file, durable before it is sent.
//!
//! ```text
//! <dir>/<id>.json     one alert and where it stands with each of its webhooks (an `Entry`)
//! <dir>/control.json  since when each rule fires, and which webhooks said 410 (a `Control`)
//! ```
//!
//! An entry is created by linking a complete, synced temporary file under its name: it is whole or absent, and of
//! two writers one wins. What changes later replaces it by rename. Directories are synced too, so what was said
//! once is known after a crash, and a second offer of it is nothing.
//!
//! Finished entries are history: what corrections refer to, and what keeps duplicates out. When there are more than
//! the limit, the oldest movements are forgotten, and their rules fire only for later rows from then on. So nothing
//! forgotten is ever said again; it can no longer be corrected either.
//!
//! One process at a time writes here: the engine that owns the data directory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Error,
    alert::{Alert, Subject},
    rules::{Rule, Statement},
};
use crate::time::EventTime;

/// How many finished alerts are remembered: weeks of them at a rate that people can read, in 15 MB of memory.
pub const HISTORY_LIMIT: usize = 10_000;

/// How many deliveries may wait: three days of an alert every half minute. What comes beyond it is kept, but dead.
pub const PENDING_LIMIT: usize = 10_000;

/// The share of the history that is forgotten at once, as a divisor, so that it is not done for every alert.
const FORGET_SHARE: usize = 10;

const CONTROL_FILE: &str = "control.json";

/// Where an alert stands with one webhook.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// To be sent, or sent again.
    Pending,
    /// The receiver has it.
    Delivered,
    /// Given up: all attempts failed, or too many were waiting.
    Dead,
    /// Not sent: the webhook had said 410.
    Disabled,
}

/// An alert on its way to one webhook.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// The webhook's name.
    pub webhook: String,
    /// Where it stands.
    pub state: State,
    /// How often it was tried.
    pub attempts: u32,
    /// Not before then.
    pub next_attempt_at: EventTime,
    /// Why the last attempt failed.
    pub last_failure: Option<String>,
}

/// A file of the outbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its place among what was said of its subject, from 0.
    pub sequence: usize,
    /// What is said.
    pub alert: Alert,
    /// To whom.
    pub deliveries: Vec<Delivery>,
}

#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
struct Control {
    rules: BTreeMap<String, Activation>,
    disabled_webhooks: BTreeMap<String, Disabled>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Activation {
    fingerprint: String,
    fires_from: EventTime,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Disabled {
    target: String,
    since: EventTime,
}

/// The outbox, opened. All methods touch the disk and block.
#[derive(Debug)]
pub struct Outbox {
    dir: PathBuf,
    history_limit: usize,
    pending_limit: usize,
    control: Control,
    entries: HashMap<String, Entry>,
    said: HashMap<Subject, Vec<String>>,
    queues: BTreeMap<String, BTreeSet<(EventTime, String)>>,
    tally: BTreeMap<State, usize>,
    finished: usize,
}

impl Outbox {
    /// Opens, or creates, the outbox in `dir`.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Damaged`]
    pub fn open(dir: &Path, history_limit: usize, pending_limit: usize) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(disk("create", dir))?;
        let mut outbox = Self {
            dir: dir.to_owned(),
            history_limit,
            pending_limit,
            control: read(&dir.join(CONTROL_FILE))?.unwrap_or_default(),
            entries: HashMap::new(),
            said: HashMap::new(),
            queues: BTreeMap::new(),
            tally: BTreeMap::new(),
            finished: 0,
        };
        let mut found = Vec::new();
        for file in fs::read_dir(dir).map_err(disk("list", dir))? {
            let path = file.map_err(disk("list", dir))?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                // Left by a process that died while it wrote; never under its final name, so never sent.
                Some("tmp") => fs::remove_file(&path).map_err(disk("remove", &path))?,
                Some("json") if path.file_name().is_some_and(|name| name != CONTROL_FILE) => {
                    found.extend(read::<Entry>(&path)?);
                }
                _ => {}
            }
        }
        found.sort_by_key(|entry| entry.sequence);
        for entry in found {
            outbox.remember(entry);
        }
        Ok(outbox)
    }

    /// Notes since when each rule fires: those that are new, or speak of other rows than before, from `now` on.
    ///
    /// # Errors
    /// [`Error::Disk`]
    pub fn activate(&mut self, rules: &[Rule], now: EventTime) -> Result<(), Error> {
        let mut control = self.control.clone();
        control.rules.retain(|name, _| rules.iter().any(|rule| rule.name == *name));
        for rule in rules {
            let fingerprint = rule.fingerprint();
            let known = control.rules.get(&rule.name).is_some_and(|known| known.fingerprint == fingerprint);
            if !known {
                control.rules.insert(rule.name.clone(), Activation { fingerprint, fires_from: now });
            }
        }
        self.store(control)
    }

    /// Since when a rule fires; never, for a rule that was not activated.
    #[must_use]
    pub fn fires_from(&self, rule: &str) -> EventTime {
        let never = EventTime::from_micros(i64::MAX);
        self.control.rules.get(rule).map_or(never, |activation| activation.fires_from)
    }

    /// Whether the webhook said 410 when it had this target. With another one it is enabled again.
    #[must_use]
    pub fn is_disabled(&self, webhook: &str, target: &str) -> bool {
        self.control.disabled_webhooks.get(webhook).is_some_and(|disabled| disabled.target == target)
    }

    /// What was said of a subject, oldest first.
    #[must_use]
    pub fn said(&self, subject: &Subject) -> Vec<Statement> {
        let ids = self.said.get(subject).map(Vec::as_slice).unwrap_or_default();
        ids.iter()
            .filter_map(|id| self.entries.get(id))
            .map(|entry| Statement {
                id: entry.alert.id.clone(),
                revision: entry.alert.revision,
                row: entry.alert.row.clone(),
            })
            .collect()
    }

    /// Takes an alert for these webhooks, each with whether it is disabled; durable when it returns. False, and
    /// nothing done, when it has been taken before.
    ///
    /// # Errors
    /// [`Error::Disk`]
    pub fn add(&mut self, alert: Alert, webhooks: &[(&str, bool)], now: EventTime) -> Result<bool, Error> {
        if self.entries.contains_key(&alert.id) {
            return Ok(false);
        }
        let full = self.count(State::Pending) + webhooks.len() > self.pending_limit;
        let delivery = |&(webhook, disabled): &(&str, bool)| Delivery {
            webhook: webhook.to_owned(),
            state: match (disabled, full) {
                (true, _) => State::Disabled,
                (false, true) => State::Dead,
                (false, false) => State::Pending,
            },
            attempts: 0,
            next_attempt_at: now,
            last_failure: full.then(|| "too many alerts were waiting".to_owned()),
        };
        let entry = Entry {
            sequence: self.said.get(&alert.subject).map_or(0, Vec::len),
            alert,
            deliveries: webhooks.iter().map(delivery).collect(),
        };
        let created = create(&self.dir, &file_name(&entry.alert.id), &json(&entry)?)?;
        if created {
            self.remember(entry);
            self.forget()?;
        }
        Ok(created)
    }

    /// The alerts that `webhook` should get by `now`, at most `max`.
    #[must_use]
    pub fn due(&self, webhook: &str, now: EventTime, max: usize) -> Vec<Entry> {
        let queue = self.queues.get(webhook).into_iter().flatten();
        queue.take_while(|(at, _)| *at <= now).take(max).filter_map(|(_, id)| self.entries.get(id).cloned()).collect()
    }

    /// When `webhook` should get its next alert.
    #[must_use]
    pub fn next_at(&self, webhook: &str) -> Option<EventTime> {
        Some(self.queues.get(webhook)?.first()?.0)
    }

    /// Notes where an alert stands with a webhook now; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Disk`]; what this process does next follows the new state nevertheless.
    pub fn update(&mut self, id: &str, delivery: Delivery) -> Result<(), Error> {
        let Some(mut entry) = self.entries.get(id).cloned() else {
            return Ok(());
        };
        for known in &mut entry.deliveries {
            if known.webhook == delivery.webhook {
                known.clone_from(&delivery);
            }
        }
        let bytes = json(&entry)?;
        self.leave_out(id);
        self.remember(entry);
        replace(&self.dir, &file_name(id), &bytes)?;
        self.forget()
    }

    /// Sends nothing more to `webhook` while it has this target: also what waits for it is given up.
    ///
    /// # Errors
    /// [`Error::Disk`]
    pub fn disable(&mut self, webhook: &str, target: &str, now: EventTime) -> Result<(), Error> {
        if !self.is_disabled(webhook, target) {
            let mut control = self.control.clone();
            control.disabled_webhooks.insert(webhook.to_owned(), Disabled { target: target.to_owned(), since: now });
            self.store(control)?;
        }
        let waiting: Vec<String> = self.queues.get(webhook).into_iter().flatten().map(|(_, id)| id.clone()).collect();
        for id in waiting {
            let entry = self.entries.get(&id);
            let known = entry.and_then(|entry| entry.deliveries.iter().find(|known| known.webhook == webhook));
            if let Some(delivery) = known.cloned() {
                self.update(&id, Delivery { state: State::Disabled, ..delivery })?;
            }
        }
        Ok(())
    }

    /// How many deliveries stand there.
    #[must_use]
    pub fn count(&self, state: State) -> usize {
        self.tally.get(&state).copied().unwrap_or(0)
    }

    fn remember(&mut self, entry: Entry) {
        let id = &entry.alert.id;
        for delivery in &entry.deliveries {
            *self.tally.entry(delivery.state).or_default() += 1;
            if delivery.state == State::Pending {
                let queue = self.queues.entry(delivery.webhook.clone()).or_default();
                queue.insert((delivery.next_attempt_at, id.clone()));
            }
        }
        self.finished += usize::from(is_finished(&entry));
        let said = self.said.entry(entry.alert.subject.clone()).or_default();
        if !said.contains(id) {
            said.push(id.clone());
        }
        self.entries.insert(id.clone(), entry);
    }

    /// Takes an entry out of everything but `said`, whose order must survive an update.
    fn leave_out(&mut self, id: &str) {
        let Some(entry) = self.entries.remove(id) else {
            return;
        };
        for delivery in &entry.deliveries {
            if let Some(count) = self.tally.get_mut(&delivery.state) {
                *count -= 1;
            }
            if let Some(queue) = self.queues.get_mut(&delivery.webhook) {
                queue.remove(&(delivery.next_attempt_at, id.to_owned()));
            }
        }
        self.finished -= usize::from(is_finished(&entry));
    }

    /// Keeps the history within its limit: whole subjects go, those of the oldest movements first. The rules'
    /// activation moves past them before the first file goes, so that a crash in between says nothing twice.
    fn forget(&mut self) -> Result<(), Error> {
        if self.finished <= self.history_limit {
            return Ok(());
        }
        let mut excess = self.finished - (self.history_limit - self.history_limit / FORGET_SHARE);
        let mut subjects: Vec<(EventTime, &Subject, &Vec<String>)> = self
            .said
            .iter()
            .filter(|(_, ids)| ids.iter().all(|id| self.entries.get(id).is_some_and(is_finished)))
            .filter_map(|(subject, ids)| Some((self.entries.get(ids.first()?)?.alert.occurred_at, subject, ids)))
            .collect();
        subjects.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
        let mut control = self.control.clone();
        let mut going: Vec<(Subject, Vec<String>)> = Vec::new();
        for (occurred_at, subject, ids) in subjects {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(ids.len());
            if let Some(activation) = control.rules.get_mut(&subject.rule) {
                let past = EventTime::from_seconds(occurred_at.seconds().saturating_add(1));
                activation.fires_from = activation.fires_from.max(past);
            }
            going.push((subject.clone(), ids.clone()));
        }
        self.store(control)?;
        for (subject, ids) in going {
            self.said.remove(&subject);
            for id in ids {
                self.leave_out(&id);
                let path = self.dir.join(file_name(&id));
                fs::remove_file(&path).map_err(disk("remove", &path))?;
            }
        }
        Ok(())
    }

    fn store(&mut self, control: Control) -> Result<(), Error> {
        if control != self.control {
            replace(&self.dir, CONTROL_FILE, &json(&control)?)?;
            self.control = control;
        }
        Ok(())
    }
}

fn is_finished(entry: &Entry) -> bool {
    entry.deliveries.iter().all(|delivery| delivery.state != State::Pending)
}

fn file_name(id: &str) -> String {
    format!("{id}.json")
}

fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Disk { action, path, source }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Internal(error.to_string()))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::Damaged { path: path.to_owned(), problem: error.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk("read", path)(error)),
    }
}

/// Writes a file of the given name that is whole or absent; false if there is one already.
fn create(dir: &Path, name: &str, bytes: &[u8]) -> Result<bool, Error> {
    let temporary = write_temporary(dir, name, bytes)?;
    let path = dir.join(name);
    let linked = match fs::hard_link(&temporary, &path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(disk("create", &path)(error)),
    };
    fs::remove_file(&temporary).map_err(disk("remove", &temporary))?;
    sync_directory(dir)?;
    linked
}

/// Writes a file of the given name in place of the one there is.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let temporary = write_temporary(dir, name, bytes)?;
    let path = dir.join(name);
    fs::rename(&temporary, &path).map_err(disk("write", &path))?;
    sync_directory(dir)
}

fn write_temporary(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
    let path = dir.join(format!("{name}.tmp"));
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(disk("write", &path))?;
    Ok(path)
}

fn sync_directory(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(disk("sync", dir))
}

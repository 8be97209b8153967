//! The outbox: every alert as a file, durable before it is sent.
//!
//! ```text
//! <id>.json     one alert and where it stands with each of its webhooks (an `Entry`)
//! control.json  since when each rule fires, and which webhooks said 410 (a `Control`)
//! ```
//!
//! An entry is created only if its name is free: it is whole or absent, and of two writers one wins. What changes
//! later replaces it as a whole. The store has written for good when it says so, so what was said once is known after a
//! crash, and a second offer of it is nothing.
//!
//! Finished entries are history: what corrections refer to, and what keeps duplicates out. When there are more than
//! the limit, the oldest movements are forgotten, and their rules fire only for later rows from then on. So nothing
//! forgotten is ever said again; it can no longer be corrected either.
//!
//! One process at a time writes here: the engine that owns the checkpoints. Who calls makes sure of that.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, path::Path};
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

/// How many files are read or removed at once.
const CONCURRENT_REQUESTS: usize = 16;

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

/// The outbox, opened.
#[derive(Debug)]
pub struct Outbox {
    store: Arc<dyn ObjectStore>,
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
    /// Opens the outbox in `store`; there need be nothing yet.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`]
    pub async fn open(store: Arc<dyn ObjectStore>, history_limit: usize, pending_limit: usize) -> Result<Self, Error> {
        let control = read(store.as_ref(), &Path::from(CONTROL_FILE)).await?.unwrap_or_default();
        let mut outbox = Self {
            store: Arc::clone(&store),
            history_limit,
            pending_limit,
            control,
            entries: HashMap::new(),
            said: HashMap::new(),
            queues: BTreeMap::new(),
            tally: BTreeMap::new(),
            finished: 0,
        };
        let listed: Vec<_> = store.list(None).try_collect().await.map_err(failed("list", &Path::default()))?;
        // Whatever has another name was left by a process that died while it wrote, and is never sent.
        let entries = listed.into_iter().map(|file| file.location).filter(|path| {
            path.extension() == Some("json") && path.filename().is_some_and(|name| name != CONTROL_FILE)
        });
        let found = futures::stream::iter(entries)
            .map(|path| {
                let store = Arc::clone(&store);
                async move { read::<Entry>(store.as_ref(), &path).await }
            })
            .buffer_unordered(CONCURRENT_REQUESTS);
        let found: Vec<Option<Entry>> = found.try_collect().await?;
        let mut found: Vec<Entry> = found.into_iter().flatten().collect();
        found.sort_by_key(|entry| entry.sequence);
        for entry in found {
            outbox.remember(entry);
        }
        Ok(outbox)
    }

    /// Notes since when each rule fires: those that are new, or speak of other rows than before, from `now` on.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn activate(&mut self, rules: &[Rule], now: EventTime) -> Result<(), Error> {
        let mut control = self.control.clone();
        control.rules.retain(|name, _| rules.iter().any(|rule| rule.name == *name));
        for rule in rules {
            let fingerprint = rule.fingerprint();
            let known = control.rules.get(&rule.name).is_some_and(|known| known.fingerprint == fingerprint);
            if !known {
                control.rules.insert(rule.name.clone(), Activation { fingerprint, fires_from: now });
            }
        }
        self.put_control(control).await
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
    /// [`Error::Store`]
    pub async fn add(&mut self, alert: Alert, webhooks: &[(&str, bool)], now: EventTime) -> Result<bool, Error> {
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
        let created = create(self.store.as_ref(), &file_path(&entry.alert.id), json(&entry)?).await?;
        if created {
            self.remember(entry);
            self.forget().await?;
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
    /// [`Error::Store`]; what this process does next follows the new state nevertheless.
    pub async fn update(&mut self, id: &str, delivery: Delivery) -> Result<(), Error> {
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
        replace(self.store.as_ref(), &file_path(id), bytes).await?;
        self.forget().await
    }

    /// Sends nothing more to `webhook` while it has this target: also what waits for it is given up.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn disable(&mut self, webhook: &str, target: &str, now: EventTime) -> Result<(), Error> {
        if !self.is_disabled(webhook, target) {
            let mut control = self.control.clone();
            control.disabled_webhooks.insert(webhook.to_owned(), Disabled { target: target.to_owned(), since: now });
            self.put_control(control).await?;
        }
        let waiting: Vec<String> = self.queues.get(webhook).into_iter().flatten().map(|(_, id)| id.clone()).collect();
        for id in waiting {
            let entry = self.entries.get(&id);
            let known = entry.and_then(|entry| entry.deliveries.iter().find(|known| known.webhook == webhook));
            if let Some(delivery) = known.cloned() {
                self.update(&id, Delivery { state: State::Disabled, ..delivery }).await?;
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
    async fn forget(&mut self) -> Result<(), Error> {
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
        self.put_control(control).await?;
        let mut paths = Vec::new();
        for (subject, ids) in going {
            self.said.remove(&subject);
            for id in ids {
                self.leave_out(&id);
                paths.push(file_path(&id));
            }
        }
        futures::stream::iter(paths)
            .map(|path| {
                let store = Arc::clone(&self.store);
                async move {
                    match store.delete(&path).await {
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                        Err(error) => Err(failed("remove", &path)(error)),
                    }
                }
            })
            .buffer_unordered(CONCURRENT_REQUESTS)
            .try_collect()
            .await
    }

    async fn put_control(&mut self, control: Control) -> Result<(), Error> {
        if control != self.control {
            replace(self.store.as_ref(), &Path::from(CONTROL_FILE), json(&control)?).await?;
            self.control = control;
        }
        Ok(())
    }
}

fn is_finished(entry: &Entry) -> bool {
    entry.deliveries.iter().all(|delivery| delivery.state != State::Pending)
}

fn file_path(id: &str) -> Path {
    Path::from(format!("{id}.json"))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(object_store::Error) -> Error {
    let name = path.to_string();
    move |source| Error::Store { action, name, source }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Internal(error.to_string()))
}

async fn read<T: DeserializeOwned>(store: &dyn ObjectStore, path: &Path) -> Result<Option<T>, Error> {
    let bytes = match store.get(path).await {
        Ok(found) => found.bytes().await.map_err(failed("read", path))?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::Damaged { name: path.to_string(), problem: error.to_string() })
}

/// Writes a file that is whole or absent; false if there is another one of that name already. A store that tries
/// again by itself may say so of what its first try wrote.
async fn create(store: &dyn ObjectStore, path: &Path, bytes: Vec<u8>) -> Result<bool, Error> {
    match store.put_opts(path, bytes.clone().into(), PutMode::Create.into()).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::AlreadyExists { .. }) => {
            let found = async { store.get(path).await?.bytes().await }.await;
            Ok(found.map_err(failed("read", path))? == bytes)
        }
        Err(error) => Err(failed("create", path)(error)),
    }
}

/// Writes a file in place of the one there is.
async fn replace(store: &dyn ObjectStore, path: &Path, bytes: Vec<u8>) -> Result<(), Error> {
    store.put(path, bytes.into()).await.map(|_| ()).map_err(failed("write", path))
}

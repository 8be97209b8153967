//! The dispatcher: takes changes of `expansion_events`, keeps what they are worth saying in the outbox, and delivers
//! it from there, at least once, under a stable id.
//!
//! `Options` → [`start`] → [`Handle`]. Each webhook has a task of its own, so that one that hangs does not hold up
//! the others. The order of delivery is not promised: a correction names the alert it replaces. What is not
//! delivered when the process ends is taken up at the next start; what was sent but not yet marked is sent again.
//!
//! Before anything is written or sent, the dispatcher asks whether its engine still owns the checkpoints. When another
//! one has taken over, it sends nothing more and marks nothing: that is the other one's work.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use object_store::ObjectStore;
use serde::Serialize;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, watch},
    task::JoinHandle,
};

use super::{
    Change, Error, Jitter,
    alert::{Kind, Subject},
    outbox::{Delivery, Entry, HISTORY_LIMIT, Outbox, PENDING_LIMIT, State},
    rules::{self, Decision, Rule},
    webhook::{self, Endpoint, Outcome},
};
use crate::{
    stream::checkpoint::{self, Ownership},
    time::{Clock, EventTime},
};

/// When an alert is tried: at once, then after these waits; the example schedule of Standard Webhooks, 75 hours.
pub const SCHEDULE: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(14 * 3600),
    Duration::from_secs(20 * 3600),
    Duration::from_secs(24 * 3600),
];

/// Posts to one webhook at a time: enough to catch up with, too few to trouble a receiver.
const MAX_IN_FLIGHT: usize = 8;

/// Waits are spread by up to this share of themselves, so that what failed together does not come back together.
const JITTER_SHARE: f64 = 0.2;

/// How long the store is left alone that does not say who owns the checkpoints.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The longest sleep before the clock is read again, so that a clock that jumps delays nothing for long.
const MAX_SLEEP: Duration = Duration::from_secs(30);

/// What to alert about, and whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the outbox is.
    pub store: Arc<dyn ObjectStore>,
    /// Which changes are worth an alert.
    pub rules: Vec<Rule>,
    /// Who can be told.
    pub webhooks: Vec<webhook::Options>,
    /// The wait before each attempt; as many attempts as there are waits.
    pub schedule: Vec<Duration>,
    /// How many finished alerts are remembered.
    pub history_limit: usize,
    /// How many deliveries may wait.
    pub pending_limit: usize,
}

impl Options {
    /// The usual limits and schedule.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, rules: Vec<Rule>, webhooks: Vec<webhook::Options>) -> Self {
        Self {
            store,
            rules,
            webhooks,
            schedule: SCHEDULE.to_vec(),
            history_limit: HISTORY_LIMIT,
            pending_limit: PENDING_LIMIT,
        }
    }
}

/// What an offer came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Offered {
    /// New alerts.
    pub alerts: u64,
    /// Corrections of earlier ones.
    pub corrections: u64,
    /// Rows a rule speaks of that were too old, or from before its activation.
    pub not_due: u64,
    /// Changes of which everything had been said.
    pub said: u64,
}

/// What the dispatcher did since its start, and what stands in the outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// What all offers came to.
    pub offered: Offered,
    /// Attempts that succeeded.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Changes of the outbox that could not be written; their alerts may be sent again after a restart.
    pub disk_errors: u64,
    /// Deliveries in the outbox that wait.
    pub pending: usize,
    /// Deliveries in the outbox that were given up.
    pub dead: usize,
    /// Deliveries in the outbox to webhooks that said 410.
    pub disabled: usize,
}

struct Shared {
    rules: Vec<Rule>,
    endpoints: Vec<Endpoint>,
    schedule: Vec<Duration>,
    clock: Clock,
    jitter: Jitter,
    ownership: Ownership,
    outbox: AsyncMutex<Outbox>,
    counts: Mutex<Counts>,
    news: Vec<Notify>,
}

/// A running dispatcher. Dropping it stops the deliveries like [`Handle::shutdown`], without waiting.
pub struct Handle {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Opens the outbox, notes the rules' activation, and goes on delivering what waits.
///
/// # Errors
/// [`Error::Rule`] and [`Error::Webhook`] for a wrong configuration, [`Error::Store`], [`Error::Damaged`], and
/// [`Error::Ownership`] when another engine has taken over.
pub async fn start(options: Options, ownership: Ownership, clock: Clock, jitter: Jitter) -> Result<Handle, Error> {
    check(&options)?;
    let endpoints: Vec<Endpoint> = options.webhooks.into_iter().map(Endpoint::new).collect::<Result<_, _>>()?;
    let mut outbox = Outbox::open(options.store, options.history_limit, options.pending_limit).await?;
    let now = clock();
    ownership.check().await?;
    outbox.activate(&options.rules, now).await?;
    for endpoint in &endpoints {
        if outbox.is_disabled(endpoint.name(), endpoint.target()) {
            warn_disabled(endpoint);
            outbox.disable(endpoint.name(), endpoint.target(), now).await?;
        }
    }
    let shared = Arc::new(Shared {
        news: endpoints.iter().map(|_| Notify::new()).collect(),
        counts: Mutex::new(gauges(&outbox, Counts::default())),
        rules: options.rules,
        endpoints,
        schedule: options.schedule,
        clock,
        jitter,
        ownership,
        outbox: AsyncMutex::new(outbox),
    });
    let (stop, stopped) = watch::channel(false);
    let tasks = (0..shared.endpoints.len())
        .map(|index| tokio::spawn(deliver(Arc::clone(&shared), index, stopped.clone())))
        .collect();
    Ok(Handle { shared, stop, tasks })
}

impl Handle {
    /// Takes changes of `expansion_events`. What is worth saying is durable when it returns, and sent soon; offering
    /// the same changes again is harmless, also after a restart. An error can leave a part of them taken.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Internal`], and [`Error::Ownership`] when another engine has taken over.
    pub async fn offer(&self, changes: Vec<Change>) -> Result<Offered, Error> {
        self.shared.ownership.check().await?;
        let mut offered = Offered::default();
        let taken = {
            let mut outbox = self.shared.outbox.lock().await;
            let taken = self.shared.take(&mut outbox, &changes, &mut offered).await;
            self.shared.count(&outbox, |counts| {
                counts.offered.alerts += offered.alerts;
                counts.offered.corrections += offered.corrections;
                counts.offered.not_due += offered.not_due;
                counts.offered.said += offered.said;
            });
            taken
        };
        for news in &self.shared.news {
            news.notify_one();
        }
        taken.map(|()| offered)
    }

    /// What it has done, and what waits.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *lock(&self.shared.counts)
    }

    /// Begins no further attempt, and waits for those under way: at most [`webhook::TIMEOUT`].
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        join_all(self.tasks).await;
    }
}

impl Shared {
    async fn take(&self, outbox: &mut Outbox, changes: &[Change], offered: &mut Offered) -> Result<(), Error> {
        let now = (self.clock)();
        for change in changes {
            let Some(row) = change.after.as_ref().or(change.before.as_ref()) else {
                continue;
            };
            for rule in &self.rules {
                let said = outbox.said(&Subject::new(&rule.name, row));
                let alert = match rules::decide(rule, change, &said, outbox.fires_from(&rule.name), now)? {
                    Decision::Say(alert) => *alert,
                    Decision::NoMatch => continue,
                    Decision::NotDue => {
                        offered.not_due += 1;
                        continue;
                    }
                    Decision::Said => {
                        offered.said += 1;
                        continue;
                    }
                };
                let webhooks: Vec<(&str, bool)> = self
                    .endpoints
                    .iter()
                    .filter(|endpoint| rule.webhooks.iter().any(|name| name == endpoint.name()))
                    .map(|endpoint| (endpoint.name(), outbox.is_disabled(endpoint.name(), endpoint.target())))
                    .collect();
                let kind = alert.kind;
                match (outbox.add(alert, &webhooks, now).await?, kind) {
                    (true, Kind::Expansion) => offered.alerts += 1,
                    (true, Kind::Corrected) => offered.corrections += 1,
                    (false, _) => offered.said += 1,
                }
            }
        }
        Ok(())
    }

    /// Counts, and shows all at once how the outbox is now.
    fn count(&self, outbox: &Outbox, change: impl FnOnce(&mut Counts)) {
        let mut counts = lock(&self.counts);
        change(&mut counts);
        *counts = gauges(outbox, *counts);
    }

    /// Writes down what came of an attempt.
    async fn note(&self, outbox: &mut Outbox, endpoint: &Endpoint, entry: &Entry, outcome: Outcome) {
        let now = (self.clock)();
        let (id, name) = (entry.alert.id.as_str(), endpoint.name());
        let Some(delivery) = entry.deliveries.iter().find(|delivery| delivery.webhook == name) else {
            return;
        };
        let attempts = delivery.attempts + 1;
        let tried = Delivery { attempts, ..delivery.clone() };
        let (mut delivered, mut failed) = (0, 0);
        let noted = match outcome {
            Outcome::Delivered => {
                delivered = 1;
                tracing::info!(alert = id, webhook = name, attempts, "alert delivered");
                outbox.update(id, Delivery { state: State::Delivered, last_failure: None, ..tried }).await
            }
            Outcome::Gone => {
                warn_disabled(endpoint);
                let gone =
                    Delivery { state: State::Disabled, last_failure: Some("it answered 410".to_owned()), ..tried };
                match outbox.update(id, gone).await {
                    Ok(()) => outbox.disable(name, endpoint.target(), now).await,
                    Err(error) => Err(error),
                }
            }
            Outcome::Failed { reason, retry_after } => {
                failed = 1;
                let next = self.schedule.get(attempts as usize);
                tracing::warn!(
                    alert = id,
                    webhook = name,
                    attempts,
                    reason,
                    dead = next.is_none(),
                    "alert not delivered"
                );
                let last_failure = Some(reason);
                let failed = match next {
                    None => Delivery { state: State::Dead, last_failure, ..tried },
                    Some(wait) => {
                        let wait = spread(*wait, (self.jitter)()).max(retry_after.unwrap_or_default());
                        Delivery { next_attempt_at: after(now, wait), last_failure, ..tried }
                    }
                };
                outbox.update(id, failed).await
            }
        };
        if let Err(error) = &noted {
            tracing::error!(alert = id, webhook = name, %error, "the outbox could not be written");
        }
        self.count(outbox, |counts| {
            counts.delivered += delivered;
            counts.failed += failed;
            counts.disk_errors += u64::from(noted.is_err());
        });
    }
}

/// Delivers to one webhook until it is told to stop, or may no longer.
async fn deliver(shared: Arc<Shared>, index: usize, mut stopped: watch::Receiver<bool>) {
    let (endpoint, news) = (&shared.endpoints[index], &shared.news[index]);
    // A receiver that asks for a pause gets it for all alerts.
    let mut pause_until = EventTime::MIN;
    while !*stopped.borrow() && stopped.has_changed().is_ok() {
        let now = (shared.clock)();
        let (entries, next_at) = {
            let outbox = shared.outbox.lock().await;
            (outbox.due(endpoint.name(), now, MAX_IN_FLIGHT), outbox.next_at(endpoint.name()))
        };
        if entries.is_empty() || now < pause_until {
            let until = next_at.map(|at| at.max(pause_until));
            let sleep = until.map_or(MAX_SLEEP, |at| between(now, at).min(MAX_SLEEP));
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = news.notified() => {}
                _ = stopped.changed() => return,
            }
            continue;
        }
        if let Err(error) = shared.ownership.check().await {
            if let checkpoint::Error::Store(_) = error {
                // Not known: nothing is sent until it is.
                tracing::warn!(webhook = endpoint.name(), %error, "alerts wait");
                tokio::select! {
                    () = tokio::time::sleep(ASK_AGAIN_AFTER) => continue,
                    _ = stopped.changed() => return,
                }
            }
            return tracing::error!(webhook = endpoint.name(), %error, "alerts are no longer delivered");
        }
        let outcomes = join_all(entries.iter().map(|entry| endpoint.send(&entry.alert, now))).await;
        let asked = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Failed { retry_after, .. } => *retry_after,
            _ => None,
        });
        if let Some(wait) = asked.max() {
            pause_until = after((shared.clock)(), wait);
        }
        // The process may have been stopped while it waited for the answer.
        if let Err(error @ checkpoint::Error::Superseded { .. }) = shared.ownership.check().await {
            return tracing::error!(webhook = endpoint.name(), %error, "alerts are no longer delivered");
        }
        let mut outbox = shared.outbox.lock().await;
        for (entry, outcome) in entries.iter().zip(outcomes) {
            shared.note(&mut outbox, endpoint, entry, outcome).await;
        }
    }
}

fn check(options: &Options) -> Result<(), Error> {
    let mut names = BTreeSet::new();
    for webhook in &options.webhooks {
        if !names.insert(webhook.name.as_str()) {
            let problem = "there are two of that name".to_owned();
            return Err(Error::Webhook { name: webhook.name.clone(), problem });
        }
    }
    let mut rules = BTreeSet::new();
    for rule in &options.rules {
        let problem = |problem: String| Err(Error::Rule { name: rule.name.clone(), problem });
        if !rules.insert(rule.name.as_str()) {
            return problem("there are two of that name".to_owned());
        }
        if rule.webhooks.is_empty() {
            return problem("it names no webhook to tell".to_owned());
        }
        if let Some(unknown) = rule.webhooks.iter().find(|name| !names.contains(name.as_str())) {
            return problem(format!("there is no webhook `{unknown}`"));
        }
    }
    Ok(())
}

fn warn_disabled(endpoint: &Endpoint) {
    tracing::warn!(
        webhook = endpoint.name(),
        "the webhook answered 410 and is disabled; give it another URL, or take it out of the outbox's control.json"
    );
}

fn gauges(outbox: &Outbox, counts: Counts) -> Counts {
    Counts {
        pending: outbox.count(State::Pending),
        dead: outbox.count(State::Dead),
        disabled: outbox.count(State::Disabled),
        ..counts
    }
}

fn spread(wait: Duration, random: f64) -> Duration {
    wait.mul_f64(1.0 + JITTER_SHARE * random.clamp(0.0, 1.0))
}

fn after(now: EventTime, wait: Duration) -> EventTime {
    EventTime::from_micros(now.micros().saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
}

fn between(now: EventTime, at: EventTime) -> Duration {
    Duration::from_micros(u64::try_from(at.micros().saturating_sub(now.micros())).unwrap_or(0))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

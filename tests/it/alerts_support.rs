//! What the tests of alerts share: a settable clock, a receiver that answers as told, a rule and its rows.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use object_store::{ObjectStore, memory::InMemory};
use serde_json::Value;
use tributary::{
    act::{
        self, Change, ExpansionRow, Handle, Jitter, Options,
        rules::{MinAmount, Relation, Rule},
        webhook::{self, SigningSecret},
    },
    money::Amount,
    storage::Home,
    stream::checkpoint::{Checkpoints, Ownership},
    time::{Clock, EventTime},
};

use crate::PATIENCE;

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// When the tests' dispatchers start.
pub(crate) const START: i64 = 1_790_000_000;

/// Settable time.
#[derive(Clone)]
pub(crate) struct Time(Arc<AtomicI64>);

impl Time {
    pub(crate) fn new(seconds: i64) -> Self {
        Self(Arc::new(AtomicI64::new(seconds)))
    }

    pub(crate) fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn clock(&self) -> Clock {
        let time = self.clone();
        Arc::new(move || EventTime::from_seconds(time.now()))
    }
}

pub(crate) fn no_jitter() -> Jitter {
    Arc::new(|| 0.0)
}

/// What a receiver got, and what it answers next.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    pub(crate) got: Arc<Mutex<Vec<(String, Value)>>>,
    answers: Arc<Mutex<VecDeque<Response>>>,
}

impl Receiver {
    /// Answers with `answers` in turn, then with 200.
    pub(crate) async fn start(answers: Vec<Response>) -> (Self, SocketAddr) {
        let receiver = Self { answers: Arc::new(Mutex::new(answers.into())), ..Self::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/hook", post(Self::answer)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, address)
    }

    async fn answer(State(receiver): State<Self>, headers: HeaderMap, body: String) -> Response {
        let id = headers["webhook-id"].to_str().unwrap().to_owned();
        receiver.got.lock().unwrap().push((id, serde_json::from_str(&body).unwrap()));
        receiver.answers.lock().unwrap().pop_front().unwrap_or_else(|| StatusCode::OK.into_response())
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.got.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
    }
}

pub(crate) fn hook(address: SocketAddr) -> webhook::Options {
    webhook::Options {
        name: "crm".to_owned(),
        url: format!("http://{address}/hook"),
        secrets: vec![SigningSecret::parse(SECRET).unwrap()],
        allow_private: true,
    }
}

pub(crate) fn rule() -> Rule {
    Rule {
        name: "big_expansions".to_owned(),
        relation: Relation::ExpansionEvents,
        min_amount: MinAmount::Any(units(50)),
        webhooks: vec!["crm".to_owned()],
        max_age: Duration::from_secs(3600),
        test_mode: false,
        unearned: false,
    }
}

pub(crate) fn units(whole: i64) -> Amount {
    Amount::from_micros(i128::from(whole) * 1_000_000)
}

pub(crate) fn row(movement: &str, before: i64, after: i64) -> ExpansionRow {
    ExpansionRow {
        account: "acct_1".into(),
        livemode: true,
        movement_id: movement.into(),
        revision: 1,
        occurred_at: EventTime::from_seconds(START + 1),
        customer_id: "cus_1".into(),
        currency: "eur".parse().unwrap(),
        mrr_before: units(before),
        mrr_after: units(after),
        mrr_delta: units(after - before),
        pct_change: Some("100.00".to_owned()),
        cause: "quantity_change".to_owned(),
    }
}

pub(crate) fn revised(row: ExpansionRow, revision: i64) -> ExpansionRow {
    ExpansionRow { revision, ..row }
}

pub(crate) fn appears(row: ExpansionRow) -> Change {
    Change { before: None, after: Some(row) }
}

pub(crate) fn turns(before: ExpansionRow, after: ExpansionRow) -> Change {
    Change { before: Some(before), after: Some(after) }
}

pub(crate) fn vanishes(row: ExpansionRow) -> Change {
    Change { before: Some(row), after: None }
}

pub(crate) fn options(data: &Path, address: SocketAddr) -> Options {
    Options::new(outbox(data), vec![rule()], vec![hook(address)])
}

pub(crate) fn outbox(data: &Path) -> Arc<dyn ObjectStore> {
    Home::directory(data).unwrap().outbox()
}

/// The ownership of an engine that no other one takes over from.
pub(crate) async fn alone() -> Ownership {
    Checkpoints::claim_shared(Arc::new(InMemory::new()), "alone").await.unwrap().ownership()
}

pub(crate) async fn start(options: Options, time: &Time) -> Handle {
    act::start(options, alone().await, time.clock(), no_jitter()).await.unwrap()
}

pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Moves the clock and has the dispatcher look at it.
pub(crate) async fn advance(handle: &Handle, time: &Time, seconds: i64) {
    time.set(time.now() + seconds);
    handle.offer(Vec::new()).await.unwrap();
}

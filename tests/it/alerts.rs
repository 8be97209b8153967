//! Alerts as a receiver sees them: at least once, never again, corrected, and silent about history.

use std::{
    fs, mem,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{http::StatusCode, response::IntoResponse};
use object_store::{ObjectStore, memory::InMemory};
use serde_json::Value;
use tributary::{
    act::{
        self, Change, Error, ExpansionRow, Options,
        dispatcher::SCHEDULE,
        outbox::{Outbox, State as Standing},
        rules::{MinAmount, Rule},
        webhook,
    },
    stream::checkpoint::{self, Checkpoints},
    time::{Clock, EventTime},
};

use crate::alerts_support::{
    Receiver, START, Time, advance, alone, appears, hook, no_jitter, options, outbox, revised, row, rule, start, turns,
    units, until, vanishes,
};

#[tokio::test]
async fn a_failed_alert_is_tried_again_and_a_delivered_one_never_even_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let (receiver, address) = Receiver::start(vec![StatusCode::INTERNAL_SERVER_ERROR.into_response()]).await;
    let handle = start(options(data.path(), address), &time).await;

    let offered = handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap();
    assert_eq!(offered.alerts, 1);
    until("the first attempt", || handle.counts().failed == 1).await;
    advance(&handle, &time, 5).await;
    until("the delivery", || handle.counts().delivered == 1).await;
    let ids = receiver.ids();
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]), "the same id twice");
    assert_eq!(handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap().said, 1);
    handle.shutdown().await;

    let handle = start(options(data.path(), address), &time).await;
    assert_eq!(handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap().said, 1);
    // An alert behind it arrives, so the old one would have arrived too.
    handle.offer(vec![appears(row("m2", 100, 200))]).await.unwrap();
    until("the next alert", || handle.counts().delivered == 1).await;
    assert_eq!(receiver.ids().len(), 3);
    handle.shutdown().await;
}

#[tokio::test]
async fn what_was_not_delivered_or_not_marked_before_a_crash_is_sent_after_it() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let (down, down_address) = Receiver::start(vec![StatusCode::BAD_GATEWAY.into_response()]).await;
    let handle = start(options(data.path(), down_address), &time).await;
    handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap();
    until("the failure", || handle.counts().failed == 1).await;
    handle.shutdown().await;

    let file = data.path().join("outbox").join(format!("{}.json", down.ids()[0]));
    let before_delivery = fs::read(&file).unwrap();
    let (up, address) = Receiver::start(Vec::new()).await;
    for run in 1..=2 {
        time.set(time.now() + 5);
        let handle = start(options(data.path(), address), &time).await;
        until("the delivery", || handle.counts().delivered == 1).await;
        handle.shutdown().await;
        assert_eq!(up.ids(), vec![down.ids()[0].clone(); run]);
        // As if the process had died between the answer and the mark.
        fs::write(&file, &before_delivery).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_been_superseded_sends_nothing_and_marks_nothing() {
    let data = tempfile::tempdir().unwrap();
    let checkpoints: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let old = Checkpoints::claim_shared(Arc::clone(&checkpoints), "old").await.unwrap();
    let down = (0..100_000).map(|_| StatusCode::BAD_GATEWAY.into_response()).collect();
    let (receiver, address) = Receiver::start(down).await;
    let wait = Duration::from_millis(5);
    let options = Options { schedule: vec![wait; 100_000], ..options(data.path(), address) };
    let real: Clock = Arc::new(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        EventTime::from_micros(i64::try_from(since.as_micros()).unwrap())
    });
    let today = real().seconds();
    let handle = act::start(options, old.ownership(), real, no_jitter()).await.unwrap();
    let recent = |id| ExpansionRow { occurred_at: EventTime::from_seconds(today + 2), ..row(id, 100, 200) };
    handle.offer(vec![appears(recent("m1"))]).await.unwrap();
    until("attempts", || handle.counts().failed > 3).await;

    let _new = Checkpoints::claim_shared(Arc::clone(&checkpoints), "new").await.unwrap();
    let error = handle.offer(vec![appears(recent("m2"))]).await.unwrap_err();
    assert!(matches!(error, Error::Ownership(checkpoint::Error::Superseded { .. })), "{error}");
    let contents = || -> Vec<Vec<u8>> {
        let outbox = fs::read_dir(data.path().join("outbox")).unwrap();
        outbox.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    };
    // An attempt that was under way ends; then so many go by in which another would have come.
    let mut seen = (0, Vec::new());
    until("silence", || {
        let before = mem::replace(&mut seen, (receiver.ids().len(), contents()));
        std::thread::sleep(wait * 40);
        before == seen
    })
    .await;
    assert_eq!((receiver.ids().len(), contents()), seen);
    assert_eq!(seen.1.len(), 2, "one alert, and the rules");
    handle.shutdown().await;
}

#[tokio::test]
async fn a_change_of_amounts_and_a_disappearance_are_corrected_once_each() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let (receiver, address) = Receiver::start(Vec::new()).await;
    let handle = start(options(data.path(), address), &time).await;
    let (first, smaller) = (row("m1", 100, 200), revised(row("m1", 100, 120), 3));
    let other_cause = ExpansionRow { cause: "plan_change".to_owned(), revision: 2, ..first.clone() };

    handle.offer(vec![appears(first.clone())]).await.unwrap();
    assert_eq!(handle.offer(vec![turns(first.clone(), other_cause.clone())]).await.unwrap().said, 1);
    for _ in 0..2 {
        handle.offer(vec![turns(other_cause.clone(), smaller.clone())]).await.unwrap();
    }
    for _ in 0..2 {
        handle.offer(vec![vanishes(smaller.clone())]).await.unwrap();
    }
    handle.offer(vec![appears(revised(first.clone(), 5))]).await.unwrap();
    until("four deliveries", || handle.counts().delivered == 4).await;
    assert_eq!((handle.counts().offered.alerts, handle.counts().offered.corrections), (1, 3));

    let mut messages: Vec<(String, Value)> = receiver.got.lock().unwrap().clone();
    assert_eq!(messages.len(), 4);
    // They may arrive in any order; `replaces` tells theirs.
    let first_id = messages.iter().find(|(_, message)| message["type"] == "mrr.expansion").unwrap().0.clone();
    let mut latest = first_id.clone();
    for expected in [Some("120.000000"), None, Some("200.000000")] {
        let at = messages.iter().position(|(_, message)| message["data"]["replaces"] == latest.as_str()).unwrap();
        let (id, message) = messages.remove(at);
        assert_eq!(message["type"], "mrr.expansion.corrected");
        assert_eq!(message["data"]["corrects"], first_id.as_str());
        assert_eq!(message["data"]["expansion"]["mrr_after"].as_str(), expected);
        latest = id;
    }
    handle.shutdown().await;
}

#[tokio::test]
async fn a_backfill_a_small_expansion_and_test_mode_alert_nobody() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let (receiver, address) = Receiver::start(Vec::new()).await;
    let handle = start(options(data.path(), address), &time).await;
    let old = (0..1_000).map(|age| {
        let occurred_at = EventTime::from_seconds(START - 1 - 3600 * age);
        appears(ExpansionRow { occurred_at, ..row(&format!("m{age}"), 100, 200) })
    });
    assert_eq!(handle.offer(old.collect()).await.unwrap().not_due, 1_000);
    let test_mode = ExpansionRow { livemode: false, ..row("m", 100, 200) };
    let offered = handle.offer(vec![appears(row("m", 100, 149)), appears(test_mode)]).await.unwrap();
    assert_eq!(offered, act::Offered::default());
    time.set(START + 3602);
    assert_eq!(handle.offer(vec![appears(row("late", 100, 200))]).await.unwrap().not_due, 1);
    handle.shutdown().await;
    assert_eq!(receiver.ids(), Vec::<String>::new());
    let files: Vec<_> = fs::read_dir(data.path().join("outbox")).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["control.json"]);
}

#[tokio::test]
async fn a_rule_fires_from_its_first_start_and_anew_when_it_is_changed() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let (_receiver, address) = Receiver::start(Vec::new()).await;
    start(options(data.path(), address), &time).await.shutdown().await;

    // While nothing ran, a row came; the activation is the first start's.
    time.set(START + 60);
    let handle = start(options(data.path(), address), &time).await;
    assert_eq!(handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap().alerts, 1);
    handle.shutdown().await;

    let mut lower = options(data.path(), address);
    lower.rules[0].min_amount = MinAmount::Any(units(1));
    let handle = start(lower, &time).await;
    assert_eq!(handle.offer(vec![appears(row("m2", 100, 110))]).await.unwrap().not_due, 1);
    handle.shutdown().await;
}

#[tokio::test]
async fn attempts_follow_the_schedule_and_after_the_last_an_alert_is_dead_and_kept() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let failures = || (0..SCHEDULE.len()).map(|_| StatusCode::NOT_FOUND.into_response()).collect();
    let (receiver, address) = Receiver::start(failures()).await;
    let handle = start(options(data.path(), address), &time).await;
    handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap();
    until("the first attempt", || handle.counts().failed == 1).await;
    for (attempt, wait) in SCHEDULE.iter().enumerate().skip(1) {
        advance(&handle, &time, wait.as_secs() as i64 - 1).await;
        handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap();
        assert_eq!(receiver.ids().len(), attempt, "not before {wait:?}");
        advance(&handle, &time, 1).await;
        until("the next attempt", || handle.counts().failed as usize == attempt + 1).await;
    }
    assert_eq!((handle.counts().dead, handle.counts().pending), (1, 0));
    handle.shutdown().await;

    let handle = start(options(data.path(), address), &time).await;
    assert_eq!(handle.counts().dead, 1);
    assert_eq!(handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap().said, 1);
    handle.shutdown().await;
    assert_eq!(receiver.ids().len(), SCHEDULE.len());
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_pause_gets_it_for_all_alerts() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let busy = (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "600")]).into_response();
    let (receiver, address) = Receiver::start(vec![busy]).await;
    let handle = start(options(data.path(), address), &time).await;
    handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap();
    until("the first attempt", || handle.counts().failed == 1).await;
    handle.offer(vec![appears(row("m2", 100, 200))]).await.unwrap();
    advance(&handle, &time, 599).await;
    assert_eq!((receiver.ids().len(), handle.counts().pending), (1, 2));
    advance(&handle, &time, 1).await;
    until("both deliveries", || handle.counts().delivered == 2).await;
    handle.shutdown().await;
}

#[tokio::test]
async fn a_webhook_that_says_gone_is_left_alone_until_its_url_changes() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let (gone, gone_address) = Receiver::start(vec![StatusCode::GONE.into_response()]).await;
    let handle = start(options(data.path(), gone_address), &time).await;
    handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap();
    until("410 to be noted", || handle.counts().disabled == 1).await;
    handle.offer(vec![appears(row("m2", 100, 200))]).await.unwrap();
    assert_eq!(handle.counts().disabled, 2);
    handle.shutdown().await;

    let handle = start(options(data.path(), gone_address), &time).await;
    handle.offer(vec![appears(row("m3", 100, 200))]).await.unwrap();
    assert_eq!((handle.counts().disabled, handle.counts().pending), (3, 0));
    handle.shutdown().await;
    assert_eq!(gone.ids().len(), 1);

    let (_receiver, address) = Receiver::start(Vec::new()).await;
    let handle = start(options(data.path(), address), &time).await;
    handle.offer(vec![appears(row("m4", 100, 200))]).await.unwrap();
    until("the delivery to the new URL", || handle.counts().delivered == 1).await;
    handle.shutdown().await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let (elsewhere, elsewhere_address) = Receiver::start(Vec::new()).await;
    let location = format!("http://{elsewhere_address}/hook");
    let redirect = (StatusCode::TEMPORARY_REDIRECT, [("location", location)]).into_response();
    let (_receiver, address) = Receiver::start(vec![redirect]).await;
    let handle = start(options(data.path(), address), &time).await;
    handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap();
    until("the answer to count as a failure", || handle.counts().failed == 1).await;
    handle.shutdown().await;
    assert_eq!(elsewhere.ids(), Vec::<String>::new());
}

#[tokio::test]
async fn wrong_configurations_are_refused_with_the_name_and_without_the_url() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let public = |url: &str| webhook::Options {
        url: url.to_owned(),
        allow_private: false,
        ..hook(SocketAddr::from(([127, 0, 0, 1], 1)))
    };
    let cases = [
        (vec![rule()], vec![public("https://127.0.0.1/s3cret")], "private address"),
        (vec![rule()], vec![public("https://[::ffff:169.254.169.254]/s3cret")], "private address"),
        (vec![rule()], vec![public("http://example.com/s3cret")], "https://"),
        (
            vec![rule()],
            vec![webhook::Options { secrets: Vec::new(), ..public("https://example.com/s3cret") }],
            "secret",
        ),
        (vec![rule()], Vec::new(), "no webhook `crm`"),
        (vec![rule(), rule()], vec![public("https://example.com/s3cret")], "two of that name"),
        (vec![Rule { webhooks: Vec::new(), ..rule() }], Vec::new(), "names no webhook"),
    ];
    for (rules, webhooks, expected) in cases {
        let options = Options::new(outbox(data.path()), rules, webhooks);
        let Err(error) = act::start(options, alone().await, time.clock(), no_jitter()).await else {
            panic!("expected a refusal: {expected}");
        };
        let text = error.to_string();
        assert!(text.contains(expected) && !text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn nothing_is_said_twice_after_the_history_was_cut() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START + 100);
    let (receiver, address) = Receiver::start(Vec::new()).await;
    let small = || Options { history_limit: 20, ..options(data.path(), address) };
    time.set(START);
    let handle = start(small(), &time).await;
    time.set(START + 100);
    let rows: Vec<Change> = (0..60)
        .map(|n| {
            appears(ExpansionRow { occurred_at: EventTime::from_seconds(START + n), ..row(&format!("m{n}"), 1, 99) })
        })
        .collect();
    assert_eq!(handle.offer(rows.clone()).await.unwrap().alerts, 60);
    until("all deliveries", || handle.counts().delivered == 60).await;
    for _ in 0..2 {
        let again = handle.offer(rows.clone()).await.unwrap();
        assert_eq!((again.alerts, again.corrections, again.said + again.not_due), (0, 0, 60));
    }
    handle.shutdown().await;
    let files = fs::read_dir(data.path().join("outbox")).unwrap().count();
    assert!(files <= 21, "{files} files");

    let handle = start(small(), &time).await;
    assert_eq!(handle.offer(rows).await.unwrap().alerts, 0);
    handle.shutdown().await;
    assert_eq!(receiver.ids().len(), 60);
}

#[tokio::test]
async fn when_too_much_waits_what_comes_is_kept_dead_and_nothing_is_held_up() {
    let data = tempfile::tempdir().unwrap();
    let time = Time::new(START);
    let (_receiver, address) = Receiver::start(vec![StatusCode::BAD_GATEWAY.into_response()]).await;
    let options = Options { pending_limit: 1, ..options(data.path(), address) };
    let handle = start(options, &time).await;
    handle.offer(vec![appears(row("m1", 100, 200))]).await.unwrap();
    until("the failure", || handle.counts().failed == 1).await;
    assert_eq!(handle.offer(vec![appears(row("m2", 100, 200))]).await.unwrap().alerts, 1);
    assert_eq!((handle.counts().pending, handle.counts().dead), (1, 1));
    advance(&handle, &time, 5).await;
    until("the delivery", || handle.counts().delivered == 1).await;
    handle.offer(vec![appears(row("m3", 100, 200))]).await.unwrap();
    until("the next delivery", || handle.counts().delivered == 2).await;
    handle.shutdown().await;
}

#[tokio::test]
async fn a_damaged_file_stops_the_start_and_a_torn_temporary_one_does_not() {
    let data = tempfile::tempdir().unwrap();
    let dir = data.path().join("outbox");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("alert_1.json#1234000000"), "{\"seq").unwrap();
    fs::write(dir.join("alert_1.json.tmp"), "{\"seq").unwrap();
    let opened = Outbox::open(outbox(data.path()), 10, 10).await.unwrap();
    assert_eq!(opened.count(Standing::Pending), 0);
    fs::write(dir.join("alert_1.json"), "{\"seq").unwrap();
    let error = Outbox::open(outbox(data.path()), 10, 10).await.unwrap_err();
    assert!(matches!(&error, Error::Damaged { name, .. } if name == "alert_1.json"), "{error}");
}

//! Kill after kill under load, over Apache Kafka, with alerts going out, beside an engine that nobody disturbs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tributary::log::Options;

use super::{
    alerts::{Receiver, SECRET, grows, now, seats},
    closing,
    crash::{Numbers, durable, held_back, with_closed_weeks},
    same::{NOT_IN_EVERY_ACCOUNT, assert_same_tables},
    support::{Running, Site, files, micros, until, within},
};
use crate::{PATIENCE, log_support::Place, needs};

/// Kills, of which each comes at another moment.
const KILLS: usize = 30;

/// Longest that an engine lives here.
const LONGEST_LIFE: Duration = Duration::from_secs(6);

/// Events that come at once.
const EVENTS_A_PIECE: usize = 90;

/// Lines by which an event is held back at most: about two weeks of this account. What is a month late counts in a
/// backlog, as a killed engine finds one, and not live.
const HELD_BACK: u64 = 300;

/// One of the two: a site with an engine's configuration for a topic, and the receiver of its alerts.
struct Side {
    site: Site,
    receiver: Receiver,
    told: Vec<Value>,
}

impl Side {
    fn new(python: &str, brokers: &str, topic: &str) -> Self {
        let receiver = Receiver::start(python);
        let site = Site::new();
        let config = format!(
            "[log]\ntransport = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{topic}\"\npartitions = 3\n\n\
             [engine]\ncheckpoint_seconds = 0\n\n\
             [webhooks.cs]\nurl = \"http://127.0.0.1:{}/hook\"\nsecret_env = \"CS_SECRET\"\nallow_private = true\n\n\
             [alerts.big]\nmin_amount = \"25\"\nwebhooks = [\"cs\"]\n",
            receiver.port
        );
        site.write("tributary.toml", &config);
        with_closed_weeks(&site);
        Self { site, receiver, told: Vec::new() }
    }

    fn start(&self) -> Running {
        Running::start(&self.site, "--data-dir data", &[("CS_SECRET", SECRET)])
    }

    /// Takes what was told since; whether an alert of a customer is among all of it.
    fn heard_of(&mut self, customer: &str) -> bool {
        self.hear();
        self.told.iter().any(|told| told["message"]["data"]["expansion"]["customer_id"] == customer)
    }

    fn hear(&mut self) {
        self.told.extend(self.receiver.messages.try_iter());
    }

    /// What holds in the end of each movement that was told of, and the ids of the messages, each counted once.
    fn statements(&self) -> (BTreeMap<String, Value>, BTreeMap<String, BTreeSet<String>>) {
        let (mut last, mut ids) = (BTreeMap::new(), BTreeMap::<_, BTreeSet<String>>::new());
        let mut by_id: BTreeMap<&str, &Value> = BTreeMap::new();
        for told in &self.told {
            assert_eq!(told["verified"], true, "{told}");
            let (id, data) = (told["id"].as_str().unwrap(), &told["message"]["data"]);
            // Delivered again, it says the same; it counts once.
            if let Some(before) = by_id.insert(id, data) {
                assert_eq!(before["expansion"]["mrr_delta"], data["expansion"]["mrr_delta"], "{id}");
                continue;
            }
            let movement = data["movement_id"].as_str().unwrap().to_owned();
            let mut holds = data["expansion"].clone();
            if let Some(expansion) = holds.as_object_mut() {
                // Counts changes, which depends on where epochs were cut.
                expansion.remove("revision");
            }
            ids.entry(movement.clone()).or_default().insert(id.to_owned());
            last.insert(movement, holds);
        }
        (last, ids)
    }
}

/// Growing customers among the events of an old account; some have grown less than it seemed, as late events say. The
/// account is another one, so that its weeks close by its own time.
fn load(account: &str, numbers: &mut Numbers) -> Vec<String> {
    let account = account.replace("{\"id\":\"evt_", "{\"account\":\"acct_old\",\"id\":\"evt_");
    let lines = held_back(account.lines(), HELD_BACK, numbers);
    let time = now();
    let pieces = lines.chunks(EVENTS_A_PIECE).enumerate().map(|(number, piece)| {
        let name = format!("grows{number}");
        let mut text = piece.join("\n") + "\n" + &grows(&name, time + number as u64, 5);
        if let Some(earlier) = number.checked_sub(4).filter(|earlier| earlier % 3 == 0) {
            let (name, time) = (format!("grows{earlier}"), time + earlier as u64);
            text += &seats(&name, time - 600, (3, time - 300), 4, Some(1));
        }
        text
    });
    pieces.collect()
}

#[test]
fn thirty_kills_over_kafka_lose_and_double_nothing_and_every_alert_is_told() {
    kill_again_and_again(29);
}

#[test]
#[ignore = "goes on for TRIBUTARY_SOAK_SECONDS: make soak"]
fn soak_kills_at_moments_that_nobody_has_tried() {
    let end = crate::soak_end();
    while Instant::now() < end {
        let seed = u64::from(rand::random::<u32>());
        println!("seed {seed}");
        kill_again_and_again(seed);
    }
}

fn kill_again_and_again(seed: u64) {
    let (Some(place), Some(python)) = (Place::kafka(), needs::python()) else { return };
    let Options::Kafka(options) = &place.options else { panic!("not Kafka") };
    let mut calm = Side::new(&python, &options.brokers, &options.topic);
    let mut killed = Side::new(&python, &options.brokers, &options.topic);
    calm.site.simulate("events.jsonl", &format!("--customers 110 --months 4 --seed {seed} --disorder 0.1"));
    // The rule is in force in both before anything of today happens.
    calm.site.ingest("data", &grows("first", now() - 86_400, 2));
    let mut undisturbed = calm.start();
    undisturbed.word_after("port=");
    let mut engine = killed.start();
    engine.word_after("port=");
    engine.stop();

    let mut numbers = Numbers(seed);
    let pieces = load(&calm.site.read("events.jsonl"), &mut numbers);
    assert!(pieces.len() > 25, "{} pieces", pieces.len());
    let sent: i64 = pieces.iter().map(|piece| piece.lines().count() as i64).sum();

    let mut closed = closing::Durable::default();
    let kills = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for (number, piece) in pieces.iter().enumerate() {
                // As evenly over the kills as may be.
                within(PATIENCE, || (kills.load(Relaxed) * pieces.len() >= number * KILLS).then_some(())).unwrap();
                calm.site.ingest("data", piece);
            }
            over.store(true, Relaxed);
        });
        while kills.load(Relaxed) < KILLS || !over.load(Relaxed) {
            // From "has hardly begun" to "has committed and goes on".
            let goal = files(&killed.site.path("data")).len() + numbers.below(160) as usize;
            let life = LONGEST_LIFE.mul_f64(numbers.below(1_000) as f64 / 1_000.0);
            let began = Instant::now();
            let engine = killed.start();
            within(PATIENCE, || {
                (began.elapsed() > life || files(&killed.site.path("data")).len() > goal).then_some(())
            });
            let said = engine.kill();
            assert!(!said.contains("ERROR"), "{said}");
            closed.look(&killed.site, "data");
            kills.fetch_add(1, Relaxed);
        }
    });

    let after = killed.start();
    until("every record to be durable in both", || {
        let all = |side: &Side| durable(&side.site, "data") == sent + 2;
        (all(&killed) && all(&calm)).then_some(())
    });
    calm.site.ingest("data", &grows("last", now(), 7));
    within(PATIENCE, || (calm.heard_of("cus_last") && killed.heard_of("cus_last")).then_some(())).unwrap();
    after.stop();
    undisturbed.stop();
    calm.hear();
    killed.hear();

    closed.look(&killed.site, "data");
    for side in [&calm, &killed] {
        let query = closing::by_week(closing::QUERY);
        let (released, late) = closing::assert_all_released_or_late(&side.site, "data", "closed_weeks", &query);
        println!("{released} rows of closed weeks, {late} late changes");
        // Of the rows some are released and the others late, as the epochs were cut: by how fast each engine read.
        assert!(released > 0, "no week has closed");
        assert_eq!(side.site.number("data", "SELECT count(*) FROM late_events"), 0);
    }
    assert_same_tables((&killed.site, "data"), (&calm.site, "data"), &NOT_IN_EVERY_ACCOUNT);
    let ((killed_last, killed_ids), (calm_last, calm_ids)) = (killed.statements(), calm.statements());
    // What an engine reads together with its correction it never tells of.
    let big = |holds: &Value| micros(holds["mrr_delta"].as_str().unwrap_or("0")) >= 25_000_000;
    let in_force = |last: &BTreeMap<String, Value>| -> BTreeMap<String, Value> {
        last.iter().filter(|(_, holds)| big(holds)).map(|(id, holds)| (id.clone(), holds.clone())).collect()
    };
    let (left, right) = (in_force(&killed_last), in_force(&calm_last));
    let only_in = |one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>| -> Vec<String> {
        one.iter()
            .filter(|(id, holds)| other.get(*id) != Some(holds))
            .map(|(id, holds)| format!("{id} {holds}"))
            .collect()
    };
    assert_eq!(only_in(&left, &right), only_in(&right, &left), "what the alerts say in the end");
    let corrected = calm_last.len() - right.len();
    assert!(corrected > 3 && right.len() > 15, "{corrected} of {} corrected", calm_last.len());
    let once = |ids: &&BTreeSet<String>| ids.len() == 1;
    for (movement, ids) in killed_ids.iter().filter(|(_, ids)| once(ids)) {
        if let Some(others) = calm_ids.get(movement).filter(once) {
            assert_eq!(ids, others, "{movement}");
        }
    }
    // Every expansion from after the start that is big enough was told.
    let sql = "SELECT movement_id FROM expansion_events WHERE mrr_delta = 40 AND customer_id LIKE 'cus_grows%'";
    for row in calm.site.rows("data", sql) {
        let movement = row["movement_id"].as_str().unwrap();
        assert!(calm_last.get(movement).is_some_and(big), "{movement} was not told");
    }
}

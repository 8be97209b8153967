//! An engine that is stopped while another one takes over, and then woken: it ends, and nothing shows that it was there.

use std::{collections::BTreeSet, fs, os::unix::fs::symlink, time::Duration};

use super::{
    alerts::{Receiver, SECRET, grows, now},
    bucket::{Bucket, squeezed},
    crash::{Numbers, durable, held_back},
    same::{NOT_IN_EVERY_ACCOUNT, assert_same_tables},
    support::{Running, Said, Site, files, within},
};
use crate::{PATIENCE, needs};

/// Engines that are stopped, one after the other.
const ROUNDS: usize = 4;

/// An engine that has nothing to do writes nothing for so long.
const QUIET: Duration = Duration::from_secs(1);

/// An engine is stopped within this time after events came.
const MOMENTS: Duration = Duration::from_millis(1_500);

/// A site with an engine's configuration and the receiver of its alerts.
struct Side {
    site: Site,
    receiver: Receiver,
    told: BTreeSet<String>,
}

impl Side {
    fn new(python: &str, bucket: Option<&Bucket>) -> Self {
        let receiver = Receiver::start(python);
        let config = format!(
            "[engine]\ncheckpoint_seconds = 0\n\n\
             [webhooks.cs]\nurl = \"http://127.0.0.1:{}/hook\"\nsecret_env = \"CS_SECRET\"\nallow_private = true\n\n\
             [alerts.big]\nmin_amount = \"25\"\nwebhooks = [\"cs\"]\n",
            receiver.port
        );
        let site = bucket.map_or_else(
            || {
                let site = Site::new();
                site.write("tributary.toml", &config);
                site
            },
            |bucket| bucket.site(&config),
        );
        Self { site, receiver, told: BTreeSet::new() }
    }

    fn start(&self, more: &str) -> Running {
        let mut engine = Running::start(&self.site, &format!("--data-dir data {more}"), &[("CS_SECRET", SECRET)]);
        engine.word_after("port=");
        engine
    }

    /// The ids of all alerts so far.
    fn hear(&mut self) -> &BTreeSet<String> {
        for told in self.receiver.messages.try_iter() {
            assert_eq!(told["verified"], true, "{told}");
            self.told.insert(told["id"].as_str().unwrap().to_owned());
        }
        &self.told
    }

    /// What an engine changes that writes: decisions, commits, and files of alerts with what is in them.
    fn written(&self) -> Vec<(String, String)> {
        let status = self.site.run("status --data-dir data").out;
        let mut written = vec![("status".to_owned(), status.lines().next().unwrap().to_owned())];
        for file in files(&self.site.path("data")) {
            let name = file.to_string_lossy().into_owned();
            let kept = ["/engine/checkpoints/", "/_delta_log/", "/outbox/"].iter().any(|part| name.contains(part));
            // A process that was stopped while it wrote leaves the hidden name of what then cannot get its own.
            if kept && !name.contains('#') {
                let content =
                    if name.contains("/outbox/") { fs::read_to_string(&file).unwrap() } else { String::new() };
                written.push((name, content));
            }
        }
        written.sort();
        written
    }

    /// The same, once nothing more has been written for [`QUIET`].
    fn settled(&self) -> Vec<(String, String)> {
        let mut last = self.written();
        let settled = within(PATIENCE, || {
            within(QUIET, || None::<()>);
            let before = std::mem::replace(&mut last, self.written());
            (before == last).then_some(())
        });
        settled.unwrap();
        last
    }
}

fn stopped_and_woken(bucket: Option<&Bucket>, take_over: &str) {
    let Some(python) = needs::python() else { return };
    let (mut calm, mut fenced) = (Side::new(&python, None), Side::new(&python, bucket));
    // One log for both.
    fs::create_dir_all(calm.site.path("data")).unwrap();
    fs::create_dir_all(fenced.site.path("data/log")).unwrap();
    symlink(fenced.site.path("data/log"), calm.site.path("data/log")).unwrap();
    fenced.site.simulate("events.jsonl", "--customers 60 --months 4 --seed 41 --disorder 0.1");
    let events = fenced.site.read("events.jsonl");
    let mut numbers = Numbers(3);
    let lines = held_back(events.lines(), 150, &mut numbers);

    // The rules are in force in both before anything of today happens.
    fenced.site.ingest("data", &grows("first", now() - 86_400, 2));
    let undisturbed = calm.start("");
    let mut engine = fenced.start("");
    let mut sent = 2;
    let mut expansions = 0;
    for (round, piece) in lines.chunks(lines.len().div_ceil(ROUNDS)).enumerate() {
        let (before, meanwhile) = piece.split_at(piece.len() / 2);
        let mut come = |lines: &[&str]| {
            expansions += 1;
            let text = lines.join("\n") + "\n" + &grows(&format!("grows{expansions}"), now(), 5);
            fenced.site.ingest("data", &text);
            sent += text.lines().filter(|line| !line.is_empty()).count() as i64;
        };
        come(before);
        // Anywhere in epochs, checkpoints and deliveries.
        let moment = MOMENTS.mul_f64(numbers.below(1_000) as f64 / 1_000.0);
        within(moment, || None::<()>);
        engine.signal("STOP");
        if bucket.is_none() && round == 0 {
            let refused =
                Said::of(fenced.site.command("run --once --data-dir data").env("CS_SECRET", SECRET).output().unwrap());
            assert!(refused.code == 1 && squeezed(&refused.err).contains("--take-over"), "{}", refused.err);
        }
        come(meanwhile);
        let mut newer = fenced.start(take_over);
        come(&[]);
        let caught_up = within(PATIENCE, || {
            let all = durable(&fenced.site, "data") == sent && fenced.hear().len() == expansions;
            (all || newer.has_ended()).then_some(())
        });
        assert!(caught_up.is_some() && !newer.has_ended(), "{:?}\n{}", fenced.told, newer.said());

        // Nothing is left to do: whatever is written from here on, the woken one has written.
        let before = fenced.settled();
        engine.signal("CONT");
        let Said { code, err: said, .. } = engine.ended();
        assert_eq!(code, 1, "{said}");
        let report = squeezed(&said);
        assert!(report.contains(&squeezed("has taken over from this one")), "{said}");
        assert!(report.contains(&format!("process{}on", newer.id())), "{said}");
        assert_eq!(fenced.written(), before, "the woken engine has written");
        assert_eq!(fenced.hear().len(), expansions, "the woken engine has sent");
        engine = newer;
    }
    within(PATIENCE, || (durable(&calm.site, "data") == sent && calm.hear().len() >= expansions).then_some(()))
        .unwrap_or_else(|| panic!("the undisturbed engine lags: {}", undisturbed.said()));
    let said = engine.stop();
    assert!(!said.contains("ERROR"), "{said}");
    undisturbed.stop();
    assert_same_tables((&fenced.site, "data"), (&calm.site, "data"), &NOT_IN_EVERY_ACCOUNT);
    fenced.hear();
    calm.hear();
    assert_eq!(fenced.told, calm.told);
}

#[test]
fn on_a_directory_an_engine_that_was_stopped_and_replaced_ends_and_writes_nothing() {
    stopped_and_woken(None, "--take-over");
}

#[test]
fn on_a_bucket_an_engine_that_was_stopped_and_replaced_ends_and_writes_nothing() {
    let Some(bucket) = Bucket::new() else { return };
    stopped_and_woken(Some(&bucket), "");
}

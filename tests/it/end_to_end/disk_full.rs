//! A disk that is full: what was decided or acknowledged is kept, what was not is said not to be, and all goes on when
//! there is room. The disk is a real one, in memory, in a mount namespace that ends with the test.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    path::PathBuf,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use reqwest::StatusCode;
use serde_json::json;
use tributary::{
    stripe::signature::{Secret, sign},
    time::EventTime,
};

use super::{
    crash::copy,
    same::{self, Lines, assert_same_lines},
    support::{Running, Said, Site, files, until},
};
use crate::needs;

/// Set in the namespace.
const INSIDE: &str = "DISK_FULL_TEST_INSIDE";

const DISK_MEGABYTES: usize = 64;

/// By how much the room grows from try to try.
const STEP_BYTES: u64 = 80 * 1024;

/// A rebuild gives the events in the order in which they came, by which the day of a refund can differ, and with it what
/// hangs on that.
const BY_DAYS_OF_REFUNDS: [&str; 3] = ["billing_events", "churn_features", "recognised_revenue"];

const SECRET: &str = "whsec_disk_full";

/// Runs a test of this file once more in a mount namespace of its own; true within it.
fn is_inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let Some([unshare, options @ ..]) = needs::mount_namespace() else { return false };
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let mut again = Command::new(unshare);
    again.args(options).arg(env::current_exe().unwrap()).args(["--exact", "--nocapture", &name]).env(INSIDE, "1");
    let said = Said::of(again.output().unwrap());
    println!("{}", said.out);
    assert!(said.code == 0 && said.out.contains("1 passed"), "{}{}", said.out, said.err);
    false
}

/// A small disk, until it is dropped.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn mount(site: &Site) -> Self {
        let path = site.path("disk");
        fs::create_dir(&path).unwrap();
        let size = format!("size={DISK_MEGABYTES}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status().unwrap();
        assert!(mounted.success());
        Self { path }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Fills it but for so many bytes.
    fn fill(&self, room: u64) {
        let mut file = fs::File::create(self.ballast()).unwrap();
        let zeros = vec![0; 64 * 1024];
        while file.write_all(&zeros).is_ok() {}
        let bytes = file.metadata().unwrap().len();
        assert!(bytes > room);
        file.set_len(bytes - room).unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

/// Where the engine was when there was no room.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Moment {
    /// It claimed the directory, or stored its state or its decision.
    Checkpoint,
    /// It wrote files of a table that nothing has decided on.
    Staging,
    /// It carried out what was decided.
    Applying,
}

/// The number of checkpoints.
fn decisions(site: &Site, data: &str) -> usize {
    files(&site.path(data).join("engine/checkpoints"))
        .iter()
        .filter(|path| !path.to_string_lossy().contains('#'))
        .count()
}

#[test]
fn an_engine_without_room_stops_with_a_reason_and_loses_nothing_at_any_moment() {
    if !is_inside("an_engine_without_room_stops_with_a_reason_and_loses_nothing_at_any_moment") {
        return;
    }
    let site = Site::new();
    let disk = Disk::mount(&site);
    site.simulate("events.jsonl", "--customers 60 --months 4 --seed 37");
    let events = site.read("events.jsonl");
    let lines: Vec<&str> = events.lines().collect();
    let (first, second) = lines.split_at(lines.len() / 2);
    site.ingest("before", &first.join("\n"));
    site.run("run --once --data-dir before");
    site.ingest("before", &second.join("\n"));
    copy(&site.path("before"), &site.path("calm"));
    site.run("run --once --data-dir calm");
    let expected = same::lines(&site, "calm");

    let mut moments = BTreeSet::new();
    // Without room for a few pages the log is not even opened.
    for step in 1.. {
        copy(&site.path("before"), &site.path("disk/data"));
        disk.fill(step * STEP_BYTES);
        let said = Said::of(site.command("run --once --data-dir disk/data").output().unwrap());
        let decided = decisions(&site, "disk/data") > decisions(&site, "before");
        disk.make_room();
        if said.code == 0 {
            assert!(step > 3, "there was room all along");
            break;
        }
        let words = said.words();
        assert!(said.code == 1 && words.contains("No space left on device"), "{words}");
        assert!(words.contains("start again"), "{words}");
        moments.insert(match (words.contains("the checkpoint store does not work"), decided) {
            (true, _) => Moment::Checkpoint,
            (false, false) => Moment::Staging,
            (false, true) => Moment::Applying,
        });
        let rest = site.run("run --once --data-dir disk/data").err;
        let records = if decided { 0 } else { second.len() };
        assert!(rest.starts_with(&format!("{records} records read")), "{rest}");
        assert_same_lines(step, &same::lines(&site, "disk/data"), &expected);
        fs::remove_dir_all(site.path("disk/data")).unwrap();
    }
    println!("{moments:?}");
    assert_eq!(moments.len(), 3, "{moments:?}");
}

#[test]
fn a_backup_and_a_rebuild_without_room_leave_everything_as_it_was() {
    if !is_inside("a_backup_and_a_rebuild_without_room_leave_everything_as_it_was") {
        return;
    }
    let site = Site::new();
    let disk = Disk::mount(&site);
    site.simulate("events.jsonl", "--customers 40 --months 3 --seed 38");
    site.ingest("disk/data", &site.read("events.jsonl"));
    site.run("run --once --data-dir disk/data");
    let answers = || -> Lines {
        let mut lines = same::lines(&site, "disk/data");
        lines.retain(|table, _| !BY_DAYS_OF_REFUNDS.contains(table));
        lines
    };
    let before = answers();
    let commands = ["backup disk/copy --data-dir disk/data", "rebuild --data-dir disk/data"];

    disk.fill(300 * 1024);
    for command in commands {
        let said = Said::of(site.command(command).output().unwrap());
        assert!(said.code == 1 && said.words().to_lowercase().contains("no space left"), "{command}: {}", said.err);
    }
    let entries = fs::read_dir(&disk.path).unwrap();
    let left: BTreeSet<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left, BTreeSet::from(["ballast".to_owned(), "data".to_owned()]), "nothing takes room to no purpose");
    assert_same_lines("without room", &answers(), &before);
    disk.make_room();
    for command in commands {
        site.run(command);
    }
    assert!(!site.path("disk/data/rebuild").exists());
    assert_same_lines("rebuilt", &answers(), &before);
}

/// Posts an event; whether it was taken, and false only where the answer says to send it again.
async fn post(url: &str, id: &str) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let customer = json!({ "id": format!("cus_{id}"), "object": "customer", "created": now, "livemode": true });
    let body = json!({
        "id": format!("evt_{id}"), "object": "event", "type": "customer.created", "created": now, "livemode": true,
        "api_version": "2025-03-31.basil", "data": { "object": customer },
    })
    .to_string();
    let signature = sign(body.as_bytes(), &Secret::new(SECRET), EventTime::from_seconds(now.cast_signed()));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.post(url).header("Stripe-Signature", signature).body(body).send().await.unwrap();
    if answer.status() == StatusCode::OK {
        return true;
    }
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    false
}

/// The events that are durable, once one of them is.
fn archived_with(site: &Site, event: &str) -> Vec<String> {
    until("what was taken to be durable", || {
        let sql = "SELECT event_id FROM events_archive";
        let asked = site.command("query --output csv --data-dir disk/data").arg(sql).output().unwrap();
        let out = String::from_utf8(asked.stdout).unwrap();
        let archived: Vec<_> = out.lines().skip(1).map(str::to_owned).collect();
        archived.iter().any(|id| id == event).then_some(archived)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_room_takes_nothing_and_goes_on_by_itself() {
    if !is_inside("a_gateway_without_room_takes_nothing_and_goes_on_by_itself") {
        return;
    }
    let site = Site::new();
    let disk = Disk::mount(&site);
    let mut gateway = Running::spawn(
        &site,
        "gateway --listen 127.0.0.1:0 --data-dir disk/data",
        &[("TRIBUTARY_WEBHOOK_SECRET", SECRET)],
    );
    let url = gateway.word_after("POST ");
    let mut engine = Running::start(&site, "--data-dir disk/data", &[("TRIBUTARY_ENGINE__CHECKPOINT_SECONDS", "1")]);
    engine.word_after("port=");
    let (mut taken, mut refused) = (Vec::new(), 0);
    assert!(post(&url, "first").await);
    taken.push("evt_first".to_owned());
    archived_with(&site, "evt_first");

    disk.fill(100 * 1024);
    for number in 0..400 {
        match post(&url, &number.to_string()).await {
            true => taken.push(format!("evt_{number}")),
            false => refused += 1,
        }
        if refused == 5 {
            break;
        }
    }
    assert!(refused == 5 && taken.len() > 1, "{} taken, {refused} refused", taken.len());
    let stopped = engine.ended();
    assert!(stopped.code == 1 && stopped.words().contains("No space left"), "{}", stopped.err);
    disk.make_room();
    assert!(post(&url, "last").await, "the gateway goes on by itself");
    taken.push("evt_last".to_owned());
    assert!(gateway.stop().contains("no space left for"));

    let engine = Running::start(&site, "--data-dir disk/data", &[]);
    let mut archived = archived_with(&site, "evt_last");
    engine.stop();
    archived.sort();
    taken.sort();
    assert_eq!(archived, taken, "what was taken, once, and nothing else");
}

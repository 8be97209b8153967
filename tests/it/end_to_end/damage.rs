//! Files that are torn, changed, gone or from another version: a start refuses, names the file and the way out, and
//! that way ends in the tables as they were. And what was decided but not applied when others changed the tables.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tributary::{
    sink::{TableSpec, delta::DeltaTable},
    storage::Home,
    stream::checkpoint::{Manifest, peek},
    tables,
};

use super::{
    alerts::{SECRET, grows, now},
    changes::MINE,
    crash::copy,
    rebuild::{ALERTS, KEPT, LEDGER, answers, assert_same},
    same::{self, assert_same_lines},
    support::{Said, Site, files},
};
use crate::{alerts_support::alone, delta::at};

/// Something that happens to a data directory, and the file that it happens to.
struct Damage {
    what: &'static str,
    harm: fn(&Path) -> PathBuf,
    /// What the refusal says, beside the file and the rebuild.
    says: &'static str,
}

const DAMAGES: [Damage; 12] = [
    Damage { what: "a torn manifest", harm: |data| cut(newest_manifest(data), 1_000), says: "is damaged" },
    Damage { what: "an empty manifest", harm: |data| cut(newest_manifest(data), 0), says: "is damaged" },
    Damage {
        what: "a manifest of a newer version",
        harm: |data| {
            let path = newest_manifest(data);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains("\"format\":1,"));
            fs::write(&path, text.replace("\"format\":1,", "\"format\":2,")).unwrap();
            path
        },
        says: "has format 2, this program reads format 1; run the version that wrote it",
    },
    Damage { what: "a cut state", harm: |data| cut(blob(data, "ledger-03"), 20), says: "its size is wrong" },
    Damage {
        what: "a changed state",
        harm: |data| {
            let path = blob(data, "pipeline-mrr_daily");
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
            path
        },
        says: "its checksum does not match",
    },
    Damage { what: "a lost state", harm: |data| lose(blob(data, "catalogue")), says: "it is missing" },
    Damage { what: "a lost file of the ledger", harm: |data| lose(parquet(data, "mrr_ledger")), says: "is missing" },
    Damage {
        what: "a lost file of the archive",
        harm: |data| lose(parquet(data, "events_archive")),
        says: "is missing",
    },
    Damage { what: "a lost file of a keyed table", harm: |data| lose(parquet(data, "mrr_daily")), says: "is missing" },
    Damage {
        what: "a cut file of a keyed table",
        harm: |data| cut(parquet(data, "mrr_movements"), 100),
        says: "has another size",
    },
    Damage {
        what: "a torn commit",
        // What cannot be read cannot be named by Delta: the table is.
        harm: |data| {
            cut(data.join(format!("tables/mrr_daily/_delta_log/{:020}.json", 1)), 500);
            PathBuf::from("mrr_daily")
        },
        says: "where a file of it is damaged",
    },
    Damage {
        what: "a lost table",
        harm: |data| {
            let path = data.join("tables/mrr_ledger");
            fs::remove_dir_all(&path).unwrap();
            path
        },
        says: "do not belong together",
    },
];

/// Cuts a file off.
fn cut(path: PathBuf, bytes: u64) -> PathBuf {
    assert!(fs::metadata(&path).unwrap().len() > bytes);
    fs::File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
    path
}

fn lose(path: PathBuf) -> PathBuf {
    fs::remove_file(&path).unwrap();
    path
}

fn newest_manifest(data: &Path) -> PathBuf {
    files(&data.join("engine/checkpoints")).into_iter().max().unwrap()
}

/// The newest state of that name.
fn blob(data: &Path, name: &str) -> PathBuf {
    let found = files(&data.join("engine/blobs")).into_iter().filter(|path| path.to_string_lossy().ends_with(name));
    found.max().unwrap()
}

fn parquet(data: &Path, table: &str) -> PathBuf {
    let mut found = files(&data.join("tables").join(table));
    found.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    found.pop().unwrap()
}

/// What was kept, and what was made of it.
fn compared() -> Vec<(&'static str, &'static str)> {
    LEDGER.into_iter().take(4).chain(KEPT).collect()
}

/// Without the line breaks of a report.
fn unwrapped(text: &str) -> String {
    text.chars().filter(|char| !char.is_whitespace() && *char != '│').collect()
}

#[test]
fn damage_is_refused_with_the_file_and_the_way_out_and_a_rebuild_mends_it() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 40 --months 3 --seed 35");
    site.ingest("data", &(site.read("events.jsonl") + "not an event\n"));
    site.run("run --once --data-dir data");
    let queries = compared();
    let expected = answers(&site, "data", &queries);
    assert!(expected.iter().all(|(_, rows)| rows.lines().count() > 1));

    for Damage { what, harm, says } in DAMAGES {
        let data = what.replace(' ', "-");
        copy(&site.path("data"), &site.path(&data));
        let harmed = harm(&site.path(&data));
        let refused = Said::of(site.command(&format!("run --once --data-dir {data}")).output().unwrap());
        let name = harmed.file_name().unwrap().to_string_lossy();
        assert_eq!(refused.code, 1, "{what}: {}", refused.err);
        for words in [&*name, says, "tributary rebuild"] {
            assert!(unwrapped(&refused.err).contains(&unwrapped(words)), "{what}: {words}: {}", refused.err);
        }
        site.run(&format!("rebuild --data-dir {data}"));
        assert_same(&answers(&site, &data, &queries), &expected);
        let said = site.run(&format!("run --once --data-dir {data}")).err;
        assert!(said.starts_with("0 records read"), "{what}: {said}");
        fs::remove_dir_all(site.path(&data)).unwrap();
    }
}

#[test]
fn a_file_with_damaged_content_is_no_obstacle_to_a_rebuild() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 40 --months 3 --seed 35");
    site.ingest("data", &site.read("events.jsonl"));
    site.run("run --once --data-dir data");
    let queries = compared();
    let expected = answers(&site, "data", &queries);
    for table in ["mrr_ledger", "events_archive"] {
        // As long as it was, and all zeros.
        let path = parquet(&site.path("data"), table);
        let bytes = fs::metadata(&path).unwrap().len();
        fs::write(&path, vec![0; usize::try_from(bytes).unwrap()]).unwrap();
    }
    let said = site.run("rebuild --data-dir data").err;
    assert!(said.contains("table mrr_ledger") && said.contains("table events_archive"), "{said}");
    assert_same(&answers(&site, "data", &queries), &expected);
    site.run("run --once --data-dir data");
}

/// The entries of every table's own log.
fn commits(data: &Path) -> BTreeSet<PathBuf> {
    let mut found: BTreeSet<_> = files(&data.join("tables")).into_iter().collect();
    found.retain(|path| path.parent().is_some_and(|parent| parent.ends_with("_delta_log")));
    found
}

/// Tables of each kind.
const COMPACTED: [&str; 5] = ["events_archive", "mrr_ledger", "mrr_movements", "churn_features", "customer_months"];

async fn open(data: &Path, name: &str) -> DeltaTable {
    let table = tables::get(name).unwrap();
    let (name, schema, key) = (table.name.clone(), table.schema.clone(), table.key.clone());
    DeltaTable::open_or_create(&at(&data.join("tables")), TableSpec { name, schema, key, partition_by: Vec::new() })
        .await
        .unwrap()
}

fn pending(manifest: &Manifest, table: &str) -> bool {
    manifest.tables[table].pending.iter().any(|work| work.number == manifest.number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_decided_is_applied_once_whatever_became_of_the_tables_meanwhile() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 60 --months 4 --seed 36");
    let events = site.read("events.jsonl");
    let lines: Vec<&str> = events.lines().collect();
    let parts: Vec<_> = lines.chunks(lines.len().div_ceil(10)).collect();
    let (last, first) = parts.split_last().unwrap();
    for part in first {
        site.ingest("data", &part.join("\n"));
        site.run("run --once --data-dir data");
    }
    let before = commits(&site.path("data"));
    site.ingest("data", &last.join("\n"));
    site.run("run --once --data-dir data");
    let expected = same::lines(&site, "data");
    let manifest = peek(Home::directory(site.path("data")).unwrap().checkpoints().as_ref()).await.unwrap().unwrap();
    assert_eq!(manifest.number, parts.len() as u64);

    // As after a crash between the decision and its application, to all tables or to some.
    let applied = commits(&site.path("data")).into_iter().filter(|path| !before.contains(path));
    let applied: Vec<_> = applied.map(|path| path.strip_prefix(site.path("data")).unwrap().to_owned()).collect();
    assert!(applied.len() > 20, "{applied:?}");
    for (data, compacts, tables_without) in [("plain", false, 1), ("compacted", true, 1), ("half", true, 2)] {
        copy(&site.path("data"), &site.path(data));
        for (at, commit) in applied.iter().enumerate() {
            // Readers are told last.
            if at % tables_without == 0 || commit.starts_with("tables/commits") {
                fs::remove_file(site.path(data).join(commit)).unwrap();
            }
        }
        for name in COMPACTED.into_iter().filter(|_| compacts) {
            let mut table = open(&site.path(data), name).await;
            let spared = manifest.staged_files(name).map(|file| file.path.clone()).collect();
            let done = table.maintain(&alone().await, &spared).await.unwrap();
            assert!(pending(&manifest, name), "{name} has nothing to lose");
            assert!(tables_without > 1 || table.applied_through() < manifest.number, "{name}");
            assert!(done.merged > 1 || tables_without > 1 || !table.spec().key.is_empty(), "{name}: {done:?}");
        }
        let said = site.run(&format!("run --once --data-dir {data}")).err;
        assert!(said.starts_with("0 records read"), "{said}");
        assert_same_lines(data, &same::lines(&site, data), &expected);
        for name in COMPACTED {
            assert_eq!(open(&site.path(data), name).await.applied_through(), manifest.number, "{data}: {name}");
        }
    }

    // A pipeline that is new to the start is made of the tables as they were decided.
    copy(&site.path("data"), &site.path("new"));
    for commit in &applied {
        fs::remove_file(site.path("new").join(commit)).unwrap();
    }
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines"), &site.path("pipelines"));
    site.write("pipelines/mine.sql", MINE);
    site.run("run --once --data-dir new");
    let batch = "SELECT account, livemode, kind, count(*) AS n FROM mrr_movements GROUP BY 1, 2, 3 ORDER BY kind";
    assert_eq!(site.rows("new", "SELECT * FROM mine ORDER BY kind"), site.rows("new", batch));
    assert_eq!(
        site.number("new", "SELECT sum(n) FROM mine"),
        site.number("data", "SELECT count(*) FROM mrr_movements")
    );
}

#[test]
fn an_alert_that_was_decided_and_not_offered_is_offered_by_the_next_start() {
    let site = Site::new();
    site.write("tributary.toml", ALERTS);
    let run = || {
        let mut command = site.command("run --once --data-dir data");
        let said = Said::of(command.env("CS_SECRET", SECRET).output().unwrap());
        assert_eq!(said.code, 0, "{}", said.err);
    };
    run();
    site.ingest("data", &grows("one", now() + 60, 5));
    run();
    let outbox = || files(&site.path("data/outbox")).into_iter().collect::<BTreeSet<_>>();
    let said = outbox();
    let alerts: Vec<_> = said.iter().filter(|path| !path.ends_with("control.json")).collect();
    assert_eq!(alerts.len(), 1, "{said:?}");
    // As if the engine had died between the decision and the outbox.
    fs::remove_file(alerts[0]).unwrap();
    run();
    assert_eq!(outbox(), said);
}

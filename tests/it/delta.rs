//! Delta tables as the engine writes them: exactly once, through crashes, conflicts and compactions. Real files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Int8Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Schema, TimeUnit},
    util::pretty::pretty_format_batches,
};
use datafusion::prelude::SessionContext;
use deltalake::DeltaTableBuilder;
use futures::StreamExt;
use tempfile::tempdir;
use tributary::{
    sink::{
        Error, OP, TableSpec,
        apply::{apply, encode_changes, recover, table_work},
        change_schema, commits,
        delta::{self, DeltaTable},
    },
    storage::Location,
    stream::checkpoint::{Checkpoints, Manifest, Work},
    time::EventTime,
};

use crate::alerts_support::alone;

/// A directory of tables.
pub(crate) fn at(dir: &Path) -> Location {
    Location::directory(dir).unwrap()
}

fn events() -> TableSpec {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("day", DataType::Date32, false),
        Field::new("amount", DataType::Decimal128(28, 6), true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ]);
    TableSpec { name: "events".to_owned(), schema: Arc::new(schema), key: Vec::new(), partition_by: Vec::new() }
}

/// Keyed by (id, live), divided by a column that is not part of the key, so that rows move between partitions.
fn customers() -> TableSpec {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("live", DataType::Boolean, false),
        Field::new("country", DataType::Utf8, true),
        Field::new("mrr", DataType::Int64, true),
    ]);
    TableSpec {
        name: "customers".to_owned(),
        schema: Arc::new(schema),
        key: vec!["id".to_owned(), "live".to_owned()],
        partition_by: vec!["country".to_owned()],
    }
}

fn event_rows(ids: &[i64]) -> RecordBatch {
    let amounts = arrow::array::Decimal128Array::from_iter_values(ids.iter().map(|id| i128::from(*id) * 1_500_000));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("evt_{id:06}")))),
        Arc::new(Date32Array::from_iter_values(ids.iter().map(|id| 19_000 + i32::try_from(id % 3).unwrap()))),
        Arc::new(amounts.with_precision_and_scale(28, 6).unwrap()),
        Arc::new(TimestampMicrosecondArray::from_iter_values(ids.iter().copied()).with_timezone("UTC")),
    ];
    RecordBatch::try_new(events().schema, columns).unwrap()
}

/// (id, country, mrr); a `None` for mrr deletes.
type CustomerChange<'a> = (&'a str, Option<&'a str>, Option<i64>);

fn customer_changes(changes: &[CustomerChange]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(changes.iter().map(|change| change.0))),
        Arc::new(BooleanArray::from(vec![true; changes.len()])),
        Arc::new(StringArray::from_iter(changes.iter().map(|change| change.1))),
        Arc::new(Int64Array::from_iter(changes.iter().map(|change| change.2))),
        Arc::new(Int8Array::from_iter_values(changes.iter().map(|change| if change.2.is_some() { 1 } else { -1 }))),
    ];
    RecordBatch::try_new(change_schema(&customers().schema), columns).unwrap()
}

pub(crate) async fn select(table: &DeltaTable, sql: &str) -> String {
    let context = SessionContext::new();
    context.register_table("t", table.provider()).unwrap();
    let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
    let text = pretty_format_batches(&rows).unwrap().to_string();
    let rows = text.lines().skip(3).filter(|line| !line.starts_with('+'));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("; ")
}

async fn all_customers(table: &DeltaTable) -> String {
    select(table, "select id, country, mrr from t order by id, live").await
}

fn data_files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(data_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

#[tokio::test]
async fn staged_rows_are_in_the_table_once_and_only_after_the_commit() {
    let root = tempdir().unwrap();
    let mut table = DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    let staged = table.stage(&[event_rows(&[1, 2]), event_rows(&[3])]).await.unwrap();
    assert_eq!(staged.iter().map(|file| file.rows).sum::<u64>(), 3);
    assert!(table.stage(&[]).await.unwrap().is_empty());
    assert_eq!(select(&table, "select count(*) from t").await, "0");
    let before = table.provider();

    // What a manifest keeps is enough to rebuild the commit.
    let staged: Vec<_> = serde_json::from_str(&serde_json::to_string(&staged).unwrap()).unwrap();
    assert!(table.append(7, &staged).await.unwrap());
    assert!(!table.append(7, &staged).await.unwrap(), "the same checkpoint again");
    assert!(!table.append(6, &staged).await.unwrap(), "an earlier checkpoint");
    let rows = "select id, day, amount, at from t order by id";
    let expected = "evt_000001 2022-01-09 1.500000 1970-01-01T00:00:00.000001Z; \
                    evt_000002 2022-01-10 3.000000 1970-01-01T00:00:00.000002Z; \
                    evt_000003 2022-01-08 4.500000 1970-01-01T00:00:00.000003Z";
    assert_eq!(select(&table, rows).await, expected);
    assert_eq!(before.schema(), events().schema);
    assert_eq!(select(&table, "select id from t where amount > 4").await, "evt_000003");

    let mut again = DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    assert_eq!((again.applied_through(), again.version()), (7, 1));
    assert!(!again.append(7, &staged).await.unwrap(), "after a restart");
    assert_eq!(select(&again, rows).await, expected);
    assert_eq!(again.incarnation(), table.incarnation());
    let provider = delta::read(&at(root.path()), "events").await.unwrap().unwrap();
    assert_eq!(provider.schema(), events().schema);
    assert!(delta::read(&at(root.path()), "nothing").await.unwrap().is_none());
}

#[tokio::test]
async fn a_missing_or_changed_staged_file_is_an_error_before_the_commit() {
    let root = tempdir().unwrap();
    let mut table = DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    let staged = table.stage(&[event_rows(&[1])]).await.unwrap();
    let path = root.path().join("events").join(&staged[0].path);
    let body = std::fs::read(&path).unwrap();
    std::fs::write(&path, &body[..body.len() - 1]).unwrap();
    let error = table.append(1, &staged).await.unwrap_err();
    assert!(error.to_string().contains("has changed"), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = table.append(1, &staged).await.unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }) && error.to_string().contains("is missing"), "{error}");
    assert_eq!((table.version(), table.applied_through()), (0, 0));
    std::fs::write(&path, &body).unwrap();
    assert!(table.append(1, &staged).await.unwrap());
    assert_eq!(select(&table, "select count(*) from t").await, "1");
}

#[tokio::test]
async fn of_a_key_the_last_change_wins_and_rows_move_between_partitions() {
    let root = tempdir().unwrap();
    let mut table = DeltaTable::open_or_create(&at(root.path()), customers()).await.unwrap();
    let changes = [
        customer_changes(&[("a", Some("DE"), Some(1)), ("b", Some("AT"), Some(2)), ("c", None, Some(3))]),
        customer_changes(&[("a", Some("DE"), Some(10)), ("d", Some("DE"), Some(4)), ("d", Some("DE"), None)]),
    ];
    assert!(table.upsert(1, &changes).await.unwrap());
    assert!(!table.upsert(1, &changes).await.unwrap(), "the same checkpoint again");
    assert_eq!(all_customers(&table).await, "a DE 10; b AT 2; c  3");

    let moved = [customer_changes(&[("a", Some("AT"), Some(11)), ("c", Some("DE"), Some(30)), ("zz", None, None)])];
    assert!(table.upsert(2, &moved).await.unwrap());
    assert_eq!(all_customers(&table).await, "a AT 11; b AT 2; c DE 30");
    assert_eq!(select(&table, "select id from t where country = 'AT' order by id").await, "a; b");

    let gone = [customer_changes(&[("b", None, Some(5)), ("b", None, None), ("a", None, None)])];
    assert!(table.upsert(3, &gone).await.unwrap());
    assert_eq!(all_customers(&table).await, "c DE 30");
    // A deleted key can come back, in one go too.
    let back = [customer_changes(&[("b", None, None), ("b", Some("O'Hare, 1/2 %"), Some(6))])];
    assert!(table.upsert(4, &back).await.unwrap());
    assert_eq!(all_customers(&table).await, "b O'Hare, 1/2 % 6; c DE 30");
    let edited = [customer_changes(&[("b", Some("O'Hare, 1/2 %"), Some(7))])];
    assert!(table.upsert(5, &edited).await.unwrap());
    assert_eq!(all_customers(&table).await, "b O'Hare, 1/2 % 7; c DE 30");
    // Nothing to do is still done.
    assert!(table.upsert(6, &[customer_changes(&[("x", None, None)])]).await.unwrap());
    let again = DeltaTable::open_or_create(&at(root.path()), customers()).await.unwrap();
    assert_eq!((again.applied_through(), all_customers(&again).await), (6, all_customers(&table).await));
}

#[tokio::test]
async fn an_upsert_leaves_files_without_its_keys_alone() {
    let root = tempdir().unwrap();
    let spec = || {
        let schema = Schema::new(vec![
            Field::new("day", DataType::Date32, false),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
            Field::new("value", DataType::Int64, true),
        ]);
        let key = vec!["day".to_owned(), "at".to_owned()];
        TableSpec { name: "daily".to_owned(), schema: Arc::new(schema), key, partition_by: vec!["day".to_owned()] }
    };
    let rows = |rows: &[(i32, i64, i64)]| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Date32Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1)).with_timezone("UTC")),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
            Arc::new(Int8Array::from(vec![1; rows.len()])),
        ];
        [RecordBatch::try_new(change_schema(&spec().schema), columns).unwrap()]
    };
    let mut table = DeltaTable::open_or_create(&at(root.path()), spec()).await.unwrap();
    table.upsert(1, &rows(&[(1, 1, 1), (2, 1, 2), (3, 1, 3)])).await.unwrap();
    let before = data_files(&root.path().join("daily"));
    table.upsert(2, &rows(&[(2, 1, 20), (2, 2, 22)])).await.unwrap();
    assert_eq!(
        select(&table, "select day, value from t order by day, at").await,
        "1970-01-02 1; 1970-01-03 20; 1970-01-03 22; 1970-01-04 3"
    );
    assert_eq!(table.files(), 3, "the new row shares the file that was written again");
    assert_eq!(data_files(&root.path().join("daily")).difference(&before).count(), 1);
}

#[tokio::test]
async fn an_upsert_into_a_large_file_changes_its_rows_and_no_others() {
    let root = tempdir().unwrap();
    let mut table = DeltaTable::open_or_create(&at(root.path()), customers()).await.unwrap();
    let ids: Vec<String> = (0..40_000).map(|id| format!("cus_{id:05}")).collect();
    let all: Vec<CustomerChange> = ids.iter().map(|id| (id.as_str(), None, Some(1))).collect();
    table.upsert(1, &[customer_changes(&all)]).await.unwrap();
    let some: Vec<CustomerChange> =
        (0..40).map(|at| (ids[at * 1_000].as_str(), None, (at % 2 == 0).then_some(1_000))).collect();
    table.upsert(2, &[customer_changes(&some)]).await.unwrap();
    let sums = "select count(*), count(distinct id), sum(mrr) from t";
    assert_eq!(select(&table, sums).await, "39980 39980 59960");
    let changed = "select min(id), max(id), count(*) from t where mrr = 1000";
    assert_eq!(select(&table, changed).await, "cus_00000 cus_38000 20");
}

#[tokio::test]
async fn rows_that_do_not_fit_are_refused() {
    let root = tempdir().unwrap();
    let table = DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    assert!(matches!(table.stage(&[customer_changes(&[("a", None, None)])]).await, Err(Error::Bug { .. })));
    let mut table = DeltaTable::open_or_create(&at(root.path()), customers()).await.unwrap();
    assert!(matches!(table.upsert(1, &[event_rows(&[1])]).await, Err(Error::Bug { .. })));
    let good = customer_changes(&[("a", None, Some(1))]);
    let mut columns = good.columns().to_vec();
    columns[4] = Arc::new(Int8Array::from(vec![0]));
    let bad = RecordBatch::try_new(good.schema(), columns).unwrap();
    let error = table.upsert(1, &[bad]).await.unwrap_err();
    assert!(error.to_string().contains(OP), "{error}");
    assert_eq!(table.applied_through(), 0);
}

#[tokio::test]
async fn a_table_is_made_anew_by_one_commit_and_readers_of_the_old_one_go_on() {
    let root = tempdir().unwrap();
    let mut table = DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    let staged = table.stage(&[event_rows(&[1, 2, 3])]).await.unwrap();
    assert!(table.append(1, &staged).await.unwrap());
    let old = table.provider();
    let mut other = TableSpec { key: vec!["id".to_owned()], ..events() };
    other.schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, false)]));

    let anew = DeltaTable::make_anew(&at(root.path()), other.clone()).await.unwrap();
    assert_eq!((anew.version(), anew.files(), anew.applied_through()), (table.version() + 1, 0, 0));
    assert_ne!(anew.incarnation(), table.incarnation());
    let rows = |provider| async { SessionContext::new().read_table(provider).unwrap().count().await.unwrap() };
    assert_eq!((rows(old).await, rows(anew.provider()).await), (3, 0));
    let again = DeltaTable::open_or_create(&at(root.path()), other.clone()).await.unwrap();
    assert_eq!(again.incarnation(), anew.incarnation());
    // Who still has the old one in hand commits nothing more to it.
    let staged = table.stage(&[event_rows(&[4])]).await.unwrap();
    assert!(matches!(table.append(2, &staged).await, Err(Error::Mismatch { .. })));
    let fresh = DeltaTable::make_anew(&at(&root.path().join("elsewhere")), other).await.unwrap();
    assert_eq!((fresh.version(), fresh.files()), (0, 0));
}

#[tokio::test]
async fn a_table_that_this_program_did_not_make_is_refused() {
    let root = tempdir().unwrap();
    DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    let mut other = events();
    let mut fields: Vec<_> = other.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[2] = Field::new("amount", DataType::Int64, true);
    other.schema = Arc::new(Schema::new(fields));
    let error = DeltaTable::open_or_create(&at(root.path()), other).await.err().unwrap();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("`amount` is column 3 of type Decimal128(28, 6)"), "{error}");
    let other = TableSpec { partition_by: vec!["day".to_owned()], ..events() };
    assert!(matches!(DeltaTable::open_or_create(&at(root.path()), other).await, Err(Error::Mismatch { .. })));

    let url = url::Url::from_directory_path(root.path().join("events")).unwrap();
    let foreign = DeltaTableBuilder::from_url(url).unwrap().load().await.unwrap();
    let property = ("delta.setTransactionRetentionDuration".to_owned(), "interval 1 days".to_owned());
    foreign.set_tbl_properties().with_properties([property].into()).await.unwrap();
    let error = DeltaTable::open_or_create(&at(root.path()), events()).await.err().unwrap();
    assert!(error.to_string().contains("setTransactionRetentionDuration"), "{error}");

    let naive = Schema::new(vec![Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, None), true)]);
    let spec = TableSpec { name: "naive".to_owned(), schema: Arc::new(naive), key: vec![], partition_by: vec![] };
    assert!(matches!(DeltaTable::open_or_create(&at(root.path()), spec).await, Err(Error::Spec { .. })));
}

#[tokio::test]
async fn the_table_has_the_lowest_protocol() {
    let root = tempdir().unwrap();
    DeltaTable::open_or_create(&at(root.path()), customers()).await.unwrap();
    let log = std::fs::read_to_string(root.path().join("customers/_delta_log/00000000000000000000.json")).unwrap();
    assert!(log.contains(r#""minReaderVersion":1,"minWriterVersion":2}"#), "{log}");
    assert!(!log.contains("setTransactionRetentionDuration"), "{log}");
}

#[tokio::test]
async fn work_planned_before_a_compaction_neither_doubles_nor_loses_rows() {
    let root = tempdir().unwrap();
    let mut events_table = DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    let mut customers_table = DeltaTable::open_or_create(&at(root.path()), customers()).await.unwrap();
    for number in 1..=10 {
        let staged = events_table.stage(&[event_rows(&[i64::try_from(number).unwrap()])]).await.unwrap();
        events_table.append(number, &staged).await.unwrap();
        let id = format!("c{number:02}");
        customers_table.upsert(number, &[customer_changes(&[(&id, Some("DE"), Some(1))])]).await.unwrap();
    }
    assert_eq!((events_table.files(), customers_table.files()), (10, 10));
    // Decided, not yet applied, when another handle on the same tables compacts them.
    let staged = events_table.stage(&[event_rows(&[11])]).await.unwrap();
    let mut other = DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    assert_eq!((other.maintain(&alone().await, &BTreeSet::new()).await.unwrap().merged, other.files()), (10, 1));
    let mut other = DeltaTable::open_or_create(&at(root.path()), customers()).await.unwrap();
    assert_eq!((other.maintain(&alone().await, &BTreeSet::new()).await.unwrap().merged, other.files()), (10, 1));
    assert_eq!(other.applied_through(), 10, "compaction is no checkpoint");

    assert!(events_table.append(11, &staged).await.unwrap());
    let changes =
        [customer_changes(&[("c01", Some("DE"), Some(100)), ("c02", None, None), ("c11", Some("DE"), Some(1))])];
    assert!(customers_table.upsert(11, &changes).await.unwrap());
    assert_eq!(select(&events_table, "select count(*), count(distinct id) from t").await, "11 11");
    assert_eq!(select(&customers_table, "select count(*), count(distinct id), sum(mrr) from t").await, "10 10 109");
    // A handle that missed all of it notices that the work is done.
    other.upsert(11, &changes).await.unwrap();
    assert_eq!(all_customers(&other).await, all_customers(&customers_table).await);
    assert_eq!(customers_table.version(), 12);
}

#[tokio::test]
async fn maintenance_deletes_what_no_snapshot_and_no_manifest_needs() {
    let root = tempdir().unwrap();
    let mut table = DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    let spared = table.stage(&[event_rows(&[1])]).await.unwrap();
    let orphan = table.stage(&[event_rows(&[2])]).await.unwrap();
    let recent = table.stage(&[event_rows(&[3])]).await.unwrap();
    let path = |path: &str| root.path().join("events").join(path);
    let two_days_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 86_400);
    for file in [&spared, &orphan] {
        let file = std::fs::File::options().write(true).open(path(&file[0].path)).unwrap();
        file.set_modified(two_days_ago).unwrap();
    }
    let spare = spared.iter().map(|file| file.path.clone()).collect();
    let done = table.maintain(&alone().await, &spare).await.unwrap();
    assert_eq!(done.deleted, 1);
    assert!(path(&spared[0].path).exists() && path(&recent[0].path).exists() && !path(&orphan[0].path).exists());
    assert!(table.append(1, &spared).await.unwrap());
    assert_eq!(select(&table, "select id from t").await, "evt_000001");
}

#[tokio::test]
async fn old_log_entries_go_and_what_is_applied_stays_known() {
    let root = tempdir().unwrap();
    let mut table = DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    let url = url::Url::from_directory_path(root.path().join("events")).unwrap();
    let other = DeltaTableBuilder::from_url(url).unwrap().load().await.unwrap();
    let property = ("delta.checkpointInterval".to_owned(), "3".to_owned());
    other.set_tbl_properties().with_properties([property].into()).await.unwrap();
    let before = table.provider();
    for number in 1..=7 {
        let staged = table.stage(&[event_rows(&[number])]).await.unwrap();
        assert!(table.append(u64::try_from(number).unwrap(), &staged).await.unwrap());
    }
    let log = root.path().join("events/_delta_log");
    let two_hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 3_600);
    for entry in std::fs::read_dir(&log).unwrap() {
        let file = std::fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
        file.set_modified(two_hours_ago).unwrap();
    }
    let done = table.maintain(&alone().await, &BTreeSet::new()).await.unwrap();
    assert!(done.log_entries_deleted > 0, "{done:?}");
    assert!(!log.join(format!("{:020}.json", 0)).exists());
    assert_eq!((table.applied_through(), before.schema()), (7, events().schema));
    let staged = table.stage(&[event_rows(&[8])]).await.unwrap();
    assert!(!table.append(7, &staged).await.unwrap());
    assert!(table.append(8, &staged).await.unwrap());
    let again = DeltaTable::open_or_create(&at(root.path()), events()).await.unwrap();
    assert_eq!(again.applied_through(), 8);
    for table in [&table, &again] {
        assert_eq!(select(table, "select count(*), count(distinct id) from t").await, "8 8");
    }
}

/// A small engine: what it reads is a list of epochs, what it has read is the offset in the manifest.
struct Engine {
    checkpoints: Checkpoints,
    tables: BTreeMap<String, DeltaTable>,
    commits: DeltaTable,
}

const EPOCHS: u64 = 4;

/// How many steps may still be done before the crash.
struct Fuse(usize);

#[derive(Debug)]
struct Crash;

impl Fuse {
    fn step(&mut self) -> Result<(), Crash> {
        self.0 = self.0.checked_sub(1).ok_or(Crash)?;
        Ok(())
    }
}

impl Engine {
    async fn start(dir: &Path, nonce: &str) -> Self {
        let checkpoints = Checkpoints::claim(&dir.join("checkpoints"), nonce).await.unwrap();
        let mut tables = BTreeMap::new();
        for spec in [events(), customers()] {
            let name = spec.name.clone();
            tables.insert(name, DeltaTable::open_or_create(&at(&dir.join("tables")), spec).await.unwrap());
        }
        let commits = commits::open(&at(&dir.join("tables"))).await.unwrap();
        recover(&checkpoints, &mut tables).await.unwrap();
        let mut engine = Self { checkpoints, tables, commits };
        if let Some(manifest) = engine.checkpoints.latest() {
            commits::publish(&mut engine.commits, &engine.checkpoints.ownership(), &manifest, &engine.tables)
                .await
                .unwrap();
        }
        engine
    }

    async fn run(&mut self, fuse: &mut Fuse) -> Result<(), Crash> {
        while self.checkpoints.latest().map_or(0, |manifest| manifest.offsets[0]) < EPOCHS {
            self.checkpoint(fuse).await?;
        }
        Ok(())
    }

    async fn checkpoint(&mut self, fuse: &mut Fuse) -> Result<(), Crash> {
        let number = self.checkpoints.next_number();
        let epoch = i64::try_from(self.checkpoints.latest().map_or(0, |manifest| manifest.offsets[0])).unwrap();
        fuse.step()?;
        let rows: Vec<i64> = (epoch * 10..epoch * 10 + 10).collect();
        let appends = self.tables["events"].stage(&[event_rows(&rows)]).await.unwrap();
        fuse.step()?;
        let ids: Vec<String> = (epoch..epoch + 4).map(|id| format!("cus_{id}")).collect();
        let countries = ["DE", "AT", "US"];
        let country = |at: usize| Some(countries[(at + usize::try_from(epoch).unwrap()) % 3]);
        let mut changes: Vec<CustomerChange> =
            ids.iter().enumerate().map(|(at, id)| (id.as_str(), country(at), Some(epoch))).collect();
        let gone = format!("cus_{}", epoch - 1);
        changes.push((&gone, None, None));
        let changes = encode_changes(&[customer_changes(&changes)]).unwrap();
        let changes = self.checkpoints.put_blob("customers", changes).await.unwrap();
        fuse.step()?;
        let state = self.checkpoints.put_blob("state", format!("after {epoch}").into()).await.unwrap();
        let previous = self.checkpoints.latest();
        let work = |table: &str, appends, changes| {
            let work = Work { number, appends, changes };
            (table.to_owned(), table_work(previous.as_deref(), &self.tables[table], Some(work)))
        };
        let manifest = Manifest {
            number,
            generation: 0,
            nonce: String::new(),
            repeats: None,
            log_identity: "log".to_owned(),
            offsets: vec![u64::try_from(epoch).unwrap() + 1],
            watermark: None,
            committed_at: EventTime::from_seconds(epoch),
            fingerprints: BTreeMap::new(),
            state: BTreeMap::from([("state".to_owned(), state)]),
            tables: BTreeMap::from([work("events", appends, None), work("customers", Vec::new(), Some(changes))]),
        };
        fuse.step()?;
        let manifest = self.checkpoints.decide(manifest).await.unwrap();
        fuse.step()?;
        apply(&self.checkpoints.ownership(), &manifest, self.tables.get_mut("events")).await.unwrap();
        fuse.step()?;
        // The keyed table follows every second checkpoint.
        if number.is_multiple_of(2) {
            apply(&self.checkpoints.ownership(), &manifest, self.tables.get_mut("customers")).await.unwrap();
            fuse.step()?;
        }
        commits::publish(&mut self.commits, &self.checkpoints.ownership(), &manifest, &self.tables).await.unwrap();
        fuse.step()?;
        self.checkpoints.prune().await.unwrap();
        if number.is_multiple_of(3) {
            let unapplied: BTreeSet<_> = manifest.staged_files("events").map(|file| file.path.clone()).collect();
            fuse.step()?;
            self.tables.get_mut("events").unwrap().maintain(&alone().await, &unapplied).await.unwrap();
        }
        Ok(())
    }

    async fn contents(&mut self) -> [String; 4] {
        let manifest = self.checkpoints.latest().unwrap();
        apply(&self.checkpoints.ownership(), &manifest, self.tables.values_mut()).await.unwrap();
        let state = self.checkpoints.read_blob(&manifest.state["state"]).await.unwrap();
        [
            select(&self.tables["events"], "select id, amount from t order by id").await,
            all_customers(&self.tables["customers"]).await,
            select(&self.commits, "select number, offsets from t order by number").await,
            String::from_utf8(state.to_vec()).unwrap(),
        ]
    }
}

#[tokio::test]
async fn a_crash_between_any_two_steps_changes_nothing() {
    let dir = tempdir().unwrap();
    let mut engine = Engine::start(dir.path(), "straight").await;
    let mut fuse = Fuse(usize::MAX);
    engine.run(&mut fuse).await.unwrap();
    let steps = usize::MAX - fuse.0;
    let expected = engine.contents().await;
    assert_eq!(expected[0].split("; ").count(), usize::try_from(EPOCHS).unwrap() * 10);
    assert_eq!(expected[1], "cus_3 DE 3; cus_4 AT 3; cus_5 US 3; cus_6 DE 3");
    assert_eq!(expected[3], "after 3");

    let crashes = futures::stream::iter(0..steps);
    crashes
        .for_each_concurrent(8, |crash_after| {
            let expected = &expected;
            async move {
                let dir = tempdir().unwrap();
                let mut engine = Engine::start(dir.path(), "first").await;
                engine.run(&mut Fuse(crash_after)).await.unwrap_err();
                drop(engine);
                // Crash again soon: recovery itself can be interrupted and repeated.
                let mut engine = Engine::start(dir.path(), "second").await;
                let again = engine.run(&mut Fuse(3)).await;
                drop(engine);
                let mut engine = Engine::start(dir.path(), "third").await;
                engine.run(&mut Fuse(usize::MAX)).await.unwrap();
                assert_eq!(&engine.contents().await, expected, "crash after {crash_after} steps, then {again:?}");
            }
        })
        .await;
}

#[tokio::test]
async fn tables_and_checkpoints_that_do_not_belong_together_are_fatal() {
    let dir = tempdir().unwrap();
    let mut engine = Engine::start(dir.path(), "a").await;
    engine.run(&mut Fuse(14)).await.unwrap_err();
    let manifest = engine.checkpoints.latest().unwrap().number;
    let mut tables = std::mem::take(&mut engine.tables);
    drop(engine);

    // The checkpoint directory is older than the tables.
    let elsewhere = Checkpoints::claim(&dir.path().join("other"), "b").await.unwrap();
    let error = recover(&elsewhere, &mut tables).await.unwrap_err();
    assert!(matches!(&error, Error::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("the newest manifest is 0"), "{error}");
    assert!(manifest > 1);

    // A table was made anew. When that was meant, it starts from nothing: old work is not for it.
    std::fs::remove_dir_all(dir.path().join("tables/events")).unwrap();
    let anew = DeltaTable::open_or_create(&at(&dir.path().join("tables")), events()).await.unwrap();
    tables.insert("events".to_owned(), anew);
    let checkpoints = Checkpoints::claim(&dir.path().join("checkpoints"), "b").await.unwrap();
    let error = recover(&checkpoints, &mut tables).await.unwrap_err();
    assert!(error.to_string().contains("an earlier table of that name"), "{error}");
    let mut anew = tables.remove("events").unwrap();
    recover(&checkpoints, &mut tables).await.unwrap();
    let manifest = checkpoints.latest().unwrap();
    apply(&checkpoints.ownership(), &manifest, [&mut anew]).await.unwrap();
    assert_eq!((anew.version(), anew.applied_through()), (0, 0));
    assert!(manifest.tables["events"].pending.iter().any(|work| work.number == manifest.number));
    assert!(table_work(Some(&manifest), &anew, None).pending.is_empty());
}

//! A live table is its committed snapshot plus exactly the changes that are not in it, whatever is asked of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, StringArray, StringViewArray},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::{
    datasource::{MemTable, TableProvider},
    prelude::{ParquetReadOptions, SessionConfig, SessionContext},
};
use proptest::prelude::*;
use tributary::serve::{
    LiveTable,
    view::{DELETE, HOT_ROWS_LIMIT, OP_COLUMN, PUT},
};

/// account, id (may be NULL) → amount (may be NULL), note.
type Key = (String, Option<i64>);
type Row = (Option<i64>, String);
type Model = BTreeMap<Key, Row>;

/// A change of one key: the row put, or `None` for a delete.
type Change = (Key, Option<Row>);

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<Change>),
    /// Commit what was put up to a share (0–100) of the marks given out and not committed.
    Commit(u64),
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("account", DataType::Utf8, false),
        Field::new("id", DataType::Int64, true),
        Field::new("amount", DataType::Int64, true),
        Field::new("note", DataType::Utf8, false),
    ]))
}

fn key() -> Vec<String> {
    vec!["account".into(), "id".into()]
}

fn changes(changes: &[Change]) -> RecordBatch {
    let rows = |change: &Change| change.1.clone();
    let columns: [(&str, ArrayRef); 5] = [
        (
            OP_COLUMN,
            Arc::new(changes.iter().map(|c| Some(if c.1.is_some() { PUT } else { DELETE })).collect::<Int8Array>()),
        ),
        ("note", Arc::new(changes.iter().map(|c| rows(c).map(|row| row.1)).collect::<StringArray>())),
        ("account", Arc::new(changes.iter().map(|c| Some(c.0.0.clone())).collect::<StringArray>())),
        ("id", Arc::new(changes.iter().map(|c| c.0.1).collect::<Int64Array>())),
        ("amount", Arc::new(changes.iter().map(|c| rows(c).and_then(|row| row.0)).collect::<Int64Array>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// A snapshot as a reader of files would deliver it: its own column order, string type, nullability and metadata.
fn snapshot(model: &Model) -> Arc<dyn TableProvider> {
    let told = |field: Field| field.with_metadata(HashMap::from([("comment".to_owned(), "stored".to_owned())]));
    let schema = Arc::new(Schema::new(vec![
        told(Field::new("amount", DataType::Int64, true)),
        told(Field::new("note", DataType::Utf8View, true)),
        Field::new("extra", DataType::Boolean, true),
        told(Field::new("id", DataType::Int64, true)),
        told(Field::new("account", DataType::Utf8View, true)),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(model.values().map(|row| row.0).collect::<Int64Array>()),
        Arc::new(model.values().map(|row| Some(row.1.clone())).collect::<StringViewArray>()),
        Arc::new(model.values().map(|_| Some(true)).collect::<BooleanArray>()),
        Arc::new(model.keys().map(|key| key.1).collect::<Int64Array>()),
        Arc::new(model.keys().map(|key| Some(key.0.clone())).collect::<StringViewArray>()),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    Arc::new(
        MemTable::try_new(
            schema,
            vec![
                vec![batch.slice(0, batch.num_rows() / 2)],
                vec![batch.slice(batch.num_rows() / 2, batch.num_rows() - batch.num_rows() / 2)],
            ],
        )
        .unwrap(),
    )
}

fn apply(model: &mut Model, changes: &[Change]) {
    for (key, row) in changes {
        match row {
            Some(row) => model.insert(key.clone(), row.clone()),
            None => model.remove(key),
        };
    }
}

async fn numbers(context: &SessionContext, sql: &str) -> Vec<Option<i64>> {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>()).collect()
}

async fn rows(context: &SessionContext, sql: &str) -> Model {
    let mut model = Model::new();
    for batch in context.sql(sql).await.unwrap().collect().await.unwrap() {
        let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        let number = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
        let (accounts, ids, amounts, notes) = (text("account"), number("id"), number("amount"), text("note"));
        for row in 0..batch.num_rows() {
            let key = (accounts.value(row).to_owned(), ids.iter().nth(row).flatten());
            let value = (amounts.iter().nth(row).flatten(), notes.value(row).to_owned());
            assert!(model.insert(key, value).is_none(), "one row a key");
        }
    }
    model
}

async fn assert_answers(context: &SessionContext, model: &Model) {
    assert_eq!(&rows(context, "SELECT * FROM t").await, model);
    assert_eq!(numbers(context, "SELECT count(*) FROM t").await, [Some(model.len() as i64)]);
    let where_ = |keep: &dyn Fn(&Key, &Row) -> bool| -> Model {
        model.iter().filter(|(key, row)| keep(key, row)).map(|(key, row)| (key.clone(), row.clone())).collect()
    };
    // A filter on a column that is not in the key must not bring back the row an overlay replaced or hid.
    assert_eq!(rows(context, "SELECT * FROM t WHERE amount >= 3").await, where_(&|_, row| row.0 >= Some(3)));
    assert_eq!(rows(context, "SELECT * FROM t WHERE amount IS NULL").await, where_(&|_, row| row.0.is_none()));
    assert_eq!(
        rows(context, "SELECT note, account, amount, id FROM t WHERE note = 'b' AND account <> 'y'").await,
        where_(&|key, row| row.1 == "b" && key.0 != "y")
    );
    assert_eq!(rows(context, "SELECT * FROM t WHERE id IS NULL").await, where_(&|key, _| key.1.is_none()));
    let count = where_(&|_, row| row.0 < Some(4) && row.0.is_some()).len() as i64;
    assert_eq!(numbers(context, "SELECT count(*) FROM t WHERE amount < 4").await, [Some(count)]);
    let mut amounts: Vec<Option<i64>> = model.values().map(|row| row.0).collect();
    amounts.sort_unstable();
    assert_eq!(numbers(context, "SELECT amount FROM t ORDER BY amount NULLS FIRST").await, amounts);
    assert_eq!(numbers(context, "SELECT max(amount) FROM t").await, [amounts.iter().copied().flatten().max()]);
    let limited = numbers(context, "SELECT amount FROM t LIMIT 3").await;
    assert_eq!(limited.len(), model.len().min(3));
    let groups: BTreeMap<&String, i64> = model.keys().fold(BTreeMap::new(), |mut groups, key| {
        *groups.entry(&key.0).or_default() += 1;
        groups
    });
    assert_eq!(
        numbers(context, "SELECT count(*) FROM t GROUP BY account ORDER BY account").await,
        groups.into_values().map(Some).collect::<Vec<_>>()
    );
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = (prop::sample::select(vec!["x", "y"]), prop::option::of(0..6_i64)).prop_map(|(a, id)| (a.to_owned(), id));
    let row =
        (prop::option::of(0..6_i64), prop::sample::select(vec!["a", "b"])).prop_map(|(n, note)| (n, note.to_owned()));
    let change = (key, prop::option::weighted(0.7, row));
    let put = prop::collection::vec(change, 1..8).prop_map(Step::Put);
    prop::collection::vec(prop_oneof![3 => put, 1 => (0..=100_u64).prop_map(Step::Commit)], 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_keyed_table_is_its_snapshot_overlaid_with_the_last_change_of_each_key(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let table = Arc::new(LiveTable::new(schema(), key(), snapshot(&Model::new())).unwrap());
            let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
            context.register_table("t", Arc::clone(&table) as _).unwrap();
            let (mut now, mut durable, mut done) = (Model::new(), Model::new(), 0);
            let mut pending: Vec<(u64, Vec<Change>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Put(batch) => {
                        apply(&mut now, &batch);
                        pending.push((table.put(&changes(&batch)).unwrap(), batch));
                    }
                    Step::Commit(share) => {
                        let mark = done + (table.mark() - done) * share / 100;
                        pending.retain(|(at, batch)| {
                            if *at <= mark {
                                apply(&mut durable, batch);
                            }
                            *at > mark
                        });
                        table.commit(snapshot(&durable), mark).unwrap();
                        done = mark;
                    }
                }
                assert_eq!(table.hot_rows(), pending.iter().map(|(_, batch)| batch.len()).sum::<usize>());
                assert_answers(&context, &now).await;
            }
        });
    }
}

fn appended(amounts: &[i64]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 1] = [("amount", Arc::new(Int64Array::from(amounts.to_vec())))];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn stored(amounts: &[i64]) -> Arc<dyn TableProvider> {
    let rows = appended(amounts);
    Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap())
}

#[tokio::test]
async fn an_appended_row_is_seen_once_before_and_after_its_commit() {
    let table = Arc::new(LiveTable::new(appended(&[]).schema(), Vec::new(), stored(&[1])).unwrap());
    let context = SessionContext::new();
    context.register_table("t", Arc::clone(&table) as _).unwrap();
    // A statement planned once and run again later sees the rows of then.
    let prepared = context.sql("SELECT amount FROM t ORDER BY amount").await.unwrap();
    let first = table.push(&appended(&[2, 3])).unwrap();
    let second = table.push(&appended(&[4])).unwrap();
    assert!(second > first);
    assert_eq!(table.push(&appended(&[])).unwrap(), second);
    let all = [Some(1), Some(2), Some(3), Some(4)];
    assert_eq!(numbers(&context, "SELECT amount FROM t ORDER BY amount").await, all);
    assert_eq!(numbers(&context, "SELECT count(*) FROM t WHERE amount > 2").await, [Some(2)]);
    table.commit(stored(&[1, 2, 3]), first).unwrap();
    assert_eq!(table.hot_rows(), 1);
    assert_eq!(numbers(&context, "SELECT amount FROM t ORDER BY amount").await, all);
    table.commit(stored(&[1, 2, 3, 4]), second).unwrap();
    assert_eq!(table.hot_rows(), 0);
    let late: Vec<_> = prepared.collect().await.unwrap().iter().map(RecordBatch::num_rows).collect();
    assert_eq!(late.iter().sum::<usize>(), 4);
}

#[tokio::test]
async fn a_filter_that_files_evaluate_themselves_does_not_hide_an_overlay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.parquet");
    let ids: Int64Array = (0..1_000).collect();
    let amounts: Int64Array = (0..1_000).map(|id| id % 10).collect();
    let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(ids)), ("amount", Arc::new(amounts))];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
    let mut file =
        parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    file.write(&batch).unwrap();
    file.close().unwrap();
    let mut config = SessionConfig::new();
    config.options_mut().execution.parquet.pushdown_filters = true;
    let context = SessionContext::new_with_config(config);
    context.register_parquet("files", path.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap();
    let files = context.table_provider("files").await.unwrap();
    let table = Arc::new(LiveTable::new(batch.schema(), vec!["id".into()], files).unwrap());
    context.register_table("t", Arc::clone(&table) as _).unwrap();
    let change = |id: i64, amount: i64, op: i8| -> RecordBatch {
        RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![id])) as ArrayRef),
            ("amount", Arc::new(Int64Array::from(vec![amount])) as ArrayRef),
            (OP_COLUMN, Arc::new(Int8Array::from(vec![op])) as ArrayRef),
        ])
        .unwrap()
    };
    table.put(&change(5, 77, PUT)).unwrap();
    table.put(&change(15, 0, DELETE)).unwrap();
    table.put(&change(2_000, 5, PUT)).unwrap();
    // 100 rows have amount 5 in the file; one now has another, one is gone, one came.
    assert_eq!(numbers(&context, "SELECT count(*) FROM t WHERE amount = 5").await, [Some(99)]);
    assert_eq!(numbers(&context, "SELECT id FROM t WHERE amount = 77").await, [Some(5)]);
    assert_eq!(numbers(&context, "SELECT amount FROM t WHERE id = 15").await, []);
    assert_eq!(numbers(&context, "SELECT amount FROM t WHERE id = 2000").await, [Some(5)]);
    assert_eq!(numbers(&context, "SELECT count(*) FROM t").await, [Some(1_000)]);
    assert_eq!(numbers(&context, "SELECT sum(id) FROM t WHERE amount = 5 AND id < 30").await, [Some(25)]);
}

#[tokio::test]
async fn a_live_table_can_be_joined_with_itself_and_read_again_by_a_recursive_query() {
    let model = Model::from([(("x".to_owned(), Some(1)), (Some(2), "a".to_owned()))]);
    let table = Arc::new(LiveTable::new(schema(), key(), snapshot(&model)).unwrap());
    let context = SessionContext::new();
    context.register_table("t", Arc::clone(&table) as _).unwrap();
    let edge = |from: i64, to: i64| (("x".to_owned(), Some(from)), Some((Some(to), "a".to_owned())));
    table.put(&changes(&[edge(2, 3), edge(3, 4), edge(9, 9)])).unwrap();
    table.put(&changes(&[(("x".to_owned(), Some(9)), None)])).unwrap();
    let pairs = "SELECT b.amount FROM t a JOIN t b ON a.amount = b.id ORDER BY 1";
    assert_eq!(numbers(&context, pairs).await, [Some(3), Some(4)]);
    let reach = "WITH RECURSIVE reach AS (SELECT amount FROM t WHERE id = 1 \
                 UNION ALL SELECT t.amount FROM t JOIN reach ON t.id = reach.amount) \
                 SELECT amount FROM reach ORDER BY 1";
    assert_eq!(numbers(&context, reach).await, [Some(2), Some(3), Some(4)]);
    let plan = context.sql("EXPLAIN SELECT * FROM t").await.unwrap().to_string().await.unwrap();
    assert!(plan.contains("LiveScanExec") && plan.contains("HashJoinExec"), "{plan}");
}

#[tokio::test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture overlay"]
async fn measure_a_query_over_a_full_overlay() {
    let rows = |ids: std::ops::Range<i64>, note: &str| -> Vec<Change> {
        ids.map(|id| (("x".to_owned(), Some(id)), Some((Some(id), note.to_owned())))).collect()
    };
    let mut model = Model::new();
    apply(&mut model, &rows(0..1_000_000, "a"));
    let table = Arc::new(LiveTable::new(schema(), key(), snapshot(&model)).unwrap());
    let context = SessionContext::new();
    context.register_table("t", Arc::clone(&table) as _).unwrap();
    let count = async |label: &str| {
        let start = std::time::Instant::now();
        assert_eq!(numbers(&context, "SELECT count(*) FROM t WHERE amount >= 0").await, [Some(1_000_000)]);
        eprintln!("{label}: {:?} for 1,000,000 committed and {} hot rows", start.elapsed(), table.hot_rows());
    };
    count("nothing hot").await;
    table.put(&changes(&rows(0..5_000, "b"))).unwrap();
    count("first query").await;
    count("second query").await;
    for start in (0..245_000).step_by(1_000) {
        table.put(&changes(&rows(start..start + 1_000, "b"))).unwrap();
    }
    assert_eq!(table.hot_rows(), HOT_ROWS_LIMIT);
    count("first query").await;
    count("second query").await;
}

#[test]
fn rows_of_another_shape_are_refused_where_they_are_given() {
    let keyed = LiveTable::new(schema(), key(), snapshot(&Model::new())).unwrap();
    assert!(keyed.push(&appended(&[1])).is_err());
    assert!(keyed.put(&appended(&[1])).is_err());
    let log = LiveTable::new(appended(&[]).schema(), Vec::new(), stored(&[])).unwrap();
    assert!(log.put(&changes(&[])).is_err());
    let nulls = RecordBatch::try_from_iter([("amount", Arc::new(Int64Array::from(vec![None])) as ArrayRef)]).unwrap();
    assert!(log.push(&nulls).is_err(), "a NULL in a column declared not to have any");
    assert!(log.commit(snapshot(&Model::new()), 0).is_ok(), "more columns than declared do no harm");
    assert!(keyed.commit(stored(&[]), 0).is_err());
    assert!(LiveTable::new(schema(), vec!["absent".into()], snapshot(&Model::new())).is_err());
}

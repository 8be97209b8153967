//! Whatever is put, deleted, repeated, compacted and reopened: a keyed table is a map.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, Date32Array, Int8Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Date32Type, Field, Int64Type, Schema},
};
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use tributary::sink::{TableSpec, change_schema, delta::DeltaTable};

use crate::{alerts_support::alone, delta::at};

/// (key, day) → (partition, value)
type Model = BTreeMap<(String, i32), (Option<String>, Option<i64>)>;

/// Key, and the row, or nothing to delete it.
type Change = (u8, i32, Option<(u8, Option<i64>)>);

#[derive(Clone, Debug)]
enum Step {
    /// Two batches of changes.
    Upsert(Vec<Change>, Vec<Change>),
    /// The last upsert once more, under its number.
    Again,
    Compact,
    Reopen,
}

fn spec() -> TableSpec {
    let schema = Schema::new(vec![
        Field::new("region", DataType::Utf8, true),
        Field::new("id", DataType::Utf8, false),
        Field::new("value", DataType::Int64, true),
        Field::new("day", DataType::Date32, false),
    ]);
    let key = vec!["id".to_owned(), "day".to_owned()];
    TableSpec { name: "t".to_owned(), schema: Arc::new(schema), key, partition_by: vec!["region".to_owned()] }
}

fn id(key: u8) -> String {
    format!("id {key}")
}

fn region(region: u8) -> Option<String> {
    [None, Some("EU".to_owned()), Some("a=b/c".to_owned())][usize::from(region)].clone()
}

fn batch(changes: &[Change]) -> RecordBatch {
    let row = |change: &Change| change.2.unwrap_or((0, None));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(changes.iter().map(|change| region(row(change).0)))),
        Arc::new(StringArray::from_iter_values(changes.iter().map(|change| id(change.0)))),
        Arc::new(Int64Array::from_iter(changes.iter().map(|change| row(change).1))),
        Arc::new(Date32Array::from_iter_values(changes.iter().map(|change| change.1))),
        Arc::new(Int8Array::from_iter_values(changes.iter().map(|change| if change.2.is_some() { 1 } else { -1 }))),
    ];
    RecordBatch::try_new(change_schema(&spec().schema), columns).unwrap()
}

async fn contents(table: &DeltaTable) -> Vec<((String, i32), (Option<String>, Option<i64>))> {
    let context = SessionContext::new();
    context.register_table("t", table.provider()).unwrap();
    let query = context.sql("select region, id, value, day from t order by id, day").await.unwrap();
    let mut rows = Vec::new();
    for batch in query.collect().await.unwrap() {
        let (regions, ids) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        let (values, days) =
            (batch.column(2).as_primitive::<Int64Type>(), batch.column(3).as_primitive::<Date32Type>());
        for at in 0..batch.num_rows() {
            let region = regions.is_valid(at).then(|| regions.value(at).to_owned());
            let value = values.is_valid(at).then(|| values.value(at));
            rows.push(((ids.value(at).to_owned(), days.value(at)), (region, value)));
        }
    }
    rows
}

async fn run(root: &Path, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut table = DeltaTable::open_or_create(&at(root), spec()).await.unwrap();
    let mut model = Model::new();
    let mut last = (0, Vec::new());
    for step in steps {
        match step {
            Step::Upsert(first, second) => {
                for (key, day, row) in first.iter().chain(second) {
                    match row {
                        Some((place, value)) => model.insert((id(*key), *day), (region(*place), *value)),
                        None => model.remove(&(id(*key), *day)),
                    };
                }
                last = (last.0 + 1, vec![batch(first), batch(second)]);
                prop_assert!(table.upsert(last.0, &last.1).await.unwrap());
            }
            Step::Again => prop_assert!(!table.upsert(last.0, &last.1).await.unwrap()),
            Step::Compact => drop(table.maintain(&alone().await, &BTreeSet::new()).await.unwrap()),
            Step::Reopen => table = DeltaTable::open_or_create(&at(root), spec()).await.unwrap(),
        }
        let expected: Vec<_> = model.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        prop_assert_eq!(contents(&table).await, expected);
        prop_assert_eq!(table.applied_through(), last.0);
    }
    Ok(())
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let row = prop::option::weighted(0.7, (0..3_u8, prop::option::of(any::<i64>())));
    prop::collection::vec((0..8_u8, 0..3_i32, row), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_keyed_table_is_a_map(
        steps in prop::collection::vec(
            prop_oneof![
                6 => (changes(), changes()).prop_map(|(first, second)| Step::Upsert(first, second)),
                1 => Just(Step::Again),
                1 => Just(Step::Compact),
                1 => Just(Step::Reopen),
            ],
            1..10,
        )
    ) {
        let root = tempfile::tempdir().unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(run(root.path(), &steps))?;
    }
}

//! What an epoch costs as a pipeline's state grows: `cargo bench --bench epoch`.
//!
//! For each query class that has state: epochs of 5,000 rows that touch as many distinct keys, over 10,000, 100,000 and
//! 1,000,000 keys. Prints the median time of an epoch, and the ratio of the last to the one before. An aggregate gets new
//! rows; a keyed pipeline, which keeps rows, gets rows that change.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and times"
)]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{BooleanArray, Decimal128Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use tributary::{
    stream::{
        Relation,
        epoch::EpochEnd,
        file::PipelineFile,
        pipeline::{Pipeline, RowDelta},
    },
    tables,
};

/// Rows of an epoch.
const ROWS: usize = 5_000;
const EPOCHS: usize = 21;
/// Rows of an epoch while the state is filled.
const FILLED_AT_ONCE: usize = 50_000;
/// No divisor in common with the numbers of keys, so that its multiples visit all of them, far from each other.
const STRIDE: usize = 611_953;
/// 2026-01-01, in microseconds.
const START: i64 = 1_767_225_600_000_000;

const AGGREGATE: &str =
    "SELECT account, livemode, id, CAST(at AS DATE) AS day, SUM(amount) AS amount, COUNT(*) AS facts
    FROM facts GROUP BY account, livemode, id, CAST(at AS DATE)";
const KEYED: &str = "SELECT account, livemode, id, CAST(at AS DATE) AS day, SUM(amount) OVER so_far AS amount,
    COUNT(*) OVER so_far AS facts FROM facts WINDOW so_far AS (PARTITION BY account, livemode, id ORDER BY at)";

#[tokio::main]
async fn main() {
    println!("epochs of {ROWS} rows with as many keys; median of {EPOCHS}");
    for (class, sql) in [("aggregate", AGGREGATE), ("keyed", KEYED)] {
        let mut before = Duration::ZERO;
        for keys in [10_000, 100_000, 1_000_000] {
            let took = epoch(class, sql, keys).await;
            println!("  {class:<10} {keys:>9} keys {:8.1} ms an epoch", took.as_secs_f64() * 1e3);
            if keys == 1_000_000 {
                let ratio = took.as_secs_f64() / before.as_secs_f64();
                println!("  {class:<10} from 100000 to 1000000 keys: {ratio:.2} times the time (aim: at most 2)");
            }
            before = took;
        }
    }
}

/// The median time of an epoch over so many keys.
async fn epoch(class: &str, sql: &str, keys: usize) -> Duration {
    let schema = schema();
    let appended = class == "aggregate";
    let relation = Relation { schema: Arc::clone(&schema), appended, small: false };
    let relations = BTreeMap::from([("facts".to_owned(), relation)]);
    let file = PipelineFile::parse(Path::new("measured.sql"), format!("{METADATA}{sql}")).unwrap();
    let mut pipeline = Pipeline::plan(file, Vec::new(), &relations).await.unwrap();
    assert_eq!(pipeline.explain().class, class);

    let all: Vec<usize> = (0..keys).collect();
    for some in all.chunks(FILLED_AT_ONCE) {
        let delta = RowDelta { removed: RecordBatch::new_empty(Arc::clone(&schema)), added: facts(&schema, some, 0) };
        advance(&mut pipeline, delta).await;
    }
    assert_eq!(pipeline.explain().groups, keys);

    let mut revisions = vec![0_usize; keys];
    let mut times = Vec::with_capacity(EPOCHS);
    for number in 0..EPOCHS {
        let mut touched: Vec<usize> = (0..ROWS).map(|row| (number * ROWS + row) * STRIDE % keys).collect();
        // All rows of an epoch are of one revision: of 10,000 keys each comes every other epoch.
        let revision = revisions[touched[0]];
        touched.iter().for_each(|key| revisions[*key] += 1);
        let delta = if appended {
            RowDelta { removed: RecordBatch::new_empty(Arc::clone(&schema)), added: facts(&schema, &touched, revision) }
        } else {
            RowDelta { removed: facts(&schema, &touched, revision), added: facts(&schema, &touched, revision + 1) }
        };
        let (took, changed) = advance(&mut pipeline, delta).await;
        assert_eq!(changed, ROWS, "every key changed once");
        touched.sort_unstable();
        touched.dedup();
        assert_eq!(touched.len(), ROWS, "the keys are distinct");
        times.push(took);
    }
    assert_eq!(pipeline.explain().groups, keys, "no key is new");
    times.sort_unstable();
    times[EPOCHS / 2]
}

/// The time of one epoch, and how many rows came out of it.
async fn advance(pipeline: &mut Pipeline, delta: RowDelta) -> (Duration, usize) {
    let deltas = BTreeMap::from([("facts".to_owned(), delta)]);
    let end = EpochEnd::default();
    let began = Instant::now();
    let changed = pipeline.advance(&deltas, &end).await.unwrap();
    (began.elapsed(), changed.added.num_rows())
}

/// A row for each key; the amount tells the revisions of a key apart.
fn facts(schema: &SchemaRef, keys: &[usize], revision: usize) -> RecordBatch {
    let rows = keys.len();
    let at = TimestampMicrosecondArray::from_iter_values(keys.iter().map(|_| START)).with_timezone("UTC");
    let amounts = keys.iter().map(|key| (key + revision) as i128 * 1_000_000 + 1);
    RecordBatch::try_new(
        Arc::clone(schema),
        vec![
            Arc::new(StringArray::from_iter_values(keys.iter().map(|_| "self"))),
            Arc::new(BooleanArray::from(vec![true; rows])),
            Arc::new(StringArray::from_iter_values(keys.iter().map(|key| format!("cus_{key:014}")))),
            Arc::new(at),
            Arc::new(Decimal128Array::from_iter_values(amounts).with_precision_and_scale(28, 6).unwrap()),
        ],
    )
    .unwrap()
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("account", DataType::Utf8, false),
        Field::new("livemode", DataType::Boolean, false),
        Field::new("id", DataType::Utf8, false),
        Field::new("at", tables::timestamptz(), false),
        Field::new("amount", DataType::Decimal128(28, 6), false),
    ]))
}

const METADATA: &str = "/*---
name: measured
description: What is measured
owner: benches
mode: upsert
grain: [account, livemode, id, day]
time_column: day
columns:
  id: { description: Key }
  day: { description: Day }
  amount: { description: Sum }
  facts: { description: Rows }
---*/
";

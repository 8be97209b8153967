//! A pipeline at one of its limits stops, by itself, and says how to write it instead.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::RecordBatch;
use tributary::{
    ledger::rows::BillingEvent,
    stream::{
        epoch::EpochEnd,
        pipeline::{Pipeline, RowDelta},
    },
    tables::rows,
};

use crate::pipelines::{World, file, plan};

/// Gives rows to a pipeline; what it says when it stops.
async fn advance(pipeline: &mut Pipeline, rows: &[BillingEvent]) -> Option<String> {
    let added = rows::billing_events(rows).unwrap();
    let delta = RowDelta { removed: RecordBatch::new_empty(added.schema()), added };
    let deltas = BTreeMap::from([("billing_events".to_owned(), delta)]);
    pipeline.advance(&deltas, &EpochEnd::default()).await.err().map(|error| error.to_string())
}

/// Rows that differ in the invoice they are of, of one customer.
fn invoices(event: &BillingEvent, customer: usize, numbers: std::ops::Range<usize>) -> Vec<BillingEvent> {
    let customer_id = format!("cus_{customer}").as_str().into();
    let event = BillingEvent { customer_id, ..event.clone() };
    numbers.map(|n| BillingEvent { object_id: Arc::from(format!("in_{n}")), ..event.clone() }).collect()
}

const COUNTS_INVOICES: &str =
    "SELECT account, livemode, customer_id, COUNT(DISTINCT object_id) AS n FROM billing_events GROUP BY 1, 2, 3";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_too_many_rows_stops_the_pipeline_and_says_what_to_do() {
    let counts = file("counts", "upsert", "customer_id", "customer_id n", COUNTS_INVOICES).unwrap();
    let mut pipelines = plan(vec![counts]).await;
    let event = World::new(1).bill();
    assert_eq!(advance(&mut pipelines[0], &vec![event.clone(); 50_000]).await, None);
    let said = advance(&mut pipelines[0], &[event]).await.unwrap();
    assert!(said.contains("50001 rows share one (account, livemode, customer_id)"), "{said}");
    assert!(said.contains("partition by more columns"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_rows_of_all_keys_stop_the_pipeline_and_it_says_what_to_do() {
    let counts = file("counts", "upsert", "customer_id", "customer_id n", COUNTS_INVOICES).unwrap();
    let mut pipelines = plan(vec![counts]).await;
    let event = World::new(1).bill();
    for customer in 0..100 {
        assert_eq!(advance(&mut pipelines[0], &invoices(&event, customer, 0..50_000)).await, None);
    }
    let said = advance(&mut pipelines[0], &invoices(&event, 100, 0..1)).await.unwrap();
    assert!(said.contains("keeps 5000001 rows, and at most 5000000 can be"), "{said}");
    assert!(said.contains("keep groups instead of rows"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_groups_that_are_read_together_stop_the_pipeline_and_it_says_what_to_do() {
    let ranked = "SELECT account, livemode, object_id, n, CAST(RANK() OVER (PARTITION BY account, livemode, kind \
        ORDER BY n) AS BIGINT) AS place FROM (SELECT account, livemode, kind, object_id, COUNT(*) AS n FROM billing_events GROUP BY 1, 2, 3, 4)";
    let ranked = file("ranked", "upsert", "object_id", "object_id n place", ranked).unwrap();
    let mut pipelines = plan(vec![ranked]).await;
    let event = World::new(1).bill();
    assert_eq!(advance(&mut pipelines[0], &invoices(&event, 0, 0..20_000)).await, None);
    // Those of another kind are read by themselves.
    let other = BillingEvent { kind: Arc::from("of its own"), object_id: Arc::from("in_other"), ..event.clone() };
    assert_eq!(advance(&mut pipelines[0], &[other]).await, None);
    let said = advance(&mut pipelines[0], &invoices(&event, 0, 20_000..20_001)).await.unwrap();
    assert!(said.contains("needs 20001 groups at once: at most 20000"), "{said}");
    assert!(said.contains("partition its windows and joins by a group key"), "{said}");
}

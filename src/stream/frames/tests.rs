use arrow::{array::StringArray, datatypes::Field};
use datafusion::{
    datasource::MemTable, execution::context::SessionContext, physical_plan::collect, prelude::SessionConfig,
};

use super::*;

/// Rows of three partitions, in no order: with ties, values that are not there, and sums that wrap around.
fn rows() -> RecordBatch {
    let mut state = 7_u64;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let count = 400;
    let some = |n: u64, value: i64| (n > 0).then_some(value);
    let keys: StringArray = (0..count).map(|_| Some(["a", "b", "c"][below(3) as usize])).collect();
    let ids = Int64Array::from_iter_values(0..count);
    let days: Vec<Option<i64>> = (0..count).map(|_| some(below(12), below(60) as i64)).collect();
    let edges = Int64Array::from_iter(days.iter().map(|day| match day {
        Some(0..10) => Some(i64::MIN + 1),
        Some(50..60) => Some(i64::MAX - 1),
        other => *other,
    }));
    let numbers: Int64Array = (0..count)
        .map(|_| match below(40) {
            0 => Some(i64::MAX),
            1 => Some(i64::MIN),
            n => some(n % 5, below(100) as i64 - 50),
        })
        .collect();
    let amounts = Decimal128Array::from_iter((0..count).map(|_| some(below(5), below(9_999) as i64).map(i128::from)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("k", Arc::new(keys)),
        ("id", Arc::new(ids)),
        ("day", Arc::new(Int64Array::from(days.clone()))),
        ("edge", Arc::new(edges)),
        ("small", Arc::new(days.iter().map(|day| day.map(|day| day as i32)).collect::<Int32Array>())),
        ("on", Arc::new(days.iter().map(|day| day.map(|day| day as i32)).collect::<Date32Array>())),
        ("n", Arc::new(numbers)),
        ("amount", Arc::new(amounts.with_precision_and_scale(20, 6).unwrap())),
        ("share", Arc::new(arrow::array::Float64Array::from_iter_values((0..count).map(|i| i as f64 / 7.0)))),
    ];
    let fields: Vec<Field> = columns.iter().map(|(name, of)| Field::new(*name, of.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, of)| of).collect()).unwrap()
}

/// What a query says as DataFusion plans it, what it says by columns, and whether that is another plan.
async fn both(query: &str) -> (RecordBatch, RecordBatch, bool) {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let rows = rows();
    let batches = [rows.slice(0, 150), rows.slice(150, 1), rows.slice(151, rows.num_rows() - 151)];
    let table = MemTable::try_new(rows.schema(), vec![batches.to_vec()]).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    let plan = context.sql(query).await.unwrap().create_physical_plan().await.unwrap();
    let frames = by_columns(Arc::clone(&plan)).unwrap();
    let replaced = format!("{frames:?}").contains("FramesExec");
    let said = async |plan: Arc<dyn ExecutionPlan>| {
        let schema = plan.schema();
        concat_batches(&schema, &collect(plan, context.task_ctx()).await.unwrap()).unwrap()
    };
    (said(plan).await, said(frames).await, replaced)
}

#[tokio::test]
async fn what_is_computed_by_columns_is_what_datafusion_computes() {
    let orders = ["ORDER BY id", "ORDER BY day", "ORDER BY small NULLS FIRST", "ORDER BY \"on\" DESC, n", "ORDER BY k"];
    let ties =
        ["", "RANGE BETWEEN CURRENT ROW AND CURRENT ROW", "RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING"];
    let of_rows = [
        "ROWS UNBOUNDED PRECEDING",
        "ROWS BETWEEN 3 PRECEDING AND CURRENT ROW",
        "ROWS BETWEEN CURRENT ROW AND 2 FOLLOWING",
        "ROWS BETWEEN 5 PRECEDING AND UNBOUNDED FOLLOWING",
    ];
    let mut frames: Vec<(&str, &str)> =
        orders.iter().flat_map(|order| ties.iter().map(|frame| (*order, *frame))).collect();
    // In an order without ties, so that there is one answer.
    frames.extend(of_rows.iter().map(|frame| ("ORDER BY id", *frame)));
    for order in [
        "ORDER BY day",
        "ORDER BY small NULLS FIRST",
        "ORDER BY CAST(day + 1 AS INT)",
        "ORDER BY edge",
        "ORDER BY edge NULLS FIRST",
        "ORDER BY id",
    ] {
        for frame in [
            "RANGE BETWEEN 5 PRECEDING AND CURRENT ROW",
            "RANGE BETWEEN CURRENT ROW AND 7 FOLLOWING",
            "RANGE BETWEEN 2 PRECEDING AND 3 FOLLOWING",
            "RANGE BETWEEN UNBOUNDED PRECEDING AND 4 FOLLOWING",
            "RANGE BETWEEN 2147483647 PRECEDING AND 2147483647 FOLLOWING",
        ] {
            frames.push((order, frame));
        }
    }
    for (order, frame) in frames {
        for partition in ["PARTITION BY k", "PARTITION BY k, n", ""] {
            let over = format!("OVER ({partition} {order} {frame})");
            let query = format!(
                "SELECT id, SUM(n) {over}, SUM(amount) {over}, COUNT(*) {over}, COUNT(n) {over}, COUNT(k) {over} FROM t"
            );
            let (stock, columns, replaced) = both(&query).await;
            assert!(replaced, "{query}");
            assert_eq!(stock, columns, "{query}");
        }
    }
    for frame in ["", "ROWS UNBOUNDED PRECEDING"] {
        let over = format!("OVER (PARTITION BY k ORDER BY id {frame})");
        let of =
            |function: &str| ["n", "small", "\"on\"", "amount"].map(|of| format!("{function}({of}) {over}")).join(", ");
        let query = format!("SELECT id, {}, {} FROM t", of("MIN"), of("MAX"));
        let (stock, columns, replaced) = both(&query).await;
        assert!(replaced, "{query}");
        assert_eq!(stock, columns, "{query}");
    }
    let nothing = "SELECT SUM(n) OVER (PARTITION BY k ORDER BY id) FROM t WHERE id < 0";
    let (stock, columns, _) = both(nothing).await;
    assert_eq!(stock, columns);
}

#[tokio::test]
async fn everything_else_is_left_to_datafusion() {
    for windows in [
        "SUM(share) OVER (PARTITION BY k ORDER BY id)",
        "SUM(n) OVER (PARTITION BY k ORDER BY share)",
        "SUM(CASE WHEN id > 7 AND day > 3 THEN n END) OVER (PARTITION BY k ORDER BY id)",
        "SUM(n) FILTER (WHERE id > 3) OVER (PARTITION BY k ORDER BY id)",
        "COUNT(DISTINCT n) OVER (PARTITION BY k ORDER BY id)",
        "MIN(n) OVER (PARTITION BY k ORDER BY id ROWS 3 PRECEDING)",
        "MIN(k) OVER (PARTITION BY n ORDER BY id)",
        "AVG(n) OVER (PARTITION BY k ORDER BY id)",
        "LAG(n) OVER (PARTITION BY k ORDER BY id)",
        "SUM(n) OVER (PARTITION BY k ORDER BY \"on\" RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW)",
        "SUM(n) OVER (PARTITION BY k ORDER BY day DESC RANGE BETWEEN 3 PRECEDING AND CURRENT ROW)",
        "SUM(n) OVER (PARTITION BY k ORDER BY id ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING)",
        "SUM(n) OVER (PARTITION BY k ORDER BY id GROUPS 2 PRECEDING)",
    ] {
        let (stock, columns, replaced) = both(&format!("SELECT id, {windows} FROM t")).await;
        assert!(!replaced, "{windows}");
        assert_eq!(stock, columns, "{windows}");
    }
}

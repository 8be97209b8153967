//! What must be the same, row by row, in the tables of two engines that read one log: wherever it was cut into epochs,
//! on however many threads, and whatever killed, fenced off or starved one of them. It is every table of the contract,
//! but for those that are named here with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::LazyLock,
    thread,
};

use arrow::datatypes::{DataType, Field};
use tributary::tables::{self, Source, Table};

use super::support::Site;

/// The tables that may differ, and why.
const MAY_DIFFER: [(&str, &str); 5] = [
    ("late_events", "what is late depends on what had been read before it"),
    ("late_changes", "so does what a window that closes does not take in any more"),
    (
        "ledger_gaps",
        "what cannot be counted yet is told at the end of an epoch; what is told in its next one is no gap",
    ),
    ("mrr_daily_reporting", "a view of movements and rates, worked out when it is read"),
    ("pipeline_status", "it counts the epochs of one process"),
];

/// A table of which a part is compared.
struct Part {
    table: &'static str,
    /// Columns that may differ.
    without: &'static [&'static str],
    /// The rows, where these are not all of the table's.
    rows: Option<&'static str>,
}

/// The newest of each item and instant, but for those that repeat the one before.
const STATES: &str = r#"(
    SELECT * FROM (
        SELECT *, LAG(state) OVER (
            PARTITION BY account, livemode, subscription_item_id, provenance ORDER BY valid_from
        ) AS state_before
        FROM (
            SELECT *, concat_ws('|',
                status, array_to_string(flags, ','), CAST(position AS VARCHAR), price_id, product_id, currency,
                "interval", CAST(interval_count AS VARCHAR), CAST(quantity AS VARCHAR), CAST(list_amount AS VARCHAR),
                net_share, discounts, CAST(trial_end AS VARCHAR), CAST(started_at AS VARCHAR)
            ) AS state
            FROM (
                SELECT
                    account, livemode, valid_from, customer_id, subscription_id, subscription_item_id, revision, position,
                    price_id, product_id, currency, status, flags, "interval", interval_count, quantity, list_amount,
                    net_share, CASE WHEN status LIKE 'incomplete%' THEN '' ELSE discounts END AS discounts, trial_end,
                    started_at, provenance, event_id,
                    MAX(revision) OVER (
                        PARTITION BY account, livemode, subscription_item_id, valid_from, provenance
                    ) AS newest
                FROM item_states
            ) AS item_states
            WHERE revision = newest AND NOT array_has(flags, 'withdrawn')
        ) AS item_states
    ) AS item_states
    WHERE state_before IS DISTINCT FROM state
)"#;

/// Of appended tables what holds is compared: what was taken back before the end of an epoch was never written. How
/// often a row was written again (`revision`, and ids that are hashes of it) and when it became known depend on the
/// order in which records of several partitions are read, and so does which event is the first to tell of something.
const PARTS: [Part; 12] = [
    // An instant at which nothing changes after all, while the item goes on, is told again as it was before. Of
    // snapshots of one second that say the same, those that were read together tell which one it is and why; and a
    // subscription that counts nowhere does not wait for the terms of its discounts.
    Part { table: "item_states", without: &["revision", "known_at", "order_evidence", "event_id"], rows: Some(STATES) },
    Part {
        table: "mrr_ledger",
        without: &["entry_id", "reverses_entry_id", "known_at"],
        rows: Some(
            "(SELECT * FROM mrr_ledger WHERE reverses_entry_id IS NULL AND entry_id NOT IN \
             (SELECT reverses_entry_id FROM mrr_ledger WHERE reverses_entry_id IS NOT NULL))",
        ),
    },
    Part {
        table: "outlook_ledger",
        without: &["entry_id", "reverses_entry_id", "known_at"],
        rows: Some(
            "(SELECT * FROM outlook_ledger WHERE reverses_entry_id IS NULL AND entry_id NOT IN \
             (SELECT reverses_entry_id FROM outlook_ledger WHERE reverses_entry_id IS NOT NULL))",
        ),
    },
    Part { table: "mrr_movements", without: &["revision"], rows: None },
    Part { table: "expansion_events", without: &["revision"], rows: None },
    // Two events tell of one refund, in two partitions. The sum shows one that counts twice.
    Part {
        table: "billing_events",
        without: &["event_id", "known_at"],
        rows: Some(
            "(SELECT account, livemode, occurred_at, customer_id, kind, object_id, currency, SUM(amount) AS amount, \
             attempt_count, failure_code FROM billing_events GROUP BY account, livemode, \
             CASE kind WHEN 'refund' THEN NULL ELSE event_id END, occurred_at, customer_id, kind, object_id, currency, \
             attempt_count, failure_code)",
        ),
    },
    Part {
        table: "recognised_revenue",
        without: &["event_id", "known_at"],
        rows: Some(
            "(SELECT account, livemode, invoice_id, line_id, source, source_id, month, customer_id, subscription_id, \
             price_id, product_id, currency, SUM(billed) AS billed, SUM(taken_back) AS taken_back, \
             SUM(recognised) AS recognised, SUM(contra) AS contra, SUM(deferred) AS deferred FROM recognised_revenue \
             GROUP BY account, livemode, invoice_id, line_id, source, source_id, month, customer_id, subscription_id, \
             price_id, product_id, currency HAVING SUM(billed) <> 0 OR SUM(taken_back) <> 0 OR SUM(recognised) <> 0 \
             OR SUM(contra) <> 0 OR SUM(deferred) <> 0)",
        ),
    },
    Part { table: "metered_usage", without: &["known_at"], rows: None },
    Part { table: "scheduled_mrr", without: &["known_at"], rows: None },
    Part { table: "products", without: &["known_at"], rows: None },
    Part { table: "prices", without: &["known_at"], rows: None },
    Part { table: "coupons", without: &["known_at"], rows: None },
];

/// What not every account has, or not the simulated ones.
pub(super) const NOT_IN_EVERY_ACCOUNT: [&str; 4] = ["customer_scores", "fx_rates", "rejected_events", "scheduled_mrr"];

/// The rows of every table that is compared, as lines in order.
pub(super) type Lines = BTreeMap<&'static str, Vec<String>>;

/// The tables that are compared.
fn compared() -> impl Iterator<Item = &'static Table> {
    tables::all().unwrap().iter().filter(|table| MAY_DIFFER.iter().all(|(name, _)| *name != table.name))
}

/// One query for all of it: opening the tables takes longer than reading them.
static SQL: LazyLock<String> = LazyLock::new(|| {
    let selects = compared().map(|table| {
        let part = PARTS.iter().find(|part| part.table == table.name);
        let without = part.map_or(&[][..], |part| part.without);
        let rows = part.and_then(|part| part.rows).unwrap_or(&table.name);
        let fields = table.schema.fields().iter().filter(|field| !without.contains(&field.name().as_str()));
        let is_final = table.has_is_final.then(|| text("is_final", &DataType::Boolean));
        let cells: Vec<String> = fields.map(|field| cell(field)).chain(is_final).collect();
        format!("SELECT '{}' AS name, concat({}) AS line FROM {rows} AS t", table.name, cells.join(", ' ', "))
    });
    selects.collect::<Vec<_>>().join("\nUNION ALL ")
});

fn cell(field: &Field) -> String {
    text(field.name(), field.data_type())
}

/// A column with its name, as text.
fn text(name: &str, data_type: &DataType) -> String {
    let value = match data_type {
        DataType::List(_) => format!("array_to_string(\"{name}\", ',')"),
        _ => format!("CAST(\"{name}\" AS VARCHAR)"),
    };
    format!("'{name}=', COALESCE({value}, '∅')")
}

/// What is compared of the tables of a data directory.
pub(super) fn lines(site: &Site, data: &str) -> Lines {
    let mut lines: Lines = compared().map(|table| (table.name.as_str(), Vec::new())).collect();
    for row in site.rows(data, &SQL) {
        let line = row["line"].as_str().unwrap().to_owned();
        lines.get_mut(row["name"].as_str().unwrap()).unwrap().push(line);
    }
    lines.values_mut().for_each(|lines| lines.sort_unstable());
    lines
}

/// Compares row by row, and shows the first differences of the tables that differ.
pub(super) fn assert_same_lines(what: impl std::fmt::Debug, left: &Lines, right: &Lines) {
    let differences: Vec<String> = left
        .iter()
        .filter(|(table, lines)| right[*table] != **lines)
        .map(|(table, lines)| {
            let only = |one: &[String], other: &[String]| {
                let other: BTreeSet<&String> = other.iter().collect();
                one.iter().find(|line| !other.contains(line)).cloned().unwrap_or_default()
            };
            let (one, other) = (only(lines, &right[table]), only(&right[table], lines));
            format!("{table}: {} and {} rows\n  left:  {one}\n  right: {other}", lines.len(), right[table].len())
        })
        .collect();
    assert!(differences.is_empty(), "{what:?}\n{}", differences.join("\n"));
}

/// Compares the tables of two data directories; none of them is empty, but for `may_be_empty`.
pub(super) fn assert_same_tables(left: (&Site, &str), right: (&Site, &str), may_be_empty: &[&str]) {
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| lines(left.0, left.1));
        let other = lines(right.0, right.1);
        (one.join().unwrap(), other)
    });
    assert_same_lines((left.1, right.1), &one, &other);
    let empty: Vec<&str> = one.iter().filter(|(_, lines)| lines.is_empty()).map(|(table, _)| *table).collect();
    assert!(empty.iter().all(|table| may_be_empty.contains(table)), "nothing is compared of {empty:?}");
}

#[test]
fn every_table_and_shipped_pipeline_is_compared_or_named_with_the_reason() {
    let all: BTreeMap<&str, &Table> = tables::all().unwrap().iter().map(|table| (table.name.as_str(), table)).collect();
    for (table, reason) in MAY_DIFFER {
        assert!(all.contains_key(table) && !reason.is_empty(), "{table}");
    }
    let compared: BTreeSet<&str> = compared().map(|table| table.name.as_str()).collect();
    for Part { table, without, .. } in PARTS {
        assert!(compared.contains(table), "{table}");
        for column in without {
            assert!(all[table].schema.field_with_name(column).is_ok(), "{table}.{column}");
        }
    }
    let mut pipelines = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(compared.contains(name.as_str()) && all[name.as_str()].source == Source::Pipeline, "{name}");
            pipelines += 1;
        }
    }
    assert_eq!(pipelines, all.values().filter(|table| table.source == Source::Pipeline).count());
    assert!(NOT_IN_EVERY_ACCOUNT.iter().all(|table| compared.contains(table)));
}

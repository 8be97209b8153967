//! Stripe's own tables as views: what they say of rates, products and prices.

use std::{collections::BTreeMap, sync::Arc};

use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::{datasource::MemTable, prelude::SessionContext};
use tributary::{
    serve::{Catalog, UserTable, views},
    stream,
};

use crate::end_to_end::sigma::recipes;

/// A table of a few rows; `columns` are casts of the columns of `values`.
async fn table(name: &str, columns: &str, names: &str, values: &str) -> UserTable {
    let sql = format!("SELECT 'acct_1' AS account, true AS livemode, {columns} FROM (VALUES {values}) AS t ({names})");
    let rows = SessionContext::new().sql(&sql).await.unwrap().collect().await.unwrap();
    let table = MemTable::try_new(rows[0].schema(), vec![rows]).unwrap();
    UserTable::new(name, Arc::new(table))
}

async fn catalog() -> Catalog {
    let tables = vec![
        table(
            "subscription_item_changes",
            "arrow_cast(event_timestamp, 'Timestamp(Microsecond, Some(\"UTC\"))') AS event_timestamp, event_type, \
             subscription_item_id, 'sub_1' AS subscription_id, 'cus_1' AS customer_id, 'price_1' AS price_id, \
             'prod_1' AS product_id, currency, mrr_change, 1 AS quantity_change",
            "event_timestamp, event_type, subscription_item_id, currency, mrr_change",
            "('2024-01-05T10:00:00Z', 'ACTIVE_START', 'si_1', 'usd', 10000), \
             ('2024-01-05T10:00:00Z', 'ACTIVE_START', 'si_2', 'jpy', 15000), \
             ('2024-01-07T03:00:00Z', 'ACTIVE_START', 'si_3', 'eur', 5000), \
             ('2024-01-08T10:00:00Z', 'ACTIVE_END', 'si_1', 'usd', -10000), \
             ('2024-01-09T10:00:00Z', 'ACTIVE_START', 'si_4', 'kwd', 20000)",
        )
        .await,
        // Two sources, a Friday and a Monday.
        table(
            "fx_rates",
            "CAST(day AS DATE) AS day, currency, CAST(rate AS DECIMAL(38, 12)) AS rate, base, source",
            "day, currency, rate, base, source",
            "('2024-01-05', 'usd', '1.0921', 'eur', 'ecb'), ('2024-01-05', 'jpy', '158.10', 'eur', 'ecb'), \
             ('2024-01-08', 'usd', '1.0946', 'eur', 'ecb'), ('2024-01-08', 'jpy', '158.20', 'eur', 'ecb'), \
             ('2024-01-08', 'jpy', '999', 'usd', 'other')",
        )
        .await,
        table("products", "product_id, name, true AS active", "product_id, name", "('prod_1', 'Seats')").await,
        table(
            "prices",
            "price_id, 'prod_1' AS product_id, 'Monthly' AS nickname, true AS active, 'usd' AS currency, \
             CAST(unit_amount AS DECIMAL(38, 12)) AS unit_amount, 'per_unit' AS billing_scheme, \
             CAST(NULL AS TEXT) AS tiers_mode, 'month' AS \"interval\", 3 AS interval_count, 'licensed' AS usage_type, \
             CAST(NULL AS BIGINT) AS transform_divide_by, CAST(NULL AS TEXT) AS transform_round",
            "price_id, unit_amount",
            "('price_1', '1900'), ('price_2', '0.5')",
        )
        .await,
    ];
    let settings = BTreeMap::from([("merchant.zone".to_owned(), "America/New_York".to_owned())]);
    Catalog::with_views(tables, stream::functions(), &views::shipped(&settings).unwrap()).await.unwrap()
}

async fn ask(catalog: &Catalog, sql: &str) -> Vec<String> {
    let options = FormatOptions::default().with_null("");
    let mut lines = Vec::new();
    for rows in catalog.sql(sql).await.unwrap().collect().await.unwrap() {
        let columns: Vec<_> = rows.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        let line = |row| columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join(" ");
        lines.extend((0..rows.num_rows()).map(line));
    }
    lines
}

fn recipe(heading: &str) -> String {
    recipes().into_iter().find(|(found, _)| found == heading).unwrap().1
}

#[tokio::test]
async fn a_rate_holds_over_the_week_end_through_the_base_of_its_source_and_for_a_week_at_most() {
    let catalog = catalog().await;
    let rates = ask(
        &catalog,
        "SELECT date, sell_currency, buy_currency, ROUND(rate, 6) FROM exchange_rates_from_usd \
         WHERE buy_currency = 'jpy' ORDER BY date",
    )
    .await;
    assert_eq!(rates.len(), 11, "three days of one and eight of the other: {rates:?}");
    assert_eq!(rates[2], "2024-01-07 usd jpy 144.766963");
    assert_eq!(rates[3], "2024-01-08 usd jpy 144.527681");
    assert!(rates[10].starts_with("2024-01-15 "), "{rates:?}");
    let own = "SELECT DISTINCT rate FROM exchange_rates_from_usd WHERE buy_currency = 'usd'";
    assert_eq!(ask(&catalog, own).await, ["1.000000000000"]);
}

#[tokio::test]
async fn mrr_in_one_currency_adds_yen_and_euros_up_and_is_nothing_where_a_rate_is_missing() {
    // 15,000 ¥ are 103.61 $ on the Friday; 50 € are 54.61 $ on the Saturday, which the event's evening in New York is.
    let answer = ask(&catalog().await, &recipe("MRR in one currency")).await;
    assert_eq!(
        answer,
        ["2024-01-05 203.61 0", "2024-01-06 258.22 0", "2024-01-07 258.22 0", "2024-01-08 158.52 0", "2024-01-09  1"]
            .map(|line| line.to_owned())
    );
}

#[tokio::test]
async fn products_and_prices_have_the_names_of_stripes_columns() {
    let catalog = catalog().await;
    assert_eq!(ask(&catalog, &recipe("MRR by product, with its name")).await[0], "Seats prod_1 eur 5000");
    let prices = "SELECT id, product_id, unit_amount, unit_amount_decimal, recurring_interval, recurring_interval_count \
                  FROM sigma_prices ORDER BY id";
    assert_eq!(
        ask(&catalog, prices).await,
        ["price_1 prod_1 1900 1900.000000000000 month 3", "price_2 prod_1  0.500000000000 month 3"]
    );
}

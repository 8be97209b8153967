//! Prices, snapshots and rates of exchange from files, through the log, to what a person reads.

use serde_json::{Value, json};

use super::{
    serving::Psql,
    support::{Running, Said, Site, until},
};
use crate::needs;

/// 2026-03-02T12:00:00Z, a Monday.
const MONDAY: i64 = 1_772_452_800;
const DAY: i64 = 86_400;

fn event(id: &str, kind: &str, created: i64, object: Value) -> Value {
    json!({
        "id": id, "object": "event", "api_version": "2025-09-30.clover", "created": created, "livemode": true,
        "type": kind, "data": { "object": object },
    })
}

/// A subscription in the newest shape: of its price there is what webhooks carry, which is no tiers.
fn subscription(id: &str, customer: &str, status: &str, currency: &str, created: i64, price: Value) -> Value {
    json!({
        "id": id, "object": "subscription", "customer": customer, "status": status, "currency": currency,
        "created": created, "start_date": created, "discounts": [], "livemode": true,
        "items": { "object": "list", "has_more": false, "data": [{
            "id": format!("si_{id}"), "object": "subscription_item", "quantity": 3, "discounts": [], "price": price,
        }] },
    })
}

fn flat(id: &str, currency: &str, unit_amount: i64) -> Value {
    json!({
        "id": id, "object": "price", "product": "prod_flat", "currency": currency, "unit_amount": unit_amount,
        "unit_amount_decimal": unit_amount.to_string(), "active": true, "livemode": true,
        "recurring": { "interval": "month", "interval_count": 1, "usage_type": "licensed" },
    })
}

fn tiered() -> Value {
    let mut price = flat("price_tiers", "usd", 0);
    price["unit_amount"] = Value::Null;
    price["unit_amount_decimal"] = Value::Null;
    price["tiers_mode"] = "graduated".into();
    price
}

fn lines(events: &[Value]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

fn refused(site: &Site, arguments: &str) -> Said {
    let said = Said::of(site.command(arguments).output().unwrap());
    assert_ne!(said.code, 0, "{arguments}");
    said
}

#[test]
fn tiers_from_a_snapshot_and_a_price_from_a_file_fill_the_gaps_of_the_events() {
    let site = Site::new();
    let by_id = subscription("sub_2", "cus_2", "active", "usd", MONDAY, "price_file".into());
    let events = [
        event(
            "evt_1",
            "customer.subscription.created",
            MONDAY,
            subscription("sub_1", "cus_1", "active", "usd", MONDAY, tiered()),
        ),
        event("evt_2", "customer.subscription.created", MONDAY, by_id),
        event("evt_3", "ping", MONDAY + 2 * DAY, json!({ "object": "balance", "id": "x" })),
    ];
    site.ingest("data", &lines(&events));
    site.run("run --once --data-dir data");
    let gaps = "SELECT reason, object_id FROM ledger_gaps ORDER BY reason";
    assert_eq!(
        site.query("data", "csv", gaps),
        "reason,object_id\nprice_unknown,price_file\ntiers_unknown,price_tiers\n"
    );

    let mut whole = tiered();
    whole["tiers"] = json!([
        { "up_to": 1, "unit_amount": 700, "unit_amount_decimal": "700", "flat_amount": null },
        { "up_to": null, "unit_amount": null, "unit_amount_decimal": "500.5", "flat_amount": null },
    ]);
    let seen = subscription("sub_3", "cus_3", "active", "eur", MONDAY - 90 * DAY, flat("price_eur", "eur", 1_000));
    let product = json!({ "id": "prod_flat", "object": "product", "name": "Flat", "active": true, "livemode": true });
    site.write(
        "list.json",
        &json!({ "object": "list", "has_more": false, "data": [whole, seen, product] }).to_string(),
    );
    let said = site.run("ingest --snapshot list.json --as-of 2026-03-03T00:00:00Z --data-dir data");
    assert!(said.err.contains("3 objects appended as of 2026-03-03T00:00:00Z"), "{}", said.err);
    site.write(
        "prices.yml",
        "prices:\n  - { id: price_file, product: prod_file, currency: usd, unit_amount: \"1000.5\", interval: month }\n",
    );
    site.run("ingest --catalogue prices.yml --data-dir data");
    site.run("run --once --data-dir data");

    let entries = "SELECT event_time, customer_id, change, CAST(mrr_delta AS DECIMAL(20, 3)) AS mrr FROM mrr_ledger \
                   ORDER BY customer_id";
    assert_eq!(
        site.query("data", "csv", entries).lines().skip(1).collect::<Vec<_>>(),
        [
            "2026-03-02T12:00:00Z,cus_1,start,17.010",
            "2026-03-02T12:00:00Z,cus_2,start,30.015",
            "2025-12-02T12:00:00Z,cus_3,imported,30.000",
        ]
    );
    let prices = "SELECT price_id, unit_amount IS NULL AS tiered, tiers, provenance FROM prices ORDER BY price_id";
    let rows = site.rows("data", prices);
    let of = |row: usize, column: &str| rows[row][column].as_str().unwrap_or("null").to_owned();
    assert_eq!((of(0, "price_id"), of(0, "provenance")), ("price_eur".to_owned(), "snapshot".to_owned()));
    assert_eq!((of(1, "price_id"), of(1, "provenance")), ("price_file".to_owned(), "file".to_owned()));
    assert_eq!((of(2, "price_id"), of(2, "provenance")), ("price_tiers".to_owned(), "snapshot".to_owned()));
    let tiers: Value = serde_json::from_str(&of(2, "tiers")).unwrap();
    assert_eq!(tiers[1], json!({ "up_to": null, "unit_amount": "500.5", "flat_amount": "0" }));
    assert_eq!(site.query("data", "csv", "SELECT name, active FROM products"), "name,active\nFlat,true\n");
    // The day spine ends with what happened and was seen, not with the day on which the file was written.
    let last = "SELECT max(day) AS day FROM mrr_daily";
    assert_eq!(site.query("data", "csv", last), "day\n2026-03-04\n");
    // The same files again change nothing.
    let before = site.query("data", "csv", "SELECT * FROM mrr_movements ORDER BY movement_id");
    site.run("ingest --snapshot list.json --as-of 2026-03-03T00:00:00Z --data-dir data");
    site.run("ingest --catalogue prices.yml --data-dir data");
    site.run("run --once --data-dir data");
    assert_eq!(site.query("data", "csv", "SELECT * FROM mrr_movements ORDER BY movement_id"), before);
    assert_eq!(site.number("data", "SELECT count(*) FROM rejected_events"), 0);
}

#[test]
fn what_is_no_object_is_refused_or_listed() {
    let site = Site::new();
    site.write("events.jsonl", &lines(&[event("evt_1", "ping", MONDAY, json!({ "object": "balance" }))]));
    let said = refused(&site, "ingest --snapshot events.jsonl --data-dir data");
    assert!(said.err.contains("--snapshot"), "{}", said.err);
    site.write("odd.jsonl", "{\"object\":\"coupon\",\"id\":\"half\",\"percent_off\":50}\nnonsense\n{\"id\":1}\n");
    let said = site.run("ingest --snapshot odd.jsonl --test --account acct_9 --data-dir data");
    assert!(said.err.contains("1 objects appended") && said.err.contains("2 could not be read"), "{}", said.err);
    site.write("bad.yml", "prices:\n  - { id: p, currency: usd, unit_amount: 1.5, interval: month }\n");
    let said = refused(&site, "ingest --catalogue bad.yml --data-dir data");
    assert!(said.err.contains("quotes"), "{}", said.err);
    assert_eq!(refused(&site, "ingest events.jsonl --as-of 2026-01-01T00:00:00Z --data-dir data").code, 2);
    assert_eq!(refused(&site, "ingest --snapshot a --catalogue b --data-dir data").code, 2);
    site.run("run --once --data-dir data");
    let coupons = "SELECT account, coupon_id, CAST(percent_off AS DECIMAL(10, 1)) AS percent_off FROM test.coupons";
    assert_eq!(site.query("data", "csv", coupons), "account,coupon_id,percent_off\nacct_9,half,50.0\n");
}

/// Three customers in dollars and euros, and a swap of currencies in one second.
fn book() -> String {
    let active = |id: &str, customer: &str, price: &Value, at| {
        subscription(id, customer, "active", price["currency"].as_str().unwrap(), at, price.clone())
    };
    let (usd, eur) = (flat("price_usd", "usd", 10_000), flat("price_eur", "eur", 9_500));
    let ended = subscription("sub_1", "cus_1", "canceled", "usd", MONDAY, usd.clone());
    let friday = MONDAY + 4 * DAY;
    lines(&[
        event("evt_1", "customer.subscription.created", MONDAY, active("sub_1", "cus_1", &usd, MONDAY)),
        event("evt_2", "customer.subscription.created", MONDAY, active("sub_2", "cus_2", &eur, MONDAY)),
        event("evt_3", "customer.subscription.deleted", friday, ended),
        event("evt_4", "customer.subscription.created", friday, active("sub_3", "cus_1", &eur, friday)),
        // Sunday: there are no rates of the week-end.
        event("evt_5", "ping", MONDAY + 6 * DAY, json!({ "object": "balance", "id": "x" })),
    ])
}

const RATES: &str = "Date,USD,JPY,\n2026-03-06,1.1,N/A,\n2026-03-02,1.2,150,\n";

#[test]
fn amounts_are_converted_when_they_are_read_and_the_bridge_closes_with_fx() {
    let site = Site::new();
    site.write("tributary.toml", "[revenue]\nreporting_currency = \"usd\"\n");
    site.ingest("data", &book());
    site.run("run --once --data-dir data");
    // Before there are rates the error says what is missing.
    let bridge = "SELECT day, opening, imported, new, reactivation, expansion, contraction, churn, fx, closing \
                  FROM mrr_daily_reporting ORDER BY day";
    let refused = Said::of(site.command("query --data-dir data").arg(bridge).output().unwrap());
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("no rate for eur on 2026-03-0"), "{}", refused.err);

    site.write("ecb.csv", RATES);
    let said = site.run("rates ecb.csv --data-dir data");
    assert!(said.err.contains("3 rates of 2 days appended, 2026-03-02 to 2026-03-06"), "{}", said.err);
    site.run("run --once --data-dir data");
    let rates = "SELECT day, currency, CAST(rate AS DECIMAL(10, 4)) AS rate, base, source FROM fx_rates ORDER BY 1, 2";
    assert_eq!(
        site.query("data", "csv", rates),
        "day,currency,rate,base,source\n2026-03-02,jpy,150.0000,eur,ecb\n2026-03-02,usd,1.2000,eur,ecb\n\
         2026-03-06,usd,1.1000,eur,ecb\n"
    );
    for (sql, answer) in [
        ("to_currency(100, 'eur', 'usd', date '2026-03-02')", "120.000000"),
        ("to_currency(100, 'usd', 'jpy', date '2026-03-05')", "12500.000000"),
        (
            "to_currency(closing, currency, 'usd', day) FROM mrr_daily WHERE currency = 'eur' AND day = '2026-03-08'",
            "627.000000",
        ),
    ] {
        let said = site.query("data", "csv", &format!("SELECT {sql}"));
        assert_eq!(said.lines().nth(1), Some(answer), "{sql}");
    }
    let late = Said::of(
        site.command("query --data-dir data")
            .arg("SELECT to_currency(1, 'jpy', 'eur', date '2026-03-10')")
            .output()
            .unwrap(),
    );
    assert!(late.err.contains("no rate for jpy on 2026-03-10: the last one is of"), "{}", late.err);

    // 3 × 100 USD and 3 × 95 EUR at 1.2; on Friday the dollars give way to euros at 1.1, which also moves those that stay.
    let rows: Vec<String> = site
        .query("data", "csv", bridge)
        .lines()
        .skip(1)
        .map(|line| {
            line.split(',').map(|cell| cell.strip_suffix(".000000").unwrap_or(cell)).collect::<Vec<_>>().join(",")
        })
        .collect();
    assert_eq!(
        rows,
        [
            "2026-03-02,0,0,642,0,0,0,0,0,642",
            "2026-03-03,642,0,0,0,0,0,0,0,642",
            "2026-03-04,642,0,0,0,0,0,0,0,642",
            "2026-03-05,642,0,0,0,0,0,0,0,642",
            "2026-03-06,642,0,0,0,13.500000,0,0,-28.500000,627",
            "2026-03-07,627,0,0,0,0,0,0,0,627",
            "2026-03-08,627,0,0,0,0,0,0,0,627",
        ]
    );
    // A query for some days needs their rates alone.
    let some = "SELECT closing FROM mrr_daily_reporting WHERE day >= '2026-03-08'";
    assert_eq!(site.query("data", "csv", some), "closing\n627.000000\n");
    assert_eq!(site.query("data", "csv", "SELECT count(*) AS n FROM test.mrr_daily_reporting"), "n\n0\n");
}

#[test]
fn a_pipeline_cannot_convert_and_is_told_where_to() {
    let site = Site::new();
    let sql = "/*---\nname: in_euros\ndescription: x\nowner: x\nmode: upsert\ngrain: [account, livemode, movement_id]\n\
               time_column: occurred_at\ncolumns:\n  movement_id: { description: x }\n  occurred_at: { description: x }\n\
               \x20 euros: { description: x }\n---*/\nSELECT account, livemode, movement_id, occurred_at,\n  \
               to_currency(mrr_delta, currency, 'eur', local_date(occurred_at, 'UTC')) AS euros\nFROM mrr_movements\n";
    site.write("sql/in_euros.sql", sql);
    site.write("tributary.toml", "[pipelines]\ndir = \"sql\"\n");
    let said = refused(&site, "check");
    assert!(said.err.contains("the value of `to_currency` changes"), "{}", said.err);
}

#[test]
fn a_running_engine_converts_with_rates_of_the_last_second() {
    if !needs::psql() {
        return;
    }
    let site = Site::new();
    site.ingest("data", &book());
    let mut engine = Running::start(&site, "--data-dir data", &[]);
    let psql = Psql::of(&mut engine, &site, "data");
    site.write("rates.csv", "day,currency,base,rate\n2026-03-02,usd,eur,1.25\n");
    site.run("rates rates.csv --source bank --data-dir data");
    until("the rate in psql", || (psql.answer("SELECT count(*) FROM fx_rates") == "1").then_some(()));
    assert_eq!(psql.answer("SELECT to_currency(8, 'eur', 'usd', date '2026-03-04')"), "10.000000");
    engine.stop();
    assert_eq!(site.query("data", "csv", "SELECT source FROM fx_rates"), "source\nbank\n");
}

//! The metrics: every worked case through the program, and all tables against the same SQL run once, in batch, by stock
//! DataFusion over what the ledger wrote.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::RecordBatch,
    compute::{cast, concat_batches},
    datatypes::SchemaRef,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{datasource::MemTable, prelude::SessionContext};
use serde_json::{Value, json};
use tributary::{
    config::Config,
    engine,
    storage::Home,
    stream::{self, epoch::EpochEnd, file::PipelineFile, graph::plan_all, pipeline::RowDelta},
    tables::{self, Source},
};

use super::support::Site;

/// The merchant's zone: at two in the morning of UTC it is the day before.
const CONFIG: &str = "[merchant]\nzone = \"America/New_York\"\n";

/// A price: its id, minor units, currency, interval.
type Plan<'a> = (&'a str, i64, &'a str, &'a str);

/// The events of one account. A moment is a day, at noon, or `2025-03-01T02`.
struct Story {
    account: &'static str,
    lines: String,
    known: BTreeSet<String>,
    events: usize,
}

fn seconds(moment: &str) -> i64 {
    let (day, hour) = moment.split_once('T').unwrap_or((moment, "12"));
    let day: chrono::NaiveDate = day.parse().unwrap();
    day.and_hms_opt(hour.parse().unwrap(), 0, 0).unwrap().and_utc().timestamp()
}

impl Story {
    fn new(account: &'static str) -> Self {
        Self { account, lines: String::new(), known: BTreeSet::new(), events: 0 }
    }

    fn event(&mut self, moment: &str, kind: &str, object: Value) -> &mut Self {
        self.events += 1;
        let event = json!({
            "id": format!("evt_{}_{}", self.account, self.events), "object": "event", "account": self.account,
            "api_version": "2025-03-31.basil", "created": seconds(moment), "livemode": true, "type": kind,
            "data": { "object": object },
        });
        writeln!(self.lines, "{event}").unwrap();
        self
    }

    /// A subscription as it is from a moment on; its name is `customer/subscription`.
    fn is(&mut self, moment: &str, name: &str, status: &str, plans: &[Plan<'_>]) -> &mut Self {
        let (customer, id) = name.split_once('/').unwrap_or((name, name));
        let (customer, id) = (format!("cus_{}_{customer}", self.account), format!("sub_{}_{id}", self.account));
        let created = seconds(moment);
        let items: Vec<Value> = plans
            .iter()
            .enumerate()
            .map(|(at, (price, minor, currency, interval))| {
                json!({
                    "id": format!("si_{id}_{at}"), "object": "subscription_item", "quantity": 1, "subscription": id,
                    "discounts": [], "created": created, "current_period_start": created,
                    "current_period_end": created + 2_592_000,
                    "price": {
                        "id": format!("price_{price}"), "object": "price", "active": true, "billing_scheme": "per_unit",
                        "currency": currency, "livemode": true, "product": format!("prod_{price}"),
                        "type": "recurring", "unit_amount": minor, "unit_amount_decimal": minor.to_string(),
                        "created": 1_700_000_000, "tiers_mode": null, "transform_quantity": null,
                        "recurring": { "interval": interval, "interval_count": 1, "usage_type": "licensed" },
                    },
                })
            })
            .collect();
        let is_new = self.known.insert(id.clone());
        let kind = match status {
            "canceled" => "customer.subscription.deleted",
            _ if is_new => "customer.subscription.created",
            _ => "customer.subscription.updated",
        };
        let ended = (status == "canceled").then_some(created);
        let subscription = json!({
            "id": id, "object": "subscription", "customer": customer, "currency": plans[0].2, "status": status,
            "livemode": true, "created": created, "start_date": created, "cancel_at_period_end": false,
            "discounts": [], "ended_at": ended, "canceled_at": ended,
            "items": { "object": "list", "data": items, "has_more": false, "total_count": plans.len() },
        });
        self.event(moment, kind, subscription)
    }

    /// Pays `minor` units of dollars a month from a moment on; nothing is the end.
    fn pays(&mut self, moment: &str, name: &str, minor: i64) -> &mut Self {
        let price = format!("{}_{minor}", self.account);
        let status = if minor == 0 { "canceled" } else { "active" };
        self.is(moment, name, status, &[(&price, minor, "usd", "month")])
    }

    /// The log goes on to a moment at which nothing happens.
    fn quiet(&mut self, moment: &str) -> &mut Self {
        let id = format!("cus_{}_quiet", self.account);
        self.event(moment, "customer.updated", json!({ "id": id, "object": "customer", "livemode": true }))
    }

    fn invoice(&mut self, moment: &str, kind: &str, id: &str, minor: i64, attempts: i64) -> &mut Self {
        let paid = kind == "paid";
        let invoice = json!({
            "id": format!("in_{}_{id}", self.account), "object": "invoice", "livemode": true,
            "customer": format!("cus_{}_{id}", self.account), "currency": "usd", "total": minor, "amount_due": minor,
            "amount_paid": if paid { minor } else { 0 }, "amount_remaining": if paid { 0 } else { minor },
            "attempt_count": attempts, "status": if paid { "paid" } else { "open" },
        });
        self.event(moment, &format!("invoice.{kind}"), invoice)
    }
}

fn stories() -> Vec<Story> {
    let mut all = Vec::new();
    let mut story = |account: &'static str, tell: &dyn Fn(&mut Story)| {
        let mut story = Story::new(account);
        tell(&mut story);
        all.push(story);
    };
    story("bridge", &|s| {
        s.pays("2025-01-10", "a", 90_000).pays("2025-01-10", "b", 6_000).pays("2025-01-11", "c", 4_000);
        s.pays("2025-02-05", "d", 10_000).pays("2025-02-06", "a", 95_000).pays("2025-02-07", "a", 91_000);
        s.pays("2025-02-08", "b", 0).quiet("2025-04-15");
    });
    story("churned", &|s| {
        s.is("2025-01-10", "a", "active", &[("yearly", 12_000, "usd", "year")]).pays("2025-01-10", "b", 5_000);
        s.is("2025-02-10", "a", "canceled", &[("yearly", 12_000, "usd", "year")]).pays("2025-02-11", "b", 2_500);
    });
    story("retained", &|s| {
        s.pays("2025-01-10", "a", 10_000).pays("2025-01-10", "b", 10_000);
        s.pays("2025-02-03", "a", 6_000).pays("2025-02-20", "a", 10_000);
        s.pays("2025-02-03", "b", 0).pays("2025-02-20", "b/again", 10_000);
        s.pays("2025-02-04", "outsider", 5_000).pays("2025-02-21", "outsider", 2_000);
    });
    story("plans", &|s| {
        s.is("2025-01-10", "a", "active", &[("A", 2_000, "usd", "month")]);
        s.is("2025-02-10", "a", "active", &[("B", 5_000, "usd", "month")]);
    });
    story("currencies", &|s| {
        s.pays("2025-01-10", "a/dollars", 10_000);
        s.is("2025-01-20", "a/euros", "active", &[("euros", 9_500, "eur", "month")]);
        s.pays("2025-02-10", "a/dollars", 0).quiet("2025-03-10");
    });
    story("logos", &|s| {
        for name in ["a", "b", "c", "d"] {
            s.pays("2025-01-10", name, 1_000);
        }
        // Comes and goes; goes and comes back; cancels; stops to pay. In New York it is still February.
        s.pays("2025-02-02", "e", 1_000).pays("2025-02-12", "e", 0);
        s.pays("2025-02-03", "b", 0).pays("2025-02-13", "b/again", 1_000);
        s.pays("2025-02-04", "c", 0);
        s.is("2025-03-01T02", "d", "unpaid", &[("logos_1000", 1_000, "usd", "month")]).quiet("2025-03-20");
    });
    story("years", &|s| {
        s.pays("2024-01-10", "a", 10_000).pays("2024-01-10", "b", 10_000);
        s.pays("2024-05-10", "a", 15_000).pays("2024-06-10", "b", 0).pays("2024-07-10", "c", 7_000);
        s.quiet("2025-02-10");
    });
    story("dunning", &|s| {
        s.invoice("2025-01-10", "payment_failed", "retried", 5_000, 1);
        s.invoice("2025-01-13", "payment_failed", "retried", 5_000, 2).invoice(
            "2025-01-18",
            "paid",
            "retried",
            5_000,
            3,
        );
        s.invoice("2025-01-11", "payment_failed", "mended", 3_000, 1).invoice("2025-02-02", "paid", "mended", 3_000, 1);
        s.invoice("2025-01-12", "payment_failed", "lost", 8_000, 4);
        s.invoice("2025-02-12", "marked_uncollectible", "lost", 8_000, 4);
        s.invoice("2025-01-14", "paid", "fine", 9_000, 1).quiet("2025-02-20");
    });
    story("trials", &|s| {
        let three = [("T1", 100, "usd", "month"), ("T2", 200, "usd", "month"), ("T3", 300, "usd", "month")];
        s.is("2025-01-10", "a", "trialing", &three).is("2025-01-10", "b", "trialing", &three[..1]);
        s.is("2025-01-18", "a", "active", &three).is("2025-01-20", "b", "canceled", &three[..1]);
        s.is("2025-01-25", "c", "trialing", &three[2..]).quiet("2025-02-10");
    });
    all
}

/// The tables of a data directory.
struct Book {
    context: SessionContext,
    contents: BTreeMap<String, RecordBatch>,
    settings: BTreeMap<String, String>,
}

impl Book {
    async fn open(site: &Site, data: &str) -> Self {
        let config = Config::load(Some(&site.path("tributary.toml")), &site.path(data)).unwrap();
        let zone = config.zone().unwrap();
        let context = context();
        let mut contents = BTreeMap::new();
        for table in
            engine::committed_tables(&Home::directory(site.path(data)).unwrap(), zone, Duration::ZERO).await.unwrap()
        {
            let rows = SessionContext::new().read_table(Arc::clone(&table.provider)).unwrap().collect().await.unwrap();
            context.register_table(table.name.as_str(), table.provider).unwrap();
            if let Ok(contract) = tables::get(&table.name) {
                contents.insert(table.name, conform(&rows, &contract.schema));
            }
        }
        Self { context, contents, settings: config.settings() }
    }

    /// The rows of a query, values separated by blanks.
    async fn ask(&self, sql: &str) -> Vec<String> {
        let rows = self.context.sql(sql).await.unwrap().collect().await.unwrap();
        rows.iter().flat_map(lines).collect()
    }

    async fn says(&self, sql: &str, expected: &[&str]) {
        assert_eq!(self.ask(sql).await, expected, "{sql}");
    }

    /// A query for what is wrong finds nothing.
    async fn never(&self, sql: &str) {
        let found = self.ask(sql).await;
        assert!(found.is_empty(), "{sql}\n{:?}", &found[..found.len().min(5)]);
    }

    /// Every shipped pipeline's table is its SQL over the engine's tables.
    async fn equals_batch(&self) {
        let stock = context();
        let register = |name: &str, rows: RecordBatch| {
            stock.register_table(name, Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap())).unwrap();
        };
        let mut deltas = BTreeMap::new();
        for table in tables::all().unwrap().iter().filter(|table| table.source == Source::Engine) {
            let rows = self.contents[&table.name].clone();
            let removed = RecordBatch::new_empty(rows.schema());
            deltas.insert(table.name.clone(), RowDelta { removed, added: rows.clone() });
            register(&table.name, rows);
        }
        let files = PipelineFile::load_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")).unwrap();
        let relations = engine::relations().unwrap();
        let small = BTreeMap::from([("log_clock".to_owned(), self.contents["log_clock"].clone())]);
        let end = EpochEnd { small, ..EpochEnd::default() };
        for mut pipeline in plan_all(files, &relations, &BTreeMap::new(), &self.settings).await.unwrap() {
            let name = pipeline.name().to_owned();
            let parameters = pipeline.file().parameters(&BTreeMap::new(), &self.settings).unwrap();
            let query = stock.sql(&pipeline.file().text).await.unwrap().with_param_values(parameters).unwrap();
            let rows = conform(&query.collect().await.unwrap(), pipeline.schema());
            let (ours, batch): (BTreeSet<_>, BTreeSet<_>) =
                (lines(&self.contents[&name]).into_iter().collect(), lines(&rows).into_iter().collect());
            let wrong: Vec<_> = ours.symmetric_difference(&batch).take(4).collect();
            assert!(wrong.is_empty(), "{name}: {wrong:#?}");
            // A pipeline that is filled from what is there gives the same, and says what it keeps.
            let filled = pipeline.advance(&deltas, &end).await.unwrap();
            assert_eq!(filled.added.num_rows(), rows.num_rows(), "{name}");
            println!("{name}: {} rows, {} groups", rows.num_rows(), pipeline.explain().groups);
            deltas.insert(name.clone(), filled);
            register(&name, rows);
        }
    }
}

fn context() -> SessionContext {
    let context = SessionContext::new();
    for function in stream::functions() {
        context.register_udf(function);
    }
    context
}

fn conform(rows: &[RecordBatch], schema: &SchemaRef) -> RecordBatch {
    let conformed: Vec<_> = rows
        .iter()
        .map(|rows| {
            let columns = rows.columns().iter().zip(schema.fields());
            let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap()).collect();
            RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
        })
        .collect();
    concat_batches(schema, &conformed).unwrap()
}

fn lines(rows: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let formatters: Vec<_> = rows.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    (0..rows.num_rows())
        .map(|row| formatters.iter().map(|f| f.value(row).to_string()).collect::<Vec<_>>().join(" "))
        .collect()
}

/// The stories as the program tells them; the directory lives as long as the site.
async fn told() -> (Site, Book) {
    let site = Site::new();
    site.write("tributary.toml", CONFIG);
    let events: String = stories().into_iter().map(|story| story.lines).collect();
    site.ingest("data", &events);
    let said = site.run("run --once --data-dir data");
    assert!(said.err.contains(" 0 rejected, 0 late"), "{}", said.err);
    site.run("check --data-dir data");
    let book = Book::open(&site, "data").await;
    book.never("SELECT * FROM ledger_gaps").await;
    (site, book)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_says_what_its_worked_case_says() {
    let (_site, book) = told().await;
    book.equals_batch().await;
    the_bridge(&book).await;
    retention(&book).await;
    prices_and_customers(&book).await;
    logos(&book).await;
    dunning(&book).await;
    trials(&book).await;
}

async fn the_bridge(book: &Book) {
    // 1,000 + 100 new + 50 expansion − 40 contraction − 60 churn; the −5 of a rate exist in a reporting currency only.
    book.says(
        "SELECT opening, imported, new, reactivation, expansion, contraction, churn, closing, arr, customers \
         FROM mrr_monthly WHERE account = 'bridge' AND month = '2025-02-01'",
        &["1000.000000 0.000000 100.000000 0.000000 50.000000 -40.000000 -60.000000 1050.000000 12600.000000 3"],
    )
    .await;
    // (100 + 50) / (40 + 60). Months without movements are there, and their ratios are null.
    book.says(
        "SELECT q.month, won, lost, quick_ratio, closing, gross_churn, net_churn FROM quick_ratio AS q \
         JOIN mrr_monthly AS m ON m.account = q.account AND m.month = q.month \
         WHERE q.account = 'bridge' ORDER BY q.month",
        &[
            "2025-01-01 1000.000000 0.000000 null 1000.000000 null null",
            "2025-02-01 150.000000 100.000000 1.500000 1050.000000 0.100000 0.050000",
            "2025-03-01 0.000000 0.000000 null 1050.000000 0.000000 0.000000",
            "2025-04-01 0.000000 0.000000 null 1050.000000 0.000000 0.000000",
        ],
    )
    .await;
    book.says(
        "SELECT month, arpa FROM arpa WHERE account = 'bridge' AND month = '2025-03-01'",
        &["2025-03-01 350.000000"],
    )
    .await;
    // One of three and one who came: 350 / (1/4). Where nobody was lost there is no lifetime value.
    book.says(
        "SELECT month, logo_churn, ltv FROM ltv WHERE account = 'bridge' AND month > '2025-01-31' ORDER BY month",
        &["2025-02-01 0.250000 1400.000000", "2025-03-01 0.000000 null", "2025-04-01 0.000000 null"],
    )
    .await;
    book.says(
        "SELECT contraction, churn, churned_revenue FROM mrr_monthly WHERE account = 'churned' AND month = '2025-02-01'",
        &["-25.000000 -10.000000 35.000000"],
    )
    .await;
}

async fn retention(book: &Book) {
    let both = "SELECT n.month, n.opening, n.retained, nrr, g.retained, grr FROM net_revenue_retention AS n \
                JOIN gross_revenue_retention AS g ON g.account = n.account AND g.month = n.month";
    book.says(
        &format!("{both} WHERE n.account = 'retained' ORDER BY n.month"),
        &[
            "2025-01-01 0.000000 0.000000 null 0.000000 null",
            "2025-02-01 200.000000 200.000000 1.000000 200.000000 1.000000",
        ],
    )
    .await;
    book.says(
        &format!(
            "{both} WHERE n.account = 'years' AND n.month IN ('2024-05-01', '2024-06-01', '2024-07-01') ORDER BY 1"
        ),
        &[
            "2024-05-01 200.000000 250.000000 1.250000 200.000000 1.000000",
            "2024-06-01 250.000000 150.000000 0.600000 150.000000 0.600000",
            "2024-07-01 150.000000 150.000000 1.000000 150.000000 1.000000",
        ],
    )
    .await;
    // Of 200 a year before, 150 are left of the one who grew; who came since is not counted.
    book.says(
        "SELECT n.month, n.opening_12m, retained_12m, nrr_12m, grr_12m FROM net_revenue_retention AS n \
         JOIN (SELECT account, month, grr_12m FROM gross_revenue_retention) AS g \
         ON g.account = n.account AND g.month = n.month \
         WHERE n.account = 'years' AND n.month > '2024-11-30' ORDER BY 1",
        &[
            "2024-12-01 null null null null",
            "2025-01-01 200.000000 150.000000 0.750000 0.500000",
            "2025-02-01 200.000000 150.000000 0.750000 0.500000",
        ],
    )
    .await;
    book.says(
        "SELECT months_since, mrr, retention FROM cohort_revenue_retention \
         WHERE account = 'years' AND cohort = '2024-01-01' AND months_since IN (0, 3, 4, 5, 13) ORDER BY 1",
        &[
            "0 200.000000 1.000000",
            "3 200.000000 1.000000",
            "4 250.000000 1.250000",
            "5 150.000000 0.750000",
            "13 150.000000 0.750000",
        ],
    )
    .await;
    book.says(
        "SELECT cohort, months_since, customers, size, retention FROM cohort_logo_retention \
         WHERE account = 'years' AND month IN ('2024-05-01', '2025-02-01') ORDER BY 1, 2",
        &["2024-01-01 4 2 2 1.000000", "2024-01-01 13 1 2 0.500000", "2024-07-01 7 1 1 1.000000"],
    )
    .await;
}

async fn prices_and_customers(book: &Book) {
    book.says(
        "SELECT price_id, product_id, \"interval\", interval_count, mrr, quantity FROM mrr_by_price \
         WHERE account = 'plans' AND DATE '2025-03-01' BETWEEN valid_from AND valid_to ORDER BY 1",
        &["price_A prod_A month 1 0.000000 0.000000000000", "price_B prod_B month 1 50.000000 1.000000000000"],
    )
    .await;
    book.says(
        "SELECT kind, mrr_delta FROM mrr_movements WHERE account = 'plans' ORDER BY occurred_at",
        &["new 20.000000", "expansion 30.000000"],
    )
    .await;
    for (day, mrr) in [("2025-01-09", None), ("2025-01-10", Some("20.000000")), ("2025-02-09", Some("20.000000"))] {
        let sql = format!(
            "SELECT mrr FROM customer_mrr WHERE account = 'plans' AND DATE '{day}' BETWEEN valid_from AND valid_to"
        );
        book.says(&sql, mrr.as_slice()).await;
    }
    // Two currencies are two rows and one customer, who does not churn by leaving one of them.
    book.says(
        "SELECT currency, mrr, valid_to FROM customer_mrr \
         WHERE account = 'currencies' AND DATE '2025-02-01' BETWEEN valid_from AND valid_to ORDER BY 1",
        &["eur 95.000000 9999-12-31", "usd 100.000000 2025-02-09"],
    )
    .await;
    book.says(
        "SELECT month, opening, arrived, closing, churned, lost, logo_churn FROM logo_churn \
         WHERE account = 'currencies' ORDER BY 1",
        &["2025-01-01 0 1 1 0 0 0.000000", "2025-02-01 1 0 1 0 0 0.000000", "2025-03-01 1 0 1 0 0 0.000000"],
    )
    .await;
    book.says("SELECT customers_delta, kind FROM logo_movements WHERE account = 'currencies'", &["1 new"]).await;
}

async fn logos(book: &Book) {
    // Of four one cancelled and one did not pay; another went and came back, and one came and went.
    book.says(
        "SELECT opening, arrived, voluntary, involuntary, closing, churned, lost, churn_of_opening, \
         churn_of_opening_and_new, logo_churn, voluntary_churn, involuntary_churn FROM logo_churn \
         WHERE account = 'logos' AND month = '2025-02-01'",
        &["4 2 3 1 2 4 2 0.500000 0.666667 0.666667 0.500000 0.166667"],
    )
    .await;
    book.says(
        "SELECT day, closing, churned_30d, arrived_30d, logo_churn_30d FROM customers_daily \
         WHERE account = 'logos' AND day IN ('2025-02-08', '2025-02-28', '2025-03-20') ORDER BY 1",
        &["2025-02-08 3 2 5 0.400000", "2025-02-28 2 4 2 0.666667", "2025-03-20 2 1 0 0.333333"],
    )
    .await;
}

async fn dunning(book: &Book) {
    book.says(
        "SELECT invoice_id, initial_payment_failed_at, initial_failed_amount, recovered_amount, recovery_method, \
         retries_exhausted, attempt_count, retry_attempt_count FROM recoveries WHERE account = 'dunning' ORDER BY 1",
        &[
            "in_dunning_lost 2025-01-12T12:00:00Z 80.000000 null null true 4 3",
            "in_dunning_mended 2025-01-11T12:00:00Z 30.000000 30.000000 manual false 1 0",
            "in_dunning_retried 2025-01-10T12:00:00Z 50.000000 50.000000 retry false 3 2",
        ],
    )
    .await;
    book.says(
        "SELECT month, failed_invoices, initial_failed_amount, recovered_invoices, recovered_amount, \
         exhausted_invoices, recovery_rate FROM dunning_recovery WHERE account = 'dunning' ORDER BY 1",
        &["2025-01-01 3 160.000000 2 80.000000 1 0.500000", "2025-02-01 0 0.000000 0 0.000000 0 null"],
    )
    .await;
}

async fn trials(book: &Book) {
    // Three items are one trial.
    book.says(
        "SELECT subscription_id, trial_mrr, ended_at, outcome FROM trials WHERE account = 'trials' ORDER BY 1",
        &[
            "sub_trials_a 6.000000 2025-01-18T12:00:00Z converted",
            "sub_trials_b 1.000000 2025-01-20T12:00:00Z canceled",
            "sub_trials_c 3.000000 null null",
        ],
    )
    .await;
    book.says(
        "SELECT month, ended, converted, conversion FROM trial_conversion WHERE account = 'trials' ORDER BY 1",
        &["2025-01-01 2 1 0.500000", "2025-02-01 0 0 null"],
    )
    .await;
    book.says(
        "SELECT day, mrr, committed_mrr, trial_mrr, trials FROM mrr_outlook WHERE account = 'trials' \
         AND day IN ('2025-01-10', '2025-01-18', '2025-01-20', '2025-01-31') ORDER BY 1",
        &[
            "2025-01-10 0.000000 0.000000 7.000000 2",
            "2025-01-18 6.000000 6.000000 1.000000 1",
            "2025-01-20 6.000000 6.000000 0.000000 0",
            "2025-01-31 6.000000 6.000000 3.000000 1",
        ],
    )
    .await;
    book.says(
        "SELECT kind, cause, mrr_delta FROM mrr_movements WHERE account = 'trials'",
        &["new trial_converted 6.000000"],
    )
    .await;
}

/// A year of an account, with disorder, in two runs.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_year_every_metric_equals_its_definition_over_the_ledger() {
    let site = Site::new();
    site.write("tributary.toml", CONFIG);
    site.simulate("events.jsonl", "--customers 80 --months 15 --seed 4 --disorder 0.1");
    let events = site.read("events.jsonl");
    let half = events.lines().count() / 2;
    for part in [0..half, half..usize::MAX] {
        let lines = events.lines().skip(part.start).take(part.len());
        site.ingest("data", &lines.map(|line| format!("{line}\n")).collect::<String>());
        site.run("run --once --data-dir data");
    }
    site.run("check --data-dir data");
    let book = Book::open(&site, "data").await;
    book.equals_batch().await;

    for table in ["mrr_monthly", "net_revenue_retention", "logo_churn", "cohort_logo_retention", "dunning_recovery"] {
        let months: usize = book.ask(&format!("SELECT count(DISTINCT month) FROM {table}")).await[0].parse().unwrap();
        assert!(months > 12, "{table} has {months} months");
    }
    // A month closes with what its last day closes with, and so do prices and customers on every day.
    book.never(
        "SELECT m.month, m.currency, m.closing, d.closing FROM mrr_monthly AS m JOIN ( \
         SELECT date_trunc('month', day) AS month, currency, max(day) AS day FROM mrr_daily GROUP BY 1, 2) AS l \
         ON l.month = m.month AND l.currency = m.currency \
         JOIN mrr_daily AS d ON d.day = l.day AND d.currency = m.currency \
         WHERE d.closing <> m.closing OR d.customers <> m.customers",
    )
    .await;
    book.never(
        "SELECT m.month FROM mrr_monthly AS m WHERE closing <> opening + imported + new + reactivation + expansion \
         + contraction + churn",
    )
    .await;
    for (table, rest) in [("mrr_by_price", ""), ("customer_mrr", "AND d.customers = count(*) FILTER (WHERE p.mrr > 0)")]
    {
        book.never(&format!(
            "SELECT d.day, d.currency, d.closing, sum(p.mrr) FROM mrr_daily AS d JOIN {table} AS p \
             ON p.currency = d.currency AND d.day BETWEEN p.valid_from AND p.valid_to \
             GROUP BY d.day, d.currency, d.closing, d.customers HAVING NOT (sum(p.mrr) = d.closing {rest})"
        ))
        .await;
    }
    book.never(
        "SELECT l.currency FROM (SELECT currency, sum(mrr_delta) AS mrr FROM mrr_ledger GROUP BY 1) AS l \
         JOIN (SELECT currency, sum(mrr) AS mrr FROM customer_mrr WHERE valid_to = '9999-12-31' GROUP BY 1) AS c \
         ON c.currency = l.currency WHERE l.mrr <> c.mrr",
    )
    .await;
    book.never(
        "SELECT o.day FROM mrr_outlook AS o LEFT JOIN mrr_daily AS d ON d.day = o.day AND d.currency = o.currency \
         WHERE o.mrr <> COALESCE(d.closing, 0) OR o.committed_mrr > o.mrr OR o.trial_mrr < 0 OR o.trials < 0",
    )
    .await;
    book.never(
        "SELECT month FROM trial_conversion AS t JOIN (SELECT date_trunc('month', \
         local_date(event_time, 'America/New_York')) AS month, count(DISTINCT subscription_id) AS converted \
         FROM outlook_ledger AS o WHERE measure = 'trial' AND cause = 'trial_converted' \
         AND reverses_entry_id IS NULL AND entry_id NOT IN (SELECT reverses_entry_id FROM outlook_ledger \
         WHERE reverses_entry_id IS NOT NULL) GROUP BY 1) AS o USING (month) WHERE t.converted <> o.converted",
    )
    .await;
    // Customers over all currencies are those with MRR in any.
    book.never(
        "SELECT d.day, d.closing, count(DISTINCT c.customer_id) FROM customers_daily AS d LEFT JOIN customer_mrr AS c \
         ON d.day BETWEEN c.valid_from AND c.valid_to AND c.mrr > 0 \
         GROUP BY d.day, d.closing HAVING d.closing <> count(DISTINCT c.customer_id)",
    )
    .await;
    // Retention over a month and over twelve, from every customer's MRR at both ends.
    for (column, months, net, gross) in [("", 1, "nrr", "grr"), ("_12m", 12, "nrr_12m", "grr_12m")] {
        let wrong = book
            .ask(&format!(
                "WITH ends AS (SELECT month, currency, opening{column} AS opening, \
                 CAST(month - INTERVAL '{months_before} months' - INTERVAL '1 day' AS DATE) AS first, \
                 CAST(month + INTERVAL '1 month' - INTERVAL '1 day' AS DATE) AS last FROM net_revenue_retention), \
                 naive AS (SELECT e.month, e.currency, sum(o.mrr) AS opening, sum(c.mrr) AS net, \
                 sum(LEAST(o.mrr, c.mrr)) AS gross FROM ends AS e \
                 JOIN customer_mrr AS o ON o.currency = e.currency AND o.mrr > 0 \
                 AND e.first BETWEEN o.valid_from AND o.valid_to \
                 JOIN customer_mrr AS c ON c.currency = e.currency AND c.customer_id = o.customer_id \
                 AND e.last BETWEEN c.valid_from AND c.valid_to GROUP BY e.month, e.currency) \
                 SELECT x.month, x.currency, n.opening{column}, x.opening, n.{net}, g.{gross} FROM naive AS x \
                 JOIN net_revenue_retention AS n ON n.month = x.month AND n.currency = x.currency \
                 JOIN gross_revenue_retention AS g ON g.month = x.month AND g.currency = x.currency \
                 WHERE n.opening{column} <> x.opening OR n.retained{column} <> x.net OR g.retained{column} <> x.gross",
                months_before = months - 1
            ))
            .await;
        assert!(wrong.is_empty(), "{months} months: {wrong:?}");
    }
    let years = book.ask("SELECT count(*) FROM net_revenue_retention WHERE nrr_12m <> 1 AND nrr <> 1").await;
    assert_ne!(years, ["0"], "there are months with a year before them");
    book.never("SELECT month FROM gross_revenue_retention WHERE grr > 1 OR grr_12m > 1").await;
    // A cohort's customers are those whose first MRR was in its month.
    book.never(
        "WITH firsts AS (SELECT customer_id, \
         date_trunc('month', min(local_date(occurred_at, 'America/New_York'))) AS cohort FROM mrr_movements \
         GROUP BY customer_id) SELECT r.cohort, r.month, r.mrr, sum(c.mrr) FROM cohort_revenue_retention AS r \
         JOIN firsts AS f ON f.cohort = r.cohort JOIN customer_mrr AS c ON c.customer_id = f.customer_id \
         AND c.currency = r.currency AND CAST(r.month + INTERVAL '1 month' - INTERVAL '1 day' AS DATE) \
         BETWEEN c.valid_from AND c.valid_to GROUP BY r.cohort, r.month, r.currency, r.mrr HAVING r.mrr <> sum(c.mrr)",
    )
    .await;
    book.never(
        "SELECT l.month FROM logo_churn AS l WHERE closing <> opening + arrived - voluntary - involuntary - paused \
         - to_free OR churn_of_opening > 1",
    )
    .await;
}

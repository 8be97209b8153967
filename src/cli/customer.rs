//! `tributary customer`: how a customer's recurring revenue came to be.

use std::{collections::BTreeMap, fmt::Display};

use arrow::{
    array::{AsArray, RecordBatch},
    compute::{cast, concat_batches},
    datatypes::{DataType, TimestampMicrosecondType},
};
use clap::{Args, ValueEnum};
use miette::IntoDiagnostic;

use super::{Outcome, Place, asked::Asked, output, query, rim};
use crate::{
    explain::{Event, Facts, Gap, note_pricing, story, text},
    serve::{
        Catalog,
        catalog::{LIVE_SCHEMA, TEST_SCHEMA},
    },
    stripe::types::Scope,
    tables::{self, read},
    time::EventTime,
};

#[derive(Args)]
pub(super) struct Arguments {
    /// Stripe's id: cus_…
    id: String,
    /// A customer of Stripe's test mode
    #[arg(long)]
    test_mode: bool,
    /// The account, where several have a customer of that id
    #[arg(long)]
    account: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    asked: Asked,
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    output: Written,
}

/// How a story is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Written {
    /// For people
    Text,
    /// One JSON object
    Json,
}

impl Written {
    /// Writes `story`, which reads `text` for people.
    pub(super) fn say(self, story: &impl serde::Serialize, text: impl Display) -> miette::Result<()> {
        match self {
            Self::Text => output::say(text),
            Self::Json => output::say(serde_json::to_string(story).into_diagnostic()?),
        }
    }
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { id, test_mode, account, place, asked, output } = arguments;
    let catalog = catalog(&place, &asked, &id).await?;
    let schema = schema(!test_mode);
    let accounts = accounts(&catalog, schema, &id).await?;
    let account = match (account, accounts.as_slice()) {
        (Some(account), accounts) if accounts.contains(&account) => account,
        (None, [account]) => account.clone(),
        (None, []) | (Some(_), _) => return Err(unknown(&catalog, &id, test_mode, &accounts).await?),
        (None, several) => miette::bail!(
            help = "name one with --account",
            "several accounts have a customer {id}: {}",
            several.join(", ")
        ),
    };
    let scope = Scope { account: account.as_str().into(), livemode: !test_mode };
    let facts = facts(&catalog, &asked, &place, scope, &id).await?;
    let story = story::tell(&facts).map_err(rim::report)?;
    output.say(&story, text::story(&story, &asked.said()).trim_end())?;
    Ok(Outcome::Done)
}

/// The tables that were asked for, of one customer.
pub(super) async fn catalog(place: &Place, asked: &Asked, customer: &str) -> miette::Result<Catalog> {
    if asked.is_history() { asked.catalog(place, Some(customer)).await } else { query::catalog(place).await }
}

pub(super) fn schema(livemode: bool) -> &'static str {
    if livemode { LIVE_SCHEMA } else { TEST_SCHEMA }
}

/// The tables that name a customer.
const ABOUT_CUSTOMERS: [&str; 3] = ["item_states", "billing_events", "ledger_gaps"];

async fn accounts(catalog: &Catalog, schema: &str, id: &str) -> miette::Result<Vec<String>> {
    let all = ABOUT_CUSTOMERS
        .map(|table| format!("SELECT account FROM {schema}.{table} WHERE customer_id = {}", quote(id)))
        .join(" UNION ");
    let rows = rows(catalog, &format!("SELECT DISTINCT account FROM ({all}) AS a ORDER BY account")).await?;
    let accounts = cast(rows.column(0), &DataType::Utf8).into_diagnostic()?;
    Ok(accounts.as_string::<i32>().iter().flatten().map(str::to_owned).collect())
}

async fn unknown(catalog: &Catalog, id: &str, test_mode: bool, accounts: &[String]) -> miette::Result<miette::Report> {
    if !accounts.is_empty() {
        let help = format!("use one of: {}", accounts.join(", "));
        return Ok(miette::miette!(help = help, "that account has no customer {id}"));
    }
    let (here, there, flag) =
        if test_mode { ("test", "live", "leave --test-mode out") } else { ("live", "test", "add --test-mode") };
    if !self::accounts(catalog, schema(test_mode), id).await?.is_empty() {
        return Ok(miette::miette!(
            help = flag,
            "there is no customer {id} in {here} data, but there is in {there} data"
        ));
    }
    let help = "check the id, and that its events are ingested and the engine has read them; this lists customers: \
                tributary query \"select distinct customer_id from mrr_movements\"";
    Ok(miette::miette!(help = help, "there is nothing about a customer {id} in {here} data"))
}

/// Everything that was written of one customer.
pub(super) async fn facts(
    catalog: &Catalog,
    asked: &Asked,
    place: &Place,
    scope: Scope,
    id: &str,
) -> miette::Result<Facts> {
    let schema = schema(scope.livemode);
    let whose = format!("account = {} AND customer_id = {}", quote(scope.account.as_str()), quote(id));
    let all = |table: &str| format!("SELECT * FROM {schema}.{table} WHERE {whose}");
    let states = read::item_states(&rows(catalog, &all("item_states")).await?).map_err(rim::report)?;
    let entries = read::mrr_ledger(&rows(catalog, &all("mrr_ledger")).await?).map_err(rim::report)?;
    let movements = read::mrr_movements(&rows(catalog, &all("mrr_movements")).await?).map_err(rim::report)?;
    let gaps = gaps(&rows(catalog, &all("ledger_gaps")).await?)?;
    let mut named: Vec<&str> = states.iter().map(|state| state.event_id.as_str()).collect();
    named.extend(entries.iter().flat_map(|entry| &entry.event_ids).map(|event| event.as_str()));
    named.extend(movements.iter().flat_map(|movement| &movement.event_ids).map(|event| event.as_str()));
    named.extend(gaps.iter().map(|gap| gap.event_id.as_str()));
    named.sort_unstable();
    named.dedup();
    let late = rows(catalog, &format!("SELECT event_id FROM {schema}.late_events WHERE {whose}")).await?;
    let late = cast(late.column(0), &DataType::Utf8).into_diagnostic()?;
    let late: Vec<&str> = late.as_string::<i32>().iter().flatten().collect();
    let list = named.iter().chain(&late).map(|event| quote(event)).collect::<Vec<_>>().join(", ");
    // An object names its customer by the id alone, or is the customer.
    let about = format!("strpos(body, {}) > 0", quote(&format!("\"{id}\"")));
    let about = if list.is_empty() { about } else { format!("({about} OR event_id IN ({list}))") };
    let archive = format!(
        "SELECT created, type, event_id, received_at, body FROM {schema}.events_archive WHERE account = {} AND {about}",
        quote(scope.account.as_str())
    );
    let mut pricing = BTreeMap::new();
    let events = events(&rows(catalog, &archive).await?, &late, &mut pricing)?;
    let rules = asked.config(place)?.rules().map_err(rim::report)?;
    Ok(Facts { scope, customer_id: id.to_owned(), rules, states, entries, movements, events, gaps, pricing })
}

fn events(rows: &RecordBatch, late: &[&str], pricing: &mut BTreeMap<String, String>) -> miette::Result<Vec<Event>> {
    let (created, received) = (times(rows, 0)?, times(rows, 3)?);
    let (kinds, ids, bodies) = (texts(rows, 1)?, texts(rows, 2)?, texts(rows, 4)?);
    let (kinds, ids, bodies) = (kinds.as_string::<i32>(), ids.as_string::<i32>(), bodies.as_string::<i32>());
    let mut events = Vec::new();
    for (row, created) in created.iter().enumerate() {
        if kinds.value(row).starts_with("customer.subscription.")
            && let Ok(body) = serde_json::from_str(bodies.value(row))
        {
            note_pricing(&body, pricing);
        }
        events.push(Event {
            created: *created,
            kind: kinds.value(row).to_owned(),
            event_id: ids.value(row).to_owned(),
            received_at: received[row],
            too_late: late.contains(&ids.value(row)),
        });
    }
    Ok(events)
}

fn gaps(rows: &RecordBatch) -> miette::Result<Vec<Gap>> {
    let index = |name: &str| rows.schema().index_of(name).into_diagnostic();
    let (occurred, known) = (times(rows, index("occurred_at")?)?, times(rows, index("known_at")?)?);
    let reasons = texts(rows, index("reason")?)?;
    let (objects, events) = (texts(rows, index("object_id")?)?, texts(rows, index("event_id")?)?);
    let text = |column: &arrow::array::ArrayRef, row: usize| column.as_string::<i32>().value(row).to_owned();
    Ok((0..rows.num_rows())
        .map(|row| Gap {
            occurred_at: occurred[row],
            known_at: known[row],
            reason: text(&reasons, row),
            object_id: text(&objects, row),
            event_id: text(&events, row),
        })
        .collect())
}

/// A query's rows as one batch.
pub(super) async fn rows(catalog: &Catalog, sql: &str) -> miette::Result<RecordBatch> {
    let rows = catalog.sql(sql).await.map_err(rim::report)?;
    let schema = std::sync::Arc::clone(rows.schema().inner());
    concat_batches(&schema, &rows.collect().await.into_diagnostic()?).into_diagnostic()
}

fn texts(rows: &RecordBatch, index: usize) -> miette::Result<arrow::array::ArrayRef> {
    cast(rows.column(index), &DataType::Utf8).into_diagnostic()
}

fn times(rows: &RecordBatch, index: usize) -> miette::Result<Vec<EventTime>> {
    let column = cast(rows.column(index), &tables::timestamptz()).into_diagnostic()?;
    let column = column.as_primitive::<TimestampMicrosecondType>();
    Ok((0..column.len()).map(|row| EventTime::from_micros(column.value(row))).collect())
}

/// A text as SQL writes it.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

//! `tributary train`: the churn model from the features and movements of a data directory.

use std::{collections::BTreeMap, path::Path};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Date32Type, Float64Type},
};
use chrono::{Days, NaiveDate};
use clap::Args;
use miette::IntoDiagnostic;
use sha2::{Digest, Sha256};

use super::{Outcome, Place, output, pipelines, query, rim};
use crate::{
    config::Config,
    engine::{FEATURES, MODEL, feature_names},
    model::{
        self,
        dataset::{self, Dataset, paying_intervals},
        features::{FeatureRow, Subject},
        registry::{Manifest, Registry},
    },
    serve::Catalog,
    tables,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let config = arguments.place.config()?;
    let catalog = query::catalog(&arguments.place).await?;
    let manifest = train(&config, &arguments.place.data_dir, &catalog).await?;
    output::say(described(&manifest))?;
    Ok(Outcome::Done)
}

/// What a model is worth, in a few lines.
pub(super) fn described(manifest: &Manifest) -> String {
    let report = &manifest.report;
    let metrics = &report.metrics;
    format!(
        "model {} {}: trained on {} customer-months, tested on {} from {} to {}\n\
         AUC {}, log loss {:.4} (base rate alone {:.4}), Brier {:.4}, lift in the top decile {}",
        manifest.name,
        manifest.version,
        report.train.rows,
        report.test.rows,
        report.test.first_snapshot,
        report.test.last_snapshot,
        metrics.auc.map_or_else(|| "—".to_owned(), |auc| format!("{auc:.3}")),
        metrics.log_loss,
        metrics.null_log_loss,
        metrics.brier,
        metrics.top_decile_lift.map_or_else(|| "—".to_owned(), |lift| format!("{lift:.2}")),
    )
}

/// Trains on what `catalog` shows, stores the model under `data_dir`, and puts it in force if it predicts later months
/// better than their base rate.
pub(super) async fn train(config: &Config, data_dir: &Path, catalog: &Catalog) -> miette::Result<Manifest> {
    let names = feature_names(&tables::get(FEATURES).map_err(rim::report)?.schema).map_err(rim::engine_report)?;
    let list = names.as_slice().iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT account, livemode, customer_id, as_of, paying, {list} FROM {FEATURES} \
         ORDER BY account, livemode, customer_id, as_of"
    );
    let mut rows = Vec::new();
    let mut closings: BTreeMap<Subject, Vec<(NaiveDate, bool)>> = BTreeMap::new();
    for batch in collect(catalog, &sql).await? {
        read(&batch, &mut rows, &mut closings)?;
    }
    let last = collect(catalog, "SELECT CAST(MAX(last_event_at) AS DATE) FROM log_clock").await?;
    let last_day = last
        .iter()
        .filter(|batch| batch.num_rows() > 0 && batch.column(0).is_valid(0))
        .find_map(|batch| date(batch.column(0).as_primitive::<Date32Type>().value(0)))
        .and_then(|day| day.checked_sub_days(Days::new(1)));
    let Some(last_day) = last_day else {
        miette::bail!(help = "run the engine over some events first", "there are no events to train on");
    };
    let paying = closings.into_iter().map(|(subject, days)| (subject, paying_intervals(days))).collect();
    let dataset = Dataset::build(names, &rows, &paying, &dataset::Options::until(last_day)).map_err(rim::report)?;
    let options = model::Options { texts: texts(), ..model::Options::default() };
    let trained = tokio::task::block_in_place(|| model::train(&dataset, &options)).map_err(rim::report)?;
    let sql = pipelines(config)?.into_iter().find(|file| file.metadata.name == FEATURES).map(|file| file.text);
    let registry = Registry::new(data_dir.join("models"));
    let hash = hex::encode(Sha256::digest(sql.unwrap_or_default()));
    let manifest = registry.save(MODEL, &trained, rim::now().to_utc(), &hash).map_err(rim::report)?;
    let metrics = &manifest.report.metrics;
    if metrics.log_loss >= metrics.null_log_loss {
        miette::bail!(
            help = "wait for more history; the model in force, if any, stays",
            "model {} is stored, but not put in force: on later months it predicts no better than the base rate (log \
             loss {:.4} against {:.4})",
            manifest.version,
            metrics.log_loss,
            metrics.null_log_loss
        );
    }
    registry.set_current(MODEL, &manifest.version).map_err(rim::report)?;
    Ok(manifest)
}

fn read(
    batch: &RecordBatch,
    rows: &mut Vec<FeatureRow>,
    closings: &mut BTreeMap<Subject, Vec<(NaiveDate, bool)>>,
) -> miette::Result<()> {
    let account = cast(batch.column(0), &DataType::Utf8).into_diagnostic()?;
    let customer = cast(batch.column(2), &DataType::Utf8).into_diagnostic()?;
    let livemode = batch.column(1).as_boolean();
    let as_of = batch.column(3).as_primitive::<Date32Type>();
    let values = batch.columns()[4..]
        .iter()
        .map(|column| cast(column, &DataType::Float64))
        .collect::<Result<Vec<_>, _>>()
        .into_diagnostic()?;
    for row in 0..batch.num_rows() {
        let subject = Subject {
            account: account.as_string::<i32>().value(row).to_owned(),
            livemode: livemode.value(row),
            customer_id: customer.as_string::<i32>().value(row).to_owned(),
        };
        let Some(day) = date(as_of.value(row)) else { continue };
        let value = |i: usize| values[i].is_valid(row).then(|| values[i].as_primitive::<Float64Type>().value(row));
        rows.push(FeatureRow {
            account: subject.account.clone(),
            livemode: subject.livemode,
            customer_id: subject.customer_id.clone(),
            as_of: day,
            values: (1..values.len()).map(value).collect(),
        });
        closings.entry(subject).or_default().push((day, value(0).is_some_and(|paying| paying > 0.0)));
    }
    Ok(())
}

async fn collect(catalog: &Catalog, sql: &str) -> miette::Result<Vec<RecordBatch>> {
    catalog.sql(sql).await.map_err(rim::report)?.collect().await.into_diagnostic()
}

fn date(days: i32) -> Option<NaiveDate> {
    NaiveDate::from_num_days_from_ce_opt(days.checked_add(719_163)?)
}

/// What reasons say, by feature.
fn texts() -> BTreeMap<String, String> {
    [
        ("tenure_days", "a customer for {value} day{s}"),
        ("payments_succeeded_30d", "{value} successful payment{s} in 30 days"),
        ("payments_succeeded_90d", "{value} successful payment{s} in 90 days"),
        ("payments_failed_30d", "{value} failed payment{s} in 30 days"),
        ("payments_failed_90d", "{value} failed payment{s} in 90 days"),
        ("expansions_30d", "{value} expansion{s} in 30 days"),
        ("expansions_90d", "{value} expansion{s} in 90 days"),
        ("contractions_30d", "{value} contraction{s} in 30 days"),
        ("contractions_90d", "{value} contraction{s} in 90 days"),
        ("refunds_90d", "{value} refund{s} in 90 days"),
        ("disputes_90d", "{value} dispute{s} in 90 days"),
        ("reactivations", "came back {value} time{s}"),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .collect()
}

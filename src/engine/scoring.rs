//! Scores of the customers whose features changed.
//!
//! The model reads every column of `churn_features` between the key and the end except `paying`, which decides who is
//! scored at all: a customer who does not pay cannot stop paying. The row with the latest `as_of` counts.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Date32Type, Float64Type, Int64Type, SchemaRef},
};
use datafusion::prelude::{SessionContext, col, lit};

use super::{Engine, Error, collect_one};
use crate::{
    model::{
        features::FeatureNames,
        registry::{Registry, Stored},
    },
    stream::pipeline::RowDelta,
    tables::{self, rows::ScoreRow},
};

/// The pipeline whose output is scored.
pub const FEATURES: &str = "churn_features";
/// The table scores go to.
pub(crate) const SCORES: &str = "customer_scores";
/// The model's name in the registry.
pub const MODEL: &str = "churn";
/// Columns of [`FEATURES`] that are not inputs of the model.
const NOT_FEATURES: [&str; 5] = ["account", "livemode", "customer_id", "as_of", "paying"];

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Customer {
    account: Arc<str>,
    livemode: bool,
    id: Arc<str>,
}

#[derive(Clone, PartialEq, Debug)]
struct Latest {
    as_of: i32,
    paying: bool,
    values: Vec<Option<f64>>,
}

#[derive(Clone, PartialEq, Debug)]
struct Scored {
    as_of: i32,
    version: Arc<str>,
    probability: f64,
    band: Arc<str>,
    reasons: Vec<String>,
}

impl Engine {
    /// Scores every customer again when the registry has another model than before.
    pub(super) async fn score_with_new_model(&mut self) -> Result<(), Error> {
        let was_at_rest = self.scorer.is_at_rest();
        if self.scorer.refresh_model() {
            if was_at_rest && let Some(features) = self.store.get(FEATURES) {
                self.scorer.learn(&features.reader().content().await?)?;
            }
            let delta = self.scorer.rescore()?;
            self.store.change(SCORES, &delta)?;
        }
        Ok(())
    }

    /// Scores the customers whose features changed.
    pub(super) async fn follow_features(&mut self, delta: &RowDelta) -> Result<(), Error> {
        let orphans = self.scorer.orphans(delta)?;
        let older = if orphans.is_empty() { None } else { Some(self.features_of(orphans).await?) };
        let scores = self.scorer.follow(delta, older.as_ref())?;
        self.store.change(SCORES, &scores)
    }

    /// All rows of some customers' features as readers see them.
    async fn features_of(&self, customers: Vec<String>) -> Result<RecordBatch, Error> {
        let table = self.store.get(FEATURES).ok_or_else(|| Error::Internal(format!("no table {FEATURES}")))?;
        let customers = customers.into_iter().map(lit).collect();
        let rows = SessionContext::new()
            .read_table(Arc::clone(&table.live) as _)?
            .filter(col("customer_id").in_list(customers, false))?;
        collect_one(rows).await
    }
}

/// Keeps the latest features of every customer, and the scores that follow from them. It is at rest, and knows no
/// features, while there is neither a model nor a score.
pub(crate) struct Scorer {
    registry: Registry,
    stored: Option<Stored>,
    refused: Option<String>,
    latest: HashMap<Customer, Latest>,
    scored: HashMap<Customer, Scored>,
}

/// The names of the model's inputs.
///
/// # Errors
/// When the features table has none.
pub fn feature_names(schema: &SchemaRef) -> Result<FeatureNames, Error> {
    let names = schema.fields().iter().map(|f| f.name().clone()).filter(|n| !NOT_FEATURES.contains(&n.as_str()));
    Ok(FeatureNames::new(names.collect())?)
}

impl Scorer {
    /// With the models under `<data_dir>/models`; scores nothing until there is one.
    pub(crate) fn new(data_dir: &Path) -> Self {
        let registry = Registry::new(data_dir.join("models"));
        Self { registry, stored: None, refused: None, latest: HashMap::new(), scored: HashMap::new() }
    }

    /// Whether no score can follow from features.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.stored.is_none() && self.scored.is_empty()
    }

    /// Takes in the features of all customers, in the place of what was known of them.
    pub(crate) fn learn(&mut self, features: &RecordBatch) -> Result<(), Error> {
        self.latest.clear();
        self.take(features)?;
        Ok(())
    }

    /// Takes in what `customer_scores` holds at the start.
    pub(crate) fn restore(&mut self, scores: &RecordBatch) -> Result<(), Error> {
        for row in 0..scores.num_rows() {
            let text = |name| Ok::<_, Error>(column(scores, name)?.as_string::<i32>().value(row));
            let reasons = column(scores, "reasons")?.as_list::<i32>().value(row);
            let scored = Scored {
                as_of: as_of(scores, row)?,
                version: text("model_version")?.into(),
                probability: column(scores, "probability")?.as_primitive::<Float64Type>().value(row),
                band: text("band")?.into(),
                reasons: reasons.as_string::<i32>().iter().flatten().map(str::to_owned).collect(),
            };
            self.scored.insert(customer(scores, row)?, scored);
        }
        Ok(())
    }

    /// Loads the current model if it is another one than before; whether it was. A model that cannot be used is told
    /// of once, and the one before it stays in force.
    pub(crate) fn refresh_model(&mut self) -> bool {
        let current = match self.registry.current(MODEL) {
            Ok(current) => current,
            Err(error) => {
                self.refuse("?", &error.into());
                return false;
            }
        };
        let Some(version) = current else { return self.stored.take().is_some() };
        let in_force = self.stored.as_ref().is_some_and(|stored| stored.manifest.version == version);
        if in_force || self.refused.as_ref() == Some(&version) {
            return false;
        }
        match self.load(&version) {
            Ok(stored) => {
                self.stored = Some(stored);
                self.refused = None;
                true
            }
            Err(error) => {
                self.refuse(&version, &error);
                false
            }
        }
    }

    fn load(&self, version: &str) -> Result<Stored, Error> {
        let stored = self.registry.load(MODEL, version)?;
        stored.model.check_names(&feature_names(&tables::get(FEATURES)?.schema)?)?;
        Ok(stored)
    }

    fn refuse(&mut self, version: &str, error: &Error) {
        if self.refused.as_deref() != Some(version) {
            tracing::warn!(model = MODEL, version, %error, "this model is not used");
            self.refused = Some(version.to_owned());
        }
    }

    /// Scores every customer again.
    pub(crate) fn rescore(&mut self) -> Result<RowDelta, Error> {
        let customers: HashSet<Customer> = self.latest.keys().chain(self.scored.keys()).cloned().collect();
        self.score(customers)
    }

    /// Customers whose latest features were taken away, so that older ones must be looked up.
    pub(crate) fn orphans(&self, delta: &RowDelta) -> Result<Vec<String>, Error> {
        let mut ids = Vec::new();
        if self.is_at_rest() {
            return Ok(ids);
        }
        for row in 0..delta.removed.num_rows() {
            let customer = customer(&delta.removed, row)?;
            let as_of = as_of(&delta.removed, row)?;
            if self.latest.get(&customer).is_some_and(|latest| latest.as_of == as_of) {
                ids.push(customer.id.to_string());
            }
        }
        Ok(ids)
    }

    /// Follows a change of the features. `older` holds all rows of the [`orphans`](Self::orphans) as they are now.
    pub(crate) fn follow(&mut self, delta: &RowDelta, older: Option<&RecordBatch>) -> Result<RowDelta, Error> {
        let mut touched = HashSet::new();
        if self.is_at_rest() {
            return self.score(touched);
        }
        for row in 0..delta.removed.num_rows() {
            let customer = customer(&delta.removed, row)?;
            let gone = as_of(&delta.removed, row)?;
            if self.latest.get(&customer).is_some_and(|latest| latest.as_of == gone) {
                self.latest.remove(&customer);
            }
            touched.insert(customer);
        }
        if let Some(older) = older {
            touched.extend(self.take(older)?);
        }
        touched.extend(self.take(&delta.added)?);
        self.score(touched)
    }

    fn take(&mut self, rows: &RecordBatch) -> Result<HashSet<Customer>, Error> {
        let mut touched = HashSet::new();
        if rows.num_rows() == 0 {
            return Ok(touched);
        }
        let columns = rows
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| !NOT_FEATURES.contains(&field.name().as_str()))
            .map(|(i, _)| cast(rows.column(i), &DataType::Float64))
            .collect::<Result<Vec<_>, _>>()?;
        let paying = column(rows, "paying")?.as_primitive::<Int64Type>();
        for row in 0..rows.num_rows() {
            let customer = customer(rows, row)?;
            let as_of = as_of(rows, row)?;
            if self.latest.get(&customer).is_some_and(|latest| latest.as_of > as_of) {
                continue;
            }
            let value =
                |c: &arrow::array::ArrayRef| c.is_valid(row).then(|| c.as_primitive::<Float64Type>().value(row));
            let values = columns.iter().map(value).collect();
            self.latest.insert(customer.clone(), Latest { as_of, paying: paying.value(row) > 0, values });
            touched.insert(customer);
        }
        Ok(touched)
    }

    fn score(&mut self, customers: HashSet<Customer>) -> Result<RowDelta, Error> {
        let mut customers: Vec<Customer> = customers.into_iter().collect();
        customers.sort();
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for customer in customers {
            let latest = self.latest.get(&customer).filter(|latest| latest.paying);
            let new = match (&self.stored, latest) {
                (Some(stored), Some(latest)) => {
                    let score = stored.model.score(&latest.values)?;
                    Some(Scored {
                        as_of: latest.as_of,
                        version: stored.manifest.version.as_str().into(),
                        probability: score.probability,
                        band: score.band.as_str().into(),
                        reasons: score.reasons.iter().map(|r| format!("{:+.2} {}", r.effect, r.text)).collect(),
                    })
                }
                // Without a model what was scored stands, for those who still pay.
                (None, Some(_)) => continue,
                (_, None) => None,
            };
            if self.scored.get(&customer) == new.as_ref() {
                continue;
            }
            if let Some(old) = self.scored.remove(&customer) {
                removed.push((customer.clone(), old));
            }
            if let Some(new) = new {
                added.push((customer.clone(), new.clone()));
                self.scored.insert(customer, new);
            }
        }
        Ok(RowDelta { removed: to_batch(&removed)?, added: to_batch(&added)? })
    }
}

fn to_batch(scored: &[(Customer, Scored)]) -> Result<RecordBatch, Error> {
    let rows: Vec<ScoreRow<'_>> = scored
        .iter()
        .map(|(customer, scored)| ScoreRow {
            account: &customer.account,
            livemode: customer.livemode,
            customer_id: &customer.id,
            as_of: scored.as_of,
            model: MODEL,
            model_version: &scored.version,
            probability: scored.probability,
            band: &scored.band,
            reasons: &scored.reasons,
        })
        .collect();
    Ok(tables::rows::customer_scores(&rows)?)
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a arrow::array::ArrayRef, Error> {
    rows.column_by_name(name).ok_or_else(|| Error::Internal(format!("{FEATURES} has no column {name}")))
}

fn customer(rows: &RecordBatch, row: usize) -> Result<Customer, Error> {
    Ok(Customer {
        account: column(rows, "account")?.as_string::<i32>().value(row).into(),
        livemode: column(rows, "livemode")?.as_boolean().value(row),
        id: column(rows, "customer_id")?.as_string::<i32>().value(row).into(),
    })
}

fn as_of(rows: &RecordBatch, row: usize) -> Result<i32, Error> {
    Ok(column(rows, "as_of")?.as_primitive::<Date32Type>().value(row))
}

//! Rows of features as the pipelines give them: one per customer and day with activity.
//!
//! A row promises to hold only what was known at the end of its day; that is the features query's duty, as is the
//! meaning of each value. `None` is an unknown value, and never NaN.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::Error;

/// Most features a model takes: each one costs a column of all person-months in memory, and reasons stop being
/// readable long before. More are refused.
pub const MAX_FEATURES: usize = 256;

/// Names of the features, in the order of the values in every row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct FeatureNames(Vec<String>);

impl FeatureNames {
    /// Checked names.
    ///
    /// # Errors
    /// [`Error::Names`] when there are none, more than [`MAX_FEATURES`], or two alike.
    pub fn new(names: Vec<String>) -> Result<Self, Error> {
        if names.is_empty() {
            return Err(Error::Names("there are none".to_owned()));
        }
        if names.len() > MAX_FEATURES {
            return Err(Error::Names(format!("{} are more than {MAX_FEATURES}", names.len())));
        }
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                return Err(Error::Names(format!("`{name}` appears twice")));
            }
        }
        Ok(Self(names))
    }

    /// The names in order.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// Where a feature stands in a row.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|n| n == name)
    }

    /// Refuses values that are not one per name, or not finite.
    pub(super) fn check(&self, values: &[Option<f64>], day: Option<NaiveDate>) -> Result<(), Error> {
        if values.len() != self.0.len() {
            return Err(Error::Width { found: values.len(), expected: self.0.len() });
        }
        match values.iter().position(|v| v.is_some_and(|v| !v.is_finite())) {
            Some(i) => Err(Error::NotFinite { feature: self.0[i].clone(), day }),
            None => Ok(()),
        }
    }
}

impl TryFrom<Vec<String>> for FeatureNames {
    type Error = Error;

    fn try_from(names: Vec<String>) -> Result<Self, Error> {
        Self::new(names)
    }
}

impl From<FeatureNames> for Vec<String> {
    fn from(names: FeatureNames) -> Self {
        names.0
    }
}

/// A customer of one Stripe account in one mode; accounts and modes are never mixed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subject {
    /// Stripe account.
    pub account: String,
    /// Live or test mode.
    pub livemode: bool,
    /// Stripe customer.
    pub customer_id: String,
}

/// What was known of a customer at the end of a day.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureRow {
    /// Stripe account.
    pub account: String,
    /// Live or test mode.
    pub livemode: bool,
    /// Stripe customer.
    pub customer_id: String,
    /// The day.
    pub as_of: NaiveDate,
    /// One value per [`FeatureNames`] entry; `None` where unknown.
    pub values: Vec<Option<f64>>,
}

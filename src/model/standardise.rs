//! Turns feature values into columns a linear model can weigh: mean imputation, a flag for what was missing,
//! standardisation. All of it is learnt on the training block alone and then fixed.

use serde::{Deserialize, Serialize};

use super::exact;

/// A spread below this, relative to the mean's magnitude, is rounding: the column is taken as constant.
const CONSTANT_SPREAD: f64 = 1e-12;

/// Centre and spread of a column: x becomes (x − mean) / deviation, or 0 when the column is constant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Mean over the training rows that have a value.
    #[serde(with = "exact")]
    pub mean: f64,
    /// Population standard deviation over the same rows; 0 for a constant.
    #[serde(with = "exact")]
    pub deviation: f64,
}

impl Scale {
    fn learn(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count();
        if count == 0 {
            return Self { mean: 0.0, deviation: 0.0 };
        }
        let mean = values.clone().sum::<f64>() / count as f64;
        let deviation = (values.map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64).sqrt();
        let constant = deviation <= CONSTANT_SPREAD * mean.abs().max(1.0);
        Self { mean, deviation: if constant { 0.0 } else { deviation } }
    }

    fn apply(self, value: f64) -> f64 {
        if self.deviation == 0.0 { 0.0 } else { (value - self.mean) / self.deviation }
    }
}

/// How one feature is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Scale of the value.
    pub value: Scale,
    /// Smallest value seen in training; what lies below counts as this, because nothing is known there.
    #[serde(with = "exact")]
    pub low: f64,
    /// Largest value seen in training; what lies above counts as this.
    #[serde(with = "exact")]
    pub high: f64,
    /// Scale of the flag "value missing" (its mean is the missing share); none if training missed no value.
    pub missing: Option<Scale>,
}

impl Column {
    fn learn(values: impl Iterator<Item = Option<f64>> + Clone) -> Self {
        let present = values.clone().flatten();
        let low = present.clone().reduce(f64::min).unwrap_or(0.0);
        let high = present.clone().reduce(f64::max).unwrap_or(0.0);
        let flag = || values.clone().map(|v| if v.is_none() { 1.0 } else { 0.0 });
        let missing = values.clone().any(|v| v.is_none()).then(|| Scale::learn(flag()));
        Self { value: Scale::learn(present), low, high, missing }
    }

    /// Standardised value; 0, the mean, for a missing one.
    pub(super) fn value(&self, value: Option<f64>) -> f64 {
        value.map_or(0.0, |v| self.value.apply(v.clamp(self.low, self.high)))
    }

    /// Standardised flag; 0 where training missed no value.
    pub(super) fn missing(&self, value: Option<f64>) -> f64 {
        self.missing.map_or(0.0, |scale| scale.apply(if value.is_none() { 1.0 } else { 0.0 }))
    }
}

/// Columns of all features, in the order of their names.
///
/// `rows` must not be empty and must be equally long.
#[must_use]
pub fn learn<R: AsRef<[Option<f64>]>>(rows: &[R]) -> Vec<Column> {
    let width = rows.first().map_or(0, |row| row.as_ref().len());
    (0..width).map(|j| Column::learn(rows.iter().map(move |row| row.as_ref()[j]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_value_is_the_mean_and_raises_its_flag() {
        let columns = learn(&[vec![Some(1.0)], vec![Some(3.0)], vec![None], vec![None]]);
        assert_eq!((columns[0].value.mean, columns[0].value.deviation), (2.0, 1.0));
        assert_eq!((columns[0].value(None), columns[0].value(Some(3.0))), (0.0, 1.0));
        assert_eq!((columns[0].missing(None), columns[0].missing(Some(3.0))), (1.0, -1.0));
    }

    #[test]
    fn values_beyond_training_count_as_its_edge_and_constants_as_nothing() {
        let columns = learn(&[vec![Some(1.0), Some(7.1)], vec![Some(3.0), Some(7.1)]]);
        assert_eq!(columns[0].value(Some(100.0)), columns[0].value(Some(3.0)));
        assert_eq!((columns[1].value(Some(9.0)), columns[1].missing(None)), (0.0, 0.0));
    }
}

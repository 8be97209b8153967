//! The model room: from rows of features to a churn model that can be stored, loaded and explained.
//!
//! [`dataset`] turns feature rows and paying intervals into person-months with a label; [`train`] splits them by
//! time, fits a logistic regression on the first block, recalibrates it on the second and measures it on the
//! third; [`registry`] keeps models with their manifests; [`Model::score`] gives a probability with reasons.
//! Everything is a pure, deterministic function of its arguments except the registry, which owns its files.
//! What the features are, and reading them from tables, is left to the pipelines and the engine.

pub mod calibrate;
pub mod dataset;
mod error;
pub mod evaluate;
mod exact;
pub mod features;
pub mod fit;
pub mod registry;
pub mod score;
pub mod standardise;
mod train;

pub use error::Error;
pub use score::{Band, BandRule, Model, Reason, Score};
pub use train::{
    BandReport, BlockReport, MIN_HOLDOUT_OUTCOMES, MIN_HOLDOUT_ROWS, MIN_TRAIN_OUTCOMES, MIN_TRAIN_ROWS, Options,
    Report, Trained, train,
};

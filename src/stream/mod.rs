//! The windowed core: SQL files kept true as their inputs change.
//!
//! Contract: after every epoch the maintained output of a pipeline equals the same SQL run by batch DataFusion over
//! the relations so far. State is a cache: it can be thrown away and rebuilt. Nothing here knows what a row means.

mod aggregate;
pub mod batch;
pub mod calendar;
mod caught;
mod cells;
pub mod checkpoint;
mod class;
pub mod conversion;
pub mod currency;
pub mod epoch;
pub mod file;
mod frames;
mod gate;
mod grain;
pub mod graph;
mod groups;
mod kept;
mod keyed;
mod late;
mod leaf;
pub mod maintained;
mod partition;
pub mod pipeline;
mod planning;
mod query;
mod remembered;
pub mod sidecar;
mod snapshot;
pub(crate) mod together;
pub mod versions;
pub mod windows;

pub use class::Relation;
pub use gate::closed_between;
pub use late::LateChange;
pub(crate) use leaf::{Cell, CellTable};
pub use snapshot::{Answer, Run, Tables};

/// The functions that pipelines can call beside DataFusion's own; [`windows::register`] adds those in FROM.
#[must_use]
pub fn functions() -> Vec<datafusion::logical_expr::ScalarUDF> {
    vec![
        calendar::local_date(),
        calendar::local_timestamp(),
        windows::local_floor(),
        windows::local_shift(),
        windows::local_hops(),
        currency::minor_units(),
    ]
}

/// What can stop a pipeline.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The query failed on this data.
    #[error("the query failed: {0}")]
    Query(#[from] datafusion::error::DataFusionError),
    /// A value does not fit its column.
    #[error("a value does not fit: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A sum left its type.
    #[error("a sum of type {0} overflowed")]
    Overflow(String),
    /// A named limit was passed.
    #[error("{0}")]
    Limit(String),
    /// Two rows with one key.
    #[error(
        "`{0}` gave two rows with the same grain; the grain in its metadata does not identify a row: add the columns \
         in which such rows differ, or group the rows by it"
    )]
    Grain(String),
    /// A panic in the pipeline of this name.
    #[error(
        "a defect of Tributary or of DataFusion stopped `{0}`: please report it, with the pipeline's SQL and what the \
         program printed when it stopped"
    )]
    Panicked(String),
    /// A bug.
    #[error("this is a bug in Tributary: {0}")]
    Internal(String),
}

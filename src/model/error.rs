//! What can go wrong in the model room, each with what to do about it.

use std::path::PathBuf;

use chrono::NaiveDate;

/// An error of the model room. Names features and days, never customers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Feature names that cannot be used.
    #[error("feature names: {0}; correct the columns of the features query")]
    Names(String),
    /// A row and the names come from different queries.
    #[error("a feature row has {found} values for {expected} feature names; read rows and names from the same query")]
    Width {
        /// Values in the row.
        found: usize,
        /// Feature names.
        expected: usize,
    },
    /// NaN or an infinity.
    #[error("feature `{feature}` is not a finite number{}; let the features query return NULL where a value is unknown",
        .day.map(|day| format!(" on {day}")).unwrap_or_default())]
    NotFinite {
        /// The feature's name.
        feature: String,
        /// Day of the row, where it is known.
        day: Option<NaiveDate>,
    },
    /// Two rows with the same key.
    #[error("a customer has two feature rows for {as_of}; the features query must give one row per customer and day")]
    DuplicateRow {
        /// The day.
        as_of: NaiveDate,
    },
    /// Paying intervals that contradict themselves.
    #[error(
        "a customer's paying intervals are empty, overlap or are out of order near {near}; \
             build them from closing MRR by day"
    )]
    Intervals {
        /// Start of the interval that does not fit.
        near: NaiveDate,
    },
    /// An option that makes no sense.
    #[error("model options: {0}")]
    Options(String),
    /// More person-months than training holds in memory.
    #[error("more than {limit} person-months; set `first_snapshot` to a later month")]
    TooManyRows {
        /// [`super::dataset::MAX_EXAMPLES`].
        limit: usize,
    },
    /// Less history than a split by time needs.
    #[error(
        "only {found} month starts have a known outcome, {needed} are needed \
             to train, calibrate and test apart in time; wait for more history"
    )]
    TooFewSnapshots {
        /// Snapshots in the data.
        found: usize,
        /// Snapshots needed.
        needed: usize,
    },
    /// Too few rows to learn from or to measure with.
    #[error("the {block} block has {found} {what}, at least {needed} are needed; wait for more history")]
    TooLittle {
        /// Block of the split.
        block: &'static str,
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many are needed.
        needed: usize,
    },
    /// Every row has the same label.
    #[error("{}; a model needs customers of both kinds, so wait for more history or check the paying intervals",
        if *.churned { "every customer of the block churned" } else { "no customer of the block churned" })]
    OneClass {
        /// The only label there is.
        churned: bool,
    },
    /// The optimiser stopped early.
    #[error(
        "the fit did not converge: gradient {gradient_per_row:e} a row after at most {max_iterations} iterations; \
             raise `max_iterations` or look for features with extreme values"
    )]
    NotConverged {
        /// Length of the gradient, divided by the rows.
        gradient_per_row: f64,
        /// Iterations allowed.
        max_iterations: u64,
    },
    /// The ranking does not hold outside the training block.
    #[error(
        "the features do not rank customers out of time (calibration slope {slope:.3}); \
             no model is better than this one, so add features or history"
    )]
    NoSignal {
        /// Slope on the calibration block.
        slope: f64,
    },
    /// Something that the checks before it rule out.
    #[error("{0}; this is a defect of Tributary, please report it")]
    Defect(String),
    /// A model name or version that is not a plain file name.
    #[error("`{0}` is not a model name or version; use 1 to 64 of a-z, 0-9, `-`, `_`")]
    Name(String),
    /// The filesystem refused.
    #[error("cannot use {}: {source}; check that the data directory exists, is writable and has space", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no such model.
    #[error("there is no model at {}; train one or choose another version", .0.display())]
    Missing(PathBuf),
    /// A file that is torn, edited or too large.
    #[error("{} is damaged ({reason}); choose another version or delete this one and train again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Written by another release.
    #[error("{} has format {found}, this release reads format {supported}; train again or use the release that wrote it",
        .path.display())]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Format in the manifest.
        found: u64,
        /// Format this release writes and reads.
        supported: u64,
    },
    /// The features query changed after training.
    #[error("the model was trained on features {trained:?}, the query gives {found:?}; train again")]
    Features {
        /// Names in the model.
        trained: Vec<String>,
        /// Names now.
        found: Vec<String>,
    },
}

//! Where decided results go: Delta tables, on disk or in a bucket.
//!
//! A sink carries out what a checkpoint decided, exactly once and in any number of tries; it never decides what to
//! write. [`delta`] is one table, [`apply`] carries out a manifest on all of them, [`commits`] publishes which
//! versions belong together, and says so to readers.

pub mod apply;
pub mod commits;
pub mod delta;
mod keyed;
mod layout;
mod rewrite;
mod scan;

use arrow::datatypes::SchemaRef;
use deltalake::DeltaTableError;

pub use self::keyed::{OP, change_schema};

use crate::stream::checkpoint;

/// What a table looks like.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// Its name, and the name of its directory.
    pub name: String,
    /// Its columns. Instants are `Timestamp(Microsecond, "UTC")`; elements of lists are named `element`.
    pub schema: SchemaRef,
    /// The columns that name a row, never NULL; empty for an appended table.
    pub key: Vec<String>,
    /// The columns that divide the table into directories: text, dates, integers or booleans.
    pub partition_by: Vec<String>,
}

/// What can go wrong with a table, by what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fix the definition of the table.
    #[error("table {table} cannot be made: {reason}")]
    Spec {
        /// The table.
        table: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Run the right version of the program, or rebuild.
    #[error(
        "table {table} as it is stored is not the one that this program writes: {reason}; run the version that made it, or make the tables again with `tributary rebuild`"
    )]
    Mismatch {
        /// The table.
        table: String,
        /// What differs.
        reason: String,
    },
    /// Restore tables and checkpoints from one backup, or rebuild.
    #[error(
        "table {table} and the checkpoints do not belong together: {reason}; restore both from one backup, or make them again with `tributary rebuild`"
    )]
    Diverged {
        /// The table.
        table: String,
        /// How it shows.
        reason: String,
    },
    /// Restore a backup, or rebuild.
    #[error(
        "table {table} is damaged: its file {file} {reason}; restore the data directory from a backup, or make the tables again with `tributary rebuild`"
    )]
    Damaged {
        /// The table.
        table: String,
        /// The file, relative to the table.
        file: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Ask again: the table has gone on.
    #[error(
        "table {table} no longer has version {version}, which the newest row of `commits` names: it went on while it was read; ask again, and where that does not help, make the tables again with `tributary rebuild`"
    )]
    Gone {
        /// The table.
        table: String,
        /// The version that was asked for.
        version: u64,
    },
    /// Stop the other writer.
    #[error(
        "table {table} was changed by somebody else {attempts} times in a row; tables have one writer, stop the other one"
    )]
    Contended {
        /// The table.
        table: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// Make room, mend permissions or the network, and start again; rebuild what is damaged.
    #[error(
        "table {table} cannot be read or written: {source}; mend the storage and start again, or, where a file of it is damaged, make the tables again with `tributary rebuild`"
    )]
    Storage {
        /// The table.
        table: String,
        /// What Delta said.
        source: Box<DeltaTableError>,
    },
    /// See [`checkpoint::Error`].
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A mistake in this program.
    #[error("internal error in table {table}: {reason}; please report it")]
    Bug {
        /// The table.
        table: String,
        /// What happened.
        reason: String,
    },
}

fn storage(table: &str, source: DeltaTableError) -> Error {
    Error::Storage { table: table.to_owned(), source: Box::new(source) }
}

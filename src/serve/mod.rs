//! Serving: read-only SQL over every table, rows of the last moment included.
//!
//! A [`LiveTable`] lays the rows still in memory over the committed snapshot of a table; a [`Catalog`] shows such
//! tables to people, live mode in the schema `public` and test mode in `test`; [`postgres`] speaks PostgreSQL to `psql`
//! and BI tools. [`views`] are the SQL views that come with the program. Nothing here writes: what the tables hold is decided elsewhere.

pub mod catalog;
mod comments;
pub mod lazy;
pub mod password;
pub mod postgres;
mod scan;
pub mod view;
pub mod views;

use std::{io, net::SocketAddr, path::PathBuf};

use datafusion::error::DataFusionError;

pub use catalog::{Catalog, UserTable};
pub use password::{Password, Secret};
pub use view::LiveTable;

/// What can go wrong in this room, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table was given rows or a snapshot of another shape than it declared: a defect of the caller.
    #[error("table rows do not have the declared shape: {0}")]
    Shape(String),
    /// The statement is not a query.
    #[error("only queries can be run here: {0}")]
    NotReadOnly(String),
    /// Planning or running a query failed; the message is for its author.
    #[error("{}", .0.strip_backtrace())]
    Query(#[from] DataFusionError),
    /// The listen address can be reached from other machines, and there is no TLS.
    #[error(
        "PostgreSQL cannot listen on {0}: without TLS it listens on a loopback address only; use 127.0.0.1, and a \
         tunnel (for instance `ssh -L`) from other machines"
    )]
    ListenWithoutTls(SocketAddr),
    /// The listen address is taken or not ours.
    #[error("PostgreSQL cannot listen on {address}: {source}; choose another address or stop what uses it")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The password file cannot be read or written.
    #[error(
        "the PostgreSQL password file {path} cannot be used: {source}; make it readable and writable by this user alone"
    )]
    PasswordFile {
        /// Where it is.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The password file is readable by others or holds no password.
    #[error("the PostgreSQL password file {path} {problem}")]
    PasswordFileContent {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: &'static str,
    },
    /// The configured password cannot be used.
    #[error("the PostgreSQL password is empty: configure one, or none at all to have one generated")]
    EmptyPassword,
}

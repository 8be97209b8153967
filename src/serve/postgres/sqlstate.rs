//! Errors as PostgreSQL clients know them: a SQLSTATE and one message.

use datafusion::{
    arrow::error::ArrowError, common::SchemaError, error::DataFusionError, sql::sqlparser::parser::ParserError,
};
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError};

use crate::serve::Error;

/// The statement is not a query.
pub(super) const READ_ONLY: &str = "25006";
/// The statement returns more than it may.
pub(super) const LIMIT_EXCEEDED: &str = "54000";
/// PostgreSQL can do it, this server cannot.
pub(super) const NOT_SUPPORTED: &str = "0A000";
/// A setting has no such value.
pub(super) const INVALID_VALUE: &str = "22023";
/// There is no such setting.
pub(super) const UNKNOWN_SETTING: &str = "42704";

/// An error that ends the statement.
pub(super) fn user(code: &str, message: impl Into<String>) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".to_owned(), code.to_owned(), message.into())))
}

/// An error that ends the connection.
pub(super) fn fatal(code: &str, message: impl Into<String>) -> ErrorInfo {
    ErrorInfo::new("FATAL".to_owned(), code.to_owned(), message.into())
}

/// The error a refused or failed query answers with.
pub(super) fn of(error: Error) -> PgWireError {
    match error {
        Error::NotReadOnly(_) => user(READ_ONLY, error.to_string()),
        Error::Query(error) => PgWireError::ApiError(Box::new(error)),
        other => PgWireError::ApiError(Box::new(other)),
    }
}

/// `error` with the closest SQLSTATE.
pub(super) fn describe(error: PgWireError) -> ErrorInfo {
    let PgWireError::ApiError(source) = error else {
        return error.into();
    };
    if let Some(error) = source.downcast_ref::<DataFusionError>() {
        return ErrorInfo::new("ERROR".to_owned(), of_query(error).to_owned(), error.strip_backtrace());
    }
    let code = if source.is::<ParserError>() { "42601" } else { "XX000" };
    ErrorInfo::new("ERROR".to_owned(), code.to_owned(), source.to_string())
}

fn of_query(error: &DataFusionError) -> &'static str {
    match error.find_root() {
        DataFusionError::SQL(..) => "42601",
        DataFusionError::SchemaError(schema, _) => match **schema {
            SchemaError::AmbiguousReference { .. } => "42702",
            SchemaError::FieldNotFound { .. } => "42703",
            _ => "42701",
        },
        DataFusionError::Plan(message) if message.contains("table '") && message.contains("not found") => "42P01",
        DataFusionError::Plan(message) if message.contains("Invalid function") => "42883",
        DataFusionError::Plan(_) => "42000",
        DataFusionError::NotImplemented(_) => NOT_SUPPORTED,
        DataFusionError::ResourcesExhausted(_) => "53200",
        DataFusionError::ArrowError(error, _) => match **error {
            ArrowError::DivideByZero => "22012",
            ArrowError::ArithmeticOverflow(_) => "22003",
            ArrowError::CastError(_) | ArrowError::ParseError(_) => "22P02",
            _ => "XX000",
        },
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => "58030",
        _ => "XX000",
    }
}

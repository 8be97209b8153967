//! What a client may set for its session, and what it is told when it asks.
//!
//! Settings live in the connection's own metadata. Nothing here reaches the engine's configuration, which all sessions
//! share; a setting that would have no effect is answered with a warning, one that would mislead is refused.

use std::{sync::Arc, time::Duration};

use datafusion::sql::sqlparser::ast::{Expr, Reset, Set, Value};
use datafusion_postgres::{
    hooks::HookClient,
    pgwire::{
        api::{
            ClientInfo, Type,
            results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag},
        },
        error::{ErrorInfo, PgWireResult},
        messages::{PgWireBackendMessage, startup::ParameterStatus},
        types::format::FormatOptions,
    },
};
use futures::stream;

use super::sqlstate::{INVALID_VALUE, READ_ONLY, UNKNOWN_SETTING, user};
use crate::serve::comments::POSTGRES_VERSION;

/// Settings that shape the text of values, with the name under which a client is told of a change.
const FORMATS: [(&str, &str); 5] = [
    ("application_name", "application_name"),
    ("bytea_output", "bytea_output"),
    ("datestyle", "DateStyle"),
    ("extra_float_digits", "extra_float_digits"),
    ("intervalstyle", "IntervalStyle"),
];
const TIMEOUT: &str = "statement_timeout";
/// Names of UTC that clients use.
const UTC: [&str; 9] = ["utc", "etc/utc", "gmt", "etc/gmt", "z", "zulu", "0", "+00:00", "default"];
/// Settings whose only value here is known: asked for by drivers, never changed.
const FIXED: [(&str, &str); 12] = [
    ("client_encoding", "UTF8"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "on"),
    ("integer_datetimes", "on"),
    ("is_superuser", "off"),
    ("max_identifier_length", "63"),
    ("server_encoding", "UTF8"),
    ("server_version", POSTGRES_VERSION),
    ("server_version_num", "160006"),
    ("standard_conforming_strings", "on"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "on"),
];

/// The time limit the client asked for.
pub(super) fn statement_timeout(client: &(impl ClientInfo + ?Sized)) -> Option<Duration> {
    let asked = client.metadata().get(TIMEOUT).and_then(|text| parse_timeout(text))?;
    (!asked.is_zero()).then_some(asked)
}

/// `SET`.
pub(super) async fn set(client: &mut dyn HookClient, set: &Set) -> PgWireResult<Response> {
    match set {
        Set::SingleAssignment { variable, values, .. } => {
            let values: Vec<String> = values.iter().map(text).collect();
            assign(client, &variable.to_string(), &values.join(", ")).await?;
        }
        Set::SetTimeZone { value, .. } => assign(client, "timezone", &text(value)).await?,
        Set::SetNames { charset_name, .. } => assign(client, "client_encoding", &charset_name.value).await?,
        // Every transaction is a read-only look at the present, whatever its isolation is called.
        Set::SetTransaction { .. } | Set::SetNamesDefault {} => {}
        other => {
            return Err(user(READ_ONLY, format!("cannot execute {other} in a read-only session")));
        }
    }
    Ok(Response::Execution(Tag::new("SET")))
}

async fn assign(client: &mut dyn HookClient, name: &str, value: &str) -> PgWireResult<()> {
    let name = name.trim_matches('"').to_lowercase();
    let invalid = |expected: &str| {
        user(INVALID_VALUE, format!("invalid value for parameter \"{name}\": \"{value}\" ({expected})"))
    };
    if let Some((_, shown)) = FORMATS.iter().find(|(known, _)| *known == name) {
        client.metadata_mut().insert(name, value.to_owned());
        let status = ParameterStatus::new((*shown).to_owned(), value.to_owned());
        return client.send_message(PgWireBackendMessage::ParameterStatus(status)).await;
    }
    if let Some((_, fixed)) = FIXED.iter().find(|(known, _)| *known == name) {
        let same = value.replace('-', "").eq_ignore_ascii_case(fixed)
            || (*fixed == "on" && ["on", "true", "1", "yes"].contains(&value.to_lowercase().as_str()));
        return if same || name.ends_with("isolation") { Ok(()) } else { Err(invalid(&format!("it is {fixed} here"))) };
    }
    match name.as_str() {
        TIMEOUT => {
            parse_timeout(value).ok_or_else(|| invalid("a number of ms, or with a unit: 500ms, 30s, 2min"))?;
            client.metadata_mut().insert(TIMEOUT.to_owned(), value.to_owned());
            Ok(())
        }
        "timezone" if UTC.contains(&value.to_lowercase().as_str()) => Ok(()),
        "timezone" => Err(invalid("instants are in UTC; convert them with AT TIME ZONE")),
        // An ignored search path would silently answer with rows of the other mode.
        "search_path" if first_schema(value).is_none_or(|schema| schema == "public") => Ok(()),
        "search_path" => Err(invalid("name the schema in the query instead, as in test.mrr_daily")),
        _ if name.starts_with("datafusion.") => {
            Err(user(READ_ONLY, format!("cannot set {name}: the engine's settings are read-only")))
        }
        _ => {
            let warning = format!("parameter \"{name}\" has no effect here");
            let notice = ErrorInfo::new("WARNING".to_owned(), "01000".to_owned(), warning);
            client.send_message(PgWireBackendMessage::NoticeResponse(notice.into())).await
        }
    }
}

/// `SHOW` of one name. `SHOW ALL` and the engine's own settings are left to SQL over `pg_settings`.
pub(super) fn show(client: &dyn HookClient, words: &[String]) -> PgWireResult<Response> {
    let name = match words {
        [time, zone] if time.eq_ignore_ascii_case("time") && zone.eq_ignore_ascii_case("zone") => "timezone".to_owned(),
        _ if words.join(" ").eq_ignore_ascii_case("transaction isolation level") => "transaction_isolation".to_owned(),
        _ => words.join(".").to_lowercase(),
    };
    let formats = FormatOptions::from_client_metadata(client.metadata());
    let fixed = FIXED.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let value = match name.as_str() {
        _ if fixed.is_some() => fixed,
        "application_name" => Some(client.metadata().get("application_name").cloned().unwrap_or_default()),
        "bytea_output" => Some(formats.bytea_output),
        "datestyle" => Some(formats.date_style),
        "extra_float_digits" => Some(formats.extra_float_digits.to_string()),
        "intervalstyle" => Some(formats.interval_style),
        "search_path" => Some("public".to_owned()),
        TIMEOUT => Some(client.metadata().get(TIMEOUT).cloned().unwrap_or_else(|| "0".to_owned())),
        "timezone" => Some("UTC".to_owned()),
        _ => None,
    };
    let value =
        value.ok_or_else(|| user(UNKNOWN_SETTING, format!("unrecognized configuration parameter \"{name}\"")))?;
    one_value(&name, &value)
}

/// `RESET`, and the part of `DISCARD ALL` that concerns settings.
pub(super) fn reset(client: &mut dyn HookClient, which: &Reset) {
    match which {
        Reset::ALL => {
            for (name, _) in FORMATS {
                client.metadata_mut().remove(name);
            }
            client.metadata_mut().remove(TIMEOUT);
        }
        Reset::ConfigurationParameter(name) => {
            let name = name.to_string().to_lowercase();
            if name == TIMEOUT || FORMATS.iter().any(|(known, _)| *known == name) {
                client.metadata_mut().remove(&name);
            }
        }
    }
}

/// The field of a `SHOW` answer.
pub(super) fn shown_field(name: &str) -> FieldInfo {
    FieldInfo::new(name.to_owned(), None, None, Type::TEXT, FieldFormat::Text)
}

fn one_value(name: &str, value: &str) -> PgWireResult<Response> {
    let fields = Arc::new(vec![shown_field(name)]);
    let mut row = DataRowEncoder::new(Arc::clone(&fields));
    row.encode_field(&value)?;
    let row = row.take_row();
    Ok(Response::Query(QueryResponse::new(fields, stream::iter([Ok(row)]))))
}

/// A value as written, without its quotes.
fn text(value: &Expr) -> String {
    match value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => text.clone(),
            other => other.to_string(),
        },
        Expr::Identifier(name) => name.value.clone(),
        other => other.to_string(),
    }
}

fn first_schema(path: &str) -> Option<String> {
    path.split(',')
        .map(|schema| schema.trim().trim_matches(['"', '\'']).to_lowercase())
        .find(|schema| !["$user", "", "pg_catalog", "default"].contains(&schema.as_str()))
}

/// PostgreSQL's notation: milliseconds, or a number with a unit. 0 means no limit of the client's own.
fn parse_timeout(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let ms_per_unit = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(ms_per_unit).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_postgresql_reads_it() {
        let ms = |text| parse_timeout(text).map(|limit| limit.as_millis());
        assert_eq!(ms("250"), Some(250));
        assert_eq!(ms("250ms"), Some(250));
        assert_eq!(ms("5s"), Some(5_000));
        assert_eq!(ms("2 min"), Some(120_000));
        assert_eq!(ms("0"), Some(0));
        assert_eq!(ms("-1"), None);
        assert_eq!(ms("fast"), None);
        assert_eq!(ms("18446744073709551615h"), None);
    }

    #[test]
    fn a_search_path_that_means_other_rows_is_recognised() {
        assert_eq!(first_schema("\"$user\", public"), Some("public".to_owned()));
        assert_eq!(first_schema("test, public"), Some("test".to_owned()));
        assert_eq!(first_schema(""), None);
    }
}

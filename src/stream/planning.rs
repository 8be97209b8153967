//! From a pipeline's file to a plan that can be cut: SQL, parameters, types, and the rules every pipeline keeps.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::{
    common::{DataFusionError, ParamValues, ScalarValue, tree_node::TreeNodeRecursion},
    execution::context::SessionContext,
    logical_expr::LogicalPlan,
    prelude::SessionConfig,
};
use sha2::{Digest, Sha256};

use super::{
    class::{Class, Refusal, Relation},
    conversion::SharedRates,
    file::{Emit, FileError, Mode, PipelineFile},
    windows,
};
use crate::tables;

/// How states are laid out, and which class a query has. With another number, every pipeline is built anew.
const STATES: &str = "2";

/// A context in which pipelines are planned and run: one partition, no plan that remembers rows.
///
/// # Errors
/// When the session takes no planner: a bug.
pub(super) fn context() -> Result<SessionContext, DataFusionError> {
    let mut config = SessionConfig::new().with_target_partitions(1).with_information_schema(false);
    let options = config.options_mut();
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.sql_parser.collect_spans = true;
    let context = SessionContext::new_with_config(config);
    for function in super::functions() {
        context.register_udf(function);
    }
    // Known, so that it is refused with a reason.
    context.register_udf(super::conversion::to_currency(SharedRates::default(), 0));
    windows::register(&context)?;
    Ok(context)
}

/// The analysed plan of a file, its parameters filled in.
pub(super) async fn logical_plan(
    context: &SessionContext,
    file: &PipelineFile,
    parameters: Vec<(String, ScalarValue)>,
) -> Result<LogicalPlan, DataFusionError> {
    let state = context.state();
    let plan = state.create_logical_plan(&file.text).await?;
    if !matches!(
        plan,
        LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Window(_)
            | LogicalPlan::Aggregate(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Join(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::TableScan(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Distinct(_)
            | LogicalPlan::Unnest(_)
    ) {
        return Err(DataFusionError::Plan("a pipeline is one SELECT".to_owned()));
    }
    let plan = plan.with_param_values(ParamValues::Map(
        parameters.into_iter().map(|(name, value)| (name, value.into())).collect(),
    ))?;
    state.analyzer().execute_and_check(plan, &state.config_options().as_ref().clone(), |_, _| {})
}

/// The columns of the output table: the contract's where there is one, else what the query yields, in the types
/// that tables have.
pub(super) fn output_schema(file: &PipelineFile, plan: &LogicalPlan) -> Result<SchemaRef, Box<FileError>> {
    let metadata = &file.metadata;
    let names: Vec<&str> = plan.schema().fields().iter().map(|f| f.name().as_str()).collect();
    for name in &names[..] {
        let described = metadata.columns.contains_key(*name) || ["account", "livemode"].contains(name);
        if !described {
            let message = format!("the column `{name}` is not described");
            return Err(file.error(message, name, "this column", Some("add it under columns: in the metadata")));
        }
    }
    if let Some(missing) = metadata.columns.keys().find(|name| !names.contains(&name.as_str())) {
        let message = format!("the metadata describes `{missing}`, which the query does not give");
        return Err(file.error(message, &format!("{missing}:"), "described here", None));
    }
    if let Ok(table) = tables::get(&metadata.name) {
        let expected: Vec<&str> = table.schema.fields().iter().map(|f| f.name().as_str()).collect();
        if expected != names {
            let message = format!("the columns of `{}` are a contract: {}", table.name, expected.join(", "));
            let hint = "give exactly these columns in this order (schemas/tables.yml), or use another name";
            return Err(file.error(message, "SELECT", "this query", Some(hint)));
        }
        return Ok(Arc::clone(&table.schema));
    }
    let fields = plan
        .schema()
        .fields()
        .iter()
        .map(|field| {
            let data_type = table_type(field.data_type()).ok_or_else(|| {
                let message =
                    format!("`{}` has the type {}, which tables do not have", field.name(), field.data_type());
                file.error(message, field.name(), "this column", Some("cast it to a type of schemas/tables.yml"))
            })?;
            let nullable = !metadata.grain.contains(field.name());
            let comment = metadata.columns.get(field.name()).map(|c| c.description.clone()).unwrap_or_default();
            Ok(Field::new(field.name(), data_type, nullable).with_metadata([("comment".to_owned(), comment)].into()))
        })
        .collect::<Result<Vec<_>, Box<FileError>>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

fn table_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Boolean => DataType::Boolean,
        integer if integer.is_integer() => DataType::Int64,
        float if float.is_floating() => DataType::Float64,
        DataType::Decimal128(precision, scale) => DataType::Decimal128(*precision, *scale),
        DataType::Date32 => DataType::Date32,
        DataType::Timestamp(..) => tables::timestamptz(),
        DataType::List(item) if matches!(item.data_type(), DataType::Utf8 | DataType::Utf8View) => tables::text_list(),
        _ => return None,
    })
}

/// The positions of the grain in the output.
pub(super) fn key_columns(file: &PipelineFile, schema: &SchemaRef) -> Result<Vec<usize>, Box<FileError>> {
    if schema.index_of(&file.metadata.time_column).is_err() {
        let message = format!("time_column names `{}`, which the query does not give", file.metadata.time_column);
        return Err(file.error(message, "time_column:", "this column", None));
    }
    file.metadata
        .grain
        .iter()
        .map(|name| {
            schema.index_of(name).map_err(|_| {
                let message = format!("the grain names `{name}`, which the query does not give");
                file.error(message, "grain:", "this grain", None)
            })
        })
        .collect()
}

/// Refuses what would mix accounts or modes, and `append` where rows can change.
pub(super) fn check_scope_and_mode(
    file: &PipelineFile,
    class: &Class,
    relations: &BTreeMap<String, Relation>,
    sources: &BTreeSet<String>,
) -> Result<(), Box<FileError>> {
    if let Class::Aggregate(grouping) = class
        && let Some(missing) =
            ["account", "livemode"].into_iter().find(|scope| !grouping.key_names.iter().any(|k| k == scope))
    {
        let message = format!("the GROUP BY mixes rows of different `{missing}`");
        return Err(file.error(
            message,
            "GROUP BY",
            "this one",
            Some("accounts and modes are never mixed: GROUP BY account, livemode, …"),
        ));
    }
    let append_only = matches!(class, Class::Stateless(_))
        && sources.iter().all(|name| relations.get(name).is_some_and(|relation| relation.appended));
    let released = file.metadata.emit == Emit::OnClose;
    if file.metadata.mode == Mode::Append && !append_only && !released {
        let hint = "write mode: upsert; append is for filters and projections of append-only tables, and for rows that \
                    never change because they are emitted on close";
        return Err(file.error(
            "its rows can change after they were written".to_owned(),
            "mode:",
            "so this mode is refused",
            Some(hint),
        ));
    }
    Ok(())
}

/// The names of all tables a plan reads, those of subqueries in expressions among them.
pub(super) fn scans(plan: &LogicalPlan, names: &mut BTreeSet<String>) -> Result<(), DataFusionError> {
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            names.insert(scan.table_name.table().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// A refusal as an error that points into the file.
pub(super) fn refused(file: &PipelineFile, refusal: &Refusal) -> Box<FileError> {
    let message = format!("`{}` cannot be maintained: {}", file.metadata.name, refusal.reason);
    let hint = (!refusal.hint.is_empty()).then_some(refusal.hint.as_str());
    file.error(message, &refusal.needle, "because of this", hint)
}

/// An error of DataFusion's as one that points into the file, as far as it says where.
pub(super) fn query_error(file: &PipelineFile, error: &DataFusionError) -> Box<FileError> {
    let message = error.strip_backtrace();
    let message = message.strip_prefix("Error during planning: ").map_or(message.clone(), str::to_owned);
    let diagnostic = error.diagnostic();
    let help = diagnostic.and_then(|diagnostic| diagnostic.helps.first()).map(|help| help.message.as_str());
    if let Some(start) = diagnostic.and_then(|diagnostic| diagnostic.span).map(|span| span.start) {
        return file.error_at(message, start.line, start.column, help);
    }
    // The parser says where in words only.
    let number_after = |word: &str| -> Option<u64> {
        let rest = &message[message.find(word)? + word.len()..];
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    match (number_after("Line: "), number_after("Column: ")) {
        (Some(line), Some(column)) => file.error_at(message.clone(), line, column, None),
        _ => file.error(message, "SELECT", "in this query", help),
    }
}

/// Changes with all that decides a pipeline's answer or state.
pub(super) fn fingerprint(file: &PipelineFile, parameters: &[(String, ScalarValue)]) -> String {
    let mut hash = Sha256::new();
    for part in [
        file.text.as_str(),
        &format!("{parameters:?}"),
        STATES,
        env!("CARGO_PKG_VERSION"),
        datafusion::DATAFUSION_VERSION,
        chrono_tz::IANA_TZDB_VERSION,
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..16])
}

//! The views that come with the program: one `SELECT` a file in `views/`, over the tables and over each other.
//!
//! A view stores nothing and is computed when it is read; in the schema `public` it reads live mode, in `test` test
//! mode. Its file begins with its metadata as YAML in a comment, as a pipeline's does. A `$name` in it takes the value
//! of a setting; a view that reads a table which is not there, or a setting that is not given, is left out.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    catalog::CatalogProvider,
    common::{ParamValues, ScalarValue, TableReference},
    datasource::ViewTable,
    execution::{SessionState, SessionStateBuilder, context::SessionContext},
};
use serde::Deserialize;

use super::{Error, UserTable};

const OPEN: &str = "/*---";
const CLOSE: &str = "---*/";

/// The files, in an order in which each view comes after those it reads.
const SHIPPED: [(&str, &str); 4] = [
    ("subscription_item_change_events", include_str!("../../views/subscription_item_change_events.sql")),
    ("exchange_rates_from_usd", include_str!("../../views/exchange_rates_from_usd.sql")),
    ("sigma_products", include_str!("../../views/sigma_products.sql")),
    ("sigma_prices", include_str!("../../views/sigma_prices.sql")),
];

/// A view, with the values of its parameters.
#[derive(Debug, Clone)]
pub struct View {
    /// Its name in both schemas.
    pub name: String,
    /// What a row of it is.
    pub description: String,
    /// Column names and what they mean, in no order.
    pub columns: Vec<(String, String)>,
    sql: String,
    parameters: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
    description: String,
    /// Parameter → the setting whose value it takes.
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    columns: BTreeMap<String, String>,
}

impl View {
    /// Reads a file. `None` when a setting it needs is not among `settings`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the file is not right.
    pub fn parse(text: &str, settings: &BTreeMap<String, String>) -> Result<Option<Self>, Error> {
        let wrong = |problem: String| Error::Shape(format!("a view's file: {problem}"));
        let header = text.trim_start().strip_prefix(OPEN).and_then(|rest| rest.split_once(CLOSE));
        let (header, _) = header.ok_or_else(|| wrong(format!("no {OPEN} … {CLOSE} at its beginning")))?;
        let metadata: Metadata = serde_yaml_ng::from_str(header).map_err(|error| wrong(error.to_string()))?;
        let values = metadata.parameters.into_iter();
        let values = values.map(|(name, setting)| Some((name, settings.get(&setting)?.clone())));
        let Some(parameters) = values.collect::<Option<Vec<_>>>() else { return Ok(None) };
        Ok(Some(Self {
            name: metadata.name,
            description: metadata.description,
            columns: metadata.columns.into_iter().collect(),
            sql: text.to_owned(),
            parameters,
        }))
    }
}

/// The views that come with the program, for these settings.
///
/// # Errors
/// [`Error::Shape`] when a file is not right; a test keeps that from happening.
pub fn shipped(settings: &BTreeMap<String, String>) -> Result<Vec<View>, Error> {
    let views = SHIPPED.iter().map(|(name, text)| match View::parse(text, settings)? {
        Some(view) if view.name != *name => Err(Error::Shape(format!("the view {name} calls itself {}", view.name))),
        view => Ok(view),
    });
    Ok(views.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// Adds the views whose tables are there to both schemas of `context`; what was added, as clients see it.
///
/// # Errors
/// [`Error::Query`] when one cannot be planned, [`Error::Shape`] when its columns are not the described ones.
pub(super) async fn register(
    context: &SessionContext,
    database: &Arc<dyn CatalogProvider>,
    schemas: &[&str],
    views: &[View],
) -> Result<Vec<UserTable>, Error> {
    let mut added = Vec::new();
    for (place, schema) in schemas.iter().enumerate() {
        let state = in_schema(context, schema);
        for view in views {
            let Some(table) = planned(&state, database, schema, view).await? else { continue };
            let table = Arc::new(table);
            context.register_table(TableReference::partial(*schema, view.name.as_str()), Arc::clone(&table) as _)?;
            if place == 0 {
                let mut shown = UserTable::new(view.name.clone(), table);
                shown.comment = Some(view.description.clone());
                shown.column_comments.clone_from(&view.columns);
                added.push(shown);
            }
        }
    }
    Ok(added)
}

/// The session, except that a name without a schema means one of `schema`.
fn in_schema(context: &SessionContext, schema: &str) -> SessionState {
    let state = context.state();
    let mut config = state.config().clone();
    let catalog = &mut config.options_mut().catalog;
    catalog.default_schema = schema.to_owned();
    // There is one; another would take its place.
    catalog.create_default_catalog_and_schema = false;
    SessionStateBuilder::new_from_existing(state).with_config(config).build()
}

async fn planned(
    state: &SessionState,
    database: &Arc<dyn CatalogProvider>,
    schema: &str,
    view: &View,
) -> Result<Option<ViewTable>, Error> {
    let dialect = state.config_options().sql_parser.dialect;
    let statement = state.sql_to_statement(&view.sql, &dialect)?;
    let reads = state.resolve_table_references(&statement)?;
    let tables = database.schema(schema);
    if !reads.iter().all(|table| tables.as_ref().is_some_and(|tables| tables.table_exist(table.table()))) {
        return Ok(None);
    }
    let plan = state.statement_to_plan(statement).await?;
    let values = view.parameters.iter().map(|(name, value)| (name.clone(), ScalarValue::from(value.as_str()).into()));
    let plan = plan.with_param_values(ParamValues::Map(values.collect()))?;
    let mut given: Vec<&str> = plan.schema().fields().iter().map(|field| field.name().as_str()).collect();
    given.sort_unstable();
    if !given.iter().copied().eq(view.columns.iter().map(|(name, _)| name.as_str())) {
        return Err(Error::Shape(format!("the view {} gives {given:?} and describes {:?}", view.name, view.columns)));
    }
    Ok(Some(ViewTable::new(plan, Some(view.sql.clone()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_without_its_setting_is_left_out() {
        let text = "/*---\nname: v\ndescription: d\nparameters: { zone: merchant.zone }\ncolumns: { z: the zone }\n---*/\n\
                    SELECT $zone AS z";
        assert!(View::parse(text, &BTreeMap::new()).unwrap().is_none());
        let settings = BTreeMap::from([("merchant.zone".to_owned(), "Europe/Berlin".to_owned())]);
        assert_eq!(
            View::parse(text, &settings).unwrap().unwrap().parameters,
            [("zone".into(), "Europe/Berlin".into())]
        );
        assert!(View::parse("SELECT 1", &settings).is_err());
    }
}

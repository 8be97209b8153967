//! `TUMBLE` and `HOP` in FROM, expanded to filters and projections while a query is planned.
//!
//! DataFusion looks up the tables of a query before it is planned and does not see one that is named only inside the
//! arguments of a table function, so such a table is looked up here. A catalog whose tables have to be waited for is
//! not supported; ours are in memory.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc};

use arrow::datatypes::{DataType, IntervalMonthDayNano};
use datafusion::{
    catalog::CatalogProviderList,
    common::{Column, DFSchema, DataFusionError, Diagnostic, Result, ScalarValue, Span as Place, TableReference},
    datasource::provider_as_source,
    execution::context::SessionContext,
    logical_expr::{
        Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast,
        planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning},
    },
    prelude::lit,
    sql::sqlparser::ast::{
        self, DateTimeField, FunctionArg, FunctionArgExpr, Ident, ObjectName, Spanned, TableFactor, Visit, Visitor,
    },
};
use futures::FutureExt;

use super::{MAX_PANES, Span, local_floor, local_hops, local_shift};
use crate::{
    stream::calendar::{local_date, zone_named},
    tables::timestamptz,
};

const TUMBLE: &str = "tumble";
const HOP: &str = "hop";
/// The columns that a window adds.
pub(super) const COLUMNS: [&str; 3] = ["window_start", "window_end", "window_day"];

/// Lets the queries of a session use TUMBLE and HOP.
///
/// # Errors
/// When the session takes no planner: a bug.
pub fn register(context: &SessionContext) -> Result<()> {
    let tables = Arc::clone(context.state().catalog_list());
    context.register_relation_planner(Arc::new(Windows { tables }))
}

/// The tables that are named inside the arguments of TUMBLE and HOP.
pub(in super::super) fn tables_in(statement: &ast::Statement) -> BTreeSet<String> {
    struct Named(BTreeSet<String>);
    impl Visitor for Named {
        type Break = ();

        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            if let Some(call) = Call::of(factor)
                && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(table))) = call.arguments.first()
                && let Some(table) = name_of(table).and_then(|names| names.last().cloned())
            {
                self.0.insert(if table.quote_style.is_some() { table.value } else { table.value.to_lowercase() });
            }
            ControlFlow::Continue(())
        }
    }
    let mut named = Named(BTreeSet::new());
    let _: ControlFlow<()> = statement.visit(&mut named);
    named.0
}

fn name_of(expr: &ast::Expr) -> Option<Vec<Ident>> {
    match expr {
        ast::Expr::Identifier(name) => Some(vec![name.clone()]),
        ast::Expr::CompoundIdentifier(names) => Some(names.clone()),
        _ => None,
    }
}

/// A call of TUMBLE or HOP.
struct Call<'a> {
    is_hop: bool,
    arguments: &'a [FunctionArg],
    place: Option<Place>,
}

impl<'a> Call<'a> {
    fn of(factor: &'a TableFactor) -> Option<Self> {
        let TableFactor::Table { name, args: Some(arguments), .. } = factor else { return None };
        let called = name.to_string().to_lowercase();
        [TUMBLE, HOP].contains(&called.as_str()).then(|| Self {
            is_hop: called == HOP,
            arguments: &arguments.args,
            place: Place::try_from_sqlparser_span(name.span()),
        })
    }

    /// A mistake in it, and what to write.
    fn wrong(&self, problem: &str, hint: &str) -> DataFusionError {
        let diagnostic = Diagnostic::new_error(problem, self.place).with_help(hint, None);
        DataFusionError::Plan(problem.to_owned()).with_diagnostic(diagnostic)
    }

    fn usage(&self) -> DataFusionError {
        if self.is_hop {
            self.wrong(
                "HOP takes a table, a time column, a slide, a size, and perhaps a zone",
                "write HOP(mrr_movements, occurred_at, INTERVAL '1' DAY, INTERVAL '7' DAY, 'Europe/Berlin')",
            )
        } else {
            self.wrong(
                "TUMBLE takes a table, a time column, a size, and perhaps a zone",
                "write TUMBLE(mrr_movements, occurred_at, INTERVAL '1' MONTH, 'Europe/Berlin')",
            )
        }
    }
}

#[derive(Debug)]
struct Windows {
    tables: Arc<dyn CatalogProviderList>,
}

impl RelationPlanner for Windows {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let Some(call) = Call::of(&relation) else { return Ok(RelationPlanning::Original(Box::new(relation))) };
        let arguments = call.arguments.iter().map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
            _ => None,
        });
        let arguments = arguments.collect::<Option<Vec<_>>>().ok_or_else(|| call.usage())?;
        let (table, instant, slide, size, zone) = match arguments.as_slice() {
            [table, instant, size] if !call.is_hop => (table, instant, size, size, None),
            [table, instant, size, zone] if !call.is_hop => (table, instant, size, size, Some(zone)),
            [table, instant, slide, size] if call.is_hop => (table, instant, slide, size, None),
            [table, instant, slide, size, zone] if call.is_hop => (table, instant, slide, size, Some(zone)),
            _ => return Err(call.usage()),
        };
        let input = self.input(&call, &relation, table, context)?;
        let schema = Arc::clone(input.schema());
        if let Some(taken) = COLUMNS.iter().find(|name| schema.has_column_with_unqualified_name(name)) {
            return Err(call.wrong(
                &format!("the table has a column `{taken}` of its own"),
                "give the window a subquery that renames it: TUMBLE((SELECT …), …)",
            ));
        }
        let instant = instant_of(&call, context.sql_to_expr((*instant).clone(), &schema)?, &schema)?;
        let zone = match zone {
            Some(zone) => context.sql_to_expr((*zone).clone(), &schema)?,
            None => lit("UTC"),
        };
        if let Expr::Literal(value, _) = &zone {
            let name = value.try_as_str().flatten().unwrap_or_default();
            zone_named(name).map_err(|error| call.wrong(&error, "name a zone such as 'Europe/Berlin'"))?;
        }
        let slide = interval(&call, slide, context)?;
        let span = Span::of(slide).map_err(|problem| {
            call.wrong(problem, "write one unit, such as INTERVAL '1' DAY, INTERVAL '3' MONTH or INTERVAL '15' MINUTE")
        })?;
        let panes = if call.is_hop { panes(&call, span, interval(&call, size, context)?)? } else { 1 };
        let plan = expand(input, &instant, slide, panes, &zone)?;
        let TableFactor::Table { alias, .. } = relation else { return Err(call.usage()) };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

impl Windows {
    fn input(
        &self,
        call: &Call<'_>,
        factor: &TableFactor,
        table: &ast::Expr,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        if let ast::Expr::Subquery(query) = table {
            let subquery = query.clone();
            return context.plan(TableFactor::Derived { lateral: false, subquery, alias: None, sample: None });
        }
        let Some(names) = name_of(table) else { return Err(call.usage()) };
        let mut named = factor.clone();
        if let TableFactor::Table { name, alias, args, .. } = &mut named {
            *name = ObjectName::from(names.clone());
            (*alias, *args) = (None, None);
        }
        context.plan(named).or_else(|unknown| {
            let name = context.object_name_to_table_reference(ObjectName::from(names))?;
            self.look_up(name, context)?.ok_or(unknown)
        })
    }

    /// A scan of a table that DataFusion has not looked up.
    fn look_up(&self, name: TableReference, context: &dyn RelationPlannerContext) -> Result<Option<LogicalPlan>> {
        let defaults = &context.context_provider().options().catalog;
        let full = name.clone().resolve(&defaults.default_catalog, &defaults.default_schema);
        let schema = self.tables.catalog(&full.catalog).and_then(|catalog| catalog.schema(&full.schema));
        let Some(schema) = schema else { return Ok(None) };
        let Some(found) = schema.table(&full.table).now_or_never() else { return Ok(None) };
        let Some(provider) = found? else { return Ok(None) };
        LogicalPlanBuilder::scan(name, provider_as_source(provider), None)?.build().map(Some)
    }
}

fn instant_of(call: &Call<'_>, expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match expr.get_type(schema)? {
        of if of == timestamptz() => Ok(expr),
        DataType::Timestamp(..) | DataType::Date32 => Ok(cast(expr, timestamptz())),
        other => Err(call.wrong(
            &format!("`{expr}` is {other} and not an instant"),
            "name a column of timestamps, such as occurred_at",
        )),
    }
}

fn interval(
    call: &Call<'_>,
    expr: &ast::Expr,
    context: &mut dyn RelationPlannerContext,
) -> Result<IntervalMonthDayNano> {
    let mut expr = expr.clone();
    let mut times = 1;
    // Known to SQL, and not to DataFusion.
    if let ast::Expr::Interval(interval) = &mut expr
        && interval.leading_field == Some(DateTimeField::Quarter)
    {
        (interval.leading_field, times) = (Some(DateTimeField::Month), 3);
    }
    match context.sql_to_expr(expr, &DFSchema::empty())? {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) => {
            Ok(IntervalMonthDayNano { months: interval.months.saturating_mul(times), ..interval })
        }
        other => Err(call.wrong(
            &format!("`{other}` is not an interval that is known when the query is planned"),
            "write it out: INTERVAL '1' MONTH",
        )),
    }
}

fn panes(call: &Call<'_>, slide: Span, size: IntervalMonthDayNano) -> Result<i64> {
    let Some(panes) = slide.times(size) else {
        return Err(call.wrong(
            "the size of a HOP is not a multiple of its slide",
            "slide and size are both of months, both of days, or both of hours and less: INTERVAL '1' DAY, INTERVAL '7' DAY",
        ));
    };
    if panes > MAX_PANES {
        return Err(call.wrong(
            &format!("each row would lie in {panes} windows, and at most {MAX_PANES} are kept"),
            "TUMBLE by the slide and add up with a window over the groups: \
             SUM(x) OVER (PARTITION BY … ORDER BY window_day RANGE BETWEEN INTERVAL '89 days' PRECEDING AND CURRENT ROW)",
        ));
    }
    Ok(panes)
}

/// The rows of `input`, once for each of the windows that hold them.
fn expand(
    input: LogicalPlan,
    instant: &Expr,
    slide: IntervalMonthDayNano,
    panes: i64,
    zone: &Expr,
) -> Result<LogicalPlan> {
    let [start, end, day] = COLUMNS;
    let slide = || lit(ScalarValue::IntervalMonthDayNano(Some(slide)));
    let columns = |plan: &LogicalPlan| plan.schema().columns().into_iter().map(Expr::Column).collect::<Vec<_>>();
    let begins = if panes == 1 {
        local_floor().call(vec![instant.clone(), slide(), zone.clone()])
    } else {
        local_hops().call(vec![instant.clone(), slide(), lit(panes), zone.clone()])
    };
    let plan = LogicalPlanBuilder::from(input).filter(instant.clone().is_not_null())?;
    let expressions = [columns(plan.plan()), vec![begins.alias(start)]].concat();
    let mut plan = plan.project(expressions)?;
    let started = Column::new_unqualified(start);
    if panes > 1 {
        plan = plan.unnest_column(started.clone())?;
    }
    let started = Expr::Column(started);
    let bounds = vec![
        local_shift().call(vec![started.clone(), slide(), lit(panes), zone.clone()]).alias(end),
        local_date().call(vec![started, zone.clone()]).alias(day),
    ];
    let expressions = [columns(plan.plan()), bounds].concat();
    plan.project(expressions)?.build()
}

//! How a pipeline is maintained: its class, and the pieces its plan is cut into.
//!
//! The analysed logical plan is searched for a linear part (filters, projections, unions and lists unnested over streaming relations):
//! what it yields for a set of changes does not depend on any other row. A plan that is linear as a whole is
//! *stateless*. A plan with exactly one GROUP BY over a linear part is *aggregate*: the GROUP BY is taken out, its
//! groups are kept as state, and the rest, the suffix, reads the groups as a table. What falls into independent parts by
//! a key of all its rows is *keyed* (`keyed.rs`): these rows are kept. What is none of these is refused with the reason;
//! it is never silently recomputed.
//!
//! The GROUP BY is replaced as a whole node with all that is below it, so nothing of the query can be lost on the way.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::{
    common::{
        Column, DFSchema, DataFusionError,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    datasource::provider_as_source,
    logical_expr::{
        Aggregate, Distinct, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Sort, Volatility, WindowFrame,
        WindowFrameUnits, WindowFunctionDefinition, case, expr::AggregateFunction, lit,
    },
};

use super::{
    conversion, keyed,
    leaf::{Cell, CellTable},
    partition::partition_keys,
};

/// The table that stands for the GROUP BY in a suffix.
pub(super) const GROUPS: &str = "__groups";

/// Tables that stand for what a suffix reads of small relations begin with this.
pub(super) const VIEW: &str = "__view";

/// Why a query cannot be maintained, and what to write instead.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    /// Words of the SQL to point at.
    pub(crate) needle: String,
    pub(crate) hint: String,
}

impl Refusal {
    /// Says that the query could run on a schedule instead.
    pub(super) fn offer_a_schedule(&mut self) {
        let offer = "let it run again every day with schedule: daily (hourly, weekly, monthly)";
        self.hint = if self.hint.is_empty() { offer.to_owned() } else { format!("{}; or {offer}", self.hint) };
    }
}

pub(super) fn refuse<T>(reason: impl Into<String>, needle: &str, hint: &str) -> Result<T, Refusal> {
    Err(Refusal { reason: reason.into(), needle: needle.to_owned(), hint: hint.to_owned() })
}

impl From<DataFusionError> for Refusal {
    fn from(error: DataFusionError) -> Self {
        Self { reason: error.strip_backtrace(), needle: String::new(), hint: String::new() }
    }
}

/// What is known of a relation when a query over it is classified.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its columns.
    pub schema: SchemaRef,
    /// Whether rows are only ever added to it.
    pub appended: bool,
    /// Whether it is so small that a suffix may read it whole.
    pub small: bool,
}

/// What an accumulator does with its argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AggregateKind {
    Sum,
    Count,
    Min,
    Max,
}

/// One aggregate of the GROUP BY.
#[derive(Clone, Debug)]
pub(crate) struct AggregateColumn {
    pub(crate) kind: AggregateKind,
    /// The column of the input that holds its argument; `None` for `count(*)`.
    pub(crate) argument: Option<usize>,
    /// The type SQL gives the result.
    pub(crate) output: DataType,
}

/// A GROUP BY cut out of its query.
#[derive(Debug)]
pub(crate) struct Grouping {
    /// Yields the group keys, then the arguments.
    pub(crate) input: LogicalPlan,
    pub(crate) keys: usize,
    pub(crate) aggregates: Vec<AggregateColumn>,
    /// The groups as the suffix sees them: keys, then results.
    pub(crate) schema: SchemaRef,
    /// The rest of the query, over the groups.
    pub(crate) suffix: LogicalPlan,
    pub(crate) groups: Cell,
    /// The key columns by which the suffix can be computed for some groups without the others; empty when it needs
    /// all of them.
    pub(crate) partition: Vec<usize>,
    /// The columns of the answer that these are, if all are there.
    pub(crate) shown: Option<Vec<usize>>,
    /// The names of the key columns, for people.
    pub(crate) key_names: Vec<String>,
    /// Small relations that the suffix reads.
    pub(crate) small: Vec<String>,
    /// What it reads of them: a change that does not show there is none to the suffix.
    pub(crate) views: Vec<View>,
}

/// A part of a suffix that reads small relations alone.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) plan: LogicalPlan,
    /// Its rows' columns as the suffix reads them.
    pub(crate) schema: SchemaRef,
    /// From where the suffix reads them.
    pub(crate) rows: Cell,
}

/// A classified query.
#[derive(Debug)]
pub(crate) enum Class {
    Stateless(LogicalPlan),
    Aggregate(Box<Grouping>),
    Keyed(Box<keyed::Parts>),
}

/// DataFusion's optimizer.
pub(super) type Optimize<'a> = &'a dyn Fn(&LogicalPlan) -> Result<LogicalPlan, DataFusionError>;

/// Cuts an analysed plan, or says why it cannot be maintained.
pub(crate) fn classify(
    plan: LogicalPlan,
    relations: &BTreeMap<String, Relation>,
    optimize: Optimize<'_>,
) -> Result<Class, Refusal> {
    if let Some(name) = function_that(&plan, &|_, volatility| volatility != Volatility::Immutable)? {
        refuse_unstable(&name)?;
    }
    refuse_disordered(&plan)?;
    match by_groups(plan.clone(), relations) {
        // The rows themselves may do where their groups do not; if not, that is what there is to say.
        Err(_) => keyed::cut(plan, relations, optimize).map(|parts| Class::Keyed(Box::new(parts))),
        class => class,
    }
}

/// Stateless, or aggregate.
fn by_groups(plan: LogicalPlan, relations: &BTreeMap<String, Relation>) -> Result<Class, Refusal> {
    refuse_subqueries(&plan)?;
    if is_linear(&plan, relations).is_ok() {
        return Ok(Class::Stateless(plan));
    }
    if plan.exists(|node| Ok(matches!(node, LogicalPlan::Limit(_)) && reads_streams(node, relations)))? {
        return refuse("which rows come first cannot be said of some without the others", "LIMIT", "");
    }
    let mut found: Vec<Aggregate> = Vec::new();
    plan.apply(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node
            && is_linear(&aggregate.input, relations).is_ok()
            && reads_streams(&aggregate.input, relations)
        {
            if !found.contains(aggregate) {
                found.push(aggregate.clone());
            }
            return Ok(TreeNodeRecursion::Jump);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let aggregate = match found.as_slice() {
        [one] => one.clone(),
        [] => {
            let culprit = is_linear(&plan, relations).err().unwrap_or_default();
            return refuse(
                format!("{culprit} over a stream of changes cannot be maintained without a GROUP BY below it"),
                &culprit,
                "aggregate first (one GROUP BY over filters, projections and UNION ALL), then join, order or window \
                 the groups",
            );
        }
        _ => {
            return refuse(
                format!("the query has {} different GROUP BYs over streams; one can be maintained", found.len()),
                "GROUP BY",
                "gather what they need with UNION ALL below a single GROUP BY, or write two pipelines",
            );
        }
    };
    let appended = only_appended(&aggregate.input, relations);
    cut(plan, &aggregate, appended, relations).map(|grouping| Class::Aggregate(Box::new(grouping)))
}

fn cut(
    plan: LogicalPlan,
    aggregate: &Aggregate,
    appended: bool,
    relations: &BTreeMap<String, Relation>,
) -> Result<Grouping, Refusal> {
    let keys = aggregate.group_expr.len();
    let mut columns: Vec<Expr> = Vec::new();
    for (i, expr) in aggregate.group_expr.iter().enumerate() {
        if matches!(expr, Expr::GroupingSet(_)) {
            return refuse("grouping sets cannot be maintained", "GROUP BY", "write one GROUP BY of plain columns");
        }
        columns.push(expr.clone().alias(format!("k{i}")));
    }
    let mut aggregates = Vec::new();
    for (i, expr) in aggregate.aggr_expr.iter().enumerate() {
        let (kind, argument) = accumulator(expr, appended, aggregate.input.schema())?;
        let position = argument.is_some().then_some(columns.len());
        columns.extend(argument.map(|argument| argument.alias(format!("a{i}"))));
        let output = aggregate.schema.field(keys + i).data_type().clone();
        aggregates.push(AggregateColumn { kind, argument: position, output });
    }
    let input =
        LogicalPlanBuilder::from(Arc::unwrap_or_clone(Arc::clone(&aggregate.input))).project(columns)?.build()?;

    let schema: SchemaRef = Arc::new(Schema::new(
        aggregate
            .schema
            .fields()
            .iter()
            .enumerate()
            .map(|(i, f)| Field::new(format!("g{i}"), f.data_type().clone(), f.is_nullable()))
            .collect::<Vec<_>>(),
    ));
    let groups = Cell::default();
    let scan = stand_in(GROUPS, 'g', &aggregate.schema, &schema, &groups)?;
    let suffix = plan
        .transform_down(|node| match &node {
            LogicalPlan::Aggregate(other) if other == aggregate => {
                Ok(Transformed::new(scan.clone(), true, TreeNodeRecursion::Jump))
            }
            _ => Ok(Transformed::no(node)),
        })?
        .data;

    let mut small = Vec::new();
    let mut stray = None;
    suffix.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let name = scan.table_name.table();
            match relations.get(name) {
                Some(relation) if relation.small => small.push(name.to_owned()),
                Some(_) => stray = Some(name.to_owned()),
                None => {}
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if let Some(name) = stray {
        return refuse(
            format!("the query reads `{name}` outside its GROUP BY"),
            &name,
            "read it below the same GROUP BY with UNION ALL, or in a pipeline of its own",
        );
    }
    small.sort();
    small.dedup();
    let mut views = Vec::new();
    let suffix = cut_views(suffix, relations, &mut views)?;
    let (partition, shown) = partition_keys(&suffix, keys);
    let key_names = (0..keys).map(|i| aggregate.schema.field(i).name().clone()).collect();
    Ok(Grouping { input, keys, aggregates, schema, suffix, groups, partition, shown, key_names, small, views })
}

/// A scan of a cell's rows, `<letter>0`, `<letter>1` …, under the names of `original`.
pub(super) fn stand_in(
    table: &str,
    letter: char,
    original: &DFSchema,
    schema: &SchemaRef,
    cell: &Cell,
) -> Result<LogicalPlan, DataFusionError> {
    let provider = Arc::new(CellTable::new(Arc::clone(schema), cell.clone()));
    let named = original.iter().enumerate().map(|(i, (qualifier, field))| {
        Expr::Column(Column::new(Some(table), format!("{letter}{i}"))).alias_qualified(qualifier.cloned(), field.name())
    });
    LogicalPlanBuilder::scan(table, provider_as_source(provider), None)?.project(named)?.build()
}

/// Takes the largest parts that read small relations alone out of a suffix.
pub(super) fn cut_views(
    suffix: LogicalPlan,
    relations: &BTreeMap<String, Relation>,
    views: &mut Vec<View>,
) -> Result<LogicalPlan, DataFusionError> {
    let suffix = suffix
        .transform_down(|node| {
            let is_small = |name: &str| relations.get(name).is_some_and(|relation| relation.small);
            if !any_scan(&node, &is_small) || any_scan(&node, &|name| !is_small(name)) {
                return Ok(Transformed::no(node));
            }
            let fields = node.schema().fields().iter().enumerate();
            let schema: SchemaRef = Arc::new(Schema::new(
                fields
                    .map(|(i, f)| Field::new(format!("v{i}"), f.data_type().clone(), f.is_nullable()))
                    .collect::<Vec<_>>(),
            ));
            let rows = Cell::default();
            let scan = stand_in(&format!("{VIEW}{}", views.len()), 'v', node.schema(), &schema, &rows)?;
            views.push(View { plan: node, schema, rows });
            Ok(Transformed::new(scan, true, TreeNodeRecursion::Jump))
        })?
        .data;
    Ok(suffix)
}

/// The accumulator of an aggregate expression over rows of a schema, and the argument it is fed with.
fn accumulator(expr: &Expr, appended: bool, rows: &DFSchema) -> Result<(AggregateKind, Option<Expr>), Refusal> {
    let function = match expr {
        Expr::Alias(alias) => return accumulator(&alias.expr, appended, rows),
        Expr::AggregateFunction(function) => function,
        other => return refuse(format!("`{other}` is not an aggregate"), "GROUP BY", ""),
    };
    let AggregateFunction { func, params } = function;
    let name = func.name();
    if params.distinct || !params.order_by.is_empty() || params.null_treatment.is_some() {
        return refuse(
            format!("`{expr}` depends on more than each row by itself"),
            name,
            "leave out DISTINCT, ORDER BY and IGNORE NULLS inside aggregates",
        );
    }
    let kind = match name {
        "sum" => AggregateKind::Sum,
        "count" => AggregateKind::Count,
        "min" if appended => AggregateKind::Min,
        "max" if appended => AggregateKind::Max,
        "min" | "max" => {
            return refuse(
                format!("`{name}` cannot take back a row, and the rows below it can change"),
                name,
                "use it over append-only tables (mrr_ledger, item_states, billing_events), or on the groups of another GROUP BY",
            );
        }
        "avg" => {
            return refuse("`avg` is not kept", "avg", "write sum(x) / count(x)");
        }
        other => {
            return refuse(
                format!("the aggregate `{other}` cannot be maintained yet"),
                other,
                "sum, count, and over append-only tables min and max are",
            );
        }
    };
    let argument = match params.args.as_slice() {
        [Expr::Literal(value, _)] if kind == AggregateKind::Count && !value.is_null() => None,
        [argument] => Some(argument.clone()),
        _ => return refuse(format!("`{name}` takes one argument"), name, ""),
    };
    if let (AggregateKind::Sum, Some(argument)) = (kind, &argument) {
        check_sum(&argument.get_type(rows)?, appended)?;
    }
    let argument = match (argument, &params.filter) {
        (argument, None) => argument,
        (argument, Some(filter)) => {
            Some(case(lit(true)).when((**filter).clone(), argument.unwrap_or_else(|| lit(1_i64))).end()?)
        }
    };
    Ok((kind, argument))
}

/// Whether a running sum of a type is what its rows add up to, also after rows were taken back. Of floats it is not: what
/// is small beside a row is lost when that row comes, and infinity and NaN stay when theirs goes.
fn check_sum(of: &DataType, appended: bool) -> Result<(), Refusal> {
    match of {
        DataType::Decimal128(..) | DataType::Int64 | DataType::UInt64 => Ok(()),
        DataType::Float64 if appended => Ok(()),
        DataType::Float64 => refuse(
            "a sum of floats cannot take back a row, and the rows below it can change",
            "sum",
            "add up decimals, or use it over append-only tables",
        ),
        other => refuse(format!("a running sum of {other} is not kept"), "sum", "add up whole numbers or decimals"),
    }
}

/// `Err` with the name of the first operator that is not linear.
pub(super) fn is_linear(plan: &LogicalPlan, relations: &BTreeMap<String, Relation>) -> Result<(), String> {
    match plan {
        LogicalPlan::TableScan(scan) => match relations.get(scan.table_name.table()) {
            Some(_) if scan.fetch.is_none() => Ok(()),
            _ => Err("LIMIT".to_owned()),
        },
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Unnest(_)
        // A table has no order, and a limit is an operator of its own.
        | LogicalPlan::Sort(Sort { fetch: None, .. }) => {
            if plan.expressions().iter().any(has_subquery) {
                return Err("a subquery in an expression".to_owned());
            }
            plan.inputs().into_iter().try_for_each(|input| is_linear(input, relations))
        }
        LogicalPlan::Aggregate(_) => Err("GROUP BY".to_owned()),
        LogicalPlan::Window(_) => Err("OVER".to_owned()),
        LogicalPlan::Join(_) => Err("JOIN".to_owned()),
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => Err("LIMIT".to_owned()),
        LogicalPlan::Distinct(_) => Err("DISTINCT".to_owned()),
        other => Err(other.display().to_string()),
    }
}

pub(super) fn has_subquery(expr: &Expr) -> bool {
    expr.exists(|e| {
        Ok(matches!(e, Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_)))
    })
    .unwrap_or(true)
}

pub(super) fn reads_streams(plan: &LogicalPlan, relations: &BTreeMap<String, Relation>) -> bool {
    any_scan(plan, &|name| relations.get(name).is_some_and(|relation| !relation.small))
}

fn only_appended(plan: &LogicalPlan, relations: &BTreeMap<String, Relation>) -> bool {
    !any_scan(plan, &|name| relations.get(name).is_none_or(|relation| !relation.appended))
}

pub(super) fn any_scan(plan: &LogicalPlan, test: &dyn Fn(&str) -> bool) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => test(scan.table_name.table()),
        other => other.inputs().into_iter().any(|input| any_scan(input, test)),
    }
}

/// A function in a query of which something holds.
pub(super) fn function_that(
    plan: &LogicalPlan,
    holds: &dyn Fn(&str, Volatility) -> bool,
) -> Result<Option<String>, DataFusionError> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                if let Expr::ScalarFunction(function) = e
                    && holds(function.func.name(), function.func.signature().volatility)
                {
                    found = Some(function.func.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// Functions of the clock or of chance have no place in an answer that must be the same on every replay.
pub(super) fn refuse_unstable(name: &str) -> Result<(), Refusal> {
    if name == conversion::NAME {
        return refuse(
            format!("the value of `{name}` changes whenever rates are loaded"),
            name,
            "keep the currency, and convert when reading: SELECT to_currency(closing, currency, 'eur', day) FROM …",
        );
    }
    refuse(
        format!("`{name}` gives another value on every run"),
        name,
        "use columns and $parameters only; the log's time is in log_clock.last_event_at",
    )
}

/// Aggregates whose value is that of their rows, in whatever order.
const UNORDERED: [&str; 29] = [
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "grouping",
    "max",
    "median",
    "min",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
];

/// Aggregates and window functions whose value hangs on an order, and which therefore must be given one.
const ORDERED: [&str; 9] =
    ["array_agg", "first_value", "lag", "last_value", "lead", "nth_value", "ntile", "row_number", "string_agg"];

/// Window functions that look at equals alike.
const RANKS: [&str; 4] = ["cume_dist", "dense_rank", "percent_rank", "rank"];

/// Functions of rows in no given order, or only nearly right, would give another answer than batch.
pub(super) fn refuse_disordered(plan: &LogicalPlan) -> Result<(), Refusal> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Distinct(Distinct::On(on)) = node
            && on.sort_expr.is_none()
        {
            found = Some(("DISTINCT ON".to_owned(), true));
        }
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                let (name, ordered) = match e {
                    Expr::AggregateFunction(function) => (function.func.name(), !function.params.order_by.is_empty()),
                    Expr::WindowFunction(function) => {
                        let params = &function.params;
                        let ordered = !params.order_by.is_empty();
                        if !ordered && !is_whole(&params.window_frame) {
                            found = Some(("a frame of rows".to_owned(), true));
                        }
                        match &function.fun {
                            WindowFunctionDefinition::AggregateUDF(function) => (function.name(), ordered),
                            WindowFunctionDefinition::WindowUDF(function) => (function.name(), ordered),
                        }
                    }
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                let known = UNORDERED.contains(&name) || RANKS.contains(&name);
                let known = known || (ORDERED.contains(&name) && ordered);
                if !known {
                    found = Some((name.to_owned(), ORDERED.contains(&name)));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match found {
        Some((name, true)) => refuse(
            format!("the value of `{name}` hangs on an order that is not given"),
            &name,
            "give it an ORDER BY that leaves no ties",
        ),
        Some((name, false)) if name.starts_with("approx_") => refuse(
            format!("`{name}` is only nearly right, and not the same on every run"),
            &name,
            "use the exact one: count(DISTINCT x), median(x), percentile_cont(0.9) WITHIN GROUP (ORDER BY x)",
        ),
        Some((name, false)) => {
            refuse(format!("the aggregate `{name}` is not known to give the same value on every run"), &name, "")
        }
        None => Ok(()),
    }
}

/// Whether a frame holds all of its partition, or all that is equal: then no order matters.
fn is_whole(frame: &WindowFrame) -> bool {
    frame.units == WindowFrameUnits::Range || (frame.start_bound.is_unbounded() && frame.end_bound.is_unbounded())
}

/// A subquery in an expression would read a stream's changes as if they were its rows.
fn refuse_subqueries(plan: &LogicalPlan) -> Result<(), Refusal> {
    if has_subqueries(plan)? {
        return refuse(
            "a subquery in an expression cannot be maintained",
            "(SELECT",
            "compute it with a window over the groups, such as SUM(x) OVER (), or join the groups in FROM",
        );
    }
    Ok(())
}

pub(super) fn has_subqueries(plan: &LogicalPlan) -> Result<bool, DataFusionError> {
    let mut found = false;
    plan.apply(|node| {
        found |= node.expressions().iter().any(has_subquery);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

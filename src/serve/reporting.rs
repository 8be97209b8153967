//! `mrr_daily_reporting`: the bridge in the reporting currency, worked out when somebody reads it.
//!
//! It is not maintained: rates are loaded at any time, and a day's rate changes every closing of that day. It reads the
//! movements as the reader sees them, so whatever view of the ledger a session has, this bridge is of that view. Only
//! the days that a query asks for (`day >= …`) need rates.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Decimal128Type, SchemaRef, TimestampMicrosecondType},
};
use async_trait::async_trait;
use chrono_tz::Tz;
use datafusion::{
    catalog::Session,
    common::{DataFusionError, Result, ScalarValue, exec_datafusion_err, tree_node::TreeNodeRecursion},
    datasource::{TableProvider, TableType},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Between, BinaryExpr, Expr, Operator, TableProviderFilterPushDown},
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, collect,
        execution_plan::{Boundedness, EmissionType},
        projection::ProjectionExec,
        stream::RecordBatchStreamAdapter,
    },
};

use super::{Error, UserTable};
use crate::{
    ledger::reporting::{Bridge, Conversion, ReportingDay, kind},
    money::{Amount, Currency},
    stream::{calendar::local_day, conversion::SharedRates},
    stripe::types::Scope,
    tables,
};

/// The view's name.
pub const REPORTING: &str = "mrr_daily_reporting";
const MOVEMENTS: &str = "mrr_movements";
const CLOCK: &str = "log_clock";

/// How to report.
#[derive(Clone, Debug)]
pub struct Options {
    /// The reporting currency.
    pub currency: Currency,
    /// How old a rate may be.
    pub max_age_days: u32,
    /// The merchant's zone, in which days begin and end.
    pub zone: Tz,
}

/// Adds the view to the tables it reads; where they are missing there is none.
///
/// # Errors
/// [`Error::Shape`] when the contract lacks the view: a bug.
pub fn add(tables: &mut Vec<UserTable>, rates: SharedRates, options: Options) -> Result<(), Error> {
    let provider = |name: &str| tables.iter().find(|table| table.name == name).map(|table| Arc::clone(&table.provider));
    let (Some(movements), Some(clock)) = (provider(MOVEMENTS), provider(CLOCK)) else { return Ok(()) };
    let contract = tables::get(REPORTING).map_err(|error| Error::Shape(error.to_string()))?;
    let schema = Arc::clone(&contract.schema);
    let mut table = UserTable::new(
        REPORTING,
        Arc::new(Reporting { schema: Arc::clone(&schema), movements, clock, rates, options }),
    );
    table.comment = Some(contract.description.clone());
    table.column_comments = schema
        .fields()
        .iter()
        .filter_map(|field| Some((field.name().clone(), field.metadata().get("comment")?.clone())))
        .collect();
    tables.push(table);
    Ok(())
}

#[derive(Debug)]
struct Reporting {
    schema: SchemaRef,
    movements: Arc<dyn TableProvider>,
    clock: Arc<dyn TableProvider>,
    rates: SharedRates,
    options: Options,
}

#[async_trait]
impl TableProvider for Reporting {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match days_of(filter) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = filters
            .iter()
            .filter_map(days_of)
            .fold(i32::MIN..=i32::MAX, |all, some| *all.start().max(some.start())..=*all.end().min(some.end()));
        let exec = ReportingExec {
            movements: columns(
                session,
                &self.movements,
                &["account", "livemode", "customer_id", "occurred_at", "currency", "kind", "mrr_delta"],
            )
            .await?,
            clock: columns(session, &self.clock, &["account", "livemode", "last_event_at"]).await?,
            rates: self.rates.clone(),
            options: self.options.clone(),
            wanted,
            schema: Arc::clone(&self.schema),
            properties: Arc::new(PlanProperties::new(
                EquivalenceProperties::new(Arc::clone(&self.schema)),
                Partitioning::UnknownPartitioning(1),
                EmissionType::Final,
                Boundedness::Bounded,
            )),
        };
        let exec: Arc<dyn ExecutionPlan> = Arc::new(exec);
        let Some(projection) = projection else { return Ok(exec) };
        let expressions = projection.iter().map(|index| {
            let name = self.schema.field(*index).name();
            let column: Arc<dyn PhysicalExpr> =
                Arc::new(datafusion::physical_expr::expressions::Column::new(name, *index));
            (column, name.clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(expressions.collect::<Vec<_>>(), exec)?))
    }
}

/// A scan of some columns, in this order.
async fn columns(
    session: &dyn Session,
    table: &Arc<dyn TableProvider>,
    names: &[&str],
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = table.schema();
    let indices = names.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
    table.scan(session, Some(&indices), &[], None).await
}

/// The days that a filter lets through, where it is a plain one on the day.
fn days_of(filter: &Expr) -> Option<RangeInclusive<i32>> {
    let day = |value: &Expr| match value {
        Expr::Literal(ScalarValue::Date32(day), _) => *day,
        _ => None,
    };
    let is_day = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == "day");
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (bound, op) = if is_day(left) {
                (day(right)?, *op)
            } else if is_day(right) {
                (day(left)?, op.swap()?)
            } else {
                return None;
            };
            match op {
                Operator::Eq => Some(bound..=bound),
                Operator::Gt => Some(bound.saturating_add(1)..=i32::MAX),
                Operator::GtEq => Some(bound..=i32::MAX),
                Operator::Lt => Some(i32::MIN..=bound.saturating_sub(1)),
                Operator::LtEq => Some(i32::MIN..=bound),
                _ => None,
            }
        }
        Expr::Between(Between { expr, negated: false, low, high }) if is_day(expr) => Some(day(low)?..=day(high)?),
        _ => None,
    }
}

#[derive(Debug)]
struct ReportingExec {
    movements: Arc<dyn ExecutionPlan>,
    clock: Arc<dyn ExecutionPlan>,
    rates: SharedRates,
    options: Options,
    wanted: RangeInclusive<i32>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for ReportingExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReportingExec: {}", self.options.currency)
    }
}

/// A leaf, as a live table's scan is one: the plans inside are optimised already.
impl ExecutionPlan for ReportingExec {
    fn name(&self) -> &str {
        "ReportingExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { Err(DataFusionError::Internal("ReportingExec is a leaf".into())) }
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (movements, clock) = (Arc::clone(&self.movements), Arc::clone(&self.clock));
        let (rates, options, wanted) = (self.rates.clone(), self.options.clone(), self.wanted.clone());
        let schema = Arc::clone(&self.schema);
        let rows = async move {
            let movements = collect(movements, Arc::clone(&context)).await?;
            let clock = collect(clock, context).await?;
            let mut bridge = Bridge::default();
            for batch in &movements {
                gather(batch, options.zone, &mut bridge)?;
            }
            let mut until = BTreeMap::new();
            for batch in &clock {
                last_days(batch, options.zone, &mut until)?;
            }
            let rates = rates.read();
            let conversion = Conversion { rates: &rates, to: options.currency, max_age_days: options.max_age_days };
            let days = bridge.days(&conversion, &until, &wanted).map_err(|error| exec_datafusion_err!("{error}"))?;
            to_batch(&days, schema)
        };
        let stream = futures::stream::once(rows);
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream)))
    }
}

/// Texts of a column, whatever kind of text it is.
fn texts(column: &ArrayRef) -> Result<StringArray> {
    Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn instants(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(cast(column, &tables::timestamptz())?)
}

fn scope(accounts: &StringArray, modes: &BooleanArray, row: usize) -> Scope {
    Scope { account: accounts.value(row).into(), livemode: modes.value(row) }
}

fn day_of(micros: i64, zone: Tz) -> Result<i32> {
    local_day(micros, zone).ok_or_else(|| exec_datafusion_err!("a timestamp is outside the calendar"))
}

fn gather(batch: &RecordBatch, zone: Tz, bridge: &mut Bridge) -> Result<()> {
    let (accounts, modes, customers) = (texts(batch.column(0))?, batch.column(1).as_boolean(), texts(batch.column(2))?);
    let times = instants(batch.column(3))?;
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let (currencies, kinds) = (texts(batch.column(4))?, texts(batch.column(5))?);
    let changes = batch.column(6).as_primitive::<Decimal128Type>();
    for row in 0..batch.num_rows() {
        let currency = currencies.value(row).parse().map_err(|error| exec_datafusion_err!("{error}"))?;
        let kind = kind(kinds.value(row))
            .ok_or_else(|| exec_datafusion_err!("`{}` is no kind of movement", kinds.value(row)))?;
        let micros = times.value(row);
        bridge.add(
            &scope(&accounts, modes, row),
            customers.value(row),
            micros,
            day_of(micros, zone)?,
            currency,
            kind,
            Amount::from_micros(changes.value(row)),
        );
    }
    Ok(())
}

fn last_days(batch: &RecordBatch, zone: Tz, until: &mut BTreeMap<Scope, i32>) -> Result<()> {
    let (accounts, modes, times) = (texts(batch.column(0))?, batch.column(1).as_boolean(), instants(batch.column(2))?);
    let times = times.as_primitive::<TimestampMicrosecondType>();
    for row in 0..batch.num_rows() {
        until.insert(scope(&accounts, modes, row), day_of(times.value(row), zone)?);
    }
    Ok(())
}

fn to_batch(days: &[ReportingDay], schema: SchemaRef) -> Result<RecordBatch> {
    let money = |of: &dyn Fn(&ReportingDay) -> Amount| -> Result<ArrayRef> {
        let values = Decimal128Array::from_iter_values(days.iter().map(|day| of(day).micros()));
        Ok(Arc::new(values.with_precision_and_scale(28, 6)?))
    };
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(days.iter().map(|day| day.scope.account.as_str()))),
        Arc::new(days.iter().map(|day| Some(day.scope.livemode)).collect::<BooleanArray>()),
        Arc::new(Date32Array::from_iter_values(days.iter().map(|day| day.day))),
        money(&|day| day.opening)?,
    ];
    for kind in 0..6 {
        columns.push(money(&|day| day.moved[kind])?);
    }
    columns.push(money(&|day| day.fx)?);
    columns.push(money(&|day| day.closing)?);
    Ok(RecordBatch::try_new(schema, columns)?)
}

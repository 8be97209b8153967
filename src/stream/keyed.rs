//! Queries that fall into independent parts by a key of all their rows: joins, windows, any aggregates.
//!
//! The optimized plan, in which subqueries have become joins, is cut into its largest linear parts and the rest. The
//! rows that the linear parts yield are kept by the key, and a change makes the rest anew for the keys it touched, over
//! their rows as they are; over those as they were only where what it said then is not remembered. The rows of a key are
//! in one order, whatever the order in which they came, so that the same rows always give the same answer, also where
//! floats are added up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, new_null_array},
    compute::{concat_batches, filter_record_batch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
    row::{RowConverter, SortField},
};
use datafusion::{
    common::{
        Column, DataFusionError,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::context::SessionContext,
    logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder},
};

use super::{
    Error,
    class::{
        Optimize, Refusal, Relation, View, any_scan, cut_views, has_subqueries, is_linear, reads_streams, refuse,
        stand_in,
    },
    kept::{Bytes, Change, Kept, Row, net},
    leaf::{Cell, Input},
    partition::{Proof, shown_keys, unaliased},
    pipeline::RowDelta,
    query::{Linear, Query, Views, shares},
    remembered::Remembered,
};

/// The most rows that a pipeline may keep: some 1.5 GB.
const MAX_KEPT_ROWS: usize = 5_000_000;

/// The most rows that may share a key: what follows takes some ten milliseconds over them.
const MAX_ROWS_OF_A_KEY: u64 = 50_000;

/// Tables that stand for kept rows begin with this.
const ROWS: &str = "__rows";

/// What no two rows of different values of may meet.
const SCOPE: [&str; 2] = ["account", "livemode"];

/// A query cut into linear parts and the rest.
#[derive(Debug)]
pub(crate) struct Parts {
    leaves: Vec<Leaf>,
    /// The rest, over the kept rows.
    plan: LogicalPlan,
    views: Vec<View>,
    small: Vec<String>,
    /// The columns by which rows are kept, as the first linear part names them.
    key_names: Vec<String>,
    /// The columns of the answer that these are, if all are there.
    shown: Option<Vec<usize>>,
}

/// A linear part, whose rows are kept.
#[derive(Debug)]
struct Leaf {
    input: LogicalPlan,
    /// Its columns as the rest reads them.
    schema: SchemaRef,
    rows: Cell,
    /// The columns of the key, in the same order in every leaf.
    key: Vec<usize>,
}

/// Cuts an analysed plan, or says why it does not fall into parts.
pub(super) fn cut(
    plan: LogicalPlan,
    relations: &BTreeMap<String, Relation>,
    optimize: Optimize<'_>,
) -> Result<Parts, Refusal> {
    let mut views = Vec::new();
    let had_subquery = has_subqueries(&plan)?;
    let plan = optimize(&cut_views(plan, relations, &mut views)?)?;
    // Of subqueries, which are joins now.
    let plan = cut_views(plan, relations, &mut views)?;
    let plan = with_computed_keys(plan, relations)?;
    let (plan, mut leaves) = cut_leaves(plan, relations)?;
    if any_scan(&plan, &|table| relations.contains_key(table)) {
        return refuse_operator("LIMIT");
    }
    let subquery = |operator: String| match operator.as_str() {
        "JOIN" | "GROUP BY" if had_subquery => "a subquery in an expression".to_owned(),
        _ => operator,
    };
    let labels = candidates(&plan, &leaves).or_else(|operator| refuse_operator(&subquery(operator)))?;
    let label = |table: &str, column: &str| labels.get(leaf_of(table)?)?.get(column_of(column)).copied().or(Some(None));
    let all: BTreeSet<usize> = labels.iter().flatten().flatten().copied().collect();
    let mut proof = Proof::new(all.into_iter().collect(), &label);
    let keys = match proof.of(&plan) {
        Ok(keys) => keys,
        Err(operator) => return refuse_operator(&subquery(operator)),
    };
    let column = |leaf: usize, key: usize| labels[leaf].iter().position(|label| *label == Some(key));
    for scope in SCOPE {
        let is_scope = |leaf: usize, key: usize| {
            column(leaf, key).is_some_and(|column| is_named(&leaves[leaf].input, column, scope))
        };
        let found = |keys: &[usize]| keys.iter().any(|key| (0..leaves.len()).all(|leaf| is_scope(leaf, *key)));
        if !found(&keys) {
            let lost = proof.lost.iter().find(|(key, _)| found(&[*key])).map(|(_, operator)| *operator);
            let otherwise = if leaves.len() > 1 { "JOIN" } else { "the query" };
            return refuse_scope(scope, &subquery(lost.unwrap_or(otherwise).to_owned()));
        }
    }
    let key_names = keys.iter().filter_map(|key| Some(name_of(&leaves[0].input, column(0, *key)?))).collect();
    let positions: Vec<Vec<usize>> =
        (0..leaves.len()).map(|leaf| keys.iter().filter_map(|key| column(leaf, *key)).collect()).collect();
    for (leaf, key) in leaves.iter_mut().zip(positions) {
        leaf.key = key;
    }
    let mut small = BTreeSet::new();
    for view in &views {
        super::planning::scans(&view.plan, &mut small)?;
    }
    let shown = shown_keys(&plan, &keys, &label);
    Ok(Parts { leaves, plan, views, small: small.into_iter().collect(), key_names, shown })
}

/// Takes the largest linear parts out of a plan.
fn cut_leaves(
    plan: LogicalPlan,
    relations: &BTreeMap<String, Relation>,
) -> Result<(LogicalPlan, Vec<Leaf>), DataFusionError> {
    let mut leaves: Vec<Leaf> = Vec::new();
    let rest = plan
        .transform_down(|node| {
            if is_linear(&node, relations).is_err() || !reads_streams(&node, relations) {
                return Ok(Transformed::no(node));
            }
            let fields = node.schema().fields().iter().enumerate();
            let schema: SchemaRef = Arc::new(Schema::new(
                fields
                    .map(|(i, f)| {
                        Field::new(format!("r{i}"), f.data_type().clone(), f.is_nullable())
                            .with_metadata(f.metadata().clone())
                    })
                    .collect::<Vec<_>>(),
            ));
            let rows = Cell::default();
            let scan = stand_in(&format!("{ROWS}{}", leaves.len()), 'r', node.schema(), &schema, &rows)?;
            leaves.push(Leaf { input: node, schema, rows, key: Vec::new() });
            Ok(Transformed::new(scan, true, TreeNodeRecursion::Jump))
        })?
        .data;
    Ok((rest, leaves))
}

/// Makes what a GROUP BY computes of its linear input a column of it, so that it can be a key.
fn with_computed_keys(
    plan: LogicalPlan,
    relations: &BTreeMap<String, Relation>,
) -> Result<LogicalPlan, DataFusionError> {
    let is_computed =
        |expr: &Expr| !matches!(unaliased(expr), Expr::Column(_) | Expr::Literal(..) | Expr::GroupingSet(_));
    let named = plan.transform_down(|node| {
        let LogicalPlan::Aggregate(aggregate) = &node else { return Ok(Transformed::no(node)) };
        if is_linear(&aggregate.input, relations).is_err() || !aggregate.group_expr.iter().any(is_computed) {
            return Ok(Transformed::no(node));
        }
        let mut columns: Vec<Expr> = aggregate.input.schema().columns().into_iter().map(Expr::Column).collect();
        let mut keys = Vec::with_capacity(aggregate.group_expr.len());
        for (i, expr) in aggregate.group_expr.iter().enumerate() {
            keys.push(if is_computed(expr) {
                let name = format!("__key{i}");
                columns.push(unaliased(expr).clone().alias(&name));
                Expr::Column(Column::new_unqualified(name)).alias(aggregate.schema.field(i).name())
            } else {
                expr.clone()
            });
        }
        let input = LogicalPlanBuilder::from(aggregate.input.as_ref().clone()).project(columns)?.build()?;
        let (values, schema) = (aggregate.aggr_expr.clone(), Arc::clone(&aggregate.schema));
        let aggregate = Aggregate::try_new_with_schema(Arc::new(input), keys, values, schema)?;
        Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
    })?;
    Ok(named.data)
}

fn refuse_operator<T>(operator: &str) -> Result<T, Refusal> {
    let (needle, hint) = match operator {
        "LIMIT" => {
            ("LIMIT", "rank the rows: QUALIFY ROW_NUMBER() OVER (PARTITION BY account, livemode, … ORDER BY …) <= 10")
        }
        "NOT IN" => {
            ("NOT IN", "write NOT EXISTS (SELECT 1 FROM … WHERE … = …), which also says what is meant with NULLs")
        }
        "a subquery in an expression" => (
            "(SELECT",
            "tie it to the row it stands in by equalities (WHERE s.account = t.account AND …), or compute it with \
             a window: SUM(x) OVER (PARTITION BY account, livemode)",
        ),
        "WITH RECURSIVE" => ("RECURSIVE", "use generate_series, or write the steps out"),
        "ROLLUP, CUBE or GROUPING SETS" => {
            ("GROUP BY", "write each grouping as a SELECT of its own and put UNION ALL between")
        }
        other => (other, "group, join and partition by columns that all rows have, account and livemode among them"),
    };
    refuse(format!("{operator} cannot be computed for some rows without the others"), needle, hint)
}

fn refuse_scope<T>(scope: &str, operator: &str) -> Result<T, Refusal> {
    let (needle, hint) = match operator {
        "JOIN" => ("JOIN", "join ON a.account = b.account AND a.livemode = b.livemode AND …"),
        "OVER" => ("OVER", "PARTITION BY account, livemode, …"),
        "GROUP BY" | "the query" => ("GROUP BY", "GROUP BY account, livemode, …"),
        "a subquery in an expression" => {
            ("(SELECT", "tie it to the row it stands in: WHERE s.account = t.account AND s.livemode = t.livemode AND …")
        }
        other => (other, "accounts and modes are never mixed: keep account and livemode apart"),
    };
    refuse(format!("{operator} brings together rows of different `{scope}`"), needle, hint)
}

/// A column of a linear part as people know it: a computed one by what it is.
fn name_of(input: &LogicalPlan, column: usize) -> String {
    match input {
        LogicalPlan::Projection(projection) => match unaliased(&projection.expr[column]) {
            Expr::Column(column) => column.name.clone(),
            computed if input.schema().field(column).name().starts_with("__") => computed.human_display().to_string(),
            _ => input.schema().field(column).name().clone(),
        },
        _ => input.schema().field(column).name().clone(),
    }
}

fn leaf_of(table: &str) -> Option<usize> {
    table.strip_prefix(ROWS)?.parse().ok()
}

fn column_of(column: &str) -> usize {
    column.strip_prefix('r').and_then(|i| i.parse().ok()).unwrap_or(usize::MAX)
}

/// Whether a column of a linear part is that column of the relations it reads.
fn is_named(input: &LogicalPlan, column: usize, name: &str) -> bool {
    let label = |_: &str, column: &str| Some((column == name).then_some(0));
    Proof::new(Vec::new(), &label).lineage(input).get(column).copied().flatten().is_some()
}

/// The columns that could be keys, by leaf and column: those that joins and unions make one, one in each leaf.
fn candidates(plan: &LogicalPlan, leaves: &[Leaf]) -> Result<Vec<Vec<Option<usize>>>, String> {
    let mut first: Vec<usize> = Vec::with_capacity(leaves.len());
    let mut count = 0;
    for leaf in leaves {
        first.push(count);
        count += leaf.schema.fields().len();
    }
    let number = |table: &str, column: &str| {
        let leaf = leaf_of(table)?;
        let column = Some(column_of(column)).filter(|column| *column < leaves[leaf].schema.fields().len());
        Some(column.map(|column| first[leaf] + column))
    };
    let mut proof = Proof::new(Vec::new(), &number);
    proof.of(plan)?;
    // Each column's class is its least member.
    let mut class: Vec<usize> = (0..count).collect();
    for (a, b) in proof.equal {
        let (a, b) = (class[a], class[b]);
        class.iter_mut().filter(|class| **class == a.max(b)).for_each(|class| *class = a.min(b));
    }
    let members = |leaf: usize, wanted: usize| {
        let schema = &leaves[leaf].schema;
        (0..schema.fields().len())
            .filter(|column| class[first[leaf] + column] == wanted)
            .map(|column| schema.field(column).data_type())
            .collect::<Vec<_>>()
    };
    let is_key = |wanted: usize| {
        let types: Vec<_> = (0..leaves.len()).map(|leaf| members(leaf, wanted)).collect();
        types.iter().all(|types| types.len() == 1) && types.iter().flatten().all(|t| *t == types[0][0] && is_exact(t))
    };
    let of_leaf = |leaf: usize| {
        let columns = 0..leaves[leaf].schema.fields().len();
        columns.map(|column| Some(class[first[leaf] + column]).filter(|class| is_key(*class))).collect()
    };
    Ok((0..leaves.len()).map(of_leaf).collect())
}

/// Whether two values are equal where their bytes are: −0.0 and 0.0 are not.
pub(super) fn is_exact(data_type: &DataType) -> bool {
    use DataType::{Boolean, Date32, Decimal128, Timestamp, Utf8};
    matches!(data_type, Boolean | Date32 | Decimal128(..) | Timestamp(..) | Utf8) || data_type.is_integer()
}

/// A leaf at work.
struct Source {
    input: Linear,
    schema: SchemaRef,
    rows: Cell,
    key: Vec<usize>,
    converter: RowConverter,
}

impl Source {
    /// As arrays.
    fn decode(&self, rows: &[&[u8]]) -> Result<Vec<ArrayRef>, Error> {
        let parser = self.converter.parser();
        Ok(self.converter.convert_rows(rows.iter().map(|row| parser.parse(row)))?)
    }
}

/// A query at work that falls into parts.
pub(super) struct Keyed {
    sources: Vec<Source>,
    suffix: Query,
    views: Views,
    key_names: Vec<String>,
    keys: RowConverter,
    kept: Kept,
    remembered: Remembered,
}

impl Keyed {
    pub(super) async fn new(context: &SessionContext, parts: Parts) -> Result<Self, Error> {
        let fields = |schema: &SchemaRef, columns: &[usize]| {
            columns.iter().map(|i| SortField::new(schema.field(*i).data_type().clone())).collect::<Vec<_>>()
        };
        let Some(first) = parts.leaves.first() else {
            return Err(Error::Internal("a keyed query reads nothing".to_owned()));
        };
        let keys = RowConverter::new(fields(&first.schema, &first.key))?;
        let types: Vec<DataType> = first.key.iter().map(|i| first.schema.field(*i).data_type().clone()).collect();
        let suffix = Query::new(context, &parts.plan).await?;
        let remembered = Remembered::new(suffix.plan.schema(), parts.shown, types.into_iter())?;
        let mut sources = Vec::with_capacity(parts.leaves.len());
        for Leaf { input, schema, rows, key } in parts.leaves {
            let all: Vec<usize> = (0..schema.fields().len()).collect();
            let converter = RowConverter::new(fields(&schema, &all))?;
            sources.push(Source { input: Linear::new(context, &input).await?, schema, rows, key, converter });
        }
        Ok(Self {
            sources,
            suffix,
            views: Views::new(context, parts.views, parts.small).await?,
            key_names: parts.key_names,
            keys,
            kept: Kept::default(),
            remembered,
        })
    }

    /// What the answer was for the keys touched, and what it is now.
    pub(super) async fn advance(
        &mut self,
        cells: &BTreeMap<String, Cell>,
        deltas: &BTreeMap<String, RowDelta>,
        small: &BTreeMap<String, RecordBatch>,
    ) -> Result<(RecordBatch, RecordBatch), Error> {
        let mut changes = Vec::new();
        for (leaf, source) in (0..).zip(&self.sources) {
            let removed = source.input.of(cells, deltas, |delta| &delta.removed).await?;
            let added = source.input.of(cells, deltas, |delta| &delta.added).await?;
            for (batch, weight) in [(removed, -1), (added, 1)] {
                let rows = self.encode(source, batch.columns())?;
                changes.extend(rows.into_iter().map(|(key, row)| Change { key, leaf, row, weight }));
            }
        }
        let changes = net(changes);
        let shown = self.views.look(cells, small).await?;
        let touched: Vec<Bytes> = changes.chunk_by(|a, b| a.key == b.key).map(|of_key| of_key[0].key.clone()).collect();
        let touched = if self.views.have_shown(&shown) { Some(&*touched) } else { None };
        let before = self.remembered.said(touched, async |unknown| self.answer(unknown).await).await?;
        self.kept.change(changes)?;
        self.check_limits(touched)?;
        self.views.show(shown);
        let after = self.answer(touched).await?;
        self.remembered.remember(touched, &after)?;
        Ok((before, after))
    }

    /// The key and the whole of every row.
    fn encode(&self, source: &Source, columns: &[ArrayRef]) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let keys: Vec<ArrayRef> = source.key.iter().map(|i| Arc::clone(&columns[*i])).collect();
        let (keys, rows) = (self.keys.convert_columns(&keys)?, source.converter.convert_columns(columns)?);
        Ok(keys.iter().zip(rows.iter()).map(|(key, row)| (key.data().into(), row.data().into())).collect())
    }

    fn check_limits(&self, touched: Option<&[Bytes]>) -> Result<(), Error> {
        let by = self.key_names.join(", ");
        if self.kept.rows() > MAX_KEPT_ROWS {
            return Err(Error::Limit(format!(
                "the query keeps {} rows, and at most {MAX_KEPT_ROWS} can be: filter them, select fewer columns before a \
                 DISTINCT, or aggregate with sum and count, which keep groups instead of rows",
                self.kept.rows()
            )));
        }
        let most = match touched {
            Some(touched) => touched.iter().map(|key| self.kept.of(key).map(|row| row.times).sum::<u64>()).max(),
            None => self.kept.by_key().map(|rows| rows.map(|row| row.times).sum::<u64>()).max(),
        };
        let most = most.unwrap_or(0);
        if most > MAX_ROWS_OF_A_KEY {
            return Err(Error::Limit(format!(
                "{most} rows share one ({by}), all of which a change reads again; at most {MAX_ROWS_OF_A_KEY} can be: \
                 group, join or partition by more columns, such as a month or a customer"
            )));
        }
        Ok(())
    }

    /// The answer for some keys, or for all: for many, on all cores.
    async fn answer(&self, touched: Option<&[Bytes]>) -> Result<RecordBatch, Error> {
        let inputs = match touched {
            None => vec![self.input(self.kept.by_key().flatten())?],
            Some(touched) => shares(touched)
                .map(|keys| self.input(keys.iter().flat_map(|key| self.kept.of(key))))
                .collect::<Result<Vec<_>, _>>()?,
        };
        self.suffix.run_over(inputs.into_iter().flatten().collect()).await
    }

    /// Rows as the rest of the query reads them; nothing if there are none.
    fn input<'a>(&'a self, kept: impl Iterator<Item = Row<'a>>) -> Result<Option<Input>, Error> {
        let mut rows: Vec<Vec<&'a [u8]>> = vec![Vec::new(); self.sources.len()];
        for row in kept {
            let times = usize::try_from(row.times).unwrap_or(usize::MAX);
            rows[usize::from(row.leaf)].extend(std::iter::repeat_n(row.bytes, times));
        }
        if rows.iter().all(Vec::is_empty) {
            return Ok(None);
        }
        let of_leaf = |(source, rows): (&Source, &Vec<&[u8]>)| {
            let columns = source.decode(rows)?;
            Ok((source.rows.clone(), RecordBatch::try_new(Arc::clone(&source.schema), columns)?))
        };
        self.sources.iter().zip(&rows).map(of_leaf).collect::<Result<_, _>>().map(Some)
    }

    /// All rows as one batch, or those that came and went since the last call: the leaf, how often, and the columns of
    /// each leaf, null in the rows of the others.
    pub(super) fn save(&mut self, whole: bool) -> Result<RecordBatch, Error> {
        let unsaved = self.kept.take_unsaved();
        let mut rows: Vec<Vec<(&[u8], i64)>> = vec![Vec::new(); self.sources.len()];
        if whole {
            for row in self.kept.by_key().flatten() {
                rows[usize::from(row.leaf)].push((row.bytes, row.times.cast_signed()));
            }
        } else {
            for Change { leaf, row, weight, .. } in &unsaved {
                rows[usize::from(*leaf)].push((row, *weight));
            }
        }
        let schema = self.saved_schema();
        let mut batches = Vec::with_capacity(self.sources.len());
        let mut first = 2;
        for (leaf, (source, rows)) in (0..).zip(self.sources.iter().zip(&rows)) {
            let times = Int64Array::from_iter_values(rows.iter().map(|(_, times)| *times));
            let own = source.decode(&rows.iter().map(|(row, _)| *row).collect::<Vec<_>>())?;
            let mut columns: Vec<ArrayRef> =
                schema.fields().iter().map(|field| new_null_array(field.data_type(), times.len())).collect();
            columns[0] = Arc::new(Int64Array::from(vec![leaf; times.len()]));
            columns[1] = Arc::new(times);
            let width = own.len();
            columns.splice(first..first + width, own);
            first += width;
            batches.push(RecordBatch::try_new(Arc::clone(&schema), columns)?);
        }
        Ok(concat_batches(&schema, &batches)?)
    }

    fn saved_schema(&self) -> SchemaRef {
        let own = |name: &str| Field::new(name, DataType::Int64, false);
        let mut fields = vec![own("leaf"), own("times")];
        for (leaf, source) in self.sources.iter().enumerate() {
            let kept = source.schema.fields().iter();
            fields.extend(kept.map(|f| Field::new(format!("l{leaf}_{}", f.name()), f.data_type().clone(), true)));
        }
        Arc::new(Schema::new(fields))
    }

    /// Puts back what [`Self::save`] gave into empty state: everything, and then what came and went, in order.
    pub(super) async fn load(
        &mut self,
        saved: &[RecordBatch],
        cells: &BTreeMap<String, Cell>,
        small: &BTreeMap<String, RecordBatch>,
    ) -> Result<(), Error> {
        for saved in saved {
            let changes = self.saved_changes(saved)?;
            self.kept.change(changes)?;
        }
        self.kept.take_unsaved();
        let shown = self.views.look(cells, small).await?;
        self.views.show(shown);
        Ok(())
    }

    fn saved_changes(&self, saved: &RecordBatch) -> Result<Vec<Change>, Error> {
        let schema = self.saved_schema();
        let fits = saved.num_columns() == schema.fields().len()
            && saved
                .columns()
                .iter()
                .zip(schema.fields())
                .all(|(column, field)| column.data_type() == field.data_type());
        if !fits {
            return Err(Error::Internal("a saved state does not fit its pipeline".to_owned()));
        }
        let leaves = saved.column(0).as_primitive::<Int64Type>();
        let mut changes = Vec::with_capacity(saved.num_rows());
        let mut first = 2;
        for (leaf, source) in (0_u16..).zip(&self.sources) {
            let is_own: BooleanArray = leaves.iter().map(|saved| Some(saved == Some(i64::from(leaf)))).collect();
            let own = filter_record_batch(saved, &is_own)?;
            let width = source.schema.fields().len();
            let rows = self.encode(source, &own.columns()[first..first + width])?;
            let times = own.column(1).as_primitive::<Int64Type>().values().iter().copied();
            changes.extend(rows.into_iter().zip(times).map(|((key, row), weight)| Change { key, leaf, row, weight }));
            first += width;
        }
        Ok(net(changes))
    }

    /// Whether rows of its answer that agree in some columns of its table are always computed again together.
    pub(super) fn keeps_together(&self, columns: &[usize], table: &Schema) -> bool {
        self.remembered.is_within(columns, table)
    }

    /// The columns by which rows are kept.
    pub(super) fn key_names(&self) -> &[String] {
        &self.key_names
    }

    /// How many keys there are.
    pub(super) fn keys(&self) -> usize {
        self.kept.keys()
    }

    /// How many different rows there are.
    pub(super) fn kept(&self) -> usize {
        self.kept.rows()
    }

    /// For people.
    pub(super) fn recomputes(&self) -> String {
        let mut text = format!("the query, for the changed ({})", self.key_names.join(", "));
        if !self.views.small().is_empty() {
            text += &format!("; everything when what it sees of {} changes", self.views.small().join(", "));
        }
        text
    }
}

//! By which keys a query falls into independent parts.
//!
//! A plan is *partitioned* by a key when no row of its answer depends on rows with different values of that key. Then
//! an epoch computes it again for the values it touched alone. Every operator either works row by row or must keep the
//! key apart: a window by its PARTITION BY, a GROUP BY by its keys, a join by an equality. What is read of small
//! relations, and constants, are the same for every part.
//!
//! The same walk proves it for groups, whose keys are columns of the one table of groups, and for several tables of
//! kept rows, whose keys are those columns that joins and unions make one.

use datafusion::{
    common::{DFSchema, JoinType},
    logical_expr::{
        BinaryExpr, Distinct, Expr, LogicalPlan, Operator,
        logical_plan::{Join, Unnest},
        utils::split_conjunction,
    },
};

use super::class::{GROUPS, any_scan, has_subquery};

/// For each column of an operator's rows the key that it is, if it is one.
pub(super) type Lineage = Vec<Option<usize>>;

/// What the rows of an operator depend on.
enum Rows {
    /// On small relations and constants alone.
    Same,
    /// On the rows of parts.
    Parts(Lineage),
}

/// The group keys, of the first `keys` columns, by which `suffix` falls into independent parts, empty when it does not;
/// and the columns of its rows that they are, if all are there.
pub(super) fn partition_keys(suffix: &LogicalPlan, keys: usize) -> (Vec<usize>, Option<Vec<usize>>) {
    let key = |name: &str| name.strip_prefix('g')?.parse().ok().filter(|i| *i < keys);
    let label = |table: &str, column: &str| (table == GROUPS).then(|| key(column));
    let by = Proof::new((0..keys).collect(), &label).of(suffix).unwrap_or_default();
    let shown = shown_keys(suffix, &by, &label);
    (by, shown)
}

/// The columns of a plan's rows that the keys are, if all are there.
pub(super) fn shown_keys(
    plan: &LogicalPlan,
    keys: &[usize],
    label: &dyn Fn(&str, &str) -> Option<Option<usize>>,
) -> Option<Vec<usize>> {
    let lineage = Proof::new(Vec::new(), label).lineage(plan);
    keys.iter().map(|key| lineage.iter().position(|of| *of == Some(*key))).collect()
}

/// A walk over a plan from its leaves up.
pub(super) struct Proof<'a> {
    /// Of a table of parts, the key that a column is, if any; `None` for other tables.
    label: &'a dyn Fn(&str, &str) -> Option<Option<usize>>,
    /// The keys that every operator so far keeps apart.
    common: Vec<usize>,
    /// The keys that an operator did not keep apart, and which one it was.
    pub(super) lost: Vec<(usize, &'static str)>,
    /// The keys that a join equates or a union puts into one column.
    pub(super) equal: Vec<(usize, usize)>,
}

impl<'a> Proof<'a> {
    pub(super) fn new(keys: Vec<usize>, label: &'a dyn Fn(&str, &str) -> Option<Option<usize>>) -> Self {
        Self { label, common: keys, lost: Vec::new(), equal: Vec::new() }
    }

    /// The keys by which a plan falls into independent parts.
    ///
    /// # Errors
    /// With the operator that cannot be cut by any key.
    pub(super) fn of(&mut self, plan: &LogicalPlan) -> Result<Vec<usize>, String> {
        match self.rows(plan)? {
            Rows::Parts(_) => Ok(std::mem::take(&mut self.common)),
            Rows::Same => Ok(Vec::new()),
        }
    }

    /// The keys that the columns of a plan's rows are.
    pub(super) fn lineage(&mut self, plan: &LogicalPlan) -> Lineage {
        match self.rows(plan) {
            Ok(Rows::Parts(lineage)) => lineage,
            _ => vec![None; plan.schema().fields().len()],
        }
    }

    fn rows(&mut self, plan: &LogicalPlan) -> Result<Rows, String> {
        if plan.expressions().iter().any(has_subquery) {
            return Err("a subquery in an expression".to_owned());
        }
        if !any_scan(plan, &|table| (self.label)(table, "").is_some()) {
            return Ok(Rows::Same);
        }
        Ok(match plan {
            LogicalPlan::TableScan(scan) => {
                let label = |column: &str| (self.label)(scan.table_name.table(), column);
                let fields = plan.schema().fields().iter();
                match fields.map(|field| label(field.name())).collect::<Option<Lineage>>() {
                    Some(lineage) if scan.fetch.is_none() => Rows::Parts(lineage),
                    _ => return Err("LIMIT".to_owned()),
                }
            }
            LogicalPlan::Projection(projection) => match self.rows(&projection.input)? {
                Rows::Same => Rows::Same,
                Rows::Parts(lineage) => Rows::Parts(through(&projection.expr, projection.input.schema(), &lineage)),
            },
            LogicalPlan::Filter(filter) => self.rows(&filter.input)?,
            LogicalPlan::SubqueryAlias(alias) => self.rows(&alias.input)?,
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.rows(&sort.input)?,
            LogicalPlan::Window(window) => match self.rows(&window.input)? {
                Rows::Same => Rows::Same,
                Rows::Parts(mut lineage) => {
                    for expr in &window.window_expr {
                        let Expr::WindowFunction(function) = unaliased(expr) else { return Err("OVER".to_owned()) };
                        let by = through(&function.params.partition_by, window.input.schema(), &lineage);
                        self.keep(&by, "OVER");
                    }
                    lineage.extend(window.window_expr.iter().map(|_| None));
                    Rows::Parts(lineage)
                }
            },
            LogicalPlan::Aggregate(aggregate) => match self.rows(&aggregate.input)? {
                Rows::Same => Rows::Same,
                Rows::Parts(_) if aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) => {
                    return Err("ROLLUP, CUBE or GROUPING SETS".to_owned());
                }
                Rows::Parts(lineage) => {
                    let mut by = through(&aggregate.group_expr, aggregate.input.schema(), &lineage);
                    self.keep(&by, "GROUP BY");
                    by.extend(aggregate.aggr_expr.iter().map(|_| None));
                    Rows::Parts(by)
                }
            },
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let rows = self.rows(input)?;
                if let Rows::Parts(lineage) = &rows {
                    self.keep(lineage, "DISTINCT");
                }
                rows
            }
            LogicalPlan::Union(union) => {
                let mut agreed: Option<Lineage> = None;
                for input in &union.inputs {
                    // Rows that are the same in every part would come once for each part.
                    let Rows::Parts(lineage) = self.rows(input)? else {
                        return Err("UNION with constants".to_owned());
                    };
                    agreed = Some(match agreed {
                        None => lineage,
                        Some(known) => known.into_iter().zip(lineage).map(|(a, b)| self.one(a?, b?)).collect(),
                    });
                }
                Rows::Parts(agreed.ok_or("UNION")?)
            }
            LogicalPlan::Unnest(unnest) => match self.rows(&unnest.input)? {
                Rows::Same => Rows::Same,
                Rows::Parts(lineage) => Rows::Parts(unnested(unnest, &lineage)),
            },
            LogicalPlan::Join(join) => {
                let (left, right) = (self.rows(&join.left)?, self.rows(&join.right)?);
                self.joined(join, left, right)?
            }
            LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => return Err("LIMIT".to_owned()),
            LogicalPlan::RecursiveQuery(_) => return Err("WITH RECURSIVE".to_owned()),
            other => return Err(other.display().to_string()),
        })
    }

    /// The key that two keys in one place are.
    fn one(&mut self, a: usize, b: usize) -> Option<usize> {
        self.equal.push((a, b));
        (a == b).then_some(a)
    }

    fn keep(&mut self, by: &[Option<usize>], operator: &'static str) {
        let (kept, lost): (Vec<_>, Vec<_>) = self.common.iter().partition(|key| by.contains(&Some(**key)));
        self.common = kept;
        self.lost.extend(lost.into_iter().map(|key: usize| (key, operator)));
    }

    /// A join with what is the same for every part works row by row as long as it keeps no rows of the latter for
    /// themselves; a join of parts must pair equal keys.
    fn joined(&mut self, join: &Join, left: Rows, right: Rows) -> Result<Rows, String> {
        let nothing = |plan: &LogicalPlan| vec![None; plan.schema().fields().len()];
        let outer = || Err("an outer JOIN that keeps the rows of a small relation".to_owned());
        if join.null_aware {
            // One NULL among the others empties all of the answer.
            return Err("NOT IN".to_owned());
        }
        let (l, r) = match (left, right) {
            (Rows::Same, Rows::Same) => return Ok(Rows::Same),
            (Rows::Parts(l), Rows::Same) => match join.join_type {
                JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                    (l, nothing(&join.right))
                }
                _ => return outer(),
            },
            (Rows::Same, Rows::Parts(r)) => match join.join_type {
                JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                    (nothing(&join.left), r)
                }
                _ => return outer(),
            },
            (Rows::Parts(l), Rows::Parts(r)) => {
                let by = self.equal_keys(join, &l, &r);
                self.keep(&by, "JOIN");
                match join.join_type {
                    // The other side's keys are null where nothing matched.
                    JoinType::Left => (l, nothing(&join.right)),
                    JoinType::Right => (nothing(&join.left), r),
                    JoinType::Full => (nothing(&join.left), nothing(&join.right)),
                    _ => (l, r),
                }
            }
        };
        Ok(Rows::Parts(match join.join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => l,
            JoinType::RightSemi | JoinType::RightAnti => r,
            JoinType::LeftMark => [l, vec![None]].concat(),
            JoinType::RightMark => [r, vec![None]].concat(),
            _ => [l, r].concat(),
        }))
    }

    /// The keys that a join pairs with themselves.
    fn equal_keys(&mut self, join: &Join, left: &Lineage, right: &Lineage) -> Lineage {
        let pair =
            |a: &Expr, b: &Expr| Some((key_of(a, join.left.schema(), left)?, key_of(b, join.right.schema(), right)?));
        let filters = join.filter.as_ref().map(split_conjunction).unwrap_or_default();
        let equalities = filters.into_iter().filter_map(|filter| match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq | Operator::IsNotDistinctFrom, right }) => {
                Some((&**left, &**right))
            }
            _ => None,
        });
        let pairs: Vec<_> = join
            .on
            .iter()
            .map(|(a, b)| (a, b))
            .chain(equalities)
            .filter_map(|(a, b)| pair(a, b).or_else(|| pair(b, a)))
            .collect();
        pairs.into_iter().map(|(a, b)| self.one(a, b)).collect()
    }
}

fn unnested(unnest: &Unnest, lineage: &Lineage) -> Lineage {
    let changed =
        |i: &usize| unnest.list_type_columns.iter().any(|(at, _)| at == i) || unnest.struct_type_columns.contains(i);
    unnest.dependency_indices.iter().map(|i| if changed(i) { None } else { *lineage.get(*i)? }).collect()
}

fn through(exprs: &[Expr], schema: &DFSchema, lineage: &Lineage) -> Lineage {
    exprs.iter().map(|expr| key_of(expr, schema, lineage)).collect()
}

pub(super) fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn key_of(expr: &Expr, schema: &DFSchema, lineage: &Lineage) -> Option<usize> {
    let Expr::Column(column) = unaliased(expr) else { return None };
    lineage.get(schema.maybe_index_of_column(column)?).copied().flatten()
}

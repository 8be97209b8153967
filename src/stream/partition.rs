//! By which group keys the part of a query after its GROUP BY falls into independent parts.
//!
//! A suffix is *partitioned* by a group key when no row of its answer depends on groups with different values of that
//! key. Then an epoch computes it again for the values it touched alone. Every operator either works row by row or must
//! keep the key apart: a window by its PARTITION BY, a nested GROUP BY by its keys, a join of the groups with themselves
//! by an equality. What is read of small relations is the same for every part.

use datafusion::{
    common::{DFSchema, JoinType},
    logical_expr::{
        BinaryExpr, Distinct, Expr, LogicalPlan, Operator,
        logical_plan::{Join, Unnest},
        utils::split_conjunction,
    },
};

use super::class::{GROUPS, VIEW, has_subquery};

/// For each column of an operator's rows the group key that it is, if it is one.
type Lineage = Vec<Option<usize>>;

/// What the rows of an operator depend on.
enum Rows {
    /// On small relations alone.
    Same,
    /// On groups.
    Parts(Lineage),
}

/// The group keys, of the first `keys` columns, by which `suffix` falls into independent parts; empty when it does not.
pub(super) fn partition_keys(suffix: &LogicalPlan, keys: usize) -> Vec<usize> {
    let mut common: Vec<usize> = (0..keys).collect();
    match rows(suffix, keys, &mut common) {
        Some(Rows::Parts(_)) => common,
        _ => Vec::new(),
    }
}

/// Narrows `common` to the keys that every operator below keeps apart. `None` when one cannot be cut at all.
fn rows(plan: &LogicalPlan, keys: usize, common: &mut Vec<usize>) -> Option<Rows> {
    if plan.expressions().iter().any(has_subquery) {
        return None;
    }
    Some(match plan {
        LogicalPlan::TableScan(scan) if scan.table_name.table() == GROUPS => {
            let key = |name: &str| name.strip_prefix('g')?.parse().ok().filter(|i| *i < keys);
            Rows::Parts(plan.schema().fields().iter().map(|f| key(f.name())).collect())
        }
        LogicalPlan::TableScan(scan) if scan.table_name.table().starts_with(VIEW) => Rows::Same,
        LogicalPlan::Projection(projection) => match rows(&projection.input, keys, common)? {
            Rows::Same => Rows::Same,
            Rows::Parts(lineage) => Rows::Parts(through(&projection.expr, projection.input.schema(), &lineage)),
        },
        LogicalPlan::Filter(filter) => rows(&filter.input, keys, common)?,
        LogicalPlan::SubqueryAlias(alias) => rows(&alias.input, keys, common)?,
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => rows(&sort.input, keys, common)?,
        LogicalPlan::Window(window) => match rows(&window.input, keys, common)? {
            Rows::Same => Rows::Same,
            Rows::Parts(mut lineage) => {
                for expr in &window.window_expr {
                    let Expr::WindowFunction(function) = unaliased(expr) else { return None };
                    let by = through(&function.params.partition_by, window.input.schema(), &lineage);
                    keep(common, &by);
                }
                lineage.extend(window.window_expr.iter().map(|_| None));
                Rows::Parts(lineage)
            }
        },
        LogicalPlan::Aggregate(aggregate) => match rows(&aggregate.input, keys, common)? {
            Rows::Same => Rows::Same,
            Rows::Parts(_) if aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) => return None,
            Rows::Parts(lineage) => {
                let mut by = through(&aggregate.group_expr, aggregate.input.schema(), &lineage);
                keep(common, &by);
                by.extend(aggregate.aggr_expr.iter().map(|_| None));
                Rows::Parts(by)
            }
        },
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let rows = rows(input, keys, common)?;
            if let Rows::Parts(lineage) = &rows {
                keep(common, lineage);
            }
            rows
        }
        LogicalPlan::Union(union) => {
            let mut agreed: Option<Lineage> = None;
            for input in &union.inputs {
                // Rows that are the same in every part would come once for each part.
                let Rows::Parts(lineage) = rows(input, keys, common)? else { return None };
                agreed = Some(match agreed {
                    None => lineage,
                    Some(known) => known.into_iter().zip(lineage).map(|(a, b)| a.filter(|_| a == b)).collect(),
                });
            }
            Rows::Parts(agreed?)
        }
        LogicalPlan::Unnest(unnest) => match rows(&unnest.input, keys, common)? {
            Rows::Same => Rows::Same,
            Rows::Parts(lineage) => Rows::Parts(unnested(unnest, &lineage)),
        },
        LogicalPlan::Join(join) => {
            let (left, right) = (rows(&join.left, keys, common)?, rows(&join.right, keys, common)?);
            joined(join, left, right, common)?
        }
        _ => return None,
    })
}

fn keep(common: &mut Vec<usize>, by: &[Option<usize>]) {
    common.retain(|key| by.contains(&Some(*key)));
}

fn unnested(unnest: &Unnest, lineage: &Lineage) -> Lineage {
    let changed =
        |i: &usize| unnest.list_type_columns.iter().any(|(at, _)| at == i) || unnest.struct_type_columns.contains(i);
    unnest.dependency_indices.iter().map(|i| if changed(i) { None } else { *lineage.get(*i)? }).collect()
}

/// A join with what is the same for every part works row by row as long as it keeps no rows of the latter for
/// themselves; a join of the groups with themselves must pair equal keys.
fn joined(join: &Join, left: Rows, right: Rows, common: &mut Vec<usize>) -> Option<Rows> {
    let nothing = |plan: &LogicalPlan| vec![None; plan.schema().fields().len()];
    let (l, r) = match (left, right) {
        (Rows::Same, Rows::Same) => return Some(Rows::Same),
        (Rows::Parts(l), Rows::Same) => match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => (l, nothing(&join.right)),
            _ => return None,
        },
        (Rows::Same, Rows::Parts(r)) => match join.join_type {
            JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => (nothing(&join.left), r),
            _ => return None,
        },
        (Rows::Parts(l), Rows::Parts(r)) => {
            keep(common, &equal_keys(join, &l, &r));
            match join.join_type {
                JoinType::Inner | JoinType::LeftSemi | JoinType::LeftAnti => (l, r),
                JoinType::RightSemi | JoinType::RightAnti => (l, r),
                // The other side's keys are null where nothing matched.
                JoinType::Left => (l, nothing(&join.right)),
                JoinType::Right => (nothing(&join.left), r),
                _ => return None,
            }
        }
    };
    Some(Rows::Parts(match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti => l,
        JoinType::RightSemi | JoinType::RightAnti => r,
        _ => [l, r].concat(),
    }))
}

/// The keys that a join pairs with themselves.
fn equal_keys(join: &Join, left: &Lineage, right: &Lineage) -> Lineage {
    let pair = |a: &Expr, b: &Expr| {
        let key = key_of(a, join.left.schema(), left)?;
        (key_of(b, join.right.schema(), right)? == key).then_some(key)
    };
    let filters = join.filter.as_ref().map(split_conjunction).unwrap_or_default();
    let equalities = filters.into_iter().filter_map(|filter| match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => Some((&**left, &**right)),
        _ => None,
    });
    join.on.iter().map(|(a, b)| (a, b)).chain(equalities).map(|(a, b)| pair(a, b).or_else(|| pair(b, a))).collect()
}

fn through(exprs: &[Expr], schema: &DFSchema, lineage: &Lineage) -> Lineage {
    exprs.iter().map(|expr| key_of(expr, schema, lineage)).collect()
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn key_of(expr: &Expr, schema: &DFSchema, lineage: &Lineage) -> Option<usize> {
    let Expr::Column(column) = unaliased(expr) else { return None };
    lineage.get(schema.maybe_index_of_column(column)?).copied().flatten()
}

//! The calls of TUMBLE and HOP in a plan, in words for people.

use datafusion::{
    common::{Result, ScalarValue, tree_node::TreeNodeRecursion},
    logical_expr::{Expr, LogicalPlan},
};

use super::{Span, local_shift, planner::COLUMNS};
use crate::stream::partition::unaliased;

/// How each of them cuts time, and how many windows a row lies in.
pub(in super::super) fn described(plan: &LogicalPlan) -> Result<Vec<String>> {
    let (mut found, shift) = (Vec::new(), local_shift());
    plan.apply_with_subqueries(|node| {
        let LogicalPlan::Projection(projection) = node else { return Ok(TreeNodeRecursion::Continue) };
        for (expr, field) in projection.expr.iter().zip(projection.schema.fields()) {
            // The end of a window is the first instant of a later one.
            if field.name() == COLUMNS[1]
                && let Expr::ScalarFunction(call) = unaliased(expr)
                && call.func.name() == shift.name()
                && let [_, Expr::Literal(slide, _), Expr::Literal(ScalarValue::Int64(Some(panes)), _), zone] =
                    call.args.as_slice()
                && let ScalarValue::IntervalMonthDayNano(Some(slide)) = slide
                && let Ok(span) = Span::of(*slide)
            {
                let zone = match zone {
                    Expr::Literal(zone, _) => zone.to_string(),
                    other => other.to_string(),
                };
                let lies = if *panes == 1 { "one window".to_owned() } else { format!("{panes} windows") };
                let text = format!("each {} in {zone}: a row lies in {lies}", span.words());
                if !found.contains(&text) {
                    found.push(text);
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

impl Span {
    fn words(self) -> String {
        let plural = |count: i64, unit: &str| if count == 1 { unit.to_owned() } else { format!("{count} {unit}s") };
        match self {
            Self::Months(months) => plural(months.into(), "month"),
            Self::Days(days) => plural(days.into(), "day"),
            Self::Fixed(micros) if micros % 3_600_000_000 == 0 => plural(micros / 3_600_000_000, "hour"),
            Self::Fixed(micros) if micros % 60_000_000 == 0 => plural(micros / 60_000_000, "minute"),
            Self::Fixed(micros) => plural(micros, "microsecond"),
        }
    }
}

//! Sums, counts and least and greatest values over the frames of windows, a column at a time.
//!
//! DataFusion computes an aggregate over frames row by row, each value on its own; of a pipeline with many windows that
//! is most of the time. Of whole numbers and decimals a sum over a frame is the difference of two running sums, and a
//! least value of frames that begin with their partition is a running one: exactly the same values, without a loop a
//! frame. A plan with any other function, frame or type, a FILTER, or arguments of which more is computed than a cast or
//! an arithmetic operation, is left as it is: here these are evaluated over all partitions at once, there over each, and
//! some of DataFusion's functions look at what else there is.

use std::{cmp::Ordering, fmt, ops::Range, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, ArrowPrimitiveType, AsArray, Date32Array, Decimal128Array, Int32Array, Int64Array,
        PrimitiveArray, RecordBatch, TimestampMicrosecondArray,
    },
    buffer::NullBuffer,
    compute::{SortColumn, concat_batches},
    datatypes::{
        DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
        TimestampMicrosecondType,
    },
};
use datafusion::{
    common::{
        DataFusionError, Result, ScalarValue, internal_err,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
        utils::evaluate_partition_ranges,
    },
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Operator, WindowFrame, WindowFrameBound, WindowFrameUnits},
    physical_expr::{
        PhysicalSortExpr,
        aggregate::AggregateFunctionExpr,
        expressions::{BinaryExpr, CastExpr, Column, Literal},
        window::{PlainAggregateWindowExpr, SlidingAggregateWindowExpr, WindowExpr},
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PhysicalExpr, PlanProperties,
        ReplaceChildrenOptions,
        execution_plan::ChildrenPropertiesMode,
        stream::RecordBatchStreamAdapter,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};
use futures::TryStreamExt;

use super::keyed::is_exact;

/// Puts the same windows a column at a time in the place of those that can be computed so.
///
/// # Errors
/// When a plan cannot be walked through.
pub(super) fn by_columns(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    plan.transform_up(|node| Ok(FramesExec::of(&node).map_or_else(|| Transformed::no(node), Transformed::yes))).data()
}

/// From which row to which a frame goes.
#[derive(Clone, PartialEq, Debug)]
enum Frame {
    /// So many rows before and after; none when there is no bound.
    Rows { before: Option<usize>, after: Option<usize> },
    /// Up to the last row that ties with this one; from the first of the partition, or the first that ties.
    Peers { from_first: bool },
    /// The rows whose number is not smaller by more than `before`, nor greater by more than `after`.
    Within { before: Option<i128>, after: Option<i128> },
}

impl Frame {
    fn of(frame: &WindowFrame, order_by: &[PhysicalSortExpr], input: &Schema) -> Option<Self> {
        use WindowFrameBound::{CurrentRow, Following, Preceding};
        // A bound that is not there is a null.
        let rows = |bound: &ScalarValue| match bound {
            ScalarValue::UInt64(rows) => Some(rows.and_then(|rows| usize::try_from(rows).ok())),
            _ => None,
        };
        let number = |bound: &ScalarValue| match bound {
            ScalarValue::Int32(Some(number)) if *number >= 0 => Some(Some(i128::from(*number))),
            ScalarValue::Int64(Some(number)) if *number >= 0 => Some(Some(i128::from(*number))),
            bound => bound.is_null().then_some(None),
        };
        match frame.units {
            WindowFrameUnits::Rows => {
                let before = match &frame.start_bound {
                    Preceding(bound) => rows(bound)?,
                    CurrentRow => Some(0),
                    Following(_) => return None,
                };
                let after = match &frame.end_bound {
                    Preceding(_) => return None,
                    CurrentRow => Some(0),
                    Following(bound) => rows(bound)?,
                };
                Some(Self::Rows { before, after })
            }
            WindowFrameUnits::Range => {
                if order_by.iter().any(|by| !by.expr.data_type(input).is_ok_and(|of| is_exact(&of))) {
                    return None;
                }
                match (&frame.start_bound, &frame.end_bound) {
                    (Preceding(from), Following(to)) if from.is_null() && to.is_null() => {
                        return Some(Self::Rows { before: None, after: None });
                    }
                    (Preceding(bound), CurrentRow) if bound.is_null() => return Some(Self::Peers { from_first: true }),
                    (CurrentRow, CurrentRow) => return Some(Self::Peers { from_first: false }),
                    _ => {}
                }
                let before = match &frame.start_bound {
                    Preceding(bound) => number(bound)?,
                    CurrentRow => Some(0),
                    Following(_) => return None,
                };
                let after = match &frame.end_bound {
                    Preceding(_) => return None,
                    CurrentRow => Some(0),
                    Following(bound) => number(bound)?,
                };
                let [by] = order_by else { return None };
                let is_number = matches!(by.expr.data_type(input), Ok(DataType::Int32 | DataType::Int64));
                (is_number && !by.options.descending).then_some(Self::Within { before, after })
            }
            WindowFrameUnits::Groups => None,
        }
    }

    /// Whether every frame begins with its partition.
    fn begins_with_partition(&self) -> bool {
        match self {
            Self::Rows { before, .. } => before.is_none(),
            Self::Peers { from_first } => *from_first,
            Self::Within { before, .. } => before.is_none(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Function {
    Sum,
    Count,
    Least,
    Greatest,
}

impl Function {
    fn of(aggregate: &AggregateFunctionExpr, frame: &Frame, argument: &DataType) -> Option<Self> {
        if aggregate.is_distinct() || !aggregate.order_bys().is_empty() {
            return None;
        }
        let result = aggregate.field();
        let running = frame.begins_with_partition() && result.data_type() == argument && is_whole(argument);
        match aggregate.fun().name() {
            "sum" => match (argument, result.data_type()) {
                (DataType::Int64, DataType::Int64) => Some(Self::Sum),
                (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) if from == to => Some(Self::Sum),
                _ => None,
            },
            "count" => (*result.data_type() == DataType::Int64).then_some(Self::Count),
            "min" => running.then_some(Self::Least),
            "max" => running.then_some(Self::Greatest),
            _ => None,
        }
    }
}

/// Whether values are whole numbers, of whatever unit.
fn is_whole(data_type: &DataType) -> bool {
    use DataType::{Date32, Decimal128, Int32, Int64, Timestamp};
    matches!(data_type, Int32 | Int64 | Date32 | Timestamp(TimeUnit::Microsecond, _) | Decimal128(..))
}

/// A column that is added.
#[derive(Debug)]
struct Window {
    function: Function,
    argument: Arc<dyn PhysicalExpr>,
    result: DataType,
    /// Which of the frames.
    frame: usize,
}

/// The windows of one plan, all over the same partitions in the same order.
#[derive(Debug)]
struct Windows {
    schema: SchemaRef,
    partition_by: Vec<Arc<dyn PhysicalExpr>>,
    order_by: Vec<PhysicalSortExpr>,
    frames: Vec<Frame>,
    windows: Vec<Window>,
}

impl Windows {
    fn of(exprs: &[Arc<dyn WindowExpr>], input: &Schema, schema: SchemaRef) -> Option<Self> {
        let first = exprs.first()?;
        let (partition_by, order_by) = (first.partition_by().to_vec(), first.order_by().to_vec());
        if !partition_by.iter().chain(order_by.iter().map(|by| &by.expr)).all(is_plain) {
            return None;
        }
        let (mut frames, mut windows): (Vec<Frame>, Vec<Window>) = (Vec::new(), Vec::new());
        for expr in exprs {
            let any = expr.as_any();
            let aggregate = any.downcast_ref::<PlainAggregateWindowExpr>().map(|expr| expr.get_aggregate_expr());
            let aggregate = aggregate
                .or_else(|| any.downcast_ref::<SlidingAggregateWindowExpr>().map(|expr| expr.get_aggregate_expr()))?;
            // A FILTER is told nowhere else.
            if !format!("{expr:?}").ends_with("filter: None }") || expr.order_by() != order_by {
                return None;
            }
            let frame = Frame::of(expr.get_window_frame(), &order_by, input)?;
            let [argument] = &*expr.expressions() else { return None };
            if !is_plain(argument) {
                return None;
            }
            let function = Function::of(aggregate, &frame, &argument.data_type(input).ok()?)?;
            let known = frames.iter().position(|known| *known == frame);
            let at = known.unwrap_or(frames.len());
            if known.is_none() {
                frames.push(frame);
            }
            let result = aggregate.field().data_type().clone();
            windows.push(Window { function, argument: Arc::clone(argument), result, frame: at });
        }
        Some(Self { schema, partition_by, order_by, frames, windows })
    }

    /// The rows, of which there are some, and in order, with the columns added.
    fn over(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let partition_by = evaluated(&self.partition_by, rows)?;
        let partitions = evaluate_partition_ranges(rows.num_rows(), &partition_by)?;
        let frames = self.frames.iter().map(|frame| self.bounds(frame, rows, &partition_by, &partitions));
        let frames = frames.collect::<Result<Vec<_>>>()?;
        let mut columns = rows.columns().to_vec();
        for window in &self.windows {
            let argument = window.argument.evaluate(rows)?.into_array(rows.num_rows())?;
            columns.push(window.over(&argument, &partitions, &frames[window.frame])?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// The frame of each row.
    fn bounds(
        &self,
        frame: &Frame,
        rows: &RecordBatch,
        partition_by: &[SortColumn],
        partitions: &[Range<usize>],
    ) -> Result<Vec<Range<usize>>> {
        let mut bounds = Vec::with_capacity(rows.num_rows());
        match frame {
            Frame::Rows { before, after } => {
                for partition in partitions {
                    for row in partition.clone() {
                        let start = before.map_or(0, |before| row.saturating_sub(before)).max(partition.start);
                        let end = after.map_or(usize::MAX, |after| row.saturating_add(after).saturating_add(1));
                        bounds.push(start..end.min(partition.end));
                    }
                }
            }
            Frame::Peers { from_first } => {
                let order_by = self.order_by.iter().map(|by| Arc::clone(&by.expr)).collect::<Vec<_>>();
                let columns = [partition_by, &evaluated(&order_by, rows)?].concat();
                let mut ties = evaluate_partition_ranges(rows.num_rows(), &columns)?.into_iter().peekable();
                for partition in partitions {
                    while let Some(tie) = ties.next_if(|tie| tie.end <= partition.end) {
                        let start = if *from_first { partition.start } else { tie.start };
                        bounds.extend(std::iter::repeat_n(start..tie.end, tie.len()));
                    }
                }
            }
            Frame::Within { before, after } => {
                let Some(by) = self.order_by.first() else { return internal_err!("a frame without an order") };
                let numbers = by.expr.evaluate(rows)?.into_array(rows.num_rows())?;
                let (least_of_type, most_of_type) = match numbers.data_type() {
                    DataType::Int32 => (i128::from(i32::MIN), i128::from(i32::MAX)),
                    _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
                };
                let numbers = Numbers::of(&numbers)?;
                // Those that are none tie with each other, at one end.
                let none = if by.options.nulls_first { i128::MIN } else { i128::MAX };
                let numbers: Vec<i128> = (0..rows.num_rows()).map(|row| numbers.get(row).unwrap_or(none)).collect();
                for partition in partitions {
                    let (mut start, mut end) = (partition.start, partition.start);
                    for row in partition.clone() {
                        let number = numbers[row];
                        let moved = |by: i128| if number == none { none } else { number + by };
                        // A bound that the type does not hold is none, and lets in those that are none, too.
                        let least = before.map(|before| moved(-before));
                        let most = after.map(moved);
                        if let Some(least) = least.filter(|least| *least == none || *least >= least_of_type) {
                            start += numbers[start..partition.end].iter().take_while(|n| **n < least).count();
                        }
                        end = match most.filter(|most| *most == none || *most <= most_of_type) {
                            Some(most) => end + numbers[end..partition.end].iter().take_while(|n| **n <= most).count(),
                            None => partition.end,
                        };
                        bounds.push(start..end);
                    }
                }
            }
        }
        Ok(bounds)
    }
}

/// Whether a value is the same, or the same error, whatever other rows are evaluated with its row.
fn is_plain(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let own = expr.is::<Column>()
        || expr.is::<Literal>()
        || expr.is::<CastExpr>()
        || expr
            .downcast_ref::<BinaryExpr>()
            .is_some_and(|of| matches!(of.op(), Operator::Plus | Operator::Minus | Operator::Multiply));
    own && expr.children().into_iter().all(is_plain)
}

fn evaluated(exprs: &[Arc<dyn PhysicalExpr>], rows: &RecordBatch) -> Result<Vec<SortColumn>> {
    let column = |expr: &Arc<dyn PhysicalExpr>| {
        Ok(SortColumn { values: expr.evaluate(rows)?.into_array(rows.num_rows())?, options: None })
    };
    exprs.iter().map(column).collect()
}

impl Window {
    fn over(&self, argument: &ArrayRef, partitions: &[Range<usize>], frames: &[Range<usize>]) -> Result<ArrayRef> {
        let of_frames = |of: &dyn Fn(&Range<usize>) -> Option<i128>| array(frames.iter().map(of), &self.result);
        match self.function {
            Function::Count => {
                let counts = counts(argument.len(), argument.logical_nulls().as_ref());
                of_frames(&|frame| Some(counts[frame.end] - counts[frame.start]))
            }
            Function::Sum => {
                let numbers = Numbers::of(argument)?;
                let counts = counts(argument.len(), numbers.nulls.as_ref());
                let mut sums = Vec::with_capacity(argument.len() + 1);
                let mut sum = 0_i128;
                sums.push(sum);
                for row in 0..argument.len() {
                    // As DataFusion's, which wraps around.
                    sum = sum.wrapping_add(numbers.get(row).unwrap_or(0));
                    sums.push(sum);
                }
                of_frames(&|frame| {
                    (counts[frame.end] > counts[frame.start]).then(|| sums[frame.end].wrapping_sub(sums[frame.start]))
                })
            }
            Function::Least | Function::Greatest => {
                let better = if self.function == Function::Least { Ordering::Less } else { Ordering::Greater };
                let numbers = Numbers::of(argument)?;
                // From the beginning of its partition to each row.
                let mut best = Vec::with_capacity(argument.len());
                for partition in partitions {
                    let mut so_far = None;
                    for row in partition.clone() {
                        so_far = match (so_far, numbers.get(row)) {
                            (Some(old), Some(new)) => Some(if new.cmp(&old) == better { new } else { old }),
                            (old, new) => old.or(new),
                        };
                        best.push(so_far);
                    }
                }
                of_frames(&|frame| best[frame.end - 1])
            }
        }
    }
}

/// How many values there are before each row, and before the end.
fn counts(rows: usize, nulls: Option<&NullBuffer>) -> Vec<i128> {
    let mut counts = Vec::with_capacity(rows + 1);
    let mut count = 0;
    counts.push(count);
    for row in 0..rows {
        count += i128::from(nulls.is_none_or(|nulls| nulls.is_valid(row)));
        counts.push(count);
    }
    counts
}

/// Whole numbers, some of which may not be there.
struct Numbers {
    values: Vec<i128>,
    nulls: Option<NullBuffer>,
}

impl Numbers {
    fn of(array: &dyn Array) -> Result<Self> {
        fn values<T: ArrowPrimitiveType<Native: Into<i128>>>(array: &dyn Array) -> Vec<i128> {
            array.as_primitive::<T>().values().iter().map(|value| (*value).into()).collect()
        }
        let values = match array.data_type() {
            DataType::Int32 => values::<Int32Type>(array),
            DataType::Int64 => values::<Int64Type>(array),
            DataType::Date32 => values::<Date32Type>(array),
            DataType::Timestamp(TimeUnit::Microsecond, _) => values::<TimestampMicrosecondType>(array),
            DataType::Decimal128(..) => values::<Decimal128Type>(array),
            other => return internal_err!("{other} is no whole number"),
        };
        Ok(Self { values, nulls: array.nulls().cloned() })
    }

    fn get(&self, row: usize) -> Option<i128> {
        self.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)).then(|| self.values[row])
    }
}

/// Numbers of a type; what is too large for it wraps around.
#[allow(clippy::cast_possible_truncation, reason = "only sums can be too large, and wrap around as DataFusion's do")]
fn array(numbers: impl Iterator<Item = Option<i128>>, of: &DataType) -> Result<ArrayRef> {
    Ok(match of {
        DataType::Int32 => Arc::new(numbers.map(|n| n.map(|n| n as i32)).collect::<Int32Array>()),
        DataType::Int64 => Arc::new(numbers.map(|n| n.map(|n| n as i64)).collect::<Int64Array>()),
        DataType::Date32 => Arc::new(numbers.map(|n| n.map(|n| n as i32)).collect::<Date32Array>()),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let instants: TimestampMicrosecondArray = numbers.map(|n| n.map(|n| n as i64)).collect();
            Arc::new(instants.with_timezone_opt(zone.clone()))
        }
        DataType::Decimal128(precision, scale) => {
            let decimals: Decimal128Array = numbers.collect::<PrimitiveArray<Decimal128Type>>();
            Arc::new(decimals.with_precision_and_scale(*precision, *scale)?)
        }
        other => return internal_err!("{other} is no whole number"),
    })
}

/// Windows at work.
#[derive(Debug)]
struct FramesExec {
    windows: Arc<Windows>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl FramesExec {
    /// In the place of a node, if that has windows and all can be computed so.
    fn of(node: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
        let (exprs, input) = if let Some(bounded) = node.downcast_ref::<BoundedWindowAggExec>() {
            if bounded.input_order_mode != InputOrderMode::Sorted {
                return None;
            }
            (bounded.window_expr(), bounded.input())
        } else {
            let whole = node.downcast_ref::<WindowAggExec>()?;
            (whole.window_expr(), whole.input())
        };
        let windows = Arc::new(Windows::of(exprs, &input.schema(), node.schema())?);
        let (input, properties) = (Arc::clone(input), Arc::clone(node.properties()));
        Some(Arc::new(Self { windows, input, properties }))
    }
}

impl DisplayAs for FramesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FramesExec: {} windows over {} frames", self.windows.windows.len(), self.windows.frames.len())
    }
}

impl ExecutionPlan for FramesExec {
    fn name(&self) -> &str {
        "FramesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(input) = children.pop() else { return internal_err!("windows over nothing") };
        let (windows, properties) = (Arc::clone(&self.windows), Arc::clone(&self.properties));
        Ok(Arc::new(Self { windows, input, properties }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let Windows { partition_by, order_by, windows, .. } = &*self.windows;
        let arguments = windows.iter().map(|window| &window.argument);
        let exprs = partition_by.iter().chain(order_by.iter().map(|by| &by.expr)).chain(arguments);
        let mut recursion = TreeNodeRecursion::Continue;
        for expr in exprs {
            recursion = f(expr)?;
            if recursion == TreeNodeRecursion::Stop {
                break;
            }
        }
        Ok(recursion)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (schema, windows) = (self.input.schema(), Arc::clone(&self.windows));
        let input = self.input.execute(partition, task)?;
        let answer = async move {
            let batches: Vec<RecordBatch> = input.try_collect().await?;
            let rows = concat_batches(&schema, &batches)?;
            if rows.num_rows() == 0 { Ok(None) } else { windows.over(&rows).map(Some) }
        };
        let answer = futures::stream::once(answer).try_filter_map(async |rows| Ok(rows));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.windows.schema), answer)))
    }
}

#[cfg(test)]
mod tests;

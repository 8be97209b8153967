//! The state of an aggregate pipeline: one row for each group, found by a hash of its key.
//!
//! Counts and sums of whole numbers and decimals are linear, so a row can be taken back exactly: it is added with
//! weight −1. A group dies when as many rows have left as came. Sums of floats, `min` and `max` take no row back and are
//! accepted over append-only inputs only: elsewhere the rows themselves are kept, and added up again (`keyed.rs`).
//! Reading a group does not disturb it, and an epoch costs what it touches, whatever the number of groups.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, Float64Array, Int64Array, PrimitiveArray,
        RecordBatch, UInt64Array, new_null_array,
    },
    compute::{CastOptions, cast_with_options, concat_batches},
    datatypes::{DataType, Decimal128Type, Field, Float64Type, Int64Type, Schema, SchemaRef, UInt64Type},
    row::{RowConverter, SortField},
};
use datafusion::common::{HashMap, ScalarValue};

use super::{
    Error,
    class::{AggregateColumn, AggregateKind, Grouping},
    kept::Bytes,
};

/// A group's place in the state.
pub(crate) type Slot = u32;

#[derive(Debug)]
enum Values {
    Decimal(Vec<i128>),
    Integer(Vec<i64>),
    Unsigned(Vec<u64>),
    Float(Vec<f64>),
    Extreme(Vec<ScalarValue>),
    /// `count` needs no values: the non-null count is its answer.
    Count,
}

/// One aggregate over all groups: values, and how many non-null arguments are behind each.
#[derive(Debug)]
struct Accumulator {
    column: AggregateColumn,
    values: Values,
    counts: Vec<i64>,
}

impl Accumulator {
    fn new(column: AggregateColumn, argument: Option<&DataType>) -> Result<Self, Error> {
        let values = match (column.kind, argument) {
            (AggregateKind::Count, _) => Values::Count,
            (AggregateKind::Min | AggregateKind::Max, _) => Values::Extreme(Vec::new()),
            (AggregateKind::Sum, Some(DataType::Decimal128(..))) => Values::Decimal(Vec::new()),
            (AggregateKind::Sum, Some(DataType::Int64)) => Values::Integer(Vec::new()),
            (AggregateKind::Sum, Some(DataType::UInt64)) => Values::Unsigned(Vec::new()),
            (AggregateKind::Sum, Some(DataType::Float64)) => Values::Float(Vec::new()),
            (AggregateKind::Sum, other) => {
                return Err(Error::Internal(format!("sums of {other:?} are not kept")));
            }
        };
        Ok(Self { column, values, counts: Vec::new() })
    }

    fn grow(&mut self) -> Result<(), Error> {
        self.counts.push(0);
        match &mut self.values {
            Values::Decimal(v) => v.push(0),
            Values::Integer(v) => v.push(0),
            Values::Unsigned(v) => v.push(0),
            Values::Float(v) => v.push(0.0),
            Values::Extreme(v) => v.push(ScalarValue::try_from(&self.column.output)?),
            Values::Count => {}
        }
        Ok(())
    }

    /// Makes room for another group in a slot.
    fn reset(&mut self, slot: usize) -> Result<(), Error> {
        self.counts[slot] = 0;
        match &mut self.values {
            Values::Decimal(v) => v[slot] = 0,
            Values::Integer(v) => v[slot] = 0,
            Values::Unsigned(v) => v[slot] = 0,
            Values::Float(v) => v[slot] = 0.0,
            Values::Extreme(v) => v[slot] = ScalarValue::try_from(&self.column.output)?,
            Values::Count => {}
        }
        Ok(())
    }

    /// Adds every row of `batch`, `weight` (1 or −1) times, to the slot beside it.
    fn update(&mut self, batch: &RecordBatch, slots: &[Slot], weight: i64) -> Result<(), Error> {
        let Some(argument) = self.column.argument else {
            slots.iter().for_each(|slot| self.counts[*slot as usize] += weight);
            return Ok(());
        };
        let array = batch.column(argument);
        let overflow = || Error::Overflow(self.column.output.to_string());
        let rows =
            || slots.iter().enumerate().filter(|(row, _)| array.is_valid(*row)).map(|(row, s)| (row, *s as usize));
        for (_, slot) in rows() {
            self.counts[slot] += weight;
        }
        match &mut self.values {
            Values::Count => {}
            Values::Decimal(values) => {
                let array = array.as_primitive::<Decimal128Type>();
                for (row, slot) in rows() {
                    values[slot] =
                        values[slot].checked_add(array.value(row) * i128::from(weight)).ok_or_else(overflow)?;
                }
            }
            Values::Integer(values) => {
                let array = array.as_primitive::<Int64Type>();
                for (row, slot) in rows() {
                    let term = array.value(row).checked_mul(weight).ok_or_else(overflow)?;
                    values[slot] = values[slot].checked_add(term).ok_or_else(overflow)?;
                }
            }
            Values::Unsigned(values) => {
                let array = array.as_primitive::<UInt64Type>();
                for (row, slot) in rows() {
                    let term = array.value(row);
                    let sum = if weight > 0 { values[slot].checked_add(term) } else { values[slot].checked_sub(term) };
                    values[slot] = sum.ok_or_else(overflow)?;
                }
            }
            Values::Float(_) | Values::Extreme(_) if weight < 0 && !slots.is_empty() => {
                return Err(Error::Internal("a row was taken back from a sum of floats, min or max".to_owned()));
            }
            Values::Float(values) => {
                let array = array.as_primitive::<Float64Type>();
                for (row, slot) in rows() {
                    values[slot] += array.value(row);
                }
            }
            Values::Extreme(values) => {
                let better = match self.column.kind {
                    AggregateKind::Min => std::cmp::Ordering::Less,
                    _ => std::cmp::Ordering::Greater,
                };
                for (row, slot) in rows() {
                    let value = ScalarValue::try_from_array(array, row)?;
                    if values[slot].is_null() || value.partial_cmp(&values[slot]) == Some(better) {
                        values[slot] = value;
                    }
                }
            }
        }
        Ok(())
    }

    /// The aggregate's values of some slots, as SQL gives them.
    fn read(&self, slots: &[Slot]) -> Result<ArrayRef, Error> {
        let slots = slots.iter().map(|slot| *slot as usize);
        let known = |slot: usize| self.counts[slot] != 0;
        let array: ArrayRef = match &self.values {
            Values::Count => Arc::new(Int64Array::from_iter_values(slots.map(|slot| self.counts[slot]))),
            Values::Decimal(values) => {
                let array: Decimal128Array = slots.map(|slot| known(slot).then(|| values[slot])).collect();
                Arc::new(array.with_data_type(self.column.output.clone()))
            }
            Values::Integer(values) => {
                Arc::new(slots.map(|slot| known(slot).then(|| values[slot])).collect::<Int64Array>())
            }
            Values::Unsigned(values) => {
                Arc::new(slots.map(|slot| known(slot).then(|| values[slot])).collect::<UInt64Array>())
            }
            Values::Float(values) => {
                Arc::new(slots.map(|slot| known(slot).then(|| values[slot])).collect::<Float64Array>())
            }
            Values::Extreme(values) => {
                let mut picked = slots.map(|slot| values[slot].clone()).peekable();
                match picked.peek() {
                    Some(_) => ScalarValue::iter_to_array(picked)?,
                    None => new_null_array(&self.column.output, 0),
                }
            }
        };
        Ok(cast_with_options(&array, &self.column.output, &CastOptions { safe: false, ..Default::default() })?)
    }

    /// Puts what [`Self::read`] and the counts gave into the slots beside it.
    fn load(&mut self, values: &ArrayRef, counts: &Int64Array, slots: &[Slot]) -> Result<(), Error> {
        let rows = || slots.iter().map(|slot| *slot as usize).enumerate();
        for (row, slot) in rows() {
            self.counts[slot] = counts.value(row);
        }
        match &mut self.values {
            Values::Count => {}
            Values::Decimal(v) => put(v, values.as_primitive::<Decimal128Type>(), rows()),
            Values::Integer(v) => put(v, values.as_primitive::<Int64Type>(), rows()),
            Values::Unsigned(v) => put(v, values.as_primitive::<UInt64Type>(), rows()),
            Values::Float(v) => put(v, values.as_primitive::<Float64Type>(), rows()),
            Values::Extreme(v) => {
                for (row, slot) in rows() {
                    v[slot] = ScalarValue::try_from_array(values, row)?;
                }
            }
        }
        Ok(())
    }
}

fn put<T: ArrowPrimitiveType>(
    into: &mut [T::Native],
    values: &PrimitiveArray<T>,
    rows: impl Iterator<Item = (usize, usize)>,
) {
    for (row, slot) in rows {
        into[slot] = values.value(row);
    }
}

/// All groups of one pipeline.
#[derive(Debug)]
pub(crate) struct Groups {
    keys: RowConverter,
    /// The part of the key by which the suffix is recomputed.
    partition: RowConverter,
    partition_columns: Vec<usize>,
    index: HashMap<Bytes, Slot>,
    by_slot: Vec<Option<Bytes>>,
    members: HashMap<Bytes, Vec<Slot>>,
    rows: Vec<i64>,
    free: Vec<Slot>,
    /// Whether all was saved once: what changes is noted only from then on.
    is_saved: bool,
    /// The slots whose groups changed since the last checkpoint, each once, and which they are.
    changed: Vec<Slot>,
    is_changed: Vec<bool>,
    /// The groups that died since then.
    dead: Vec<Bytes>,
    accumulators: Vec<Accumulator>,
    schema: SchemaRef,
    key_columns: usize,
}

impl Groups {
    pub(crate) fn new(grouping: &Grouping) -> Result<Self, Error> {
        let input = grouping.input.schema();
        let fields = |columns: &[usize]| {
            columns.iter().map(|i| SortField::new(input.field(*i).data_type().clone())).collect::<Vec<_>>()
        };
        let all: Vec<usize> = (0..grouping.keys).collect();
        Ok(Self {
            keys: RowConverter::new(fields(&all))?,
            partition: RowConverter::new(fields(&grouping.partition))?,
            partition_columns: grouping.partition.clone(),
            index: HashMap::new(),
            by_slot: Vec::new(),
            members: HashMap::new(),
            rows: Vec::new(),
            free: Vec::new(),
            is_saved: false,
            changed: Vec::new(),
            is_changed: Vec::new(),
            dead: Vec::new(),
            accumulators: grouping
                .aggregates
                .iter()
                .map(|column| {
                    let argument = column.argument.map(|i| input.field(i).data_type().clone());
                    Accumulator::new(column.clone(), argument.as_ref())
                })
                .collect::<Result<_, _>>()?,
            schema: Arc::clone(&grouping.schema),
            key_columns: grouping.keys,
        })
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The slot of every row of an input batch; groups that are not there yet are made, empty.
    pub(crate) fn locate(&mut self, batch: &RecordBatch) -> Result<Vec<Slot>, Error> {
        let keys = self.keys.convert_columns(&batch.columns()[..self.key_columns])?;
        let partition_arrays: Vec<ArrayRef> =
            self.partition_columns.iter().map(|i| Arc::clone(batch.column(*i))).collect();
        let partitions =
            (!partition_arrays.is_empty()).then(|| self.partition.convert_columns(&partition_arrays)).transpose()?;
        let mut slots = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let key = keys.row(row).data();
            if let Some(slot) = self.index.get(key) {
                slots.push(*slot);
                continue;
            }
            let slot = match self.free.pop() {
                Some(slot) => slot,
                None => {
                    let slot = Slot::try_from(self.rows.len())
                        .map_err(|_| Error::Limit("a pipeline has more than 4,294,967,295 groups".to_owned()))?;
                    self.rows.push(0);
                    self.is_changed.push(false);
                    self.by_slot.push(None);
                    self.accumulators.iter_mut().try_for_each(Accumulator::grow)?;
                    slot
                }
            };
            self.by_slot[slot as usize] = Some(key.into());
            self.index.insert(key.into(), slot);
            if let Some(partitions) = &partitions {
                self.members.entry(partitions.row(row).data().into()).or_default().push(slot);
            }
            slots.push(slot);
        }
        Ok(slots)
    }

    /// Every slot that holds a group, in the order of their keys: sums of floats must not hang on another.
    pub(crate) fn all(&self) -> Vec<Slot> {
        self.in_order(self.index.values().copied().collect())
    }

    fn in_order(&self, mut slots: Vec<Slot>) -> Vec<Slot> {
        slots.sort_unstable_by(|a, b| self.by_slot[*a as usize].cmp(&self.by_slot[*b as usize]));
        slots
    }

    /// The partitions that hold the given input rows, in order.
    pub(crate) fn partitions(&self, batches: [&RecordBatch; 2]) -> Result<Vec<Bytes>, Error> {
        let mut partitions = Vec::new();
        for batch in batches {
            let columns: Vec<ArrayRef> = self.partition_columns.iter().map(|i| Arc::clone(batch.column(*i))).collect();
            let rows = self.partition.convert_columns(&columns)?;
            partitions.extend((0..batch.num_rows()).map(|row| Bytes::from(rows.row(row).data())));
        }
        partitions.sort_unstable();
        partitions.dedup();
        Ok(partitions)
    }

    /// The most groups in one of some partitions.
    pub(crate) fn largest(&self, partitions: &[Bytes]) -> usize {
        partitions.iter().filter_map(|partition| self.members.get(partition)).map(Vec::len).max().unwrap_or_default()
    }

    /// The slots of all groups of some partitions.
    pub(crate) fn members(&self, partitions: &[Bytes]) -> Vec<Slot> {
        let members = partitions.iter().filter_map(|partition| self.members.get(partition));
        self.in_order(members.flatten().copied().collect())
    }

    /// Adds rows (weight 1) or takes them back (weight −1).
    pub(crate) fn update(&mut self, batch: &RecordBatch, slots: &[Slot], weight: i64) -> Result<(), Error> {
        for slot in slots {
            self.rows[*slot as usize] += weight;
            self.note(*slot);
        }
        self.accumulators.iter_mut().try_for_each(|a| a.update(batch, slots, weight))
    }

    fn note(&mut self, slot: Slot) {
        if self.is_saved && !std::mem::replace(&mut self.is_changed[slot as usize], true) {
            self.changed.push(slot);
        }
    }

    /// Removes those of the slots that have no rows left.
    pub(crate) fn bury(&mut self, slots: &[Slot]) -> Result<(), Error> {
        let mut dead: Vec<Slot> = slots.iter().copied().filter(|slot| self.rows[*slot as usize] <= 0).collect();
        dead.sort_unstable();
        dead.dedup();
        if let Some(slot) = dead.iter().find(|slot| self.rows[**slot as usize] < 0) {
            return Err(Error::Internal(format!("group {slot} has lost more rows than it had")));
        }
        for slot in &dead {
            if let Some(key) = self.by_slot[*slot as usize].take() {
                if !self.partition_columns.is_empty() {
                    let columns = self.keys.convert_rows([self.keys.parser().parse(&key)])?;
                    let columns: Vec<ArrayRef> =
                        self.partition_columns.iter().map(|i| Arc::clone(&columns[*i])).collect();
                    let partition = self.partition.convert_columns(&columns)?;
                    let partition = partition.row(0).data();
                    if let Some(members) = self.members.get_mut(partition) {
                        members.retain(|member| member != slot);
                        if members.is_empty() {
                            self.members.remove(partition);
                        }
                    }
                }
                self.index.remove(&key);
                if self.is_saved {
                    self.dead.push(key);
                }
                self.free.push(*slot);
                self.accumulators.iter_mut().try_for_each(|accumulator| accumulator.reset(*slot as usize))?;
            }
        }
        Ok(())
    }

    /// The groups in some slots as the suffix sees them; those without rows are left out.
    pub(crate) fn read(&self, slots: &[Slot]) -> Result<RecordBatch, Error> {
        let live: Vec<Slot> = slots.iter().copied().filter(|slot| self.rows[*slot as usize] > 0).collect();
        let parser = self.keys.parser();
        let keys = live.iter().filter_map(|slot| self.by_slot[*slot as usize].as_ref());
        let mut columns = self.keys.convert_rows(keys.map(|key| parser.parse(key)))?;
        for accumulator in &self.accumulators {
            columns.push(accumulator.read(&live)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// As one batch all groups, or those that changed since the last call: keys, number of rows, then values and counts
    /// of each aggregate. A group that died has no rows. The first call must be for all.
    pub(crate) fn save(&mut self, whole: bool) -> Result<RecordBatch, Error> {
        self.is_saved = true;
        let mut changed = std::mem::take(&mut self.changed);
        for slot in &changed {
            self.is_changed[*slot as usize] = false;
        }
        let dead = std::mem::take(&mut self.dead);
        let slots: Vec<Slot> = if whole {
            (0..self.rows.len()).map(|i| i as Slot).filter(|i| self.by_slot[*i as usize].is_some()).collect()
        } else {
            changed.retain(|i| self.by_slot[*i as usize].is_some());
            changed
        };
        let live = self.saved(&slots)?;
        let dead: Vec<&Bytes> = dead.iter().filter(|key| !whole && !self.index.contains_key(*key)).collect();
        if dead.is_empty() {
            return Ok(live);
        }
        let parser = self.keys.parser();
        let mut columns = self.keys.convert_rows(dead.iter().map(|key| parser.parse(key)))?;
        columns.push(Arc::new(Int64Array::from(vec![0; dead.len()])));
        let schema = live.schema();
        columns.extend(schema.fields()[columns.len()..].iter().map(|f| new_null_array(f.data_type(), dead.len())));
        Ok(concat_batches(&schema, [&RecordBatch::try_new(Arc::clone(&schema), columns)?, &live])?)
    }

    fn saved(&self, slots: &[Slot]) -> Result<RecordBatch, Error> {
        let batch = self.read(slots)?;
        let mut fields: Vec<Arc<Field>> = batch.schema().fields()[..self.key_columns].to_vec();
        let mut columns = batch.columns()[..self.key_columns].to_vec();
        let mut add = |name: String, column: ArrayRef| {
            fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
            columns.push(column);
        };
        let pick = |counts: &[i64]| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(slots.iter().map(|slot| counts[*slot as usize])))
        };
        add("rows".to_owned(), pick(&self.rows));
        for (i, accumulator) in self.accumulators.iter().enumerate() {
            add(format!("value{i}"), Arc::clone(batch.column(self.key_columns + i)));
            add(format!("count{i}"), pick(&accumulator.counts));
        }
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    /// Puts back what [`Self::save`] gave into empty state: everything, and then what changed, in order.
    pub(crate) fn load(&mut self, saved: &[RecordBatch]) -> Result<(), Error> {
        for saved in saved {
            let expected = self.key_columns + 1 + 2 * self.accumulators.len();
            if saved.num_columns() != expected {
                return Err(Error::Internal("a saved state does not fit its pipeline".to_owned()));
            }
            let slots = self.locate(saved)?;
            let counts = |column: usize| saved.column(column).as_primitive::<Int64Type>();
            for (slot, rows) in slots.iter().zip(counts(self.key_columns).values()) {
                self.rows[*slot as usize] = *rows;
            }
            for (i, accumulator) in self.accumulators.iter_mut().enumerate() {
                let at = self.key_columns + 1 + 2 * i;
                accumulator.load(saved.column(at), counts(at + 1), &slots)?;
            }
            self.bury(&slots)?;
        }
        self.is_saved = true;
        Ok(())
    }
}

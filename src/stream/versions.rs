//! Two versions of a table side by side: which rows came, went and changed, and what the columns add up to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, DecimalType, Float64Type, Int64Type},
};

use super::{
    Error,
    cells::{cells, named, shown},
};

/// Columns whose values keep sums apart: no total mixes them.
const APART: [&str; 3] = ["account", "livemode", "currency"];

/// What happened to a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// Only the later version has its key.
    Added,
    /// Only the earlier version has its key.
    Removed,
    /// Both have its key, with other values.
    Changed,
}

/// Two versions, compared by key over the columns that both have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versions {
    /// Rows before and after.
    pub rows: (usize, usize),
    /// Columns that only the earlier version has, and those that only the later one has.
    pub columns: (Vec<String>, Vec<String>),
    /// Rows that differ, in words, in the order of their keys.
    pub differences: Vec<(Fate, String)>,
    /// Sums of numeric columns, apart by account, mode and currency: place, column, before, after.
    pub totals: Vec<Total>,
}

/// The sum of a column in both versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Total {
    /// Account, mode and currency, as far as the table has them.
    pub of: String,
    /// The column.
    pub column: String,
    /// In the earlier version.
    pub before: Option<String>,
    /// In the later one.
    pub after: Option<String>,
}

/// Compares two versions whose rows `key` identifies.
///
/// # Errors
/// When a version has two rows of one key, or a sum overflows.
pub fn compare(before: &RecordBatch, after: &RecordBatch, key: &[String]) -> Result<Versions, Error> {
    let (old, new) = (before.schema(), after.schema());
    let only = |of: &arrow::datatypes::Schema, not_in: &arrow::datatypes::Schema| -> Vec<String> {
        of.fields().iter().map(|f| f.name().clone()).filter(|name| not_in.index_of(name).is_err()).collect()
    };
    let shared: Vec<&str> =
        new.fields().iter().map(|field| field.name().as_str()).filter(|name| old.index_of(name).is_ok()).collect();
    let key: Vec<usize> = (0..shared.len()).filter(|i| key.iter().any(|name| name == shared[*i])).collect();
    let (old_rows, new_rows) = (cells(before, &shared)?, cells(after, &shared)?);
    let of_key = |row: &[Option<String>]| key.iter().map(|i| row[*i].clone()).collect::<Vec<_>>();
    let mut known: HashMap<Vec<Option<String>>, &Vec<Option<String>>> = HashMap::with_capacity(old_rows.len());
    for row in &old_rows {
        if known.insert(of_key(row), row).is_some() {
            return Err(Error::Grain("the version before".to_owned()));
        }
    }
    let all: Vec<usize> = (0..shared.len()).collect();
    let mut seen = BTreeSet::new();
    let mut differences = Vec::new();
    for row in &new_rows {
        let key_of_row = of_key(row);
        match known.remove(&key_of_row) {
            None if seen.contains(&key_of_row) => return Err(Error::Grain("the version after".to_owned())),
            None => differences.push((key_of_row.clone(), Fate::Added, named(&shared, row, &all))),
            Some(old) if old == row => {}
            Some(old) => {
                let cells = all.iter().filter(|i| old[**i] != row[**i]);
                let cells: Vec<String> =
                    cells.map(|i| format!("{} {} → {}", shared[*i], shown(&old[*i]), shown(&row[*i]))).collect();
                let text = format!("{}: {}", named(&shared, row, &key), cells.join(", "));
                differences.push((key_of_row.clone(), Fate::Changed, text));
            }
        }
        seen.insert(key_of_row);
    }
    let gone = known.into_iter().map(|(key, row)| (key, Fate::Removed, named(&shared, row, &all)));
    differences.extend(gone);
    differences.sort();
    let (old_sums, new_sums) = (sums(before)?, sums(after)?);
    let places: BTreeSet<&(String, String)> = old_sums.keys().chain(new_sums.keys()).collect();
    let totals = places.into_iter().map(|place| Total {
        of: place.0.clone(),
        column: place.1.clone(),
        before: old_sums.get(place).cloned(),
        after: new_sums.get(place).cloned(),
    });
    Ok(Versions {
        rows: (old_rows.len(), new_rows.len()),
        columns: (only(&old, &new), only(&new, &old)),
        differences: differences.into_iter().map(|(_, fate, text)| (fate, text)).collect(),
        totals: totals.collect(),
    })
}

/// The sum of every numeric column, by what keeps sums apart and the column's name.
///
/// # Errors
/// When one overflows.
pub fn sums(batch: &RecordBatch) -> Result<BTreeMap<(String, String), String>, Error> {
    let schema = batch.schema();
    let apart: Vec<&str> = APART.into_iter().filter(|name| schema.index_of(name).is_ok()).collect();
    let places: Vec<String> = cells(batch, &apart)?
        .iter()
        .map(|row| {
            let word = |(name, cell): (&&str, &Option<String>)| match (*name, shown(cell)) {
                ("livemode", "true") => "live".to_owned(),
                ("livemode", _) => "test".to_owned(),
                (_, text) => text.to_owned(),
            };
            apart.iter().zip(row).map(word).collect::<Vec<_>>().join(" ")
        })
        .collect();
    let mut sums = BTreeMap::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let of = |row: usize| (places[row].clone(), field.name().clone());
        let rows = (0..column.len()).filter(|row| column.is_valid(*row));
        let overflow = || Error::Overflow(field.name().clone());
        let mut exact: BTreeMap<(String, String), i128> = BTreeMap::new();
        match field.data_type() {
            DataType::Decimal128(_, scale) => {
                let values = column.as_primitive::<Decimal128Type>();
                for row in rows {
                    let sum = exact.entry(of(row)).or_default();
                    *sum = sum.checked_add(values.value(row)).ok_or_else(overflow)?;
                }
                for (place, sum) in exact {
                    // A sum can be longer than its column.
                    let text = Decimal128Type::format_decimal(sum, DECIMAL128_MAX_PRECISION, *scale);
                    let short =
                        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
                    sums.insert(place, short.to_owned());
                }
            }
            DataType::Int64 => {
                let values = column.as_primitive::<Int64Type>();
                for row in rows {
                    *exact.entry(of(row)).or_default() += i128::from(values.value(row));
                }
                sums.extend(exact.into_iter().map(|(place, sum)| (place, sum.to_string())));
            }
            DataType::Float64 => {
                let values = column.as_primitive::<Float64Type>();
                let mut floats: BTreeMap<(String, String), f64> = BTreeMap::new();
                for row in rows {
                    *floats.entry(of(row)).or_default() += values.value(row);
                }
                sums.extend(floats.into_iter().map(|(place, sum)| (place, format!("{sum:.6}"))));
            }
            _ => {}
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, BooleanArray, Decimal128Array, Int64Array, StringArray},
        datatypes::{Field, Schema},
    };

    use super::*;

    fn table(rows: &[(&str, &str, i128, i64)]) -> RecordBatch {
        let fields = vec![
            Field::new("livemode", DataType::Boolean, false),
            Field::new("id", DataType::Utf8, false),
            Field::new("currency", DataType::Utf8, false),
            Field::new("mrr", DataType::Decimal128(28, 6), false),
            Field::new("n", DataType::Int64, false),
        ];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(BooleanArray::from(vec![true; rows.len()])),
            Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| Some(row.1)).collect::<StringArray>()),
            Arc::new(
                Decimal128Array::from_iter_values(rows.iter().map(|row| row.2))
                    .with_precision_and_scale(28, 6)
                    .unwrap(),
            ),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3))),
        ];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    #[test]
    fn rows_are_told_apart_by_key_and_totals_by_currency() {
        let before = table(&[("a", "usd", 1_500_000, 1), ("b", "usd", 2_000_000, 2), ("c", "eur", 5_000_000, 3)]);
        let after = table(&[("c", "eur", 5_000_000, 3), ("b", "usd", 2_250_000, 2), ("d", "usd", -250_000, 7)]);
        let versions = compare(&before, &after, &["livemode".to_owned(), "id".to_owned()]).unwrap();
        assert_eq!(versions.rows, (3, 3));
        let differences: Vec<(Fate, &str)> = versions.differences.iter().map(|(f, text)| (*f, text.as_str())).collect();
        assert_eq!(
            differences,
            [
                (Fate::Removed, "livemode = true, id = a, currency = usd, mrr = 1.5, n = 1"),
                (Fate::Changed, "livemode = true, id = b: mrr 2 → 2.25"),
                (Fate::Added, "livemode = true, id = d, currency = usd, mrr = -0.25, n = 7"),
            ]
        );
        let total = |of: &str, column: &str| {
            let total = versions.totals.iter().find(|total| total.of == of && total.column == column).unwrap();
            (total.before.clone().unwrap(), total.after.clone().unwrap())
        };
        assert_eq!(total("live usd", "mrr"), ("3.5".to_owned(), "2".to_owned()));
        assert_eq!(total("live usd", "n"), ("3".to_owned(), "9".to_owned()));
        assert_eq!(total("live eur", "mrr"), ("5".to_owned(), "5".to_owned()));
        assert!(compare(&table(&[("a", "usd", 1, 1), ("a", "usd", 2, 1)]), &after, &["id".to_owned()]).is_err());
    }
}

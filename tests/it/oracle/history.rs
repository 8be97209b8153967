//! Small relations and the facts that make them: rows of an appended table, and versions of the rows of keyed ones.
//! What the relations hold does not depend on the order in which facts arrive, nor on how often.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, RecordBatch, new_empty_array},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use chrono::NaiveDate;
use chrono_tz::Tz;
use datafusion::common::ScalarValue;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tributary::stream::{
    Relation,
    epoch::{Completeness, EpochEnd},
    pipeline::RowDelta,
};

/// Facts of a history.
const FACTS: usize = 180;
const CLOCK: &str = "log_clock";
const HALF_HOUR: i64 = 1_800_000_000;

/// In whose calendar schedules run.
pub(super) const ZONE: Tz = Tz::Europe__Berlin;

/// Days around which clocks change somewhere: New York and Havana, Berlin and Beirut, Cairo; and their way back.
const CHANGES: [(u32, u32, i64); 5] = [(3, 9, 4), (3, 29, 5), (4, 24, 4), (10, 25, 4), (11, 1, 4)];

type Row = Vec<ScalarValue>;

/// A row of an appended table, or what a row of a keyed table is from a version on.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    version: usize,
    table: &'static str,
    key: Vec<String>,
    row: Option<Row>,
    at: i64,
}

/// How facts arrive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Another number, another order.
    pub(super) order: u64,
    /// How many facts may overtake one; `usize::MAX` is any permutation.
    pub(super) lateness: usize,
    /// The share of facts that come twice.
    pub(super) duplicates: f64,
    pub(super) epochs: usize,
    /// State is written down and read back after every so many epochs.
    pub(super) restore_every: Option<usize>,
    /// After every so many epochs all is lost that came since the last checkpoint, and comes again in other epochs.
    pub(super) crash_every: Option<usize>,
}

impl Arrival {
    pub(super) fn restores(self, epoch: usize) -> bool {
        self.restore_every.is_some_and(|every| epoch % every == every - 1)
    }

    pub(super) fn crashes(self, epoch: usize) -> bool {
        self.crash_every.is_some_and(|every| epoch % every == every - 1)
    }

    /// Whether a checkpoint is taken after an epoch: mostly, but not always where something is to be lost.
    pub(super) fn is_saved(self, epoch: usize) -> bool {
        self.crash_every.is_none() || epoch.is_multiple_of(5)
    }

    /// The facts of `seed`, cut into epochs of any size; some are empty.
    pub(super) fn epochs(self, seed: u64) -> Vec<Vec<Fact>> {
        let facts = facts(seed);
        let mut random = StdRng::seed_from_u64(self.order * 1_000 + seed);
        let mut arriving: Vec<(usize, Fact)> = Vec::new();
        for (place, fact) in facts.into_iter().enumerate() {
            let late = random.random_range(0..=self.lateness.min(FACTS));
            if random.random_bool(self.duplicates) {
                arriving.push((place + late + random.random_range(0..FACTS / 2), fact.clone()));
            }
            arriving.push((place + late, fact));
        }
        arriving.sort_by_key(|(place, _)| *place);
        cut(arriving.into_iter().map(|(_, fact)| fact).collect(), self.epochs, &mut random)
    }

    /// Facts that were lost after an epoch, as they come again.
    pub(super) fn again(self, lost: Vec<Fact>, epoch: usize) -> Vec<Vec<Fact>> {
        let mut random = StdRng::seed_from_u64(self.order * 1_000_000 + epoch as u64);
        let epochs = random.random_range(1..4);
        cut(lost, epochs, &mut random)
    }
}

/// Facts in so many epochs of any size; some are empty.
fn cut(mut facts: Vec<Fact>, epochs: usize, random: &mut StdRng) -> Vec<Vec<Fact>> {
    let mut cuts: Vec<usize> = (1..epochs).map(|_| random.random_range(0..facts.len().max(1))).collect();
    cuts.sort_unstable();
    let mut cut_off = Vec::with_capacity(epochs);
    for cut in cuts.into_iter().rev() {
        cut_off.push(facts.split_off(cut.min(facts.len())));
    }
    cut_off.push(facts);
    cut_off.reverse();
    cut_off
}

/// The facts of `seed` in the order of their instants, cut into epochs of one size.
pub(super) fn orderly(seed: u64, epochs: usize) -> Vec<Vec<Fact>> {
    let mut facts = facts(seed);
    facts.sort_by_key(|fact| fact.at);
    facts.chunks(FACTS.div_ceil(epochs)).map(<[Fact]>::to_vec).collect()
}

fn facts(seed: u64) -> Vec<Fact> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut known: BTreeSet<Vec<String>> = BTreeSet::new();
    (0..FACTS)
        .map(|version| {
            let random = &mut random;
            let at = instant(random);
            let account = *["acct_a", "acct_a", "acct_b"].choose(random).unwrap();
            let live = random.random_bool(0.8);
            let text = |text: &str| ScalarValue::from(text);
            let scope = [text(account), ScalarValue::from(live)];
            let customer = text(&format!("c{}", random.random_range(0..6)));
            let (table, name, columns) = match random.random_range(0..100) {
                0..60 => {
                    let kind = ["charge", "refund", "fee"].choose(random).filter(|_| random.random_bool(0.8));
                    let name = format!("p{version}");
                    let columns = vec![
                        text(&name),
                        timestamp(Some(at)),
                        customer,
                        ScalarValue::Utf8(kind.map(|kind| (*kind).to_owned())),
                        text(["usd", "eur", "jpy"].choose(random).unwrap()),
                        decimal(maybe(random, |random| random.random_range(-10..60) * 1_234_567)),
                        ScalarValue::Int64(maybe(random, |random| random.random_range(-1..4))),
                        ScalarValue::Float64(maybe(random, |random| f64::from(random.random_range(-90..90)) / 7.0)),
                        reading(version),
                    ];
                    ("payments", name, columns)
                }
                60..85 => {
                    let name = format!("s{}", random.random_range(0..14));
                    let until = random.random_bool(0.3).then(|| at + random.random_range(1..90) * 48 * HALF_HOUR);
                    let columns = vec![
                        text(&name),
                        customer,
                        text(["free", "pro", "team"].choose(random).unwrap()),
                        timestamp(Some(at)),
                        timestamp(until),
                        ScalarValue::Int64(maybe(random, |random| random.random_range(1..5))),
                        decimal(Some(random.random_range(0..5) * 9_990_000)),
                        ScalarValue::Float64(Some(f64::from(random.random_range(1..50)) / 3.0)),
                        reading(version),
                    ];
                    ("subscriptions", name, columns)
                }
                _ => {
                    let name = (*["free", "pro", "team"].choose(random).unwrap()).to_owned();
                    let tier = ["small", "large"].choose(random).filter(|_| random.random_bool(0.8));
                    let columns = vec![
                        text(&name),
                        ScalarValue::Utf8(tier.map(|tier| (*tier).to_owned())),
                        decimal(Some(random.random_range(0..4) * 12_000_000)),
                    ];
                    ("plans", name, columns)
                }
            };
            let key = vec![account.to_owned(), live.to_string(), name];
            // A subscription keeps its account and mode; gone, it can come back.
            let deleted = table != "payments" && known.contains(&key) && random.random_bool(0.2);
            known.insert(key.clone());
            let row = (!deleted).then(|| scope.into_iter().chain(columns).collect());
            Fact { version, table, key, row, at }
        })
        .collect()
}

/// Beside the first of these others are lost in a sum, and from the rest there is no way back. What is huge is never
/// below zero: with two that cancel out, a sum would hang on the order of its rows.
fn reading(version: usize) -> ScalarValue {
    let reading = match version % 20 {
        4 => 1e16,
        9 => f64::INFINITY,
        14 => f64::NAN,
        19 => f64::NEG_INFINITY,
        small => small as f64 / 8.0,
    };
    ScalarValue::from(reading)
}

fn maybe<T>(random: &mut StdRng, value: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    random.random_bool(0.85).then(|| value(random))
}

/// A half-hour of 2024, most often one near which clocks change.
fn instant(random: &mut StdRng) -> i64 {
    let day = |month, day| NaiveDate::from_ymd_opt(2024, month, day).unwrap().and_hms_opt(0, 0, 0).unwrap();
    let (month, first, days) = *CHANGES.choose(random).unwrap();
    let (begin, days) = if random.random_bool(0.6) { (day(month, first), days) } else { (day(1, 1), 365) };
    begin.and_utc().timestamp_micros() + random.random_range(0..days * 48) * HALF_HOUR
}

fn timestamp(micros: Option<i64>) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(micros, Some("UTC".into()))
}

fn decimal(micros: Option<i64>) -> ScalarValue {
    ScalarValue::Decimal128(micros.map(i128::from), 28, 6)
}

fn schema(table: &str) -> SchemaRef {
    let instant = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let money = DataType::Decimal128(28, 6);
    let columns: Vec<(&str, DataType, bool)> = match table {
        "payments" => vec![
            ("id", DataType::Utf8, false),
            ("at", instant(), false),
            ("customer", DataType::Utf8, false),
            ("kind", DataType::Utf8, true),
            ("currency", DataType::Utf8, false),
            ("amount", money, true),
            ("units", DataType::Int64, true),
            ("score", DataType::Float64, true),
            ("reading", DataType::Float64, false),
        ],
        "subscriptions" => vec![
            ("id", DataType::Utf8, false),
            ("customer", DataType::Utf8, false),
            ("plan", DataType::Utf8, false),
            ("since", instant(), false),
            ("until", instant(), true),
            ("seats", DataType::Int64, true),
            ("price", money, false),
            ("weight", DataType::Float64, false),
            ("reading", DataType::Float64, false),
        ],
        "plans" => vec![("plan", DataType::Utf8, false), ("tier", DataType::Utf8, true), ("list", money, false)],
        _ => vec![("last_event_at", instant(), false)],
    };
    let scope = [("account", DataType::Utf8, false), ("livemode", DataType::Boolean, false)];
    Arc::new(Schema::new(
        scope.into_iter().chain(columns).map(|(n, t, null)| Field::new(n, t, null)).collect::<Vec<_>>(),
    ))
}

fn batch<'a>(table: &str, rows: impl Iterator<Item = &'a Row>) -> RecordBatch {
    let (schema, rows) = (schema(table), rows.collect::<Vec<_>>());
    let columns = schema.fields().iter().enumerate().map(|(i, field)| -> ArrayRef {
        match rows.as_slice() {
            [] => new_empty_array(field.data_type()),
            rows => ScalarValue::iter_to_array(rows.iter().map(|row| row[i].clone())).unwrap(),
        }
    });
    let columns = columns.collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

/// What queries are planned over.
pub(super) fn relations() -> BTreeMap<String, Relation> {
    [("payments", true, false), ("subscriptions", false, false), ("plans", false, false), (CLOCK, false, true)]
        .into_iter()
        .map(|(name, appended, small)| (name.to_owned(), Relation { schema: schema(name), appended, small }))
        .collect()
}

/// By key: which fact spoke last, and the row it left.
type Versions = BTreeMap<Vec<String>, (usize, Option<Row>)>;

/// The relations as they are now.
#[derive(Clone, Default)]
pub(super) struct Relations {
    /// By table and key: the newest version that has arrived.
    rows: BTreeMap<&'static str, Versions>,
    clock: BTreeMap<(String, String), Row>,
}

impl Relations {
    /// What the facts change.
    pub(super) fn apply(&mut self, facts: &[Fact]) -> BTreeMap<String, RowDelta> {
        let mut before: BTreeMap<&str, BTreeMap<Vec<String>, Option<Row>>> = BTreeMap::new();
        let clock_before = self.clock();
        for fact in facts {
            let held = self.rows.entry(fact.table).or_default().entry(fact.key.clone()).or_insert((0, None));
            before.entry(fact.table).or_default().entry(fact.key.clone()).or_insert_with(|| held.1.clone());
            if fact.version >= held.0 {
                *held = (fact.version, fact.row.clone());
            }
            let place = (fact.key[0].clone(), fact.key[1].clone());
            let scope = vec![ScalarValue::from(place.0.as_str()), ScalarValue::from(place.1 == "true")];
            let newest = self.clock.entry(place).or_insert_with(|| [scope, vec![timestamp(Some(fact.at))]].concat());
            if newest[2] < timestamp(Some(fact.at)) {
                newest[2] = timestamp(Some(fact.at));
            }
        }
        let mut deltas = BTreeMap::new();
        for (table, keys) in before {
            let now = |key: &Vec<String>| self.rows[table][key].1.as_ref();
            let changed: Vec<_> = keys.iter().filter(|(key, old)| old.as_ref() != now(key)).collect();
            let removed = batch(table, changed.iter().filter_map(|(_, old)| old.as_ref()));
            let added = batch(table, changed.iter().filter_map(|(key, _)| now(key)));
            deltas.insert(table.to_owned(), RowDelta { removed, added });
        }
        deltas.insert(CLOCK.to_owned(), RowDelta { removed: clock_before, added: self.clock() });
        deltas.retain(|_, delta| !delta.is_empty() && delta.removed != delta.added);
        deltas
    }

    fn clock(&self) -> RecordBatch {
        batch(CLOCK, self.clock.values())
    }

    /// The end of an epoch, when late facts are waited for so many days.
    pub(super) fn end(&self, lateness_days: i64) -> EpochEnd {
        let mut complete = Completeness::default();
        for ((account, mode), at) in self.complete(lateness_days) {
            complete.advance(&account, mode == "true", at);
        }
        let clock = self.newest().map(|newest| (newest, ZONE));
        EpochEnd { small: BTreeMap::from([(CLOCK.to_owned(), self.clock())]), complete, clock }
    }

    /// The greatest instant of any fact.
    pub(super) fn newest(&self) -> Option<i64> {
        self.complete(0).into_values().max()
    }

    /// By account and mode: up to when windows have closed.
    pub(super) fn complete(&self, lateness_days: i64) -> BTreeMap<(String, String), i64> {
        let last = |row: &Row| match row[2] {
            ScalarValue::TimestampMicrosecond(Some(at), _) => at,
            _ => unreachable!("a clock has an instant"),
        };
        self.clock.iter().map(|(place, row)| (place.clone(), last(row) - lateness_days * 48 * HALF_HOUR)).collect()
    }

    pub(super) fn tables(&self) -> BTreeMap<String, RecordBatch> {
        let rows = |table| self.rows.get(table).into_iter().flatten().filter_map(|(_, (_, row))| row.as_ref());
        let mut tables = self.end(0).small;
        for table in ["payments", "subscriptions", "plans"] {
            tables.insert(table.to_owned(), batch(table, rows(table)));
        }
        tables
    }
}

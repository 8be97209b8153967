//! The contract of the windowed core: after every epoch a pipeline's output is what the same SQL says in batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{Int64Array, RecordBatch},
    compute::{cast, concat_batches},
    datatypes::SchemaRef,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{datasource::MemTable, prelude::SessionContext};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tributary::{
    engine,
    ledger::rows::{
        BillingEvent, Cause, ItemState, LedgerEntry, Measure, MeteredUsage, Movement, MovementKind, OutlookEntry,
    },
    money::{Amount, Currency, Rational},
    stream::{
        self,
        epoch::EpochEnd,
        file::PipelineFile,
        graph::plan_all,
        pipeline::{Pipeline, RowDelta},
    },
    stripe::types::{Interval, Scope},
    tables::rows,
    time::EventTime,
};

use crate::{oracle::Checkpoint, pipelines_items::Items};

const START: i64 = 1_704_067_200;

/// Days over which the histories spread: more than a year, so that there is a year before.
const DAYS: i64 = 420;

/// Epochs of a history.
const EPOCHS: usize = 12;

/// The relations that queries read, as they are now.
pub(crate) struct World {
    random: StdRng,
    movements: BTreeMap<String, Movement>,
    items: Items,
    entries: Vec<LedgerEntry>,
    outlook: Vec<OutlookEntry>,
    billing: Vec<BillingEvent>,
    usage: Vec<MeteredUsage>,
    states: Vec<ItemState>,
    next: u64,
    newest: BTreeMap<Scope, EventTime>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self {
            random,
            movements: BTreeMap::new(),
            items: Items::new(START),
            entries: Vec::new(),
            outlook: Vec::new(),
            billing: Vec::new(),
            usage: Vec::new(),
            states: Vec::new(),
            next: 0,
            newest: BTreeMap::new(),
        }
    }

    /// A world after some epochs.
    fn after(seed: u64, turns: &[Option<u64>]) -> Self {
        let mut world = Self::new(seed);
        turns.iter().for_each(|turn| drop(world.epoch_after(*turn)));
        world
    }

    /// An epoch that goes on as the world does, or from here on otherwise than it did.
    fn epoch_after(&mut self, turn: Option<u64>) -> BTreeMap<String, RowDelta> {
        if let Some(other) = turn {
            self.random = StdRng::seed_from_u64(other);
        }
        self.epoch()
    }

    fn scope(&mut self) -> Scope {
        let account = ["acct_a", "acct_b"][self.random.random_range(0..2)];
        Scope { account: account.into(), livemode: self.random.random_bool(0.8) }
    }

    /// One of few instants of a day, so that some are shared.
    fn at(&mut self) -> EventTime {
        EventTime::from_seconds(
            START + self.random.random_range(0..DAYS) * 86_400 + self.random.random_range(0..3) * 40_000,
        )
    }

    fn currency(&mut self) -> Currency {
        ["usd", "eur", "jpy"][self.random.random_range(0..3)].parse().unwrap()
    }

    fn entry(&mut self) -> LedgerEntry {
        self.next += 1;
        let number = self.random.random_range(0..4);
        let at = self.at();
        let delta = Amount::from_micros(self.random.random_range(-3..4_i128) * 1_234_567);
        LedgerEntry {
            scope: self.scope(),
            entry_id: format!("ent_{}", self.next).as_str().into(),
            event_time: at,
            known_at: at,
            reverses_entry_id: None,
            customer_id: "cus_1".into(),
            subscription_id: "sub_1".into(),
            subscription_item_id: "si_1".into(),
            price_id: format!("price_{number}").as_str().into(),
            product_id: self.random.random_bool(0.7).then(|| format!("prod_{number}").as_str().into()),
            currency: self.currency(),
            change: "change".into(),
            cause: Cause::QuantityChange,
            causes: vec![Cause::QuantityChange],
            interval: Interval::Month,
            interval_count: 1,
            list_delta: delta,
            discount_delta: Amount::ZERO,
            mrr_delta: delta,
            quantity_delta: Rational::from_integer(self.random.random_range(-1..2).into()),
            event_ids: vec!["evt_1".into()],
        }
    }

    fn outlook(&mut self) -> OutlookEntry {
        let measure = if self.random.random_bool(0.8) { Measure::Trial } else { Measure::CancelScheduled };
        let causes =
            [Cause::TrialConverted, Cause::Canceled, Cause::PaymentFailure, Cause::Pause, Cause::QuantityChange];
        let entry = LedgerEntry {
            reverses_entry_id: self.random.random_bool(0.2).then(|| "ent_0".into()),
            subscription_id: format!("sub_{}", self.random.random_range(0..10)).as_str().into(),
            change: ["start", "end", "change", "imported"][self.random.random_range(0..4)].into(),
            cause: causes[self.random.random_range(0..causes.len())],
            ..self.entry()
        };
        OutlookEntry { measure, entry }
    }

    fn movement(&mut self, id: String, revision: i64) -> Movement {
        let cents = |random: &mut StdRng| Amount::from_micros(random.random_range(0..3_i128) * 12_345_678);
        let (mrr_before, mrr_after) = (cents(&mut self.random), cents(&mut self.random));
        let kinds = [
            MovementKind::Imported,
            MovementKind::New,
            MovementKind::Reactivation,
            MovementKind::Expansion,
            MovementKind::Contraction,
            MovementKind::Churn,
        ];
        let causes = [Cause::PaymentFailure, Cause::Canceled, Cause::Pause, Cause::QuantityChange];
        let cause = causes[self.random.random_range(0..causes.len())];
        Movement {
            scope: self.scope(),
            movement_id: id.into(),
            revision,
            occurred_at: self.at(),
            customer_id: format!("cus_{}", self.random.random_range(0..12)).as_str().into(),
            currency: self.currency(),
            kind: kinds[self.random.random_range(0..kinds.len())],
            cause,
            causes: vec![cause],
            mrr_before,
            mrr_after,
            mrr_delta: mrr_after.checked_sub(mrr_before).unwrap(),
            event_ids: vec!["evt_1".into()],
        }
    }

    /// Some rows come, change and go; what that is to each relation.
    fn epoch(&mut self) -> BTreeMap<String, RowDelta> {
        let (mut removed, mut added, mut billed) = (Vec::new(), Vec::new(), Vec::new());
        let mut touched = BTreeSet::new();
        for _ in 0..self.random.random_range(0..30) {
            let ids: Vec<String> = self.movements.keys().cloned().collect();
            let known = (!ids.is_empty()).then(|| ids[self.random.random_range(0..ids.len())].clone());
            match (self.random.random_range(0..10), known) {
                (0..=4, _) | (_, None) => {
                    self.next += 1;
                    let id = format!("mov_{}", self.next);
                    let movement = self.movement(id.clone(), 1);
                    touched.insert(id.clone());
                    added.push(movement.clone());
                    self.movements.insert(id, movement);
                }
                (5..=6, Some(id)) if touched.insert(id.clone()) => {
                    let old = self.movements.remove(&id).unwrap();
                    // The key is the scope and the id: a movement never changes its scope.
                    let mut new = self.movement(id.clone(), old.revision + 1);
                    new.scope = old.scope.clone();
                    removed.push(old);
                    added.push(new.clone());
                    self.movements.insert(id, new);
                }
                (7, Some(id)) if touched.insert(id.clone()) => removed.extend(self.movements.remove(&id)),
                _ => billed.push(self.bill()),
            }
        }
        let entries = self.items.epoch(&mut self.random);
        let outlook: Vec<OutlookEntry> = (0..self.random.random_range(0..9)).map(|_| self.outlook()).collect();
        let before = self.clock();
        for (scope, at) in added
            .iter()
            .map(|m: &Movement| (&m.scope, m.occurred_at))
            .chain(billed.iter().map(|b: &BillingEvent| (&b.scope, b.occurred_at)))
            .chain(entries.iter().chain(outlook.iter().map(|o| &o.entry)).map(|e| (&e.scope, e.event_time)))
        {
            let newest = self.newest.entry(scope.clone()).or_insert(at);
            *newest = (*newest).max(at);
        }
        let after = self.clock();
        self.billing.extend(billed.iter().cloned());
        let movements =
            RowDelta { removed: rows::mrr_movements(&removed).unwrap(), added: rows::mrr_movements(&added).unwrap() };
        let used: Vec<MeteredUsage> = (0..self.random.random_range(0..4)).map(|_| self.used()).collect();
        let states: Vec<ItemState> = (0..self.random.random_range(0..3)).map(|_| self.state()).collect();
        self.usage.extend(used.iter().cloned());
        self.states.extend(states.iter().cloned());
        self.entries.extend(entries.iter().cloned());
        self.outlook.extend(outlook.iter().cloned());
        let appended = |rows: RecordBatch| RowDelta { removed: RecordBatch::new_empty(rows.schema()), added: rows };
        BTreeMap::from([
            ("metered_usage".to_owned(), appended(rows::metered_usage(&used).unwrap())),
            ("item_states".to_owned(), appended(rows::item_states(&states).unwrap())),
            ("mrr_movements".to_owned(), movements),
            ("mrr_ledger".to_owned(), appended(rows::mrr_ledger(&entries).unwrap())),
            ("outlook_ledger".to_owned(), appended(rows::outlook_ledger(&outlook).unwrap())),
            ("billing_events".to_owned(), appended(rows::billing_events(&billed).unwrap())),
            ("log_clock".to_owned(), RowDelta { removed: before, added: after }),
        ])
    }

    pub(crate) fn bill(&mut self) -> BillingEvent {
        self.next += 1;
        let kinds = [
            "payment_succeeded",
            "payment_failed",
            "refund",
            "dispute",
            "invoice_finalized",
            "invoice_voided",
            "invoice_uncollectible",
        ];
        let at = self.at();
        let objects = if self.random.random_bool(0.9) { "in" } else { "ch" };
        BillingEvent {
            scope: self.scope(),
            event_id: format!("evt_{}", self.next).as_str().into(),
            occurred_at: at,
            known_at: at,
            customer_id: format!("cus_{}", self.random.random_range(0..12)).as_str().into(),
            kind: kinds[self.random.random_range(0..kinds.len())].into(),
            object_id: format!("{objects}_{}", self.random.random_range(0..30)).as_str().into(),
            currency: self.random.random_bool(0.8).then(|| self.currency()),
            amount: self
                .random
                .random_bool(0.7)
                .then(|| Amount::from_micros(self.random.random_range(1..9) * 5_000_000)),
            attempt_count: self.random.random_bool(0.7).then(|| self.random.random_range(1..5)),
            failure_code: self.random.random_bool(0.2).then(|| "card_declined".into()),
        }
    }

    /// A closed period of one of a few items; periods of one item end together now and then, as tiers do.
    fn used(&mut self) -> MeteredUsage {
        self.next += 1;
        let end = EventTime::from_seconds(START + self.random.random_range(1..8) * 30 * 86_400);
        let amount = Amount::from_micros(self.random.random_range(0..100_i128) * 1_234_567);
        MeteredUsage {
            scope: self.scope(),
            invoice_id: "in_1".into(),
            line_id: format!("il_{}", self.next).into(),
            known_at: end,
            customer_id: "cus_1".into(),
            subscription_id: Some("sub_1".into()),
            subscription_item_id: self
                .random
                .random_bool(0.9)
                .then(|| format!("si_{}", self.random.random_range(0..5)).as_str().into()),
            price_id: "price_1".into(),
            product_id: None,
            currency: "usd".parse().unwrap(),
            period_start: end.plus_days(-30),
            period_end: end,
            quantity: None,
            amount,
            monthly: amount,
            finalized_at: end,
            event_id: "evt_1".into(),
        }
    }

    /// A state of one of these items, in force or over, sometimes of an instant that has one.
    fn state(&mut self) -> ItemState {
        self.next += 1;
        let over = self.random.random_bool(0.4);
        let metered = self.random.random_bool(0.8).then_some("metered");
        let removed = self.random.random_bool(0.1).then_some("removed");
        ItemState {
            scope: self.scope(),
            valid_from: EventTime::from_seconds(START + self.random.random_range(1..8) * 30 * 86_400),
            known_at: EventTime::from_seconds(START),
            revision: u32::try_from(self.next).unwrap(),
            position: 0,
            customer_id: "cus_1".into(),
            subscription_id: "sub_1".into(),
            subscription_item_id: format!("si_{}", self.random.random_range(0..5)).as_str().into(),
            price_id: "price_1".into(),
            product_id: None,
            currency: None,
            status: if over { "canceled" } else { "active" }.into(),
            flags: metered.into_iter().chain(removed).map(Into::into).collect(),
            interval: None,
            interval_count: 1,
            quantity: None,
            list_amount: None,
            net_share: None,
            discounts: Vec::new(),
            trial_end: None,
            started_at: None,
            order_evidence: None,
            provenance: "event".into(),
            event_id: "evt_1".into(),
        }
    }

    fn clock(&self) -> RecordBatch {
        let clock: Vec<_> =
            self.newest.iter().map(|(scope, at)| (scope.clone(), EventTime::from_seconds(START), *at)).collect();
        rows::log_clock(&clock).unwrap()
    }

    fn end(&self) -> EpochEnd {
        EpochEnd { small: BTreeMap::from([("log_clock".to_owned(), self.clock())]), ..EpochEnd::default() }
    }

    fn relations(&self) -> BTreeMap<String, RecordBatch> {
        BTreeMap::from([
            ("mrr_movements".to_owned(), rows::mrr_movements(self.movements.values()).unwrap()),
            ("mrr_ledger".to_owned(), rows::mrr_ledger(&self.entries).unwrap()),
            ("outlook_ledger".to_owned(), rows::outlook_ledger(&self.outlook).unwrap()),
            ("billing_events".to_owned(), rows::billing_events(&self.billing).unwrap()),
            ("metered_usage".to_owned(), rows::metered_usage(&self.usage).unwrap()),
            ("item_states".to_owned(), rows::item_states(&self.states).unwrap()),
            ("log_clock".to_owned(), self.clock()),
        ])
    }
}

/// The SQL of every file in batch, by stock DataFusion; each in turn reads what those before it gave.
async fn batch(pipelines: &[Pipeline], relations: BTreeMap<String, RecordBatch>) -> BTreeMap<String, BTreeSet<String>> {
    let context = SessionContext::new();
    for function in stream::functions() {
        context.register_udf(function);
    }
    let register = |name: &str, rows: RecordBatch| {
        context.register_table(name, Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap())).unwrap();
    };
    for (name, rows) in relations {
        register(&name, rows);
    }
    let mut answers = BTreeMap::new();
    for pipeline in pipelines {
        let (file, schema) = (pipeline.file(), pipeline.schema());
        let parameters = file.parameters(&BTreeMap::new(), &BTreeMap::new()).unwrap();
        let query = context.sql(&file.text).await.unwrap().with_param_values(parameters).unwrap();
        let rows = query.collect().await.unwrap_or_else(|error| panic!("{}: {error}", pipeline.name()));
        let rows: Vec<RecordBatch> = rows.iter().map(|rows| conform(rows, schema)).collect();
        let rows = concat_batches(schema, &rows).unwrap();
        let answer: BTreeSet<String> = lines(&rows).into_iter().collect();
        assert_eq!(answer.len(), rows.num_rows(), "{} gave a row twice", pipeline.name());
        answers.insert(pipeline.name().to_owned(), answer);
        register(pipeline.name(), rows);
    }
    answers
}

fn conform(rows: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let columns = rows.columns().iter().zip(schema.fields()).map(|(c, f)| cast(c, f.data_type()).unwrap()).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

fn lines(rows: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let formatters: Vec<_> = rows.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    (0..rows.num_rows())
        .map(|row| formatters.iter().map(|f| f.value(row).to_string()).collect::<Vec<_>>().join(" | "))
        .collect()
}

/// Adds up what a pipeline emits.
fn add_up(output: &mut BTreeSet<String>, delta: &RowDelta) {
    for line in lines(&delta.removed) {
        assert!(output.remove(&line), "a row was removed that is not there: {line}");
    }
    for line in lines(&delta.added) {
        assert!(output.insert(line.clone()), "a row was added that is there: {line}");
    }
}

pub(crate) async fn plan(files: Vec<PipelineFile>) -> Vec<Pipeline> {
    plan_all(files, &engine::relations().unwrap(), &BTreeMap::new(), &BTreeMap::new()).await.unwrap()
}

fn shipped() -> Vec<PipelineFile> {
    PipelineFile::load_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")).unwrap()
}

pub(crate) fn file(name: &str, mode: &str, grain: &str, columns: &str, sql: &str) -> Result<PipelineFile, String> {
    let columns: String = columns.split(' ').map(|c| format!("  {c}: {{ description: c }}\n")).collect();
    let text = format!(
        "/*---\nname: {name}\ndescription: d\nowner: o\nmode: {mode}\ngrain: [account, livemode, {grain}]\n\
         time_column: account\ncolumns:\n{columns}---*/\n{sql}"
    );
    PipelineFile::parse(Path::new(&format!("{name}.sql")), text).map_err(|error| error.to_string())
}

/// What the pipelines have said so far.
type Outputs = BTreeMap<String, BTreeSet<String>>;

/// What epochs came to by the time of a checkpoint.
#[derive(Default)]
struct Durable {
    pipelines: Checkpoint,
    outputs: Outputs,
    turns: Vec<Option<u64>>,
}

/// Runs files over a random history and compares each epoch with batch; with `crashes`, the state is written down on
/// the way, everything or what changed, and now and then all that came since is lost, and something else comes.
async fn compare(files: Vec<PipelineFile>, seed: u64, crashes: bool) {
    let (mut world, mut turns, mut turn) = (World::new(seed), Vec::new(), None);
    let mut pipelines = plan(files.clone()).await;
    let (mut outputs, mut durable) = (Outputs::new(), Durable::default());
    let epochs = if crashes { 2 * EPOCHS } else { EPOCHS };
    for epoch in 0..epochs {
        turns.push(turn);
        let deltas = world.epoch_after(turn.take());
        let said = format!("epoch {epoch} of seed {seed}");
        follow(&mut pipelines, deltas, &world, &mut outputs, &said).await;
        if crashes && epoch % 4 == 0 {
            durable.pipelines.take(&mut pipelines, epoch % 8 == 0);
            (durable.outputs, durable.turns) = (outputs.clone(), turns.clone());
        }
        if crashes && epoch % 3 == 2 {
            (outputs, turns) = (durable.outputs.clone(), durable.turns.clone());
            (world, turn) = (World::after(seed, &turns), Some(epoch as u64));
            let mut fresh = plan(files.clone()).await;
            durable.pipelines.load(&mut fresh, &pipelines, &world.end()).await;
            pipelines = fresh;
        }
    }
    for (name, output) in outputs {
        assert!(!output.is_empty(), "the histories say nothing of {name}");
    }
}

/// Brings pipelines up to date with an epoch's changes, and compares each with batch.
async fn follow(
    pipelines: &mut [Pipeline],
    mut deltas: BTreeMap<String, RowDelta>,
    world: &World,
    outputs: &mut Outputs,
    said: &str,
) {
    let expected = batch(pipelines, world.relations()).await;
    for pipeline in pipelines {
        let delta = pipeline.advance(&deltas, &world.end()).await.unwrap();
        let output = outputs.entry(pipeline.name().to_owned()).or_default();
        add_up(output, &delta);
        assert_eq!(*output, expected[pipeline.name()], "{} after {said}", pipeline.name());
        deltas.insert(pipeline.name().to_owned(), delta);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shipped_pipeline_equals_batch_sql_after_every_epoch() {
    for seed in 0..3 {
        compare(shipped(), seed, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_pipeline_goes_on_as_if_nothing_had_come_since_its_checkpoint() {
    for seed in 10..11 {
        compare(shipped(), seed, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_of_an_item_add_up_to_its_rounded_mrr_and_reversals_leave_no_trace() {
    let file = shipped().into_iter().find(|file| file.metadata.name == "subscription_item_changes").unwrap();
    let mut world = World::new(30);
    let mut pipeline = plan(vec![file]).await.remove(0);
    let mut output = BTreeSet::new();
    for _ in 0..120 {
        let delta = pipeline.advance(&world.epoch(), &EpochEnd::default()).await.unwrap();
        add_up(&mut output, &delta);
    }
    let rows: Vec<Vec<&str>> = output.iter().map(|line| line.split(" | ").collect()).collect();
    let column = |name: &str| pipeline.schema().index_of(name).unwrap();
    // By item, price and currency: what the ledger's entries add up to, rounded, is what the changes add up to.
    let place = ["account", "subscription_item_id", "price_id", "currency"];
    let mut ledger: BTreeMap<Vec<String>, i128> = BTreeMap::new();
    for entry in &world.entries {
        let (account, item) = (entry.scope.account.as_str(), entry.subscription_item_id.as_str());
        let key = [account, item, entry.price_id.as_str(), entry.currency.as_str()].map(str::to_owned).to_vec();
        *ledger.entry(key).or_default() += entry.mrr_delta.micros();
    }
    let mut changes: BTreeMap<Vec<String>, i128> = BTreeMap::new();
    let mut active: BTreeMap<Vec<String>, i64> = BTreeMap::new();
    for row in &rows {
        let key: Vec<String> = place.iter().map(|name| row[column(name)].to_owned()).collect();
        *changes.entry(key.clone()).or_default() += row[column("mrr_change")].parse::<i128>().unwrap();
        *active.entry(key).or_default() += match row[column("event_type")] {
            "ACTIVE_START" => 1,
            "ACTIVE_END" => -1,
            "ACTIVE_UPGRADE" | "ACTIVE_DOWNGRADE" => 0,
            other => panic!("{other} is no type of Stripe's"),
        };
    }
    assert!(active.values().all(|count| [0, 1].contains(count)), "{active:?}");
    for (key, micros) in &ledger {
        let unit = match key[3].as_str() {
            "jpy" => 1_000_000,
            "kwd" => 1_000,
            _ => 10_000,
        };
        // No amount of these histories lies on a tie.
        let rounded = (2 * micros + unit).div_euclid(2 * unit);
        assert_eq!(changes.get(key).copied().unwrap_or(0), rounded, "{key:?}");
    }
    let taken_back = world.entries.iter().filter(|entry| entry.reverses_entry_id.is_some()).count();
    assert!(taken_back > 50 && rows.len() + 2 * taken_back <= world.entries.len(), "{} {taken_back}", rows.len());
    assert!(rows.iter().any(|row| row[column("event_type")] == "ACTIVE_UPGRADE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_of_every_maintained_shape_equal_batch_sql() {
    let files = [
        file(
            "filtered",
            "append",
            "event_id",
            "event_id occurred_at kind",
            "SELECT account, livemode, event_id, occurred_at, kind FROM billing_events WHERE kind = 'refund'",
        ),
        file(
            "unioned",
            "upsert",
            "id",
            "id at",
            "SELECT account, livemode, event_id AS id, occurred_at AS at FROM billing_events \
             UNION ALL SELECT account, livemode, movement_id, occurred_at FROM mrr_movements WHERE kind <> 'churn'",
        ),
        file(
            "extremes",
            "upsert",
            "customer_id",
            "customer_id first last n paid",
            "SELECT account, livemode, customer_id, MIN(occurred_at) AS first, MAX(occurred_at) AS last, \
             COUNT(amount) AS n, SUM(amount) AS paid FROM billing_events GROUP BY 1, 2, 3",
        ),
        file(
            "having",
            "upsert",
            "currency",
            "currency net rows",
            "SELECT account, livemode, currency, SUM(mrr_delta) AS net, COUNT(*) AS rows FROM mrr_movements \
             WHERE kind <> 'new' GROUP BY 1, 2, 3 HAVING COUNT(*) > 2",
        ),
        file(
            "ranked",
            "upsert",
            "customer_id",
            "customer_id net place",
            "SELECT account, livemode, customer_id, net, RANK() OVER (PARTITION BY account, livemode ORDER BY net DESC) \
             AS place FROM (SELECT account, livemode, customer_id, SUM(mrr_delta) AS net FROM mrr_movements \
             GROUP BY 1, 2, 3)",
        ),
        file(
            "averages",
            "upsert",
            "kind",
            "kind mean",
            "SELECT account, livemode, kind, CAST(SUM(amount) / COUNT(amount) AS DECIMAL(28, 6)) AS mean \
             FROM billing_events WHERE amount IS NOT NULL GROUP BY 1, 2, 3",
        ),
    ];
    let files: Vec<PipelineFile> = files.into_iter().map(Result::unwrap).collect();
    for seed in 20..23 {
        compare(files.clone(), seed, true).await;
    }
}

/// What follows a GROUP BY of customers and currencies, and the keys for which it is computed again.
const SUFFIXES: [(&str, &str, &str, &str, &str); 9] = [
    (
        "paired",
        "customer_id other",
        "customer_id other together",
        "(account, livemode, currency)",
        "SELECT a.account, a.livemode, a.customer_id, b.customer_id AS other, SUM(a.net + b.net) AS together FROM g AS a \
         JOIN g AS b ON a.account = b.account AND a.livemode = b.livemode AND b.currency = a.currency \
         AND a.customer_id < b.customer_id WHERE a.currency = 'usd' \
         GROUP BY a.account, a.livemode, a.currency, a.customer_id, b.customer_id",
    ),
    (
        "missing",
        "customer_id",
        "customer_id usd eur",
        "(account, livemode, customer_id)",
        "SELECT a.account, a.livemode, a.customer_id, a.net AS usd, b.net AS eur \
         FROM (SELECT * FROM g WHERE currency = 'usd') AS a LEFT JOIN (SELECT * FROM g WHERE currency = 'eur') AS b \
         ON a.account = b.account AND a.livemode = b.livemode AND a.customer_id = b.customer_id",
    ),
    (
        "nested",
        "currency",
        "currency customers most",
        "(account, livemode, currency)",
        "SELECT account, livemode, currency, COUNT(*) AS customers, MAX(net) AS most FROM g \
         GROUP BY account, livemode, currency",
    ),
    (
        "seen",
        "currency customer_id",
        "currency customer_id",
        "(account, livemode, customer_id, currency)",
        "SELECT DISTINCT account, livemode, currency, customer_id FROM g",
    ),
    (
        "twice",
        "customer_id currency side",
        "customer_id currency side n",
        "(account, livemode, customer_id, currency)",
        "SELECT account, livemode, customer_id, currency, 'net' AS side, net AS n FROM g UNION ALL \
         SELECT account, livemode, customer_id, currency, 'doubled', 2 * net FROM g",
    ),
    (
        "until_now",
        "customer_id currency day",
        "customer_id currency day n",
        "(account, livemode, customer_id, currency); everything when what it sees of log_clock changes",
        "SELECT account, livemode, customer_id, currency, day, \
         COUNT(*) OVER (PARTITION BY account, livemode, customer_id, currency ORDER BY day) AS n FROM ( \
         SELECT g.account, g.livemode, g.customer_id, g.currency, \
         UNNEST(generate_series(local_date(c.last_event_at, 'UTC') - INTERVAL '3 days', \
         local_date(c.last_event_at, 'UTC'), INTERVAL '1 day')) AS day FROM g \
         JOIN log_clock AS c ON c.account = g.account AND c.livemode = g.livemode)",
    ),
    (
        "all_clocks",
        "at",
        "at customers",
        "over all groups",
        "SELECT c.account, c.livemode, c.last_event_at AS at, COUNT(g.customer_id) AS customers FROM log_clock AS c \
         LEFT JOIN g ON c.account = g.account AND c.livemode = g.livemode GROUP BY 1, 2, 3",
    ),
    (
        "crossed",
        "customer_id",
        "customer_id others",
        "over all groups",
        "SELECT a.account, a.livemode, a.customer_id, COUNT(*) AS others FROM g AS a \
         JOIN g AS b ON a.currency = b.customer_id OR a.net < b.net GROUP BY 1, 2, 3",
    ),
    (
        "shares",
        "customer_id currency",
        "customer_id currency total",
        "(account, livemode)",
        "SELECT account, livemode, customer_id, currency, SUM(net) OVER (PARTITION BY account, livemode) AS total FROM g",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_group_by_is_computed_for_the_keys_it_keeps_apart_and_equals_batch_sql() {
    let files: Vec<PipelineFile> = SUFFIXES
        .iter()
        .map(|(name, grain, columns, _, suffix)| {
            let sql = format!(
                "WITH g AS (SELECT account, livemode, customer_id, currency, SUM(mrr_delta) AS net \
                 FROM mrr_movements GROUP BY account, livemode, customer_id, currency) {suffix}"
            );
            file(name, "upsert", &grain.replace(' ', ", "), columns, &sql).unwrap()
        })
        .collect();
    for (pipeline, (name, .., recomputes, _)) in plan(files.clone()).await.iter().zip(SUFFIXES) {
        let said = pipeline.explain().recomputes;
        assert!(said.contains(recomputes), "{name}: {said}");
    }
    for seed in 30..33 {
        compare(files.clone(), seed, seed == 32).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_moves_within_a_day_changes_nothing() {
    let daily: Vec<_> = shipped().into_iter().filter(|file| file.metadata.name == "mrr_daily").collect();
    let mut pipelines = plan(daily).await;
    let mut world = World::new(5);
    let deltas = world.epoch();
    let rows = pipelines[0].advance(&deltas, &world.end()).await.unwrap().added.num_rows();
    assert!(rows > 0);
    for (seconds, changes) in [(1, false), (86_400, true)] {
        let before = world.clock();
        for at in world.newest.values_mut() {
            // From noon on a day is half over.
            *at = EventTime::from_seconds(at.seconds() / 86_400 * 86_400 + 43_200 + seconds);
        }
        let delta = RowDelta { removed: before, added: world.clock() };
        let deltas = BTreeMap::from([("log_clock".to_owned(), delta)]);
        let delta = pipelines[0].advance(&deltas, &world.end()).await.unwrap();
        assert_eq!(!delta.is_empty(), changes, "{seconds} seconds later");
    }
}

#[tokio::test]
async fn what_cannot_be_maintained_is_refused_with_a_reason() {
    let scope = "SELECT account, livemode, customer_id";
    for (name, columns, sql, reason) in [
        (
            "joined",
            "customer_id",
            "SELECT m.account, m.livemode, m.customer_id FROM mrr_movements m JOIN \
          billing_events b ON m.customer_id = b.customer_id"
                .to_owned(),
            "JOIN brings together",
        ),
        (
            "over",
            "customer_id n",
            format!("{scope}, COUNT(*) OVER (PARTITION BY customer_id) AS n FROM mrr_movements"),
            "OVER brings together",
        ),
        (
            "nearly",
            "customer_id n",
            format!("{scope}, APPROX_MEDIAN(mrr_after) AS n FROM mrr_movements GROUP BY 1, 2, 3"),
            "approx_median",
        ),
        (
            "unordered",
            "customer_id n",
            format!("{scope}, ROW_NUMBER() OVER (PARTITION BY account, livemode) AS n FROM mrr_movements"),
            "the value of `row_number` hangs",
        ),
        ("clock", "customer_id n", format!("{scope}, now() AS n FROM mrr_movements"), "another value on every run"),
        ("chance", "customer_id n", format!("{scope}, random() AS n FROM mrr_movements"), "another value on every run"),
        (
            "mixed",
            "customer_id n",
            "SELECT 'a' AS account, true AS livemode, customer_id, COUNT(*) AS n FROM mrr_movements \
          GROUP BY customer_id"
                .to_owned(),
            "different `account`",
        ),
        (
            "above",
            "customer_id n",
            "WITH g AS (SELECT account, livemode, customer_id, COUNT(*) AS n FROM mrr_movements GROUP BY 1, 2, 3) \
             SELECT * FROM g WHERE n >= (SELECT SUM(n) FROM g)"
                .to_owned(),
            "a subquery",
        ),
        ("limited", "customer_id", format!("{scope} FROM billing_events LIMIT 5"), "LIMIT"),
        ("unknown", "customer_id", format!("{scope} FROM no_such_table"), "no_such_table"),
        ("broken", "customer_id", format!("{scope} FORM billing_events"), "FORM"),
        ("written", "customer_id", "INSERT INTO billing_events SELECT * FROM billing_events".to_owned(), "one SELECT"),
    ] {
        let parsed = file(name, "upsert", "customer_id", columns, &sql).unwrap();
        let refused = plan_all(vec![parsed], &engine::relations().unwrap(), &BTreeMap::new(), &BTreeMap::new()).await;
        let shown = format!("{:?}", miette::Report::new(*refused.err().expect(name)));
        assert!(shown.contains(reason), "{name}: {shown}");
        assert!(shown.contains(&format!("{name}.sql")), "{name}: {shown}");
    }
    let parsed = file(
        "edited",
        "append",
        "movement_id",
        "movement_id",
        "SELECT account, livemode, movement_id FROM mrr_movements",
    )
    .unwrap();
    let refused = plan_all(vec![parsed], &engine::relations().unwrap(), &BTreeMap::new(), &BTreeMap::new()).await;
    assert!(refused.err().unwrap().to_string().contains("can change after they were written"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_leaves_its_type_stops_the_pipeline_and_is_no_wrong_number() {
    let overflowing = file(
        "total",
        "upsert",
        "kind",
        "kind total",
        "SELECT account, livemode, kind, SUM(attempt_count) AS total FROM billing_events GROUP BY 1, 2, 3",
    )
    .unwrap();
    let mut pipelines = plan(vec![overflowing]).await;
    let mut world = World::new(1);
    let rows: Vec<_> = (0..3)
        .map(|_| BillingEvent {
            kind: "refund".into(),
            scope: Scope { account: "a".into(), livemode: true },
            ..world.bill()
        })
        .collect();
    let added = rows::billing_events(&rows).unwrap();
    let position = added.schema().index_of("attempt_count").unwrap();
    let mut columns = added.columns().to_vec();
    columns[position] = Arc::new(Int64Array::from(vec![i64::MAX, i64::MAX, 1]));
    let added = RecordBatch::try_new(added.schema(), columns).unwrap();
    let added = concat_batches(&added.schema(), [&added]).unwrap();
    let delta = RowDelta { removed: RecordBatch::new_empty(added.schema()), added };
    let deltas = BTreeMap::from([("billing_events".to_owned(), delta)]);
    let error = pipelines[0].advance(&deltas, &EpochEnd::default()).await.unwrap_err();
    assert!(error.to_string().contains("overflow"), "{error}");
}

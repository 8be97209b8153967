//! The contract of the windowed core, held against stock DataFusion: for every query and after every epoch, what a
//! pipeline has emitted so far, added up, is what its SQL says of the relations so far.
//!
//! Facts come late, twice and in any order, in epochs cut anywhere. The state is now and then written down, everything
//! or what changed, and read back into freshly planned pipelines, also long after: then what came since is lost and
//! comes again, cut otherwise. The queries are those of `corpus.sql` and random ones. What is refused is
//! refused by name and with a reason: `docs/queries.md` lists it, and is held true here.

mod answers;
mod closing;
mod corpus;
mod grain;
mod history;
mod random;
mod scheduled;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use tributary::stream::{
    epoch::EpochEnd,
    pipeline::{Pipeline, RowDelta, Saved},
};

use self::{
    answers::{Answer, Batch},
    closing::Closing,
    corpus::{Query, plan},
    history::{Arrival, Fact, Relations},
    scheduled::Scheduled,
};

/// Runs every pipeline over the facts of `seed` as they arrive and compares each epoch with batch; the last answers.
async fn follow(queries: &[Query], seed: u64, arrival: Arrival) -> BTreeMap<String, Answer> {
    follow_beside(queries, seed, arrival, true).await
}

/// The same, with or without batch beside it, which does not tell rows that tie apart.
async fn follow_beside(queries: &[Query], seed: u64, arrival: Arrival, beside: bool) -> BTreeMap<String, Answer> {
    let mut pipelines = plan(queries).await.pipelines;
    let (mut course, mut checkpoint) = (Course::default(), Checkpoint::default());
    let mut coming: VecDeque<Vec<Fact>> = arrival.epochs(seed).into();
    // What the checkpoint does not know.
    let mut since: Vec<Fact> = Vec::new();
    let (mut epoch, mut last) = (0, Course::default());
    while let Some(facts) = coming.pop_front() {
        let said = format!("epoch {epoch} of seed {seed}, {arrival:?}");
        course.epoch(&mut pipelines, &facts, beside, &said).await;
        since.extend(facts);
        if arrival.is_saved(epoch) {
            checkpoint.take(&mut pipelines, epoch % 4 == 0);
            last = course.clone();
            since.clear();
        }
        if arrival.restores(epoch) || arrival.crashes(epoch) {
            course = last.clone();
            pipelines = checkpoint.restored(queries, &pipelines, &course.relations.end(LATENESS_DAYS)).await;
            if !since.is_empty() {
                let again = arrival.again(std::mem::take(&mut since), epoch);
                again.into_iter().rev().for_each(|facts| coming.push_front(facts));
            }
        }
        epoch += 1;
    }
    course.answers
}

/// What the epochs so far came to: the relations, what pipelines have emitted, and what they must have.
#[derive(Clone, Default)]
struct Course {
    relations: Relations,
    answers: BTreeMap<String, Answer>,
    closing: BTreeMap<String, Closing>,
    scheduled: BTreeMap<String, Scheduled>,
}

impl Course {
    /// Brings every pipeline up to date with some facts and compares it with batch.
    async fn epoch(&mut self, pipelines: &mut [Pipeline], facts: &[Fact], beside: bool, said: &str) {
        let mut deltas = self.relations.apply(facts);
        let (tables, end) = (self.relations.tables(), self.relations.end(LATENESS_DAYS));
        let batch = Batch::over(&tables);
        for pipeline in pipelines {
            let name = pipeline.name().to_owned();
            let said = format!("{name}, {said}");
            let delta = if !pipeline.has_work(&deltas, &end) {
                Ok(RowDelta::none(pipeline.schema()))
            } else if pipeline.is_snapshot() {
                let tables = batch.providers(pipeline.sources()).await;
                pipeline.run(&end, &tables).await
            } else {
                pipeline.advance(&deltas, &end).await
            };
            let delta = delta.unwrap_or_else(|error| panic!("{said}: {error}"));
            self.answers.entry(name.clone()).or_insert_with(|| Answer::new(pipeline)).add(&delta, &said);
            if beside {
                let expected = self.expected(pipeline, &batch, &said).await;
                self.answers[&name].assert_equals(&expected, &said);
                batch.register(&name, expected.rows());
            }
            if !delta.is_empty() {
                deltas.insert(name, delta);
            }
        }
    }

    /// What a pipeline must have said by now, by batch SQL alone.
    async fn expected(&mut self, pipeline: &mut Pipeline, batch: &Batch, said: &str) -> Answer {
        let name = pipeline.name().to_owned();
        let expected = if pipeline.is_snapshot() {
            let model = self.scheduled.entry(name.clone()).or_insert_with(|| Scheduled::new(pipeline));
            model.follow(pipeline, batch, self.relations.newest(), said).await
        } else {
            batch.answer(pipeline).await
        };
        if pipeline.explain().on_close.is_none() {
            return expected;
        }
        let model = self.closing.entry(name).or_insert_with(|| Closing::new(pipeline));
        let late: Vec<u64> = pipeline.take_late().iter().map(|change| change.number).collect();
        model.follow(pipeline, expected, &self.relations.complete(LATENESS_DAYS), &late, said)
    }
}

/// What checkpoints hold of pipelines: of each everything as of some epoch, and what changed since.
#[derive(Default)]
pub(crate) struct Checkpoint(BTreeMap<String, Saved>);

impl Checkpoint {
    pub(crate) fn take(&mut self, pipelines: &mut [Pipeline], whole: bool) {
        for pipeline in pipelines.iter_mut().filter(|pipeline| !pipeline.is_saved()) {
            let whole = whole || !self.0.contains_key(pipeline.name());
            let Saved { state, whole, held } = pipeline.save(whole).unwrap();
            pipeline.mark_saved();
            // A state is one blob, and one more with each that changed.
            assert!(state.len() <= 1);
            let saved = self.0.entry(pipeline.name().to_owned()).or_default();
            if whole {
                saved.state.clear();
            }
            saved.whole |= whole;
            saved.state.extend(state.iter().map(answers::by_way_of_bytes));
            saved.held = held.as_ref().map(answers::by_way_of_bytes);
        }
    }

    /// Gives freshly planned pipelines the state that some had, at the end of the epoch after which it was taken.
    pub(crate) async fn load(&self, fresh: &mut [Pipeline], of: &[Pipeline], end: &EpochEnd) {
        assert_eq!(fresh.len(), of.len());
        for (new, old) in fresh.iter_mut().zip(of) {
            assert_eq!((new.name(), new.fingerprint()), (old.name(), old.fingerprint()));
            let saved = self.0.get(old.name()).cloned().unwrap_or_default();
            new.load(&saved, end).await.unwrap();
            new.mark_saved();
        }
    }

    /// Freshly planned pipelines with the state that the given ones had.
    async fn restored(&self, queries: &[Query], pipelines: &[Pipeline], end: &EpochEnd) -> Vec<Pipeline> {
        let mut fresh = plan(queries).await.pipelines;
        self.load(&mut fresh, pipelines, end).await;
        fresh
    }
}

/// How long late facts are waited for before a window closes.
const LATENESS_DAYS: i64 = 20;

const ARRIVALS: [Arrival; 5] = [
    Arrival { order: 1, lateness: 0, duplicates: 0.0, epochs: 10, restore_every: None, crash_every: None },
    Arrival { order: 2, lateness: 30, duplicates: 0.2, epochs: 14, restore_every: Some(3), crash_every: None },
    Arrival { order: 3, lateness: usize::MAX, duplicates: 0.1, epochs: 6, restore_every: Some(1), crash_every: None },
    Arrival { order: 4, lateness: 5, duplicates: 0.0, epochs: 1, restore_every: None, crash_every: None },
    Arrival { order: 5, lateness: 40, duplicates: 0.2, epochs: 9, restore_every: None, crash_every: Some(4) },
];

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_corpus_equals_batch_after_every_epoch_however_its_facts_arrive() {
    let queries = corpus::queries();
    let mut silent: BTreeSet<String> = queries.iter().map(|query| query.name.clone()).collect();
    for seed in [1, 2] {
        let mut last: Option<BTreeMap<String, Answer>> = None;
        for arrival in ARRIVALS {
            let answers = follow(&queries, seed, arrival).await;
            for (name, answer) in &answers {
                if !answer.is_empty() {
                    silent.remove(name);
                }
                // What was there when a window closed, or a query ran, depends on what had arrived by then.
                let of_its_time = |query: &Query| ["Emitted on close", "Run on a schedule"].contains(&&*query.section);
                let of_its_time = queries.iter().any(|query| query.name == *name && of_its_time(query));
                if let Some(other) = last.as_ref().and_then(|last| last.get(name)).filter(|_| !of_its_time) {
                    answer.assert_equals(other, &format!("{name} of seed {seed}, {arrival:?} against another arrival"));
                }
            }
            last = Some(answers);
        }
    }
    for pipeline in plan(&queries).await.pipelines {
        assert!(!silent.contains(pipeline.name()), "the facts say nothing of {}", pipeline.name());
    }
}

/// 25 queries of `seed`, of which nine in ten must be maintained, over facts of their own.
async fn follow_random_queries(seed: u64) {
    let queries = random::queries(seed, 25);
    let batch = Batch::over(&Relations::default().tables());
    for query in &queries {
        let columns = batch.columns(&query.sql).await;
        assert!(columns.is_ok(), "{} is no SQL: {columns:?}: {}", query.name, query.sql);
    }
    let planned = plan(&queries).await;
    let maintained = planned.pipelines.len();
    assert!(
        10 * maintained >= 9 * queries.len(),
        "of {} random queries of seed {seed} only these are maintained: {:?}",
        queries.len(),
        planned.pipelines.iter().map(Pipeline::name).collect::<Vec<_>>()
    );
    follow(&queries, 100 + seed, ARRIVALS[seed as usize % ARRIVALS.len()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_tie_are_told_apart_alike_whichever_others_are_sorted_with_them() {
    let of_keys = "SELECT account, livemode, customer, id, ROW_NUMBER() OVER (PARTITION BY account, livemode, customer \
                   ORDER BY kind) AS place FROM payments";
    let of_groups = "WITH g AS (SELECT account, livemode, customer, COALESCE(kind, 'none') AS kind, COUNT(*) AS n \
                     FROM payments GROUP BY account, livemode, customer, COALESCE(kind, 'none')) SELECT account, livemode, customer, kind, \
                     ROW_NUMBER() OVER (PARTITION BY account, livemode ORDER BY n) AS place FROM g";
    // Stops when it is told to take back a row that it does not have.
    let reader = "SELECT account, livemode, id, place, COUNT(*) OVER (PARTITION BY account, livemode, customer) AS n \
                  FROM ties_of_keys WHERE place > 1";
    let query = |name: &str, grain: &[&str], sql: &str| Query {
        name: name.to_owned(),
        section: "Ties".to_owned(),
        grain: grain.iter().map(ToString::to_string).collect(),
        when: String::new(),
        sql: sql.to_owned(),
    };
    let queries = [
        query("ties_of_keys", &["id"], of_keys),
        query("ties_of_groups", &["customer", "kind"], of_groups),
        query("ties_read", &["id"], reader),
    ];
    for seed in [1, 2, 3] {
        let mut last: Option<BTreeMap<String, Answer>> = None;
        for arrival in ARRIVALS {
            let answers = follow_beside(&queries, seed, arrival, false).await;
            assert_eq!(answers.values().filter(|answer| answer.is_empty()).count(), 0);
            for (name, answer) in last.iter().flatten() {
                answers[name].assert_equals(answer, &format!("{name} of seed {seed}, {arrival:?}"));
            }
            last = Some(answers);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_queries_equal_batch_after_every_epoch() {
    for seed in 0..6 {
        follow_random_queries(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "goes on for TRIBUTARY_SOAK_SECONDS: make soak"]
async fn soak_queries_and_facts_that_nobody_has_tried() {
    let end = crate::soak_end();
    while Instant::now() < end {
        let seed = u64::from(rand::random::<u32>());
        println!("seed {seed}");
        follow_random_queries(seed).await;
        follow(&corpus::queries(), seed, ARRIVALS[seed as usize % ARRIVALS.len()]).await;
    }
}

#[tokio::test]
async fn the_documents_say_how_every_query_is_maintained_or_why_it_is_not() {
    let queries = corpus::queries();
    let planned = plan(&queries).await;
    corpus::hold_document(&corpus::document(&queries, &planned));
    assert!(planned.pipelines.len() >= 60, "only {} queries are maintained", planned.pipelines.len());
}

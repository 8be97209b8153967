//! A grain that does not identify a row stops its pipeline in the epoch in which two rows first have one, however the
//! epochs were cut, and in no other.

use tributary::stream::{
    Error,
    epoch::EpochEnd,
    pipeline::{Pipeline, RowDelta},
};

use super::{
    Checkpoint, LATENESS_DAYS,
    answers::{Answer, Batch},
    corpus::{Query, plan},
    history::{Arrival, Relations},
};

/// Queries with a grain that is too coarse for them: some from the first, some only for few rows.
const TOO_COARSE: [(&str, &str, &str); 8] = [
    ("plain", "customer", "SELECT account, livemode, customer, id, amount FROM payments"),
    (
        "few_rows",
        "place",
        "SELECT account, livemode, concat(customer, '/', local_date(at, 'UTC')) AS place, id FROM payments",
    ),
    (
        "two_tables",
        "day",
        "SELECT account, livemode, local_date(at, 'UTC') AS day, id FROM payments WHERE units = 3 UNION ALL \
         SELECT account, livemode, local_date(since, 'UTC'), id FROM subscriptions WHERE seats = 4",
    ),
    (
        "groups",
        "customer",
        "SELECT account, livemode, customer, currency, SUM(amount) AS amount FROM payments \
         GROUP BY account, livemode, customer, currency",
    ),
    (
        "groups_that_change",
        "plan",
        "SELECT account, livemode, customer, plan, COUNT(*) AS n FROM subscriptions WHERE seats <= 2 \
         GROUP BY account, livemode, customer, plan",
    ),
    (
        "ranks",
        "place",
        "SELECT account, livemode, id, ROW_NUMBER() OVER (PARTITION BY account, livemode, plan ORDER BY since, id) \
         AS place FROM subscriptions",
    ),
    (
        "joined",
        "payment",
        "SELECT p.account, p.livemode, p.id AS payment, s.id AS subscription FROM payments AS p \
         JOIN subscriptions AS s ON s.account = p.account AND s.livemode = p.livemode AND s.customer = p.customer",
    ),
    // What no longer tells groups apart when it is read.
    (
        "kinds",
        "kind",
        "SELECT account, livemode, COALESCE(kind, 'fee') AS kind, MEDIAN(amount) AS amount FROM payments \
         WHERE customer = 'c1' GROUP BY account, livemode, kind",
    ),
];

const CUTS: [Arrival; 3] = [
    Arrival { order: 1, lateness: 0, duplicates: 0.0, epochs: 90, restore_every: None, crash_every: None },
    Arrival { order: 2, lateness: 30, duplicates: 0.2, epochs: 30, restore_every: Some(1), crash_every: None },
    Arrival { order: 3, lateness: usize::MAX, duplicates: 0.1, epochs: 60, restore_every: Some(7), crash_every: None },
];

fn queries() -> Vec<Query> {
    let query = |(name, grain, sql): &(&str, &str, &str)| Query {
        name: (*name).to_owned(),
        section: "Grain".to_owned(),
        grain: vec![(*grain).to_owned()],
        when: String::new(),
        sql: (*sql).to_owned(),
    };
    TOO_COARSE.iter().map(query).collect()
}

/// Whether batch has two rows with one grain, too, when a pipeline says so.
async fn is_right(pipeline: &Pipeline, advanced: &Result<RowDelta, Error>, batch: &Batch, said: &str) -> bool {
    let rows = batch.rows_of(pipeline, &pipeline.file().text).await;
    let doubled = Answer::unless_doubled(pipeline, rows).err();
    match advanced {
        Err(Error::Grain(name)) => {
            assert!(doubled.is_some(), "{said}: batch has no two rows with one grain");
            assert_eq!(name, pipeline.name());
            false
        }
        Err(error) => panic!("{said}: {error}"),
        Ok(_) => {
            assert_eq!(doubled, None, "{said}: two rows have the grain of this one");
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grain_that_two_rows_have_stops_its_pipeline_at_once_however_epochs_are_cut() {
    let mut later = 0;
    for (seed, arrival) in (1..3).flat_map(|seed| CUTS.map(|arrival| (seed, arrival))) {
        for query in queries() {
            let queries = [query];
            let mut pipelines = plan(&queries).await.pipelines;
            let (mut relations, mut checkpoint) = (Relations::default(), Checkpoint::default());
            let mut stopped = None;
            for (epoch, facts) in arrival.epochs(seed).into_iter().enumerate() {
                let (deltas, end) = (relations.apply(&facts), relations.end(LATENESS_DAYS));
                let advanced = pipelines[0].advance(&deltas, &end).await;
                let said = format!("{}, epoch {epoch} of seed {seed}, {arrival:?}", queries[0].name);
                if !is_right(&pipelines[0], &advanced, &Batch::over(&relations.tables()), &said).await {
                    stopped = Some(epoch);
                    break;
                }
                checkpoint.take(&mut pipelines, epoch % 4 == 0);
                if arrival.restores(epoch) {
                    pipelines = checkpoint.restored(&queries, &pipelines, &end).await;
                }
            }
            assert!(
                stopped.is_some(),
                "{} of seed {seed}, {arrival:?} never has two rows with one grain",
                queries[0].name
            );
            later += usize::from(stopped > Some(0));
        }
    }
    assert!(later > TOO_COARSE.len() * 4, "most must stop in an epoch after that of the first row, not {later}");
}

#[tokio::test]
async fn a_grain_that_two_rows_have_is_said_with_what_to_do() {
    let queries = &queries()[..1];
    let mut pipelines = plan(queries).await.pipelines;
    let mut relations = Relations::default();
    let facts = CUTS[0].epochs(1);
    let mut said = None;
    for facts in facts {
        said = pipelines[0].advance(&relations.apply(&facts), &EpochEnd::default()).await.err();
        if said.is_some() {
            break;
        }
    }
    let said = said.unwrap().to_string();
    assert!(
        said.starts_with("`plain` gave two rows with the same grain") && said.contains("add the columns"),
        "{said}"
    );
}

//! Properties of random histories ([`super::histories`]), each under every profile.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tributary::{
    ledger::{
        BackdatedStart, DiscountOrder, Ledger, Profile, Rules, review,
        rows::{ItemState, LedgerEntry, Measure, Movement, MovementKind, OutlookEntry, flag},
    },
    money::{Amount, Currency},
    stripe::{ids::SubscriptionItemId, types::*},
    time::EventTime,
};

use super::{book::*, histories::*};

type Facts = [Vec<String>; 4];

/// The current ledger, the current movements, usage and phases to come, without what may depend on the way there: when
/// things became known, and how often they were revised.
pub(crate) fn facts(book: &Book) -> Facts {
    let entries = book.current().into_iter().map(|entry| {
        let (time, item, price) = (entry.event_time, &entry.subscription_item_id, &entry.price_id);
        let deltas = (entry.list_delta, entry.discount_delta, entry.mrr_delta, entry.quantity_delta.to_string());
        let events = &entry.event_ids;
        format!("{time} {item} {price} {} {} {:?} {deltas:?} {events:?}", entry.currency, entry.change, entry.cause)
    });
    let movements = book.movements.values().map(|row| {
        let money = (row.mrr_before, row.mrr_after, row.mrr_delta);
        let causes = &row.causes;
        let events = &row.event_ids;
        format!(
            "{} {} {} {:?} {causes:?} {money:?} {events:?}",
            row.occurred_at, row.movement_id, row.currency, row.kind
        )
    });
    let usage = book.usage.iter().map(|row| {
        let (line, item, ends) = (&row.line_id, &row.subscription_item_id, row.period_end);
        format!("{line} {item:?} {ends} {} {} {}", row.currency, row.amount, row.monthly)
    });
    let scheduled = book
        .scheduled
        .iter()
        .map(|row| format!("{} {} {:?} {} {}", row.schedule_id, row.starts_at, row.ends_at, row.currency, row.mrr));
    let mut facts = [entries.collect(), movements.collect(), usage.collect(), scheduled.collect::<Vec<_>>()];
    facts.iter_mut().for_each(|rows| rows.sort_unstable());
    facts
}

/// Of each item its states as they follow each other, without what may depend on the way there: when they became known,
/// which event said so first, how often they were revised, and rows that say again what the one before them says.
pub(crate) fn lives(states: &[ItemState]) -> Vec<String> {
    let mut newest: BTreeMap<_, &ItemState> = BTreeMap::new();
    for row in states {
        newest.insert((&row.subscription_item_id, row.valid_from, &*row.provenance == "event"), row);
    }
    let held = newest.into_values().filter(|row| !row.flags.iter().any(|word| &**word == flag::WITHDRAWN));
    let mut said: BTreeMap<&SubscriptionItemId, ItemState> = BTreeMap::new();
    held.filter_map(|row| {
        // What is not known of a customer's discount is from when it holds, so that it reaches as far as nothing folded.
        let known = row.discounts.iter().filter(|discount| discount.terms.is_some());
        let says = ItemState {
            discounts: known.cloned().collect(),
            valid_from: EventTime::MIN,
            known_at: EventTime::MIN,
            revision: 0,
            order_evidence: None,
            provenance: "".into(),
            event_id: "".into(),
            ..row.clone()
        };
        let news = said.insert(&row.subscription_item_id, says.clone()).as_ref() != Some(&says);
        news.then(|| format!("{} {says:?}", row.valid_from))
    })
    .collect()
}

/// What the figures beside the ledger say of money.
fn outlook_worth(rows: &[OutlookEntry]) -> Vec<String> {
    let figure = |measure: Measure| -> Vec<LedgerEntry> {
        rows.iter().filter(|row| row.measure == measure).map(|row| row.entry.clone()).collect()
    };
    let worth = |measure: Measure| {
        let entries = figure(measure);
        let worth = worth(&review::current(&entries));
        worth.into_iter().map(move |row| format!("{measure:?} {row}")).collect::<Vec<_>>()
    };
    [Measure::Trial, Measure::CancelScheduled].into_iter().flat_map(worth).collect()
}

/// What entries say of money, without the events that say it.
fn worth(entries: &[&LedgerEntry]) -> Vec<String> {
    let mut worth: Vec<String> = entries
        .iter()
        .map(|entry| {
            let (time, item, price) = (entry.event_time, &entry.subscription_item_id, &entry.price_id);
            let deltas = (entry.list_delta, entry.discount_delta, entry.mrr_delta, entry.quantity_delta.to_string());
            let cadence = (entry.interval, entry.interval_count);
            format!(
                "{time} {item} {price} {} {} {:?} {deltas:?} {cadence:?}",
                entry.currency, entry.change, entry.causes
            )
        })
        .collect();
    worth.sort_unstable();
    worth
}

/// What movements say, without the events behind them.
fn kinds<'a>(movements: impl Iterator<Item = &'a Movement>) -> Vec<String> {
    let mut kinds: Vec<String> = movements
        .map(|row| {
            let (money, causes) = ((row.mrr_before, row.mrr_after, row.mrr_delta), &row.causes);
            format!("{} {} {} {:?} {causes:?} {money:?}", row.occurred_at, row.customer_id, row.currency, row.kind)
        })
        .collect();
    kinds.sort_unstable();
    kinds
}

/// Every named profile, and one with each setting that they leave alone.
pub(crate) const PROFILES: u8 = 4;

pub(crate) fn profile(number: u8) -> Rules {
    match Profile::NAMED.get(usize::from(number % PROFILES)) {
        Some(profile) => Rules::of(*profile),
        None => Rules {
            profile: Profile::Custom,
            count_paused_collection: false,
            backdated_start: BackdatedStart::StartDate,
            discount_order: DiscountOrder::AmountFirst,
            subtract_once: true,
            subtract_forever: false,
            netting_seconds: 90,
            ..Rules::of(Profile::Chartmogul)
        },
    }
}

pub(crate) fn run(rules: &Rules, events: &[Event], cuts: &[u8]) -> Book {
    let mut book = Book::new(rules.clone());
    batches(events, cuts).for_each(|batch| book.apply(batch));
    book
}

fn batches<'a>(events: &'a [Event], cuts: &[u8]) -> impl Iterator<Item = &'a [Event]> {
    let mut rest = events;
    let mut cuts = cuts.iter().cycle();
    std::iter::from_fn(move || {
        let size = cuts.next().map_or(rest.len(), |cut| usize::from(*cut).max(1)).min(rest.len());
        let (batch, others) = rest.split_at(size);
        rest = others;
        (!batch.is_empty()).then_some(batch)
    })
}

/// Every opening and closing meets, and the movements say what the entries say, in each currency of each customer.
fn bridge_closes(book: &Book) {
    let mut movements: Vec<_> = book.movements.values().collect();
    movements.sort_by_key(|row| (row.occurred_at, row.currency));
    let mut sums: BTreeMap<(String, Currency), Amount> = BTreeMap::new();
    for row in movements {
        let sum = sums.entry((row.customer_id.to_string(), row.currency)).or_default();
        assert_eq!(row.mrr_before, *sum, "a movement begins where the last one ended");
        assert!(row.mrr_after >= Amount::ZERO, "recurring revenue is never negative");
        let up = row.mrr_delta > Amount::ZERO;
        match row.kind {
            MovementKind::New | MovementKind::Reactivation | MovementKind::Expansion => assert!(up),
            MovementKind::Churn | MovementKind::Contraction => assert!(!up),
            MovementKind::Imported => {}
        }
        *sum = row.mrr_after;
    }
    for ((customer, currency), sum) in sums {
        let entries = book.sum(|entry| entry.customer_id.as_str() == customer && entry.currency == currency);
        assert_eq!(entries, sum.to_string(), "the ledger's sum is the movements' end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_bridge_closes(history in prop::collection::vec(contested(), 1..40), rules in 0..PROFILES) {
        bridge_closes(&run(&profile(rules), &write(&history, true), &[]));
    }

    #[test]
    fn neither_cut_nor_order_nor_duplicates_change_the_ledger(
        history in prop::collection::vec(happening(), 1..40),
        delays in prop::collection::vec(any::<u32>(), 1..40),
        cuts in prop::collection::vec(1..6_u8, 1..5),
        rules in 0..PROFILES,
    ) {
        let rules = profile(rules);
        let events = write(&history, true);
        let straight = run(&rules, &events, &[]);
        let mut twice = shuffle(&events, &delays);
        let again: Vec<Event> = shuffle(&events, &[]).into_iter().step_by(3).collect();
        // A duplicate comes right behind what it repeats, so that its id is still remembered.
        for event in again {
            let first = twice.iter().position(|other| other.id == event.id).unwrap();
            twice.insert(first + 1, event);
        }
        let crooked = run(&rules, &twice, &cuts);
        prop_assert!(crooked.late.is_empty(), "{:?}", crooked.late);
        bridge_closes(&crooked);
        prop_assert_eq!(facts(&straight), facts(&crooked));
        prop_assert_eq!(lives(&straight.states), lives(&crooked.states));
    }

    #[test]
    fn another_profile_is_a_function_of_the_item_states(
        history in prop::collection::vec(happening(), 1..40),
        delays in prop::collection::vec(any::<u32>(), 1..40),
        cuts in prop::collection::vec(1..6_u8, 1..5),
        rules in 0..PROFILES,
        other in 0..PROFILES,
    ) {
        let events = write(&history, true);
        let written = run(&profile(rules), &shuffle(&events, &delays), &cuts);
        let straight = run(&profile(other), &events, &[]);
        let until = events.iter().map(|event| event.created).max().unwrap();
        let reviewed = review::count(&written.states, &profile(other), until).unwrap();
        prop_assert_eq!(worth(&reviewed.entries.iter().collect::<Vec<_>>()), worth(&straight.current()));
        prop_assert_eq!(outlook_worth(&reviewed.outlook), outlook_worth(&straight.outlook));
        let moved = review::movements(&reviewed.entries, &profile(other)).unwrap();
        prop_assert_eq!(kinds(moved.iter()), kinds(straight.movements.values()));
    }

    #[test]
    fn ledger_rows_net_and_classify_to_the_same_movements_again(
        history in prop::collection::vec(contested(), 1..40),
        delays in prop::collection::vec(any::<u32>(), 1..40),
        cuts in prop::collection::vec(1..6_u8, 1..5),
        rules in 0..PROFILES,
    ) {
        let rules = profile(rules);
        let book = run(&rules, &shuffle(&write(&history, true), &delays), &cuts);
        let mut again = review::movements(&book.entries, &rules).unwrap();
        for movement in &mut again {
            movement.revision = book.movements[&*movement.movement_id].revision;
        }
        again.sort_by(|a, b| a.movement_id.cmp(&b.movement_id));
        prop_assert_eq!(again, book.movements.values().cloned().collect::<Vec<_>>());
    }

    /// What was written by the time a record came in is what a ledger says that has only heard the records before it.
    #[test]
    fn rows_known_at_a_moment_are_the_ledger_of_that_moment(
        history in prop::collection::vec(contested(), 1..30),
        delays in prop::collection::vec(any::<u32>(), 1..30),
        share in 0.0..=1.0_f64,
        rules in 0..PROFILES,
    ) {
        let rules = profile(rules);
        let events = shuffle(&write(&history, true), &delays);
        let heard = (events.len() as f64 * share) as usize;
        let whole = run(&rules, &events, &[1]);
        let then = run(&rules, &events[..heard], &[1]);
        let known: Vec<LedgerEntry> =
            whole.entries.iter().filter(|entry| entry.known_at <= then.now()).cloned().collect();
        prop_assert_eq!(worth(&review::current(&known)), worth(&then.current()));
        let moved = review::movements(&known, &rules).unwrap();
        prop_assert_eq!(kinds(moved.iter()), kinds(then.movements.values()));
        let states: Vec<ItemState> = whole.states.iter().filter(|row| row.known_at <= then.now()).cloned().collect();
        prop_assert_eq!(lives(&states), lives(&then.states));
    }

    #[test]
    fn a_rebuild_takes_any_order(
        history in prop::collection::vec(happening(), 1..30),
        order in prop::collection::vec(any::<u32>(), 30),
        rules in 0..PROFILES,
    ) {
        let rules = profile(rules);
        let events = write(&history, true);
        let mut shuffled: Vec<_> = events.iter().cloned().enumerate().collect();
        shuffled.sort_by_key(|(index, _)| order[index % order.len()]);
        let shuffled: Vec<Event> = shuffled.into_iter().map(|(_, event)| event).collect();
        let rebuild = |events: &[Event]| {
            let mut book = Book::new(rules.clone());
            book.ledger.set_folding(false);
            events.chunks(3).for_each(|batch| book.apply(batch));
            (facts(&book), lives(&book.states))
        };
        prop_assert_eq!(rebuild(&events), rebuild(&shuffled));
    }

    /// A customer with a schedule is read for each of its events; without one, snapshots that repeat the newest are
    /// only put beside its bytes.
    #[test]
    fn what_is_put_beside_a_customer_at_rest_counts_as_if_it_had_been_read(
        history in prop::collection::vec(happening(), 1..60),
        delays in prop::collection::vec(0..40 * DAY, 1..60),
        cuts in prop::collection::vec((1..6_usize, prop::bool::weighted(0.7)), 1..5),
        rules in 0..PROFILES,
    ) {
        let mut events = write(&history, true);
        let mut order: Vec<_> = events.iter().cloned().enumerate().collect();
        order.sort_by_key(|(index, event)| event.created.seconds() + delays[index % delays.len()]);
        events = order.into_iter().flat_map(|(index, event)| std::iter::repeat_n(event, 1 + index % 3 / 2)).collect();
        let mut beside = Book::new(profile(rules));
        let mut read = Book::new(profile(rules));
        beside.apply(&[over("cus_other"), over("cus_more")]);
        read.apply(&[over("cus_0"), over("cus_1")]);
        let mut rest = events.as_slice();
        let mut cuts = cuts.iter().cycle();
        while let (false, Some((size, folding))) = (rest.is_empty(), cuts.next()) {
            let (batch, others) = rest.split_at((*size).min(rest.len()));
            for book in [&mut beside, &mut read] {
                book.ledger.set_folding(*folding);
                book.apply(batch);
            }
            rest = others;
        }
        prop_assert_eq!(&beside.entries, &read.entries);
        prop_assert_eq!(&beside.movements, &read.movements);
        prop_assert_eq!(&beside.states, &read.states);
        prop_assert_eq!(&beside.outlook, &read.outlook);
        prop_assert_eq!(&beside.gaps, &read.gaps);
        prop_assert_eq!(&beside.late, &read.late);
        prop_assert_eq!(beside.duplicates, read.duplicates);
    }

    #[test]
    fn a_restored_ledger_goes_on_as_if_it_had_never_stopped(
        history in prop::collection::vec(contested(), 2..40),
        stop in 0.0..=1.0_f64,
        cuts in prop::collection::vec(1..6_u8, 1..5),
        rules in 0..PROFILES,
    ) {
        let rules = profile(rules);
        let events = write(&history, true);
        let (first, second) = events.split_at((events.len() as f64 * stop) as usize);
        let mut never = run(&rules, first, &cuts);
        let mut stopped = Book::new(rules.clone());
        let mut pieces = Pieces::default();
        for batch in batches(first, &cuts) {
            stopped.apply(batch);
            pieces.take(&mut stopped.ledger);
        }
        stopped.ledger = pieces.restored(&rules);
        for (i, batch) in second.chunks(4).enumerate() {
            never.apply(batch);
            stopped.apply(batch);
            pieces.take(&mut stopped.ledger);
            if i % 2 == 0 {
                stopped.ledger = pieces.restored(&rules);
            }
        }
        prop_assert_eq!(&never.entries, &stopped.entries);
        prop_assert_eq!(&never.movements, &stopped.movements);
        prop_assert_eq!(&never.states, &stopped.states);
        prop_assert_eq!(&never.gaps, &stopped.gaps);
        prop_assert_eq!(never.ledger.clock().collect::<Vec<_>>(), stopped.ledger.clock().collect::<Vec<_>>());
    }
}

/// The end of a schedule, of which nothing is left but that the customer had one.
fn over(customer: &str) -> Event {
    let schedule = Schedule {
        id: format!("sub_sched_{customer}"),
        customer: Some(customer.into()),
        status: Some("canceled".into()),
        ..Schedule::default()
    };
    let object = Object::Schedule(Box::new(schedule));
    event(&format!("evt_{customer}"), "subscription_schedule.canceled", 0, object)
}

/// What checkpoints wrote of a ledger: each bucket once as a whole, and then what changed.
#[derive(Default)]
struct Pieces {
    begun: BTreeSet<u8>,
    buckets: Vec<(u8, Vec<u8>)>,
    catalogue: Option<Vec<u8>>,
}

impl Pieces {
    fn take(&mut self, ledger: &mut Ledger) {
        for bucket in ledger.dirty_buckets() {
            let whole = self.begun.insert(bucket);
            self.buckets.push((bucket, ledger.encode_bucket(bucket, whole).unwrap()));
        }
        self.catalogue = Some(ledger.encode_catalogue().unwrap());
        ledger.clear_dirty();
    }

    fn restored(&self, rules: &Rules) -> Ledger {
        let mut ledger = Ledger::new(rules.clone());
        self.catalogue.iter().for_each(|bytes| ledger.restore_catalogue(bytes).unwrap());
        self.buckets.iter().for_each(|(bucket, bytes)| ledger.restore_bucket(*bucket, bytes).unwrap());
        ledger
    }
}

#[test]
fn a_checkpoint_of_other_rules_or_another_kind_is_refused() {
    let ledger = Ledger::new(Rules::default());
    let bytes = ledger.encode_catalogue().unwrap();
    let mut other = Ledger::new(Rules::of(Profile::Profitwell));
    assert!(other.restore_catalogue(&bytes).unwrap_err().to_string().contains("other revenue rules"));
    assert!(other.restore_bucket(3, &[]).unwrap_err().to_string().contains("bucket 3"));
    assert!(other.restore_bucket(3, &[9, 9, 9]).unwrap_err().to_string().contains("rebuild"));
}

#[test]
fn only_what_changed_is_dirty() {
    let mut book = Book::new(Rules::default());
    let mut script = Script::default();
    let customers: Vec<_> = (0..3).map(beginning).collect();
    for subscription in &customers {
        script.created(0, subscription);
    }
    book.apply(&script.events);
    assert_eq!(book.ledger.dirty_buckets().len(), 2, "two customers");
    assert!(book.ledger.catalogue_dirty());
    book.ledger.clear_dirty();
    assert!(book.ledger.dirty_buckets().is_empty() && !book.ledger.catalogue_dirty());
    book.apply(&script.events[..1]);
    assert_eq!(book.duplicates, 1);
}

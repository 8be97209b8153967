//! What adds up, on random histories: a subscription is never worth less than nothing, and items, subscriptions,
//! customers and prices have one sum at every instant. Whose an item is, what it costs and whether it counts is taken
//! from `item_states` and not from the ledger's own rows, so that a row under a wrong name is found out.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tributary::{
    ledger::{
        Rules, ScheduledCancellation,
        rows::{ItemState, LedgerEntry, flag},
    },
    money::{Amount, Currency},
    stripe::types::SubscriptionStatus,
    time::EventTime,
};

use super::{book::*, histories::*, properties::*};

/// Sums by the name of something, and currency.
type Sums = BTreeMap<(String, Currency), Amount>;

fn add(sums: &mut Sums, name: &str, currency: Currency, amount: Amount) {
    let sum = sums.entry((name.to_owned(), currency)).or_default();
    *sum = sum.checked_add(amount).unwrap();
}

/// Those that are not 0.
fn worth_something(sums: &Sums) -> Sums {
    sums.iter().filter(|(_, sum)| !sum.is_zero()).map(|(name, sum)| (name.clone(), *sum)).collect()
}

/// The states of each item that hold, in order of time; what was there before the log comes first.
struct Lives<'a>(BTreeMap<&'a str, Vec<&'a ItemState>>);

impl<'a> Lives<'a> {
    fn of(book: &'a Book) -> Self {
        let mut newest: BTreeMap<_, &ItemState> = BTreeMap::new();
        for state in &book.states {
            let told = &*state.provenance == "event";
            let held = newest.entry((state.subscription_item_id.as_str(), state.valid_from, told)).or_insert(state);
            if state.revision > held.revision {
                *held = state;
            }
        }
        let mut lives: BTreeMap<&str, Vec<&ItemState>> = BTreeMap::new();
        for ((item, ..), state) in newest {
            if !has(state, flag::WITHDRAWN) {
                lives.entry(item).or_default().push(state);
            }
        }
        Self(lives)
    }

    /// The state of an item at a time; the first one where it counts from before.
    fn at(&self, item: &str, time: EventTime) -> &'a ItemState {
        let states = self.0.get(item).unwrap_or_else(|| panic!("{item} is in the ledger and has no state"));
        states.iter().rfind(|state| state.valid_from <= time).unwrap_or(&states[0])
    }
}

fn has(state: &ItemState, word: &str) -> bool {
    state.flags.iter().any(|flag| **flag == *word)
}

/// Whether the page says that such a state counts.
fn counts(state: &ItemState, rules: &Rules) -> bool {
    let leaves_now = rules.scheduled_cancellation == ScheduledCancellation::LeavesAtRequest;
    let in_force = ["active", "past_due"].contains(&&*state.status);
    let out = [flag::DELETED, flag::REMOVED, flag::METERED].into_iter().any(|word| has(state, word))
        || (leaves_now && has(state, flag::CANCEL_SCHEDULED))
        || (!rules.count_paused_collection && has(state, flag::COLLECTION_PAUSED));
    assert_eq!(in_force, rules.counts_status(&SubscriptionStatus::from(&*state.status)), "{}", state.status);
    in_force && !out
}

/// The ledger's rows, instant by instant.
fn instants<'a>(rows: &'a [&'a LedgerEntry]) -> impl Iterator<Item = (EventTime, &'a [&'a LedgerEntry])> {
    rows.chunk_by(|a, b| a.event_time == b.event_time).map(|instant| (instant[0].event_time, instant))
}

/// At every instant: the sums by price and by subscription are those of the items that have that price and belong to
/// that subscription by their states, and nothing is worth anything that does not count.
fn items_prices_and_subscriptions_agree(book: &Book, rules: &Rules) {
    let (rows, lives) = (book.current(), Lives::of(book));
    let (mut items, mut prices, mut subscriptions) = (Sums::new(), Sums::new(), Sums::new());
    for (time, instant) in instants(&rows) {
        for row in instant {
            add(&mut items, row.subscription_item_id.as_str(), row.currency, row.mrr_delta);
            add(&mut prices, row.price_id.as_str(), row.currency, row.mrr_delta);
            add(&mut subscriptions, row.subscription_id.as_str(), row.currency, row.mrr_delta);
        }
        let (mut of_prices, mut of_subscriptions) = (Sums::new(), Sums::new());
        for ((item, currency), sum) in worth_something(&items) {
            let state = lives.at(&item, time);
            assert!(counts(state, rules), "{item} is worth {sum} at {time} and does not count: {state:?}");
            assert_eq!(state.currency, Some(currency), "{item} at {time}");
            add(&mut of_prices, state.price_id.as_str(), currency, sum);
            add(&mut of_subscriptions, state.subscription_id.as_str(), currency, sum);
        }
        assert_eq!(worth_something(&prices), worth_something(&of_prices), "prices at {time}");
        assert_eq!(worth_something(&subscriptions), worth_something(&of_subscriptions), "subscriptions at {time}");
    }
}

/// Before and after every movement the customer has what its items are worth.
fn customers_agree(book: &Book, rules: &Rules) {
    let (rows, lives) = (book.current(), Lives::of(book));
    for movement in book.movements.values() {
        let worth = |until: EventTime| -> Amount {
            let until_then = rows.iter().filter(|row| row.event_time < until && row.currency == movement.currency);
            let of_customer = until_then.filter(|row| {
                let state = lives.at(row.subscription_item_id.as_str(), row.event_time);
                state.customer_id == movement.customer_id
            });
            of_customer.map(|row| row.mrr_delta).sum()
        };
        let anchor = movement.occurred_at;
        let end = EventTime::from_micros(anchor.micros() + i64::from(rules.netting_seconds) * 1_000_000);
        assert_eq!(worth(anchor), movement.mrr_before, "before {movement:?}");
        assert_eq!(worth(end), movement.mrr_after, "after {movement:?}");
    }
}

fn no_subscription_is_below_nothing(book: &Book) {
    let mut sums = Sums::new();
    let rows = book.current();
    for (time, instant) in instants(&rows) {
        for row in instant {
            add(&mut sums, row.subscription_id.as_str(), row.currency, row.mrr_delta);
        }
        let below = sums.iter().find(|(_, sum)| **sum < Amount::ZERO);
        assert!(below.is_none(), "at {time}: {below:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn no_subscription_is_ever_worth_less_than_nothing(
        history in prop::collection::vec(contested(), 1..40),
        delays in prop::collection::vec(any::<u32>(), 1..40),
        rules in 0..PROFILES,
    ) {
        let events = shuffle(&write(&history, true), &delays);
        let mut book = Book::new(profile(rules));
        // Half of it is known, then all.
        for batch in events.chunks(events.len().div_ceil(2)) {
            book.apply(batch);
            no_subscription_is_below_nothing(&book);
        }
    }

    #[test]
    fn items_subscriptions_customers_and_prices_have_one_sum(
        history in prop::collection::vec(contested(), 1..40),
        delays in prop::collection::vec(any::<u32>(), 1..40),
        rules in 0..PROFILES,
    ) {
        let rules = profile(rules);
        let book = run(&rules, &shuffle(&write(&history, true), &delays), &[3]);
        items_prices_and_subscriptions_agree(&book, &rules);
        customers_agree(&book, &rules);
    }
}

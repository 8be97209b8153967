//! Properties of random histories: several subscriptions and items, trials, pauses, coupons, currencies, tariffs known
//! late, customers deleted.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tributary::{
    ledger::{
        BackdatedStart, DiscountOrder, Ledger, Profile, Rules, review,
        rows::{LedgerEntry, Measure, Movement, MovementKind, OutlookEntry},
    },
    money::{Amount, Currency},
    stripe::types::*,
};

use super::book::*;

/// One thing that happens, after some days and seconds.
#[derive(Clone, Debug)]
struct Happening {
    days: u8,
    same_second: bool,
    subscription: u8,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Quantity(u8),
    Plan(u8),
    AddItem(u8),
    RemoveItem,
    Status(u8),
    Schedule(bool),
    Pause(bool),
    Discount(u8),
    CustomerDiscount(bool),
    Renew,
    End,
    DeleteCustomer,
}

fn happening() -> impl Strategy<Value = Happening> {
    let what = prop_oneof![
        3 => (0..5_u8).prop_map(What::Quantity),
        3 => (0..6_u8).prop_map(What::Plan),
        1 => (0..6_u8).prop_map(What::AddItem),
        1 => Just(What::RemoveItem),
        3 => (0..7_u8).prop_map(What::Status),
        2 => any::<bool>().prop_map(What::Schedule),
        1 => any::<bool>().prop_map(What::Pause),
        2 => (0..5_u8).prop_map(What::Discount),
        1 => any::<bool>().prop_map(What::CustomerDiscount),
        6 => Just(What::Renew),
        1 => Just(What::End),
        1 => Just(What::DeleteCustomer),
    ];
    (0..20_u8, prop::bool::weighted(0.3), 0..5_u8, what).prop_map(|(days, same_second, subscription, what)| Happening {
        days,
        same_second,
        subscription,
        what,
    })
}

fn plan(number: u8) -> Price {
    let number = number % 6;
    let id = format!("plan_{number}");
    match number {
        0 => monthly(&id, 1_000),
        1 => price(&id, 2_599, Interval::Week, 1),
        2 => price(&id, 100_000, Interval::Year, 1),
        3 => Price {
            unit_amount: None,
            tiers_mode: Some(TiersMode::Graduated),
            tiers: Some(vec![
                Tier { up_to: Some(whole(2)), unit_amount: whole(333), flat_amount: whole(0) },
                Tier { up_to: None, unit_amount: whole(250), flat_amount: whole(100) },
            ]),
            ..monthly(&id, 0)
        },
        4 => monthly(&id, -700),
        _ => price(&id, 77, Interval::Day, 3),
    }
}

fn coupons(number: u8) -> Vec<DiscountRef> {
    match number {
        1 => vec![full(&discount("di_half", &percent_off("half", 50, CouponDuration::Forever)))],
        2 => vec![full(&discount("di_some", &amount_off("some", 1_234, CouponDuration::Forever)))],
        3 => {
            let mut ends = discount("di_ends", &percent_off("third", 33, CouponDuration::Repeating));
            ends.end = Some(at(100 * DAY));
            vec![full(&ends)]
        }
        4 => vec![DiscountRef::Id("di_later".into())],
        _ => Vec::new(),
    }
}

/// The subscription of a number: two customers, two currencies.
fn beginning(number: u8) -> Subscription {
    let customer = format!("cus_{}", number % 2);
    let mut subscription = subscription(&format!("sub_{number}"), &customer, &plan(number));
    if number == 4 {
        let euro = Price { currency: Some(currency("eur")), ..monthly("plan_euro", 4_900) };
        subscription.items = vec![item("si_sub_4", &euro, 1)];
        subscription.currency = Some(currency("eur"));
    }
    subscription
}

/// Writes the events of a history, as Stripe would have sent them.
fn write(happenings: &[Happening], with_catalogue: bool) -> Vec<Event> {
    let mut script = Script::default();
    let mut states: BTreeMap<u8, Subscription> = BTreeMap::new();
    let mut now = 0;
    for happening in happenings {
        now += if happening.same_second { 0 } else { i64::from(happening.days) * DAY + 61 };
        let number = happening.subscription;
        let Some(state) = states.get(&number) else {
            let mut state = beginning(number);
            state.start_date = Some(at(now));
            script.created(now, &state);
            states.insert(number, state);
            continue;
        };
        let mut next = state.clone();
        let euro = next.currency == Some(currency("eur"));
        match &happening.what {
            What::Quantity(units) => next.items[0].quantity = Some(whole((*units).into())),
            What::Plan(number) if !euro => next.items[0].price = plan(*number),
            What::AddItem(number) if !euro && next.items.len() < 3 => {
                let id = format!("si_{}_{}", next.id, next.items.len());
                next.items.push(item(&id, &bare(&plan(*number)), 2));
            }
            What::RemoveItem if next.items.len() > 1 => drop(next.items.pop()),
            What::Status(number) => {
                next.status = ["active", "past_due", "trialing", "unpaid", "paused", "incomplete", "active"]
                    [usize::from(*number)]
                .into();
            }
            What::Schedule(at_end) => next.cancel_at_period_end = *at_end,
            What::Pause(paused) => next.pause_collection = paused.then(|| "void".to_owned()),
            What::Discount(number) => next.discounts = coupons(*number),
            What::Renew => next.current_period_end = Some(at(now + 30 * DAY)),
            What::CustomerDiscount(begins) => {
                let mut discount = discount("di_customer", &percent_off("tenth", 10, CouponDuration::Forever));
                discount.customer = Some(next.customer.clone());
                let kind = if *begins { "customer.discount.created" } else { "customer.discount.deleted" };
                script.other(kind, now, Object::Discount(Box::new(discount)));
            }
            What::DeleteCustomer => {
                let gone = Customer {
                    id: next.customer.clone(),
                    created: None,
                    currency: None,
                    delinquent: None,
                    discounts: Vec::new(),
                    deleted: true,
                };
                script.other("customer.deleted", now, Object::Customer(gone));
            }
            What::End => {
                script.deleted(now, &next);
                states.insert(number, beginning(number));
                continue;
            }
            _ => {}
        }
        if next != *state {
            script.updated(now, &next);
            states.insert(number, next);
        }
    }
    if with_catalogue {
        for number in 0..6 {
            script.other("price.created", now, Object::Price(Box::new(plan(number))));
        }
        let later = discount("di_later", &percent_off("quarter", 25, CouponDuration::Forever));
        script.other("customer.discount.updated", now, Object::Discount(Box::new(later)));
    }
    script.events
}

/// Moves each event by less than thirty days.
fn shuffle(events: &[Event], delays: &[u32]) -> Vec<Event> {
    let mut delayed: Vec<(i64, usize)> = events
        .iter()
        .enumerate()
        .map(|(index, event)| {
            let delay = delays.get(index % delays.len().max(1)).copied().unwrap_or(0);
            (event.created.seconds() + i64::from(delay) % (30 * DAY), index)
        })
        .collect();
    delayed.sort_unstable();
    delayed.into_iter().map(|(_, index)| events[index].clone()).collect()
}

type Facts = (Vec<String>, Vec<String>);

/// The current ledger and the current movements, without what may depend on the way there: when things became known,
/// and how often they were revised.
fn facts(book: &Book) -> Facts {
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
    let mut entries: Vec<String> = entries.collect();
    entries.sort_unstable();
    (entries, movements.collect())
}

/// What entries say of money, without the events that say it.
/// The same of the figures beside the ledger.
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
const PROFILES: u8 = 4;

fn profile(number: u8) -> Rules {
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

fn run(rules: &Rules, events: &[Event], cuts: &[u8]) -> Book {
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
        let items: Amount = book
            .current()
            .into_iter()
            .filter(|entry| entry.customer_id.as_str() == customer && entry.currency == currency)
            .map(|entry| entry.mrr_delta)
            .sum();
        assert_eq!(items, sum, "the sum over items is the customer's");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_bridge_closes(history in prop::collection::vec(happening(), 1..40), rules in 0..PROFILES) {
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
        history in prop::collection::vec(happening(), 1..40),
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
        history in prop::collection::vec(happening(), 1..30),
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
    }

    #[test]
    fn a_rebuild_takes_any_order(
        history in prop::collection::vec(happening(), 1..30),
        order in prop::collection::vec(any::<u32>(), 30),
    ) {
        let rules = Rules::default();
        let events = write(&history, true);
        let mut shuffled: Vec<_> = events.iter().cloned().enumerate().collect();
        shuffled.sort_by_key(|(index, _)| order[index % order.len()]);
        let shuffled: Vec<Event> = shuffled.into_iter().map(|(_, event)| event).collect();
        let rebuild = |events: &[Event]| {
            let mut book = Book::new(rules.clone());
            book.ledger.set_folding(false);
            events.chunks(3).for_each(|batch| book.apply(batch));
            facts(&book)
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
        history in prop::collection::vec(happening(), 2..40),
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

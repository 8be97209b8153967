//! Rows of the ledger's tables read back as they were written.

use num_bigint::BigInt;
use proptest::{collection::vec, option, prelude::*, sample::select};
use tributary::{
    ledger::rows::{Cause, DiscountTerms, ItemDiscount, ItemState, LedgerEntry, Movement, MovementKind},
    money::{Amount, PeriodAmount, Rational},
    stripe::types::{Interval, Scope},
    tables::{read, rows},
    time::EventTime,
};

fn id() -> impl Strategy<Value = String> {
    "[a-z]{2,4}_[A-Za-z0-9]{1,8}"
}

fn scope() -> impl Strategy<Value = Scope> {
    (id(), any::<bool>()).prop_map(|(account, livemode)| Scope { account: account.as_str().into(), livemode })
}

fn time() -> impl Strategy<Value = EventTime> {
    (0..253_402_300_799_000_000_i64).prop_map(EventTime::from_micros)
}

fn amount() -> impl Strategy<Value = Amount> {
    (-10_i128.pow(24)..10_i128.pow(24)).prop_map(Amount::from_micros)
}

fn period() -> impl Strategy<Value = PeriodAmount> {
    (-10_i128.pow(27)..10_i128.pow(27)).prop_map(PeriodAmount::from_picos)
}

fn quantity() -> impl Strategy<Value = Rational> {
    (-10_i128.pow(24)..10_i128.pow(24))
        .prop_map(|picos| Rational::new(BigInt::from(picos), BigInt::from(1_000_000_000_000_i64)))
}

fn fraction() -> impl Strategy<Value = Rational> {
    (0..10_000_i64, 1..10_000_i64).prop_map(|(above, below)| Rational::new(above.into(), below.into()))
}

fn interval() -> impl Strategy<Value = Interval> {
    select(vec![Interval::Day, Interval::Week, Interval::Month, Interval::Year])
}

fn cause() -> impl Strategy<Value = Cause> {
    select(Cause::ALL.to_vec())
}

fn discount() -> impl Strategy<Value = ItemDiscount> {
    let terms = (
        id(),
        select(vec!["forever", "repeating", "once", "daily"]),
        option::of(fraction()),
        option::of(period()),
        vec(id(), 0..3),
        option::of(time()),
        option::of(time()),
    )
        .prop_map(|(coupon, duration, percent_off, amount_off, applies_to, start, end)| DiscountTerms {
            coupon: coupon.as_str().into(),
            duration: duration.into(),
            percent_off,
            amount_off,
            applies_to: applies_to.iter().map(|product| product.as_str().into()).collect(),
            start,
            end,
        });
    (select(vec!["item", "subscription", "customer"]), id(), option::of(terms))
        .prop_map(|(level, id, terms)| ItemDiscount { level: level.into(), id: id.as_str().into(), terms })
}

fn state() -> impl Strategy<Value = ItemState> {
    let who = (scope(), time(), time(), id(), id(), id(), 1..9_u32, 0..20_u32);
    let what = (id(), option::of(id()), any::<bool>(), vec(id(), 0..3), option::of(interval()), 1..24_u32);
    let worth = (option::of(quantity()), option::of(period()), option::of(fraction()), vec(discount(), 0..3));
    let rest =
        (option::of(time()), option::of(time()), option::of(select(vec!["chain", "lifecycle", "arbitrary"])), id());
    (who, what, worth, rest).prop_map(|(who, what, worth, rest)| ItemState {
        scope: who.0,
        valid_from: who.1,
        known_at: who.2,
        customer_id: who.3.as_str().into(),
        subscription_id: who.4.as_str().into(),
        subscription_item_id: who.5.as_str().into(),
        revision: who.6,
        position: who.7,
        price_id: what.0.as_str().into(),
        product_id: what.1.as_deref().map(Into::into),
        currency: what.2.then(|| "eur".parse().unwrap()),
        status: "active".into(),
        flags: what.3.iter().map(|flag| flag.as_str().into()).collect(),
        interval: what.4,
        interval_count: what.5,
        quantity: worth.0,
        list_amount: worth.1,
        net_share: worth.2,
        discounts: worth.3,
        trial_end: rest.0,
        started_at: rest.1,
        order_evidence: rest.2,
        provenance: "event".into(),
        event_id: rest.3.as_str().into(),
    })
}

fn entry() -> impl Strategy<Value = LedgerEntry> {
    let who = (scope(), id(), time(), time(), option::of(id()), id(), id(), id());
    let what = (id(), option::of(id()), cause(), vec(cause(), 0..4), interval(), 1..24_u32);
    let change =
        (select(vec!["start", "end", "change", "imported"]), amount(), amount(), amount(), quantity(), vec(id(), 0..3));
    (who, what, change).prop_map(|(who, what, change)| LedgerEntry {
        scope: who.0,
        entry_id: who.1.into(),
        event_time: who.2,
        known_at: who.3,
        reverses_entry_id: who.4.map(Into::into),
        customer_id: who.5.as_str().into(),
        subscription_id: who.6.as_str().into(),
        subscription_item_id: who.7.as_str().into(),
        price_id: what.0.as_str().into(),
        product_id: what.1.as_deref().map(Into::into),
        currency: "usd".parse().unwrap(),
        change: change.0.into(),
        cause: what.2,
        causes: what.3,
        interval: what.4,
        interval_count: what.5,
        list_delta: change.1,
        discount_delta: change.2,
        mrr_delta: change.3,
        quantity_delta: change.4,
        event_ids: change.5.iter().map(|event| event.as_str().into()).collect(),
    })
}

fn movement() -> impl Strategy<Value = Movement> {
    let kinds = vec![
        MovementKind::Imported,
        MovementKind::New,
        MovementKind::Reactivation,
        MovementKind::Expansion,
        MovementKind::Contraction,
        MovementKind::Churn,
    ];
    let who = (scope(), id(), 1..9_i64, time(), id());
    let what = (select(kinds), cause(), vec(cause(), 1..4), amount(), amount(), amount(), vec(id(), 0..3));
    (who, what).prop_map(|(who, what)| Movement {
        scope: who.0,
        movement_id: who.1.into(),
        revision: who.2,
        occurred_at: who.3,
        customer_id: who.4.as_str().into(),
        currency: "jpy".parse().unwrap(),
        kind: what.0,
        cause: what.1,
        causes: what.2,
        mrr_before: what.3,
        mrr_after: what.4,
        mrr_delta: what.5,
        event_ids: what.6.iter().map(|event| event.as_str().into()).collect(),
    })
}

proptest! {
    #[test]
    fn item_states_read_back(states in vec(state(), 0..20)) {
        prop_assert_eq!(read::item_states(&rows::item_states(&states).unwrap()).unwrap(), states);
    }

    #[test]
    fn entries_read_back(entries in vec(entry(), 0..20)) {
        prop_assert_eq!(read::mrr_ledger(&rows::mrr_ledger(&entries).unwrap()).unwrap(), entries);
    }

    #[test]
    fn movements_read_back(movements in vec(movement(), 0..20)) {
        prop_assert_eq!(read::mrr_movements(&rows::mrr_movements(&movements).unwrap()).unwrap(), movements);
    }
}

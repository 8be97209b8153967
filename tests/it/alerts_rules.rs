//! What alert rules decide: pure functions, checked over all histories that are likely to matter.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use serde::Deserialize;
use tributary::{
    act::{
        Change, ExpansionRow,
        alert::Kind,
        rules::{Decision, MinAmount, Relation, Rule, Statement, UNEARNED, decide, due},
    },
    ledger::rows::Cause,
    money::Amount,
    time::EventTime,
};

const ACTIVATED: i64 = 1_790_000_000;

fn rule(min_amount: MinAmount) -> Rule {
    Rule {
        name: "expansions".to_owned(),
        relation: Relation::ExpansionEvents,
        min_amount,
        webhooks: vec!["crm".to_owned()],
        max_age: Duration::from_secs(3600),
        test_mode: false,
        unearned: false,
    }
}

fn any(whole: i128) -> MinAmount {
    MinAmount::Any(Amount::from_micros(whole * 1_000_000))
}

/// An expansion from 100 by `delta`; none when `delta` is 0.
fn row(delta: u8, revision: i64) -> Option<ExpansionRow> {
    let units = |whole: i128| Amount::from_micros(whole * 1_000_000);
    (delta > 0).then(|| ExpansionRow {
        account: "acct_1".into(),
        livemode: true,
        movement_id: "m1".into(),
        revision,
        occurred_at: EventTime::from_seconds(ACTIVATED),
        customer_id: "cus_1".into(),
        currency: "eur".parse().unwrap(),
        mrr_before: units(100),
        mrr_after: units(100 + i128::from(delta)),
        mrr_delta: units(delta.into()),
        pct_change: None,
        cause: "plan_change".to_owned(),
    })
}

#[test]
fn growth_that_nobody_earned_alerts_only_where_a_rule_asks_for_it() {
    let earned = row(50, 1).unwrap();
    let asks = Rule { unearned: true, ..rule(any(2)) };
    for cause in UNEARNED {
        let unearned = ExpansionRow { cause: cause.to_owned(), ..earned.clone() };
        assert!(!rule(any(2)).matches(&unearned), "{cause}");
        assert!(asks.matches(&unearned), "{cause}");
    }
    assert!(rule(any(2)).matches(&earned) && asks.matches(&earned));
    assert_ne!(rule(any(2)).fingerprint(), asks.fingerprint());
    assert_eq!(UNEARNED, [Cause::DiscountEnd.as_str(), Cause::CurrencyChange.as_str()]);
}

/// A receiver and what it was told.
struct Receiver {
    rule: Rule,
    said: Vec<Statement>,
}

impl Receiver {
    fn new() -> Self {
        Self { rule: rule(any(2)), said: Vec::new() }
    }

    fn offer(&mut self, change: &Change, now: i64) {
        let (activated_at, now) = (EventTime::from_seconds(ACTIVATED), EventTime::from_seconds(now));
        if let Decision::Say(alert) = decide(&self.rule, change, &self.said, activated_at, now).unwrap() {
            let first = self.said.first().map(|statement| statement.id.clone());
            let kind = if first.is_none() { Kind::Expansion } else { Kind::Corrected };
            assert_eq!(alert.kind, kind);
            assert_eq!(alert.reference.map(|reference| reference.first), first, "corrections refer to the first");
            self.said.push(Statement { id: alert.id, revision: alert.revision, row: alert.row });
        }
    }

    fn offer_all(&mut self, changes: &[Change]) {
        for change in changes {
            self.offer(change, ACTIVATED);
        }
    }

    fn knows(&self) -> Option<Option<Amount>> {
        self.said.last().map(|statement| statement.row.as_ref().map(|row| row.mrr_delta))
    }
}

/// A history of states as changes, each with the next revision as the ledger counts them.
fn history(states: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut before, mut revision) = (0, 0);
    for &after in states {
        if after != before {
            changes.push(Change { before: row(before, revision), after: row(after, revision + 1) });
            (before, revision) = (after, revision + 1);
        }
    }
    changes
}

/// The same history as an engine sees it that takes `size` changes at once.
fn coalesced(changes: &[Change], size: usize) -> Vec<Change> {
    let together = |part: &[Change]| Change {
        before: part.first().and_then(|change| change.before.clone()),
        after: part.last().and_then(|change| change.after.clone()),
    };
    changes.chunks(size).map(together).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_receiver_that_was_told_once_knows_the_truth_and_replays_tell_it_nothing(
        states in prop::collection::vec(0_u8..4, 1..12),
        size in 1_usize..4,
        replayed_from in 0_usize..12,
        other_size in 1_usize..4,
    ) {
        let all = history(&states);
        let offered = coalesced(&all, size);
        let mut receiver = Receiver::new();
        receiver.offer_all(&offered);
        let truth = row(states[states.len() - 1], 1).map(|row| row.mrr_delta);
        let told = offered.iter().any(|change| change.after.as_ref().is_some_and(|row| receiver.rule.matches(row)));
        prop_assert_eq!(receiver.knows(), told.then_some(truth));

        // The last changes again, as after a crash.
        let known = receiver.said.len();
        receiver.offer_all(&offered[replayed_from.min(offered.len())..]);
        prop_assert_eq!(receiver.said.len(), known);

        // All of it again, cut differently.
        if told {
            receiver.offer_all(&coalesced(&all, other_size));
            prop_assert_eq!(receiver.knows(), Some(truth));
        }
        let ids: BTreeSet<&str> = receiver.said.iter().map(|statement| statement.id.as_str()).collect();
        prop_assert_eq!(ids.len(), receiver.said.len());
    }
}

#[test]
fn rows_are_due_from_the_second_of_the_activation_until_they_are_too_old() {
    let at = EventTime::from_seconds;
    let due = |occurred_at, now| due(&rule(any(1)), occurred_at, EventTime::from_millis(ACTIVATED * 1_000 + 700), now);
    assert!(due(at(ACTIVATED), at(ACTIVATED + 1)), "Stripe's times are whole seconds");
    assert!(!due(at(ACTIVATED - 1), at(ACTIVATED + 1)));
    assert!(due(at(ACTIVATED), at(ACTIVATED + 3600)));
    assert!(!due(at(ACTIVATED), at(ACTIVATED + 3601)));
    assert!(due(at(ACTIVATED + 5), at(ACTIVATED)), "a clock that is behind does not silence");
}

#[test]
fn a_correction_is_sent_however_old_the_movement_is_and_a_late_first_alert_is_not() {
    let changes = history(&[3, 0]);
    let mut late = Receiver::new();
    late.offer(&changes[0], ACTIVATED + 3601);
    assert_eq!(late.knows(), None);
    let mut known = Receiver::new();
    known.offer(&changes[0], ACTIVATED);
    known.offer(&changes[1], ACTIVATED + 86_400);
    assert_eq!(known.knows(), Some(None));
}

#[test]
fn a_rebuild_that_counts_revisions_anew_still_corrects() {
    let mut receiver = Receiver::new();
    receiver.offer_all(&history(&[2, 3, 2]));
    let rebuilt = Change { before: row(2, 1), after: row(4, 2) };
    receiver.offer(&rebuilt, ACTIVATED);
    assert_eq!(receiver.knows(), Some(row(4, 2).map(|row| row.mrr_delta)));
}

#[test]
fn amounts_are_read_exactly_and_by_currency() {
    #[derive(Deserialize)]
    struct Setting {
        min_amount: MinAmount,
    }
    let read = |json: &str| serde_json::from_str::<Setting>(json).map(|setting| setting.min_amount);
    assert_eq!(read(r#"{"min_amount": "99.50"}"#).unwrap(), MinAmount::Any(Amount::from_micros(99_500_000)));
    assert_eq!(read(r#"{"min_amount": 100}"#).unwrap(), any(100));
    let by_currency = read(r#"{"min_amount": {"EUR": "2", "jpy": 500}}"#).unwrap();
    assert!(read(r#"{"min_amount": 99.5}"#).is_err(), "a float is not exact");
    assert!(read(r#"{"min_amount": {"euro": "2"}}"#).is_err());

    let rule = rule(by_currency);
    let euros = row(2, 1).unwrap();
    assert!(rule.matches(&euros));
    assert!(!rule.matches(&ExpansionRow { currency: "jpy".parse().unwrap(), ..euros.clone() }));
    assert!(!rule.matches(&ExpansionRow { currency: "usd".parse().unwrap(), ..euros }), "not listed");
}

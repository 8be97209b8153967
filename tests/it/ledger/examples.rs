//! What the page says in words of single settings, each as a small history.

use tributary::{
    ledger::{Profile, Rules, ScheduledCancellation},
    stripe::types::*,
};

use super::book::*;

/// A fixed term of 75 days, billed each 30: the period that reaches its end begins on day 60.
fn term() -> Script {
    let period = |days: i64| {
        let mut state = Subscription { cancel_at: Some(at(75 * DAY)), ..plan() };
        state.items[0].current_period_end = Some(at(days * DAY));
        state
    };
    let mut script = Script::default();
    script.created(0, &period(30)).updated(30 * DAY, &period(60)).updated(60 * DAY, &period(75));
    script.deleted(75 * DAY, &period(75));
    script
}

#[test]
fn a_fixed_term_leaves_when_a_renewal_brings_its_end_into_the_period() {
    let at_request = book(Rules::default(), &term());
    assert_eq!(
        at_request.moved(),
        [
            short(0, "new", "added_subscription", "100.000000 usd", "100.000000 usd"),
            short(60 * DAY, "churn", "canceled", "-100.000000 usd", "0.000000 usd"),
        ]
    );
    assert!(at_request.states[0].flags.contains(&"fixed_term".into()));
    assert!(at_request.states.iter().any(|state| state.flags.contains(&"cancel_scheduled".into())));
}

#[test]
fn where_a_cancellation_leaves_at_the_end_a_fixed_term_is_committed_until_its_last_period() {
    let at_end = Rules { scheduled_cancellation: ScheduledCancellation::LeavesAtEnd, ..Rules::default() };
    let book = book(at_end, &term());
    assert_eq!(
        book.moved(),
        [
            short(0, "new", "added_subscription", "100.000000 usd", "100.000000 usd"),
            short(75 * DAY, "churn", "canceled", "-100.000000 usd", "0.000000 usd"),
        ]
    );
    assert_eq!(
        book.outlook("cancel_scheduled"),
        [(60 * DAY, "start", "canceled", "100.000000"), (75 * DAY, "end", "canceled", "-100.000000")].map(owned)
    );
}

#[test]
fn paused_collection_leaves_and_resumes_where_it_does_not_count() {
    let paused = Subscription { pause_collection: Some("void".into()), ..plan() };
    let mut script = Script::default();
    script.created(0, &plan()).updated(DAY, &paused).updated(3 * DAY, &plan());
    for rules in
        [Rules::of(Profile::Profitwell), Rules { count_paused_collection: false, ..Rules::of(Profile::Stripe) }]
    {
        assert_eq!(
            book(rules, &script).moved()[1..],
            [
                short(DAY, "churn", "pause", "-100.000000 usd", "0.000000 usd"),
                short(3 * DAY, "reactivation", "resume", "100.000000 usd", "100.000000 usd"),
            ]
        );
    }
    for profile in [Profile::Stripe, Profile::Chartmogul] {
        assert_eq!(book(Rules::of(profile), &script).moved().len(), 1, "{profile:?} keeps it in");
    }
}

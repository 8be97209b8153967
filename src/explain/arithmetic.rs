//! What an item is worth a month, as a sum that a person can check: `3 × 29.00 × 12/12 − 10 % = 78.30`.
//!
//! Quantity × unit amount × months in a billing period − discounts in Stripe's order × the share that is not tax. Every
//! intermediate value is the ledger's own: the item is valued with its first discount, its first two, and so on.

use std::collections::BTreeMap;

use num_traits::Zero;
use serde::Serialize;

use crate::{
    ledger::{
        Error, Rules, review,
        rows::{DiscountTerms, ItemDiscount, ItemState, flag},
    },
    money::{Amount, Currency, Rational, exact},
    time::EventTime,
};

/// Stripe's status of a subscription that pays.
const ACTIVE: &str = "active";

/// How an item's worth is worked out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Arithmetic {
    /// The sum, with its result; `None` while the price is not known.
    pub sum: Option<String>,
    /// What the item is worth a month if it counts.
    pub worth: Option<String>,
    /// What it counts for: the worth, or 0.
    pub counts: String,
    /// Why it counts for nothing.
    pub out: Option<String>,
    /// Discounts that the rules do not take off, or that are not in force.
    pub left_out: Vec<String>,
}

/// The arithmetic of `state`, one of the `items` of its subscription at that time, under `rules`. `pricing` says how
/// prices are worked out that are more than an amount a unit.
///
/// # Errors
/// [`Error::Overflow`].
pub fn of(
    state: &ItemState,
    items: &[&ItemState],
    rules: &Rules,
    pricing: &BTreeMap<String, String>,
) -> Result<Arithmetic, Error> {
    let counted = value(state, items, rules, None)?.map_or(Amount::ZERO, |value| value.mrr);
    let mut left_out = Vec::new();
    let currency = state.currency;
    let gone = [flag::REMOVED, flag::DELETED].iter().find(|word| has(state, word));
    let whole = match gone {
        Some(_) => None,
        None => value(state, items, rules, Some(state.discounts.len()))?,
    };
    let out = counted.is_zero().then(|| why_not(state, rules, whole.is_some())).flatten();
    let (Some(currency), Some(whole)) = (currency, whole) else {
        let counts = currency.map_or_else(|| counted.to_string(), |currency| short(counted, currency));
        return Ok(Arithmetic { sum: None, worth: None, counts, out, left_out });
    };
    let mut sum = list_text(state, currency, pricing);
    if let (Some(interval), count) = (state.interval, state.interval_count) {
        sum += &format!(" × {}", twelfths(&exact(rules.monthly_share(interval, count))));
    }
    let mut before = value(state, items, rules, Some(0))?.map_or(Amount::ZERO, |value| value.mrr);
    for (index, discount) in state.discounts.iter().enumerate() {
        let after = value(state, items, rules, Some(index + 1))?.map_or(before, |value| value.mrr);
        let taken = Amount::from_micros(before.micros() - after.micros());
        if taken.is_zero() {
            left_out.push(not_taken(discount, state.valid_from, rules));
        } else {
            sum += &taken_text(discount, taken, currency);
        }
        before = after;
    }
    if let Some(share) = &state.net_share {
        sum += &format!(" × {share} without tax");
    }
    sum += &format!(" = {}", short(whole.mrr, currency));
    let worth = short(whole.mrr, currency);
    Ok(Arithmetic { sum: Some(sum), worth: Some(worth), counts: short(counted, currency), out, left_out })
}

struct Worth {
    mrr: Amount,
}

/// What the ledger values the item at; with `discounts`, as if it paid and had only so many of its discounts.
fn value(
    state: &ItemState,
    items: &[&ItemState],
    rules: &Rules,
    discounts: Option<usize>,
) -> Result<Option<Worth>, Error> {
    let until = state.valid_from;
    let others = items.iter().filter(|item| item.subscription_item_id != state.subscription_item_id);
    let states: Vec<ItemState> = std::iter::once(&state)
        .chain(others)
        .map(|item| {
            let mut one = (*item).clone();
            one.valid_from = until;
            // Where a start before its event counts from does not change what the item is worth.
            one.started_at = None;
            one.provenance = "event".into();
            if let Some(discounts) = discounts {
                one.status = ACTIVE.into();
                let about_status = [flag::CANCEL_SCHEDULED, flag::COLLECTION_PAUSED, flag::TRIAL, flag::PAYMENT_FAILED];
                one.flags.retain(|word| !about_status.contains(&&**word));
                if one.subscription_item_id == state.subscription_item_id {
                    one.discounts.truncate(discounts);
                }
            } else {
                one.status = state.status.clone();
            }
            one
        })
        .collect();
    let entries = review::count(&states, rules, until)?.entries;
    let own = entries.iter().filter(|entry| entry.subscription_item_id == state.subscription_item_id);
    let own: Vec<_> = own.filter(|entry| entry.event_time == until).collect();
    if own.is_empty() {
        return Ok(None);
    }
    Ok(Some(Worth { mrr: own.iter().map(|entry| entry.mrr_delta).sum() }))
}

/// `3 × 29.00`, or the whole where a unit has no amount of its own.
fn list_text(state: &ItemState, currency: Currency, pricing: &BTreeMap<String, String>) -> String {
    let Some(list) = state.list_amount else { return "?".to_owned() };
    let list = Rational::new(list.picos().into(), 1_000_000_000_000_i64.into());
    let quantity = state.quantity.clone().unwrap_or_else(|| Rational::from_integer(1.into()));
    let units = decimal(&quantity, 0);
    if let Some(words) = pricing.get(state.price_id.as_str()) {
        return format!("{} ({units} in {words})", decimal(&list, places(currency)));
    }
    if quantity.is_zero() {
        return format!("{units} × ?");
    }
    let unit = &list / &quantity;
    let text = decimal(&unit, places(currency));
    match crate::money::parse_decimal(&text) {
        Ok(shown) if shown == unit => format!("{units} × {text}"),
        _ => format!("{} ({units} units)", decimal(&list, places(currency))),
    }
}

fn taken_text(discount: &ItemDiscount, taken: Amount, currency: Currency) -> String {
    let Some(terms) = &discount.terms else { return String::new() };
    let name = format!("{}, {}", terms.coupon, terms.duration);
    match (&terms.percent_off, &terms.amount_off) {
        (Some(percent), _) => format!(" − {} % ({name})", decimal(percent, 0)),
        (None, Some(amount)) => {
            let whole = Rational::new(amount.picos().into(), 1_000_000_000_000_i64.into());
            let whole = decimal(&whole, places(currency));
            format!(" − {} ({name}: its share of {whole} an invoice)", short(taken, currency))
        }
        (None, None) => format!(" − {} ({name})", short(taken, currency)),
    }
}

/// Why a discount takes nothing.
fn not_taken(discount: &ItemDiscount, at: EventTime, rules: &Rules) -> String {
    let Some(terms) = &discount.terms else {
        return format!("discount {}: what it takes off is not known", discount.id);
    };
    let DiscountTerms { coupon, duration, start, end, .. } = terms;
    let why = if start.is_some_and(|start| start > at) {
        "not in force yet"
    } else if end.is_some_and(|end| end <= at) {
        "over"
    } else if !rules.subtracts(&duration_of(duration)) {
        "not taken off under these rules"
    } else {
        "not for this item"
    };
    format!("coupon {coupon} ({duration}): {why}")
}

fn duration_of(word: &str) -> crate::stripe::types::CouponDuration {
    use crate::stripe::types::CouponDuration;
    match word {
        "forever" => CouponDuration::Forever,
        "repeating" => CouponDuration::Repeating,
        "once" => CouponDuration::Once,
        other => CouponDuration::Other(other.to_owned()),
    }
}

/// Why an item counts for nothing; `None` where it is simply worth nothing.
fn why_not(state: &ItemState, rules: &Rules, priced: bool) -> Option<String> {
    let status = &*state.status;
    let words = if has(state, flag::REMOVED) {
        "taken off the subscription"
    } else if has(state, flag::DELETED) {
        "ended"
    } else if has(state, flag::METERED) {
        "metered: usage is not recurring revenue"
    } else if status == "trialing" {
        "in a trial"
    } else if status != ACTIVE && status != "past_due" {
        return Some(format!("its status is {status}"));
    } else if has(state, flag::CANCEL_SCHEDULED)
        && rules.scheduled_cancellation == crate::ledger::ScheduledCancellation::LeavesAtRequest
    {
        "scheduled to be cancelled"
    } else if has(state, flag::COLLECTION_PAUSED) && !rules.count_paused_collection {
        "collection is paused"
    } else if !priced {
        "its price is not known"
    } else {
        return None;
    };
    Some(words.to_owned())
}

pub(super) fn has(state: &ItemState, word: &str) -> bool {
    state.flags.iter().any(|flag| &**flag == word)
}

/// Twelfths where that is a whole number of them: a year is 1/12 of a month's worth, a month 12/12, a week 52/12.
fn twelfths(share: &Rational) -> String {
    let twelve = share * Rational::from_integer(12.into());
    if twelve.is_integer() {
        format!("{}/12", twelve.to_integer())
    } else {
        format!("{}/{}", share.numer(), share.denom())
    }
}

fn places(currency: Currency) -> usize {
    currency.exponent() as usize
}

/// An amount with no more zeros than its currency has places.
#[must_use]
pub fn short(amount: Amount, currency: Currency) -> String {
    trim(&amount.to_string(), places(currency))
}

/// A number with at most twelve places and at least `least`.
fn decimal(value: &Rational, least: usize) -> String {
    let scaled = crate::money::round_half_even(&(value * Rational::from_integer(1_000_000_000_000_i64.into())));
    let sign = if scaled.sign() == num_bigint::Sign::Minus { "-" } else { "" };
    let digits = format!("{:0>13}", scaled.magnitude().to_string());
    let (whole, fraction) = digits.split_at(digits.len() - 12);
    trim(&format!("{sign}{whole}.{fraction}"), least)
}

fn trim(text: &str, least: usize) -> String {
    let Some((whole, fraction)) = text.split_once('.') else { return text.to_owned() };
    let kept = fraction.trim_end_matches('0').len().max(least);
    if kept == 0 { whole.to_owned() } else { format!("{whole}.{}", &fraction[..kept]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        money::PeriodAmount,
        stripe::types::{Interval, Scope},
    };

    fn state(item: &str, quantity: i64, list: i128, interval: Interval) -> ItemState {
        ItemState {
            scope: Scope { account: "acct".into(), livemode: true },
            valid_from: EventTime::from_seconds(1_000),
            known_at: EventTime::from_seconds(1_000),
            customer_id: "cus_1".into(),
            subscription_id: "sub_1".into(),
            subscription_item_id: item.into(),
            revision: 1,
            position: 0,
            price_id: "price_1".into(),
            product_id: Some("prod_1".into()),
            currency: Some("usd".parse().unwrap()),
            status: ACTIVE.into(),
            flags: Vec::new(),
            interval: Some(interval),
            interval_count: 1,
            quantity: Some(Rational::from_integer(quantity.into())),
            list_amount: Some(PeriodAmount::from_picos(list * 10_000_000_000)),
            net_share: None,
            discounts: Vec::new(),
            trial_end: None,
            started_at: None,
            order_evidence: None,
            provenance: "event".into(),
            event_id: "evt_1".into(),
        }
    }

    fn coupon(level: &str, percent: Option<i64>, minor: Option<i128>, duration: &str) -> ItemDiscount {
        ItemDiscount {
            level: level.into(),
            id: format!("di_{duration}_{minor:?}").as_str().into(),
            terms: Some(DiscountTerms {
                coupon: "SUMMER".into(),
                duration: duration.into(),
                percent_off: percent.map(|percent| Rational::from_integer(percent.into())),
                amount_off: minor.map(|minor| PeriodAmount::from_picos(minor * 10_000_000_000)),
                applies_to: Vec::new(),
                start: None,
                end: None,
            }),
        }
    }

    fn sum(state: &ItemState, items: &[&ItemState]) -> Arithmetic {
        of(state, items, &Rules::default(), &BTreeMap::new()).unwrap()
    }

    #[test]
    fn a_sum_shows_quantity_unit_interval_discounts_tax_and_result() {
        let mut monthly = state("si_1", 3, 8_700, Interval::Month);
        assert_eq!(sum(&monthly, &[]).sum.unwrap(), "3 × 29.00 × 12/12 = 87.00");
        monthly.discounts = vec![coupon("item", Some(10), None, "forever"), coupon("item", Some(50), None, "once")];
        let shown = sum(&monthly, &[]);
        assert_eq!(shown.sum.unwrap(), "3 × 29.00 × 12/12 − 10 % (SUMMER, forever) = 78.30");
        assert_eq!(
            (shown.counts.as_str(), shown.left_out),
            ("78.30", vec!["coupon SUMMER (once): not taken off under these rules".to_owned()])
        );
        let mut yearly = state("si_1", 1, 119_000, Interval::Year);
        yearly.net_share = Some(Rational::new(100.into(), 119.into()));
        assert_eq!(sum(&yearly, &[]).sum.unwrap(), "1 × 1190.00 × 1/12 × 100/119 without tax = 83.333333");
        let weekly = state("si_1", 1, 2_000, Interval::Week);
        assert_eq!(sum(&weekly, &[]).sum.unwrap(), "1 × 20.00 × 52/12 = 86.666667");
        let odd = state("si_1", 3, 10_000, Interval::Month);
        assert_eq!(sum(&odd, &[]).sum.unwrap(), "100.00 (3 units) × 12/12 = 100.00");
        let tiers = BTreeMap::from([("price_1".to_owned(), "volume tiers".to_owned())]);
        let tiered = of(&state("si_1", 500, 5_000, Interval::Month), &[], &Rules::default(), &tiers).unwrap();
        assert_eq!(tiered.sum.unwrap(), "50.00 (500 in volume tiers) × 12/12 = 50.00");
    }

    #[test]
    fn an_amount_off_the_invoice_shows_the_items_share() {
        let off = || coupon("subscription", None, Some(5_000), "forever");
        let (mut one, mut other) =
            (state("si_1", 1, 10_000, Interval::Month), state("si_2", 1, 30_000, Interval::Month));
        (one.discounts, other.discounts) = (vec![off()], vec![off()]);
        other.position = 1;
        let items = [&one, &other];
        let shown = sum(&one, &items).sum.unwrap();
        assert_eq!(shown, "1 × 100.00 × 12/12 − 12.50 (SUMMER, forever: its share of 50.00 an invoice) = 87.50");
        assert_eq!(sum(&other, &items).worth.unwrap(), "262.50");
    }

    #[test]
    fn what_does_not_count_says_why_and_what_it_would_be_worth() {
        let mut trial = state("si_1", 2, 2_000, Interval::Month);
        trial.status = "trialing".into();
        trial.flags = vec![flag::TRIAL.into()];
        let shown = sum(&trial, &[]);
        assert_eq!((shown.worth.as_deref(), shown.counts.as_str()), (Some("20.00"), "0.00"));
        assert_eq!(shown.out.as_deref(), Some("in a trial"));
        let mut leaving = state("si_1", 1, 2_000, Interval::Month);
        leaving.flags = vec![flag::CANCEL_SCHEDULED.into()];
        assert_eq!(sum(&leaving, &[]).out.as_deref(), Some("scheduled to be cancelled"));
        let mut unknown = state("si_1", 1, 2_000, Interval::Month);
        (unknown.list_amount, unknown.interval) = (None, None);
        let shown = sum(&unknown, &[]);
        assert_eq!((shown.sum, shown.out.as_deref()), (None, Some("its price is not known")));
    }
}

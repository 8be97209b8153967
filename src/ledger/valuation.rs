//! What a state of a subscription is worth a month: list value, value after discounts and tax, item by item.
//!
//! A pure function of the state, its parts, the instant and the rules. Values are exact until they are rounded, once,
//! half-even, to six places. What cannot be valued is named, never 0.

use std::{collections::BTreeMap, hash::Hasher, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    catalogue::Need,
    content::{Content, Quantity},
    discounts::{self, Line, Taken},
    hash::Fingerprint,
    packing::{packed, packed_words},
    parts::{Part, Tax, Unpriced},
    rows::Measure,
    rules::{Rules, ScheduledCancellation},
};
use crate::{
    money::{Amount, Currency, Factor, Rational, exact},
    stripe::{
        ids::{PriceId, ProductId, SubscriptionItemId},
        types::{Interval, SubscriptionStatus},
    },
    time::EventTime,
};

/// What an item is worth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Value {
    pub(crate) item: SubscriptionItemId,
    pub(crate) price: PriceId,
    pub(crate) product: Option<ProductId>,
    pub(crate) currency: Currency,
    pub(crate) cadence: (Interval, u32),
    pub(crate) quantity: Quantity,
    /// A month, before discounts, without tax.
    pub(crate) list: Amount,
    /// A month, after the discounts that the rules subtract, without tax.
    pub(crate) mrr: Amount,
    /// Tells one set of subtracted discounts from another; 0 for none.
    pub(crate) discounts: u64,
    /// When the last record that the value rests on, beside the snapshot, was appended.
    pub(crate) known_at: EventTime,
}

packed!(Value { item, price, product, currency, cadence, quantity, list, mrr, discounts, known_at });

/// What a state is worth, and until when that holds without another event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Valued {
    /// `None` before the first snapshot.
    pub(crate) content: Option<Arc<Content>>,
    /// The subscription or its customer was deleted: nothing counts any more.
    pub(crate) ended: bool,
    /// What the subscription counts as, even if it is worth nothing.
    pub(crate) standing: Standing,
    /// The items that count, in Stripe's order.
    pub(crate) values: Vec<Value>,
    /// A fingerprint of every item's raw parts.
    pub(crate) prints: Vec<(SubscriptionItemId, u64)>,
    /// What has to become known for the rest.
    pub(crate) needs: Vec<Need>,
    /// When the next subtracted discount begins or ends.
    pub(crate) valid_until: Option<EventTime>,
}

packed!(Valued { content, ended, standing, values, prints, needs, valid_until });

/// What a subscription counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// Nothing.
    #[default]
    Out,
    /// Recurring revenue.
    Counted,
    /// Recurring revenue that is scheduled to leave.
    Leaving,
    /// A trial.
    Trial,
}

packed_words!(Standing { Out, Counted, Leaving, Trial });

impl Standing {
    /// Whether it is recurring revenue.
    pub(crate) fn is_counted(self) -> bool {
        matches!(self, Self::Counted | Self::Leaving)
    }
}

impl Valued {
    /// The values that add up to a figure.
    pub(crate) fn of(&self, measure: Measure) -> &[Value] {
        let belongs = match measure {
            Measure::Mrr => self.standing.is_counted(),
            Measure::CancelScheduled => self.standing == Standing::Leaving,
            Measure::Trial => self.standing == Standing::Trial,
        };
        if belongs { &self.values } else { &[] }
    }
}

/// Something that could not be counted: a stable reason and the object it concerns.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Gap {
    pub(crate) reason: &'static str,
    pub(crate) object_id: Arc<str>,
}

/// An item worth more than 10^15 a month is a mistake somewhere, and a gap: no sum of items can then overflow.
const MAX_ITEM_MICROS: u128 = 10_u128.pow(21);

/// What a subscription in this state counts as (revenue.md "What counts").
pub(crate) fn standing(content: &Content, ended: bool, rules: &Rules) -> Standing {
    if ended {
        return Standing::Out;
    }
    if content.status == SubscriptionStatus::Trialing {
        return Standing::Trial;
    }
    let leaves_now = content.cancel_scheduled && rules.scheduled_cancellation == ScheduledCancellation::LeavesAtRequest;
    let paused = content.collection_paused && !rules.count_paused_collection;
    if !rules.counts_status(&content.status) || leaves_now || paused {
        Standing::Out
    } else if content.cancel_scheduled {
        Standing::Leaving
    } else {
        Standing::Counted
    }
}

/// Values a state at `time` from its parts.
pub(crate) fn value(
    content: &Arc<Content>,
    ended: bool,
    parts: &[Part],
    prints: Vec<(SubscriptionItemId, u64)>,
    time: EventTime,
    rules: &Rules,
    gaps: &mut Vec<Gap>,
) -> Valued {
    let standing = standing(content, ended, rules);
    // Counted or not, its states have to become complete, whatever comes first.
    let needs = needs(parts);
    let mut valued = Valued { content: Some(Arc::clone(content)), ended, standing, prints, needs, ..Valued::default() };
    if standing == Standing::Out {
        if !ended && let SubscriptionStatus::Other(_) = content.status {
            gaps.push(Gap { reason: "status_unknown", object_id: content.status.as_str().into() });
        }
        return valued;
    }
    if content.items_truncated {
        gaps.push(Gap { reason: "items_truncated", object_id: first_item(content) });
    }
    valued.valid_until = parts.iter().filter_map(|part| part.valid_until).min();
    valued.values.reserve_exact(parts.len());
    let mut counted = Vec::with_capacity(parts.len());
    for part in parts.iter().filter(|part| !part.metered) {
        match list_value(part, rules) {
            Ok(value) => {
                if part.tax == Tax::Unknown {
                    gaps.push(Gap { reason: "tax_unknown", object_id: part.price.as_str().into() });
                }
                valued.values.push(value);
                counted.push(part);
            }
            Err(why) => gaps.push(Gap { reason: why.reason(), object_id: part.price.as_str().into() }),
        }
    }
    let discounted = counted.iter().any(|part| !part.discounts.is_empty());
    if discounted {
        subtract(&mut valued, &counted, time, rules, gaps);
    }
    if discounted || valued.values.iter().any(|value| value.list.micros().is_negative()) {
        // A shared discount and a credit depend on what the other items are worth, so on when that became known.
        let known_at = valued.values.iter().map(|value| value.known_at).max().unwrap_or(EventTime::MIN);
        valued.values.iter_mut().for_each(|value| value.known_at = known_at);
    }
    floor_at_zero(&mut valued.values);
    valued
}

/// The first item's id, to name a subscription whose items are not all known.
fn first_item(content: &Content) -> Arc<str> {
    content.items.first().map_or("", |item| item.id.as_str()).into()
}

/// What has to become known before all of the parts are.
fn needs(parts: &[Part]) -> Vec<Need> {
    let mut needs = Vec::new();
    for part in parts.iter().filter(|part| !part.metered) {
        if part.list.is_err() {
            needs.push(Need::Price(part.price.clone()));
        }
        for discount in &part.discounts {
            match &discount.terms {
                Err(need) => needs.push(need.clone()),
                Ok(terms) if terms.percent_off.is_none() && terms.amount_off.is_none() => {
                    needs.push(Need::Coupon(terms.coupon.clone()));
                }
                Ok(_) => {}
            }
        }
    }
    needs
}

fn list_value(part: &Part, rules: &Rules) -> Result<Value, Unpriced> {
    let list = part.list?;
    let currency = part.currency.ok_or(Unpriced::Currency)?;
    let cadence = part.cadence.ok_or(Unpriced::Price)?;
    let share = rules.monthly_share(cadence.0, cadence.1);
    let list = match &part.tax {
        Tax::Inclusive(net) => monthly(&(list.to_minor(currency) * net), share, currency)?,
        Tax::Exclusive | Tax::Unknown => list.times(share),
    };
    if list.micros().unsigned_abs() > MAX_ITEM_MICROS {
        return Err(Unpriced::Amount);
    }
    Ok(Value {
        item: part.item.clone(),
        price: part.price.clone(),
        product: part.product.clone(),
        currency,
        cadence,
        quantity: part.quantity.clone().unwrap_or(Quantity::Whole(1)),
        list,
        mrr: list,
        discounts: 0,
        known_at: part.known_at,
    })
}

/// Minor units of a billing period as an amount a month.
fn monthly(minor: &Rational, share: Factor, currency: Currency) -> Result<Amount, Unpriced> {
    Amount::from_minor(&(minor * exact(share)), currency).map_err(|_| Unpriced::Amount)
}

/// Takes the discounts that the rules subtract off the values. `counted` are the values' parts.
fn subtract(valued: &mut Valued, counted: &[&Part], time: EventTime, rules: &Rules, gaps: &mut Vec<Gap>) {
    let mut lines: Vec<Line<'_>> = counted.iter().filter_map(|part| Line::of(part)).collect();
    let outcome = discounts::apply(&mut lines, rules, time);
    for missing in outcome.unresolved {
        let gap = Gap { reason: "discount_unresolved", object_id: missing.object_id().into() };
        if !gaps.contains(&gap) {
            gaps.push(gap);
        }
    }
    valued.valid_until = valued.valid_until.into_iter().chain(outcome.valid_until).min();
    let mut prints = vec![None::<Fingerprint>; lines.len()];
    let mut known_at = vec![EventTime::MIN; lines.len()];
    for Taken { id, coupon, known_at: at, lines: taken } in &outcome.taken {
        for index in taken {
            prints[*index].get_or_insert_with(Fingerprint::new).text(id.as_str()).text(coupon.as_str());
            known_at[*index] = known_at[*index].max(*at);
        }
    }
    for (index, (value, line)) in valued.values.iter_mut().zip(&lines).enumerate() {
        let Some(print) = &prints[index] else { continue };
        let left = match &line.part.tax {
            Tax::Inclusive(net) => &line.left * net,
            Tax::Exclusive | Tax::Unknown => line.left.clone(),
        };
        if let Ok(mrr) = monthly(&left, rules.monthly_share(value.cadence.0, value.cadence.1), value.currency) {
            value.mrr = mrr;
            value.discounts = print.finish();
            value.known_at = value.known_at.max(known_at[index]);
        }
    }
}

/// A subscription is never worth less than nothing, though an item may be: credits shrink until the sum is 0
/// (docs/how-we-count.md "Discounts").
fn floor_at_zero(values: &mut [Value]) {
    if !values.iter().any(|value| value.mrr.micros().is_negative()) {
        return;
    }
    let mut sums: BTreeMap<Currency, i128> = BTreeMap::new();
    for value in values.iter() {
        *sums.entry(value.currency).or_default() += value.mrr.micros();
    }
    for value in values.iter_mut() {
        let Some(sum) = sums.get_mut(&value.currency).filter(|sum| sum.is_negative()) else {
            continue;
        };
        let raise = (-*sum).min(-value.mrr.micros()).max(0);
        value.mrr = Amount::from_micros(value.mrr.micros() + raise);
        *sum += raise;
    }
}

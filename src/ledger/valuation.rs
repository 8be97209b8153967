//! What a state of a subscription is worth a month: list value, value after discounts, item by item.
//!
//! A pure function of the state, the instant, the customer's own discounts, the catalogue and the rules. Values are
//! exact until they are rounded, once, half-even, to six places. What cannot be valued is named, never 0.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use num_bigint::BigInt;
use num_traits::Zero;
use serde::{Deserialize, Serialize};

use super::{
    catalogue::{Known, Need, PriceFacts, Shelf},
    content::{Content, Item, Quantity},
    discounts::{self, Line, Taken},
    hash::Fingerprint,
    rules::{Rules, ScheduledCancellation},
};
use crate::{
    money::{Amount, Currency, Rational},
    stripe::{
        ids::{DiscountId, PriceId, ProductId, SubscriptionItemId},
        types::{Interval, SubscriptionStatus, Tier, TiersMode, TransformQuantity},
    },
    time::EventTime,
};

/// What an item that counts is worth.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Value {
    pub(crate) item: SubscriptionItemId,
    pub(crate) price: PriceId,
    pub(crate) product: Option<ProductId>,
    pub(crate) currency: Currency,
    pub(crate) cadence: (Interval, u32),
    pub(crate) quantity: Quantity,
    /// A month, before discounts.
    pub(crate) list: Amount,
    /// A month, after the discounts that the rules subtract.
    pub(crate) mrr: Amount,
    /// Tells one set of subtracted discounts from another; 0 for none.
    pub(crate) discounts: u64,
    /// When the last record that the value rests on, beside the snapshot, was appended.
    pub(crate) known_at: EventTime,
}

/// What a state is worth, and until when that holds without another event.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Valued {
    /// `None` before the first snapshot.
    pub(crate) content: Option<Arc<Content>>,
    /// The subscription or its customer was deleted: nothing counts any more.
    pub(crate) ended: bool,
    /// Whether the subscription counts, even if it is worth nothing.
    pub(crate) counted: bool,
    /// The items that count, in Stripe's order.
    pub(crate) values: Vec<Value>,
    /// A fingerprint of every item's raw parts.
    pub(crate) parts: Vec<(SubscriptionItemId, u64)>,
    /// What has to become known for the rest.
    pub(crate) needs: Vec<Need>,
    /// When the next subtracted discount begins or ends.
    pub(crate) valid_until: Option<EventTime>,
}

/// Something that could not be counted: a stable reason and the object it concerns.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Gap {
    pub(crate) reason: &'static str,
    pub(crate) object_id: Arc<str>,
}

/// An item worth more than 10^15 a month is a mistake somewhere, and a gap: no sum of items can then overflow.
const MAX_ITEM_MICROS: u128 = 10_u128.pow(21);

/// List values already worked out for a price, a currency and a whole quantity. Never stored; dropped whenever the
/// catalogue changes.
#[derive(Default)]
pub(crate) struct Memo(HashMap<PriceId, Vec<(Currency, i64, Amount)>>);

/// Quantities remembered for one price: enough for seats of most plans, small enough to search.
const MEMO_QUANTITIES: usize = 64;

impl Memo {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn get(&self, price: &PriceId, currency: Currency, quantity: i64) -> Option<Amount> {
        let known = self.0.get(price)?;
        known.iter().find(|known| known.0 == currency && known.1 == quantity).map(|known| known.2)
    }

    fn put(&mut self, price: &PriceId, currency: Currency, quantity: i64, list: Amount) {
        let known = self.0.entry(price.clone()).or_default();
        if known.len() < MEMO_QUANTITIES {
            known.push((currency, quantity, list));
        }
    }
}

/// Why a price cannot be valued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unpriced {
    Price,
    Tiers,
    Currency,
    Amount,
}

impl Unpriced {
    fn reason(self) -> &'static str {
        match self {
            Self::Price => "price_unknown",
            Self::Tiers => "tiers_unknown",
            Self::Currency => "currency_unknown",
            Self::Amount => "amount_too_large",
        }
    }
}

/// Whether a subscription in this state counts.
pub(crate) fn counts(content: &Content, rules: &Rules) -> bool {
    rules.counts_status(&content.status)
        && !(content.cancel_scheduled && rules.scheduled_cancellation == ScheduledCancellation::LeavesAtRequest)
        && (rules.count_paused_collection || !content.collection_paused)
}

/// Values a state at `time`.
#[allow(clippy::too_many_arguments, reason = "everything that decides a value, and nothing hidden")]
pub(crate) fn value(
    content: &Arc<Content>,
    ended: bool,
    time: EventTime,
    customer_discounts: &[DiscountId],
    shelf: &Shelf,
    rules: &Rules,
    memo: &mut Memo,
    gaps: &mut Vec<Gap>,
) -> Valued {
    let counted = !ended && counts(content, rules);
    let mut valued = Valued { content: Some(Arc::clone(content)), ended, counted, ..Valued::default() };
    let shared = if content.discounts.is_empty() { customer_discounts } else { &content.discounts };
    for item in &content.items {
        valued.parts.push((item.id.clone(), parts(content, item, ended, shared, shelf.price(&item.price))));
    }
    if !counted {
        if !ended && let SubscriptionStatus::Other(_) = content.status {
            gaps.push(Gap { reason: "status_unknown", object_id: content.status.as_str().into() });
        }
        return valued;
    }
    if content.items_truncated {
        gaps.push(Gap { reason: "items_truncated", object_id: first_item(content) });
    }
    let discounted = !shared.is_empty() || content.items.iter().any(|item| !item.discounts.is_empty());
    valued.values.reserve_exact(content.items.len());
    let mut lines = Vec::new();
    for item in &content.items {
        let unpriced = |why: Unpriced, valued: &mut Valued, gaps: &mut Vec<Gap>| {
            valued.needs.push(Need::Price(item.price.clone()));
            gaps.push(Gap { reason: why.reason(), object_id: item.price.as_str().into() });
        };
        let Some(known) = shelf.price(&item.price) else {
            unpriced(Unpriced::Price, &mut valued, gaps);
            continue;
        };
        if known.value.price.metered {
            continue;
        }
        match list_value(content, item, known, time, rules, memo, discounted) {
            Ok((value, line)) => {
                if known.value.price.tax_inclusive == Some(true) {
                    gaps.push(Gap { reason: "tax_unknown", object_id: item.price.as_str().into() });
                }
                valued.values.push(value);
                lines.extend(line);
            }
            Err(why) => unpriced(why, &mut valued, gaps),
        }
    }
    if discounted {
        subtract(&mut valued, &mut lines, content, shared, time, shelf, rules, gaps);
    }
    floor_at_zero(&mut valued.values);
    valued
}

fn first_item(content: &Content) -> Arc<str> {
    content.items.first().map_or("", |item| item.id.as_str()).into()
}

/// A fingerprint of everything that `item_states` shows of an item.
fn parts(content: &Content, item: &Item, ended: bool, shared: &[DiscountId], known: Option<&Known<PriceFacts>>) -> u64 {
    let mut print = Fingerprint::new();
    print.text(content.status.as_str()).text(item.price.as_str());
    let flags = [ended, content.cancel_scheduled, content.fixed_term, content.collection_paused];
    print.number(flags.iter().fold(0, |bits, flag| bits * 2 + u64::from(*flag)));
    match &item.quantity {
        Some(Quantity::Whole(units)) => print.number(1).number(*units as u64),
        Some(Quantity::Exact(units)) => print.number(2).text(&units.to_string()),
        None => print.number(0),
    };
    for discount in item.discounts.iter().chain(shared) {
        print.text(discount.as_str());
    }
    let complete = known.is_some_and(|known| {
        known.value.price.interval.is_some()
            && (known.value.price.unit_amount.is_some() || known.value.price.tiers.is_some())
    });
    print.number(complete.into()).number(known.map_or(0, |known| known.value.revision().into()));
    std::hash::Hasher::finish(&print)
}

/// The currency an item is billed in: its subscription's, else its price's.
pub(crate) fn currency_of(content: &Content, facts: &PriceFacts) -> Option<Currency> {
    content.currency.or(facts.price.currency)
}

fn list_value(
    content: &Content,
    item: &Item,
    known: &Known<PriceFacts>,
    time: EventTime,
    rules: &Rules,
    memo: &mut Memo,
    discounted: bool,
) -> Result<(Value, Option<Line>), Unpriced> {
    let facts = &known.value;
    let currency = currency_of(content, facts).ok_or(Unpriced::Currency)?;
    let interval = facts.price.interval.ok_or(Unpriced::Price)?;
    let count = facts.price.interval_count;
    let quantity = item.quantity.clone().unwrap_or(Quantity::Whole(1));
    let memorable = match &quantity {
        Quantity::Whole(units) if facts.price.currency == Some(currency) => Some(*units),
        _ => None,
    };
    let remembered = memorable.and_then(|units| memo.get(&item.price, currency, units));
    let (list, line) = match remembered {
        Some(list) if !discounted => (list, None),
        _ => {
            let minor = interval_amount(facts, currency, &quantity.to_rational(), time)?;
            let share = rules.monthly_share(interval, count);
            let list = Amount::from_minor(&(&minor * &share), currency).map_err(|_| Unpriced::Amount)?;
            if list.micros().unsigned_abs() > MAX_ITEM_MICROS {
                return Err(Unpriced::Amount);
            }
            if let Some(units) = memorable {
                memo.put(&item.price, currency, units, list);
            }
            let product = facts.price.product.clone();
            let line = Line { product, currency, cadence: (interval, count), list: minor.clone(), left: minor, share };
            (list, Some(line))
        }
    };
    let value = Value {
        item: item.id.clone(),
        price: item.price.clone(),
        product: facts.price.product.clone(),
        currency,
        cadence: (interval, count),
        quantity,
        list,
        mrr: list,
        discounts: 0,
        known_at: known.at,
    };
    Ok((value, line.filter(|_| discounted)))
}

/// Minor units of `currency` for one interval, before discounts and tax.
///
/// # Errors
/// What is not known: the amount, the tiers, or the amount in this currency.
pub(crate) fn interval_amount(
    facts: &PriceFacts,
    currency: Currency,
    quantity: &Rational,
    time: EventTime,
) -> Result<Rational, Unpriced> {
    if let Some(mode) = facts.price.tiers_mode {
        if facts.price.currency != Some(currency) {
            return Err(Unpriced::Currency);
        }
        let tiers = facts.price.tiers.as_deref().filter(|tiers| !tiers.is_empty()).ok_or(Unpriced::Tiers)?;
        return Ok(match mode {
            TiersMode::Graduated => graduated(tiers, quantity),
            TiersMode::Volume => volume(tiers, quantity),
        });
    }
    let unit = match facts.unit_amount(currency, time) {
        Some(unit) => unit,
        None if facts.price.currency.is_some_and(|own| own != currency) => return Err(Unpriced::Currency),
        None => return Err(Unpriced::Price),
    };
    match facts.price.transform_quantity {
        Some(packages) => Ok(unit * packaged(quantity, packages)),
        None => Ok(unit * quantity),
    }
}

/// Each unit at its own tier's rate, plus the flat amount of every tier entered.
fn graduated(tiers: &[Tier], quantity: &Rational) -> Rational {
    let mut below = Rational::zero();
    let mut sum = Rational::zero();
    for tier in tiers {
        if *quantity <= below {
            break;
        }
        let upper = tier.up_to.as_ref().filter(|up_to| *up_to < quantity).unwrap_or(quantity);
        sum += (upper - &below) * &tier.unit_amount + &tier.flat_amount;
        below = upper.clone();
    }
    sum
}

/// The whole quantity at the rate of the tier it falls in, plus that tier's flat amount.
fn volume(tiers: &[Tier], quantity: &Rational) -> Rational {
    let falls_in = tiers.iter().find(|tier| tier.up_to.as_ref().is_none_or(|up_to| quantity <= up_to));
    falls_in.or(tiers.last()).map_or_else(Rational::zero, |tier| quantity * &tier.unit_amount + &tier.flat_amount)
}

/// Packages begun, or packages filled.
fn packaged(quantity: &Rational, packages: TransformQuantity) -> Rational {
    let packs = quantity / BigInt::from(packages.divide_by.max(1));
    if packages.round_up { packs.ceil() } else { packs.floor() }
}

#[allow(clippy::too_many_arguments, reason = "one step of `value`")]
fn subtract(
    valued: &mut Valued,
    lines: &mut [Line],
    content: &Content,
    shared: &[DiscountId],
    time: EventTime,
    shelf: &Shelf,
    rules: &Rules,
    gaps: &mut Vec<Gap>,
) {
    let targets: Vec<&Item> =
        valued.values.iter().filter_map(|value| content.items.iter().find(|item| item.id == value.item)).collect();
    let mut known_at = vec![EventTime::MIN; lines.len()];
    let mut prints = vec![Fingerprint::new(); lines.len()];
    let taken = discounts::apply(lines, &targets, shared, shelf, time, |duration| rules.subtracts(duration));
    for missing in taken.unresolved {
        gaps.push(Gap { reason: "discount_unresolved", object_id: missing.object_id().into() });
        valued.needs.push(missing);
    }
    valued.valid_until = taken.valid_until;
    let mut touched = vec![false; lines.len()];
    for Taken { id, known_at: at, amounts, .. } in &taken.taken {
        for (index, amount) in amounts.iter().enumerate() {
            if !amount.is_zero() {
                touched[index] = true;
                known_at[index] = known_at[index].max(*at);
                prints[index].text(id.as_str());
            }
        }
    }
    for (index, (value, line)) in valued.values.iter_mut().zip(lines.iter()).enumerate() {
        if touched[index]
            && let Ok(mrr) = Amount::from_minor(&(&line.left * &line.share), line.currency)
        {
            value.mrr = mrr;
            value.discounts = std::hash::Hasher::finish(&prints[index]);
            value.known_at = value.known_at.max(known_at[index]);
        }
    }
}

/// A subscription is never worth less than nothing, though an item may be: credits shrink until the sum is 0.
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

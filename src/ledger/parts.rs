//! What is known of a subscription's items at an instant, before any rule of counting: the raw parts that
//! `item_states` keeps.
//!
//! Prices, tiers, packages, currencies, taxes and coupons are resolved here against the catalogue; what cannot be
//! resolved is named. Which of it counts is decided in [`super::valuation`], from these parts alone, so that another
//! profile's history is a function of the rows.

use std::{collections::HashMap, hash::Hasher};

use num_bigint::BigInt;
use num_traits::Zero;

use super::{
    catalogue::{Known, Need, PriceFacts, Shelf},
    content::{Content, Item, Quantity},
    hash::{Fingerprint, QuickHash},
};
use crate::{
    money::{Currency, PeriodAmount, Rational},
    stripe::{
        ids::{CouponId, DiscountId, PriceId, ProductId, SubscriptionItemId},
        types::{Coupon, CouponDuration, Interval, Tier, TiersMode, TransformQuantity},
    },
    time::EventTime,
};

/// One item with everything that its worth can depend on.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Part {
    pub(crate) item: SubscriptionItemId,
    pub(crate) price: PriceId,
    pub(crate) product: Option<ProductId>,
    pub(crate) currency: Option<Currency>,
    pub(crate) cadence: Option<(Interval, u32)>,
    pub(crate) metered: bool,
    pub(crate) quantity: Option<Quantity>,
    /// For one billing period, before discounts, inclusive tax included.
    pub(crate) list: Result<PeriodAmount, Unpriced>,
    pub(crate) tax: Tax,
    /// In the order in which Stripe applies them: the item's own, then those it shares with the other items.
    pub(crate) discounts: Vec<PartDiscount>,
    /// When what is known of the price changes by itself.
    pub(crate) valid_until: Option<EventTime>,
    /// When the record that completed the price was appended.
    pub(crate) known_at: EventTime,
}

impl Part {
    /// When the last record was appended that any of it rests on.
    pub(crate) fn rests_on_all_by(&self) -> EventTime {
        let discounts = self.discounts.iter().filter_map(|discount| discount.terms.as_ref().ok());
        discounts.map(|terms| terms.known_at).fold(self.known_at, EventTime::max)
    }
}

/// What of an amount is tax.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Tax {
    /// Nothing, or it is added on top.
    Exclusive,
    /// Only this share of the amount is not tax.
    Inclusive(Rational),
    /// The price includes tax, but no invoice has told how much.
    Unknown,
}

/// Where a discount was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    Item,
    Subscription,
    Customer,
}

impl Level {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Item => "item",
            Self::Subscription => "subscription",
            Self::Customer => "customer",
        }
    }
}

/// A discount on an item.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct PartDiscount {
    pub(crate) level: Level,
    pub(crate) id: DiscountId,
    pub(crate) terms: Result<Terms, Need>,
}

/// What a discount takes off, and when.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Terms {
    pub(crate) coupon: CouponId,
    pub(crate) duration: CouponDuration,
    pub(crate) percent_off: Option<Rational>,
    /// An invoice, in minor units of the item's currency; `None` where it has no amount in that currency.
    pub(crate) amount_off: Option<Rational>,
    /// Empty means everything.
    pub(crate) applies_to: Vec<ProductId>,
    pub(crate) start: Option<EventTime>,
    pub(crate) end: Option<EventTime>,
    pub(crate) known_at: EventTime,
}

impl Terms {
    fn print(&self, print: &mut Fingerprint) {
        print.number(1).text(self.coupon.as_str());
        match &self.duration {
            CouponDuration::Forever => print.number(0),
            CouponDuration::Repeating => print.number(1),
            CouponDuration::Once => print.number(2),
            CouponDuration::Other(word) => print.number(3).text(word),
        };
        for amount in [&self.percent_off, &self.amount_off] {
            print.text(&amount.as_ref().map_or_else(String::new, ToString::to_string));
        }
        print.optional(self.start.map(EventTime::micros)).optional(self.end.map(EventTime::micros));
        print.number(self.applies_to.len() as u64);
        for product in &self.applies_to {
            print.text(product.as_str());
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
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Price => "price_unknown",
            Self::Tiers => "tiers_unknown",
            Self::Currency => "currency_unknown",
            Self::Amount => "amount_too_large",
        }
    }
}

/// The discounts that the items of a subscription share: its own, or else its customer's.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    level: Level,
    ids: &'a [DiscountId],
}

impl<'a> Shared<'a> {
    pub(crate) fn of(content: &'a Content, customer_discounts: &'a [DiscountId]) -> Self {
        match content.discounts.as_slice() {
            [] => Self { level: Level::Customer, ids: customer_discounts },
            own => Self { level: Level::Subscription, ids: own },
        }
    }
}

/// List amounts already worked out for a price, a currency and a whole quantity. Never stored; dropped whenever the
/// catalogue changes.
#[derive(Default)]
pub(crate) struct Memo(HashMap<PriceId, Vec<(Currency, i64, PeriodAmount)>, QuickHash>);

/// Quantities remembered for one price: enough for seats of most plans, small enough to search.
const MEMO_QUANTITIES: usize = 64;

impl Memo {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn get(&self, price: &PriceId, currency: Currency, quantity: i64) -> Option<PeriodAmount> {
        let known = self.0.get(price)?;
        known.iter().find(|known| known.0 == currency && known.1 == quantity).map(|known| known.2)
    }

    fn put(&mut self, price: &PriceId, currency: Currency, quantity: i64, list: PeriodAmount) {
        let known = self.0.entry(price.clone()).or_default();
        if known.len() < MEMO_QUANTITIES {
            known.push((currency, quantity, list));
        }
    }
}

/// The parts of every item at `time`, in Stripe's order. `net_share` says what the item's last finalised invoice line
/// told of inclusive tax.
pub(crate) fn of(
    content: &Content,
    shared: Shared<'_>,
    shelf: &Shelf,
    time: EventTime,
    net_share: impl Fn(&SubscriptionItemId) -> Option<Rational>,
    memo: &mut Memo,
) -> Vec<Part> {
    content.items.iter().map(|item| part(content, item, shared, shelf, time, &net_share, memo)).collect()
}

fn part(
    content: &Content,
    item: &Item,
    shared: Shared<'_>,
    shelf: &Shelf,
    time: EventTime,
    net_share: &impl Fn(&SubscriptionItemId) -> Option<Rational>,
    memo: &mut Memo,
) -> Part {
    let known = shelf.price(&item.price);
    let price = known.map(|known| &known.value.price);
    // The currency an item is billed in: its subscription's, else its price's.
    let currency = content.currency.or_else(|| price?.currency);
    let (tax_inclusive, valid_until) = known.map_or((None, None), |known| known.value.tax_inclusive(time));
    let own = item.discounts.iter().map(|id| (Level::Item, id));
    let discounts = own.chain(shared.ids.iter().map(|id| (shared.level, id)));
    Part {
        item: item.id.clone(),
        price: item.price.clone(),
        product: price.and_then(|price| price.product.clone()),
        currency,
        cadence: price.and_then(|price| Some((price.interval?, price.interval_count))),
        metered: price.is_some_and(|price| price.metered),
        quantity: item.quantity.clone(),
        list: list(item, known, currency, time, memo),
        tax: tax(item, tax_inclusive, net_share),
        discounts: discounts
            .map(|(level, id)| PartDiscount { level, id: id.clone(), terms: terms(id, currency, time, shelf) })
            .collect(),
        valid_until,
        known_at: known.map_or(EventTime::MIN, |known| known.at),
    }
}

/// Explicit inclusive rates are taken out of the amount; else what the item's last finalised line told (revenue.md
/// "never MRR").
fn tax(item: &Item, tax_inclusive: Option<bool>, net_share: &impl Fn(&SubscriptionItemId) -> Option<Rational>) -> Tax {
    if let Some(percent) = &item.inclusive_percent {
        let hundred = Rational::from_integer(100.into());
        return Tax::Inclusive(&hundred / (&hundred + &**percent));
    }
    if tax_inclusive != Some(true) {
        return Tax::Exclusive;
    }
    net_share(&item.id).map_or(Tax::Unknown, Tax::Inclusive)
}

fn terms(id: &DiscountId, currency: Option<Currency>, time: EventTime, shelf: &Shelf) -> Result<Terms, Need> {
    let facts = shelf.discount(id, time).ok_or_else(|| Need::Discount(id.clone()))?;
    let coupon = shelf.coupon_of(facts).ok_or_else(|| Need::Coupon(facts.coupon.clone()))?;
    Ok(coupon_terms(coupon, (facts.start, facts.end), facts.known_at, currency))
}

/// What a coupon takes off an item in `currency`, from its start to its end; `known_at` is when that was appended.
pub(crate) fn coupon_terms(
    coupon: &Known<Coupon>,
    (start, end): (Option<EventTime>, Option<EventTime>),
    known_at: EventTime,
    currency: Option<Currency>,
) -> Terms {
    let facts = &coupon.value;
    let amount_off = match &facts.amount_off {
        Some(amount) if facts.currency == currency => Some(amount),
        _ => currency.and_then(|currency| facts.currency_options.get(&currency)),
    };
    Terms {
        coupon: facts.id.clone(),
        duration: facts.duration.clone(),
        percent_off: facts.percent_off.clone(),
        amount_off: amount_off.cloned(),
        applies_to: facts.applies_to.clone(),
        start,
        end,
        known_at: known_at.max(coupon.at),
    }
}

fn list(
    item: &Item,
    known: Option<&Known<PriceFacts>>,
    currency: Option<Currency>,
    time: EventTime,
    memo: &mut Memo,
) -> Result<PeriodAmount, Unpriced> {
    let facts = &known.ok_or(Unpriced::Price)?.value;
    if facts.price.interval.is_none() {
        return Err(Unpriced::Price);
    }
    let currency = currency.ok_or(Unpriced::Currency)?;
    // A missing quantity is 1 for licensed items only; a metered one has no amount of its own.
    let quantity = match &item.quantity {
        Some(quantity) => quantity.clone(),
        None if facts.price.metered => Quantity::ZERO,
        None => Quantity::Whole(1),
    };
    let memorable = match &quantity {
        Quantity::Whole(units) if facts.price.currency == Some(currency) => Some(*units),
        _ => None,
    };
    if let Some(list) = memorable.and_then(|units| memo.get(&item.price, currency, units)) {
        return Ok(list);
    }
    let minor = period_amount(facts, currency, &quantity.to_rational(), time)?;
    let list = PeriodAmount::from_minor(&minor, currency).map_err(|_| Unpriced::Amount)?;
    if let Some(units) = memorable {
        memo.put(&item.price, currency, units, list);
    }
    Ok(list)
}

/// Minor units of `currency` for one billing period, before discounts and tax.
///
/// # Errors
/// What is not known: the amount, the tiers, or the amount in this currency.
fn period_amount(
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
        None if unit.is_integer() && quantity.is_integer() => {
            Ok(Rational::from_integer(unit.numer() * quantity.numer()))
        }
        None => Ok(unit * quantity),
    }
}

/// Each unit at its own tier's rate, plus the flat amount of every tier entered (revenue.md "Normalising").
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

/// The whole quantity at the rate of the tier it falls in, plus that tier's flat amount (revenue.md "Normalising").
fn volume(tiers: &[Tier], quantity: &Rational) -> Rational {
    let falls_in = tiers.iter().find(|tier| tier.up_to.as_ref().is_none_or(|up_to| quantity <= up_to));
    falls_in.or(tiers.last()).map_or_else(Rational::zero, |tier| quantity * &tier.unit_amount + &tier.flat_amount)
}

/// Packages begun, or packages filled (revenue.md "Normalising").
fn packaged(quantity: &Rational, packages: TransformQuantity) -> Rational {
    let packs = quantity / BigInt::from(packages.divide_by.max(1));
    if packages.round_up { packs.ceil() } else { packs.floor() }
}

/// A fingerprint of all that `item_states` shows of an item but its place; neither 0, 1 nor the greatest number.
pub(crate) fn print(content: &Content, ended: bool, part: &Part) -> u64 {
    let mut print = Fingerprint::new();
    print.text(content.status.as_str()).text(part.price.as_str());
    print.text(part.product.as_ref().map_or("", |product| product.as_str()));
    print.text(part.currency.as_ref().map_or("", Currency::as_str));
    let flags = [
        ended,
        content.cancel_scheduled,
        content.fixed_term,
        content.collection_paused,
        content.payment_failed,
        part.metered,
    ];
    print.number(flags.iter().fold(0, |bits, flag| bits * 2 + u64::from(*flag)));
    print.optional(content.trial_end.map(EventTime::micros)).optional(content.started.map(EventTime::micros));
    match part.cadence {
        Some((interval, count)) => print.number(u64::from(count)).text(interval.as_str()),
        None => print.number(0),
    };
    match &part.quantity {
        Some(Quantity::Whole(units)) => print.number(1).number(*units as u64),
        Some(Quantity::Exact(units)) => print.number(2).text(&units.to_string()),
        None => print.number(0),
    };
    match &part.list {
        Ok(list) => print.number(1).number(list.picos() as u64).number((list.picos() >> 64) as u64),
        Err(why) => print.number(2 + *why as u64),
    };
    match &part.tax {
        Tax::Exclusive => print.number(0),
        Tax::Inclusive(share) => print.number(1).text(&share.to_string()),
        Tax::Unknown => print.number(2),
    };
    for discount in &part.discounts {
        print.text(discount.level.as_str()).text(discount.id.as_str());
        match &discount.terms {
            Ok(terms) => terms.print(&mut print),
            Err(_) => {
                print.number(0);
            }
        }
    }
    print.finish().clamp(2, u64::MAX - 1)
}

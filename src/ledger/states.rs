//! Rows of `item_states`: every item of every subscription with its raw parts, counted or not.
//!
//! No rule of a profile is baked in, so that another profile's history is a pure function of these rows. For one item
//! and `valid_from` the row with the greatest `known_at` holds.

use std::sync::Arc;

use super::{
    catalogue::Shelf,
    content::{Content, Item, Quantity},
    discounts::{self, Line},
    rows::{ItemDiscount, ItemState},
    rules::Rules,
    valuation::{currency_of, interval_amount},
};
use crate::{
    money::{Amount, Rational},
    stripe::{
        ids::{CustomerId, DiscountId, EventId, SubscriptionId},
        types::{CouponDuration, Scope, SubscriptionStatus},
    },
    time::EventTime,
};

/// What a row says beside the item.
pub(crate) struct Row<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) customer: &'a CustomerId,
    pub(crate) subscription: &'a SubscriptionId,
    pub(crate) content: &'a Content,
    pub(crate) ended: bool,
    pub(crate) removed: bool,
    pub(crate) reconstructed: bool,
    pub(crate) time: EventTime,
    pub(crate) known_at: EventTime,
    pub(crate) event_id: EventId,
    /// The customer's discounts at that time.
    pub(crate) customer_discounts: &'a [DiscountId],
    /// What decided the order of this second was nothing real.
    pub(crate) arbitrary: bool,
}

impl Row<'_> {
    /// The row of one item.
    pub(crate) fn of(self, item: &Item, shelf: &Shelf, rules: &Rules) -> ItemState {
        let known = shelf.price(&item.price);
        let price = known.map(|known| &known.value.price);
        let currency = match known {
            Some(known) => currency_of(self.content, &known.value),
            None => self.content.currency,
        };
        let metered = price.is_some_and(|price| price.metered);
        let quantity = item.quantity.as_ref().map(Quantity::to_rational);
        let units = quantity.clone().or_else(|| (!metered).then(|| Rational::from_integer(1.into())));
        let list_minor = match (known, currency, &units) {
            (Some(known), Some(currency), Some(units)) => {
                interval_amount(&known.value, currency, units, self.time).ok()
            }
            _ => None,
        };
        let list_amount = list_minor.as_ref().zip(currency).and_then(|(minor, c)| Amount::from_minor(minor, c).ok());
        ItemState {
            scope: self.scope.clone(),
            valid_from: self.time,
            known_at: known.map_or(self.known_at, |known| known.at.max(self.known_at)),
            customer_id: self.customer.clone(),
            subscription_id: self.subscription.clone(),
            subscription_item_id: item.id.clone(),
            price_id: item.price.clone(),
            product_id: price.and_then(|price| price.product.clone()),
            currency,
            status: self.content.status.as_str().into(),
            flags: self.flags(metered),
            interval: price.and_then(|price| price.interval),
            interval_count: price.map_or(1, |price| price.interval_count),
            quantity,
            list_amount,
            discounts: self.discounts(item, shelf, rules),
            provenance: if self.reconstructed { "reconstructed" } else { "event" }.into(),
            event_id: self.event_id,
        }
    }

    fn flags(&self, metered: bool) -> Vec<Arc<str>> {
        let flags = [
            ("cancel_scheduled", self.content.cancel_scheduled),
            ("collection_paused", self.content.collection_paused),
            ("deleted", self.ended),
            ("fixed_term", self.content.fixed_term),
            ("metered", metered),
            ("order_arbitrary", self.arbitrary),
            ("payment_failed", self.content.payment_failed),
            ("removed", self.removed),
            ("trial", self.content.status == SubscriptionStatus::Trialing),
        ];
        flags.into_iter().filter(|(_, set)| *set).map(|(word, _)| word.into()).collect()
    }

    /// Every discount on the item, with what it would take off a month if all of them were counted.
    fn discounts(&self, item: &Item, shelf: &Shelf, rules: &Rules) -> Vec<ItemDiscount> {
        let own = !self.content.discounts.is_empty();
        let shared = if own { self.content.discounts.as_slice() } else { self.customer_discounts };
        if item.discounts.is_empty() && shared.is_empty() {
            return Vec::new();
        }
        let (mut lines, items) = self.lines(shelf, rules);
        let here = items.iter().position(|other| other.id == item.id);
        let outcome = discounts::apply(&mut lines, &items, shared, shelf, self.time, |_| true);
        let monthly = |id: &DiscountId| {
            let line = here.and_then(|index| lines.get(index))?;
            let taken = outcome.taken.iter().find(|taken| taken.id == *id)?;
            Amount::from_minor(&(taken.amounts.get(here?)? * &line.share), line.currency).ok()
        };
        let shared_level = if own { "subscription" } else { "customer" };
        let levels = item.discounts.iter().map(|id| (id, "item")).chain(shared.iter().map(|id| (id, shared_level)));
        levels
            .map(|(id, level)| {
                let facts = shelf.discount(id).map(|known| &known.value);
                let coupon = facts.and_then(|facts| shelf.coupon(&facts.coupon)).map(|known| &known.value);
                let amount_off =
                    coupon.and_then(|coupon| Amount::from_minor(coupon.amount_off.as_ref()?, coupon.currency?).ok());
                ItemDiscount {
                    level: level.into(),
                    coupon: facts.map(|facts| facts.coupon.as_str().into()),
                    duration: coupon.map_or("unknown", |coupon| duration_word(&coupon.duration)).into(),
                    percent_off: coupon.and_then(|coupon| coupon.percent_off.as_ref()).map(decimal_text),
                    amount_off,
                    monthly: monthly(id).unwrap_or(Amount::ZERO),
                    end: facts.and_then(|facts| facts.end),
                }
            })
            .collect()
    }

    fn lines(&self, shelf: &Shelf, rules: &Rules) -> (Vec<Line>, Vec<&Item>) {
        let mut lines = Vec::new();
        let mut items = Vec::new();
        for item in &self.content.items {
            let Some(facts) = shelf.price(&item.price).map(|known| &known.value) else {
                continue;
            };
            let (Some(currency), Some(interval)) = (currency_of(self.content, facts), facts.price.interval) else {
                continue;
            };
            let quantity = item.quantity.clone().unwrap_or(Quantity::Whole(1)).to_rational();
            let Ok(minor) = interval_amount(facts, currency, &quantity, self.time) else {
                continue;
            };
            if facts.price.metered {
                continue;
            }
            let cadence = (interval, facts.price.interval_count);
            let share = rules.monthly_share(cadence.0, cadence.1);
            let product = facts.price.product.clone();
            lines.push(Line { product, currency, cadence, list: minor.clone(), left: minor, share });
            items.push(item);
        }
        (lines, items)
    }
}

fn duration_word(duration: &CouponDuration) -> &str {
    match duration {
        CouponDuration::Forever => "forever",
        CouponDuration::Repeating => "repeating",
        CouponDuration::Once => "once",
        CouponDuration::Other(word) => word,
    }
}

/// A percentage as decimal text, to six places.
fn decimal_text(value: &Rational) -> String {
    let text = Amount::round(value).unwrap_or_default().to_string();
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

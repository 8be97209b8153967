//! Rows of `item_states`: every item of every subscription with its raw parts, counted or not; and the parts again,
//! from such rows.
//!
//! No rule of a profile is baked in, so that another profile's history is a pure function of these rows: what
//! [`super::review`] reads back is what the ledger itself values.

use std::sync::Arc;

use super::{
    content::{Content, Item, Quantity},
    parts::{Level, Part, PartDiscount, Tax, Terms, Unpriced},
    rows::{DiscountTerms, ItemDiscount, ItemState, flag},
};
use crate::{
    money::PeriodAmount,
    stripe::{
        ids::{CustomerId, EventId, SubscriptionId},
        types::{CouponDuration, Scope, SubscriptionStatus},
    },
    time::EventTime,
};

/// `provenance` of what lies before the first event.
pub(crate) const RECONSTRUCTED: &str = "reconstructed";
const EVENT: &str = "event";

/// What a row says beside the item.
pub(crate) struct Row<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) customer: &'a CustomerId,
    pub(crate) subscription: &'a SubscriptionId,
    pub(crate) content: &'a Content,
    /// `deleted`, `removed` or `withdrawn`, where it is.
    pub(crate) gone: &'a [&'static str],
    pub(crate) reconstructed: bool,
    pub(crate) time: EventTime,
    pub(crate) known_at: EventTime,
    pub(crate) event_id: EventId,
    pub(crate) order_evidence: Option<&'static str>,
}

impl Row<'_> {
    /// The row of one item.
    pub(crate) fn of(&self, part: &Part, position: usize, revision: u32) -> ItemState {
        ItemState {
            scope: self.scope.clone(),
            valid_from: self.time,
            known_at: self.known_at.max(part.rests_on_all_by()),
            customer_id: self.customer.clone(),
            subscription_id: self.subscription.clone(),
            subscription_item_id: part.item.clone(),
            revision,
            position: u32::try_from(position).unwrap_or(u32::MAX),
            price_id: part.price.clone(),
            product_id: part.product.clone(),
            currency: part.currency,
            status: self.content.status.as_str().into(),
            flags: self.flags(part),
            interval: part.cadence.map(|(interval, _)| interval),
            interval_count: part.cadence.map_or(1, |(_, count)| count),
            quantity: part.quantity.as_ref().map(Quantity::to_rational),
            list_amount: part.list.ok().filter(|_| !part.metered),
            net_share: match &part.tax {
                Tax::Inclusive(share) => Some(share.clone()),
                Tax::Exclusive | Tax::Unknown => None,
            },
            discounts: part.discounts.iter().map(|discount| discount_row(discount, part)).collect(),
            trial_end: self.content.trial_end,
            started_at: self.content.started,
            order_evidence: self.order_evidence,
            provenance: if self.reconstructed { RECONSTRUCTED } else { EVENT }.into(),
            event_id: self.event_id.clone(),
        }
    }

    fn flags(&self, part: &Part) -> Vec<Arc<str>> {
        let flags = [
            (flag::CANCEL_SCHEDULED, self.content.cancel_scheduled),
            (flag::COLLECTION_PAUSED, self.content.collection_paused),
            (flag::FIXED_TERM, self.content.fixed_term),
            (flag::METERED, part.metered),
            (flag::PAYMENT_FAILED, self.content.payment_failed),
            (flag::TAX_UNKNOWN, part.tax == Tax::Unknown),
            (flag::TRIAL, self.content.status == SubscriptionStatus::Trialing),
        ];
        let flags = flags.into_iter().filter(|(_, set)| *set).map(|(word, _)| word);
        let mut flags: Vec<Arc<str>> = flags.chain(self.gone.iter().copied()).map(Into::into).collect();
        flags.sort_unstable();
        flags
    }
}

fn discount_row(discount: &PartDiscount, part: &Part) -> ItemDiscount {
    let terms = discount.terms.as_ref().ok().map(|terms| DiscountTerms {
        coupon: terms.coupon.clone(),
        duration: duration_word(&terms.duration).into(),
        percent_off: terms.percent_off.clone(),
        amount_off: part
            .currency
            .zip(terms.amount_off.as_ref())
            .and_then(|(currency, minor)| PeriodAmount::from_minor(minor, currency).ok()),
        applies_to: terms.applies_to.clone(),
        start: terms.start,
        end: terms.end,
    });
    ItemDiscount { level: discount.level.as_str().into(), id: discount.id.clone(), terms }
}

fn duration_word(duration: &CouponDuration) -> &str {
    match duration {
        CouponDuration::Forever => "forever",
        CouponDuration::Repeating => "repeating",
        CouponDuration::Once => "once",
        CouponDuration::Other(word) => word,
    }
}

fn duration(word: &str) -> CouponDuration {
    match word {
        "forever" => CouponDuration::Forever,
        "repeating" => CouponDuration::Repeating,
        "once" => CouponDuration::Once,
        other => CouponDuration::Other(other.to_owned()),
    }
}

impl ItemState {
    pub(crate) fn has(&self, word: &str) -> bool {
        self.flags.iter().any(|flag| &**flag == word)
    }

    /// The part that a row was written from.
    pub(crate) fn part(&self) -> Part {
        let quantity = self.quantity.as_ref().map(Quantity::from);
        // Why there is no amount is in `ledger_gaps`; here it is enough that there is none.
        let missing = if self.currency.is_none() { Unpriced::Currency } else { Unpriced::Price };
        Part {
            item: self.subscription_item_id.clone(),
            price: self.price_id.clone(),
            product: self.product_id.clone(),
            currency: self.currency,
            cadence: self.interval.map(|interval| (interval, self.interval_count)),
            metered: self.has(flag::METERED),
            quantity,
            list: self.list_amount.ok_or(missing),
            tax: match &self.net_share {
                Some(share) => Tax::Inclusive(share.clone()),
                None if self.has(flag::TAX_UNKNOWN) => Tax::Unknown,
                None => Tax::Exclusive,
            },
            discounts: self.discounts.iter().map(|discount| self.discount(discount)).collect(),
            valid_until: None,
            known_at: self.known_at,
        }
    }

    fn discount(&self, row: &ItemDiscount) -> PartDiscount {
        let level = [Level::Item, Level::Subscription].into_iter().find(|level| level.as_str() == &*row.level);
        let terms = row.terms.as_ref().map(|terms| Terms {
            coupon: terms.coupon.clone(),
            duration: duration(&terms.duration),
            percent_off: terms.percent_off.clone(),
            amount_off: self.currency.zip(terms.amount_off).map(|(currency, amount)| amount.to_minor(currency)),
            applies_to: terms.applies_to.clone(),
            start: terms.start,
            end: terms.end,
            known_at: self.known_at,
        });
        PartDiscount {
            level: level.unwrap_or(Level::Customer),
            id: row.id.clone(),
            terms: terms.ok_or_else(|| super::catalogue::Need::Discount(row.id.clone())),
        }
    }

    /// The state of a subscription with these items, of which this row is the newest.
    pub(crate) fn content(&self, items: &[&Self]) -> Content {
        Content {
            // Nothing is compared with it.
            print: 0,
            status: SubscriptionStatus::from(&*self.status),
            currency: None,
            items: items.iter().map(|row| row.item()).collect(),
            items_truncated: false,
            discounts: Vec::new(),
            cancel_scheduled: self.has(flag::CANCEL_SCHEDULED),
            fixed_term: self.has(flag::FIXED_TERM),
            collection_paused: self.has(flag::COLLECTION_PAUSED),
            payment_failed: self.has(flag::PAYMENT_FAILED),
            trial_end: self.trial_end,
            started: self.started_at,
        }
    }

    fn item(&self) -> Item {
        Item {
            id: self.subscription_item_id.clone(),
            price: self.price_id.clone(),
            quantity: self.quantity.as_ref().map(Quantity::from),
            discounts: self.discounts.iter().map(|discount| discount.id.clone()).collect(),
            inclusive_percent: None,
        }
    }
}

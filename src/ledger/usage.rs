//! What usage was worth: one row for each line of a finalised invoice that bills a closed period of a metered price.
//!
//! Usage is never recurring revenue. Its last closed period, brought to a month, is the usage run rate, a figure of its
//! own. A line is told once, however many events of its invoice carry it; lines of an invoice never change once it is
//! finalised. In new shapes a line has only the id of its price: it waits until the catalogue knows whether that price
//! is metered.

use std::sync::Arc;

use num_bigint::BigInt;

use super::{
    catalogue::{Need, Shelf},
    hash::short,
    packing::packed,
    rows::{Delta, LedgerGap},
    rules::Rules,
};
use crate::{
    money::{Amount, Currency, Rational, exact},
    stripe::{
        ids::{CustomerId, EventId, PriceId, ProductId, SubscriptionId, SubscriptionItemId},
        types::{Event, Invoice, InvoiceLine, Scope},
    },
    time::EventTime,
};

/// Lines of one customer that are remembered as told, newest by the end of their period: five items billed weekly for
/// two years. An event of an older invoice would tell them again.
pub const MAX_TOLD_LINES: usize = 512;

/// Lines of one customer that wait for their price. Past that the oldest are given up; they stay gaps.
pub const MAX_WAITING_LINES: usize = 64;

/// Days after which a line whose price is not known is reported: an invoice often comes before the subscription that
/// brings its prices, and so long Stripe tries to deliver an event.
const PRICE_DAYS: i64 = 3;

/// A closed period of a metered item. Appended.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct MeteredUsage {
    pub scope: Scope,
    pub invoice_id: Arc<str>,
    pub line_id: Arc<str>,
    pub known_at: EventTime,
    pub customer_id: CustomerId,
    pub subscription_id: Option<SubscriptionId>,
    pub subscription_item_id: Option<SubscriptionItemId>,
    pub price_id: PriceId,
    pub product_id: Option<ProductId>,
    pub currency: Currency,
    pub period_start: EventTime,
    pub period_end: EventTime,
    pub quantity: Option<Rational>,
    /// Net of discounts and of the tax that the amount includes.
    pub amount: Amount,
    /// The same for a month, by the price's own interval.
    pub monthly: Amount,
    pub finalized_at: EventTime,
    pub event_id: EventId,
}

/// The usage of one customer.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Usage {
    /// Lines told, by the end of their period.
    told: Vec<(EventTime, u64)>,
    waiting: Vec<Billed>,
    newest: EventTime,
}

packed!(Usage { told, waiting, newest });

/// A line with what its invoice and its event say of it.
#[derive(Clone, PartialEq, Debug)]
struct Billed {
    invoice_id: Arc<str>,
    line_id: Arc<str>,
    subscription_id: Option<SubscriptionId>,
    subscription_item_id: Option<SubscriptionItemId>,
    price_id: PriceId,
    product_id: Option<ProductId>,
    currency: Option<Currency>,
    period: (EventTime, EventTime),
    quantity: Option<Rational>,
    net_minor: i64,
    finalized_at: EventTime,
    event_id: EventId,
    appended_at: EventTime,
    /// Whether it was reported that its price is not known.
    reported: bool,
}

packed!(Billed {
    invoice_id,
    line_id,
    subscription_id,
    subscription_item_id,
    price_id,
    product_id,
    currency,
    period,
    quantity,
    net_minor,
    finalized_at,
    event_id,
    appended_at,
    reported,
});

/// What the catalogue says of a line.
enum Told {
    Usage(Box<MeteredUsage>),
    /// Not usage, or of no known currency.
    Not(Option<&'static str>),
    NotYet,
}

impl Usage {
    /// Takes in an event of one of the customer's invoices. True if anything of it was usage, or may be.
    #[allow(clippy::too_many_arguments, reason = "an event, whose it is, and what is known")]
    pub(crate) fn hear(
        &mut self,
        event: &Event,
        invoice: &Invoice,
        appended_at: EventTime,
        customer: &CustomerId,
        shelf: &mut Shelf,
        rules: &Rules,
        folding: bool,
        delta: &mut Delta,
    ) -> bool {
        let drafted = matches!(invoice.status.as_deref(), None | Some("draft" | "deleted"));
        if drafted && invoice.finalized_at.is_none() {
            return false;
        }
        let mut heard = false;
        for line in &invoice.lines {
            let Some(billed) = Billed::of(event, invoice, line, appended_at) else { continue };
            if self.knows(&billed) {
                continue;
            }
            match billed.tell(&event.scope, customer, shelf, rules) {
                Told::Usage(row) => {
                    self.note(&billed);
                    delta.metered_usage.push(*row);
                    heard = true;
                }
                Told::Not(None) => {}
                Told::Not(Some(reason)) => {
                    self.note(&billed);
                    delta.gaps.push(billed.gap(&event.scope, customer, reason));
                    heard = true;
                }
                Told::NotYet => {
                    shelf.wait(Need::Price(billed.price_id.clone()), customer);
                    self.waiting.push(billed);
                    if self.waiting.len() > MAX_WAITING_LINES {
                        let given_up = self.waiting.remove(0);
                        given_up.report(&event.scope, customer, delta);
                    }
                    heard = true;
                }
            }
        }
        self.newest = self.newest.max(event.created);
        let due = self.newest.plus_days(-PRICE_DAYS);
        for billed in self.waiting.iter_mut().filter(|billed| folding && billed.finalized_at < due) {
            billed.report(&event.scope, customer, delta);
            billed.reported = true;
        }
        heard
    }

    /// Looks again at what waits for its price.
    pub(crate) fn settle(
        &mut self,
        scope: &Scope,
        customer: &CustomerId,
        shelf: &mut Shelf,
        rules: &Rules,
        delta: &mut Delta,
    ) {
        for billed in std::mem::take(&mut self.waiting) {
            match billed.tell(scope, customer, shelf, rules) {
                Told::Usage(row) => {
                    self.note(&billed);
                    delta.metered_usage.push(*row);
                }
                Told::Not(reason) => delta.gaps.extend(reason.map(|reason| billed.gap(scope, customer, reason))),
                Told::NotYet => {
                    shelf.wait(Need::Price(billed.price_id.clone()), customer);
                    self.waiting.push(billed);
                }
            }
        }
    }

    /// Whether anything waits.
    pub(crate) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn knows(&self, billed: &Billed) -> bool {
        self.told.binary_search(&billed.key()).is_ok()
            || self.waiting.iter().any(|waiting| waiting.line_id == billed.line_id)
    }

    fn note(&mut self, billed: &Billed) {
        let key = billed.key();
        if let Err(position) = self.told.binary_search(&key) {
            super::content::insert_tight(&mut self.told, position, key);
        }
        if self.told.len() > MAX_TOLD_LINES {
            self.told.remove(0);
        }
    }
}

impl Billed {
    /// A line that may bill usage: of a price, over a period, and no settlement of a change.
    fn of(event: &Event, invoice: &Invoice, line: &InvoiceLine, appended_at: EventTime) -> Option<Self> {
        let price_id = line.price.clone()?;
        if line.proration {
            return None;
        }
        let period = (line.period_start?, line.period_end?);
        Some(Self {
            invoice_id: invoice.id.as_ref()?.as_str().into(),
            line_id: line.id.as_str().into(),
            subscription_id: line.subscription.clone().or_else(|| invoice.subscription.clone()),
            subscription_item_id: line.subscription_item.clone(),
            price_id,
            product_id: line.product.clone(),
            currency: invoice.currency,
            period,
            quantity: line.quantity.clone(),
            // Credits pay for usage; they do not make it smaller.
            net_minor: line.net().saturating_add(line.credits),
            finalized_at: invoice.finalized_at.unwrap_or(event.created),
            event_id: event.id.clone(),
            appended_at,
            reported: false,
        })
    }

    fn key(&self) -> (EventTime, u64) {
        (self.period.1, short(&[&self.line_id]))
    }

    fn tell(&self, scope: &Scope, customer: &CustomerId, shelf: &Shelf, rules: &Rules) -> Told {
        let Some(known) = shelf.price(&self.price_id) else {
            return Told::NotYet;
        };
        let price = &known.value.price;
        let Some(interval) = price.interval.filter(|_| price.metered) else {
            return Told::Not(None);
        };
        let Some(currency) = self.currency.or(price.currency) else {
            return Told::Not(Some("currency_unknown"));
        };
        let minor = Rational::from_integer(BigInt::from(self.net_minor));
        let month = &minor * exact(rules.monthly_share(interval, price.interval_count));
        let amounts = [minor, month].map(|minor| Amount::from_minor(&minor, currency));
        let [Ok(amount), Ok(monthly)] = amounts else {
            return Told::Not(Some("amount_too_large"));
        };
        Told::Usage(Box::new(MeteredUsage {
            scope: scope.clone(),
            invoice_id: Arc::clone(&self.invoice_id),
            line_id: Arc::clone(&self.line_id),
            known_at: self.appended_at.max(known.at),
            customer_id: customer.clone(),
            subscription_id: self.subscription_id.clone(),
            subscription_item_id: self.subscription_item_id.clone(),
            price_id: self.price_id.clone(),
            product_id: price.product.clone().or_else(|| self.product_id.clone()),
            currency,
            period_start: self.period.0,
            period_end: self.period.1,
            quantity: self.quantity.clone(),
            amount,
            monthly,
            finalized_at: self.finalized_at,
            event_id: self.event_id.clone(),
        }))
    }

    /// Reports once that the price is not known.
    fn report(&self, scope: &Scope, customer: &CustomerId, delta: &mut Delta) {
        if !self.reported {
            delta.gaps.push(self.gap(scope, customer, "price_unknown"));
        }
    }

    fn gap(&self, scope: &Scope, customer: &CustomerId, reason: &str) -> LedgerGap {
        LedgerGap {
            scope: scope.clone(),
            occurred_at: self.finalized_at,
            known_at: self.appended_at,
            customer_id: Some(customer.clone()),
            object_id: self.price_id.as_str().into(),
            reason: reason.into(),
            event_id: self.event_id.clone(),
        }
    }
}

//! One customer: its subscriptions, its own discounts, its deletion, its movements and what its payments told.

use super::{
    Arrival, Error,
    billing::{Heard, Told},
    catalogue::Needs,
    content::{discount_key, full_discount_key, insert_tight},
    history::{FOLDED, History, Inserted},
    movements::Movements,
    own_discounts::{DiscountChange, DiscountMove, OwnDiscounts, Reach},
    packing::packed,
    replay::{Context, Surroundings, earlier},
    resting::{Calm, Repeat, Sketch},
    revenue::Books,
    rows::{LateEvent, LedgerGap},
    schedules::Schedules,
    usage::Usage,
    visits::Brought,
};
use crate::{
    money::Rational,
    stripe::{
        ids::{DiscountId, EventId, SubscriptionId, SubscriptionItemId},
        types::{Customer, Discount, Event, Invoice, Object},
    },
    time::EventTime,
};

/// Invoice lines with inclusive tax that are remembered of a customer; past that the oldest that a newer one of the
/// same item has replaced goes. Five years of a monthly plan.
pub const MAX_TAX_LINES: usize = 64;

/// What a finalised invoice line told of the tax that its amount includes.
#[derive(Clone, PartialEq, Debug)]
struct TaxTold {
    time: EventTime,
    item: SubscriptionItemId,
    /// The line's amount without and with the tax, in minor units.
    net: i64,
    gross: i64,
    event_id: EventId,
    appended_at: EventTime,
}

packed!(TaxTold { time, item, net, gross, event_id, appended_at });

impl TaxTold {
    fn net_share(&self) -> Rational {
        Rational::new(self.net.into(), self.gross.into())
    }
}

/// What lies around a customer's subscriptions.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Around {
    deleted: Option<(EventTime, EventTime, EventId)>,
    discounts: OwnDiscounts,
    /// By time.
    taxes: Vec<TaxTold>,
}

packed!(Around { deleted, discounts, taxes });

impl Around {
    /// The lines that told something else than the line before them of the same item.
    fn tax_changes(&self) -> impl Iterator<Item = &TaxTold> {
        self.taxes.iter().enumerate().filter_map(|(index, told)| {
            let before = self.taxes[..index].iter().rfind(|other| other.item == told.item);
            before.is_none_or(|before| before.net_share() != told.net_share()).then_some(told)
        })
    }
}

/// One customer.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct CustomerState {
    /// By id.
    subscriptions: Vec<(SubscriptionId, History)>,
    around: Around,
    movements: Movements,
    told: Told,
    usage: Usage,
    schedules: Schedules,
    books: Books,
}

packed!(CustomerState { subscriptions, around, movements, told, usage, schedules, books });

impl Surroundings for Around {
    fn deleted(&self) -> Option<(EventTime, EventTime, &EventId)> {
        self.deleted.as_ref().map(|(time, appended_at, event)| (*time, *appended_at, event))
    }

    fn discounts_at(&self, time: EventTime, reach: Reach<'_>) -> Vec<DiscountId> {
        if self.discounts.is_empty() { Vec::new() } else { self.discounts.at(time, reach) }
    }

    fn net_share_at(&self, item: &SubscriptionItemId, time: EventTime) -> Option<Rational> {
        self.taxes.iter().rfind(|told| told.item == *item && told.time <= time).map(TaxTold::net_share)
    }

    fn is_plain(&self) -> bool {
        self.discounts.is_empty() && self.taxes.is_empty()
    }

    fn changes_at(&self, time: EventTime, reach: Reach<'_>) -> Vec<(EventTime, &EventId)> {
        let deleted = self.deleted.as_ref().filter(|(at, ..)| *at == time).map(|(_, known, event)| (*known, event));
        let discounts = self.discounts.effects(reach).filter(|(at, _)| *at == time);
        let mut changes: Vec<_> = discounts.map(|(_, change)| (change.appended_at, &change.event_id)).collect();
        changes.dedup();
        let taxes = self.tax_changes().filter(|told| told.time == time).map(|told| (told.appended_at, &told.event_id));
        changes.extend(deleted.into_iter().chain(taxes));
        changes
    }

    fn known_by(&self, time: EventTime, reach: Reach<'_>) -> EventTime {
        let deleted = self.deleted.iter().map(|(at, appended, _)| (*at, *appended));
        let discounts = self.discounts.effects(reach).map(|(at, change)| (at, change.appended_at));
        let taxes = self.taxes.iter().map(|told| (told.time, told.appended_at));
        let changes = deleted.chain(discounts).chain(taxes).filter(|(at, _)| *at <= time);
        changes.map(|(_, appended)| appended).max().unwrap_or(EventTime::MIN)
    }

    fn change_times(&self, reach: Reach<'_>) -> Vec<EventTime> {
        let deleted = self.deleted.iter().map(|(time, ..)| *time);
        let taxes = self.tax_changes().map(|told| told.time);
        self.discounts.effects(reach).map(|(time, _)| time).chain(deleted).chain(taxes).collect()
    }
}

impl CustomerState {
    /// The subscriptions whose next snapshot changes nothing if it repeats the newest; none while anything of the
    /// customer waits for something.
    pub(crate) fn calm(&self) -> Vec<Calm> {
        let plain = self.around.deleted.is_none() && self.around.is_plain();
        let waits = self.usage.waits() || !self.schedules.is_empty();
        if !plain || waits || self.subscriptions.iter().any(|(_, history)| !history.is_settled()) {
            return Vec::new();
        }
        let histories = self.subscriptions.iter().enumerate();
        let calm = histories.filter_map(|(place, (id, history))| {
            let (content, newest) = history.calm()?;
            Some(Calm::new(place, id, content, newest))
        });
        calm.collect()
    }

    /// Takes in what was repeated while the customer was at rest.
    pub(crate) fn repeat(&mut self, repeat: Repeat, cx: &mut Context<'_>) -> Result<(), Error> {
        let folding = std::mem::replace(&mut cx.folding, repeat.folding);
        cx.trigger = repeat.appended_at;
        if let Some((_, history)) = self.subscriptions.get_mut(repeat.place as usize) {
            history.repeat(repeat);
        }
        let settled = self.settle(cx);
        cx.folding = folding;
        settled
    }

    /// Takes in an event. True if it has to be settled.
    pub(crate) fn hear(&mut self, brought: Brought<'_>, cx: &mut Context<'_>) -> bool {
        let Brought { arrival: Arrival { event, appended_at }, sketch } = brought;
        let Context { customer, rules, folding, .. } = *cx;
        let mut settle = false;
        if let Object::Invoice(invoice) = &event.object {
            *cx.shelf_changed |=
                self.usage.hear(event, invoice, appended_at, customer, cx.shelf, rules, folding, cx.delta);
            if &*event.kind == "invoice.finalized" {
                settle = self.taxed(event, invoice, appended_at, folding) == Inserted::New;
            }
        }
        if let Object::Invoice(_)
        | Object::Charge(_)
        | Object::Refund(_)
        | Object::CreditNote(_)
        | Object::InvoicePayment(_) = &event.object
        {
            self.books.hear(event, appended_at, customer, rules.recognition, folding, cx.delta);
        }
        let inserted = match &event.object {
            Object::Subscription(subscription) => {
                let sketch = sketch.unwrap_or_else(|| Sketch::of(event, subscription));
                self.history(&subscription.id).hear(event, subscription, sketch, appended_at, folding)
            }
            Object::Customer(customer) => self.customer(event, customer, appended_at, cx),
            Object::Discount(discount) => self.discount(event, discount, appended_at, cx),
            Object::Schedule(schedule) => self.schedules.insert(event, schedule, appended_at),
            Object::CreditNote(_) | Object::InvoicePayment(_) => return settle,
            _ => match self.told.hear(event, appended_at, customer, folding) {
                Heard::Row(row) => {
                    cx.delta.billing_events.push(*row);
                    return settle;
                }
                Heard::Nothing => return settle,
                Heard::Duplicate => Inserted::Duplicate,
                Heard::Late => Inserted::Late,
            },
        };
        match inserted {
            Inserted::New => settle = true,
            Inserted::Duplicate => cx.delta.duplicates += 1,
            Inserted::Late => cx.delta.late.push(LateEvent {
                scope: event.scope.clone(),
                event_id: event.id.clone(),
                kind: event.kind.clone(),
                created: event.created,
                known_at: appended_at,
                customer_id: Some(customer.clone()),
            }),
        }
        settle
    }

    /// The history of a subscription, which may begin here.
    fn history(&mut self, id: &SubscriptionId) -> &mut History {
        let found = self.subscriptions.binary_search_by(|(known, _)| known.cmp(id));
        let position = found.unwrap_or_else(|position| {
            insert_tight(&mut self.subscriptions, position, (id.clone(), History::default()));
            position
        });
        &mut self.subscriptions[position].1
    }

    /// Takes in a snapshot of the customer itself.
    fn customer(
        &mut self,
        event: &Event,
        customer: &Customer,
        appended_at: EventTime,
        cx: &mut Context<'_>,
    ) -> Inserted {
        if customer.deleted || event.is_deletion() {
            return self.delete(event, appended_at, cx.folding);
        }
        let had = match event.before.as_deref() {
            Some(Object::Customer(before)) => before.discounts.iter().map(discount_key).collect(),
            _ => Vec::new(),
        };
        let all: Vec<_> = customer.discounts.iter().map(discount_key).collect();
        if all.is_empty() && had.is_empty() {
            return Inserted::New;
        }
        self.discount_move(event, DiscountMove::Are { all, had }, appended_at, cx)
    }

    /// Takes in an event of a discount on the customer.
    fn discount(
        &mut self,
        event: &Event,
        discount: &Discount,
        appended_at: EventTime,
        cx: &mut Context<'_>,
    ) -> Inserted {
        let id = full_discount_key(discount);
        let what = match event.before.as_deref() {
            _ if event.is_deletion() => DiscountMove::Remove(id),
            before if event.kind.ends_with(".updated") => {
                let from = match before {
                    Some(Object::Discount(before)) => Some(full_discount_key(before)),
                    _ => None,
                };
                DiscountMove::Switch { from, to: id }
            }
            _ => DiscountMove::Add(id),
        };
        self.discount_move(event, what, appended_at, cx)
    }

    fn delete(&mut self, event: &Event, appended_at: EventTime, folding: bool) -> Inserted {
        let time = event.created;
        if let Some((deleted, _, by)) = &self.around.deleted
            && (*deleted, by) <= (time, &event.id)
        {
            return Inserted::Duplicate;
        }
        if !all_reach(&self.subscriptions, time, folding) {
            return Inserted::Late;
        }
        self.around.deleted = Some((time, appended_at, event.id.clone()));
        self.touch_all(time);
        Inserted::New
    }

    fn discount_move(
        &mut self,
        event: &Event,
        what: DiscountMove,
        appended_at: EventTime,
        cx: &mut Context<'_>,
    ) -> Inserted {
        let time = event.created;
        if self.around.discounts.knows(time, &event.id) {
            return Inserted::Duplicate;
        }
        if !all_reach(&self.subscriptions, time, cx.folding) {
            return Inserted::Late;
        }
        let change = DiscountChange { time, what, appended_at, event_id: event.id.clone() };
        let (first, early) = self.around.discounts.insert(change, cx.shelf);
        let folded = self.subscriptions.iter().filter_map(|(_, history)| history.folded()).max();
        for (_, id) in early.iter().filter(|(from, _)| folded.is_some_and(|folded| *from <= folded)) {
            cx.delta.gaps.push(LedgerGap {
                scope: event.scope.clone(),
                occurred_at: time,
                known_at: appended_at,
                customer_id: Some(cx.customer.clone()),
                object_id: id.as_str().into(),
                reason: FOLDED.into(),
                event_id: event.id.clone(),
            });
        }
        self.touch_all(first);
        Inserted::New
    }

    /// Takes in what the lines of a finalised invoice tell of the tax that their amounts include. Prorations are of
    /// another time and tell nothing.
    fn taxed(&mut self, event: &Event, invoice: &Invoice, appended_at: EventTime, folding: bool) -> Inserted {
        let time = event.created;
        let mut inserted = Inserted::Duplicate;
        for line in invoice.lines.iter().filter(|line| !line.proration && line.amount > 0) {
            let (Some(item), Some(tax)) = (&line.subscription_item, line.tax) else { continue };
            let knows = self.around.taxes.iter().any(|told| told.item == *item);
            if tax.inclusive <= 0 && !knows {
                continue;
            }
            let gross = line.amount.saturating_sub(line.discount);
            let net = gross.saturating_sub(tax.inclusive);
            if gross <= 0 || net <= 0 {
                continue;
            }
            let key = (time, item, &event.id);
            let taxes = &mut self.around.taxes;
            if taxes.iter().any(|told| (told.time, &told.item, &told.event_id) == key) {
                continue;
            }
            if !all_reach(&self.subscriptions, time, folding) {
                return Inserted::Late;
            }
            let position = taxes.partition_point(|told| (told.time, &told.item, &told.event_id) < key);
            let (item, event_id) = (item.clone(), event.id.clone());
            taxes.insert(position, TaxTold { time, item, net, gross, event_id, appended_at });
            if taxes.len() > MAX_TAX_LINES {
                // The oldest whose item has told again since.
                let superseded =
                    (0..taxes.len()).find(|old| taxes[old + 1..].iter().any(|new| new.item == taxes[*old].item));
                taxes.remove(superseded.unwrap_or(0));
            }
            inserted = Inserted::New;
        }
        if inserted == Inserted::New {
            self.touch_all(time);
        }
        inserted
    }

    fn touch_all(&mut self, time: EventTime) {
        for (_, history) in &mut self.subscriptions {
            history.touch(time, EventTime::from_micros(i64::MAX));
        }
    }

    /// Asks for what waits or has run out to be worked out again.
    fn touch_unsettled(&mut self, now: EventTime) {
        for (_, history) in &mut self.subscriptions {
            history.touch_unsettled(now);
        }
    }

    /// Asks for everything that rests on one of `needs` to be worked out again. True if anything does.
    pub(crate) fn touch_users(&mut self, needs: &Needs) -> bool {
        let discounted = !self.around.discounts.is_empty();
        let mut any = false;
        for (_, history) in &mut self.subscriptions {
            any |= history.touch_users(needs, discounted);
        }
        any
    }

    /// Tells what folded with a fact that a better source has corrected: it stays as it was until a rebuild.
    pub(crate) fn report_folded(&mut self, needs: &Needs, cx: &mut Context<'_>, appended_at: EventTime) {
        let discounted = !self.around.discounts.is_empty();
        for (_, history) in &mut self.subscriptions {
            history.report_folded(needs, discounted, appended_at, cx);
        }
    }

    /// Works out again what was touched, publishes what changed and folds what is out of reach.
    pub(crate) fn settle(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.touch_unsettled(cx.shelf.now());
        if self.usage.waits() {
            self.usage.settle(cx.scope, cx.customer, cx.shelf, cx.rules, cx.delta);
        }
        self.schedules.settle(cx);
        let mut written = None;
        for (id, history) in &mut self.subscriptions {
            written = earlier(written, history.replay(id, &self.around, cx));
        }
        let Self { subscriptions, movements, .. } = self;
        if let Some(from) = written {
            let held = subscriptions.iter().flat_map(|(_, history)| history.written());
            movements.publish(from, cx.scope, cx.customer, held, cx.rules, cx.delta)?;
        }
        let mut folded = Ok(());
        for (_, history) in subscriptions.iter_mut() {
            history.fold(cx.folding, |time, slot| {
                if let Err(error) = movements.take_over(time, slot, cx.rules) {
                    folded = Err(error);
                }
            });
        }
        folded?;
        if !movements.has_too_many() {
            return Ok(());
        }
        let oldest = subscriptions.iter().flat_map(|(_, history)| history.written()).map(|(time, _)| time).min();
        movements.fold(oldest, cx.rules)
    }
}

/// Whether a change of the customer can still be taken in by all its subscriptions.
fn all_reach(subscriptions: &[(SubscriptionId, History)], time: EventTime, folding: bool) -> bool {
    subscriptions.iter().all(|(_, history)| history.reaches(time, folding))
}

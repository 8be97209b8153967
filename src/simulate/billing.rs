//! Renewals, invoices and payments; what happens when a payment fails and is tried again.

use std::io;

use rand::{Rng, seq::IndexedRandom};

use super::{
    ApiVersion,
    account::{Invoice, LINES, Line, Slot, Stage, Status, Subscription},
    amount::{self, Interval, PARTS, Rate, WHOLE},
    catalog::{CURRENCIES, Duration, Off},
    hazard::{self, RETRY_SUCCESS},
    outbox::By,
    shapes::{self, Charge},
    truth::DAY,
    world::{Act, Target, World},
};

/// A renewal's invoice is a draft for an hour.
const DRAFT_SECONDS: i64 = 3_600;
/// Days between attempts; weekly plans are tried faster, to be done before the next renewal.
const RETRY_DAYS: [i64; 3] = [1, 3, 5];
const WEEKLY_RETRY_DAYS: [i64; 3] = [1, 2, 2];
/// Of subscriptions lost by payment: how many are canceled; the others stay, unpaid.
const LOST_ARE_CANCELED: f64 = 0.7;
/// Of unpaid subscriptions: how many pay in the end.
const UNPAID_PAYS: f64 = 0.15;
/// Value added tax outside the United States and Japan, in percent, on top of the price.
const TAX_PERCENT: i64 = 20;
const DECLINES: [(&str, &str); 3] = [
    ("insufficient_funds", "Your card has insufficient funds."),
    ("generic_decline", "Your card was declined."),
    ("expired_card", "Your card has expired."),
];

impl World<'_> {
    /// A period ends.
    pub(super) fn renew(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(mut slot) = self.slot(target) else {
            return Ok(());
        };
        let new = &mut slot.subscription;
        if new.period.1 != now {
            return Ok(());
        }
        if new.at_period_end {
            return self.end(target, slot, now, By::Stripe);
        }
        match new.status {
            Status::Trialing if new.pause_at_trial_end => {
                new.status = Status::Paused;
                self.commit(target, new, "customer.subscription.updated", now, By::Stripe)?;
                self.tell_subscription(target.customer, None, new, "customer.subscription.paused", now, By::Stripe)?;
                if self.chance(0.4) {
                    let when = now + self.rng.random_range(3..20) * DAY;
                    self.plan(when, Act::Resume, target);
                }
                return Ok(());
            }
            Status::Trialing => {
                new.status = Status::Active;
                new.periods = 0;
            }
            Status::Active | Status::PastDue | Status::Unpaid => new.periods += 1,
            _ => return Ok(()),
        }
        let used = new.period;
        new.set_period(&self.catalog);
        let mut invoice = self.draft(target, new, "subscription_cycle", now, Some(used));
        if let Some([credit, debit]) = slot.prorations.take() {
            let at = invoice.lines().count();
            invoice.lines[at..at + 2].copy_from_slice(&[Some(credit), Some(debit)]);
            if let Some(slot) = self.customer(target).slots[usize::from(target.slot)].as_mut() {
                slot.prorations = None;
            }
        }
        let unpaid = slot.subscription.status == Status::Unpaid;
        self.commit(target, &slot.subscription, "customer.subscription.updated", now, By::Stripe)?;
        self.plan(slot.subscription.period.1, Act::Renew, target);
        self.tell_invoice(target.customer, None, &invoice, "invoice.created", now)?;
        if !unpaid {
            invoice.next_attempt = Some(now + DRAFT_SECONDS);
            self.set_open(target, Some(invoice));
            self.plan(now + DRAFT_SECONDS, Act::Finalize, target);
        }
        Ok(())
    }

    /// A draft invoice for the current period; usage is that of the period before. The subscription knows it as its
    /// latest.
    pub(super) fn draft(
        &mut self,
        target: Target,
        of: &mut Subscription,
        reason: &'static str,
        now: i64,
        used: Option<(i64, i64)>,
    ) -> Invoice {
        let id = self.ids.long("in_");
        of.latest_invoice = Some(id);
        let taxed = matches!(CURRENCIES[of.currency].code, "eur" | "gbp");
        let mut lists = [0; LINES];
        let mut lines: [Option<Line>; LINES] = [None; LINES];
        for (at, item) in of.items().iter().enumerate() {
            let rate = &of.price(&self.catalog, at).rate;
            let (amount, quantity, period) = match (rate, used) {
                (Rate::Metered(unit), Some(used)) => {
                    let quantity = self.rng.random_range(1_000..50_000_u32);
                    (unit * i128::from(quantity), quantity, used)
                }
                (Rate::Metered(_), None) => (0, 0, of.period),
                _ => (rate.list(item.quantity), item.quantity, of.period),
            };
            let amount = (amount + PARTS / 2) / PARTS;
            if !matches!(rate, Rate::Metered(_)) {
                lists[at] = amount * PARTS;
            }
            lines[at] = Some(Line {
                id: self.ids.long("il_"),
                item: item.id,
                plan: item.plan,
                quantity,
                amount: amount as i64,
                discount: 0,
                tax: 0,
                period,
                proration: None,
            });
        }
        let mut shares = [0; LINES];
        if let Some(discount) = of.discount {
            match self.catalog.coupons[discount.coupon].off {
                Off::Percent(percent) => {
                    for (share, list) in shares.iter_mut().zip(lists) {
                        *share = (list * percent / WHOLE + PARTS / 2) / PARTS;
                    }
                }
                Off::Amount(minor, _) => {
                    amount::share(i128::from(minor), &lists, &mut shares);
                    shares.iter_mut().for_each(|share| *share /= PARTS);
                }
            }
            if self.catalog.coupons[discount.coupon].duration == Duration::Once {
                self.plan(now + DRAFT_SECONDS + 1, Act::DiscountEnd, target);
            }
        }
        for (line, share) in lines.iter_mut().flatten().zip(shares) {
            line.discount = share as i64;
            line.tax = if taxed { (line.amount - line.discount) * TAX_PERCENT / 100 } else { 0 };
        }
        Invoice {
            id,
            subscription: of.id,
            currency: of.currency,
            number: 0,
            created: now,
            reason,
            lines,
            period: used.unwrap_or((now, now)),
            stage: Stage::Draft,
            attempts: 0,
            next_attempt: None,
            finalized_at: None,
            settled_at: None,
            payment_intent: None,
            charge: None,
            discount: of.discount.map(|discount| discount.id),
            tenant: of.tenant,
        }
    }

    /// An invoice made and finalised in one go, to be attempted now.
    pub(super) fn issue(&mut self, target: Target, mut invoice: Invoice, now: i64) -> io::Result<()> {
        invoice.next_attempt = Some(now);
        self.tell_invoice(target.customer, None, &invoice, "invoice.created", now)?;
        self.finalize_open(target, invoice, now)
    }

    /// The hour of a draft is over.
    pub(super) fn finalize(&mut self, target: Target, now: i64) -> io::Result<()> {
        match self.slot(target) {
            Some(Slot { subscription, open: Some(invoice), .. })
                if invoice.stage == Stage::Draft && invoice.next_attempt == Some(now) =>
            {
                self.finalize_open(target, invoice, now)?;
                if subscription.collection_paused_until.is_some() {
                    return self.void_open(target, now);
                }
                self.attempt(target, now, None)
            }
            _ => Ok(()),
        }
    }

    fn finalize_open(&mut self, target: Target, mut invoice: Invoice, now: i64) -> io::Result<()> {
        let customer = self.customer(target);
        customer.invoices += 1;
        invoice.number = customer.invoices;
        invoice.stage = Stage::Open;
        invoice.finalized_at = Some(now);
        if invoice.total() > 0 {
            invoice.payment_intent = Some(self.ids.long("pi_"));
        }
        self.set_open(target, Some(invoice));
        self.tell_invoice(target.customer, None, &invoice, "invoice.finalized", now)?;
        if invoice.total() > 0 {
            let charge = self.charge_of(&invoice, now);
            self.tell(
                target.customer,
                "payment_intent.created",
                now,
                By::Stripe,
                false,
                &|out, frame, customer, _| {
                    shapes::payment_intent(out, frame, customer, &charge, false);
                },
            )?;
        }
        Ok(())
    }

    fn charge_of(&mut self, invoice: &Invoice, now: i64) -> Charge {
        let payment_intent = invoice.payment_intent.unwrap_or(invoice.id);
        Charge {
            id: self.ids.long("ch_"),
            payment_intent,
            transaction: self.ids.long("txn_"),
            invoice: invoice.id,
            amount: invoice.total(),
            currency: invoice.currency,
            intended: invoice.finalized_at.unwrap_or(now),
            created: now,
            refunded: 0,
            disputed: false,
            failure: None,
        }
    }

    /// The open invoice is collected; `decided` where the outcome is not left to chance.
    pub(super) fn attempt(&mut self, target: Target, now: i64, decided: Option<bool>) -> io::Result<()> {
        let Some(Slot { subscription, open: Some(old), .. }) = self.slot(target) else {
            return Ok(());
        };
        if old.stage != Stage::Open || (decided.is_none() && old.next_attempt != Some(now)) {
            return Ok(());
        }
        let success = match (decided, old.attempts) {
            (Some(outcome), _) => outcome,
            (None, 0) => {
                let failure = self.customer(target).failure;
                !self.chance(failure)
            }
            (None, tried) => self.chance(RETRY_SUCCESS[tried as usize - 1]),
        };
        let mut new = old;
        new.attempts += 1;
        new.next_attempt = None;
        if new.total() == 0 {
            return self.settle(target, &subscription, new, now);
        }
        let mut charge = self.charge_of(&new, now);
        new.charge = Some(charge.id);
        if success {
            self.tell_charge(target.customer, None, &charge, "charge.succeeded", now, By::Stripe)?;
            self.tell_intent(target, &charge, "payment_intent.succeeded", now)?;
            if self.options.api_version == ApiVersion::Basil {
                let id = self.ids.long("inpay_");
                self.tell(target.customer, "invoice_payment.paid", now, By::Stripe, false, &|out, _, _, _| {
                    shapes::invoice_payment(out, id, &charge);
                })?;
            }
            self.plan_aftermath(target, charge, now);
            return self.settle(target, &subscription, new, now);
        }
        charge.failure = DECLINES.choose(&mut self.rng).copied();
        self.customer(target).note_failure(now);
        let first = subscription.status == Status::Incomplete;
        let retry = if first { None } else { self.retry_day(&subscription, old.attempts) };
        new.next_attempt = retry.map(|days| now + days * DAY);
        self.set_open(target, Some(new));
        self.tell_charge(target.customer, None, &charge, "charge.failed", now, By::Stripe)?;
        self.tell_intent(target, &charge, "payment_intent.payment_failed", now)?;
        self.tell_invoice(target.customer, None, &new, "invoice.payment_failed", now)?;
        self.tell_invoice(target.customer, Some(&old), &new, "invoice.updated", now)?;
        if first {
            return Ok(());
        }
        if !self.customer(target).delinquent {
            self.update_customer(target.customer, now, By::Stripe, |customer| customer.delinquent = true)?;
        }
        match new.next_attempt {
            Some(at) => {
                self.plan(at, Act::Attempt, target);
                if subscription.status == Status::Active {
                    let late = Subscription { status: Status::PastDue, ..subscription };
                    self.commit(target, &late, "customer.subscription.updated", now, By::Stripe)?;
                }
                Ok(())
            }
            None => self.lose(target, now),
        }
    }

    fn tell_intent(&mut self, target: Target, charge: &Charge, kind: &str, now: i64) -> io::Result<()> {
        self.tell(target.customer, kind, now, By::Stripe, false, &|out, frame, customer, _| {
            shapes::payment_intent(out, frame, customer, charge, true);
        })
    }

    fn settle(
        &mut self,
        target: Target,
        subscription: &Subscription,
        mut invoice: Invoice,
        now: i64,
    ) -> io::Result<()> {
        invoice.stage = Stage::Paid;
        invoice.settled_at = Some(now);
        self.set_open(target, None);
        self.tell_invoice(target.customer, None, &invoice, "invoice.paid", now)?;
        self.tell_invoice(target.customer, None, &invoice, "invoice.payment_succeeded", now)?;
        if matches!(subscription.status, Status::PastDue | Status::Unpaid) {
            let new = Subscription { status: Status::Active, ..*subscription };
            self.commit(target, &new, "customer.subscription.updated", now, By::Stripe)?;
        }
        if self.customer(target).delinquent {
            self.update_customer(target.customer, now, By::Stripe, |customer| customer.delinquent = false)?;
        }
        Ok(())
    }

    /// All retries failed.
    fn lose(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(mut slot) = self.slot(target) else {
            return Ok(());
        };
        if self.chance(LOST_ARE_CANCELED) {
            slot.subscription.reason = Some("payment_failed");
            slot.subscription.canceled_at = Some(now);
            return self.end(target, slot, now, By::Stripe);
        }
        slot.subscription.status = Status::Unpaid;
        self.commit(target, &slot.subscription, "customer.subscription.updated", now, By::Stripe)?;
        let until = now + self.rng.random_range(10..25) * DAY;
        self.plan(until, Act::UnpaidEnd, target);
        Ok(())
    }

    /// An unpaid subscription pays in the end, or is given up.
    pub(super) fn unpaid_end(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(mut slot) = self.slot(target) else {
            return Ok(());
        };
        if slot.subscription.status != Status::Unpaid {
            return Ok(());
        }
        if self.chance(UNPAID_PAYS) {
            return self.attempt(target, now, Some(true));
        }
        slot.subscription.reason = Some("payment_failed");
        slot.subscription.canceled_at = Some(now);
        self.end(target, slot, now, By::Stripe)
    }

    /// The open invoice will not be collected.
    pub(super) fn void_open(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(Slot { open: Some(mut invoice), .. }) = self.slot(target) else {
            return Ok(());
        };
        self.set_open(target, None);
        let (stage, kind) = match invoice.stage {
            Stage::Open if invoice.attempts > 1 => (Stage::Uncollectible, "invoice.marked_uncollectible"),
            Stage::Open => (Stage::Void, "invoice.voided"),
            _ => return Ok(()),
        };
        invoice.stage = stage;
        invoice.next_attempt = None;
        invoice.settled_at = Some(now);
        self.tell_invoice(target.customer, None, &invoice, kind, now)
    }

    fn retry_day(&self, subscription: &Subscription, failed_before: u32) -> Option<i64> {
        self.retries(subscription).get(failed_before as usize).copied()
    }

    fn retries(&self, subscription: &Subscription) -> [i64; 3] {
        let price = subscription.price(&self.catalog, 0);
        if price.interval == Interval::Week && price.count == 1 { WEEKLY_RETRY_DAYS } else { RETRY_DAYS }
    }

    /// The chance, seen at a month's start, that payments never recovered take the customer's last counted
    /// subscription before `next`, the month's end.
    pub(super) fn loss_by_payment(&self, customer: u32, next: i64) -> f64 {
        let customer = &self.customers[customer as usize];
        let counted = || customer.slots.iter().flatten().filter(|slot| slot.subscription.counted(&self.catalog) > 0);
        let lost = |slot: &Slot| {
            let subscription = &slot.subscription;
            if subscription.collection_paused_until.is_some() {
                return 0.0;
            }
            let dunning = self.retries(subscription).iter().sum::<i64>() * DAY;
            let mut kept = 1.0;
            if let Some(open) = slot.open {
                let first = open.finalized_at.unwrap_or(open.created + DRAFT_SECONDS);
                if first + dunning < next {
                    kept *= match open.attempts {
                        0 => 1.0 - customer.failure * hazard::never_recovered(0),
                        tried => 1.0 - hazard::never_recovered(tried as usize - 1),
                    };
                }
            }
            for later in 0.. {
                if subscription.period_end(&self.catalog, later) + DRAFT_SECONDS + dunning >= next {
                    break;
                }
                kept *= 1.0 - customer.failure * hazard::never_recovered(0);
            }
            1.0 - kept
        };
        counted().map(|slot| lost(slot)).product()
    }
}

//! One invoice as the books know it: what it bills, and what is taken back of it, by refunds, credit notes, a void, or
//! because it was given up.

use std::sync::Arc;

use num_bigint::BigInt;
use num_traits::Zero;

use super::{
    hash::short,
    packing::packed,
    recognition::{Method, Period, net_of, share_out},
};
use crate::{
    money::{Currency, Rational},
    stripe::{
        ids::{PriceId, ProductId, SubscriptionId},
        types::{CreditNote, Invoice},
    },
    time::EventTime,
};

/// What a change of the books comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Source {
    Invoice,
    Refund,
    CreditNote,
    Void,
    Uncollectible,
    Recovered,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Invoice => "invoice",
            Self::Refund => "refund",
            Self::CreditNote => "credit_note",
            Self::Void => "void",
            Self::Uncollectible => "uncollectible",
            Self::Recovered => "recovered",
        }
    }
}

/// An invoice.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Bill {
    /// Empty until an event of the finalised invoice itself comes.
    pub(super) id: Arc<str>,
    pub(super) currency: Option<Currency>,
    pub(super) finalized_at: EventTime,
    /// What it charges, tax included, in minor units.
    pub(super) gross: i64,
    pub(super) lines: Vec<BillLine>,
    pub(super) truncated: bool,
    pub(super) voided_at: Option<EventTime>,
    /// When it was given up, and how much of it was still owed.
    pub(super) given_up: Option<(EventTime, i64)>,
    /// When it was paid.
    pub(super) paid_at: Option<EventTime>,
    pub(super) notes: Vec<Note>,
    /// Whether it was reported that only credit notes of it are known.
    pub(super) reported: bool,
}

packed!(Bill { id, currency, finalized_at, gross, lines, truncated, voided_at, given_up, paid_at, notes, reported });

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct BillLine {
    pub(super) id: Arc<str>,
    pub(super) subscription: Option<SubscriptionId>,
    pub(super) price: Option<PriceId>,
    pub(super) product: Option<ProductId>,
    pub(super) net: i64,
    pub(super) period: Period,
}

packed!(BillLine { id, subscription, price, product, net, period });

/// A credit note.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Note {
    pub(super) id: Arc<str>,
    pub(super) at: EventTime,
    pub(super) voided_at: Option<EventTime>,
    /// All it takes back, net of tax where the body says what is tax.
    pub(super) all: i64,
    pub(super) taxed: bool,
    /// What it takes back of lines by name.
    pub(super) lines: Vec<(u64, i64)>,
    /// Hashes of the refunds it is paid out by.
    pub(super) refunds: Vec<u64>,
}

packed!(Note { id, at, voided_at, all, taxed, lines, refunds });

/// What is told of the refunds of one payment.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Refunded {
    pub(super) charge: Arc<str>,
    /// Hashes of the ids by which its invoice may know the payment.
    pub(super) ids: Vec<u64>,
    /// Whether it was reported to have no invoice.
    pub(super) reported: bool,
    pub(super) by_id: Vec<RefundFact>,
    /// When an event last spoke of it.
    pub(super) heard_at: EventTime,
    /// The sums that the charge itself states, by time.
    pub(super) stated: Vec<(EventTime, i64)>,
}

packed!(Refunded { charge, ids, reported, by_id, heard_at, stated });

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RefundFact {
    pub(super) id: u64,
    pub(super) minor: i64,
    pub(super) at: EventTime,
    pub(super) failed_at: Option<EventTime>,
}

packed!(RefundFact { id, minor, at, failed_at });

/// A whole number of minor units.
pub(crate) fn whole(minor: i64) -> Rational {
    Rational::from_integer(BigInt::from(minor))
}

impl Bill {
    /// Takes in what a body of the finalised invoice says.
    pub(crate) fn take(&mut self, invoice: &Invoice, created: EventTime) {
        let finalized_at = invoice.finalized_at.unwrap_or(created);
        if self.lines.is_empty() || (self.truncated && !invoice.lines_truncated) {
            self.id = invoice.id.as_ref().map_or_else(|| "".into(), |id| id.as_str().into());
            self.currency = invoice.currency;
            self.finalized_at = finalized_at;
            self.truncated = invoice.lines_truncated;
            self.take_lines(invoice);
        } else if finalized_at < self.finalized_at {
            self.finalized_at = finalized_at;
            self.take_lines(invoice);
        }
        let status = invoice.status.as_deref();
        let earliest = |held: Option<EventTime>, told: Option<EventTime>| held.into_iter().chain(told).min();
        if status == Some("void") || invoice.voided_at.is_some() {
            self.voided_at = earliest(self.voided_at, Some(invoice.voided_at.unwrap_or(created)));
        }
        if status == Some("uncollectible") {
            let at = invoice.uncollectible_at.unwrap_or(created);
            let owed = invoice.amount_remaining.or(invoice.amount_due).unwrap_or(self.gross);
            let told = (at, owed);
            self.given_up = Some(self.given_up.map_or(told, |held| held.min(told)));
        }
        if status == Some("paid") {
            self.paid_at = earliest(self.paid_at, Some(created));
        }
    }

    fn take_lines(&mut self, invoice: &Invoice) {
        let at = self.finalized_at;
        let lines = invoice.lines.iter().map(|line| BillLine {
            id: line.id.as_str().into(),
            subscription: line.subscription.clone().or_else(|| invoice.subscription.clone()),
            price: line.price.clone(),
            product: line.product.clone(),
            net: line.net(),
            // A line without a period is earned when it is billed.
            period: Period { start: line.period_start.unwrap_or(at), end: line.period_end.unwrap_or(at) },
        });
        self.lines = lines.collect();
        let known: i64 = self.lines.iter().map(|line| line.net).fold(0, i64::saturating_add);
        let tax = invoice.tax.map(|tax| tax.total);
        let net = invoice.total.map(|total| total.saturating_sub(tax.unwrap_or(0)));
        self.gross = invoice.total.unwrap_or_else(|| known.saturating_add(tax.unwrap_or(0)));
        // What lines the body does not have bill, over the time that those it has pay for.
        let rest = net.map_or(0, |net| net.saturating_sub(known));
        if self.truncated && rest != 0 {
            let start = self.lines.iter().map(|line| line.period.start).min().unwrap_or(at);
            let end = self.lines.iter().map(|line| line.period.end).max().unwrap_or(at);
            self.lines.push(BillLine {
                id: format!("{}:rest", self.id).into(),
                subscription: invoice.subscription.clone(),
                price: None,
                product: None,
                net: rest,
                period: Period { start, end },
            });
        }
    }

    pub(crate) fn note(&mut self, note: &CreditNote, created: EventTime) {
        let voided_at = (note.status.as_deref() == Some("void") || note.voided_at.is_some())
            .then(|| note.voided_at.unwrap_or(created));
        if let Some(held) = self.notes.iter_mut().find(|held| *held.id == *note.id) {
            held.voided_at = held.voided_at.into_iter().chain(voided_at).min();
            return;
        }
        let named = note.lines.iter().filter_map(|line| Some((short(&[line.invoice_line.as_deref()?]), line.net())));
        let of_lines: i64 = note.lines.iter().map(|line| line.net()).fold(0, i64::saturating_add);
        let (all, taxed) = match (note.amount, note.tax) {
            (Some(amount), Some(tax)) => (amount.saturating_sub(tax.total), false),
            // Lines are net of exclusive tax.
            _ if !note.lines.is_empty() && !note.lines_truncated => (of_lines, false),
            (Some(amount), None) => (amount, true),
            (None, _) => (of_lines, false),
        };
        let at = note.effective_at.or(note.created).unwrap_or(created);
        let position = self.notes.partition_point(|held| (held.at, &*held.id) < (at, &*note.id));
        self.notes.insert(
            position,
            Note {
                id: note.id.as_str().into(),
                at,
                voided_at,
                all,
                taxed,
                lines: named.collect(),
                refunds: note.refunds.iter().map(|id| short(&[id])).collect(),
            },
        );
    }

    /// What is taken back of each line, in order of time: by what, by which, when.
    pub(crate) fn taken_back<'a>(
        &self,
        refunded: impl Iterator<Item = &'a Refunded>,
    ) -> Vec<(Source, Arc<str>, EventTime, Vec<Rational>)> {
        let mut refunded = refunded.peekable();
        if self.notes.is_empty() && refunded.peek().is_none() && self.given_up.is_none() && self.voided_at.is_none() {
            return Vec::new();
        }
        let nets: Vec<Rational> = self.lines.iter().map(|line| whole(line.net)).collect();
        let net: Rational = nets.iter().sum();
        let mut taken = Vec::new();
        for note in &self.notes {
            let parts = self.parts(note, &nets, &net);
            if let Some(voided_at) = note.voided_at {
                let given: Vec<Rational> = parts.iter().map(|part| -part).collect();
                taken.push((Source::CreditNote, Arc::clone(&note.id), voided_at, given));
            }
            taken.push((Source::CreditNote, Arc::clone(&note.id), note.at, parts));
        }
        let credited: Vec<u64> = self.notes.iter().flat_map(|note| note.refunds.iter().copied()).collect();
        for refunded in refunded {
            for (at, minor) in refunded.steps(&credited) {
                let parts = share_out(&net_of(minor, &net, self.gross), &nets);
                taken.push((Source::Refund, Arc::clone(&refunded.charge), at, parts));
            }
        }
        // Of an invoice that is void nothing is owed.
        let given_up = self.given_up.filter(|(at, _)| self.voided_at.is_none_or(|voided_at| *at < voided_at));
        if let Some((at, owed)) = given_up {
            let parts = share_out(&net_of(owed, &net, self.gross), &nets);
            if let Some(paid_at) = self.paid_at.filter(|paid_at| *paid_at > at) {
                let given = parts.iter().map(|part| -part).collect();
                taken.push((Source::Recovered, Arc::clone(&self.id), paid_at, given));
            }
            taken.push((Source::Uncollectible, Arc::clone(&self.id), at, parts));
        }
        if let Some(at) = self.voided_at {
            let left = nets.iter().enumerate().map(|(index, net)| {
                let gone = taken.iter().filter(|(_, _, when, _)| *when <= at).map(|(.., parts)| &parts[index]);
                net - gone.sum::<Rational>()
            });
            taken.push((Source::Void, Arc::clone(&self.id), at, left.collect()));
        }
        taken.sort_by(|a, b| (a.2, a.0, &a.1).cmp(&(b.2, b.0, &b.1)));
        taken
    }

    /// What a credit note takes back of each line: what it says of lines by name, and the rest in proportion.
    fn parts(&self, note: &Note, nets: &[Rational], net: &Rational) -> Vec<Rational> {
        let keys: Vec<u64> = self.lines.iter().map(|line| short(&[&line.id])).collect();
        let mut parts = vec![Rational::zero(); nets.len()];
        let mut rest = if note.taxed { net_of(note.all, net, self.gross) } else { whole(note.all) };
        for (line, minor) in &note.lines {
            if let Some(index) = keys.iter().position(|key| key == line) {
                parts[index] += whole(*minor);
                rest -= whole(*minor);
            }
        }
        for (part, share) in parts.iter_mut().zip(share_out(&rest, nets)) {
            *part += share;
        }
        parts
    }

    /// Whether the same rows follow from both: when it was paid shows only where it had been given up.
    pub(crate) fn books_like(&self, other: &Self) -> bool {
        let Self {
            id,
            currency,
            finalized_at,
            gross,
            lines,
            truncated,
            voided_at,
            given_up,
            paid_at,
            notes,
            reported: _,
        } = self;
        (currency, finalized_at, gross, truncated)
            == (&other.currency, &other.finalized_at, &other.gross, &other.truncated)
            && (voided_at, given_up) == (&other.voided_at, &other.given_up)
            && (given_up.is_none() || *paid_at == other.paid_at)
            && id == &other.id
            && lines == &other.lines
            && notes == &other.notes
    }

    /// When nothing of it is left to be earned.
    pub(crate) fn done(&self, method: Method) -> EventTime {
        if self.lines.is_empty() {
            // The invoice itself is still to come.
            return self.notes.iter().map(|note| note.at).max().unwrap_or(EventTime::MIN);
        }
        let earned = self.lines.iter().map(|line| line.period.earned_at(method)).max();
        earned.map_or(self.finalized_at, |earned| earned.max(self.finalized_at))
    }
}

impl Refunded {
    pub(crate) fn tell(&mut self, fact: RefundFact) {
        match self.by_id.iter_mut().find(|held| held.id == fact.id) {
            Some(held) => {
                held.at = held.at.min(fact.at);
                held.minor = held.minor.max(fact.minor);
                held.failed_at = held.failed_at.into_iter().chain(fact.failed_at).min();
            }
            None => {
                let position = self.by_id.partition_point(|held| (held.at, held.id) < (fact.at, fact.id));
                self.by_id.insert(position, fact);
            }
        }
    }

    /// When how much was given back, beside what `credited` refunds pay out for credit notes. The sum is the larger of
    /// the refunds by their ids and of what the charge states, as in `billing_events`.
    fn steps(&self, credited: &[u64]) -> Vec<(EventTime, i64)> {
        let mut times: Vec<EventTime> = self.stated.iter().map(|(at, _)| *at).collect();
        times.extend(self.by_id.iter().flat_map(|fact| [Some(fact.at), fact.failed_at]).flatten());
        times.sort_unstable();
        times.dedup();
        let mut steps = Vec::new();
        let mut so_far = 0;
        for time in times {
            let holds = |fact: &&RefundFact| fact.at <= time && fact.failed_at.is_none_or(|failed| failed > time);
            let known: i64 = self.by_id.iter().filter(holds).map(|fact| fact.minor).fold(0, i64::saturating_add);
            let notes = self.by_id.iter().filter(holds).filter(|fact| credited.contains(&fact.id));
            let notes: i64 = notes.map(|fact| fact.minor).fold(0, i64::saturating_add);
            let stated = self.stated.iter().rev().find(|(at, _)| *at <= time).map_or(0, |(at, minor)| {
                let failed = self.by_id.iter().filter(|fact| {
                    fact.at <= *at && fact.failed_at.is_some_and(|failed| failed > *at && failed <= time)
                });
                minor.saturating_sub(failed.map(|fact| fact.minor).fold(0, i64::saturating_add))
            });
            let sum = known.max(stated).saturating_sub(notes);
            if sum != so_far {
                steps.push((time, sum.saturating_sub(so_far)));
                so_far = sum;
            }
        }
        steps
    }
}

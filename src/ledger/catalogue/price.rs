//! What is known of one price: each fact with who said it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    dated::{Dated, Told},
    origin::{Origin, Said, Telling},
};
use crate::{
    ledger::listing::PriceRow,
    money::{Currency, Rational},
    stripe::types::{Interval, Price, Provenance, Scope},
    time::EventTime,
};

/// The facts that have an origin of their own.
#[derive(Clone, Copy)]
enum Fact {
    Currency,
    Amount,
    Tiers,
    TiersMode,
    Cadence,
    Product,
    Packages,
    Tax,
}

const FACTS: usize = 8;

/// Unit amounts in another currency.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Options {
    /// Only files have told them.
    from_file: bool,
    amounts: Dated<Rational>,
}

/// What can change of a price.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
struct Label {
    active: Option<bool>,
    nickname: Option<String>,
}

/// A price with its options by date.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct PriceFacts {
    pub(crate) price: Price,
    options: BTreeMap<Currency, Options>,
    /// When an event told that whether amounts include tax was open until then.
    tax_since: Option<EventTime>,
    origins: [Option<Origin>; FACTS],
    label: Said<Label>,
    /// When the log took in what the label says.
    label_at: EventTime,
}

/// What became of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Taken {
    /// Something is known that was not.
    pub(crate) filled: bool,
    /// Something that values may rest on is known otherwise.
    pub(crate) revised: bool,
    /// A better source has replaced what was known.
    pub(crate) corrected: bool,
    /// The body contradicts what is, or was, known.
    pub(crate) contradicted: bool,
}

impl PriceFacts {
    /// What the first body says.
    pub(crate) fn of(price: &Price, telling: &Telling) -> Self {
        let mut facts = Self {
            price: Price::bare(price.id.clone()),
            options: BTreeMap::new(),
            tax_since: None,
            origins: [None; FACTS],
            label: Said::of(label(price, telling, &Label::default()), telling.origin),
            label_at: telling.at,
        };
        facts.take(price, telling);
        facts
    }

    /// The unit amount in `currency`, in its minor units, as it held at `time`.
    pub(crate) fn unit_amount(&self, currency: Currency, time: EventTime) -> Option<&Rational> {
        if self.price.currency == Some(currency) {
            return self.price.unit_amount.as_ref();
        }
        self.options.get(&currency)?.amounts.at(time)
    }

    /// Whether amounts include tax, as it held at `time`, and when that changes.
    pub(crate) fn tax_inclusive(&self, time: EventTime) -> (Option<bool>, Option<EventTime>) {
        match self.tax_since.filter(|since| time < *since) {
            Some(since) => (None, Some(since)),
            None => (self.price.tax_inclusive, None),
        }
    }

    /// Takes note that until `time` it was open whether amounts include tax: Stripe lets that be said once, and it is
    /// so from then on (docs.stripe.com/api/prices/object, `tax_behavior`). True if that is news.
    pub(crate) fn taxed_since(&mut self, time: EventTime) -> bool {
        let news = self.tax_since.is_none_or(|since| time < since);
        if news {
            self.tax_since = Some(time);
        }
        news
    }

    /// Whether a body says nothing that is not known already: the common case, and a cheap one to tell.
    pub(crate) fn knows(&self, price: &Price, telling: &Telling) -> bool {
        let held = &self.price;
        let heard = |fact: Fact| self.origins[fact as usize].is_some_and(|from| !telling.origin.beats(from));
        known(&held.unit_amount, &price.unit_amount, heard(Fact::Amount))
            && known(&held.currency, &price.currency, heard(Fact::Currency))
            && known(&held.tiers, &price.tiers, heard(Fact::Tiers))
            && known(&held.tiers_mode, &price.tiers_mode, heard(Fact::TiersMode))
            && known(&cadence(held), &cadence(price), heard(Fact::Cadence))
            && known(&held.product, &price.product, heard(Fact::Product))
            && known(&held.transform_quantity, &price.transform_quantity, heard(Fact::Packages))
            && known(&held.tax_inclusive, &price.tax_inclusive, heard(Fact::Tax))
            && price.currency_options.is_empty()
            && !telling.ends
            && says_nothing_new(&self.label.what, price)
    }

    /// Takes note that what can change was still so at this time. True if that is later than known.
    pub(crate) fn heard_again(&mut self, price: &Price, telling: &Telling) -> bool {
        (price.active.is_some() || price.nickname.is_some()) && self.label.hear_again(telling.origin)
    }

    /// Takes in a body. One that contradicts a source that it does not beat is refused whole.
    pub(crate) fn take(&mut self, price: &Price, telling: &Telling) -> Taken {
        let mut taken = Taken::default();
        let stands = |fact: Fact| self.origins[fact as usize].is_some_and(|from| !telling.origin.beats(from));
        let held = &self.price;
        let contested = [
            (Fact::Amount, differs(&held.unit_amount, &price.unit_amount)),
            (Fact::Currency, differs(&held.currency, &price.currency)),
            (Fact::Tiers, differs(&held.tiers, &price.tiers)),
            (Fact::TiersMode, differs(&held.tiers_mode, &price.tiers_mode)),
            (Fact::Cadence, differs(&cadence(held), &cadence(price))),
            (Fact::Packages, differs(&held.transform_quantity, &price.transform_quantity)),
        ];
        taken.contradicted = contested.iter().any(|(_, differs)| *differs);
        if contested.iter().any(|(fact, differs)| *differs && stands(*fact)) {
            // Amounts in other currencies have their own dates: they are no part of what is contradicted.
            let options = self.take_options(price, telling.origin);
            (taken.filled, taken.revised) = (options.filled, options.revised);
            return taken;
        }
        // Had the worse record come second it would have been refused whole, so all that it alone told goes.
        let refuted: Vec<Origin> = contested
            .iter()
            .filter(|(_, differs)| *differs)
            .filter_map(|(fact, _)| self.origins[*fact as usize])
            .collect();
        let complete = held.interval.is_some() && (held.unit_amount.is_some() || held.tiers.is_some());
        taken.corrected = !refuted.is_empty();
        refuted.into_iter().for_each(|origin| self.forget(origin));
        let mut merge = Merge { origins: &mut self.origins, origin: telling.origin, filled: false, replaced: false };
        let held = &mut self.price;
        merge.fact(Fact::Amount, &mut held.unit_amount, &price.unit_amount);
        merge.fact(Fact::Currency, &mut held.currency, &price.currency);
        merge.fact(Fact::Tiers, &mut held.tiers, &price.tiers);
        merge.fact(Fact::TiersMode, &mut held.tiers_mode, &price.tiers_mode);
        merge.fact(Fact::Product, &mut held.product, &price.product);
        merge.fact(Fact::Packages, &mut held.transform_quantity, &price.transform_quantity);
        merge.fact(Fact::Tax, &mut held.tax_inclusive, &price.tax_inclusive);
        let mut rhythm = cadence(held);
        merge.fact(Fact::Cadence, &mut rhythm, &cadence(price));
        if let Some((interval, count, metered)) = rhythm {
            (held.interval, held.interval_count, held.metered) = (Some(interval), count, metered);
        }
        let Merge { filled, replaced, .. } = merge;
        let options = self.take_options(price, telling.origin);
        taken.filled = filled || options.filled;
        taken.revised = replaced || taken.corrected || (filled && complete) || options.revised;
        let label = label(price, telling, &self.label.what);
        let before = self.label.what.clone();
        if self.label.hear(label, telling.origin, Label::clone) && self.label.what != before {
            self.label_at = telling.at;
        }
        taken
    }

    /// Forgets what a record told that nobody has told better.
    fn forget(&mut self, origin: Origin) {
        let Self { price, origins, .. } = self;
        let mut told = |fact: Fact| origins[fact as usize].take_if(|from| *from == origin).is_some();
        price.unit_amount.take_if(|_| told(Fact::Amount));
        price.currency.take_if(|_| told(Fact::Currency));
        price.tiers.take_if(|_| told(Fact::Tiers));
        price.tiers_mode.take_if(|_| told(Fact::TiersMode));
        price.interval.take_if(|_| told(Fact::Cadence));
        price.product.take_if(|_| told(Fact::Product));
        price.transform_quantity.take_if(|_| told(Fact::Packages));
        price.tax_inclusive.take_if(|_| told(Fact::Tax));
    }

    /// Takes in amounts in other currencies. A file only says what nobody else has.
    fn take_options(&mut self, price: &Price, origin: Origin) -> Taken {
        let mut taken = Taken::default();
        let from_file = origin.provenance == Provenance::File;
        for (currency, amount) in &price.currency_options {
            let held = self.options.get_mut(currency).filter(|held| from_file || !held.from_file);
            let Some(held) = held else {
                let amounts = Dated::new(origin.time, amount.clone());
                let before = self.options.insert(*currency, Options { from_file, amounts });
                taken.filled = true;
                taken.revised |= before.is_some_and(|file| file.amounts.iter().any(|(_, held)| held != amount));
                continue;
            };
            if held.from_file == from_file && held.amounts.tell(origin.time, amount.clone()) == Told::Otherwise {
                (taken.filled, taken.revised) = (true, true);
            }
        }
        taken
    }

    /// The price as the table lists it.
    pub(crate) fn row(&self, scope: &Scope, at: EventTime) -> PriceRow {
        let first = |facts: &[Fact]| facts.iter().find_map(|fact| self.origins[*fact as usize]);
        let origin = first(&[Fact::Tiers, Fact::Amount, Fact::Cadence]).unwrap_or(self.label.origin);
        PriceRow {
            scope: scope.clone(),
            price: Price {
                active: self.label.what.active,
                nickname: self.label.what.nickname.clone(),
                ..self.price.clone()
            },
            options: self.options.iter().map(|(currency, held)| (*currency, held.listed())).collect(),
            provenance: origin.provenance,
            known_at: at.max(self.label_at),
        }
    }
}

impl Options {
    /// From when, and how much.
    fn listed(&self) -> Vec<(EventTime, Rational)> {
        self.amounts.iter().map(|(from, amount)| (from, amount.clone())).collect()
    }
}

/// Merges facts one by one; none of them contradicts a better source.
struct Merge<'a> {
    origins: &'a mut [Option<Origin>; FACTS],
    origin: Origin,
    filled: bool,
    replaced: bool,
}

impl Merge<'_> {
    fn fact<T: Clone + PartialEq>(&mut self, fact: Fact, held: &mut Option<T>, new: &Option<T>) {
        let Some(value) = new else { return };
        let from = &mut self.origins[fact as usize];
        match held {
            Some(held) if held == value => {
                from.get_or_insert(self.origin).confirm(self.origin);
                return;
            }
            Some(_) if from.is_some_and(|from| !self.origin.beats(from)) => return,
            Some(_) => self.replaced = true,
            None => self.filled = true,
        }
        *held = Some(value.clone());
        *from = Some(self.origin);
    }
}

fn cadence(price: &Price) -> Option<(Interval, u32, bool)> {
    price.interval.map(|interval| (interval, price.interval_count, price.metered))
}

/// What a body says of what can change, over what was said before.
fn label(price: &Price, telling: &Telling, held: &Label) -> Label {
    Label {
        active: if telling.ends { Some(false) } else { price.active.or(held.active) },
        nickname: price.nickname.clone().or_else(|| held.nickname.clone()),
    }
}

/// Whether a body's label is the one that is held, in all it says.
fn says_nothing_new(held: &Label, price: &Price) -> bool {
    (price.active.is_none() || price.active == held.active)
        && (price.nickname.is_none() || price.nickname == held.nickname)
}

/// Whether nothing new is said of a fact: it is not spoken of, or known from a source as good.
fn known<T: PartialEq>(held: &Option<T>, new: &Option<T>, heard: bool) -> bool {
    new.is_none() || (heard && held == new)
}

/// Whether both are known and not equal.
fn differs<T: PartialEq>(held: &Option<T>, new: &Option<T>) -> bool {
    matches!((held, new), (Some(held), Some(new)) if held != new)
}

//! What is known of one price: each fact with who said it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::origin::{Origin, Said, Telling};
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
    /// Unit amounts in other currencies: from when, and how much.
    options: BTreeMap<Currency, Vec<(EventTime, Rational)>>,
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
    /// The body contradicts what is, or was, known.
    pub(crate) contradicted: bool,
}

impl PriceFacts {
    /// What the first body says.
    pub(crate) fn of(price: &Price, telling: &Telling) -> Self {
        let mut facts = Self {
            price: Price::bare(price.id.clone()),
            options: BTreeMap::new(),
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
        let dated = self.options.get(&currency)?;
        let after = dated.partition_point(|(from, _)| *from <= time);
        dated.get(after.saturating_sub(1)).map(|(_, amount)| amount)
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

    /// Takes in a body. One that contradicts an equal or better source is refused whole.
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
            return taken;
        }
        let complete = held.interval.is_some() && (held.unit_amount.is_some() || held.tiers.is_some());
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
        taken.filled = filled | self.take_options(price, telling.origin);
        taken.revised = replaced || (filled && complete);
        let label = label(price, telling, &self.label.what);
        let before = self.label.what.clone();
        if self.label.hear(label, telling.origin, Label::clone) && self.label.what != before {
            self.label_at = telling.at;
        }
        taken
    }

    /// Takes in amounts in other currencies; true if any is news. A file only says what nobody else has.
    fn take_options(&mut self, price: &Price, origin: Origin) -> bool {
        let mut news = false;
        for (currency, amount) in &price.currency_options {
            let dated = self.options.entry(*currency).or_default();
            if origin.provenance == Provenance::File && !dated.is_empty() {
                continue;
            }
            let at = dated.partition_point(|(from, _)| *from <= origin.time);
            if at.checked_sub(1).and_then(|before| dated.get(before)).is_none_or(|(_, held)| held != amount) {
                // The same amount known from a later date is only known for longer.
                match dated.get_mut(at).filter(|(_, held)| held == amount) {
                    Some(later) => later.0 = origin.time,
                    None => dated.insert(at, (origin.time, amount.clone())),
                }
                news = true;
            }
        }
        news
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
            options: self.options.clone(),
            provenance: origin.provenance,
            known_at: at.max(self.label_at),
        }
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

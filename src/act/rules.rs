//! Alert rules: which changes of `expansion_events` are worth saying.
//!
//! Pure functions of the change, the rule, what was said before and the time. A movement is announced once, if it is
//! young enough ([`due`]); from then on every change of its amounts, and its disappearance, is followed by one
//! correction ([`decide`]). A replay of history says nothing twice.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de};
use sha2::{Digest, Sha256};

use super::{
    Change, Error, ExpansionRow,
    alert::{Alert, Reference, Subject},
};
use crate::{
    money::{Amount, Currency, parse_decimal},
    time::EventTime,
};

/// Leading causes of growth that nobody earned: a discount that ran out, the same revenue in another currency.
pub const UNEARNED: [&str; 2] = ["discount_end", "currency_change"];

/// What a rule watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The table of expansions.
    ExpansionEvents,
}

/// From which `mrr_delta` on an expansion counts, in major units a month.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MinAmount {
    /// The same number in every currency.
    Any(Amount),
    /// By currency; a currency that is not listed never counts.
    PerCurrency(BTreeMap<Currency, Amount>),
}

impl MinAmount {
    fn is_met_by(&self, row: &ExpansionRow) -> bool {
        match self {
            Self::Any(least) => row.mrr_delta >= *least,
            Self::PerCurrency(least) => least.get(&row.currency).is_some_and(|least| row.mrr_delta >= *least),
        }
    }
}

/// Reads `"100"`, `100` or `{ usd = "100", jpy = "15000" }`; a number with a point must be a text, to be exact.
impl<'de> Deserialize<'de> for MinAmount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected an amount like \"99.50\", or a table like { usd = \"99.50\" }")]
        enum Written {
            Integer(i64),
            Text(String),
            Table(BTreeMap<Currency, Number>),
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected an amount like \"99.50\"")]
        enum Number {
            Integer(i64),
            Text(String),
        }
        let amount =
            |text: &str| parse_decimal(text).and_then(|value| Amount::round(&value)).map_err(de::Error::custom);
        Ok(match Written::deserialize(deserializer)? {
            Written::Integer(value) => Self::Any(amount(&value.to_string())?),
            Written::Text(text) => Self::Any(amount(&text)?),
            Written::Table(table) => Self::PerCurrency(
                table
                    .into_iter()
                    .map(|(currency, number)| match number {
                        Number::Integer(value) => Ok((currency, amount(&value.to_string())?)),
                        Number::Text(text) => Ok((currency, amount(&text)?)),
                    })
                    .collect::<Result<_, D::Error>>()?,
            ),
        })
    }
}

/// One alert rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its name, in the messages and in the ids.
    pub name: String,
    /// What it watches.
    pub relation: Relation,
    /// From which amount on.
    pub min_amount: MinAmount,
    /// The names of the webhooks that are told.
    pub webhooks: Vec<String>,
    /// How old a row may be when it is first seen: what is older comes from a backfill and alerts nobody.
    pub max_age: Duration,
    /// Whether Stripe's test mode alerts too.
    pub test_mode: bool,
    /// Whether growth that nobody earned alerts too: see [`UNEARNED`].
    pub unearned: bool,
}

impl Rule {
    /// Whether the rule speaks of rows like this one.
    #[must_use]
    pub fn matches(&self, row: &ExpansionRow) -> bool {
        let is_earned = !UNEARNED.contains(&row.cause.as_str());
        (row.livemode || self.test_mode) && (is_earned || self.unearned) && self.min_amount.is_met_by(row)
    }

    /// Changes when the rule would speak of other rows; such a rule begins anew.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let what = format!("{:?} {:?} {} {}", self.relation, self.min_amount, self.test_mode, self.unearned);
        hex::encode(&Sha256::digest(what)[..8])
    }
}

/// Whether a row that occurred then may be announced now: not before the rule was active, not older than its
/// `max_age`. Stripe's times are whole seconds, so the second of the activation counts as after it.
#[must_use]
pub fn due(rule: &Rule, row_occurred_at: EventTime, activated_at: EventTime, now: EventTime) -> bool {
    let age_micros = now.micros().saturating_sub(row_occurred_at.micros());
    let max_age_micros = i64::try_from(rule.max_age.as_micros()).unwrap_or(i64::MAX);
    row_occurred_at.seconds() >= activated_at.seconds() && age_micros <= max_age_micros
}

/// Something that was said of a movement under a rule.
#[derive(Clone, PartialEq, Debug)]
pub struct Statement {
    /// The alert's id.
    pub id: String,
    /// The movement's revision at that time.
    pub revision: i64,
    /// The row it stated, or that there is none.
    pub row: Option<ExpansionRow>,
}

impl Statement {
    /// Only amounts count: a change of cause, revision or event ids is not worth a message.
    fn says(&self, row: Option<&ExpansionRow>) -> bool {
        let amounts = |row: &ExpansionRow| (row.currency, row.mrr_before, row.mrr_after, row.mrr_delta);
        self.row.as_ref().map(amounts) == row.map(amounts)
    }
}

/// The revision of a movement that made it `row`, or, unless the row still `exists`, made it go.
#[must_use]
pub(super) fn revision(row: &ExpansionRow, exists: bool) -> i64 {
    row.revision.saturating_add(i64::from(!exists))
}

/// What to do about a change.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Say this.
    Say(Box<Alert>),
    /// Nothing: the rule does not speak of such rows.
    NoMatch,
    /// Nothing: too old, or before the rule's activation.
    NotDue,
    /// Nothing: it has been said.
    Said,
}

/// Decides about one change, given what was said of its movement under this rule, oldest first.
///
/// What continues from the latest statement is news. What has an earlier revision than something that was said is
/// history offered again, if it was stated once or comes from before the first alert; else it comes from a rebuild
/// that cuts or counts revisions anew, and is news.
///
/// # Errors
/// [`Error::Internal`] when the message cannot be written.
pub fn decide(
    rule: &Rule,
    change: &Change,
    said: &[Statement],
    activated_at: EventTime,
    now: EventTime,
) -> Result<Decision, Error> {
    let Some(any) = change.after.as_ref().or(change.before.as_ref()) else {
        return Ok(Decision::NoMatch);
    };
    let subject = Subject::new(&rule.name, any);
    let after = change.after.as_ref();
    let (Some(first), Some(latest)) = (said.first(), said.last()) else {
        return Ok(match after {
            Some(row) if !rule.matches(row) => Decision::NoMatch,
            Some(row) if !due(rule, row.occurred_at, activated_at, now) => Decision::NotDue,
            Some(row) => Decision::Say(Box::new(Alert::expansion(subject, row.clone())?)),
            None => Decision::NoMatch,
        });
    };
    let before = change.before.as_ref();
    let continues = before.is_some_and(|row| latest.says(before) && row.revision >= latest.revision);
    let revision = revision(any, after.is_some());
    let is_earlier = said.iter().any(|statement| revision < statement.revision);
    let was_stated = said.iter().any(|statement| statement.says(after));
    let is_history = !continues && (revision < first.revision || (is_earlier && was_stated));
    if latest.says(after) || is_history {
        return Ok(Decision::Said);
    }
    let reference = Reference { first: first.id.clone(), replaces: latest.id.clone() };
    let alert = Alert::correction(subject, any.clone(), after.is_some(), now, reference)?;
    Ok(Decision::Say(Box::new(alert)))
}

//! What of the history a command asks for: `--as-of`, `--known-at`, `--profile`.

use chrono::{DateTime, Datelike, NaiveDate};
use chrono_tz::Tz;
use clap::Args;

use super::{Place, pipelines, rim, run};
use crate::{
    config::Config,
    engine::{self, Question},
    ledger::Profile,
    serve::{Catalog, UserTable},
    stream::calendar::first_instant,
    time::EventTime,
};

/// Days from 0001-01-01 to 1970-01-01 in chrono's count.
const EPOCH_FROM_CE: i32 = 719_163;

#[derive(Args, Clone, Default)]
pub(super) struct Asked {
    /// Only what happened by then: a day (its end, in the merchant's zone) or an instant such as 2026-03-31T12:00:00Z
    #[arg(long, value_name = "DAY|INSTANT")]
    as_of: Option<String>,
    /// Only what had arrived by then: an instant, or a day (its end, in the merchant's zone)
    #[arg(long, value_name = "INSTANT|DAY")]
    known_at: Option<String>,
    /// Count by the rules of another profile: stripe, chartmogul, profitwell or custom
    #[arg(long, value_parser = profile)]
    profile: Option<Profile>,
}

impl Asked {
    /// Whether it is anything but what the tables hold.
    pub(super) fn is_history(&self) -> bool {
        self.as_of.is_some() || self.known_at.is_some() || self.profile.is_some()
    }

    /// In words, for a heading.
    pub(super) fn said(&self) -> String {
        let profile = self.profile.map(|profile| profile.as_str().to_owned());
        let parts = [("as of", &self.as_of), ("as known at", &self.known_at), ("counted by", &profile)];
        let parts = parts.into_iter().filter_map(|(word, value)| Some(format!("{word} {}", value.as_ref()?)));
        let said = parts.collect::<Vec<_>>().join(", ");
        if said.is_empty() { "as of now".to_owned() } else { said }
    }

    /// The configuration with the profile that was asked for.
    pub(super) fn config(&self, place: &Place) -> miette::Result<Config> {
        let mut config = place.config()?;
        config.revenue.profile = self.profile.unwrap_or(config.revenue.profile);
        Ok(config)
    }

    /// What happened by the end of a day.
    pub(super) fn as_of(day: &str) -> Self {
        Self { as_of: Some(day.to_owned()), ..Self::default() }
    }

    /// What was known by the end of a day.
    pub(super) fn known_at(day: &str) -> Self {
        Self { known_at: Some(day.to_owned()), ..Self::default() }
    }

    /// What is asked of the history; `customer` limits item states, entries and movements to one customer's.
    pub(super) fn question(&self, place: &Place, customer: Option<&str>) -> miette::Result<Question> {
        let config = self.config(place)?;
        let zone = config.zone().map_err(rim::report)?;
        let bound = |text: &Option<String>, flag| text.as_deref().map(|text| instant(text, zone, flag)).transpose();
        Ok(Question {
            as_of: bound(&self.as_of, "--as-of")?,
            known_at: bound(&self.known_at, "--known-at")?,
            rules: config.rules().map_err(rim::report)?,
            customer: customer.map(str::to_owned),
            account: config.account(),
            zone,
            allowed_lateness: config.allowed_lateness(),
            pipelines: pipelines(&config)?,
            parameters: config.parameters.clone(),
            settings: config.settings(),
        })
    }

    /// The tables that were asked for; none before the first checkpoint.
    pub(super) async fn tables(&self, place: &Place, customer: Option<&str>) -> miette::Result<Vec<UserTable>> {
        let question = self.question(place, customer)?;
        let home = place.home(&place.config()?).await?;
        engine::history_tables(&home, question).await.map_err(rim::engine_report)
    }

    /// The same, to be queried.
    pub(super) async fn catalog(&self, place: &Place, customer: Option<&str>) -> miette::Result<Catalog> {
        let tables = self.tables(place, customer).await?;
        if tables.is_empty() {
            return Err(nothing(place));
        }
        let rates = engine::committed_rates(&tables).await.map_err(rim::engine_report)?;
        run::catalog(&self.config(place)?, tables, rates).await
    }
}

/// There are no tables yet.
pub(super) fn nothing(place: &Place) -> miette::Report {
    miette::miette!(
        help = "run `tributary run --once` on it first",
        "there are no tables in {}",
        place.data_dir.display()
    )
}

/// A calendar day, as days since 1970.
pub(super) fn day(text: &str, flag: &str) -> miette::Result<i32> {
    let day = text.parse::<NaiveDate>().map(|day| day.num_days_from_ce() - EPOCH_FROM_CE);
    day.map_err(|_| miette::miette!(help = "write a day such as 2026-03-31", "{flag}: `{text}` is no day"))
}

/// The day that is so many days after the beginning of 1970.
pub(super) fn day_text(day: i32) -> String {
    NaiveDate::from_num_days_from_ce_opt(day.saturating_add(EPOCH_FROM_CE))
        .map_or_else(String::new, |day| day.to_string())
}

fn profile(text: &str) -> Result<Profile, String> {
    let mut all = Profile::NAMED.into_iter().chain([Profile::Custom]);
    all.find(|profile| profile.as_str() == text)
        .ok_or_else(|| "there are stripe, chartmogul, profitwell and custom".to_owned())
}

/// A day's end in the merchant's zone, or an instant.
fn instant(text: &str, zone: Tz, flag: &str) -> miette::Result<EventTime> {
    if let Ok(day) = text.parse::<NaiveDate>() {
        let next = day.num_days_from_ce() - EPOCH_FROM_CE + 1;
        if let Some(begins) = first_instant(next, zone) {
            return Ok(EventTime::from_micros(begins - 1));
        }
    }
    let spaced = ["%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f%#z"];
    let parsed = DateTime::parse_from_rfc3339(text).ok();
    let parsed = parsed.or_else(|| spaced.iter().find_map(|format| DateTime::parse_from_str(text, format).ok()));
    parsed.map(|instant| EventTime::from_micros(instant.timestamp_micros())).ok_or_else(|| {
        miette::miette!(
            help = "write a day (2026-03-31) or an instant with its zone (2026-03-31T12:00:00Z)",
            "{flag}: `{text}` is neither a day nor an instant"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_in_the_merchants_zone_and_an_instant_is_itself() {
        let berlin: Tz = "Europe/Berlin".parse().unwrap();
        let seconds = |text| instant(text, berlin, "--as-of").map(|at| at.micros().div_euclid(1_000_000));
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp();
        assert_eq!(seconds("2026-03-31").unwrap(), at("2026-03-31T23:59:59+02:00"));
        assert_eq!(seconds("2026-01-31").unwrap(), at("2026-01-31T23:59:59+01:00"));
        for text in ["2026-03-31T12:00:00Z", "2026-03-31 12:00:00+00:00", "2026-03-31 12:00:00.25+00"] {
            assert_eq!(seconds(text).unwrap(), at("2026-03-31T12:00:00Z"), "{text}");
        }
        for text in ["yesterday", "2026-02-30", "2026-03-31T12:00:00"] {
            let report = seconds(text).unwrap_err().to_string();
            assert!(report.contains("--as-of"), "{report}");
        }
    }
}

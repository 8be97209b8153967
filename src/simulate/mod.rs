//! A seeded Stripe account whose true recurring revenue and churn hazards are known.
//!
//! [`simulate`] plays an account day by day and hands out whole Stripe events, in the order of their `created` or as
//! late and as often as webhooks come; the same options give the same bytes. It keeps its own books beside them, so
//! that what the ledger makes of the events can be compared with the [`Truth`]. To be a fair judge it shares no code
//! with the ledger or with the readers of Stripe's objects.
//!
//! Counting follows the profile `stripe`: `active` and `past_due` count; a scheduled cancellation leaves at the
//! request; `forever` discounts are taken off, others are not; a month has 52/12 weeks; usage counts nothing.
//! Each item's net (list less counted discounts) is rounded once, half-even, to six places. A discount of an amount is
//! shared by list value in whole minor units, what remains to the largest remainders, earlier items first.
//! Memory grows with customers and customer-months, not with events.

mod account;
mod aftermath;
mod amount;
mod arrivals;
mod billing;
mod catalog;
mod choices;
pub mod hazard;
mod ids;
mod json;
mod outbox;
mod people;
mod shapes;
mod truth;
mod world;

use std::{fmt, io, str::FromStr};

use chrono::{Months, NaiveDate};

pub use outbox::Sink;
pub use truth::{Hazard, Truth};

/// Customers at most: each takes about 3 KB, so a million are 3 GB.
pub const MAX_CUSTOMERS: u32 = 1_000_000;
/// Months at most: fifty years, so that every time stays within what dates can hold.
pub const MAX_MONTHS: u32 = 600;

/// In which of Stripe's shapes events are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ApiVersion {
    /// `2025-03-31.basil`: periods on items, discounts by id, `parent` and `pricing` on invoice lines.
    #[default]
    Basil,
    /// `2024-06-20`: periods and the discount on the subscription; `subscription`, `charge` and `payment_intent` on
    /// invoices.
    Acacia2024,
}

impl ApiVersion {
    /// Stripe's name of the version.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Basil => "2025-03-31.basil",
            Self::Acacia2024 => "2024-06-20",
        }
    }
}

/// The text names no version the simulator writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownApiVersion(String);

impl fmt::Display for UnknownApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot simulate API version `{}`: use `2025-03-31.basil` or `2024-06-20`", self.0)
    }
}

impl std::error::Error for UnknownApiVersion {}

impl FromStr for ApiVersion {
    type Err = UnknownApiVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "2025-03-31.basil" | "2025-03-31" | "basil" => Ok(Self::Basil),
            "2024-06-20" => Ok(Self::Acacia2024),
            other => Err(UnknownApiVersion(other.to_owned())),
        }
    }
}

/// What to simulate.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Customers that sign up in all: a fifth in the first month, the others evenly over the rest.
    pub customers: u32,
    /// Calendar months from `start`.
    pub months: u32,
    /// Decides everything that is drawn.
    pub seed: u64,
    /// Share of events that arrive up to three days late, and share of which a copy does; 0 to 1.
    pub disorder: f64,
    /// The shape of the events.
    pub api_version: ApiVersion,
    /// The first day (UTC).
    pub start: NaiveDate,
    /// A connected account's id, written as `account` on every event; an account's own events carry none.
    pub account: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            customers: 1_000,
            months: 12,
            seed: 1,
            disorder: 0.0,
            api_version: ApiVersion::Basil,
            start: NaiveDate::from_ymd_opt(2024, 1, 1).unwrap_or_default(),
            account: None,
        }
    }
}

impl Options {
    /// About how many events these options give, doubles included; within a tenth for a thousand customers and more.
    #[must_use]
    pub fn size_hint(&self) -> u64 {
        // Customers come evenly and stay for a time that ends at a constant rate: the mean months each is seen paying.
        let ended = LEAVING_A_MONTH * f64::from(self.months);
        let months = (1.0 + (-ended).exp_m1() / ended) / LEAVING_A_MONTH;
        let each = EVENTS_PER_CUSTOMER + EVENTS_PER_CUSTOMER_MONTH * months;
        ((EVENTS_PER_ACCOUNT + f64::from(self.customers) * each) * (1.0 + self.disorder)) as u64
    }

    fn end(&self) -> Option<NaiveDate> {
        self.start.checked_add_months(Months::new(self.months))
    }

    fn check(&self) -> io::Result<NaiveDate> {
        let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if !(1..=MAX_CUSTOMERS).contains(&self.customers) {
            return wrong(format!("customers must be from 1 to {MAX_CUSTOMERS}, not {}", self.customers));
        }
        if !(1..=MAX_MONTHS).contains(&self.months) {
            return wrong(format!("months must be from 1 to {MAX_MONTHS}, not {}", self.months));
        }
        if !(0.0..=1.0).contains(&self.disorder) {
            return wrong(format!("disorder is a share: it must be from 0 to 1, not {}", self.disorder));
        }
        self.end().map_or_else(|| wrong(format!("{} is too late a start", self.start)), Ok)
    }
}

/// Events of the catalogue, before the first customer.
const EVENTS_PER_ACCOUNT: f64 = 157.0;
// Fitted to 4,000 customers over 1 to 60 months.
const EVENTS_PER_CUSTOMER: f64 = 10.0;
const EVENTS_PER_CUSTOMER_MONTH: f64 = 9.0;
const LEAVING_A_MONTH: f64 = 0.0097;

/// Simulates an account: calls `sink` with each event, a JSON line without its newline, and returns what is true.
///
/// # Errors
/// When an option is out of its range ([`io::ErrorKind::InvalidInput`], saying which), and whatever `sink` fails with.
pub fn simulate(options: &Options, sink: &mut Sink<'_>) -> io::Result<Truth> {
    let end = options.check()?;
    world::World::new(options, end, sink).run()
}

//! What counts as recurring revenue: a profile is a set of settings, and every setting is data.
//!
//! The profiles differ because the tools they are named after differ; `docs/how-we-count.md` has them side by side.
//! Nothing else in the ledger asks which profile is in force.

use serde::{Deserialize, Serialize};

use super::recognition::Method;
use crate::{
    money::Factor,
    stripe::types::{CouponDuration, Interval, SubscriptionStatus},
};

/// A named set of settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// As Stripe's Billing analytics count.
    #[default]
    Stripe,
    /// As ChartMogul counts.
    Chartmogul,
    /// As ProfitWell (Paddle) counts.
    Profitwell,
    /// As `[revenue.custom]` says.
    Custom,
}

impl Profile {
    /// The profiles whose settings are given.
    pub const NAMED: [Self; 3] = [Self::Stripe, Self::Chartmogul, Self::Profitwell];

    /// The name in settings and commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stripe => "stripe",
            Self::Chartmogul => "chartmogul",
            Self::Profitwell => "profitwell",
            Self::Custom => "custom",
        }
    }
}

/// When a cancellation for the period's end takes its revenue away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduledCancellation {
    /// When it is asked for.
    LeavesAtRequest,
    /// When the subscription really ends.
    LeavesAtEnd,
}

/// From when a subscription counts that was created with a start in the past.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackdatedStart {
    /// From its creation: no closed day changes.
    EventTime,
    /// From its `start_date`.
    StartDate,
}

/// In which order discounts of one level are taken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscountOrder {
    /// As Stripe lists them.
    List,
    /// Percentages first.
    PercentFirst,
    /// Amounts first.
    AmountFirst,
}

/// What a period's churned customers are divided by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogoChurnDenominator {
    /// The customers at its beginning.
    Opening,
    /// The customers at its beginning and those that came in it.
    OpeningAndNew,
}

impl LogoChurnDenominator {
    /// The name in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::OpeningAndNew => "opening_and_new",
        }
    }
}

/// The settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rules {
    /// Where the settings come from.
    pub profile: Profile,
    /// When a scheduled cancellation leaves.
    pub scheduled_cancellation: ScheduledCancellation,
    /// Whether coupons that last for ever are taken off.
    pub subtract_forever: bool,
    /// Whether coupons that last some months are taken off.
    pub subtract_repeating: bool,
    /// Whether coupons for one invoice are taken off.
    pub subtract_once: bool,
    /// In which order discounts of one level are taken off.
    pub discount_order: DiscountOrder,
    /// Whether a subscription whose collection is paused counts.
    pub count_paused_collection: bool,
    /// Whether a customer whose subscriptions all cost nothing is still a subscriber: falling to 0 is then a
    /// contraction, not churn.
    pub free_customers_stay: bool,
    /// From when a backdated subscription counts.
    pub backdated_start: BackdatedStart,
    /// Weeks in a month.
    pub weeks_per_month: Factor,
    /// Days in a month.
    pub days_per_month: Factor,
    /// Rows of one customer less than this many seconds after the first of them make one movement; at least 1.
    pub netting_seconds: u32,
    /// How evenly a line of an invoice is recognised over its period; the same in every profile.
    pub recognition: Method,
    /// What logo churn is divided by.
    pub logo_churn_denominator: LogoChurnDenominator,
    /// Whether a customer who leaves by a pause counts in logo churn.
    pub pause_is_logo_churn: bool,
}

impl Rules {
    /// The settings of a profile; those of `custom` begin as `stripe`'s.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let stripe = Self {
            profile,
            scheduled_cancellation: ScheduledCancellation::LeavesAtRequest,
            subtract_forever: true,
            subtract_repeating: false,
            subtract_once: false,
            discount_order: DiscountOrder::List,
            count_paused_collection: true,
            free_customers_stay: false,
            backdated_start: BackdatedStart::EventTime,
            weeks_per_month: Factor::new(52, 12),
            days_per_month: Factor::new(365, 12),
            netting_seconds: 1,
            recognition: Method::default(),
            logo_churn_denominator: LogoChurnDenominator::OpeningAndNew,
            pause_is_logo_churn: false,
        };
        match profile {
            Profile::Stripe | Profile::Custom => stripe,
            // Its MRR is what invoices say, net of every discount; its months have 30.437 days.
            Profile::Chartmogul => Self {
                scheduled_cancellation: ScheduledCancellation::LeavesAtEnd,
                subtract_repeating: true,
                subtract_once: true,
                free_customers_stay: true,
                weeks_per_month: Factor::new(30_437, 7_000),
                days_per_month: Factor::new(30_437, 1_000),
                logo_churn_denominator: LogoChurnDenominator::Opening,
                pause_is_logo_churn: true,
                ..stripe
            },
            // A subscription on hold is worth nothing there.
            Profile::Profitwell => Self {
                scheduled_cancellation: ScheduledCancellation::LeavesAtEnd,
                subtract_repeating: true,
                count_paused_collection: false,
                logo_churn_denominator: LogoChurnDenominator::Opening,
                pause_is_logo_churn: true,
                ..stripe
            },
        }
    }

    /// Whether a subscription of this status counts (docs/how-we-count.md "What counts"; Stripe's "Billing metric
    /// definitions", "Active subscribers"). A value that Stripe adds later does not.
    #[must_use]
    pub fn counts_status(&self, status: &SubscriptionStatus) -> bool {
        matches!(status, SubscriptionStatus::Active | SubscriptionStatus::PastDue)
    }

    /// Whether a coupon of this class is taken off (docs/how-we-count.md "The profiles side by side"; Stripe's "Impact
    /// of discounts and coupons"). One whose class is not known is not.
    #[must_use]
    pub fn subtracts(&self, duration: &CouponDuration) -> bool {
        match duration {
            CouponDuration::Forever => self.subtract_forever,
            CouponDuration::Repeating => self.subtract_repeating,
            CouponDuration::Once => self.subtract_once,
            CouponDuration::Other(_) => false,
        }
    }

    /// The share of an amount paid every `count` intervals that falls on one month. A year is twelve months and a
    /// month is a month; days and weeks are a setting, because the tools disagree by 9 % (revenue.md "Normalising").
    #[must_use]
    pub fn monthly_share(&self, interval: Interval, count: u32) -> Factor {
        let count = i64::from(count.max(1));
        match interval {
            Interval::Day => self.days_per_month / count,
            Interval::Week => self.weeks_per_month / count,
            Interval::Month => Factor::new(1, count),
            Interval::Year => Factor::new(1, count * 12),
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::of(Profile::Stripe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::{Amount, exact};

    fn monthly(rules: &Rules, amount: i64, interval: Interval, count: u32) -> Factor {
        rules.monthly_share(interval, count) * amount
    }

    #[test]
    fn mixed_intervals_add_up_to_the_published_example() {
        let sum = |weeks: Factor, days: Factor| {
            let rules = Rules { weeks_per_month: weeks, days_per_month: days, ..Rules::default() };
            let cents = [(1_000, Interval::Day, 1), (2_000, Interval::Week, 1), (6_000, Interval::Month, 2)];
            let total: Factor = cents.iter().map(|&(a, i, n)| monthly(&rules, a, i, n)).sum();
            Amount::round(&exact((total + monthly(&rules, 12_000, Interval::Year, 1)) / 100)).unwrap().to_string()
        };
        let day = Factor::new(30_437, 1_000);
        assert_eq!(sum(Factor::new(30_437, 7_000), day), "431.332857");
        assert_eq!(sum(Factor::new(4_345, 1_000), day), "431.270000");
    }

    #[test]
    fn every_interval_count_is_respected() {
        let rules = Rules::default();
        assert_eq!(monthly(&rules, 9_000, Interval::Month, 3), Factor::from_integer(3_000));
        assert_eq!(monthly(&rules, 120_000, Interval::Year, 1), Factor::from_integer(10_000));
        assert_eq!(monthly(&rules, 120_000, Interval::Year, 2), Factor::from_integer(5_000));
        assert_eq!(monthly(&rules, 1_000, Interval::Week, 2), Factor::new(1_000 * 52, 24));
        assert_eq!(monthly(&rules, 100, Interval::Day, 10), Factor::new(36_500, 120));
    }
}

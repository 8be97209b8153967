//! What counts as recurring revenue: a profile is a set of settings, and every setting is data.
//!
//! The profiles differ because the tools they are named after differ; `README.md` has them side by side. Nothing else in
//! the ledger asks which profile is in force.

use num_bigint::BigInt;
use serde::{Deserialize, Serialize};

use super::recognition::Method;
use crate::{
    money::Rational,
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
    /// Whether a subscription whose collection is paused counts.
    pub count_paused_collection: bool,
    /// Whether a customer whose subscriptions all cost nothing is still a subscriber: falling to 0 is then a
    /// contraction, not churn.
    pub free_customers_stay: bool,
    /// Weeks in a month.
    pub weeks_per_month: Rational,
    /// Days in a month.
    pub days_per_month: Rational,
    /// Rows of one customer less than this many seconds after the first of them make one movement; at least 1.
    pub netting_seconds: u32,
    /// How evenly a line of an invoice is recognised over its period; the same in every profile.
    pub recognition: Method,
}

impl Rules {
    /// The settings of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let stripe = Self {
            profile,
            scheduled_cancellation: ScheduledCancellation::LeavesAtRequest,
            subtract_forever: true,
            subtract_repeating: false,
            subtract_once: false,
            count_paused_collection: true,
            free_customers_stay: false,
            weeks_per_month: ratio(52, 12),
            days_per_month: ratio(365, 12),
            netting_seconds: 1,
            recognition: Method::default(),
        };
        match profile {
            Profile::Stripe => stripe,
            // Its MRR is what invoices say, net of every discount; its months have 30.437 days.
            Profile::Chartmogul => Self {
                scheduled_cancellation: ScheduledCancellation::LeavesAtEnd,
                subtract_repeating: true,
                subtract_once: true,
                free_customers_stay: true,
                weeks_per_month: ratio(30_437, 7_000),
                days_per_month: ratio(30_437, 1_000),
                ..stripe
            },
            Profile::Profitwell => {
                Self { scheduled_cancellation: ScheduledCancellation::LeavesAtEnd, subtract_repeating: true, ..stripe }
            }
        }
    }

    /// Whether a subscription of this status counts. A value that Stripe adds later does not.
    #[must_use]
    pub fn counts_status(&self, status: &SubscriptionStatus) -> bool {
        matches!(status, SubscriptionStatus::Active | SubscriptionStatus::PastDue)
    }

    /// Whether a coupon of this class is taken off. One whose class is not known is not.
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
    /// month is a month; days and weeks are a setting, because the tools disagree by 9 %.
    #[must_use]
    pub fn monthly_share(&self, interval: Interval, count: u32) -> Rational {
        let count = Rational::from_integer(BigInt::from(count.max(1)));
        match interval {
            Interval::Day => &self.days_per_month / count,
            Interval::Week => &self.weeks_per_month / count,
            Interval::Month => count.recip(),
            Interval::Year => (count * BigInt::from(12)).recip(),
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::of(Profile::Stripe)
    }
}

fn ratio(numerator: i64, denominator: i64) -> Rational {
    Rational::new(numerator.into(), denominator.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Amount;

    fn monthly(rules: &Rules, amount: i64, interval: Interval, count: u32) -> Rational {
        rules.monthly_share(interval, count) * BigInt::from(amount)
    }

    #[test]
    fn mixed_intervals_add_up_to_the_published_example() {
        let sum = |weeks: Rational, days: Rational| {
            let rules = Rules { weeks_per_month: weeks, days_per_month: days, ..Rules::default() };
            let cents = [(1_000, Interval::Day, 1), (2_000, Interval::Week, 1), (6_000, Interval::Month, 2)];
            let total: Rational = cents.iter().map(|&(a, i, n)| monthly(&rules, a, i, n)).sum();
            (total + monthly(&rules, 12_000, Interval::Year, 1)) / BigInt::from(100)
        };
        let day = ratio(30_437, 1_000);
        assert_eq!(Amount::round(&sum(ratio(30_437, 7_000), day.clone())).unwrap().to_string(), "431.332857");
        assert_eq!(Amount::round(&sum(ratio(4_345, 1_000), day)).unwrap().to_string(), "431.270000");
    }

    #[test]
    fn every_interval_count_is_respected() {
        let rules = Rules::default();
        assert_eq!(monthly(&rules, 9_000, Interval::Month, 3), ratio(3_000, 1));
        assert_eq!(monthly(&rules, 120_000, Interval::Year, 1), ratio(10_000, 1));
        assert_eq!(monthly(&rules, 120_000, Interval::Year, 2), ratio(5_000, 1));
        assert_eq!(monthly(&rules, 1_000, Interval::Week, 2), ratio(1_000 * 52, 24));
        assert_eq!(monthly(&rules, 100, Interval::Day, 10), ratio(36_500, 120));
    }
}

//! The known causes of churn and expansion: logistic functions of what a billing system can see, and of a frailty it
//! cannot.
//!
//! At the first second of each calendar month (UTC), for each customer with counted MRR, the visible features are
//! read and the month's probabilities fixed; everything that happens in the month is drawn from them.

/// Seconds a feature looks back.
pub const WINDOW_SECONDS: i64 = 90 * 86_400;

/// The chances that retry 1, 2 and 3 of a failed payment succeeds. After the third the subscription is lost.
pub const RETRY_SUCCESS: [f64; 3] = [0.40, 0.30, 0.20];

/// Standard deviation of each customer's unseen frailty (a logit, constant for life).
pub const FRAILTY: f64 = 0.5;

/// What a logit is made of: an intercept and a coefficient for each feature of [`Features`].
#[derive(Clone, Copy, Debug)]
pub struct Coefficients {
    /// The logit of a new monthly customer without history.
    pub intercept: f64,
    /// For each failed payment attempt of the last 90 days, three at most.
    pub failed_payments: f64,
    /// When MRR contracted by the customer's decision in the last 90 days.
    pub contraction: f64,
    /// Times ln(1 + months since the first counted day).
    pub log_tenure_months: f64,
    /// When a quantity grew in the last 90 days.
    pub seats_growth: f64,
    /// When the first subscription is yearly.
    pub yearly: f64,
    /// When a discount is attached.
    pub discount: f64,
    /// When a subscription is `past_due`.
    pub past_due: f64,
    /// When the first subscription is sold by quantity (seats, tiers, packages, credits).
    pub by_quantity: f64,
    /// Times the unseen frailty.
    pub frailty: f64,
}

/// A customer ends its subscriptions in the month, at once or at the period's end.
pub const VOLUNTARY: Coefficients = Coefficients {
    intercept: -3.1,
    failed_payments: 0.45,
    contraction: 1.1,
    log_tenure_months: -0.45,
    seats_growth: -0.8,
    yearly: -1.2,
    discount: -0.4,
    past_due: 0.5,
    by_quantity: -0.2,
    frailty: 1.0,
};

/// The first attempt of a payment due in the month fails.
pub const PAYMENT_FAILURE: Coefficients = Coefficients {
    intercept: -3.4,
    failed_payments: 0.7,
    contraction: 0.2,
    log_tenure_months: -0.1,
    seats_growth: 0.0,
    yearly: 0.5,
    discount: 0.2,
    past_due: 0.0,
    by_quantity: -0.2,
    frailty: 1.0,
};

/// A customer buys more in the month: a higher plan, more of it, an add-on or a second subscription.
pub const EXPANSION: Coefficients = Coefficients {
    intercept: -2.9,
    failed_payments: -0.4,
    contraction: -0.7,
    log_tenure_months: -0.1,
    seats_growth: 0.6,
    yearly: -0.5,
    discount: 0.1,
    past_due: -1.0,
    by_quantity: 0.7,
    frailty: -0.5,
};

/// A customer buys less in the month but stays. (Not part of the truth files.)
pub const CONTRACTION: Coefficients = Coefficients {
    intercept: -4.0,
    failed_payments: 0.3,
    contraction: 0.3,
    log_tenure_months: 0.0,
    seats_growth: 0.1,
    yearly: -0.8,
    discount: 0.0,
    past_due: 0.3,
    by_quantity: 0.8,
    frailty: 0.5,
};

/// What can be seen of a customer at a month's start, and the frailty that cannot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// Failed payment attempts in the last 90 days, three at most.
    pub failed_payments: f64,
    /// 1 when MRR contracted by the customer's decision in the last 90 days.
    pub contraction: f64,
    /// Months since the first counted day.
    pub tenure_months: f64,
    /// 1 when a quantity grew in the last 90 days.
    pub seats_growth: f64,
    /// 1 when the first subscription is yearly.
    pub yearly: f64,
    /// 1 when a discount is attached.
    pub discount: f64,
    /// 1 when a subscription is past due.
    pub past_due: f64,
    /// 1 when the first subscription is sold by quantity.
    pub by_quantity: f64,
    /// The unseen part.
    pub frailty: f64,
}

impl Coefficients {
    /// The probability these coefficients give to a customer.
    #[must_use]
    pub fn probability(&self, features: &Features) -> f64 {
        let logit = self.intercept
            + self.failed_payments * features.failed_payments
            + self.contraction * features.contraction
            + self.log_tenure_months * (1.0 + features.tenure_months).ln()
            + self.seats_growth * features.seats_growth
            + self.yearly * features.yearly
            + self.discount * features.discount
            + self.past_due * features.past_due
            + self.by_quantity * features.by_quantity
            + self.frailty * features.frailty;
        1.0 / (1.0 + (-logit).exp())
    }
}

/// The chance that the retries from number `tried` on (0-based) all fail.
pub(super) fn never_recovered(tried: usize) -> f64 {
    RETRY_SUCCESS.iter().skip(tried).map(|success| 1.0 - success).product()
}

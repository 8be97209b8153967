//! Stripe's objects as JSON, whole, in two API versions: one file for each family of objects.
//!
//! A body has every key its version has, in one order, so that two states of an object differ in values only.

mod customer;
mod invoice;
mod payment;
mod subscription;

pub(super) use customer::{customer, deleted_customer, discount, payment_method};
pub(super) use invoice::{invoice, proration};
pub(super) use payment::{Charge, Dispute, charge, dispute, invoice_payment, payment_intent, refund};
pub(super) use subscription::subscription;

use super::{ApiVersion, catalog::Catalog};

/// What every shape needs to know.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) version: ApiVersion,
    pub(super) catalog: &'a Catalog,
    /// The account's own id, part of links.
    pub(super) account: &'a str,
}

impl Frame<'_> {
    /// `new` in the current shape, `old` in the older one.
    fn either<'t>(&self, new: &'t str, old: &'t str) -> &'t str {
        match self.version {
            ApiVersion::Basil => new,
            ApiVersion::Acacia2024 => old,
        }
    }

    fn old(&self) -> bool {
        self.version == ApiVersion::Acacia2024
    }
}

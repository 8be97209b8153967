//! Customers, without anything personal, and products.

use serde::Deserialize;

use super::{
    discount::{self, RawDiscount},
    lenient::{Many, Ref, Scalar},
    missing,
};
use crate::stripe::{
    Error, UnknownCounts,
    types::{Customer, Product},
};

#[derive(Deserialize)]
pub(super) struct RawCustomer<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    created: Scalar<'a>,
    #[serde(borrow, default)]
    currency: Scalar<'a>,
    #[serde(borrow, default)]
    delinquent: Scalar<'a>,
    #[serde(borrow, default)]
    discount: Ref<'a, RawDiscount<'a>>,
    #[serde(borrow, default)]
    discounts: Many<Ref<'a, RawDiscount<'a>>>,
    #[serde(borrow, default)]
    deleted: Scalar<'a>,
}

#[derive(Deserialize)]
pub(super) struct RawProduct<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    name: Scalar<'a>,
    #[serde(borrow, default)]
    active: Scalar<'a>,
}

/// Reads a customer; a tombstone has nothing but its id.
pub(super) fn read_customer(raw: RawCustomer<'_>, unknown: &mut UnknownCounts) -> Result<Customer, Error> {
    Ok(Customer {
        id: raw.id.id().ok_or(missing("customer", "id"))?,
        created: raw.created.time(),
        currency: raw.currency.currency(),
        delinquent: raw.delinquent.bool(),
        discounts: discount::read_refs(raw.discounts, raw.discount, unknown),
        deleted: raw.deleted.bool() == Some(true),
    })
}

/// Reads a product.
pub(super) fn read_product(raw: RawProduct<'_>) -> Result<Product, Error> {
    Ok(Product { id: raw.id.id().ok_or(missing("product", "id"))?, name: raw.name.string(), active: raw.active.bool() })
}

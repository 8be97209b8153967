//! Customers, their payment methods and discounts.

use super::{
    super::{
        account::{Customer, Discount},
        catalog::CURRENCIES,
        ids::Id,
        json::{Bare, Text, put},
        outbox::uuid,
    },
    Frame,
};

pub(in super::super) fn customer(out: &mut Vec<u8>, customer: &Customer) {
    let Customer { id, person, .. } = *customer;
    put!(out; r#"{"id":"#, id, r#","object":"customer","address":"#);
    person.put_address(out);
    put!(out;
        r#","balance":0,"created":"#, customer.created, r#","currency":"#,
        customer.currency_fixed.then(|| Text(CURRENCIES[customer.currency].code)), r#","default_source":null,"#,
        r#""delinquent":"#, customer.delinquent, r#","description":"#,
    );
    person.put_firm(out);
    put!(out; r#","discount":null,"email":"#);
    person.put_email(out);
    put!(out;
        r#","invoice_prefix":"#, Text(prefix(&id)),
        r#","invoice_settings":{"custom_fields":[{"name":"Billed to","value":"#,
    );
    person.put_firm(out);
    put!(out;
        r#"},{"name":"Purchase order","value":"PO-"#, i64::from(customer.card.last4) + 10_000,
        r#""}],"default_payment_method":"#, customer.card_is_default.then_some(customer.card.id),
        r#","footer":"Payment is due on receipt. Thank you for your business.","#,
        r#""rendering_options":{"amount_tax_display":"exclude_tax","template":null}},"#, r#""livemode":true,"#,
        r#""metadata":{"tenant_id":""#,
    );
    uuid(customer.tenant, out);
    put!(out; r#"","signup_source":"checkout","account_owner":"#);
    person.put_name(out);
    put!(out;
        r#","crm_id":"0015g00000"#, i64::from(customer.card.last4), r#"AAB","lifecycle":"customer","region":"#,
        Text(person.country()), r#"},"name":"#,
    );
    person.put_name(out);
    put!(out; r#","next_invoice_sequence":"#, customer.invoices + 1, r#","phone":"#);
    person.put_phone(out);
    put!(out; r#","preferred_locales":["en-GB","en"],"shipping":{"address":"#);
    person.put_address(out);
    put!(out; r#","name":"#);
    person.put_name(out);
    put!(out; r#","phone":"#);
    person.put_phone(out);
    put!(out; r#"},"tax_exempt":"none","test_clock":null}"#);
}

/// What is told of a customer who was deleted.
pub(in super::super) fn deleted_customer(out: &mut Vec<u8>, id: Id) {
    put!(out; r#"{"id":"#, id, r#","object":"customer","deleted":true}"#);
}

/// The letters an invoice number begins with.
pub(super) fn prefix(customer: &Id) -> &str {
    customer.as_str().get(10..).unwrap_or_default()
}

pub(super) fn billing_details(out: &mut Vec<u8>, customer: &Customer) {
    put!(out; r#"{"address":"#);
    customer.person.put_address(out);
    put!(out; r#","email":"#);
    customer.person.put_email(out);
    put!(out; r#","name":"#);
    customer.person.put_name(out);
    put!(out; r#","phone":"#);
    customer.person.put_phone(out);
    put!(out; r#","tax_id":null}"#);
}

pub(in super::super) fn payment_method(out: &mut Vec<u8>, customer: &Customer) {
    let card = customer.card;
    put!(out; r#"{"id":"#, card.id, r#","object":"payment_method","allow_redisplay":"limited","billing_details":"#);
    billing_details(out, customer);
    put!(out;
        r#","card":{"brand":"#, Text(card.brand), r#","checks":{"address_line1_check":"pass","#,
        r#""address_postal_code_check":"pass","cvc_check":"pass"},"country":"#, Text(customer.person.country()),
        r#","display_brand":"#, Text(card.brand), r#","exp_month":"#, card.month, r#","exp_year":"#, card.year,
        r#","fingerprint":"#, card.fingerprint, r#","funding":"credit","generated_from":null,"last4":""#,
        i64::from(card.last4), r#"","networks":{"available":["#, Text(card.brand), r#"],"preferred":null},"#,
        r#""regulated_status":"unregulated","three_d_secure_usage":{"supported":true},"wallet":null},"created":"#,
        customer.created, r#","customer":"#, customer.id, r#","livemode":true,"metadata":{},"type":"card"}"#,
    );
}

/// A discount on a subscription, with its coupon.
pub(in super::super) fn discount(
    out: &mut Vec<u8>,
    frame: &Frame<'_>,
    customer: Id,
    subscription: Id,
    discount: &Discount,
) {
    put!(out;
        r#"{"id":"#, discount.id, r#","object":"discount","checkout_session":null,"coupon":"#,
        frame.catalog.coupons[discount.coupon].body.as_slice(), r#","customer":"#, customer, r#","end":"#,
        discount.end, r#","invoice":null,"invoice_item":null,"promotion_code":null,"start":"#, discount.start,
        r#","subscription":"#, subscription, r#","subscription_item":null}"#,
    );
}

/// A link that opens without a password, as Stripe's hosted pages do.
pub(super) fn link(out: &mut Vec<u8>, frame: &Frame<'_>, host: &str, id: Id, tail: &str) {
    put!(out;
        "\"https://", host, "/", frame.account, "/live_YWNjdF8xUGc", Bare(id),
        "LF9LenEwOGZNa1RoWUFTb1RCZlI3R0VE0200", tail, "\"",
    );
}

//! Invoices with their lines, and the invoice items of prorations.

use super::{
    super::{
        account::{Customer, Invoice, Line, Stage, Status, Subscription},
        catalog::CURRENCIES,
        ids::Id,
        json::{Bare, Text, put},
        outbox::uuid,
    },
    Frame,
    customer::{link, prefix},
};

pub(in super::super) fn invoice(out: &mut Vec<u8>, frame: &Frame<'_>, customer: &Customer, of: &Invoice) {
    let (subtotal, discounted, tax, total) = (of.subtotal(), of.discounted(), of.tax(), of.total());
    let paid = of.stage == Stage::Paid;
    let amount_paid = if paid { total } else { 0 };
    let finalized = of.finalized_at.is_some();
    let code = CURRENCIES[of.currency].code;
    put!(out;
        r#"{"id":"#, of.id, r#","object":"invoice","account_country":"US","account_name":"Rivermill Cloud Inc.","#,
        r#""account_tax_ids":null,"amount_due":"#, total, frame.either(r#","amount_overpaid":0"#, ""),
        r#","amount_paid":"#, amount_paid, r#","amount_remaining":"#, total - amount_paid,
        r#","amount_shipping":0,"application":null,"#, frame.either("", r#""application_fee_amount":null,"#),
        r#""attempt_count":"#, of.attempts, r#","attempted":"#, of.attempts > 0, r#","auto_advance":"#,
        matches!(of.stage, Stage::Draft | Stage::Open), r#","automatic_tax":{"disabled_reason":null,"#,
        r#""enabled":true,"liability":{"type":"self"},"provider":"stripe","status":"complete"},"#,
        r#""automatically_finalizes_at":"#, (!finalized).then_some(of.created + 3_600), r#","billing_reason":"#,
        Text(of.reason), ",",
    );
    if frame.old() {
        put!(out; r#""charge":"#, of.charge, ",");
    }
    put!(out;
        r#""collection_method":"charge_automatically","created":"#, of.created, r#","currency":"#, Text(code),
        r#","custom_fields":null,"customer":"#, customer.id, r#","customer_address":"#,
    );
    customer.person.put_address(out);
    put!(out; r#","customer_email":"#);
    customer.person.put_email(out);
    put!(out; r#","customer_name":"#);
    customer.person.put_name(out);
    put!(out; r#","customer_phone":"#);
    customer.person.put_phone(out);
    put!(out;
        r#","customer_shipping":null,"customer_tax_exempt":"none","customer_tax_ids":[],"#,
        r#""default_payment_method":null,"default_source":null,"default_tax_rates":[],"description":null,"#,
    );
    if frame.old() {
        put!(out; r#""discount":null,"#);
    }
    put!(out; r#""discounts":["#);
    if let Some(id) = of.discount {
        put!(out; id);
    }
    put!(out;
        r#"],"due_date":null,"effective_at":"#, of.finalized_at, r#","ending_balance":"#, finalized.then_some(0_i64),
        r#","footer":null,"from_invoice":null,"hosted_invoice_url":"#,
    );
    if finalized {
        link(out, frame, "invoice.stripe.com/i", of.id, "?s=ap");
    } else {
        put!(out; "null");
    }
    put!(out; r#","invoice_pdf":"#);
    if finalized {
        link(out, frame, "pay.stripe.com/invoice", of.id, "/pdf?s=ap");
    } else {
        put!(out; "null");
    }
    put!(out;
        r#","issuer":{"type":"self"},"last_finalization_error":null,"latest_revision":null,"#,
        r#""lines":{"object":"list","data":["#,
    );
    for (at, line) in of.lines().enumerate() {
        if at > 0 {
            put!(out; ",");
        }
        put_line(out, frame, of, line);
    }
    put!(out;
        r#"],"has_more":false,"total_count":"#, of.lines().count() as i64, r#","url":"/v1/invoices/"#, Bare(of.id),
        r#"/lines"},"livemode":true,"metadata":{},"next_payment_attempt":"#, of.next_attempt, r#","number":"#,
    );
    if finalized {
        put!(out; "\"", prefix(&customer.id), "-", i64::from(of.number) + 1_000, "\"");
    } else {
        put!(out; "null");
    }
    put!(out; r#","on_behalf_of":null,"#);
    if frame.old() {
        put!(out; r#""paid":"#, paid, r#","paid_out_of_band":false,"payment_intent":"#, of.payment_intent, ",");
    } else {
        put!(out; r#""parent":{"quote_details":null,"subscription_details":{"metadata":{"tenant_id":""#);
        uuid(of.tenant, out);
        put!(out;
            r#"","channel":"self_serve"},"subscription":"#, of.subscription, r#"},"type":"subscription_details"},"#,
        );
    }
    put!(out;
        r#""payment_settings":{"default_mandate":null,"payment_method_options":{"acss_debit":null,"#,
        r#""bancontact":null,"card":{"request_three_d_secure":"automatic"},"customer_balance":null,"#,
        r#""konbini":null,"sepa_debit":null,"us_bank_account":null},"payment_method_types":["card"]},"#,
        r#""period_end":"#, of.period.1, r#","period_start":"#, of.period.0,
        r#","post_payment_credit_notes_amount":0,"pre_payment_credit_notes_amount":0,"#,
        frame.either("", r#""quote":null,"#), r#""receipt_number":null,"rendering":{"amount_tax_display":null,"#,
        r#""pdf":{"page_size":"auto"},"template":null,"template_version":null},"shipping_cost":null,"#,
        r#""shipping_details":null,"starting_balance":0,"statement_descriptor":null,"status":"#,
        Text(of.stage.as_str()),
        r#","status_transitions":{"finalized_at":"#, of.finalized_at, r#","marked_uncollectible_at":"#,
        of.settled_at.filter(|_| of.stage == Stage::Uncollectible), r#","paid_at":"#,
        of.settled_at.filter(|_| paid), r#","voided_at":"#, of.settled_at.filter(|_| of.stage == Stage::Void), "},",
    );
    if frame.old() {
        put!(out; r#""subscription":"#, of.subscription, r#","subscription_details":{"metadata":{"tenant_id":""#);
        uuid(of.tenant, out);
        put!(out; r#"","channel":"self_serve"}},"#);
    }
    put!(out; r#""subtotal":"#, subtotal, r#","subtotal_excluding_tax":"#, subtotal, ",");
    if frame.old() {
        put!(out; r#""tax":"#, (tax != 0).then_some(tax), ",");
    }
    put!(out; r#""test_clock":null,"total":"#, total, r#","total_discount_amounts":["#);
    if let Some(id) = of.discount {
        put!(out; r#"{"amount":"#, discounted, r#","discount":"#, id, "}");
    }
    put!(out;
        r#"],"total_excluding_tax":"#, total - tax, r#","total_pretax_credit_amounts":[],"#,
        frame.either(r#""total_taxes":"#, r#""total_tax_amounts":"#),
    );
    taxes(out, frame, tax, subtotal - discounted);
    put!(out;
        frame.either("", r#","transfer_data":null"#), r#","webhooks_delivered_at":"#,
        finalized.then_some(of.created + 2), "}",
    );
}

fn taxes(out: &mut Vec<u8>, frame: &Frame<'_>, tax: i64, taxable: i64) {
    if tax == 0 {
        put!(out; "[]");
        return;
    }
    let rate = frame.catalog.tax_rate;
    if frame.old() {
        put!(out;
            r#"[{"amount":"#, tax, r#","inclusive":false,"tax_rate":"#, rate,
            r#","taxability_reason":"standard_rated","taxable_amount":"#, taxable, "}]",
        );
    } else {
        put!(out;
            r#"[{"amount":"#, tax, r#","tax_behavior":"exclusive","tax_rate_details":{"tax_rate":"#, rate,
            r#"},"taxability_reason":"standard_rated","taxable_amount":"#, taxable,
            r#","type":"tax_rate_details"}]"#,
        );
    }
}

fn put_line(out: &mut Vec<u8>, frame: &Frame<'_>, of: &Invoice, line: &Line) {
    let price = frame.catalog.price(of.currency, line.plan);
    put!(out; r#"{"id":"#, line.id, r#","object":"line_item","amount":"#, line.amount, ",");
    if frame.old() {
        put!(out; r#""amount_excluding_tax":"#, line.amount, ",");
    }
    put!(out; r#""currency":"#, Text(CURRENCIES[of.currency].code), r#","description":""#);
    describe(out, line, &price.label);
    put!(out; r#"","discount_amounts":["#);
    if line.discount != 0
        && let Some(id) = of.discount
    {
        put!(out; r#"{"amount":"#, line.discount, r#","discount":"#, id, "}");
    }
    put!(out; r#"],"discountable":"#, line.proration.is_none(), r#","discounts":[],"invoice":"#, of.id, ",");
    if frame.old()
        && let Some(item) = line.proration
    {
        put!(out; r#""invoice_item":"#, item, ",");
    }
    put!(out; r#""livemode":true,"metadata":{},"#);
    if !frame.old() {
        match line.proration {
            Some(item) => put!(out;
                r#""parent":{"invoice_item_details":{"invoice_item":"#, item, r#","proration":true,"#,
                r#""proration_details":{"credited_items":null},"subscription":"#, of.subscription,
                r#"},"subscription_item_details":null,"type":"invoice_item_details"},"#,
            ),
            None => put!(out;
                r#""parent":{"invoice_item_details":null,"subscription_item_details":{"invoice_item":null,"#,
                r#""proration":false,"proration_details":{"credited_items":null},"subscription":"#, of.subscription,
                r#","subscription_item":"#, line.item, r#"},"type":"subscription_item_details"},"#,
            ),
        }
    }
    put!(out; r#""period":{"end":"#, line.period.1, r#","start":"#, line.period.0, "},");
    if frame.old() {
        put!(out;
            r#""plan":"#, price.plan.as_slice(), r#","pretax_credit_amounts":[],"price":"#, price.body.as_slice(),
            r#","proration":"#, line.proration.is_some(), r#","proration_details":{"credited_items":null},"#,
            r#""quantity":"#, line.quantity, r#","subscription":"#, of.subscription, r#","subscription_item":"#,
            line.item, r#","tax_amounts":"#,
        );
        taxes(out, frame, line.tax, line.amount - line.discount);
        put!(out;
            r#","tax_rates":[],"type":"#,
            Text(if line.proration.is_some() { "invoiceitem" } else { "subscription" }),
            r#","unit_amount_excluding_tax":"#, price.decimal.as_deref().map(Text), "}",
        );
    } else {
        put!(out;
            r#""pretax_credit_amounts":[],"pricing":{"price_details":{"price":"#, price.id, r#","product":"#,
            frame.catalog.products[price.product].id, r#"},"type":"price_details","unit_amount_decimal":"#,
            price.decimal.as_deref().map(Text), r#"},"quantity":"#, line.quantity, r#","taxes":"#,
        );
        taxes(out, frame, line.tax, line.amount - line.discount);
        put!(out; "}");
    }
}

fn describe(out: &mut Vec<u8>, line: &Line, label: &str) {
    match (line.proration, line.amount < 0) {
        (None, _) => put!(out; i64::from(line.quantity), " × ", label),
        (Some(_), true) => put!(out; "Unused time on ", i64::from(line.quantity), " × ", label),
        (Some(_), false) => put!(out; "Remaining time on ", i64::from(line.quantity), " × ", label),
    }
}

/// The invoice item of a proration, waiting for its invoice.
pub(in super::super) fn proration(
    out: &mut Vec<u8>,
    frame: &Frame<'_>,
    customer: Id,
    subscription: &Subscription,
    line: &Line,
    date: i64,
) {
    debug_assert_ne!(subscription.status, Status::Canceled);
    let price = frame.catalog.price(subscription.currency, line.plan);
    put!(out;
        r#"{"id":"#, line.proration, r#","object":"invoiceitem","amount":"#, line.amount, r#","currency":"#,
        Text(CURRENCIES[subscription.currency].code), r#","customer":"#, customer, r#","date":"#, date,
        r#","description":""#,
    );
    describe(out, line, &price.label);
    put!(out; r#"","discountable":false,"discounts":[],"invoice":null,"livemode":true,"metadata":{},"#);
    if !frame.old() {
        put!(out;
            r#""net_amount":"#, line.amount, r#","parent":{"subscription_details":{"subscription":"#,
            subscription.id, r#","subscription_item":"#, line.item, r#"},"type":"subscription_details"},"#,
        );
    }
    put!(out; r#""period":{"end":"#, line.period.1, r#","start":"#, line.period.0, "},");
    if frame.old() {
        put!(out;
            r#""plan":"#, price.plan.as_slice(), r#","price":"#, price.body.as_slice(),
            r#","proration":true,"quantity":"#, line.quantity, r#","subscription":"#, subscription.id,
            r#","subscription_item":"#, line.item, r#","tax_rates":[],"test_clock":null,"unit_amount":null,"#,
            r#""unit_amount_decimal":"#, price.decimal.as_deref().map(Text), "}",
        );
    } else {
        put!(out;
            r#""pricing":{"price_details":{"price":"#, price.id, r#","product":"#,
            frame.catalog.products[price.product].id, r#"},"type":"price_details","unit_amount_decimal":"#,
            price.decimal.as_deref().map(Text), r#"},"proration":true,"#,
            r#""proration_details":{"discount_amounts":[]},"quantity":"#, line.quantity,
            r#","tax_rates":[],"test_clock":null}"#,
        );
    }
}

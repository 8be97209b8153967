//! Subscriptions with their items.

use super::{
    super::{
        account::{Item, Subscription},
        catalog::CURRENCIES,
        ids::Id,
        json::{Bare, Text, put},
        outbox::uuid,
    },
    Frame,
    customer::discount,
};

pub(in super::super) fn subscription(
    out: &mut Vec<u8>,
    frame: &Frame<'_>,
    customer: Id,
    payment_method: Option<Id>,
    of: &Subscription,
) {
    let id = of.id;
    put!(out;
        r#"{"id":"#, id, r#","object":"subscription","application":null,"application_fee_percent":null,"#,
        r#""automatic_tax":{"disabled_reason":null,"enabled":true,"liability":{"type":"self"}},"#,
        r#""billing_cycle_anchor":"#, of.anchor, r#","billing_cycle_anchor_config":null,"#,
        frame.either("", r#""billing_thresholds":null,"#), r#""cancel_at":"#,
        of.at_period_end.then_some(of.period.1), r#","cancel_at_period_end":"#, of.at_period_end && !of.by_date,
        r#","canceled_at":"#, of.canceled_at, r#","cancellation_details":{"comment":"#, of.comment.map(Text),
        r#","feedback":"#, of.feedback.map(Text), r#","reason":"#, of.reason.map(Text),
        r#"},"collection_method":"charge_automatically","created":"#, of.created, r#","currency":"#,
        Text(CURRENCIES[of.currency].code), ",",
    );
    if frame.old() {
        put!(out; r#""current_period_end":"#, of.period.1, r#","current_period_start":"#, of.period.0, ",");
    }
    put!(out;
        r#""customer":"#, customer, r#","days_until_due":null,"default_payment_method":"#, payment_method,
        r#","default_source":null,"default_tax_rates":[],"description":null,"#,
    );
    if frame.old() {
        put!(out; r#""discount":"#);
        match &of.discount {
            Some(applied) => discount(out, frame, customer, id, applied),
            None => put!(out; "null"),
        }
        put!(out; ",");
    }
    put!(out; r#""discounts":["#);
    if let Some(applied) = of.discount {
        put!(out; applied.id);
    }
    put!(out;
        r#"],"ended_at":"#, of.ended_at, r#","invoice_settings":{"account_tax_ids":null,"#,
        r#""issuer":{"type":"self"}},"items":{"object":"list","data":["#,
    );
    for (at, item) in of.items().iter().enumerate() {
        if at > 0 {
            put!(out; ",");
        }
        put_item(out, frame, of, at, item);
    }
    let items = of.items().len();
    put!(out;
        r#"],"has_more":false,"total_count":"#, items as i64, r#","url":"/v1/subscription_items?subscription="#,
        Bare(id), r#""},"latest_invoice":"#, of.latest_invoice, r#","livemode":true,"metadata":{"tenant_id":""#,
    );
    uuid(of.tenant, out);
    put!(out;
        r#"","channel":"self_serve","plan_code":"#, Text(of.price(frame.catalog, 0).code),
        r#"},"next_pending_invoice_item_invoice":null,"on_behalf_of":null,"pause_collection":"#,
    );
    match of.collection_paused_until {
        Some(until) => put!(out; r#"{"behavior":"void","resumes_at":"#, until, "}"),
        None => put!(out; "null"),
    }
    put!(out;
        r#","payment_settings":{"payment_method_options":{"acss_debit":null,"bancontact":null,"#,
        r#""card":{"network":null,"request_three_d_secure":"automatic"},"customer_balance":null,"konbini":null,"#,
        r#""sepa_debit":null,"us_bank_account":null},"payment_method_types":["card"],"#,
        r#""save_default_payment_method":"on_subscription"},"#, r#""pending_invoice_item_interval":null,"#,
        r#""pending_setup_intent":null,"pending_update":null,"plan":"#,
    );
    match of.items() {
        [only] => put!(out; of.price(frame.catalog, 0).plan.as_slice(), r#","quantity":"#, only.quantity),
        _ => put!(out; r#"null,"quantity":null"#),
    }
    put!(out;
        r#","schedule":null,"start_date":"#, of.created, r#","status":"#, Text(of.status.as_str()),
        r#","test_clock":null,"transfer_data":null,"trial_end":"#, of.trial.map(|trial| trial.1),
        r#","trial_settings":{"end_behavior":{"missing_payment_method":"#,
        Text(if of.pause_at_trial_end { "pause" } else { "create_invoice" }), r#"}},"trial_start":"#,
        of.trial.map(|trial| trial.0), "}",
    );
}

fn put_item(out: &mut Vec<u8>, frame: &Frame<'_>, of: &Subscription, at: usize, item: &Item) {
    let price = of.price(frame.catalog, at);
    put!(out;
        r#"{"id":"#, item.id, r#","object":"subscription_item","#,
        frame.either("", r#""billing_thresholds":null,"#), r#""created":"#, item.created, ",",
    );
    if !frame.old() {
        put!(out; r#""current_period_end":"#, of.period.1, r#","current_period_start":"#, of.period.0, ",");
    }
    put!(out; r#""discounts":[],"metadata":{},"plan":"#, price.plan.as_slice(), r#","price":"#, price.body.as_slice());
    if !price.metered() {
        put!(out; r#","quantity":"#, item.quantity);
    }
    put!(out; r#","subscription":"#, of.id, r#","tax_rates":[]}"#);
}

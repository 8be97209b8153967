//! Payment intents, charges, refunds and disputes.

use super::{
    super::{
        account::{Card, Customer},
        catalog::CURRENCIES,
        ids::Id,
        json::{Bare, Text, put},
    },
    Frame,
    customer::{billing_details, link},
};

/// One attempt to collect.
#[derive(Clone, Copy)]
pub(in super::super) struct Charge {
    pub(in super::super) id: Id,
    pub(in super::super) payment_intent: Id,
    pub(in super::super) transaction: Id,
    pub(in super::super) invoice: Id,
    pub(in super::super) amount: i64,
    pub(in super::super) currency: usize,
    /// When the payment intent was made.
    pub(in super::super) intended: i64,
    pub(in super::super) created: i64,
    pub(in super::super) refunded: i64,
    pub(in super::super) disputed: bool,
    /// Why it failed: code, message.
    pub(in super::super) failure: Option<(&'static str, &'static str)>,
}

pub(in super::super) fn charge(out: &mut Vec<u8>, frame: &Frame<'_>, customer: &Customer, of: &Charge) {
    let paid = of.failure.is_none();
    put!(out;
        r#"{"id":"#, of.id, r#","object":"charge","amount":"#, of.amount, r#","amount_captured":"#,
        if paid { of.amount } else { 0 }, r#","amount_refunded":"#, of.refunded, r#","application":null,"#,
        r#""application_fee":null,"application_fee_amount":null,"balance_transaction":"#,
        paid.then_some(of.transaction), r#","billing_details":"#,
    );
    billing_details(out, customer);
    put!(out;
        r#","calculated_statement_descriptor":"RIVERMILL CLOUD","captured":"#, paid, r#","created":"#, of.created,
        r#","currency":"#, Text(CURRENCIES[of.currency].code), r#","customer":"#, customer.id,
        r#","description":"Subscription update","destination":null,"dispute":null,"disputed":"#, of.disputed,
        r#","failure_balance_transaction":null,"failure_code":"#, of.failure.map(|why| Text(why.0)),
        r#","failure_message":"#, of.failure.map(|why| Text(why.1)), r#","fraud_details":{},"#,
    );
    if frame.old() {
        put!(out; r#""invoice":"#, of.invoice, ",");
    }
    put!(out; r#""livemode":true,"metadata":{},"on_behalf_of":null,"order":null,"outcome":"#);
    match of.failure {
        None => put!(out;
            r#"{"advice_code":null,"network_advice_code":null,"network_decline_code":null,"#,
            r#""network_status":"approved_by_network","reason":null,"risk_level":"normal","risk_score":12,"#,
            r#""seller_message":"Payment complete.","type":"authorized"}"#,
        ),
        Some((code, _)) => put!(out;
            r#"{"advice_code":"try_again_later","network_advice_code":"03","network_decline_code":"51","#,
            r#""network_status":"declined_by_network","reason":"#, Text(code), r#","risk_level":"normal","#,
            r#""risk_score":38,"#,
            r#""seller_message":"The bank did not return any further details with this decline.","#,
            r#""type":"issuer_declined"}"#,
        ),
    }
    put!(out;
        r#","paid":"#, paid, r#","payment_intent":"#, of.payment_intent, r#","payment_method":"#, customer.card.id,
        r#","payment_method_details":{"card":"#,
    );
    card(out, customer, &customer.card, of.amount);
    put!(out; r#","type":"card"},"radar_options":{},"receipt_email":"#);
    customer.person.put_email(out);
    put!(out; r#","receipt_number":null,"receipt_url":"#);
    if paid {
        link(out, frame, "pay.stripe.com/receipts/payment", of.id, "?s=ap");
    } else {
        put!(out; "null");
    }
    put!(out;
        r#","refunded":"#, of.refunded == of.amount, r#","review":null,"shipping":null,"source":null,"#,
        r#""source_transfer":null,"statement_descriptor":null,"statement_descriptor_suffix":null,"status":"#,
        Text(if paid { "succeeded" } else { "failed" }), r#","transfer_data":null,"transfer_group":null}"#,
    );
}

fn card(out: &mut Vec<u8>, customer: &Customer, card: &Card, amount: i64) {
    put!(out;
        r#"{"amount_authorized":"#, amount, r#","authorization_code":null,"brand":"#, Text(card.brand),
        r#","checks":{"address_line1_check":"pass","address_postal_code_check":"pass","cvc_check":null},"#,
        r#""country":"#, Text(customer.person.country()), r#","exp_month":"#, card.month, r#","exp_year":"#,
        card.year, r#","extended_authorization":{"status":"disabled"},"fingerprint":"#, card.fingerprint,
        r#","funding":"credit","incremental_authorization":{"status":"unavailable"},"installments":null,"last4":""#,
        i64::from(card.last4), r#"","mandate":null,"multicapture":{"status":"unavailable"},"network":"#,
        Text(card.brand), r#","network_token":{"used":false},"network_transaction_id":"#, card.fingerprint,
        r#","overcapture":{"maximum_amount_capturable":"#, amount, r#","status":"unavailable"},"#,
        r#""regulated_status":"unregulated","three_d_secure":null,"wallet":null}"#,
    );
}

/// What links a payment to its invoice since neither names the other.
pub(in super::super) fn invoice_payment(out: &mut Vec<u8>, id: Id, of: &Charge) {
    put!(out;
        r#"{"id":"#, id, r#","object":"invoice_payment","amount_paid":"#, of.amount, r#","amount_requested":"#,
        of.amount, r#","created":"#, of.intended, r#","currency":"#, Text(CURRENCIES[of.currency].code),
        r#","invoice":"#, of.invoice, r#","is_default":true,"livemode":true,"payment":{"payment_intent":"#,
        of.payment_intent, r#","type":"payment_intent"},"status":"paid","status_transitions":{"canceled_at":null,"#,
        r#""paid_at":"#, of.created, "}}",
    );
}

/// A payment intent: paid, failed, or (with neither) just made.
pub(in super::super) fn payment_intent(
    out: &mut Vec<u8>,
    frame: &Frame<'_>,
    customer: &Customer,
    of: &Charge,
    tried: bool,
) {
    let paid = tried && of.failure.is_none();
    put!(out;
        r#"{"id":"#, of.payment_intent, r#","object":"payment_intent","amount":"#, of.amount,
        r#","amount_capturable":0,"amount_details":{"tip":{}},"amount_received":"#,
        if paid { of.amount } else { 0 }, r#","application":null,"application_fee_amount":null,"#,
        r#""automatic_payment_methods":null,"canceled_at":null,"cancellation_reason":null,"#,
        r#""capture_method":"automatic","client_secret":""#, Bare(of.payment_intent), "_secret_",
        Bare(customer.card.fingerprint), r#"","confirmation_method":"automatic","created":"#, of.intended,
        r#","currency":"#, Text(CURRENCIES[of.currency].code), r#","customer":"#, customer.id,
        r#","description":"Subscription update","#,
    );
    if frame.old() {
        put!(out; r#""invoice":"#, of.invoice, ",");
    }
    put!(out; r#""last_payment_error":"#);
    match of.failure.filter(|_| tried) {
        None => put!(out; "null"),
        Some((code, message)) => {
            put!(out;
                r#"{"advice_code":"try_again_later","charge":"#, of.id, r#","code":"card_declined","#,
                r#""decline_code":"#, Text(code),
                r#","doc_url":"https://stripe.com/docs/error-codes/card-declined","message":"#, Text(message),
                r#","payment_method":"#,
            );
            super::payment_method(out, customer);
            put!(out; r#","type":"card_error"}"#);
        }
    }
    put!(out;
        r#","latest_charge":"#, tried.then_some(of.id), r#","livemode":true,"metadata":{},"next_action":null,"#,
        r#""on_behalf_of":null,"payment_method":"#, (tried && paid).then_some(customer.card.id),
        r#","payment_method_configuration_details":null,"#,
        r#""payment_method_options":{"acss_debit":{"mandate_options":{"#,
        r#""interval_description":"First day of every month","#,
        r#""payment_schedule":"interval","transaction_type":"business"},"verification_method":"automatic"},"#,
        r#""card":{"installments":null,"mandate_options":null,"network":null,"request_three_d_secure":"automatic","#,
        r#""setup_future_usage":"off_session"},"link":{"persistent_token":null},"#,
        r#""us_bank_account":{"financial_connections":"#,
        r#"{"filters":{},"permissions":["payment_method"],"prefetch":[]},"verification_method":"automatic"}},"#,
        r#""payment_method_types":["card","link"],"#,
        r#""presentment_details":null,"processing":null,"receipt_email":"#,
    );
    customer.person.put_email(out);
    put!(out; r#","review":null,"setup_future_usage":"off_session","shipping":{"address":"#);
    customer.person.put_address(out);
    put!(out; r#","carrier":null,"name":"#);
    customer.person.put_name(out);
    put!(out; r#","phone":"#);
    customer.person.put_phone(out);
    put!(out;
        r#","tracking_number":null},"source":null,"statement_descriptor":null,"#,
        r#""statement_descriptor_suffix":null,"status":"#,
        Text(if paid { "succeeded" } else if tried { "requires_payment_method" } else { "requires_confirmation" }),
        r#","transfer_data":null,"transfer_group":null}"#,
    );
}

/// A refund of part or all of a charge.
pub(in super::super) fn refund(
    out: &mut Vec<u8>,
    id: Id,
    of: &Charge,
    amount: i64,
    created: i64,
    reference: Option<u32>,
) {
    put!(out;
        r#"{"id":"#, id, r#","object":"refund","amount":"#, amount, r#","balance_transaction":"#, of.transaction,
        r#","charge":"#, of.id, r#","created":"#, created, r#","currency":"#, Text(CURRENCIES[of.currency].code),
        r#","destination_details":{"card":{"reference":"#,
    );
    match reference {
        Some(digits) => put!(out; "\"", digits, r#"","reference_status":"available""#),
        None => put!(out; r#"null,"reference_status":"pending""#),
    }
    put!(out;
        r#","reference_type":"acquirer_reference_number","type":"refund"},"type":"card"},"#,
        r#""metadata":{"ticket":"SUP-"#, created % 100_000, r#""},"payment_intent":"#, of.payment_intent,
        r#","reason":"requested_by_customer","receipt_number":null,"source_transfer_reversal":null,"#,
        r#""status":"succeeded","transfer_reversal":null}"#,
    );
}

/// A dispute of a charge.
#[derive(Clone, Copy)]
pub(in super::super) struct Dispute {
    pub(in super::super) id: Id,
    pub(in super::super) created: i64,
    pub(in super::super) status: &'static str,
    /// Withdrawn, and given back.
    pub(in super::super) transactions: [Option<Id>; 2],
}

pub(in super::super) fn dispute(out: &mut Vec<u8>, customer: &Customer, charge: &Charge, of: &Dispute) {
    let code = CURRENCIES[charge.currency].code;
    put!(out; r#"{"id":"#, of.id, r#","object":"dispute","amount":"#, charge.amount, r#","balance_transactions":["#);
    for (at, id) in of.transactions.iter().flatten().enumerate() {
        let sign = if at == 0 { -1 } else { 1 };
        put!(out;
            if at == 0 { "" } else { "," }, r#"{"id":"#, *id, r#","object":"balance_transaction","amount":"#,
            sign * charge.amount, r#","available_on":"#, of.created + 86_400, r#","created":"#, of.created,
            r#","currency":"#, Text(code), r#","description":"Chargeback","exchange_rate":null,"fee":1500,"#,
            r#""fee_details":[{"amount":1500,"application":null,"currency":"#, Text(code),
            r#","description":"Dispute fee","type":"stripe_fee"}],"net":"#, sign * charge.amount - 1_500,
            r#","reporting_category":"#, Text(if at == 0 { "dispute" } else { "dispute_reversal" }),
            r#","source":"#, of.id, r#","status":"pending","type":"adjustment"}"#,
        );
    }
    put!(out;
        r#"],"charge":"#, charge.id, r#","created":"#, of.created, r#","currency":"#, Text(code),
        r#","enhanced_eligibility_types":[],"evidence":{"access_activity_log":null,"billing_address":null,"#,
        r#""cancellation_policy":null,"cancellation_policy_disclosure":null,"cancellation_rebuttal":null,"#,
        r#""customer_communication":null,"customer_email_address":"#,
    );
    customer.person.put_email(out);
    put!(out; r#","customer_name":"#);
    customer.person.put_name(out);
    put!(out;
        r#","customer_purchase_ip":"198.51.100.23","customer_signature":null,"#,
        r#""duplicate_charge_documentation":null,"duplicate_charge_explanation":null,"duplicate_charge_id":null,"#,
        r#""enhanced_evidence":{},"product_description":null,"receipt":null,"refund_policy":null,"#,
        r#""refund_policy_disclosure":null,"refund_refusal_explanation":null,"service_date":null,"#,
        r#""service_documentation":null,"shipping_address":null,"shipping_carrier":null,"shipping_date":null,"#,
        r#""shipping_documentation":null,"shipping_tracking_number":null,"uncategorized_file":null,"#,
        r#""uncategorized_text":null},"#, r#""evidence_details":{"due_by":"#, of.created + 14 * 86_400,
        r#","enhanced_eligibility":{},"has_evidence":false,"past_due":false,"submission_count":0},"#,
        r#""is_charge_refundable":false,"livemode":true,"metadata":{},"payment_intent":"#, charge.payment_intent,
        r#","payment_method_details":{"card":{"brand":"#, Text(customer.card.brand),
        r#","case_type":"chargeback","network_reason_code":"13.2"},"type":"card"},"#,
        r#""reason":"subscription_canceled","status":"#, Text(of.status), "}",
    );
}

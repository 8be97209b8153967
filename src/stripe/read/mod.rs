//! Readers: from Stripe's JSON to the canonical types, one file a family of objects.
//!
//! A reader decides by the structure it finds, never by `api_version`, so that old, new and mixed shapes give the
//! same value. What it does not know it counts; only an object without the fields that make it usable (a
//! subscription without id or customer) is an error. Resolving ids to prices and coupons is left to the ledger.

mod credit_note;
mod customer;
mod discount;
mod fx;
mod invoice;
pub(crate) mod lenient;
mod object;
mod payment;
mod price;
mod schedule;
mod subscription;
mod tax;
mod undo;

use serde_json::value::RawValue;

use self::object::RawObject;
use super::{
    Error,
    counts::UnknownCounts,
    envelope::{self, Envelope},
    ids::AccountId,
    own,
    types::{Event, Object},
};

/// Reads one Stripe event, in one pass over its body. `default_account` owns the events that name no account.
///
/// # Errors
/// As [`Envelope::parse`], and [`Error::Missing`] for an object that lacks what makes it usable.
pub fn read_event(body: &[u8], default_account: &AccountId, unknown: &mut UnknownCounts) -> Result<Event, Error> {
    let text = envelope::text(body)?;
    let Envelope { id, kind, created, account, livemode, object, previous_attributes, .. } =
        Envelope::parse_as(text, |object: lenient::Maybe<RawObject<'_>>| object.0)?;
    let object = object.read(unknown)?;
    let before = match previous_attributes.filter(|previous| wants_before(&object, previous)) {
        Some(previous) => read_before(Envelope::parse_str(text)?.object, previous, &object, unknown),
        None => None,
    };
    Ok(Event {
        scope: envelope::scope(account.as_deref(), livemode, default_account),
        id: (&*id).into(),
        kind: (&*kind).into(),
        created,
        object,
        before,
    })
}

/// Whether the object before an event is asked for: a subscription's always, others' where a discount, a coupon or the
/// tax of a price changed. Everything else that changes of them moves no revenue.
fn wants_before(object: &Object, previous: &RawValue) -> bool {
    let changed = |key: &str| previous.get().contains(key);
    match object {
        Object::Subscription(_) | Object::Discount(_) => true,
        Object::Customer(_) => changed("\"discount"),
        Object::Price(_) => changed("\"tax_behavior\""),
        _ => false,
    }
}

/// Reads an object as it was before its changes; `None`, and counted, when that is no such object.
fn read_before(
    json: &RawValue,
    previous: &RawValue,
    object: &Object,
    unknown: &mut UnknownCounts,
) -> Option<Box<Object>> {
    // The object's own unknown words are counted already.
    let mut known = UnknownCounts::default();
    let before = undo::undo(json, previous).and_then(|json| {
        let raw: RawObject<'_> = serde_json::from_str(&json).map_err(|error| Error::json(&error))?;
        raw.read(&mut known)
    });
    let alike = |before: &Object| std::mem::discriminant(before) == std::mem::discriminant(object);
    let before = before.ok().filter(alike);
    if before.is_none() {
        unknown.count(match object {
            Object::Customer(_) => "customer.previous_attributes",
            Object::Discount(_) => "discount.previous_attributes",
            Object::Price(_) => "price.previous_attributes",
            _ => "subscription.previous_attributes",
        });
    }
    before.map(Box::new)
}

fn missing(object: &'static str, field: &'static str) -> Error {
    Error::Missing { object, field }
}

/// Counts `word` when it is none of `known`. `what` is the field, such as `charge.status`.
fn note_word(what: &str, word: Option<&str>, known: &[&str], unknown: &mut UnknownCounts) {
    if let Some(word) = word.filter(|word| !known.contains(word)) {
        unknown.count(&format!("{what}={word}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::types::Subscription;

    fn event(kind: &str, object: &str, rest: &str) -> String {
        format!(
            r#"{{"id":"evt_1","object":"event","created":1700000000,"livemode":true,"type":"{kind}",
                "data":{{"object":{object}{rest}}}}}"#
        )
    }

    fn read(body: &str, unknown: &mut UnknownCounts) -> Result<Event, Error> {
        read_event(body.as_bytes(), &AccountId::from("acct_own"), unknown)
    }

    fn subscription(object: Object) -> Subscription {
        match object {
            Object::Subscription(subscription) => *subscription,
            other => panic!("not a subscription: {other:?}"),
        }
    }

    #[test]
    fn the_state_before_is_the_object_with_its_changes_undone() {
        let object = r#"{"object":"subscription","id":"sub_1","customer":"cus_1","status":"active","trial_end":5,
            "pause_collection":{"behavior":"void","resumes_at":9},
            "items":{"data":[{"id":"si_1","price":{"id":"p_1"},"quantity":3}],"has_more":false}}"#;
        let previous = r#","previous_attributes":{"status":"trialing","trial_end":null,
            "pause_collection":{"behavior":"keep_as_draft"},
            "items":{"data":[{"id":"si_1","price":{"id":"p_0"},"quantity":1},{"id":"si_2","price":"p_9"}]}}"#;
        let event = read(&event("customer.subscription.updated", object, previous), &mut UnknownCounts::default());
        let event = event.unwrap();
        let before = subscription(*event.before.unwrap());
        assert_eq!(before.status.as_str(), "trialing");
        assert_eq!(before.trial_end, None);
        assert_eq!(before.pause_collection.as_deref(), Some("keep_as_draft"));
        let prices: Vec<_> = before.items.iter().map(|item| item.price.id.as_str()).collect();
        assert_eq!(prices, ["p_0", "p_9"]);
        assert_eq!(subscription(event.object).items.len(), 1);
    }

    #[test]
    fn customers_discounts_and_prices_are_undone_where_it_moves_revenue() {
        let before = |kind: &str, object: &str, previous: &str| {
            let previous = format!(r#","previous_attributes":{previous}"#);
            let read = read(&event(kind, object, &previous), &mut UnknownCounts::default()).unwrap();
            read.before.map(|before| *before)
        };
        let half = r#"{"id":"di_1","object":"discount","coupon":{"id":"half","percent_off":50,"duration":"forever"}}"#;
        let customer = r#"{"id":"cus_1","object":"customer","discount":null,"balance":5}"#;
        let had = before("customer.updated", customer, &format!(r#"{{"discount":{half}}}"#));
        assert!(matches!(had, Some(Object::Customer(customer)) if customer.discounts.len() == 1));
        assert_eq!(before("customer.updated", customer, r#"{"balance":0}"#), None, "nothing that is counted");
        let switched = r#"{"coupon":{"id":"tenth","percent_off":10},"id":"di_0"}"#;
        let Some(Object::Discount(old)) = before("customer.discount.updated", half, switched) else {
            panic!("no discount")
        };
        assert_eq!((old.id.unwrap().as_str(), old.coupon.id().as_str()), ("di_0", "tenth"));
        let price = r#"{"id":"p","object":"price","tax_behavior":"inclusive"}"#;
        let open = before("price.updated", price, r#"{"tax_behavior":"unspecified"}"#);
        assert!(matches!(open, Some(Object::Price(price)) if price.tax_inclusive.is_none()));
    }

    #[test]
    fn a_state_before_that_cannot_be_read_does_not_lose_the_event() {
        let mut unknown = UnknownCounts::default();
        let object = r#"{"object":"subscription","id":"sub_1","customer":"cus_1","status":"active","items":{}}"#;
        let previous = r#","previous_attributes":{"customer":null}"#;
        assert!(read(&event("a.b", object, previous), &mut unknown).unwrap().before.is_none());
        assert_eq!(unknown.get("subscription.previous_attributes"), 1);
    }

    #[test]
    fn what_makes_an_object_unusable_is_an_error_and_nothing_else_is() {
        let mut unknown = UnknownCounts::default();
        let refused = read(&event("a.b", r#"{"object":"subscription","id":"sub_1"}"#, ""), &mut unknown);
        assert_eq!(refused.unwrap_err(), Error::Missing { object: "subscription", field: "customer" });
        let odd = r#"{"object":"subscription","id":"sub_1","customer":{"id":"cus_1"},"status":7,"items":"none",
            "discounts":{"x":1},"discount":[],"trial_end":"soon","cancel_at_period_end":"yes","pause_collection":3}"#;
        let object = subscription(read(&event("a.b", odd, ""), &mut unknown).unwrap().object);
        assert_eq!(object.customer.as_str(), "cus_1");
        assert!(object.items.is_empty() && object.items_truncated);
    }

    #[test]
    fn unknown_objects_and_words_are_kept_and_counted() {
        let mut unknown = UnknownCounts::default();
        let read_one =
            |object: &str, unknown: &mut UnknownCounts| read(&event("a.b", object, ""), unknown).unwrap().object;
        assert_eq!(read_one(r#"{"object":"payout","id":"po_1"}"#, &mut unknown), Object::Other("payout".into()));
        let frozen = r#"{"object":"subscription","id":"s","customer":"c","status":"frozen","items":{"data":[]}}"#;
        assert_eq!(subscription(read_one(frozen, &mut unknown)).status.as_str(), "frozen");
        assert_eq!(unknown.sorted(), [("object=payout", 1), ("subscription.status=frozen", 1)]);
    }
}

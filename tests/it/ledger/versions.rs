//! Random histories as JSON in three layouts that Stripe's API has had: what its readers make of them is the same
//! ledger.
//!
//! What a layout has no place for is left out of the history first; `stripe_shapes` has the list by version.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tributary::{
    money::Rational,
    stripe::{UnknownCounts, read_event, types::*},
    time::EventTime,
};

use super::{book::*, histories::*, properties::*};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Layout {
    /// Plans, one discount without an id, the period on the subscription.
    Y2019,
    /// Prices, one discount with an id.
    Y2022,
    /// Discounts by id, coupons by id, the period on the items, `parent` and `pricing` on invoice lines.
    Y2025,
}

impl Layout {
    fn version(self) -> &'static str {
        match self {
            Self::Y2019 => "2019-12-03",
            Self::Y2022 => "2022-05-25",
            Self::Y2025 => "2025-09-30.clover",
        }
    }

    /// The event without what the layout cannot say: `None` if nothing is left of it.
    fn carries(self, event: &Event) -> Option<Event> {
        let lacking: &[&str] = match self {
            // Neither the currency of a subscription nor whether a price includes tax.
            Self::Y2019 => &["sub_7", "sub_8"],
            Self::Y2022 => &["sub_7"],
            Self::Y2025 => &[],
        };
        // Phases had other names; that is a test of its own.
        if self == Self::Y2019 && matches!(event.object, Object::Schedule(_)) {
            return None;
        }
        let subscription = match &event.object {
            Object::Subscription(subscription) => subscription.id.as_str(),
            Object::Schedule(schedule) => schedule.subscription.as_ref()?.as_str(),
            Object::Invoice(invoice) => invoice.subscription.as_ref()?.as_str(),
            _ => "",
        };
        if lacking.contains(&subscription) {
            return None;
        }
        let mut event = event.clone();
        if self < Self::Y2025 {
            for object in std::iter::once(&mut event.object).chain(event.before.as_deref_mut()) {
                if let Object::Subscription(subscription) = object {
                    subscription.items.iter_mut().for_each(|item| item.discounts.clear());
                }
            }
        }
        Some(event)
    }

    fn write(self, event: &Event) -> String {
        let object = self.object(&event.object);
        let mut data = json!({ "object": object });
        if let Some(before) = &event.before {
            data["previous_attributes"] = changed(&data["object"], &self.object(before));
        }
        let kind = match (self, &*event.kind) {
            (Self::Y2019, "price.created") => "plan.created",
            (Self::Y2019, "price.updated") => "plan.updated",
            (_, kind) => kind,
        };
        json!({
            "id": event.id.as_str(), "object": "event", "api_version": self.version(), "type": kind, "data": data,
            "created": event.created.seconds(), "livemode": true, "pending_webhooks": 1,
        })
        .to_string()
    }

    fn object(self, object: &Object) -> Value {
        match object {
            Object::Subscription(subscription) => self.subscription(subscription),
            Object::Customer(customer) if customer.deleted => {
                json!({ "id": customer.id.as_str(), "object": "customer", "deleted": true })
            }
            Object::Customer(customer) => {
                let discount = customer.discounts.first().map(|discount| self.discount(&whole_of(discount)));
                json!({ "id": customer.id.as_str(), "object": "customer", "discount": discount })
            }
            Object::Discount(discount) => self.discount(discount),
            Object::Coupon(coupon) => coupon_body(coupon),
            Object::Price(price) => self.price(price, true),
            Object::Invoice(invoice) => self.invoice(invoice),
            Object::Schedule(schedule) => self.schedule(schedule),
            other => panic!("histories have no {other:?}"),
        }
    }

    fn subscription(self, of: &Subscription) -> Value {
        let items: Vec<Value> = of.items.iter().map(|item| self.item(item, of.current_period_end)).collect();
        let mut body = json!({
            "id": of.id.as_str(), "object": "subscription", "customer": of.customer.as_str(),
            "status": of.status.as_str(), "created": time(of.created), "start_date": time(of.start_date),
            "trial_start": time(of.trial_start), "trial_end": time(of.trial_end), "cancel_at": time(of.cancel_at),
            "cancel_at_period_end": of.cancel_at_period_end, "canceled_at": time(of.canceled_at),
            "ended_at": time(of.ended_at), "default_tax_rates": tax_rates(&of.tax_rates), "schedule": null,
            "pause_collection": of.pause_collection.as_ref().map(|how| json!({ "behavior": how, "resumes_at": null })),
            "items": { "object": "list", "data": items, "has_more": false, "total_count": of.items.len() },
        });
        if self == Self::Y2025 {
            body["currency"] = json!(of.currency.map(|currency| currency.to_string()));
            body["discounts"] = of.discounts.iter().map(|discount| json!(id_of(discount))).collect();
        } else {
            body["current_period_end"] = time(of.current_period_end);
            body["discount"] = json!(of.discounts.first().map(|discount| self.discount(&whole_of(discount))));
        }
        body
    }

    fn item(self, of: &SubscriptionItem, period_end: Option<EventTime>) -> Value {
        let mut body = json!({
            "id": of.id.as_str(), "object": "subscription_item", "quantity": number(of.quantity.as_ref()),
            "tax_rates": tax_rates(&of.tax_rates),
        });
        self.put_price(&mut body, &of.price);
        if self == Self::Y2025 {
            body["discounts"] = of.discounts.iter().map(|discount| json!(id_of(discount))).collect();
            body["current_period_end"] = time(period_end);
        }
        body
    }

    fn put_price(self, body: &mut Value, price: &Price) {
        let place = if self == Self::Y2019 { "plan" } else { "price" };
        body[place] = self.price(price, false);
    }

    /// A price, or a plan; only its id where nothing else is known. Tiers stand in its own events alone.
    fn price(self, of: &Price, own: bool) -> Value {
        if of.unit_amount.is_none() && of.tiers_mode.is_none() && of.interval.is_none() {
            return json!(of.id.as_str());
        }
        let mut body = json!({
            "id": of.id.as_str(), "active": of.active, "nickname": null, "tiers_mode": of.tiers_mode.map(mode),
            "currency": of.currency.map(|currency| currency.to_string()),
            "product": of.product.as_ref().map(|product| product.as_str()),
        });
        if own && let Some(tiers) = &of.tiers {
            body["tiers"] = tiers.iter().map(tier).collect();
        }
        let (amount, exact) = (number(of.unit_amount.as_ref()), of.unit_amount.as_ref().map(ToString::to_string));
        let interval = of.interval.map(Interval::as_str);
        let usage = if of.metered { "metered" } else { "licensed" };
        let more = if self == Self::Y2019 {
            json!({
                "object": "plan", "amount": amount, "amount_decimal": exact, "interval": interval,
                "interval_count": of.interval_count, "usage_type": usage, "transform_usage": null,
            })
        } else {
            json!({
                "object": "price", "unit_amount": amount, "unit_amount_decimal": exact, "transform_quantity": null,
                "recurring": { "interval": interval, "interval_count": of.interval_count, "usage_type": usage },
                "tax_behavior": of.tax_inclusive.map(|is| if is { "inclusive" } else { "exclusive" }),
                "currency_options": options(of),
            })
        };
        merge(&mut body, more);
        body
    }

    fn discount(self, of: &Discount) -> Value {
        let mut body = json!({
            "object": "discount", "customer": of.customer.as_ref().map(|customer| customer.as_str()),
            "subscription": of.subscription.as_ref().map(|subscription| subscription.as_str()),
            "start": time(of.start), "end": time(of.end),
        });
        match (self, &of.coupon) {
            (Self::Y2025, coupon) => {
                body["source"] = json!({ "type": "coupon", "coupon": coupon.id().as_str() });
            }
            (_, CouponRef::Full(coupon)) => body["coupon"] = coupon_body(coupon),
            (_, CouponRef::Id(id)) => {
                body["coupon"] = coupon_body(all_coupons().iter().find(|one| one.id == *id).unwrap())
            }
        }
        if self > Self::Y2019 {
            body["id"] = json!(of.id.as_ref().map(|id| id.as_str()));
        }
        body
    }

    fn invoice(self, of: &Invoice) -> Value {
        let lines: Vec<Value> = of.lines.iter().map(|line| self.line(line)).collect();
        let mut body = json!({
            "id": of.id.as_ref().map(|id| id.as_str()), "object": "invoice", "status": of.status,
            "customer": of.customer.as_ref().map(|customer| customer.as_str()),
            "currency": of.currency.map(|currency| currency.to_string()),
            "status_transitions": { "finalized_at": time(of.finalized_at) },
            "lines": { "object": "list", "data": lines, "has_more": false },
        });
        let subscription = of.subscription.as_ref().map(|subscription| subscription.as_str());
        if self == Self::Y2025 {
            body["parent"] =
                json!({ "type": "subscription_details", "subscription_details": { "subscription": subscription } });
        } else {
            body["subscription"] = json!(subscription);
        }
        body
    }

    fn line(self, of: &InvoiceLine) -> Value {
        let inclusive = of.tax.map_or(0, |tax| tax.inclusive);
        let price = of.price.as_ref().map(|price| price.as_str());
        let subscription = of.subscription.as_ref().map(|subscription| subscription.as_str());
        let item = of.subscription_item.as_ref().map(|item| item.as_str());
        let mut body = json!({
            "id": of.id, "object": "line_item", "amount": of.amount,
            "period": { "start": time(of.period_start), "end": time(of.period_end) },
        });
        let more = if self == Self::Y2025 {
            json!({
                "taxes": [{ "amount": inclusive, "tax_behavior": "inclusive" }],
                "pricing": { "type": "price_details", "price_details": { "price": price } },
                "parent": {
                    "type": "subscription_item_details",
                    "subscription_item_details":
                        { "subscription": subscription, "subscription_item": item, "proration": false },
                },
            })
        } else {
            let price_place = if self == Self::Y2019 { "plan" } else { "price" };
            json!({
                "tax_amounts": [{ "amount": inclusive, "inclusive": true }], price_place: price, "proration": false,
                "subscription": subscription, "subscription_item": item,
            })
        };
        merge(&mut body, more);
        body
    }

    fn schedule(self, of: &Schedule) -> Value {
        let phases: Vec<Value> = of.phases.iter().map(|phase| self.phase(phase)).collect();
        json!({
            "id": of.id, "object": "subscription_schedule", "status": of.status, "phases": phases,
            "customer": of.customer.as_ref().map(|customer| customer.as_str()),
            "subscription": of.subscription.as_ref().map(|subscription| subscription.as_str()),
            "canceled_at": time(of.canceled_at),
        })
    }

    fn phase(self, of: &SchedulePhase) -> Value {
        let items = of.items.iter().map(|item| {
            let mut body = json!({ "quantity": number(item.quantity.as_ref()) });
            self.put_price(&mut body, &item.price);
            body
        });
        let items: Vec<Value> = items.collect();
        let mut body = json!({ "start_date": time(of.start), "end_date": time(of.end), "items": items });
        if self == Self::Y2025 {
            body["currency"] = json!(of.currency.map(|currency| currency.to_string()));
        }
        body
    }
}

fn time(time: Option<EventTime>) -> Value {
    json!(time.map(EventTime::seconds))
}

/// A whole number as JSON has it.
fn number(number: Option<&Rational>) -> Value {
    json!(number.map(|number| number.to_string().parse::<i64>().unwrap()))
}

fn mode(mode: TiersMode) -> &'static str {
    match mode {
        TiersMode::Graduated => "graduated",
        TiersMode::Volume => "volume",
    }
}

fn tier(of: &Tier) -> Value {
    let amounts = (number(Some(&of.unit_amount)), number(Some(&of.flat_amount)));
    json!({ "up_to": number(of.up_to.as_ref()), "unit_amount": amounts.0, "flat_amount": amounts.1 })
}

fn options(of: &Price) -> Value {
    let options = of.currency_options.iter();
    let options =
        options.map(|(currency, amount)| (currency.to_string(), json!({ "unit_amount": number(Some(amount)) })));
    Value::Object(options.collect())
}

fn tax_rates(rates: &[TaxRate]) -> Value {
    let rate = |rate: &TaxRate| {
        json!({
            "id": &*rate.id, "object": "tax_rate", "percentage": number(Some(&rate.percentage)),
            "inclusive": rate.inclusive,
        })
    };
    rates.iter().map(rate).collect()
}

fn coupon_body(of: &Coupon) -> Value {
    let duration = match &of.duration {
        CouponDuration::Forever => "forever",
        CouponDuration::Repeating => "repeating",
        CouponDuration::Once => "once",
        CouponDuration::Other(word) => word,
    };
    json!({
        "id": of.id.as_str(), "object": "coupon", "percent_off": number(of.percent_off.as_ref()),
        "amount_off": number(of.amount_off.as_ref()), "duration": duration,
        "currency": of.currency.map(|currency| currency.to_string()),
    })
}

fn id_of(discount: &DiscountRef) -> &str {
    match discount {
        DiscountRef::Id(id) => id.as_str(),
        DiscountRef::Full(discount) => discount.id.as_ref().unwrap().as_str(),
    }
}

/// A discount as old bodies have it: always whole.
fn whole_of(discount: &DiscountRef) -> Discount {
    match discount {
        DiscountRef::Full(discount) => (**discount).clone(),
        DiscountRef::Id(id) => all_discounts().into_iter().find(|whole| whole.id.as_ref() == Some(id)).unwrap(),
    }
}

fn merge(body: &mut Value, more: Value) {
    let (Value::Object(body), Value::Object(more)) = (body, more) else { panic!("both are objects") };
    body.extend(more);
}

/// What `previous_attributes` say: the old values of what changed, hash by hash, null where there was nothing.
fn changed(now: &Value, before: &Value) -> Value {
    let (Value::Object(now), Value::Object(before)) = (now, before) else { panic!("both are objects") };
    let mut changes = Map::new();
    for (key, value) in now {
        match (value, before.get(key).unwrap_or(&Value::Null)) {
            (value, old) if value == old => {}
            (value @ Value::Object(_), old @ Value::Object(_)) => {
                drop(changes.insert(key.clone(), changed(value, old)))
            }
            (_, old) => drop(changes.insert(key.clone(), old.clone())),
        }
    }
    for (key, old) in before.iter().filter(|(key, _)| !now.contains_key(*key)) {
        changes.insert(key.clone(), old.clone());
    }
    Value::Object(changes)
}

/// Tells all coupons and discounts at the end, as new bodies name them by their ids.
fn with_discounts(mut events: Vec<Event>) -> Vec<Event> {
    let last = events.iter().map(|event| event.created).max().unwrap();
    let seconds = last.seconds() - START;
    for coupon in all_coupons() {
        let id = format!("evt_{}", coupon.id);
        events.push(event(&id, "coupon.created", seconds, Object::Coupon(coupon)));
    }
    for discount in all_discounts() {
        let told = Discount { subscription: Some("sub_0".into()), ..discount };
        let id = format!("evt_{}", told.id.as_ref().unwrap());
        events.push(event(&id, "customer.discount.created", seconds, Object::Discount(Box::new(told))));
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Where a layout lacks what changed, nothing says which of two events of one second was first.
    #[test]
    fn every_layout_of_the_api_gives_the_same_ledger(
        history in prop::collection::vec(happening().prop_map(Happening::in_its_own_second), 1..40),
        rules in 0..PROFILES,
    ) {
        let rules = profile(rules);
        let events = with_discounts(write(&history, true));
        for layout in [Layout::Y2019, Layout::Y2022, Layout::Y2025] {
            let typed: Vec<Event> = events.iter().filter_map(|event| layout.carries(event)).collect();
            let mut unknown = UnknownCounts::default();
            let read = typed.iter().map(|event| {
                let body = layout.write(event);
                read_event(body.as_bytes(), &scope().account, &mut unknown).unwrap()
            });
            let read: Vec<Event> = read.collect();
            prop_assert_eq!(unknown.total(), 0, "{:?}: {:?}", layout, unknown.sorted());
            prop_assert_eq!(facts(&run(&rules, &typed, &[])), facts(&run(&rules, &read, &[])), "{:?}", layout);
        }
    }
}

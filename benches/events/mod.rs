//! Events of a subscription with one item, with ids as long as Stripe's.

const MONTH: i64 = 30 * 86_400;

/// An event of a subscription that began at `start`, in its month `month`, with `seats`, and `before` of them until then.
pub(crate) fn subscription(id: u32, start: i64, month: i64, seats: i64, before: i64) -> String {
    let time = start + month * MONTH;
    let (kind, previous) = match month {
        0 => ("created", String::new()),
        _ if seats == before => {
            ("updated", format!(r#","previous_attributes":{{"items":{{"data":[{}]}}}}"#, item(id, time, before)))
        }
        _ => (
            "updated",
            format!(r#","previous_attributes":{{"items":{{"data":[{}]}}}}"#, item(id, time + MONTH, before)),
        ),
    };
    format!(
        r#"{{"id":"evt_1{id:0>18}{month:0>5}","object":"event","type":"customer.subscription.{kind}","created":{time},"livemode":true,
        "data":{{"object":{{"id":"sub_{id:0>24}","object":"subscription","customer":"cus_{id:0>14}","status":"active","currency":"usd",
        "start_date":{start},"created":{start},"items":{{"object":"list","data":[{}],"has_more":false}}}}{previous}}}}}"#,
        item(id, time + MONTH, seats)
    )
}

fn item(id: u32, period_end: i64, seats: i64) -> String {
    format!(
        r#"{{"id":"si_{id:0>14}","object":"subscription_item","quantity":{seats},"current_period_end":{period_end},
        "price":{{"id":"price_{:0>24}","object":"price","product":"prod_00000000000001","currency":"usd","unit_amount":2900,
        "unit_amount_decimal":"2900","recurring":{{"interval":"month","interval_count":1,"usage_type":"licensed"}}}}}}"#,
        id % 7
    )
}

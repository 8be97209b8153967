/*---
name: mrr_by_price
description: "The MRR of every price on every day, with its product and billing interval, as ranges of days: … WHERE DATE '2026-06-30' BETWEEN valid_from AND valid_to. The MRR at the end of a day = Σ mrr_delta of the ledger up to it, in major units; the sum over all prices of a currency is closing in mrr_daily."
owner: finance
mode: upsert
grain: [account, livemode, price_id, currency, valid_from]
time_column: valid_from
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which days begin and end }
columns:
  price_id:   { description: "Stripe price", tests: [not_null] }
  currency:   { description: "ISO 4217 code in lower case", tests: [not_null] }
  valid_from: { description: "First day that ended with this MRR and quantity, in the merchant's zone", tests: [not_null] }
  valid_to:   { description: "Last such day; 9999-12-31 for what holds now", tests: [not_null] }
  product_id: { description: "Stripe product" }
  interval:   { description: "Of the price: day, week, month or year", tests: [not_null] }
  interval_count: { description: "Intervals in a billing period", tests: [not_null] }
  mrr:        { description: "MRR at the end of each of these days; 0 once nobody pays the price", tests: [not_null, not_negative] }
  quantity:   { description: "Units at the end of each of these days", tests: [not_negative] }
---*/
WITH moved AS (
    SELECT
        account, livemode, price_id, currency,
        local_date(event_time, $zone) AS valid_from,
        MAX(product_id) AS product_id,
        MAX("interval") AS "interval",
        MAX(interval_count) AS interval_count,
        SUM(mrr_delta) AS net,
        SUM(quantity_delta) AS units
    FROM mrr_ledger
    GROUP BY account, livemode, price_id, currency, local_date(event_time, $zone)
),
prices AS (
    SELECT
        account, livemode, price_id, currency, valid_from, net, units,
        MAX(product_id) OVER of_price AS product_id,
        MAX("interval") OVER of_price AS "interval",
        MAX(interval_count) OVER of_price AS interval_count
    FROM moved
    WINDOW of_price AS (PARTITION BY account, livemode, price_id, currency)
)
SELECT
    account, livemode, price_id, currency, valid_from,
    COALESCE(CAST(LEAD(valid_from) OVER by_day - INTERVAL '1 day' AS DATE), DATE '9999-12-31') AS valid_to,
    product_id, "interval", interval_count,
    SUM(net) OVER by_day AS mrr,
    SUM(units) OVER by_day AS quantity
FROM prices
WHERE net <> 0 OR units <> 0
WINDOW by_day AS (PARTITION BY account, livemode, price_id, currency ORDER BY valid_from)

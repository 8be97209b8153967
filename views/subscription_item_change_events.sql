/*---
name: subscription_item_change_events
description: Stripe Sigma's table of this name over our ledger, in the currency the customer pays in.
parameters: { zone: merchant.zone }
columns:
  account:               Stripe account
  livemode:              Live data or test data
  event_timestamp:       When it happened
  local_event_timestamp: "The same on the merchant's clock, without a zone"
  event_type:            "ACTIVE_START, ACTIVE_END, ACTIVE_UPGRADE or ACTIVE_DOWNGRADE"
  subscription_item_id:  Stripe subscription item
  subscription_id:       Stripe subscription
  customer_id:           Stripe customer
  price_id:              Stripe price
  product_id:            Stripe product
  currency:              "ISO 4217 code in lower case; Stripe's own table has the settlement currency here"
  mrr_change:            Change of MRR in minor units of the currency
  quantity_change:       Change of the units
---*/
SELECT
    account, livemode,
    event_timestamp, local_timestamp(event_timestamp, $zone) AS local_event_timestamp, event_type,
    subscription_item_id, subscription_id, customer_id, price_id, product_id,
    currency, mrr_change, quantity_change
FROM subscription_item_changes

/*---
name: sigma_prices
description: Our prices under the column names of Stripe Sigma's table `prices`.
columns:
  account:                       Stripe account
  livemode:                      Live data or test data
  id:                            Stripe price
  product_id:                    Stripe product
  nickname:                      The merchant's name for it
  active:                        Whether it is on sale
  currency:                      ISO 4217 code in lower case
  unit_amount:                   "For one unit, in whole minor units; null where that is not exact"
  unit_amount_decimal:           "For one unit, in minor units"
  billing_scheme:                per_unit or tiered
  tiers_mode:                    graduated or volume
  recurring_interval:            "day, week, month or year"
  recurring_interval_count:      Intervals in a billing period
  recurring_usage_type:          licensed or metered
  transform_quantity_divide_by:  Units in a package
  transform_quantity_round:      up or down
---*/
SELECT
    account, livemode, price_id AS id, product_id, nickname, active, currency,
    CASE WHEN unit_amount = ROUND(unit_amount) THEN CAST(unit_amount AS BIGINT) END AS unit_amount,
    unit_amount AS unit_amount_decimal,
    billing_scheme, tiers_mode,
    "interval" AS recurring_interval,
    interval_count AS recurring_interval_count,
    usage_type AS recurring_usage_type,
    transform_divide_by AS transform_quantity_divide_by,
    transform_round AS transform_quantity_round
FROM prices

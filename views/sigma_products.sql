/*---
name: sigma_products
description: Our products under the column names of Stripe Sigma's table `products`.
columns:
  account:  Stripe account
  livemode: Live data or test data
  id:       Stripe product
  name:     The merchant's name for it
  active:   Whether it is on sale
---*/
SELECT account, livemode, product_id AS id, name, active
FROM products

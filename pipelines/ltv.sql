/*---
name: ltv
description: "Lifetime value of a customer for each month and currency: LTV = ARPA × margin / logo churn of the same month, in major units of the currency. ARPA is of the currency, logo churn of the whole account."
owner: finance
mode: upsert
grain: [account, livemode, month, currency]
time_column: month
parameters:
  margin: { type: decimal, default: "1", description: "Gross margin, 1 being 100 %" }
columns:
  month:      { description: "First day of the month in the merchant's zone; the last month's churn is as far as the log goes", tests: [not_null] }
  currency:   { description: "ISO 4217 code in lower case", tests: [not_null] }
  arpa:       { description: "MRR / customers with MRR above 0, when the month ends" }
  logo_churn: { description: "The share of customers lost in the month, as logo_churn has it" }
  ltv:        { description: "arpa × margin / logo_churn; null where nobody was lost" }
---*/
WITH months AS (
    SELECT account, livemode, month, currency, SUM(arpa) AS arpa, SUM(logo_churn) AS logo_churn
    FROM (
        SELECT account, livemode, month, currency, arpa, CAST(NULL AS DECIMAL(28, 6)) AS logo_churn
        FROM arpa
        UNION ALL
        SELECT account, livemode, month, '' AS currency, CAST(NULL AS DECIMAL(28, 6)) AS arpa, logo_churn
        FROM logo_churn
    ) AS parts
    GROUP BY account, livemode, month, currency
),
beside AS (
    -- The churn of the account stands in a row without a currency, beside each currency's.
    SELECT
        account, livemode, month, currency, arpa,
        SUM(logo_churn) OVER (PARTITION BY account, livemode, month) AS logo_churn
    FROM months
)
SELECT
    account, livemode, month, currency, arpa, logo_churn,
    arpa * $margin / NULLIF(logo_churn, 0) AS ltv
FROM beside
WHERE currency <> ''

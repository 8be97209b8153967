-- Job (b): drop duplicates by event id; the monthly value of each subscription after each of its events; the difference
-- to the value before; its sum by day and currency. Values are at list prices, of the prices given, as the profile
-- `stripe` counts: active and past_due, a scheduled cancellation leaves at the request, a month has 52/12 weeks.
SET 'parallelism.default' = '${PARALLELISM}';
SET 'table.local-time-zone' = 'UTC';
SET 'execution.checkpointing.interval' = '10 s';
SET 'execution.checkpointing.dir' = 'file://${CHECKPOINTS}';

-- Only the fields in use: the reader skips the others.
CREATE TABLE events (
    id STRING,
    created BIGINT,
    data ROW<`object` ROW<
        id STRING, `object` STRING, status STRING, currency STRING, cancel_at BIGINT, cancel_at_period_end BOOLEAN,
        items ROW<data ARRAY<ROW<
            price ROW<
                id STRING, currency STRING, unit_amount_decimal STRING,
                recurring ROW<`interval` STRING, interval_count INT>>,
            quantity BIGINT>>>>>,
    place BIGINT METADATA FROM 'offset' VIRTUAL,
    -- Events of one second keep their order only if their times differ: the shuffle by event id mixes them.
    happened_at AS TO_TIMESTAMP_LTZ(created * 1000 + MOD(place, 1000), 3),
    arrived_at AS PROCTIME(),
    WATERMARK FOR happened_at AS happened_at - INTERVAL '${LATENESS}' HOUR
) WITH (
    'connector' = 'kafka',
    'properties.bootstrap.servers' = '${BROKERS}',
    'topic' = '${TOPIC}',
    'scan.startup.mode' = 'earliest-offset',
    'scan.bounded.mode' = 'latest-offset',
    'scan.watermark.emit.strategy' = '${WATERMARKS}',
    'format' = 'json'
);

CREATE TEMPORARY VIEW snapshots AS
SELECT happened_at, arrived_at, id, data.`object` AS subscription
FROM events
WHERE data.`object`.`object` = 'subscription';

CREATE TEMPORARY VIEW once AS
SELECT happened_at, subscription
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY arrived_at) AS n FROM snapshots)
WHERE n = 1;

-- A subscription has at most three items here; an item that is not there is NULL. A quotient has six places.
CREATE TEMPORARY VIEW items AS
SELECT
    happened_at,
    subscription.id AS subscription_id,
    subscription.currency AS currency,
    subscription.status IN ('active', 'past_due')
        AND subscription.cancel_at IS NULL AND NOT subscription.cancel_at_period_end AS counts,
    CASE subscription.currency WHEN 'jpy' THEN 1 ELSE 100 END AS minor_units,
    subscription.items.data[1] AS i1,
    subscription.items.data[2] AS i2,
    subscription.items.data[3] AS i3
FROM once;

CREATE TEMPORARY VIEW valued AS
SELECT
    happened_at,
    subscription_id,
    currency,
    CAST(CASE WHEN counts THEN 0
            + COALESCE(CASE WHEN i1.price.id IN (${PRICES}) THEN
                CAST(i1.price.unit_amount_decimal AS DECIMAL(18, 6)) * i1.quantity
                * CASE i1.price.recurring.`interval` WHEN 'week' THEN 13 ELSE 1 END
                / (CASE i1.price.recurring.`interval` WHEN 'week' THEN 3 WHEN 'year' THEN 12 ELSE 1 END
                    * i1.price.recurring.interval_count * minor_units)
            END, 0)
            + COALESCE(CASE WHEN i2.price.id IN (${PRICES}) THEN
                CAST(i2.price.unit_amount_decimal AS DECIMAL(18, 6)) * i2.quantity
                * CASE i2.price.recurring.`interval` WHEN 'week' THEN 13 ELSE 1 END
                / (CASE i2.price.recurring.`interval` WHEN 'week' THEN 3 WHEN 'year' THEN 12 ELSE 1 END
                    * i2.price.recurring.interval_count * minor_units)
            END, 0)
            + COALESCE(CASE WHEN i3.price.id IN (${PRICES}) THEN
                CAST(i3.price.unit_amount_decimal AS DECIMAL(18, 6)) * i3.quantity
                * CASE i3.price.recurring.`interval` WHEN 'week' THEN 13 ELSE 1 END
                / (CASE i3.price.recurring.`interval` WHEN 'week' THEN 3 WHEN 'year' THEN 12 ELSE 1 END
                    * i3.price.recurring.interval_count * minor_units)
            END, 0)
        ELSE 0
    END AS DECIMAL(28, 6)) AS amount
FROM items;

-- Not LAG: of several events in one second it gives each the same row before.
CREATE TEMPORARY VIEW moved AS
SELECT
    happened_at,
    currency,
    amount - CASE WHEN COUNT(*) OVER two = 1 THEN 0 ELSE FIRST_VALUE(amount) OVER two END AS delta
FROM valued
WINDOW two AS (PARTITION BY subscription_id ORDER BY happened_at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW);

SELECT
    DATE_FORMAT(window_start, 'yyyy-MM-dd') AS `day`,
    currency,
    SUM(delta) AS list_delta
FROM TABLE(TUMBLE(TABLE moved, DESCRIPTOR(happened_at), INTERVAL '1' DAY))
GROUP BY window_start, window_end, currency

-- Job (a): how many invoices were paid, and how much, for each subscription and day. No event is dropped as a duplicate.
SET 'parallelism.default' = '${PARALLELISM}';
SET 'table.local-time-zone' = 'UTC';
SET 'table.exec.mini-batch.enabled' = 'true';
SET 'table.exec.mini-batch.allow-latency' = '1 s';
SET 'table.exec.mini-batch.size' = '5000';
SET 'execution.checkpointing.interval' = '10 s';
SET 'execution.checkpointing.dir' = 'file://${CHECKPOINTS}';

-- Only the fields in use: the reader skips the others.
CREATE TABLE events (
    `type` STRING,
    created BIGINT,
    data ROW<`object` ROW<amount_paid BIGINT, parent ROW<subscription_details ROW<subscription STRING>>>>,
    happened_at AS TO_TIMESTAMP_LTZ(created, 0),
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

CREATE TEMPORARY VIEW paid AS
SELECT
    happened_at,
    data.`object`.parent.subscription_details.subscription AS subscription_id,
    data.`object`.amount_paid AS amount_paid
FROM events
WHERE `type` = 'invoice.paid';

SELECT
    DATE_FORMAT(window_start, 'yyyy-MM-dd') AS `day`,
    subscription_id,
    COUNT(*) AS invoices,
    SUM(amount_paid) AS paid
FROM TABLE(TUMBLE(TABLE paid, DESCRIPTOR(happened_at), INTERVAL '1' DAY))
GROUP BY window_start, window_end, subscription_id

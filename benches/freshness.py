#!/usr/bin/env python3
"""From an event that the log has to its row in psql: the median and the 99th percentile.

    benches/freshness.py PROGRAM APPEND [BROKERS]      with the embedded log, or with Kafka's

RATE events a second, each a new customer, for SECONDS; psql counts the rows of customer_mrr, the table of a pipeline,
again and again, with a pause of PAUSE_SECONDS. A row is visible when an answer that counts it has arrived, so that the
query's own time and the pause are in the figure. One partition, so that the n-th event is the n-th row.
APPEND is the program of append.rs. All shipped pipelines run, and checkpoints are taken, as in a merchant's engine.
"""

import os
import statistics
import sys
import threading
import time

from running import Engine, Site

# Who are there when it begins.
CUSTOMERS = 20_000
RATE = int(os.environ.get("RATE", "1000"))
SECONDS = int(os.environ.get("SECONDS", "30"))
WARM_UP_SECONDS = 5
PAUSE_SECONDS = 0.005
# How long after the last event its row is waited for.
PATIENCE_SECONDS = 60
COUNT = "SELECT count(*) FROM customer_mrr"


def main():
    program, append, *brokers = sys.argv[1:]
    with Site(program, append, *brokers) as site:
        if site.append(0, CUSTOMERS).wait():
            raise SystemExit("the customers to begin with could not be appended")
        site.run("run", "--once")
        with Engine(site) as engine:
            assert int(engine.ask(COUNT)) == CUSTOMERS
            measure(site, engine, "kafka" if brokers else "embedded")


def measure(site, engine, transport):
    events = RATE * (WARM_UP_SECONDS + SECONDS)
    appending = site.append(CUSTOMERS, events, RATE)
    # Read beside the queries; all of it comes at the end.
    appended = []
    reader = threading.Thread(target=lambda: appended.extend(int(line) / 1e6 for line in appending.stdout))
    reader.start()
    answers, query_seconds, ended = [], [], None
    while True:
        asked = time.time()
        count = int(engine.ask(COUNT)) - CUSTOMERS
        answered = time.time()
        query_seconds.append(answered - asked)
        answers.append((answered, count))
        if count >= events:
            break
        ended = ended or (appending.poll() is not None and answered) or None
        if ended and answered - ended > PATIENCE_SECONDS:
            raise SystemExit(f"only {count} of {events} rows came")
        time.sleep(PAUSE_SECONDS)
    reader.join()
    assert len(appended) == events, "not all events were appended"
    latencies, at = [], 0
    for number, when in enumerate(appended):
        while answers[at][1] <= number:
            at += 1
        latencies.append(answers[at][0] - when)
    latencies = latencies[RATE * WARM_UP_SECONDS :]
    percentiles = statistics.quantiles(latencies, n=100)
    rate = (events - 1) / (appended[-1] - appended[0])
    print(
        f"freshness, {transport}: {rate:,.0f} events/s for {SECONDS} s over {CUSTOMERS} customers: "
        f"p50 {percentiles[49] * 1e3:.0f} ms (aim 100), p99 {percentiles[98] * 1e3:.0f} ms (aim 250), "
        f"max {max(latencies) * 1e3:.0f} ms; a query of psql takes {statistics.median(query_seconds) * 1e3:.0f} ms of it; "
        f"peak {engine.peak_mib():.0f} MiB"
    )


if __name__ == "__main__":
    main()

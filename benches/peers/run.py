#!/usr/bin/env python3
"""The same jobs over the same Kafka topics, in Tributary and in Apache Flink SQL.

    scripts/with-kafka.sh benches/peers/run.py PROGRAM      CUSTOMERS=12650 MONTHS=18: about a million events

Two jobs: `trivial` counts and adds up paid invoices by subscription and day; `ledger` drops duplicates, takes the monthly
value of each subscription after each of its events, the difference to the one before, and adds up by day and currency.
Two logs: an orderly one, which is timed, and a smaller one of which 5 % of the events are up to three days late and 5 %
come twice. What each answers is compared row by row with a batch computation in this file, which shares nothing with
either. CPU is user and system time of the whole process; of a log of a thousand events the same job costs its start.
"""

import collections
import csv
import datetime
import fractions
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CUSTOMERS = int(os.environ.get("CUSTOMERS", "12650"))
MONTHS = int(os.environ.get("MONTHS", "18"))
LATE_CUSTOMERS = max(CUSTOMERS // 10, 100)
PARTITIONS = 4
START_EVENTS = 1000
JOBS = {
    "trivial": ("paid_by_subscription", "day, subscription_id, invoices, paid", 2),
    "ledger": ("list_mrr_by_day", "day, currency, list_delta", 2),
}
AIMS = {"trivial": 3, "ledger": 8}
Fraction = fractions.Fraction
MONTHLY = {"month": Fraction(1), "year": Fraction(1, 12), "week": Fraction(52, 12), "day": Fraction(365, 12)}


def measured(command, said, **options):
    """Runs a command: wall seconds, CPU seconds, peak MiB."""
    began = time.monotonic()
    with open(said, "w") as messages:
        child = subprocess.Popen(command, stdout=messages, stderr=messages, **options)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed:\n{pathlib.Path(said).read_text()[-4000:]}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


class Batch:
    """What both jobs must answer, and which prices count."""

    def __init__(self, path):
        self.events = 0
        paid = collections.defaultdict(lambda: [0, 0])
        prices, histories, ids = set(), collections.defaultdict(list), set()
        with open(path, "rb") as lines:
            for number, line in enumerate(lines):
                self.events += 1
                kind = line[line.rfind(b'"type":"') + 8 : -3].decode()
                if kind != "invoice.paid" and kind != "price.created" and not kind.startswith("customer.subscription."):
                    continue
                event = json.loads(line)
                subject = event["data"]["object"]
                if kind == "price.created":
                    per_unit = subject["billing_scheme"] == "per_unit" and not subject["transform_quantity"]
                    if per_unit and subject["recurring"]["usage_type"] == "licensed":
                        prices.add(subject["id"])
                elif kind == "invoice.paid":
                    row = paid[day(event), subject["parent"]["subscription_details"]["subscription"]]
                    row[0] += 1
                    row[1] += subject["amount_paid"]
                elif event["id"] not in ids:
                    ids.add(event["id"])
                    items = [] if not counts(subject) else [
                        (item["price"]["id"], item["quantity"], monthly(item["price"]))
                        for item in subject["items"]["data"]
                        if item["price"]["unit_amount_decimal"] and "quantity" in item
                    ]
                    histories[subject["id"]].append((event["created"], number, day(event), subject["currency"], items))
        moved = collections.defaultdict(Fraction)
        for history in histories.values():
            before = Fraction(0)
            for _, _, on, currency, items in sorted(history):
                amounts = (quantity * unit for price, quantity, unit in items if price in prices)
                value = sum((Fraction(round(amount * 10**6), 10**6) for amount in amounts), Fraction(0))
                moved[on, currency] += value - before
                before = value
        self.prices, self.ids = sorted(prices), ids
        self.answers = {
            "trivial": {key: tuple(map(Fraction, row)) for key, row in paid.items()},
            "ledger": {key: (delta,) for key, delta in moved.items() if delta},
        }


def counts(subscription):
    """Whether it is recurring revenue, as the profile `stripe` counts."""
    leaves = subscription["cancel_at_period_end"] or subscription["cancel_at"] is not None
    return subscription["status"] in ("active", "past_due") and not leaves


def monthly(price):
    """What a unit costs a month, in major units."""
    every = price["recurring"]
    minor = Fraction(price["unit_amount_decimal"]) * MONTHLY[every["interval"]] / every["interval_count"]
    return minor / (1 if price["currency"] == "jpy" else 100)


def day(event):
    return datetime.datetime.fromtimestamp(event["created"], datetime.timezone.utc).date().isoformat()


def answer(path, keys):
    """Rows by key; a sum of nothing is no row."""
    rows = {}
    with open(path) as lines:
        for row in csv.reader(lines):
            values = tuple(map(Fraction, row[keys:]))
            if values != (0,):
                rows[tuple(row[:keys])] = values
    return rows


class Peers:
    def __init__(self, program, brokers, work):
        self.program, self.brokers, self.work = os.path.abspath(program), brokers, work

    @staticmethod
    def topic(log):
        return f"peers-{log}-{os.getpid()}"

    def configuration(self, log, job, prices):
        path = self.work / f"{log}-{job}.toml"
        parameters = f'[parameters.list_mrr_by_day]\nper_unit = "{",".join(prices)}"\n' if job == "ledger" else ""
        path.write_text(
            f'[log]\ntransport = "kafka"\nbrokers = "{self.brokers}"\ntopic = "{self.topic(log)}"\npartitions = {PARTITIONS}\n'
            f'[pipelines]\ndir = "{HERE / "tributary" / job}"\n{parameters}'
        )
        return path

    def tributary(self, log, job, prices):
        table, columns, _ = JOBS[job]
        data = self.work / f"{log}-{job}"
        place = ["--data-dir", data, "--config", self.configuration(log, job, prices)]
        figures = measured([self.program, "run", "--once", *place], self.work / "said")
        output = self.work / f"{log}-{job}-tributary.csv"
        query = [self.program, "query", *place, "--output", "csv", f"SELECT {columns} FROM {table}"]
        output.write_text(subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n", 1)[1])
        shutil.rmtree(data)
        return figures, output

    def flink(self, log, job, prices):
        watermarks = "on-event" if log == "late" else "on-periodic"
        output = self.work / f"{log}-{job}-flink.csv"
        environment = dict(os.environ, PRICES=",".join(f"'{price}'" for price in prices), WATERMARKS=watermarks)
        command = [HERE / "flink" / "run.sh", self.brokers, self.topic(log), job, output]
        return measured(command, self.work / "said", env=environment), output

    def simulate(self, log, customers, disorder=0):
        path = self.work / f"{log}.jsonl"
        command = [self.program, "simulate", "--customers", customers, "--months", MONTHS, "--disorder", disorder]
        with open(path, "wb") as events:
            subprocess.run(list(map(str, command)), stdout=events, check=True)
        return path

    def fill(self, log, path):
        place = ["--data-dir", self.work / "ingest", "--config", self.configuration(log, "trivial", [])]
        measured([self.program, "ingest", path, *place], self.work / "said")
        path.unlink()


def main():
    program, brokers = sys.argv[1], os.environ.get("TRIBUTARY_TEST_KAFKA")
    if not brokers:
        raise SystemExit("NOT RUN: there is no Kafka; scripts/with-kafka.sh benches/peers/run.py PROGRAM")
    subprocess.run([HERE / "flink" / "run.sh", "fetch"], check=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix="tributary-peers.", dir=os.environ.get("TRIBUTARY_BENCH_DIR")))
    try:
        run(Peers(program, brokers, work), work)
    finally:
        shutil.rmtree(work)


def run(peers, work):
    orderly, start = peers.simulate("orderly", CUSTOMERS), work / "start.jsonl"
    with open(orderly, "rb") as whole, open(start, "wb") as part:
        part.writelines(line for line, _ in zip(whole, range(START_EVENTS)))
    batches = {"orderly": Batch(orderly)}
    peers.fill("orderly", orderly)
    peers.fill("start", start)
    late = peers.simulate("late", LATE_CUSTOMERS, 0.05)
    batches["late"] = Batch(late)
    peers.fill("late", late)
    # In which order the events of one second happened, only the log says in which nothing is late.
    twin = Batch(peers.simulate("twin", LATE_CUSTOMERS))
    assert twin.ids == batches["late"].ids, "both are of one account"
    batches["late"].answers["ledger"] = twin.answers["ledger"]
    prices = batches["orderly"].prices
    assert prices == batches["late"].prices, "both accounts sell the same"

    print(f"{batches['orderly'].events} events, {os.cpu_count()} cores; CPU of the whole process, and of it the start")
    for job in JOBS:
        nets = {}
        for name in ("tributary", "flink"):
            ask = getattr(peers, name)
            (_, start, _), _ = ask("start", job, prices)
            (wall, cpu, peak), output = ask("orderly", job, prices)
            events = batches["orderly"].events
            nets[name] = events / (cpu - start)
            differ = [different(output, batches["orderly"], job), different(ask("late", job, prices)[1], batches["late"], job)]
            print(
                f"{job:<8} {name:<10} {wall:6.1f} s, CPU {cpu:6.1f} s (start {start:4.1f}): {events / cpu:9,.0f} events/s a "
                f"core, {nets[name]:9,.0f} without the start; peak {peak:5.0f} MiB; rows that differ from batch: "
                f"orderly {differ[0]}, late {differ[1]}"
            )
        print(f"{job:<8} per core without the start, Tributary to Flink: {nets['tributary'] / nets['flink']:.2f} (aim {AIMS[job]})")


def different(output, batch, job):
    """How many rows are missing, too many or others, of how many."""
    got, expected = answer(output, JOBS[job][2]), batch.answers[job]
    wrong = sum(got.get(key) != expected.get(key) for key in got.keys() | expected.keys())
    return f"{wrong} of {len(expected)}"


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""How long a start takes on many live subscriptions, and the memory it takes.

    benches/restart.py PROGRAM APPEND      SUBSCRIPTIONS=200000, each with a customer of its own

APPEND is the program of append.rs. The start is timed until PostgreSQL listens, and then until psql has its first answer from the ledger's table.
"""

import os
import sys
import time

from running import Engine, Site

SUBSCRIPTIONS = int(os.environ.get("SUBSCRIPTIONS", "200000"))


def main():
    with Site(*sys.argv[1:3], partitions=4) as site:
        if site.append(0, SUBSCRIPTIONS).wait():
            raise SystemExit("the subscriptions could not be appended")
        seconds, peak = site.run("run", "--once")
        rate = SUBSCRIPTIONS / seconds
        print(f"{SUBSCRIPTIONS} subscriptions taken in: {seconds:.1f} s, {rate:,.0f} events/s, peak {peak:.0f} MiB")
        began = time.monotonic()
        with Engine(site) as engine:
            rows = int(engine.ask("SELECT count(*) FROM mrr_ledger WHERE change = 'start'"))
            answered = time.monotonic() - began
            assert rows == SUBSCRIPTIONS, f"{rows} subscriptions are in the ledger"
            print(
                f"restart with {SUBSCRIPTIONS} live subscriptions: listens after {engine.start_seconds:.1f} s, first answer "
                f"after {answered:.1f} s (aim 10 with 1,000,000), peak {engine.peak_mib():.0f} MiB"
            )


if __name__ == "__main__":
    main()

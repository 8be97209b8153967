# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Recurring revenue, from the Delta tables
#
# The tables are plain Delta Lake: nothing of Tributary is needed to read them. This notebook reads one consistent
# view of a data directory, queries it with DuckDB, and ends with checks that any month-end close would ask for.
#
# `TRIBUTARY_DATA_DIR` names the data directory; `make demo ONCE=1` makes the one that is used if it is not set.

# %%
import io
import json
import os
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
from deltalake import DeltaTable

repository = Path(__file__).resolve().parent.parent if "__file__" in globals() else Path("..").resolve()
data_dir = Path(os.environ.get("TRIBUTARY_DATA_DIR", repository / "tributary-demo"))
tables_dir = data_dir / "tables"
pd.set_option("display.width", 160, "display.max_columns", 20)

# %% [markdown]
# ## One consistent view
#
# Every checkpoint commits table after table; its last commit is a row of `commits`, which says which versions belong
# together. A reader that takes those never sees one table before a checkpoint and another one after it.

# %%
def newest_commit() -> pd.Series:
    commits = DeltaTable(tables_dir / "commits").to_pyarrow_table().to_pandas()
    return commits.loc[commits["number"].idxmax()]


newest = newest_commit()
versions = json.loads(newest["tables"])
db = duckdb.connect()
for name, version in versions.items():
    db.register(name, DeltaTable(tables_dir / name, version=version).to_pyarrow_table())
print(f"checkpoint {newest['number']}, committed {newest['committed_at']:%Y-%m-%d %H:%M:%S} UTC, {len(versions)} tables")

# %% [markdown]
# ## The bridge by month
#
# Each row of `mrr_daily` is a day and a currency. `contraction` and `churn` are negative, so that opening and all
# movements add up to closing. Live data and test data are kept apart: filter by `livemode` here (the PostgreSQL port
# does it by schema).

# %%
bridge = db.sql("""
    SELECT date_trunc('month', day)::date AS month, currency,
           first(opening ORDER BY day) AS opening,
           sum(imported) AS imported, sum(new) AS new, sum(reactivation) AS reactivation,
           sum(expansion) AS expansion, sum(contraction) AS contraction, sum(churn) AS churn,
           last(closing ORDER BY day) AS closing, last(customers ORDER BY day) AS customers
    FROM mrr_daily
    WHERE livemode
    GROUP BY ALL
    ORDER BY currency, month
""").df()
bridge.tail(12)

# %% [markdown]
# ## A pipeline's file, as it is
#
# The files in `pipelines/` have parameters, windows and calendars that DuckDB does not know. `tributary query --file` runs
# one in batch over the same tables, with the parameters that are configured (`--params` takes others), and says what
# the engine maintains. So a file can be edited here, looked at, and applied when it is right. `TRIBUTARY` names the
# program if it is neither on the path nor where `cargo build` and `make` put it.

# %%
cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
targets = [Path(os.environ.get("CARGO_TARGET_DIR", repository / "target")), cache / "tributary" / "target"]
built = [target / profile / "tributary" for target in targets for profile in ("release", "debug")]
program = os.environ.get("TRIBUTARY") or shutil.which("tributary") or next((p for p in built if p.exists()), None)


def run_file(path: Path, *options: str) -> pd.DataFrame:
    """The rows of a pipeline's file; everything is text, so that amounts stay exact."""
    command = [program, "query", "--file", path, "--data-dir", data_dir, "--output", "csv", *options]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return pd.read_csv(io.StringIO(said.stdout), dtype=str)


if program is None:
    print("NOT RUN: there is no program; build it with `cargo build`, or name it in TRIBUTARY")
else:
    monthly = run_file(repository / "pipelines" / "mrr_monthly.sql")
    [(maintained,)] = db.sql("SELECT sum(closing) FROM mrr_monthly").fetchall()
    # An engine that runs beside this may have gone on.
    if newest_commit()["number"] == newest["number"]:
        assert sum(map(Decimal, monthly["closing"])) == maintained, "the file does not say what its table says"
    print(monthly[monthly["currency"] == "usd"].tail(6)[["month", "opening", "new", "churn", "closing", "customers"]])

# %% [markdown]
# ## Net revenue retention
#
# What the customers of twelve months ago pay now, expansions and losses included, per currency.

# %%
retention = db.sql("""
    WITH customers AS (
        SELECT customer_id, currency,
               sum(mrr_delta) FILTER (occurred_at < last_day - INTERVAL 12 MONTH) AS then_mrr,
               sum(mrr_delta) AS now_mrr
        FROM mrr_movements, (SELECT max(day) + 1 AS last_day FROM mrr_daily WHERE livemode)
        WHERE livemode
        GROUP BY ALL
    )
    SELECT currency, count(*) AS customers, sum(then_mrr) AS then_mrr, sum(now_mrr) AS now_mrr,
           round(100 * sum(now_mrr)::double / sum(then_mrr)::double, 1) AS nrr_percent
    FROM customers
    WHERE then_mrr > 0
    GROUP BY currency
    ORDER BY currency
""").df()
retention

# %% [markdown]
# ## Who expands, and why

# %%
causes = db.sql("""
    SELECT cause, currency, count(*) AS expansions, sum(mrr_delta) AS mrr_delta, median(pct_change) AS median_percent
    FROM expansion_events
    WHERE livemode
    GROUP BY ALL
    ORDER BY currency, mrr_delta DESC
""").df()
causes

# %% [markdown]
# ## What is at risk
#
# Recurring revenue times the probability that its customer stops within the model's horizon.

# %%
at_risk = db.sql("""
    WITH paying AS (
        SELECT account, livemode, customer_id, currency, sum(mrr_delta) AS mrr
        FROM mrr_movements
        GROUP BY ALL
        HAVING sum(mrr_delta) > 0
    )
    SELECT customer_id, currency, mrr, round(probability, 3) AS probability, band, reasons
    FROM customer_scores
    JOIN paying USING (account, livemode, customer_id)
    WHERE livemode AND currency = 'usd'
    ORDER BY probability * mrr::double DESC
    LIMIT 10
""").df()
at_risk

# %% [markdown]
# ## Checks
#
# All amounts are decimals, so these hold to the last digit.

# %%
def rows(sql: str) -> list[tuple]:
    return db.sql(sql).fetchall()


assert rows("SELECT count(*) > 0 FROM mrr_daily") == [(True,)], "no days: run the engine over some events first"

assert rows("""
    SELECT count(*) FROM mrr_daily
    WHERE opening + imported + new + reactivation + expansion + contraction + churn <> closing
""") == [(0,)], "a bridge does not close"

assert rows("""
    SELECT count(*) FROM (
        SELECT opening, lag(closing) OVER (PARTITION BY account, livemode, currency ORDER BY day) AS before
        FROM mrr_daily
    ) WHERE opening <> before
""") == [(0,)], "a day does not open where the day before closed"

assert rows("""
    SELECT count(*) FROM (
        SELECT day, lag(day) OVER (PARTITION BY account, livemode, currency ORDER BY day) AS before FROM mrr_daily
    ) WHERE day <> before + 1
""") == [(0,)], "a day is missing"

assert rows("SELECT count(*) FROM mrr_daily WHERE contraction > 0 OR churn > 0 OR expansion < 0 OR new < 0") == [(0,)]

assert rows("""
    SELECT count(*) FROM (
        SELECT account, livemode, currency, sum(mrr_delta) AS mrr FROM mrr_ledger GROUP BY ALL
    ) AS ledger
    JOIN (
        SELECT account, livemode, currency, last(closing ORDER BY day) AS closing FROM mrr_daily GROUP BY ALL
    ) AS daily USING (account, livemode, currency)
    WHERE ledger.mrr <> daily.closing
""") == [(0,)], "the ledger's running sum is not the last closing"

assert rows("""
    SELECT count(*) FROM (SELECT 1 FROM events_archive GROUP BY "partition", "offset" HAVING count(*) > 1)
""") == [(0,)], "a record of the log was archived twice"

assert rows("SELECT count(*) FROM customer_scores WHERE probability NOT BETWEEN 0 AND 1") == [(0,)]
print("all checks hold")

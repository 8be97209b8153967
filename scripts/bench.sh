#!/bin/bash
# Measures, in the release profile and in one run: the way from Stripe's events in Apache Kafka to the tables beside the
# limit of that way, a start, the freshness of rows, the cost of epochs, and the ledger alone.
#
#   scripts/with-kafka.sh scripts/bench.sh [CUSTOMERS [MONTHS]]   by default 12650 and 18: about a million events, 10 GB
#
# Each step is timed as a whole process; its peak memory is what the system says. Everything it writes is removed.
# benches/README.md says what each figure is.
set -euo pipefail
cd "$(dirname "$0")/.."

customers=${1:-12650}
months=${2:-18}
cargo build --release --locked --bin tributary
tributary=${CARGO_TARGET_DIR:-target}/release/tributary
append=$(scripts/bench-program.sh append)
epoch=$(scripts/bench-program.sh epoch)
ledger=$(scripts/bench-program.sh ledger)
limit=$(scripts/bench-program.sh limit)
work=$(mktemp -d "${TRIBUTARY_BENCH_DIR:-${TMPDIR:-/tmp}}/tributary-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

# step NAME COMMAND…: runs it, with standard input and output as they are, and prints a line on standard error.
step() {
    python3 -c '
import os, resource, subprocess, sys, time
began = time.monotonic()
code = subprocess.run(sys.argv[4:], stderr=open(sys.argv[3], "w")).returncode
seconds = time.monotonic() - began
events = int(open(sys.argv[2]).read()) if os.path.exists(sys.argv[2]) else 0
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = used.ru_utime + used.ru_stime
rate = f"{events / seconds:10,.0f} events/s, {events / cpu:9,.0f} a core" if events else ""
print(f"{sys.argv[1]:<12} {seconds:8.1f} s {used.ru_maxrss / 1024:8.0f} MiB {rate}", file=sys.stderr)
open(sys.argv[3] + ".seconds", "w").write(str(seconds))
if code:
    sys.stderr.write(open(sys.argv[3]).read())
sys.exit(code)' "$1" "$work/count" "$work/messages" "${@:2}"
}

echo "$(date -u +%F), $(nproc) cores, $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo):" \
    "$customers customers, $months months; wall time, peak memory" >&2
step simulate "$tributary" simulate --customers "$customers" --months "$months" --seed 1 >"$work/events.jsonl"
wc -l <"$work/events.jsonl" >"$work/count"
echo "$(cat "$work/count") events, $(($(stat -c %s "$work/events.jsonl") / 1048576)) MiB" >&2
topic=bench-$$
cat >"$work/tributary.toml" <<END
[log]
transport = "kafka"
brokers = "$TRIBUTARY_TEST_KAFKA"
topic = "$topic"
partitions = 4
END
config=(--data-dir "$work/data" --config "$work/tributary.toml")
step ingest "$tributary" ingest "$work/events.jsonl" "${config[@]}"
rm "$work/events.jsonl"
"$limit" "$TRIBUTARY_TEST_KAFKA" "$topic" | tee "$work/limit" >&2
step "run --once" "$tributary" run --once "${config[@]}"
grep '^read ' "$work/messages" >&2
python3 - "$work" >&2 <<'END'
import pathlib, re, sys
work = pathlib.Path(sys.argv[1])
limit = float(re.search(r"([0-9]+) events a second", (work / "limit").read_text())[1])
rate = int((work / "count").read_text()) / float((work / "messages.seconds").read_text())
print(f"engine with all pipelines, as a share of the limit: {rate / limit:.2f} (aim 0.5)")
END
mv "$work/count" "$work/counted"
step "start again" "$tributary" run --once "${config[@]}"
echo "tables $(du -sm "$work/data/tables" | cut -f1) MiB, checkpoints $(du -sm "$work/data/engine" | cut -f1) MiB" >&2
rm -rf "$work/data"

"$epoch" >&2
benches/freshness.py "$tributary" "$append" >&2
benches/freshness.py "$tributary" "$append" "$TRIBUTARY_TEST_KAFKA" >&2
benches/restart.py "$tributary" "$append" >&2
"$ledger" "$customers" "$months" >&2

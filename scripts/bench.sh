#!/bin/bash
# Measures the way from Stripe's events in Apache Kafka to the tables, and the ledger alone, in the release profile:
#
#   scripts/with-kafka.sh scripts/bench.sh [CUSTOMERS [MONTHS]]   by default 12650 and 18: about a million events, 10 GB
#
# Each step is timed as a whole process; its peak memory is what the system says. Everything it writes is removed.
set -euo pipefail
cd "$(dirname "$0")/.."

customers=${1:-12650}
months=${2:-18}
cargo build --release --locked --bin tributary
tributary=${CARGO_TARGET_DIR:-target}/release/tributary
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
memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
rate = f"{events / seconds:10,.0f} events/s" if events else ""
print(f"{sys.argv[1]:<12} {seconds:8.1f} s {memory:8.0f} MiB {rate}", file=sys.stderr)
if code:
    sys.stderr.write(open(sys.argv[3]).read())
sys.exit(code)' "$1" "$work/count" "$work/messages" "${@:2}"
}

echo "$customers customers, $months months, $(nproc) cores; wall time, peak memory" >&2
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
cargo bench --locked --bench limit -- "$TRIBUTARY_TEST_KAFKA" "$topic" >&2
step "run --once" "$tributary" run --once "${config[@]}"
mv "$work/count" "$work/counted"
step "start again" "$tributary" run --once "${config[@]}"
echo "tables $(du -sm "$work/data/tables" | cut -f1) MiB, checkpoints $(du -sm "$work/data/engine" | cut -f1) MiB" >&2
cargo bench --locked --bench ledger -- "$customers" "$months" >&2

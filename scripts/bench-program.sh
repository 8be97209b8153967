#!/bin/bash
# Builds a bench in the release profile and prints the path of its program: scripts/bench-program.sh limit
set -euo pipefail
cd "$(dirname "$0")/.."

cargo bench --quiet --locked --no-run --bench "${1:?which bench}" --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1]:
        print(message["executable"])' "$1"

#!/bin/sh
# Runs a command while a real Apache Kafka runs; the command finds its address in TRIBUTARY_TEST_KAFKA.
#
#   scripts/with-kafka.sh cargo test
#
# The broker is this run's own and is always stopped; the exit code is the command's.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
TRIBUTARY_KAFKA_DIR=$(mktemp -d "${TMPDIR:-/tmp}/tributary-kafka.XXXXXX")
export TRIBUTARY_KAFKA_DIR
trap '"$here/kafka.sh" stop' EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM
TRIBUTARY_TEST_KAFKA=$("$here/kafka.sh" start)
export TRIBUTARY_TEST_KAFKA

# In the background, because a shell hears signals only while it waits.
"$@" &
command=$!
trap 'kill "$command" 2>/dev/null; exit 130' INT
trap 'kill "$command" 2>/dev/null; exit 143' HUP TERM
wait "$command"

#!/bin/sh
# Runs a command while a real S3 server (MinIO) runs; the command finds its address in TRIBUTARY_TEST_S3.
#
#   scripts/with-minio.sh cargo test
#
# The server is this run's own and is always stopped; the exit code is the command's.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
TRIBUTARY_MINIO_DIR=$(mktemp -d "${TMPDIR:-/tmp}/tributary-minio.XXXXXX")
export TRIBUTARY_MINIO_DIR
trap '"$here/minio.sh" stop' EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM
TRIBUTARY_TEST_S3=$("$here/minio.sh" start)
export TRIBUTARY_TEST_S3

# In the background, because a shell hears signals only while it waits.
"$@" &
command=$!
trap 'kill "$command" 2>/dev/null; exit 130' INT
trap 'kill "$command" 2>/dev/null; exit 143' HUP TERM
wait "$command"

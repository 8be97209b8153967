#!/bin/sh
# Makes the Python environment the tests use (Stripe's SDK, the Standard Webhooks library) and prints its python:
#
#     export TRIBUTARY_TEST_PYTHON="$(scripts/python-env.sh)"
#
# The environment is named by the hash of its requirements: made once, made again when they change.
set -eu

requirements="$(cd "$(dirname "$0")/.." && pwd)/tests/python/requirements.txt"
root="${XDG_CACHE_HOME:-$HOME/.cache}/tributary/python"
hash="$(
    python3 - "$requirements" <<'EOF'
import hashlib, pathlib, sys
print(hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes() + sys.version.encode()).hexdigest()[:16])
EOF
)"
environment="$root/$hash"

# The marker is written last, so that an environment that was cut short is made again.
if [ ! -e "$environment/complete" ]; then
    mkdir -p "$root"
    rm -rf "$environment"
    python3 -m venv "$environment" >&2
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$requirements" >&2
    touch "$environment/complete"
fi
echo "$environment/bin/python"

#!/bin/bash
# Checks what cargo does not see: shell scripts, the compose file, the links of the documents.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts=(scripts/*.sh benches/peers/*/*.sh .ci/run)
for script in "${scripts[@]}"; do
    bash -n "$script"
done
if command -v shellcheck >/dev/null; then
    shellcheck "${scripts[@]}"
fi

for script in benches/*.py benches/peers/*.py; do
    python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])' "$script"
done

# Any values do: only the file is checked.
export TRIBUTARY_WEBHOOK_SECRET=x TRIBUTARY_POSTGRES_PASSWORD=x TRIBUTARY_S3_PASSWORD=x
if command -v docker-compose >/dev/null; then
    docker-compose -f docker-compose.yml config >/dev/null
elif docker compose version >/dev/null 2>&1; then
    docker compose -f docker-compose.yml config --quiet
else
    echo "lint-files.sh: no docker-compose here, docker-compose.yml is not checked" >&2
fi

failed=0
while IFS=: read -r file link; do
    target=$(dirname "$file")/${link%%#*}
    if [ ! -e "$target" ]; then
        echo "$file: the link to $link leads nowhere" >&2
        failed=1
    fi
done < <(grep -noHE '\]\([^)#:]+(#[^)]*)?\)' ./*.md ./*/README.md | sed -E 's/^([^:]+):[0-9]+:\]\((.*)\)$/\1:\2/')

# The limits that ARCHITECTURE.md lists are where it says.
while IFS='|' read -r _ constant _ file _; do
    constant=$(tr -d ' `' <<<"$constant")
    file=$(tr -d ' `' <<<"$file")
    if ! grep -qE "const $constant\b" "$file"; then
        echo "ARCHITECTURE.md: there is no constant $constant in $file" >&2
        failed=1
    fi
done < <(sed -n '/^## Limits/,/^## Where/p' ARCHITECTURE.md | grep -E '^\| `[A-Z]')
exit "$failed"

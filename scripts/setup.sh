#!/bin/sh
# Installs what is missing on this machine, by apt-get and rustup; does nothing when all is there.
#
#   scripts/setup.sh build   what compiling needs
#   scripts/setup.sh test    what the tests need besides
#
# Java and Maven, for the tests' Kafka, are looked after by scripts/kafka.sh, and Go, for their S3 server, by
# scripts/minio.sh.
set -eu

rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
missing=

# need PACKAGE COMMAND…: the package is missing when the command fails.
need() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

say() { echo "setup.sh: $*" >&2; }

# shellcheck source=scripts/packages.sh
. "$(dirname "$0")/packages.sh"

case ${1:-} in
    build | test) ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

# C and C++ for librdkafka, SQLite, zstd and the TLS libraries; OpenSSL's headers for Kafka over TLS.
need build-essential sh -c 'command -v make && command -v cc && command -v c++'
need cmake command -v cmake
need perl command -v perl
need pkg-config command -v pkg-config
need libssl-dev pkg-config --exists openssl
need zlib1g-dev pkg-config --exists zlib
need python3 command -v python3
command -v cargo >/dev/null || need curl command -v curl
if [ "$1" = test ]; then
    need postgresql-client command -v psql
    need python3-venv python3 -c 'import ensurepip, venv'
    # For disks that are full.
    need util-linux command -v unshare
    need mount command -v mount
fi

# shellcheck disable=SC2086 # a list of words
install_packages ${missing:+$missing ca-certificates}

if ! command -v cargo >/dev/null; then
    say "installing Rust by rustup"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt >&2
fi
have=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n%s\n' "$rust" "$have" | sort -V | head -1)" != "$rust" ]; then
    say "Rust $have is older than $rust: rustup update stable"
    exit 1
fi

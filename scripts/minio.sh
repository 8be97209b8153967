#!/bin/sh
# A real S3 server on this machine, for tests: MinIO, one process, on a free loopback port, with a bucket `tributary`.
#
#   scripts/minio.sh install   builds it if it is not there yet
#   scripts/minio.sh start     starts one if none runs; prints its address. One that was killed goes on where it was
#   scripts/minio.sh stop      stops it and removes its data
#   scripts/minio.sh address   prints the address of the one that runs, or fails
#
# State (process id, port, log, data) is in $TRIBUTARY_MINIO_DIR, by default target/minio. The server is built once by
# `go install` and kept in the cache directory; Go is installed by apt-get where absent. Its key is `tributary`, its
# secret `tributary-secret`.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
state=${TRIBUTARY_MINIO_DIR:-$root/target/minio}
version=v0.0.0-20260212201848-7aac2a2c5b7c
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tributary/minio-$version
# What MinIO is built with where Go is too old to fetch that itself, as Debian 12's is.
toolchain=go1.24.8

say() { echo "minio.sh: $*" >&2; }

# shellcheck source=scripts/packages.sh
. "$root/scripts/packages.sh"
# shellcheck source=scripts/server.sh
. "$root/scripts/server.sh"

# A Go that can build it comes first in PATH. From 1.21 on, Go fetches what a program asks for; before, it is fetched as
# the module as which Go itself is published, which loses the right to execute.
install_go() {
    command -v go >/dev/null || install_packages golang-go
    case $(go env GOVERSION) in
        go1.? | go1.?.* | go1.1? | go1.1?.* | go1.20 | go1.20.*) ;;
        *) return ;;
    esac
    say "fetching $toolchain (80 MB, once)"
    module=golang.org/toolchain@v0.0.1-$toolchain.$(go env GOOS)-$(go env GOARCH)
    GO111MODULE=on go mod download "$module" >&2
    PATH=$(go env GOMODCACHE)/$module/bin:$PATH
    chmod +x "${PATH%%:*}"/* "${PATH%%:*}"/../pkg/tool/*/*
    unset GOROOT
}

install() {
    [ -x "$cache/minio" ] && return
    install_go
    say "building MinIO (2 minutes, once) to $cache"
    mkdir -p "$cache"
    part=$(mktemp -d "$cache/part.XXXXXX")
    # Renamed when whole; of two that build at once, either is kept.
    if GOBIN=$part go install "github.com/minio/minio@$version" >&2; then
        mv "$part/minio" "$cache/minio"
    fi
    rm -rf "$part"
    [ -x "$cache/minio" ]
}

# Whether the server says that it takes requests.
ready() {
    perl -MIO::Socket::INET -e '
        my $socket = IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 2) or exit 1;
        print $socket "GET /minio/health/ready HTTP/1.1\r\nHost: $ARGV[0]\r\nConnection: close\r\n\r\n";
        exit((<$socket> // "") =~ / 200 / ? 0 : 1);' "127.0.0.1:$1"
}

start() {
    if running; then
        cat "$state/address"
        return
    fi
    install
    if [ ! -s "$state/port" ]; then
        rm -rf "$state"
        # A directory among its data is a bucket.
        mkdir -p "$state/data/tributary"
        free_ports 1 >"$state/port"
    fi
    port=$(cat "$state/port")
    MINIO_ROOT_USER=tributary MINIO_ROOT_PASSWORD=tributary-secret MINIO_BROWSER=off MINIO_UPDATE=off \
        nohup "$cache/minio" server --quiet --address "127.0.0.1:$port" "$state/data" \
        >>"$state/log" 2>&1 </dev/null &
    echo $! >"$state/pid"
    await ready "$port"
    echo "http://127.0.0.1:$port" | tee "$state/address"
}

case ${1:-} in
    install) install ;;
    start) start ;;
    stop) stop ;;
    address) running && cat "$state/address" ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

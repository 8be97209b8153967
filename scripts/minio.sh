#!/bin/sh
# A real S3 server on this machine, for tests: MinIO, one process, on a free loopback port, with a bucket `tributary`.
#
#   scripts/minio.sh install   builds it if it is not there yet; fails where there is no Go
#   scripts/minio.sh start     starts one if none runs; prints its address. One that was killed goes on where it was
#   scripts/minio.sh stop      stops it and removes its data
#   scripts/minio.sh address   prints the address of the one that runs, or fails
#
# State (process id, port, log, data) is in $TRIBUTARY_MINIO_DIR, by default target/minio. The server is built once by
# `go install` and kept in the cache directory. Its key is `tributary`, its secret `tributary-secret`.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
state=${TRIBUTARY_MINIO_DIR:-$root/target/minio}
version=v0.0.0-20260212201848-7aac2a2c5b7c
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tributary/minio-$version

say() { echo "minio.sh: $*" >&2; }

# shellcheck source=scripts/server.sh
. "$root/scripts/server.sh"

install() {
    [ -x "$cache/minio" ] && return
    if ! command -v go >/dev/null; then
        say "there is no Go on this machine to build MinIO with"
        exit 1
    fi
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
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

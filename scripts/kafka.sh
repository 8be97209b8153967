#!/bin/sh
# A real Apache Kafka on this machine, for tests: one JVM, broker and controller in one, on free loopback ports.
#
#   scripts/kafka.sh start     starts one if none runs; prints its address
#   scripts/kafka.sh stop      stops it and removes its data
#   scripts/kafka.sh address   prints the address of the one that runs, or fails
#
# State (process id, address, log, data) is in $TRIBUTARY_KAFKA_DIR, by default target/kafka. The broker is fetched
# once from Maven Central and kept in the cache directory; Java and Maven are installed by apt-get where absent.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
state=${TRIBUTARY_KAFKA_DIR:-$root/target/kafka}
pom=$root/tests/kafka/pom.xml
version=$(sed -n '/kafka_2.13/,/<version>/s:.*<version>\(.*\)</version>.*:\1:p' "$pom")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tributary/kafka-$version
ready_seconds=60

say() { echo "kafka.sh: $*" >&2; }

running() { [ -s "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }

fetched() { cmp -s "$pom" "$cache/libs/pom.xml"; }

install_tools() {
    missing=
    command -v java >/dev/null || missing="$missing default-jre-headless"
    fetched || command -v mvn >/dev/null || missing="$missing maven"
    [ -n "$missing" ] || return 0
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    say "installing$missing"
    # shellcheck disable=SC2086 # two lists of words
    { $sudo apt-get update -q && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y $missing; } >&2
}

fetch() {
    fetched && return
    say "fetching Apache Kafka $version (44 MB, once) to $cache"
    mkdir -p "$cache"
    part=$(mktemp -d "$cache/part.XXXXXX")
    mvn -q -B -Dstyle.color=never -f "$pom" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$part" >&2
    cp "$pom" "$part/pom.xml"
    # Renamed when whole; of two that fetch at once, one is kept.
    rm -rf "$cache/libs"
    mv -T "$part" "$cache/libs" 2>/dev/null || rm -rf "$part"
}

# Two ports that nobody listens on; the kernel chooses them.
free_ports() {
    perl -MIO::Socket::INET -e '
        my @sockets = map { IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1) } 1 .. 2;
        print join(" ", map { $_->sockport } @sockets), "\n";'
}

start() {
    if running; then
        cat "$state/address"
        return
    fi
    install_tools
    fetch
    rm -rf "$state"
    mkdir -p "$state/data"
    ports=$(free_ports)
    port=${ports% *}
    sed -e "s:@PORT@:$port:g" -e "s:@CONTROLLER_PORT@:${ports#* }:g" -e "s:@DATA@:$state/data:g" \
        "$root/tests/kafka/server.properties" >"$state/server.properties"
    storage() { java -cp "$cache/libs/*" kafka.tools.StorageTool "$@"; }
    id=$(storage random-uuid)
    storage format -t "$id" -c "$state/server.properties" >"$state/log" 2>&1
    nohup java -Xmx512m -Dorg.apache.logging.log4j.level=INFO -cp "$cache/libs/*" \
        kafka.Kafka "$state/server.properties" >>"$state/log" 2>&1 </dev/null &
    echo $! >"$state/pid"
    tries=$((ready_seconds * 10))
    # It says so when the controller has let it in and it answers clients.
    until grep -q 'Kafka Server started' "$state/log"; do
        if ! running || [ "$tries" = 0 ]; then
            say "it did not start:"
            tail -20 "$state/log" >&2
            stop
            exit 1
        fi
        tries=$((tries - 1))
        sleep 0.1
    done
    echo "127.0.0.1:$port" | tee "$state/address"
}

stop() {
    if running; then
        pid=$(cat "$state/pid")
        kill "$pid"
        tries=100
        while kill -0 "$pid" 2>/dev/null && [ "$tries" -gt 0 ]; do
            tries=$((tries - 1))
            sleep 0.1
        done
        # A broker without a partner to hand over to may take its time; its data goes anyway.
        kill -9 "$pid" 2>/dev/null || true
    fi
    rm -rf "$state"
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    address) running && cat "$state/address" ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

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

say() { echo "kafka.sh: $*" >&2; }

# shellcheck source=scripts/packages.sh
. "$root/scripts/packages.sh"
# shellcheck source=scripts/server.sh
. "$root/scripts/server.sh"

fetched() { cmp -s "$pom" "$cache/libs/pom.xml"; }

install_tools() {
    set --
    command -v java >/dev/null || set -- "$@" default-jre-headless
    fetched || command -v mvn >/dev/null || set -- "$@" maven
    install_packages "$@"
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

# It says so when the controller has let it in and it answers clients.
ready() { grep -q 'Kafka Server started' "$state/log"; }

start() {
    if running; then
        cat "$state/address"
        return
    fi
    install_tools
    fetch
    rm -rf "$state"
    mkdir -p "$state/data"
    # shellcheck disable=SC2046 # two words
    set -- $(free_ports 2)
    sed -e "s:@PORT@:$1:g" -e "s:@CONTROLLER_PORT@:$2:g" -e "s:@DATA@:$state/data:g" \
        "$root/tests/kafka/server.properties" >"$state/server.properties"
    storage() { java -cp "$cache/libs/*" kafka.tools.StorageTool "$@"; }
    id=$(storage random-uuid)
    storage format -t "$id" -c "$state/server.properties" >"$state/log" 2>&1
    nohup java -Xmx512m -Dorg.apache.logging.log4j.level=INFO -cp "$cache/libs/*" \
        kafka.Kafka "$state/server.properties" >>"$state/log" 2>&1 </dev/null &
    echo $! >"$state/pid"
    await ready
    echo "127.0.0.1:$1" | tee "$state/address"
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    address) running && cat "$state/address" ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

#!/bin/sh
# A job of Apache Flink SQL over a Kafka topic, in one JVM that ends at the topic's present end:
#
#   benches/peers/flink/run.sh fetch                                   fetches and compiles what is needed, once
#   PRICES="'price_1','price_2'" benches/peers/flink/run.sh BROKERS TOPIC trivial|ledger OUTPUT
#
# LATENESS=24 are the hours that its watermark waits; WATERMARKS=on-periodic makes one every 200 ms, as Flink does by
# default, and on-event one after each event, so that what is late does not depend on how fast the log is read.
# Flink is fetched from Maven Central and kept in the cache directory; a JDK and Maven are installed by apt-get where absent.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's:.*<flink.version>\(.*\)</flink.version>.*:\1:p' "$here/pom.xml")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tributary/flink-$version
# Of the JVM, as large as its state needs; what Flink takes beside it is in the figures.
heap=2g

say() { echo "run.sh: $*" >&2; }

# shellcheck source=scripts/packages.sh
. "$here/../../../scripts/packages.sh"

install_tools() {
    set --
    command -v javac >/dev/null || set -- "$@" default-jdk-headless
    command -v mvn >/dev/null || set -- "$@" maven
    install_packages "$@"
}

fetch() {
    if cmp -s "$here/pom.xml" "$cache/pom.xml" && cmp -s "$here/Peer.java" "$cache/Peer.java"; then
        return
    fi
    install_tools
    mkdir -p "$cache"
    part=$(mktemp -d "$cache/part.XXXXXX")
    if ! cmp -s "$here/pom.xml" "$cache/pom.xml"; then
        say "fetching Apache Flink $version (190 MB, once) to $cache"
        mvn -q -B -Dstyle.color=never -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
            -DoutputDirectory="$part/libs" >&2
        rm -rf "$cache/libs"
        mv -T "$part/libs" "$cache/libs"
        cp "$here/pom.xml" "$cache/pom.xml"
    fi
    javac -cp "$cache/libs/*" -d "$part/classes" "$here/Peer.java"
    rm -rf "$cache/classes"
    mv -T "$part/classes" "$cache/classes"
    cp "$here/Peer.java" "$cache/Peer.java"
    rm -rf "$part"
}

case $# in
    1) [ "$1" = fetch ] && fetch && exit ;;
    4)
        fetch
        exec java -Xmx$heap --add-opens=java.base/java.util=ALL-UNNAMED --add-opens=java.base/java.lang=ALL-UNNAMED \
            --add-opens=java.base/java.time=ALL-UNNAMED -cp "$cache/classes:$cache/libs/*" Peer "$here/$3.sql" "$4" \
            "BROKERS=$1" "TOPIC=$2" "LATENESS=${LATENESS:-24}" "WATERMARKS=${WATERMARKS:-on-periodic}" \
            "PARALLELISM=$(nproc)" "PRICES=${PRICES:-}" "CHECKPOINTS=$4.checkpoints"
        ;;
esac
sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
exit 2

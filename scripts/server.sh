# shellcheck shell=sh
# A server of one process for tests, for the scripts that source this. They set `state`, a directory of its own with its
# process id in `pid` and its messages in `log`.

state=${state:?}
ready_seconds=60

running() { [ -s "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }

# await CONDITION…: until the command succeeds; stops the server and fails when it never does.
await() {
    tries=$((ready_seconds * 10))
    until "$@"; do
        if ! running || [ "$tries" = 0 ]; then
            say "it did not start:"
            tail -20 "$state/log" >&2
            stop
            exit 1
        fi
        tries=$((tries - 1))
        sleep 0.1
    done
}

# free_ports COUNT: ports that nobody listens on, a line each; the kernel chooses them.
free_ports() {
    perl -MIO::Socket::INET -e '
        my @sockets = map { IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1) } 1 .. $ARGV[0];
        print $_->sockport, "\n" for @sockets;' "$1"
}

# Stops the server and removes its data: one that takes its time for handing over is killed.
stop() {
    if running; then
        pid=$(cat "$state/pid")
        kill "$pid"
        tries=100
        while kill -0 "$pid" 2>/dev/null && [ "$tries" -gt 0 ]; do
            tries=$((tries - 1))
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
    fi
    rm -rf "$state"
}

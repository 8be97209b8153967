# shellcheck shell=sh
# Packages of the system, for the scripts that source this.

# install_packages NAME…: by apt-get; nothing without names.
install_packages() {
    [ $# -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        say "please install the equivalents of these Debian packages: $*"
        exit 1
    fi
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    say "installing $*"
    { $sudo apt-get update -q && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y "$@"; } >&2
}

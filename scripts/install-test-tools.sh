#!/usr/bin/env bash
# Installs what `make test` needs and this machine lacks. Does nothing for a tool that is already on PATH,
# so a machine set up by hand (macOS, Fedora) never reaches apt.
set -euo pipefail

sudo_() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
have() { command -v "$1" >/dev/null 2>&1; }

apt_refreshed=""
apt_install() {
  have apt-get || { echo "missing: $* (and no apt-get here: install them by hand)" >&2; exit 1; }
  if [ -z "$apt_refreshed" ]; then
    sudo_ apt-get update -qq || echo "apt-get update reported errors; going on with what it has" >&2
    apt_refreshed=yes
  fi
  sudo_ env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Consul left Debian after bullseye. That suite is added from whatever mirror the machine already uses for
# Debian, pinned so low that nothing but packages found nowhere else can come from it.
install_consul() {
  local mirror keyring
  mirror=$(find /etc/apt/sources.list /etc/apt/sources.list.d -type f -exec cat {} + 2>/dev/null |
    sed -nE 's#.*(https?://[^ ]+/debian/?)([[:space:]].*)?$#\1#p' | sed -n 1p) || true
  [ -n "$mirror" ] || { echo "no Debian mirror is configured: put a 'consul' on PATH" >&2; exit 1; }
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  printf 'deb [signed-by=%s] %s bullseye main\n' "$keyring" "$mirror" |
    sudo_ tee /etc/apt/sources.list.d/lb-bullseye.list >/dev/null
  printf 'Package: *\nPin: release n=bullseye\nPin-Priority: 50\n' |
    sudo_ tee /etc/apt/preferences.d/lb-bullseye >/dev/null
  apt_refreshed=""
  apt_install consul
}

# Built in the debug profile: it runs for a second, and an optimised build of it takes minutes longer.
CARGO_DENY_VERSION=0.20.2
install_cargo_deny() {
  cargo install cargo-deny --locked --debug --version "$CARGO_DENY_VERSION"
}

# The HTTP/2 conformance tests. Only with a Go toolchain at hand: bringing one along costs more than it gives on
# a machine that has none, and the tests say loudly that they were skipped.
H2SPEC_VERSION=v2.2.1+incompatible
install_h2spec() {
  if ! have go; then
    echo "NOTE: no Go toolchain: h2spec is not installed, the HTTP/2 conformance tests will be skipped" >&2
    return
  fi
  GOBIN="${CARGO_HOME:-$HOME/.cargo}/bin" go install "github.com/summerwind/h2spec/cmd/h2spec@$H2SPEC_VERSION" ||
    echo "NOTE: h2spec could not be built: the HTTP/2 conformance tests will be skipped" >&2
}

# An ACME server for tests, under the same condition.
PEBBLE_VERSION=v2.10.3
install_pebble() {
  if ! have go; then
    echo "NOTE: no Go toolchain: pebble is not installed, the tests of certificates by ACME will be skipped" >&2
    return
  fi
  GOBIN="${CARGO_HOME:-$HOME/.cargo}/bin" go install \
    "github.com/letsencrypt/pebble/v2/cmd/pebble@$PEBBLE_VERSION" \
    "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv@$PEBBLE_VERSION" ||
    echo "NOTE: pebble could not be built: the tests of certificates by ACME will be skipped" >&2
}

have make && have cc || apt_install build-essential
have consul || install_consul
have python3 || apt_install python3
have openssl || apt_install openssl
have curl || apt_install curl
have sshd || [ -x /usr/sbin/sshd ] || apt_install openssh-server
have ssh || apt_install openssh-client
have gpg || apt_install gnupg
have unzip || apt_install unzip
have promtool || apt_install prometheus
have valgrind || { have apt-get && apt_install valgrind; } || echo "NOTE: no valgrind: instructions per request are not counted" >&2
have strace || { have apt-get && apt_install strace; } || echo "NOTE: no strace: system calls per request are not counted" >&2

# Machines with a systemd of their own, for tests/bootstrap/systemd: only where apt can bring what they are made with.
make_systemd_base() {
  have apt-get || return 1
  have debootstrap || [ -x /usr/sbin/debootstrap ] || apt_install debootstrap || return 1
  have systemd-nspawn || apt_install systemd-container || return 1
  sudo_ env HOME="$HOME" XDG_CACHE_HOME="${XDG_CACHE_HOME:-}" "${BASH_SOURCE[0]%/*}/systemd-base"
}
make_systemd_base || echo "NOTE: no base for machines with systemd: the tests on such machines will be skipped" >&2

have cargo || { echo "no Rust toolchain: see https://rustup.rs" >&2; exit 1; }
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
cargo deny --version >/dev/null 2>&1 || install_cargo_deny
have h2spec || install_h2spec
have pebble && have pebble-challtestsrv || install_pebble

#!/usr/bin/env bash
# Print the path of a Chromium that runs: the one that CHROMIUM names, one on PATH, else Debian's, installed now
# where this user may (root or sudo without a password). Exit status 69: there is none, and none can be installed.
set -euo pipefail

unavailable=69
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Some systems ship a launcher that only tells how to install the browser: a version counts.
usable() { "$1" --version >/dev/null 2>&1; }

find_chromium() {
  local name
  for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
    if usable "$name"; then command -v "$name"; return; fi
  done
  return 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

apt() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=2 -o Acquire::http::Timeout=30 \
    -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1
}

if [ -n "${CHROMIUM:-}" ]; then
  usable "$CHROMIUM" || { echo "CHROMIUM=$CHROMIUM does not run; name another browser or unset it." >&2; exit 1; }
  command -v "$CHROMIUM"
  exit
fi
find_chromium && exit
if command -v apt-get >/dev/null && as_root true 2>/dev/null; then
  echo "installing Debian's chromium (about 100 MB, once) ..." >&2
  # A stale list names packages that are gone; without network the install says what is wrong.
  apt update || true
  if apt install -y --no-install-recommends chromium && find_chromium; then exit; fi
  tail -n 5 "$log" >&2
fi
echo "no Chromium was found and none could be installed. Install one (Debian: apt-get install chromium)," \
  "or name yours: CHROMIUM=/path/to/chrome." >&2
exit $unavailable

#!/usr/bin/env bash
# Make the environment that the Makefile's verbs run in: tools/make_env.sh FOLDER
# Settings by environment: PYTHON (interpreter), PIP_ARGS (extra pip options), D2_ARGS (options of
# tools/install_detectron2.py). An interrupted call is simply repeated: what is there is kept.
set -euo pipefail

venv=${1:?usage: tools/make_env.sh FOLDER}
py=$venv/bin/python
log=$venv/install.log
root=$PWD

fail() { printf 'make: %s\n' "$@" >&2; exit 1; }

# An interpreter counts only when it runs: version managers leave launchers on PATH for versions
# that are not installed, and some systems ship Python without venv.
usable() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
    >/dev/null 2>&1
}

find_python() {
  local name dir
  if [ -n "${PYTHON:-}" ]; then
    usable "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python 3.10-3.12 with venv; name another."
    command -v "$PYTHON"
    return
  fi
  local IFS=:
  for name in python3.11 python3.12 python3.10 python3 python; do
    for dir in $PATH; do
      if [ -x "$dir/$name" ] && usable "$dir/$name"; then echo "$dir/$name"; return; fi
    done
  done
  fail "no working Python 3.10, 3.11 or 3.12 with the venv module was found on PATH." \
    "Install one (Debian and Ubuntu: python3 and python3-venv) or name it: make PYTHON=/path/to/python3.11 ..."
}

# pip with its talk in the log; of it only what shows that something moves.
pip_quietly() {
  # shellcheck disable=SC2086
  if ! "$py" -m pip install --disable-pip-version-check --no-input ${PIP_ARGS:-} "$@" 2>&1 | tee -a "$log" |
    awk '/^ *Downloading .*[0-9] [MG]B\)/ {sub(/-(cp|py)[0-9].*whl/, "", $2); print "      " $2, $3, $4}
      /^Installing collected/ {print "      unpacking ..."} {fflush()}'
  then
    grep -v '^WARNING: Location' "$log" | tail -n 12 >&2
    fail "pip failed (all of its output: $log)." \
      "Is the package index reachable, and is the disk full (about 7 GB are needed)? Then run the same command again: it goes on."
  fi
}

if [ -e "$venv" ] && ! { usable "$py" && "$py" -c 'import pip' 2>/dev/null; }; then
  fail "$venv exists but is broken (no working Python 3.10-3.12 with pip in it). Run 'make clean', then this again."
fi
if [ ! -e "$venv" ]; then
  python=$(find_python)
  echo "[1/4] creating $venv with $("$python" -V) ($python)"
  "$python" -m venv "$venv"
fi
: >"$log"
echo "[2/4] installing torch (about 2 GB download, 5.5 GB on disk; once) ..."
# shellcheck disable=SC2046
pip_quietly $(grep -E '^(torch|torchvision|numpy|setuptools)[=<>]' requirements.txt)
echo "[3/4] installing the other packages ..."
pip_quietly -r requirements.txt
pip_quietly --no-deps --no-build-isolation -e .
echo "[4/4] Detectron2 ..."
# shellcheck disable=SC2086
"$py" tools/install_detectron2.py ${D2_ARGS:-}
"$py" -c 'import cv2, torch, torchvision, bpkd' || fail "the installed packages do not import. Run 'make clean', then this again."
"$py" -c 'from bpkd.functional import native
print("C++ functions:", native.level() or f"none ({native.unavailable()}); the losses take their PyTorch path")'
echo "$root" >"$venv/.bpkd-installed"
echo "environment ready: $("$py" -V), torch $("$py" -c 'import torch; print(torch.__version__)')"

#!/usr/bin/env bash
# Make the environment that the Makefile's verbs run in: dev/make_env.sh FOLDER
# Settings by environment: PYTHON (interpreter), REQUIREMENTS (the set: requirements.txt or another), PIP_ARGS (extra
# pip options), D2_ARGS (options of tools/install_detectron2.py). An interrupted call is simply repeated: what is there
# is kept. `dev/make_env.sh --python` prints the interpreter that it would take.
set -euo pipefail

case ${1:-} in
  "" | -*) [ "${1:-}" = --python ] || { echo "usage: dev/make_env.sh FOLDER, or --python" >&2; exit 2; } ;;
esac
venv=$1
py=$venv/bin/python
log=$venv/install.log
root=$PWD
requirements=${REQUIREMENTS:-requirements.txt}

fail() { printf 'make: %s\n' "$@" >&2; exit 1; }

[ -f "$requirements" ] || fail "REQUIREMENTS=$requirements: no such file. Take requirements.txt or requirements-oldest.txt."
# The Pythons that the set was tested on: its line "# python: 3.LOW - 3.HIGH".
read -r low high < <(sed -n 's/^# python: 3\.\([0-9]*\) - 3\.\([0-9]*\)\r*$/\1 \2/p' "$requirements") ||
  fail "$requirements: expected a line '# python: 3.LOW - 3.HIGH' (the Pythons that it serves), got none."
range="Python 3.$low to 3.$high"
[ "$low" != "$high" ] || range="Python 3.$low"

# An interpreter counts only when it runs: version managers leave launchers on PATH for versions that are not installed,
# and some systems ship Python without venv. Prints its version where it runs, and "fits" or what is wrong.
probe() {
  local said
  said=$("$1" -c 'import sys
low, high = int(sys.argv[1]), int(sys.argv[2])
version = sys.version_info[:2]
try:
    import ensurepip, venv
    found = "fits"
except ImportError:
    found = "has no venv module"
if version < (3, low): found = "too old"
if version > (3, high): found = "too new"
print("%d.%d %s" % (version[0], version[1], found))' "$low" "$high" 2>/dev/null) || said=
  said=${said##*$'\n'} # some launchers greet first
  case $said in *" fits" | *" has no venv module" | *" too old" | *" too new") echo "$said" ;; *) echo "? does not run" ;; esac
}

usable() { case $(probe "$1") in *" fits") ;; *) return 1 ;; esac; }

# The newest that fits; of equal ones the first on PATH. Prints it, or one line for each that does not fit.
search_path() {
  local name dir version state best='' best_minor=-1 seen=' ' others='' minors
  minors=$(for ((i = high; i >= low; i--)); do echo "python3.$i"; done)
  local IFS=$':\n'
  for name in $minors python3 python; do
    for dir in $PATH; do
      [ -x "$dir/$name" ] || continue
      case $seen in *" $dir/$name "*) continue ;; esac
      seen="$seen$dir/$name "
      IFS=' ' read -r version state <<<"$(probe "$dir/$name")"
      if [ "$state" != fits ]; then
        others="$others$dir/$name: $([ "$version" = '?' ] || echo "Python $version, ")$state"$'\n'
      elif [ "${version#3.}" -gt "$best_minor" ]; then
        best=$dir/$name best_minor=${version#3.}
      fi
    done
  done
  [ -z "$best" ] || { echo "$best"; return; }
  printf '%s' "$others"
  return 1
}

# How to get one here: a line per way that this system has.
advice() {
  local i wanted=$((high < 13 ? high : 13)) ways=0
  if command -v apt-cache >/dev/null; then
    for ((i = high; i >= low; i--)); do
      apt-cache policy "python3.$i-venv" 2>/dev/null | grep -q 'Candidate: [^(]' || continue
      echo "  sudo apt-get install python3.$i-venv"
      ways=1
      break
    done
  fi
  if command -v uv >/dev/null; then
    echo "  uv python install 3.$wanted && make PYTHON=\"\$(uv python find 3.$wanted)\" ..." && ways=1
  fi
  if command -v pyenv >/dev/null; then
    echo "  pyenv install 3.$wanted && make PYTHON=\"\$(pyenv prefix 3.$wanted)/bin/python\" ..." && ways=1
  fi
  if command -v conda >/dev/null; then
    echo "  conda create -n py3$wanted python=3.$wanted && make PYTHON=\"\$(conda run -n py3$wanted which python)\" ..."
    ways=1
  fi
  if command -v brew >/dev/null; then
    echo "  brew install python@3.$wanted" && ways=1
  fi
  [ $ways = 1 ] || echo "  install Python 3.$wanted (this system's packages have none that fits; uv, pyenv and conda bring their own)"
  echo "  or name one: make PYTHON=/path/to/python3.$wanted ..."
}

find_python() {
  local found lines=()
  if [ -n "${PYTHON:-}" ]; then
    found=$(probe "$PYTHON")
    [ "${found#* }" = fits ] || fail "PYTHON=$PYTHON$([ "${found%% *}" = '?' ] || echo " is Python ${found%% *}:") ${found#* }." \
      "$requirements needs $range with the venv module. Ways to get it:" "$(advice)"
    command -v "$PYTHON"
    return
  fi
  if found=$(search_path); then echo "$found"; return; fi
  lines=("no working $range with the venv module was found on PATH.")
  [ -z "$found" ] || lines+=("Found: ${found//$'\n'/; }.")
  fail "${lines[@]}" "Ways to get it:" "$(advice)"
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
      "Is the package index reachable, and is the disk full (about 10 GB are needed)? Then run the same command again: it goes on."
  fi
}

if [ "$1" = --python ]; then find_python; exit; fi
if [ -e "$venv" ] && ! { usable "$py" && "$py" -c 'import pip' 2>/dev/null; }; then
  found=$(probe "$py")
  case $found in
    *" too old" | *" too new") fail "$venv is of Python ${found%% *}, and $requirements needs $range: take another folder" \
      "(make ... VENV=.venv-other REQUIREMENTS=$requirements), or remove this one (make clean VENV=$venv)." ;;
  esac
  fail "$venv exists, but it has no working Python with pip. Run 'make clean VENV=$venv', then this again."
fi
if [ ! -e "$venv" ]; then
  python=$(find_python)
  echo "[1/4] creating $venv with $("$python" -V) ($python)"
  "$python" -m venv "$venv"
fi
rm -f "$venv"/.bpkd-installed*
echo "$requirements" >"$venv/.bpkd-requirements" # an interrupted call goes on with the same set
: >"$log"
echo "[2/4] installing torch (with the rest 3.2 GB to download and 6 GB on disk, half of it NVIDIA's libraries; once) ..."
# Lines as they stand, with their markers.
grep -E '^(torch|torchvision|numpy|setuptools|wheel|ninja)(==|$)' "$requirements" >"$venv/first.txt"
pip_quietly -r "$venv/first.txt"
echo "[3/4] installing the other packages ..."
pip_quietly -r "$requirements"
pip_quietly --no-deps --no-build-isolation -e .
echo "[4/4] Detectron2 ..."
# shellcheck disable=SC2086
"$py" tools/install_detectron2.py ${D2_ARGS:-}
"$py" -c 'import cv2, torch, torchvision, bpkd' || fail "the installed packages do not import. Run 'make clean', then this again."
"$py" -c 'from bpkd.functional.backends import native
print("C++ functions:", native.level() or f"none ({native.unavailable_reason()}); the losses run in PyTorch")'
echo "$root" >"$venv/.bpkd-installed-${requirements##*/}"
echo "environment ready: $("$py" -V), torch $("$py" -c 'import torch; print(torch.__version__)')"

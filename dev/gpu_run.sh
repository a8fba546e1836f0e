#!/usr/bin/env bash
# Run tools/gpu_sheet.py from the root of a copy of the checkout, on a machine without a network and Detectron2:
#   bash FOLDER/run.sh OUT [options of tools/gpu_sheet.py]
# FOLDER is what dev/gpu_bundle.sh wrote; this file is its run.sh. The measurements go to FOLDER/sheet, where a second
# call on the same machine goes on; those of --tiny to FOLDER/walk, anew each time. PYTHON names the interpreter
# (python3).
#
# However the sheet ends (SIGTERM and SIGINT too, SIGKILL not: let --minutes end it before the machine does), OUT then
# holds what has to travel back, at most 5 files of at most 15 MiB each, 63 MiB in all:
#   records.tar.gz            FOLDER/sheet without work/ and students/: *.json, *.log, *.md, and what is below 1 MiB
#   students.tar.00, .01 ...  FOLDER/sheet/students/*.pth, as many as there is room for, one tar cut in pieces
# To put it together again:
#   mkdir -p sheet && tar xzf records.tar.gz -C sheet && cat students.tar.* | tar x -C sheet
# To go on with it on a fresh machine: do that with FOLDER/sheet, then carry FOLDER there.
# The exit status is the sheet's (143 and 130 after a signal); 1 where the sheet succeeded and the packing failed.
# shellcheck disable=SC2317,SC2329 # some functions are called by traps alone
set -euo pipefail

mib=$((1024 * 1024))
piece=$((15 * mib)) most_pieces=4 total=$((63 * mib)) small=$mib
texts=(-name '*.json' -o -name '*.log' -o -name '*.md')

say() { echo "run.sh: $*"; }
fail() { say "$2" >&2; exit "$1"; }

case ${1:-} in "" | -*) fail 2 "usage: bash FOLDER/run.sh OUT [options of tools/gpu_sheet.py]" ;; esac
out=$1 python=${PYTHON:-python3}
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
sheet=$here/sheet
case " $* " in *" --tiny "*) sheet=$here/walk && rm -rf "$sheet" ;; esac # no measurement: in a folder of its own
for name in commit manifest; do
  [ -f "$here/$name" ] || fail 1 "$here/$name: no such file; write the folder again with dev/gpu_bundle.sh."
done
[ -f tools/gpu_sheet.py ] ||
  fail 1 "$PWD/tools/gpu_sheet.py: no such file; call this from the root of the checkout's copy."
command -v "$python" >/dev/null || fail 1 "PYTHON=$python: no such program; name the interpreter that has PyTorch."
if [ -f "$here/python" ]; then # what site/ was made for
  wanted=$(cat "$here/python")
  found=$("$python" -c 'import sys, torch; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    fail 1 "PYTHON=$python: expected an interpreter with PyTorch, but it does not import torch; name another."
  [ "$found" = "$wanted" ] || fail 1 "PYTHON=$python: expected Python $wanted, got $found; name another, or bundle anew."
fi
mkdir -p "$out" "$sheet"
out=$(cd "$out" && pwd)

# Files of the sheet that fit the find expression, as a list for tar.
list() {
  (cd "$sheet" && find . \( -path ./work -o -path ./students \) -prune -o -type f \( "$@" \) -print0) | LC_ALL=C sort -z
}

# 1 of tar: a file changed while it was read; the archive is whole.
records_of() {
  list "$@" | tar -C "$sheet" --null --no-recursion -T - -czf "$out/records.tar.gz.part" || [ $? = 1 ] || return
  mv "$out/records.tar.gz.part" "$out/records.tar.gz"
}

pack_records() {
  local name
  records_of -size "-${small}c" -o "${texts[@]}" || return
  if [ "$(stat -c %s "$out/records.tar.gz")" -gt "$piece" ]; then
    say "records.tar.gz would be above 15 MiB: *.json, *.log and *.md alone"
    records_of "${texts[@]}" || return
  fi
  [ "$(stat -c %s "$out/records.tar.gz")" -le "$piece" ] || say "ATTENTION: records.tar.gz is above 15 MiB"
  while IFS= read -r -d '' name; do say "left out, 1 MiB or more: ${name#./}"; done < <(
    list -not \( -size "-${small}c" -o "${texts[@]}" \))
}

pack_students() {
  local name size room used=0 names=()
  [ -d "$sheet/students" ] || return 0
  room=$(((total - $(stat -c %s "$out/records.tar.gz")) / piece))
  room=$(((room < most_pieces ? room : most_pieces) * piece - 64 * 1024)) # tar's own end
  while IFS= read -r -d '' name; do
    size=$(stat -c %s "$sheet/students/$name")
    size=$(((size + 511) / 512 * 512 + 1024)) # as tar writes it, with its name
    if [ $((used + size)) -le "$room" ]; then
      names+=("students/$name") used=$((used + size))
    else
      say "left out, no room: students/$name"
    fi
  done < <(find "$sheet/students" -maxdepth 1 -type f -name '*.pth' -printf '%f\0' | LC_ALL=C sort -z)
  [ ${#names[@]} = 0 ] || tar -C "$sheet" -cf - -- "${names[@]}" | split -b "$piece" -d -a 2 - "$out/students.tar."
}

pack() {
  local status=$?
  trap - EXIT
  trap '' TERM INT HUP
  rm -f "$out"/records.tar.gz* "$out"/students.tar.*
  if ! { pack_records && pack_students; }; then
    say "ATTENTION: not all could be packed into $out; it lies in $sheet" >&2
    [ "$status" != 0 ] || status=1
  fi
  say "exit status $status; to carry back from $out:"
  (cd "$out" && du -b -- records.tar.gz* students.tar.* 2>/dev/null) || true
  exit "$status"
}

stop() {
  local i
  trap '' TERM INT HUP
  say "$1: stopping the sheet" >&2
  if [ -n "$child" ]; then
    kill -TERM -- "-$child" 2>/dev/null || true
    for ((i = 0; i < 100; i++)); do # 10 s
      kill -0 -- "-$child" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$child" 2>/dev/null || true
  fi
  exit "$2"
}

commit=$(cat "$here/commit")
if sha256sum --check --quiet "$here/manifest"; then
  say "commit $commit; the files are those that the bundle was made with"
else
  commit=${commit%+changes}+changes
  say "commit $commit: files differ from those that the bundle was made with (above)"
fi
for library in "$here"/native/*.so; do
  [ ! -e "$library" ] || [ -e "bpkd/functional/backends/native/${library##*/}" ] || cp "$library" bpkd/functional/backends/native/
done
arguments=()
if [ -d "$here/data" ]; then
  arguments+=(--data "$here/data")
else
  case " $* " in
    *" --only "* | *" --tiny "*) ;;
    *) arguments+=(--only environment correct losses step) && say "no data in the bundle: without the part train" ;;
  esac
fi
[ ! -d "$here/peers" ] || arguments+=(--peer-root "$here/peers")
export BPKD_COMMIT=$commit PYTHONPATH=$here/site:$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONWARNINGS=ignore::FutureWarning PYTHONUNBUFFERED=1

child='' status=0
trap pack EXIT
trap 'stop SIGTERM 143' TERM
trap 'stop SIGINT 130' INT
trap 'stop SIGHUP 129' HUP
set -m # a process group of its own: a signal reaches all that it started
"$python" tools/gpu_sheet.py "$sheet" ${arguments[@]+"${arguments[@]}"} --resume "$@" </dev/null &
child=$!
set +m
wait "$child" || status=$?
exit "$status"

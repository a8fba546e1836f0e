"""dev/make_env.sh: which interpreter is taken, and what is said where none fits, with made-up programs on PATH."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SETS = ("requirements.txt", "requirements-oldest.txt")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH with what the script needs and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "env", "sed", "grep", "cat"):
        (folder / name).symlink_to(shutil.which(name) or "")
    return folder


def program(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
    path.chmod(0o755)
    return path


def python(folder: Path, name: str, version: str, *, venv: bool = True) -> Path:
    """An interpreter that says it is ``version``: this one, with another number before the script that it is given."""
    major, minor = version.split(".")
    change = f"import sys; sys.version_info = ({major}, {minor}, 0, 'final', 0)\n"
    change += "" if venv else "sys.modules['ensurepip'] = None\n"
    (folder / f"{name}.py").write_text(change + "sys.argv = sys.argv[1:]\nexec(sys.argv[0])\n")
    return program(folder, name, f'shift; exec {sys.executable} {folder}/{name}.py "$@"')


def find(programs: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    rest = {k: v for k, v in os.environ.items() if k not in ("PATH", "PYTHON", "REQUIREMENTS")}
    return subprocess.run(
        ["bash", "dev/make_env.sh", "--python"],
        env={**rest, "PATH": str(programs), **variables}, capture_output=True, text=True, cwd=REPO,
    )  # fmt: skip


def test_the_newest_that_fits_is_taken(programs: Path) -> None:
    for name, version in {"python3.10": "3.10", "python3.12": "3.12", "python3": "3.13", "python": "3.15"}.items():
        python(programs, name, version)
    program(programs, "python3.14", "echo not installed >&2; exit 127")  # a version manager's launcher
    done = find(programs)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{programs}/python3\n", "")


def test_of_equal_ones_the_first_on_path(programs: Path) -> None:
    second = programs.parent / "second"
    second.mkdir()
    python(second, "python3.13", "3.13")
    python(programs, "python3.13", "3.13")
    assert find(programs, PATH=f"{programs}:{second}").stdout == f"{programs}/python3.13\n"


def test_a_set_for_one_python_takes_that_one(programs: Path) -> None:
    for version in ("3.10", "3.11"):
        python(programs, f"python{version}", version)
    assert find(programs, REQUIREMENTS="requirements-oldest.txt").stdout == f"{programs}/python3.10\n"


def test_what_does_not_fit_is_named_with_version_and_path(programs: Path) -> None:
    python(programs, "python3.9", "3.9")  # a name that is not looked for
    python(programs, "python3", "3.15")
    python(programs, "python", "3.8")
    python(programs, "python3.12", "3.12", venv=False)
    program(programs, "python3.11", "exit 127")
    done = find(programs)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no working Python 3.10 to 3.14 with the venv module was found on PATH" in done.stderr
    for name, state in {
        "python3.12": "Python 3.12, has no venv module", "python3.11": "does not run",
        "python3": "Python 3.15, too new", "python": "Python 3.8, too old",
    }.items():  # fmt: skip
        assert f"{programs}/{name}: {state}" in done.stderr
    assert "make PYTHON=/path/to/python3.13" in done.stderr


def test_a_named_one_that_does_not_fit_is_refused(programs: Path) -> None:
    python(programs, "python3.12", "3.12")
    old = python(programs.parent, "old", "3.9")
    done = find(programs, PYTHON=str(old))
    assert done.returncode == 1
    assert f"PYTHON={old} is Python 3.9: too old." in done.stderr
    done = find(programs, PYTHON="/nowhere/python3")
    assert "PYTHON=/nowhere/python3 does not run." in done.stderr


def test_advice_is_of_this_system(programs: Path) -> None:
    python(programs, "python3", "3.15")
    nothing = find(programs).stderr
    assert "install Python 3.13" in nothing
    assert "apt-get" not in nothing
    program(programs, "uv", "exit 1")
    assert "uv python install 3.13" in find(programs).stderr
    # Debian's package lists: python3 itself is what was refused, so a version is named, and only one that is there.
    program(
        programs,
        "apt-cache",
        '[ "$2" = python3.12-venv ] && echo "  Candidate: 3.12.3-1" || echo "  Candidate: (none)"',
    )
    found = find(programs).stderr
    assert "sudo apt-get install python3.12-venv" in found
    assert "python3.13-venv" not in found
    assert not re.search(r"install python3( |$)", found, re.MULTILINE)


def test_a_set_that_is_not_there_is_said(programs: Path) -> None:
    done = find(programs, REQUIREMENTS="absent.txt")
    assert done.returncode == 1
    assert "REQUIREMENTS=absent.txt: no such file" in done.stderr


def test_a_set_without_its_pythons_is_said(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("torch\n")
    done = find(programs, REQUIREMENTS=str(tmp_path / "own.txt"))
    assert done.returncode == 1
    assert "own.txt: expected a line '# python: 3.LOW - 3.HIGH'" in done.stderr


@pytest.mark.parametrize("name", SETS)
def test_the_sets_say_their_pythons_and_pin(name: str) -> None:
    lines = (REPO / name).read_text().splitlines()
    assert re.fullmatch(r"# python: 3\.\d+ - 3\.\d+", lines[0])
    loose = [line for line in lines if line and not line.startswith("#") and "==" not in line.split(";")[0]]
    assert loose == ["wheel", "ninja"]  # tools of the build

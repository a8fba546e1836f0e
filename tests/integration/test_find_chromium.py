"""dev/find_chromium.sh and what .ci/run makes of it, with made-up programs on PATH."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "dev" / "find_chromium.sh"
UNAVAILABLE = 69


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH with what the scripts need and neither a browser nor an installer."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "env", "mktemp", "rm", "tail", "dirname", "cp", "chmod"):
        (folder / name).symlink_to(shutil.which(name) or "")
    program(folder, "id", "echo 0")  # root, so that sudo is not asked
    return folder


def program(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
    path.chmod(0o755)
    return path


def run(script: Path, programs: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    rest = {k: v for k, v in os.environ.items() if k not in ("PATH", "CHROMIUM")}
    return subprocess.run(
        ["bash", str(script)], env={**rest, "PATH": str(programs), **variables}, capture_output=True, text=True
    )


def test_the_named_browser_comes_first(programs: Path) -> None:
    program(programs, "chromium", "echo 1")
    mine = program(programs.parent, "mine", "echo 1")
    assert run(SCRIPT, programs, CHROMIUM=str(mine)).stdout == f"{mine}\n"


def test_a_named_browser_that_does_not_run_is_an_error(programs: Path) -> None:
    program(programs, "chromium", "echo 1")
    done = run(SCRIPT, programs, CHROMIUM="/nowhere/chrome")
    assert (done.returncode, done.stdout) == (1, "")
    assert "CHROMIUM=/nowhere/chrome does not run" in done.stderr


def test_a_launcher_without_its_browser_is_passed_over(programs: Path) -> None:
    program(programs, "chromium", "exit 1")
    found = program(programs, "google-chrome", "echo 1")
    assert run(SCRIPT, programs).stdout == f"{found}\n"


def test_debians_is_installed_where_there_is_none(programs: Path) -> None:
    spare = program(programs.parent, "spare", "echo 1")
    program(programs, "apt-get", f'case "$*" in *" install "*chromium) cp {spare} {programs}/chromium ;; esac')
    done = run(SCRIPT, programs)
    assert (done.returncode, done.stdout) == (0, f"{programs}/chromium\n")


@pytest.mark.parametrize("installer", [None, "echo 'E: no network' >&2; exit 100"])
def test_without_any_it_says_what_to_install(programs: Path, installer: str | None) -> None:
    if installer:
        program(programs, "apt-get", installer)
    done = run(SCRIPT, programs)
    assert (done.returncode, done.stdout) == (UNAVAILABLE, "")
    assert "apt-get install chromium" in done.stderr
    assert "CHROMIUM=/path" in done.stderr
    assert ("no network" in done.stderr) == bool(installer)


MAKE = """echo "make $1 ${CHROMIUM:-}"
case $1 in
  lint) exit $LINT ;; test) exit $TESTS ;; test-browser) exit $BROWSER ;; test-slow) exit $CONFIGS ;;
esac"""


@pytest.mark.parametrize(
    ("there", "lint", "tests", "browser", "configs", "status"),
    [
        (True, 0, 0, 0, 0, 0), (True, 0, 0, 2, 0, 2), (True, 0, 2, 0, 0, 2), (True, 0, 0, 0, 2, 2),
        (True, 3, 0, 2, 0, 3), (False, 0, 0, 0, 0, 0), (False, 0, 2, 0, 0, 2), (False, 0, 0, 0, 2, 2),
    ],
)  # fmt: skip
def test_ci_fails_with_any_and_goes_on_without_a_browser(
    programs: Path, there: bool, lint: int, tests: int, browser: int, configs: int, status: int
) -> None:
    program(programs, "make", MAKE)
    if there:
        program(programs, "chromium", "echo 1")
    codes = {"LINT": lint, "TESTS": tests, "BROWSER": browser, "CONFIGS": configs}
    done = run(REPO / ".ci" / "run", programs, **{name: str(code) for name, code in codes.items()})
    assert done.returncode == status
    assert "make test \n" in done.stdout  # whatever the browser test said
    assert (f"make test-browser {programs}/chromium\n" in done.stdout) == there
    assert ("ATTENTION: the browser test could not run" in done.stdout) == (not there)
    assert ("FAILED: the browser test" in done.stdout) == bool(browser)
    assert ("FAILED: a config of the paper" in done.stdout) == bool(configs)
    assert ("FAILED: ruff" in done.stdout) == bool(lint)
    steps = ["lint", "types", *(["browser"] if there else []), "slow", "sheet", "levels"]
    assert re.findall(r"^ci: (\w+): \d+ s$", done.stdout, re.MULTILINE) == steps
    assert done.stdout.index("make test \n") > done.stdout.index("ci: levels")  # the tests' closing line is the last
    if status == 0 and there:
        assert done.stdout.endswith("make test \n")

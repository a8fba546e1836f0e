"""Make Detectron2 importable: the one that is there, else upstream's git, else a PyPI copy.

Run with the interpreter that is to have it: `python tools/install_detectron2.py`. PyTorch must be
installed first. Nothing is done when Detectron2 imports already.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

GIT_URL = "https://github.com/facebookresearch/detectron2"
GIT_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # 2026-06, built against torch 2.14.1
PYPI_COPY = "sal-detectron2==0.7.2"  # upstream as of 2024-04
PYPI_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
REACH_SECONDS = 20
BUILD_SECONDS = 1800
# DefaultTrainer pulls in models, data and evaluation: what this project needs of Detectron2.
CHECK = """
import detectron2, pathlib
from detectron2.engine import DefaultTrainer
try:
    from detectron2 import _C
    ops = "with its compiled operators"
except ImportError:
    ops = "without its compiled operators (not needed here)"
print(detectron2.__version__, ops, "in", pathlib.Path(detectron2.__file__).parent)
"""

Run = Callable[[list[str], float], "subprocess.CompletedProcess[str]"]


class InstallError(RuntimeError):
    """One way to get Detectron2 did not work; the message says why."""


def run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command, its output captured; a missing program or a timeout is a failed result."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},  # asking for a name is a "no"
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: not found")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer in {timeout:.0f} s")


def last_lines(result: subprocess.CompletedProcess[str], count: int = 3) -> str:
    """The end of a failed command's output, without pip's remarks about look-aside folders."""
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("WARNING: Location", "[notice]"))]
    return " | ".join(line.strip() for line in lines[-count:]) or f"exit status {result.returncode}"


def check(run: Run) -> tuple[bool, str]:
    """Import Detectron2 in a fresh interpreter: (True, version and place) or (False, why)."""
    result = run([sys.executable, "-W", "ignore", "-c", CHECK], 300)
    if result.returncode == 0:
        return True, result.stdout.strip().splitlines()[-1]
    return False, last_lines(result, 1)


def install_git(run: Run, url: str) -> None:
    """Build upstream's source at the pinned commit.

    Raises:
        InstallError: when git, the address or a compiler is missing, or the build fails.
    """
    print(f"  asking {url} ...", flush=True)
    reach = run(["git", "ls-remote", url, "HEAD"], REACH_SECONDS)
    if reach.returncode:
        raise InstallError(f"cannot reach it with git: {last_lines(reach, 1)}")
    print(f"  building commit {GIT_COMMIT[:8]} (about 2 minutes) ...", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--no-input", "--no-build-isolation"]
    result = run([*pip, f"git+{url}@{GIT_COMMIT}"], BUILD_SECONDS)
    if result.returncode:
        raise InstallError(f"the build failed: {last_lines(result)}")


def check_sha256(wheel: Path, expected: str = PYPI_SHA256) -> None:
    """Refuse a file that is not the one that was tested.

    Raises:
        InstallError: when the file's sha256 differs.
    """
    got = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if got != expected:
        raise InstallError(
            f"{wheel.name} has sha256 {got}, expected {expected}: not the tested file, so it was not unpacked"
        )


def unpack(wheel: Path, target: Path) -> None:
    """Unpack the wheel's Python files.

    Its compiled part was made for one Python and an old torch, so it stays out: the layers that
    want it fall back or are unused here.

    Raises:
        InstallError: when a (broken) Detectron2 lies in the target already.
    """
    if (target / "detectron2").exists():
        raise InstallError(f"{target / 'detectron2'} exists but does not import: remove it first")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target, [n for n in archive.namelist() if not n.endswith(".so")])


def install_pypi(run: Run, target: Path) -> None:
    """Fetch the PyPI copy, check it and unpack it.

    Raises:
        InstallError: when it cannot be fetched or is not the tested file.
    """
    print(f"  fetching {PYPI_COPY} (7 MB) ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # The wheel is tagged cp310, its Python files serve 3.10-3.12.
        options = ["--no-deps", "--only-binary=:all:", "--python-version", "3.10", "-d", folder]
        command = [sys.executable, "-m", "pip", "download", "--no-input", *options, PYPI_COPY]
        result = run(command, 600)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            raise InstallError(f"pip cannot fetch it: {last_lines(result, 1)}")
        check_sha256(wheels[0])
        unpack(wheels[0], target)


def failure_text(reasons: list[tuple[str, str]]) -> str:
    """What to tell when every way failed: why each did, and the two ways out."""
    lines = ["Detectron2 could not be installed."]
    lines += [f"  {way}: {reason}" for way, reason in reasons]
    lines += [
        "Two ways out:",
        f"  1. Make {GIT_URL}",
        f"     or a Python package index that holds {PYPI_COPY} reachable (proxy, pip settings,",
        "     or --git-url with a mirror's address), and run this again.",
        "  2. Install Detectron2 yourself into this environment from a copy of its source:",
        f"     {sys.executable} -m pip install --no-build-isolation /path/to/detectron2",
        "     and run this again: it takes whatever imports.",
    ]
    return "\n".join(lines)


def install(run: Run, source: str, git_url: str, target: Path) -> str:
    """Take the ways in turn until Detectron2 imports; returns its version and place.

    Raises:
        InstallError: when every allowed way failed; the message names each reason.
    """
    works, what = check(run)
    if works:
        return f"using the one that is there: {what}"
    if run([sys.executable, "-c", "import torch, torchvision"], 300).returncode:
        raise InstallError(
            "Detectron2 needs PyTorch, and torch and torchvision do not import in"
            f" {sys.executable}: install them first (`pip install -e .` does), then run this again."
        )
    if "No module named 'detectron2'" not in what:
        print(f"  a Detectron2 is there but does not import: {what}", flush=True)
    ways: dict[str, Callable[[], None]] = {
        "git": lambda: install_git(run, git_url),
        "pypi": lambda: install_pypi(run, target),
    }
    reasons = []
    for way in [source] if source != "auto" else list(ways):
        try:
            ways[way]()
            works, what = check(run)
            if works:
                return f"installed ({way}): {what}"
            raise InstallError(f"it was installed but does not import: {what}")
        except InstallError as error:
            print(f"  {way}: {error}", flush=True)
            reasons.append((way, str(error)))
    raise InstallError(failure_text(reasons))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", choices=["auto", "git", "pypi"], default="auto")
    parser.add_argument("--git-url", default=GIT_URL, help="a mirror of upstream's repository")
    args = parser.parse_args()
    start = time.perf_counter()
    try:
        text = install(run, args.source, args.git_url, Path(sysconfig.get_paths()["purelib"]))
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"  Detectron2: {text} ({time.perf_counter() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

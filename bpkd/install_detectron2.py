"""Install Detectron2, which training and evaluation need, for the Python that runs this command.

Detectron2 has no package of its own on the Python package index. This command says what it will do, then takes the
first that works: the Detectron2 that imports already; upstream's source, fetched with git and built here; a copy from
the package index. Needs what `pip install 'bpkd[train]'` installs, and changes none of it.
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
GIT_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # of June 2026
PYPI_COPY = "sal-detectron2==0.7.2"  # upstream as of April 2024
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

# What Detectron2 imports: checked before anything is fetched, since it is installed without its own requirements.
NEEDS = (
    "torch, torchvision, cv2, PIL, fvcore, iopath, omegaconf, hydra, pycocotools, yacs, tabulate, cloudpickle,"
    " termcolor, tqdm, matplotlib, yaml"
)
BUILDS = "try: import setuptools.command.bdist_wheel\nexcept ImportError: import setuptools, wheel"
PLANS = {
    "git": f"""upstream's source by git: {{url}}
     at commit {GIT_COMMIT[:8]} of June 2026 (16 MB), built with this machine's C++ compiler (about 2 minutes)""",
    "pypi": f"""the copy {PYPI_COPY} from pip's package index (7 MB), upstream as of April 2024:
     its Python files are unpacked, after a check of its sha256; nothing is built""",
}

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
            cwd=tempfile.gettempdir(),  # not here: a folder "detectron2" would count as installed
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

    Its own requirements stay out: they are older than what is installed, and would downgrade it.

    Raises:
        InstallError: when git, the address or a compiler is missing, or the build fails.
    """
    if run([sys.executable, "-c", BUILDS], 60).returncode:
        raise InstallError(f"the build needs two packages: {sys.executable} -m pip install setuptools wheel")
    print(f"  asking {url} ...", flush=True)
    reach = run(["git", "ls-remote", url, "HEAD"], REACH_SECONDS)
    if reach.returncode:
        raise InstallError(f"cannot reach it with git: {last_lines(reach, 1)}")
    print(f"  building commit {GIT_COMMIT[:8]} (about 2 minutes) ...", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--no-input", "--no-build-isolation", "--no-deps"]
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
        InstallError: when a (broken) Detectron2 lies in the target already, or the target cannot be written.
    """
    if (target / "detectron2").exists():
        raise InstallError(f"{target / 'detectron2'} exists but does not import: remove it first")
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target, [n for n in archive.namelist() if not n.endswith(".so")])
    except OSError as error:
        raise InstallError(f"{target} cannot be written ({error}): use a virtual environment") from error


def install_pypi(run: Run, target: Path) -> None:
    """Fetch the PyPI copy, check it and unpack it.

    Raises:
        InstallError: when it cannot be fetched or is not the tested file.
    """
    print(f"  fetching {PYPI_COPY} (7 MB) ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # The wheel is tagged cp310 for its compiled part; its Python files serve 3.10 to 3.14.
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
        f"     {sys.executable} -m pip install --no-build-isolation --no-deps /path/to/detectron2",
        "     and run this again: it takes whatever imports.",
    ]
    return "\n".join(lines)


def plan(ways: list[str], git_url: str) -> str:
    """What will be done, before anything is."""
    lines = [f"Detectron2 is not installed for {sys.executable}. This command will now install"]
    lines += [f"  {i}. {PLANS[way].format(url=git_url)}" for i, way in enumerate(ways, 1)]
    lines[0] += " the first of these that works:" if ways[1:] else ":"
    return "\n".join(lines)


def install(run: Run, source: str, git_url: str, target: Path) -> str:
    """Take the ways in turn until Detectron2 imports; returns its version and place.

    Raises:
        InstallError: when every allowed way failed; the message names each reason.
    """
    works, what = check(run)
    if works:
        return f"using the one that is there: {what}"
    needs = run([sys.executable, "-W", "ignore", "-c", f"import {NEEDS}"], 300)
    if needs.returncode:
        raise InstallError(
            f"Detectron2 needs packages that do not import in {sys.executable} ({last_lines(needs, 1)}):"
            " install them first (pip install 'bpkd[train]'), then run this again."
        )
    if "No module named 'detectron2'" not in what:
        print(f"  a Detectron2 is there but does not import: {what}", flush=True)
    ways: dict[str, Callable[[], None]] = {
        "git": lambda: install_git(run, git_url),
        "pypi": lambda: install_pypi(run, target),
    }
    chosen = [source] if source != "auto" else list(ways)
    if Path(git_url).exists():  # a folder by its relative name: commands run elsewhere
        git_url = Path(git_url).resolve().as_uri()
    print(plan(chosen, git_url), flush=True)
    reasons = []
    for way in chosen:
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
    parser = argparse.ArgumentParser(
        prog="python -m bpkd.install_detectron2",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["sources:", *(f"  {k}: {v.format(url=GIT_URL)}" for k, v in PLANS.items())]),
    )
    sources = ["auto", "git", "pypi"]
    parser.add_argument(
        "--source", choices=sources, default="auto", help="auto: git, and pypi where that fails (default)"
    )
    parser.add_argument("--git-url", default=GIT_URL, metavar="URL", help="a mirror's, or file:///path/to/clone")
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

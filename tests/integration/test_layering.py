"""The order of the packages: pure PyTorch below, Detectron2 above, no import upwards and none in a circle."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from bpkd.distillers import DISTILLERS
from tests.helpers.imports import Graph, circles, import_graph

PACKAGE = Path(__file__).parents[2] / "bpkd"
PURE = ("structures", "functional", "metrics", "distillers", "convert", "analysis")
# From below: a module imports its own floor and those before it. Modules beside the floors (bpkd/*.py) are below all.
FLOORS = (
    *("functional", "metrics", "distillers", "convert", "analysis", "testing", "config", "data", "modeling"),
    *("evaluation", "export", "engine", "experiments", "cli", "__main__"),
)
# These import less than their floor would let them.
PURE_IMPORTS: dict[str, set[str]] = {
    "functional": set(),
    "metrics": {"functional"},
    "distillers": {"functional"},
    "convert": set(),
    "analysis": {"functional"},
    "evaluation": {"metrics", "data", "config"},
}

BLOCKED = """
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "detectron2":
            raise ImportError("detectron2 is blocked")

sys.meta_path.insert(0, Block())
import bpkd
for name in {packages}:
    module = importlib.import_module("bpkd." + name)
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        importlib.import_module(f"bpkd.{{name}}.{{info.name}}")
assert not any(name.split(".")[0] == "detectron2" for name in sys.modules)
try:
    import bpkd.modeling
except ImportError:
    print("blocked as meant")
"""


def test_pure_packages_import_without_detectron2() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(packages=PURE)], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr
    assert "blocked as meant" in done.stdout  # the block itself works


def floor_of(module: str) -> str:
    """The part of the package that a module belongs to: "metrics" of bpkd.metrics.boundary."""
    return (module.split(".") + ["__init__"])[1]


def upward(graph: Graph) -> list[str]:
    """The imports that do not lead down. What lies beside the floors is below all of them."""
    wrong = []
    for module, targets in graph.items():
        own = floor_of(module)
        allowed = PURE_IMPORTS.get(own, set(FLOORS[: FLOORS.index(own)]) if own in FLOORS else set())
        for target in sorted(targets):
            floor = floor_of(target)
            if floor != own and floor in FLOORS and floor not in allowed:
                wrong.append(f"{module} -> {target}")
    return wrong


def upward_in_functional(graph: Graph) -> list[str]:
    """The same within ``functional``: shared structures, the reference, the backends, the public functions."""

    def floor(module: str) -> int:
        part = (module.split(".") + ["", ""])[2]
        return {"structures": 0, "reference": 1, "backends": 2}.get(part, 3)

    inside = {m for m in graph if floor_of(m) == "functional"}
    return [f"{m} -> {t}" for m in sorted(inside) for t in sorted(graph[m] & inside) if floor(t) > floor(m)]


# Imports upwards that stay until the old names do: `python -m bpkd.engine`, and functions of `bpkd.engine.launch`.
OLD_NAMES = {("bpkd.engine.__main__", "bpkd.cli"), ("bpkd.engine.launch", "bpkd.cli.train")}
WHOLE = import_graph(PACKAGE.parent, "bpkd")
GRAPH = {module: {t for t in targets if (module, t) not in OLD_NAMES} for module, targets in WHOLE.items()}


def test_no_modules_import_each_other() -> None:
    assert circles(GRAPH) == []


def test_imports_lead_down() -> None:
    assert upward(GRAPH) == []
    assert upward_in_functional(GRAPH) == []


def test_no_exception_outlives_its_old_name() -> None:
    assert all(target in WHOLE[module] for module, target in OLD_NAMES)


def test_every_package_has_a_floor() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(FLOORS)


def test_backends_do_not_import_each_other() -> None:
    for own, other in (("native", "triton"), ("triton", "native")):
        start, end = (f"bpkd.functional.backends.{name}" for name in (own, other))
        assert not [m for m in GRAPH if m.startswith(start) and any(t.startswith(end) for t in GRAPH[m])]


TREE = {
    "bpkd/__init__.py": "",
    "bpkd/extras.py": "import os",
    "bpkd/functional/__init__.py": "from .losses import loss",
    "bpkd/functional/losses.py": "from .backends import fast\nfrom bpkd import extras",
    "bpkd/functional/backends/__init__.py": "",
    "bpkd/functional/backends/fast.py": "def f():\n    from bpkd.functional.reference import truth",
    "bpkd/functional/reference/__init__.py": "",
    "bpkd/functional/reference/truth.py": "import torch",
    "bpkd/engine/__init__.py": "import bpkd.functional.losses",
}


def written(root: Path, **changed: str) -> Graph:
    """Writes the small tree with other text in some files, named without folder and ending; returns its graph."""
    for name, text in TREE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changed.get(path.stem, text) if path.stem != "__init__" else text)
    return import_graph(root, "bpkd")


def test_the_checker_finds_nothing_in_a_good_tree(tmp_path: Path) -> None:
    graph = written(tmp_path)
    assert graph["bpkd.functional"] == {"bpkd.functional.losses"}
    assert graph["bpkd.functional.losses"] == {"bpkd.functional.backends.fast", "bpkd.extras"}
    assert graph["bpkd.engine"] == {"bpkd.functional.losses"}
    assert (circles(graph), upward(graph), upward_in_functional(graph)) == ([], [], [])


@pytest.mark.parametrize(
    "text",
    [
        "from bpkd.functional.losses import loss",
        "def f():\n    from bpkd.functional import losses",
        "from ..losses import loss",
        "try:\n    import bpkd.functional.losses\nexcept ImportError:\n    pass",
    ],
)
def test_the_checker_finds_a_circle_and_the_import_upwards(text: str, tmp_path: Path) -> None:
    graph = written(tmp_path, truth=text)
    names = {"losses", "backends.fast", "reference.truth"}
    assert circles(graph) == [{f"bpkd.functional.{name}" for name in names}]
    assert upward_in_functional(graph) == ["bpkd.functional.reference.truth -> bpkd.functional.losses"]


@pytest.mark.parametrize(
    "text",
    [
        "from bpkd import engine",
        "import bpkd.engine as e",
        "from bpkd.engine import x",
        "import importlib\ndef f():\n    return importlib.import_module('bpkd.engine').x",
        "x = __import__('bpkd.engine')",
    ],
)
def test_the_checker_finds_an_import_of_a_floor_above(text: str, tmp_path: Path) -> None:
    graph = written(tmp_path, truth=text, extras="from bpkd.functional import losses")
    assert upward(graph) == [
        "bpkd.extras -> bpkd.functional.losses",
        "bpkd.functional.reference.truth -> bpkd.engine",
    ]


def test_the_checker_passes_over_imports_for_a_type_checker(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bpkd.functional.losses import loss"
    assert circles(written(tmp_path, truth=text)) == []


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_config_node_is_the_constructors_signature(name: str) -> None:
    from bpkd.config import get_bpkd_cfg

    node = get_bpkd_cfg().DISTILL[name]
    parameters = inspect.signature(DISTILLERS[name].__init__).parameters
    keywords = {p for p in parameters if p not in ("self", "common")} - DISTILLERS[name].parity_arguments
    assert {k.lower() for k in node} == keywords

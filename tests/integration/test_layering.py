"""The rooms' order: pure PyTorch below, Detectron2 above, and nobody imports upwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "bpkd"
EVERYWHERE = {"extras", "files", "tasks"}  # standard library only
PURE = ("structures", "functional", "metrics", "distillers", "convert", "analysis")
MAY_IMPORT = {
    "structures": set(),
    "functional": set(),
    "metrics": {"functional"},
    "distillers": {"functional", "structures"},
    "convert": set(),
    "analysis": {"functional", "structures"},
    "config": {"distillers"},
    "data": {"config"},
    "modeling": {"structures", "functional", "distillers", "config", "convert"},
    "evaluation": {"metrics", "structures", "data"},
}

BLOCKED = """
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "detectron2":
            raise ImportError("detectron2 is blocked")

sys.meta_path.insert(0, Block())
import bpkd
for room in {rooms}:
    module = importlib.import_module("bpkd." + room)
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        importlib.import_module(f"bpkd.{{room}}.{{info.name}}")
assert not any(name.split(".")[0] == "detectron2" for name in sys.modules)
try:
    import bpkd.modeling
except ImportError:
    print("blocked as meant")
"""


def test_pure_rooms_import_without_detectron2() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(rooms=PURE)], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr
    assert "blocked as meant" in done.stdout  # the block itself works


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        rooms |= {n.split(".")[1] for n in names if n.startswith("bpkd.")}
    return rooms


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_run_one_way(room: str) -> None:
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        assert imported_rooms(path) <= MAY_IMPORT[room] | EVERYWHERE | {room}, path

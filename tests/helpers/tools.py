"""The scripts in tools/, loaded as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).parents[2] / "tools"


def load_tool(name: str) -> Any:
    """Returns tools/<name>.py as a module."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def export(config: Path, weights: Path, path: Path, *flags: str, size: tuple[int, int] = (40, 48)) -> Path:
    """Exports a network to a file with tools/export_model.py; returns its path."""
    files = ["--config-file", str(config), "--weights", str(weights)]
    assert load_tool("export_model").main([str(path), *files, "--size", *map(str, size), *flags]) == 0
    return path

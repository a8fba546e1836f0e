"""The imports of a project's modules, those within functions too, and the circles among them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = dict[str, set[str]]


def module_names(root: Path, package: str) -> dict[str, Path]:
    """Returns the modules of a package below ``root``, a package's own name for its ``__init__``."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yields the import statements anywhere below a node, without those for a type checker alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif name := _named(child):
            yield ast.Import([ast.alias(name)])
        elif _only_for_types(child):
            for other in child.orelse:  # type: ignore[attr-defined]
                yield from _imports(other)
        else:
            yield from _imports(child)


def _named(node: ast.AST) -> str:
    """Returns the module of ``import_module("a.b")`` or ``__import__("a.b")``, "" of anything else."""
    if not isinstance(node, ast.Call) or len(node.args) != 1 or not isinstance(node.args[0], ast.Constant):
        return ""
    called = ast.unparse(node.func).rpartition(".")[2]
    return str(node.args[0].value) if called in ("import_module", "__import__") else ""


def _targets(node: ast.Import | ast.ImportFrom, module: str, *, is_package: bool) -> Iterator[str]:
    """Yields the names that a statement may import: ``a.b`` and ``a`` for ``from a import b``, the longest first."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parents = module.split(".")
        parents = parents[: len(parents) - node.level + is_package]
        base = ".".join([*parents, base]) if base else ".".join(parents)
    yield from (f"{base}.{alias.name}" for alias in node.names)


def import_graph(root: Path, package: str) -> Graph:
    """Returns for each module of a package the modules of it that it imports.

    ``from a import b`` is an import of the module a.b where there is one, else of a. The packages that a module lies in
    are not counted: Python runs their ``__init__`` first in any case.
    """
    modules = module_names(root, package)
    graph: Graph = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            for target in _targets(node, name, is_package=path.name == "__init__.py"):
                known = target if target in modules else target.rpartition(".")[0]
                if known in modules and known != name:
                    graph[name].add(known)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Returns the sets of modules that import each other, directly or through others."""
    reached = {name: _reached(graph, name) for name in graph}
    found: list[set[str]] = []
    for name in sorted(graph):
        circle = {other for other in reached[name] if name in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found

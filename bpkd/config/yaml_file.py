"""Reads the YAML of a config, its ``_BASE_`` files too, and knows in which line each key stands."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from detectron2.utils.file_io import PathManager
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from bpkd.paths import expanded

BASE = "_BASE_"
MERGE, TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
UNMEANT = re.compile(r"[+-]?0[0-9_]+|.*:.*")
# Most values of a file, aliases counted where they are used: a config has some hundred.
MOST = 100_000


@dataclass
class Lines:
    """Where the keys of a config stand: dotted key -> (file, line), of the file that decides."""

    places: dict[str, tuple[str, int]] = field(default_factory=dict)

    def of(self, key: str) -> tuple[str, int] | None:
        """Returns file and line of a key, or of the nearest node above it."""
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return self.places.get(key)


def read_yaml(path: str, opened: tuple[str, ...] = ()) -> tuple[dict[str, Any], Lines]:
    """Returns the keys of a file over those of its ``_BASE_``, and where they stand.

    ``_BASE_`` is a file or a list of files, relative to the file it stands in; of several the later ones win, and the
    file's own keys win over all of them.

    Args:
        path: YAML file.
        opened: files that have it as a base, the first one first.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is no YAML of keys with values, a key stands twice in it or is no text, or _BASE_ is wrong. The
            message names the line.
    """
    where = f"_BASE_ {path}: " if opened else ""
    try:
        tree, lines = _read(path)
        bases = _bases(tree, lines)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error
    merged: dict[str, Any] = {}
    found = Lines()
    for base in bases:
        file = _base_file(path, base, (*opened, path), f"{where}{_line(lines, BASE)}")
        below, places = read_yaml(file, (*opened, path))
        _merge(below, merged, places)
        found.places |= places.places
    _merge(tree, merged, lines)
    found.places |= lines.places
    return merged, found


def read_mapping(path: str) -> dict[str, Any]:
    """Returns the keys of one YAML file without ``_BASE_``.

    Args:
        path: YAML file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no YAML of keys with values, or a key stands twice in it or is no text.
    """
    return _read(path)[0]


def _read(path: str) -> tuple[dict[str, Any], Lines]:
    with open(path, "rb") as file:
        content = file.read()
    try:
        node = yaml.compose(content, Loader=yaml.SafeLoader)  # bytes: UTF-8 and UTF-16, with a byte order mark or not
        if not isinstance(node, MappingNode):
            kinds = {SequenceNode: "a list", ScalarNode: "one value"}
            what = "a file without any" if node is None else f"{kinds.get(type(node), 'something else')} alone"
            raise ValueError(f"expected keys with values, got {what}.")
        lines = Lines()
        _walk(node, "", path, lines, [0])
        loader = yaml.SafeLoader("")
        return dict(loader.construct_document(node)), lines
    except yaml.reader.ReaderError as error:
        raise ValueError(f"expected YAML, got a file that is no text in UTF-8 or UTF-16 ({error.reason}).") from error
    except yaml.YAMLError as error:
        raise ValueError(f"expected YAML{_fault(error)}.") from error
    except RecursionError as error:
        raise ValueError("expected YAML, got nodes in nodes without end.") from error


def _walk(node: Node, prefix: str, path: str, lines: Lines, seen: list[int]) -> None:
    """Checks the keys of a node and those below it, and notes their lines."""
    seen[0] += 1
    if seen[0] > MOST:
        raise ValueError(f"expected a config, got more than {MOST} values (aliases of aliases?).")
    if isinstance(node, SequenceNode):
        for i, one in enumerate(node.value):
            _walk(one, f"{prefix[:-1]}[{i}].", path, lines, seen)
    if isinstance(node, ScalarNode):
        _check_number(node)
    if not isinstance(node, MappingNode):
        return
    known: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        name = _key(key, prefix, line)
        if name in known:
            raise ValueError(
                f"line {line}: {prefix + name} is given twice, in line {known[name]} and in line {line}. Write its "
                f"keys {'as one list after <<' if key.tag == MERGE else 'in one place'}."
            )
        known[name] = line
        if key.tag == MERGE:
            _walk_merged(node, value, prefix, path, lines, seen)
            continue
        lines.places[prefix + name] = path, line
        _walk(value, f"{prefix}{name}.", path, lines, seen)


def _walk_merged(node: MappingNode, merged: Node, prefix: str, path: str, lines: Lines, seen: list[int]) -> None:
    """Checks what ``<<`` adds; of several mappings no two may give a key that the node itself does not."""
    own = {key.value for key, _ in node.value}
    first: dict[str, Any] = {}
    for part in merged.value if isinstance(merged, SequenceNode) else [merged]:
        if not isinstance(part, MappingNode):
            raise ValueError(f"line {part.start_mark.line + 1}: << expects keys with values, got a value.")
        inner = Lines()
        _walk(part, prefix, path, inner, seen)
        lines.places = {**inner.places, **lines.places}
        for key, value in part.value:
            if key.value in first and key.value not in own and yaml.serialize(value) != first[key.value]:
                line = merged.start_mark.line + 1
                raise ValueError(
                    f"line {line}: {prefix}{key.value} is given twice, with different values, by the mappings after "
                    "<<. Write it beside the <<."
                )
            first.setdefault(key.value, yaml.serialize(value))


def _check_number(node: ScalarNode) -> None:
    """Refuses numbers that YAML reads as nobody means them: 010 as 8, 1:30 as 90."""
    if node.style is None and node.tag in NUMBERS and UNMEANT.fullmatch(node.value):
        meant = yaml.safe_load(node.value)
        raise ValueError(
            f"line {node.start_mark.line + 1}: expected a number without zeros before it and colons in it, got "
            f"{node.value}, which YAML reads as {meant}. Write the number that you mean, or '{node.value}' in quotes."
        )


def _key(key: Node, prefix: str, line: int) -> str:
    """Returns a key's name.

    Raises:
        ValueError: it is no text, or several names joined by dots.
    """
    if not isinstance(key, ScalarNode):
        raise ValueError(f"line {line}: expected a key that is a text, got a list or mapping.")
    if key.tag == MERGE:
        return "<<"
    name: str = key.value
    if key.tag != TEXT and "[" not in prefix:
        what = key.tag.rpartition(":")[2]
        raise ValueError(
            f"line {line}: expected a key that is a text, got {name or 'nothing'}, which YAML reads as {what}"
            f"{f' below {prefix[:-1]}' if prefix else ''}. Keys are names in capitals, such as SOLVER."
        )
    if "." in name and "[" not in prefix:
        parts = name.split(".")
        raise ValueError(
            f"line {line}: expected the keys of a node below it, got {prefix + name} as one key. Write "
            f"{': {'.join(parts)}: ...{'}' * (len(parts) - 1)}."
        )
    if name == BASE and prefix:
        raise ValueError(f"line {line}: _BASE_ is expected at the top of a file, got it below {prefix[:-1]}.")
    return name


def _bases(tree: dict[str, Any], lines: Lines) -> list[str]:
    if BASE not in tree:
        return []
    base = tree.pop(BASE)
    bases = base if isinstance(base, list) and base else [base]
    for one in bases:
        if not isinstance(one, str) or not one.strip():
            got = "nothing" if one in (None, "", []) else repr(one)
            raise ValueError(f"{_line(lines, BASE)}_BASE_: expected a file or a list of files, got {got}.")
    return bases


def _base_file(path: str, base: str, chain: tuple[str, ...], where: str) -> str:
    """Returns the path of a base.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has the file itself as a base.
    """
    file = expanded(base, f"{where}_BASE_")
    if "://" in file:
        file = PathManager.get_local_path(file)
    file = os.path.join(os.path.dirname(path), file)
    if os.path.realpath(file) in map(os.path.realpath, chain):
        raise ValueError(f"{where}a _BASE_ that leads back to the file: {' -> '.join([*chain, file])}.")
    if not os.path.isfile(file):
        what = "is a folder" if os.path.isdir(file) else "does not exist"
        raise FileNotFoundError(
            f"{where}its _BASE_ cannot be read: {file} {what}. _BASE_ is relative to the file it stands in."
        )
    return file


def _merge(above: Mapping[str, Any], into: dict[str, Any], lines: Lines, prefix: str = "") -> None:
    for key, value in above.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise ValueError(
                    f"{_line(lines, prefix + key)}{prefix}{key}: expected a value as in _BASE_ ({into[key]!r}), got "
                    "keys below it."
                )
            _merge(value, into[key], lines, f"{prefix}{key}.")
        else:
            into[key] = value


def _line(lines: Lines, key: str) -> str:
    place = lines.of(key)
    return f"line {place[1]}: " if place else ""


def _fault(error: yaml.YAMLError) -> str:
    """Returns the end of a message: what is wrong with a YAML file, and in which line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if problem == "but found another document":
        problem = "a second document begins (---). A config is one document: delete the line"
    if "\\t" in str(problem):
        problem = f"{problem}. Indent with spaces, not with tabs"
    return f"; line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark and problem else f", got {error}"

"""Values as a file or a command writes them: read by the kind of their key, and checked before they are merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from .keys import KEYS, Key
from .kinds import Kind, Number, Text, literal, shown


def read_tree(node: CfgNode, tree: dict[str, Any], prefix: str = "") -> None:
    """Replaces the values of a file by what they mean; those of unknown keys stay.

    Args:
        node: defaults.
        tree: keys of the file; changed.
        prefix: dotted key of the node with a dot at its end; "" for a whole config.

    Raises:
        ValueError: a value is not of its key's kind, or a key has keys below it where none are expected.
    """
    for name, value in tree.items():
        key, default = f"{prefix}{name}", node.get(name)
        if isinstance(default, CfgNode):
            if not isinstance(value, Mapping):
                advice = "Leave it out, or write {}." if value is None else f"Its keys are {', '.join(default)}."
                raise ValueError(f"{key}: expected keys with values below it, got {shown(value)}. {advice}")
            read_tree(default, tree[name], f"{key}.")
        elif key in KEYS:
            tree[name] = read_value(KEYS[key], value)
        elif type(value) is int and isinstance(default, float):
            tree[name] = float(value)  # `WEIGHT: 3` is no mistake


def read_pairs(cfg: CfgNode, pairs: Sequence[Any]) -> list[Any]:
    """Returns KEY VALUE pairs with what their values mean; those of unknown keys stay.

    Args:
        cfg: defaults, with the file's values.
        pairs: keys and values in turn.

    Raises:
        ValueError: a value is not of its key's kind, or a key is a node.
    """
    found = list(pairs)
    for i in range(0, len(found) - 1, 2):
        key, value = str(found[i]), found[i + 1]
        _check_is_leaf(cfg, key)
        if key in KEYS:
            found[i + 1] = read_value(KEYS[key], value)
        elif isinstance(_default(cfg, key), float):
            number = Number().read(value)
            found[i + 1] = float(number) if type(number) is int else value
    return found


def _check_is_leaf(cfg: CfgNode, key: str) -> None:
    """Raises ValueError for a pair's key that is a node, or that lies below a value."""
    node = _default(cfg, key)
    if isinstance(node, CfgNode):
        raise ValueError(f"{key}: expected one of its keys, {', '.join(node)}, got the node. Write {key}.<KEY>.")
    above = key.rpartition(".")[0]
    if above in KEYS:
        raise ValueError(f"{key}: expected {above}, which has no keys below it, got {key}.")


def read_value(key: Key, value: Any, name: str = "") -> Any:
    """Returns a value as the key holds it.

    Args:
        key: declaration.
        value: as written.
        name: the key as the message calls it; "": its own name.

    Raises:
        ValueError: the key does not accept it.
    """
    meant = key.kind.read(value)
    if isinstance(key.kind, Text) and meant in (None, "None"):
        meant = None if key.kind.filled else ""
    problem = key.problem(meant, name)
    if problem:
        raise ValueError(problem)
    return _kept(key.kind, meant)


def _kept(kind: Kind, value: Any) -> Any:
    """Returns a value so that yacs, which reads texts as Python, takes it as it is: "2024" stays a text."""
    if isinstance(kind, Number) and not kind.whole:
        return float(value)
    return repr(value) if isinstance(value, str) and not isinstance(literal(value), str) else value


def _default(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node

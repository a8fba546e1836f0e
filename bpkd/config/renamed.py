"""Config keys that have another name now: the old name is read for one release, with a warning."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

# Old key -> new key. "[]" stands for every entry of a list of mappings.
RENAMED = {
    "TEACHER.FAST": "TEACHER.OPTIMIZE",
    "TEACHER.OTHERS[].FAST": "TEACHER.OTHERS[].OPTIMIZE",
}


def rename_tree(tree: Mapping[str, Any], *, warn: bool = True, prefix: str = "") -> dict[str, Any]:
    """Returns a nested config with the new names of its keys.

    Args:
        tree: What a YAML file holds, nested.
        warn: Warn once per old key. False for records of finished runs.
        prefix: Dotted key of the node that ``tree`` is, with a dot at its end; empty for a whole config.
    """
    renamed: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in RENAMED and warn:
            _warn(key)
        new = RENAMED.get(key, key)[len(prefix) :]
        if isinstance(value, Mapping):
            renamed[new] = rename_tree(value, warn=warn, prefix=f"{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(entry, Mapping) for entry in value):
            renamed[new] = rename_entries(value, key, warn=warn)
        else:
            renamed[new] = value
    return renamed


def rename_entries(entries: Sequence[Any], key: str, *, warn: bool = True) -> list[Any]:
    """Returns a list of mappings with the new names of their keys; what is no mapping stays.

    Args:
        entries: The value of ``key``.
        key: Dotted key of the list.
        warn: See `rename_tree`.
    """
    return [
        rename_tree(entry, warn=warn, prefix=f"{key}[].") if isinstance(entry, Mapping) else entry for entry in entries
    ]


def rename_pairs(pairs: Sequence[Any]) -> list[Any]:
    """Returns KEY VALUE pairs with the new names of the keys."""
    found = list(pairs)
    for i in range(0, len(found), 2):
        if found[i] in RENAMED:
            _warn(found[i])
            found[i] = RENAMED[found[i]]
    return found


def rename_flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {dotted key: value} with the new names of the keys, without a warning."""
    return {_new_name(key): value for key, value in values.items()}


def _new_name(key: str) -> str:
    """Returns the new name of a dotted key, which may hold positions: ``TEACHER.OTHERS[0].FAST``."""
    new = RENAMED.get(re.sub(r"\[\d+\]", "[]", key))
    return key if new is None else key.rpartition(".")[0] + "." + new.rpartition(".")[2]


@functools.cache
def _warn(key: str) -> None:
    message = f"Config key {key} is now {RENAMED[key]}: the old name will be refused in a later release."
    warnings.warn(message, FutureWarning, stacklevel=4)

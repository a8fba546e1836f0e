"""Checkpoints in several files, with an index that says which weight is in which: Hugging Face's layout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any


def weight_files(path: str) -> list[str]:
    """Returns the files that a checkpoint consists of: itself, and those beside an index.

    Args:
        path: a file that exists.
    """
    if not path.endswith(".index.json"):
        return [path]
    try:
        with open(path, encoding="utf-8-sig") as f:
            names = {os.path.basename(str(name)) for name in json.load(f)["weight_map"].values()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return [path]
    beside = [os.path.join(os.path.dirname(path), name) for name in sorted(names)]
    return [path, *filter(os.path.isfile, beside)]


def read_shards(path: str, read: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    """Reads the weights of an index (``model.safetensors.index.json``, ``pytorch_model.bin.index.json``).

    Args:
        path: the index.
        read: reads one file of weights.

    Raises:
        ValueError: the index is malformed, or a shard is missing or lacks weights.
    """
    with open(path, encoding="utf-8-sig") as f:
        where = json.load(f)["weight_map"]
    if not all(isinstance(v, str) and os.path.basename(v) == v and v not in ("", ".", "..") for v in where.values()):
        raise ValueError("its index names files outside of its folder. Use another copy")
    shards = sorted(set(where.values()))
    folder = os.path.dirname(path)
    missing = [name for name in shards if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise ValueError(
            f"it is the index of {len(shards)} files, of which {len(missing)} are missing beside it "
            f"({', '.join(missing[:4])}). Download them too"
        )
    state: dict[str, Any] = {}
    for name in shards:
        found = read(os.path.join(folder, name))
        wanted = [key for key, file in where.items() if file == name]
        absent = [key for key in wanted if key not in found]
        if absent:
            raise ValueError(f"its file {name} lacks {len(absent)} weights, first {absent[0]}. Download it again")
        state.update({key: found[key] for key in wanted})
    return state

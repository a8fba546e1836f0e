"""Paths in configs: ``~`` and environment variables are replaced in every key that holds one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from bpkd.paths import expanded

from .keys import KEYS
from .keys.distillation import TEACHER_KEYS
from .kinds import FilePath

TEACHER = tuple(key.name for key in TEACHER_KEYS if isinstance(key.kind, FilePath))
PATH_KEYS = tuple(name for name, key in KEYS.items() if isinstance(key.kind, FilePath))


def expand_paths(cfg: CfgNode) -> None:
    """Replaces ``~`` and environment variables in a config's paths; a run records what they stand for.

    Args:
        cfg: config, not frozen.

    Raises:
        UserError: a variable is not set; the message names the key.
    """
    for key in PATH_KEYS:
        *parts, name = key.split(".")
        node: Any = cfg
        for part in parts:
            node = node[part]
        if isinstance(node[name], str):
            node[name] = expanded(node[name], key)
    cfg.TEACHER.OTHERS = [_teacher(entry, f"TEACHER.OTHERS[{i}]") for i, entry in enumerate(cfg.TEACHER.OTHERS)]


def _teacher(entry: Any, key: str) -> Any:
    if not isinstance(entry, Mapping):
        return entry  # refused by teacher_nodes
    paths = {k: expanded(v, f"{key}.{k}") for k, v in entry.items() if k in TEACHER and isinstance(v, str)}
    return {**entry, **paths}

"""Paths in configs: ``~`` and environment variables are replaced in every key that holds one, and in ``_BASE_``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO, Any

from detectron2.config import CfgNode

from bpkd.paths import expanded

FOLDER = tuple(f"DATASETS.FOLDER.{split}_{what}" for split in ("TRAIN", "VAL") for what in ("IMAGES", "MASKS"))
COCO_FOLDER = tuple(f"DATASETS.COCO_FOLDER.{split}_{what}" for split in ("TRAIN", "VAL") for what in ("JSON", "IMAGES"))
TEACHER = ("CONFIG_FILE", "WEIGHTS", "EXPORTED")
PATH_KEYS = (
    *("OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.BACKBONE.WEIGHTS", "TEACHER.CACHE"),
    *(f"TEACHER.{key}" for key in TEACHER),
    *("DATASETS.ROOT", "DATASETS.FOLDER.ROOT", *FOLDER, "DATASETS.COCO_FOLDER.ROOT", *COCO_FOLDER),
)


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


class ConfigFile(CfgNode):
    """Loads a YAML file whose ``_BASE_`` may hold ``~`` and environment variables."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str] | IO[bytes]:
        return super()._open_cfg(base_path(filename))


def base_path(path: str) -> str:
    """Returns the path of a base config: ``~`` and environment variables replaced in each of its parts.

    Args:
        path: ``_BASE_``, or the folder of the file it stands in and then ``_BASE_``.
    """
    if "$" not in path:
        return path
    parts = [expanded(part, "_BASE_") for part in path.split(os.sep)]
    return os.path.join(parts[0] or os.sep, *parts[1:])

"""Puts the declared keys (`bpkd.config.keys`) into a config, with their defaults."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from detectron2.config import CfgNode as CN

from .distillers import add_distillers
from .keys import DETECTRON2, KEYS, Key


def add_bpkd_config(cfg: CN) -> None:
    """Adds bpkd's keys to a Detectron2 config, and sets the paper's recipe where Detectron2's default breaks it."""
    add_keys(cfg, KEYS.values())
    add_distillers(cfg)


def add_keys(cfg: CN, keys: Iterable[Key]) -> None:
    """Adds declared keys and the nodes above them; those with Detectron2's default stay as they are.

    Args:
        cfg: config or node that the names are relative to.
        keys: declarations.
    """
    for key in keys:
        node, parts = cfg, key.name.split(".")
        for part in parts[:-1]:
            if part not in node:
                node[part] = CN()
            node = node[part]
        if key.default is not DETECTRON2:
            node[parts[-1]] = copy.deepcopy(key.default)

"""Warns of settings that change nothing: keys of Detectron2 that bpkd does not read, and keys of what is not used."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode, get_cfg

from .check import value_of
from .keys import KEYS


def warn_unread(cfg: CfgNode, stated: Iterable[str]) -> None:
    """Warns of keys that a file or a command sets to something else than the default, where nothing reads them.

    Also of a run that ends within its warm-up. Configs with IMPORTS are left alone: modules outside of bpkd may read
    any key.

    Args:
        cfg: the config.
        stated: dotted keys that the file or the command sets.
    """
    node = cfg.SOLVER
    if node.WARMUP_ITERS >= node.MAX_ITER:
        message = f"the run of {node.MAX_ITER} iterations ends within the warm-up of {node.WARMUP_ITERS}"
        warnings.warn(f"SOLVER.WARMUP_ITERS: {message}.", UserWarning, stacklevel=3)
    if cfg.IMPORTS:
        return
    for key in dict.fromkeys(stated):
        reason = _unread(cfg, key)
        if reason:
            warnings.warn(f"{key} has no effect: {reason}.", UserWarning, stacklevel=3)


def _unread(cfg: CfgNode, key: str) -> str:
    declared = KEYS.get(key)
    if declared is None:
        theirs = _value(get_cfg(), key)
        return "" if theirs is _NONE or theirs == _value(cfg, key) else "bpkd does not read this key of Detectron2"
    if declared.only is None or value_of(cfg, declared.only[0]) in declared.only[1]:
        return ""
    other, values = declared.only
    return f"it is read where {other} is {' or '.join(map(str, values))}, which is {value_of(cfg, other)}"


_NONE = object()


def _value(cfg: CfgNode, key: str) -> Any:
    """Returns the value of a key; `_NONE` for nodes and where there is no such key."""
    try:
        value = value_of(cfg, key)
    except (KeyError, TypeError):
        return _NONE
    return _NONE if isinstance(value, CfgNode) else value

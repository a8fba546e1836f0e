"""The teachers that a config names: TEACHER itself and the entries of TEACHER.OTHERS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from .distillation import add_teacher_keys
from .keys.distillation import TEACHER_KEYS
from .written import read_value


def teacher_nodes(cfg: CfgNode) -> dict[str, CfgNode]:
    """Returns the node of every teacher by its key, e.g. ``TEACHER.OTHERS[0]``.

    Raises:
        ValueError: an entry of TEACHER.OTHERS is no mapping, has an unknown key or a value of the wrong type.
    """
    nodes = {"TEACHER": cfg.TEACHER}
    for i, entry in enumerate(cfg.TEACHER.OTHERS):
        nodes[f"TEACHER.OTHERS[{i}]"] = _node(entry, f"TEACHER.OTHERS[{i}]")
    return nodes


def _node(entry: Any, key: str) -> CfgNode:
    node, declared = CfgNode(), {one.name: one for one in TEACHER_KEYS}
    add_teacher_keys(node)
    known = ", ".join(node)
    if not isinstance(entry, Mapping):
        raise ValueError(f"{key}: expected a mapping with keys of {known}, got {entry!r}.")
    unknown = [str(k) for k in entry if k not in node]
    if unknown:
        raise ValueError(f"{key}: expected keys of {known}, got {', '.join(unknown)}.")
    values = {name: read_value(declared[name], value, f"{key}.{name}") for name, value in entry.items()}
    node.merge_from_other_cfg(CfgNode(values))
    return node


def teacher_shares(cfg: CfgNode) -> list[float]:
    """Returns the weight of each teacher; their sum is 1.

    Raises:
        ValueError: there is not one share per teacher, or a share is negative, or all are 0.
    """
    count, shares = 1 + len(cfg.TEACHER.OTHERS), list(cfg.TEACHER.SHARES)
    if not shares:
        return [1 / count] * count
    wrong = any(isinstance(s, bool) or not isinstance(s, int | float) or not 0 <= s < float("inf") for s in shares)
    if len(shares) != count or wrong or not sum(shares):
        raise ValueError(
            f"TEACHER.SHARES: expected one number per teacher ({count}: TEACHER, then TEACHER.OTHERS), none below 0 "
            f"and not all 0, got {shares}."
        )
    return [share / sum(shares) for share in shares]

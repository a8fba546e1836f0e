"""The node of the networks for instances."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from .defaults import add_keys
from .keys.instances import KEYS


def add_instances(cfg: CN) -> None:
    """Adds the node MODEL.SOLOV2."""
    add_keys(cfg, KEYS)

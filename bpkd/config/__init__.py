"""Configuration: Detectron2's yacs tree plus bpkd's keys."""

from detectron2.config import CfgNode, get_cfg

from .defaults import add_bpkd_config

__all__ = ["add_bpkd_config", "get_bpkd_cfg"]


def get_bpkd_cfg() -> CfgNode:
    """Returns Detectron2's default config with bpkd's keys added."""
    cfg = get_cfg()
    add_bpkd_config(cfg)
    return cfg

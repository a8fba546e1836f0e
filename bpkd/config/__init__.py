"""Configuration: Detectron2's yacs tree plus bpkd's keys."""

from bpkd.extras import need_detectron2

need_detectron2(__name__)

from .check import AMP_CHOICES, AMP_NAMES, check_values, image_range
from .defaults import add_bpkd_config
from .distillation import WRAPPERS
from .distillers import settled_record
from .machine import loader_workers, local_processes, usable_cores
from .read import get_bpkd_cfg, read_config
from .renamed import rename_flat, rename_tree
from .teachers import teacher_nodes, teacher_shares

__all__ = [
    "AMP_CHOICES",
    "AMP_NAMES",
    "WRAPPERS",
    "add_bpkd_config",
    "check_values",
    "get_bpkd_cfg",
    "image_range",
    "loader_workers",
    "local_processes",
    "read_config",
    "rename_flat",
    "rename_tree",
    "settled_record",
    "teacher_nodes",
    "teacher_shares",
    "usable_cores",
]

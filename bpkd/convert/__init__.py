"""Checkpoints from disk into networks, strictly, and from one project's layout to another's. Pure PyTorch."""

from .checkpoint import Checkpoint, load_safely, read_checkpoint
from .conversion import Conversion, as_bpkd, as_mmseg, convert_checkpoint, describe, pixel_warning
from .files import check_target, hash_warning, write
from .fit import CheckpointError
from .pixels import Pixels
from .rules import SOURCES, RuleError
from .shards import weight_files
from .stated import check_classes
from .strict import LoadedWeights, load_backbone, load_strict

__all__ = [
    "SOURCES",
    "Checkpoint",
    "CheckpointError",
    "Conversion",
    "LoadedWeights",
    "Pixels",
    "RuleError",
    "as_bpkd",
    "as_mmseg",
    "check_classes",
    "check_target",
    "convert_checkpoint",
    "describe",
    "hash_warning",
    "load_backbone",
    "load_safely",
    "load_strict",
    "pixel_warning",
    "read_checkpoint",
    "weight_files",
    "write",
]

"""Distillers, one file per paper."""

from .arguments import arguments
from .base import DistillationModule, Distiller
from .bpkd import BPKD
from .cirkd import CIRKD
from .combined import CombinedDistiller, PerTeacher
from .cwd import CWD
from .ifvd import IFVD
from .kd import KD
from .levels import LevelDistiller
from .ranks import gather_ranks, sum_over_ranks, world_size
from .registry import DISTILLERS, DistillerRegistry
from .skds import SKDS
from .target import LabelledEdges, Target

for distiller in (BPKD, CIRKD, CWD, IFVD, KD, SKDS):
    DISTILLERS.register(distiller)
del distiller

__all__ = [
    "BPKD",
    "CIRKD",
    "CWD",
    "DISTILLERS",
    "IFVD",
    "KD",
    "SKDS",
    "CombinedDistiller",
    "DistillationModule",
    "Distiller",
    "DistillerRegistry",
    "LabelledEdges",
    "LevelDistiller",
    "PerTeacher",
    "Target",
    "arguments",
    "gather_ranks",
    "sum_over_ranks",
    "world_size",
]

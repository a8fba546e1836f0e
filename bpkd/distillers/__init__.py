"""Distillers by name: one file per paper, one line here."""

from .base import Distiller, LabelledEdges, Target
from .bpkd import BPKD
from .cirkd import CIRKD
from .combined import CombinedDistiller, PerTeacher
from .cwd import CWD
from .ifvd import IFVD
from .kd import KD
from .levels import LevelDistiller
from .skds import SKDS

DISTILLERS: dict[str, type[Distiller]] = {
    "BPKD": BPKD,
    "CIRKD": CIRKD,
    "CWD": CWD,
    "IFVD": IFVD,
    "KD": KD,
    "SKDS": SKDS,
}

__all__ = [
    "BPKD",
    "CIRKD",
    "CWD",
    "DISTILLERS",
    "IFVD",
    "KD",
    "SKDS",
    "CombinedDistiller",
    "Distiller",
    "LabelledEdges",
    "LevelDistiller",
    "PerTeacher",
    "Target",
]

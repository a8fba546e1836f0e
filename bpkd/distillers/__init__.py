"""Distillers by name: one file per paper, one line here."""

from .base import Distiller
from .bpkd import BPKD
from .cwd import CWD
from .kd import KD

DISTILLERS: dict[str, type[Distiller]] = {"BPKD": BPKD, "CWD": CWD, "KD": KD}

__all__ = ["BPKD", "CWD", "DISTILLERS", "KD", "Distiller"]

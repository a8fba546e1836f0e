"""Distillers by name: one file per paper, one line here."""

from .base import Distiller
from .bpkd import BPKD
from .cirkd import CIRKD
from .cwd import CWD
from .kd import KD

DISTILLERS: dict[str, type[Distiller]] = {"BPKD": BPKD, "CIRKD": CIRKD, "CWD": CWD, "KD": KD}

__all__ = ["BPKD", "CIRKD", "CWD", "DISTILLERS", "KD", "Distiller"]

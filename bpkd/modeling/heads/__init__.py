"""Heads: class scores from a backbone's maps."""

from .base import SegHead
from .fcn import FCNHead
from .psp import PSPHead

__all__ = ["FCNHead", "PSPHead", "SegHead"]

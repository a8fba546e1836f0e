"""Heads, which compute class scores from a backbone's maps."""

from .base import SegHead
from .deeplab_plus import DeepLabV3PlusHead
from .fcn import FCNHead
from .isa import ISAHead
from .psp import PSPHead

__all__ = ["DeepLabV3PlusHead", "FCNHead", "ISAHead", "PSPHead", "SegHead"]

"""The backend "cpp": losses and edge masks in C++, on the CPU."""

from __future__ import annotations

import warnings

from .edges import class_edge_masks, class_edges
from .loader import candidates, check_level, level, unavailable_reason
from .losses import boundary_kd, channel_kd, pixel_kd, upsampled_cross_entropy

__all__ = [
    "boundary_kd",
    "candidates",
    "channel_kd",
    "check_level",
    "class_edge_masks",
    "class_edges",
    "level",
    "pixel_kd",
    "unavailable",
    "unavailable_reason",
    "upsampled_cross_entropy",
]


def unavailable() -> str:
    """Deprecated: ``unavailable_reason``, with an empty string for None."""
    warnings.warn("native.unavailable() is now called unavailable_reason().", DeprecationWarning, stacklevel=2)
    return unavailable_reason() or ""

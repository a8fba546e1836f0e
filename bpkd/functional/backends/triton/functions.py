"""The functions of this backend. Importing them imports Triton."""

from .entropy import upsampled_cross_entropy
from .losses import boundary_kd, channel_kd, pixel_kd
from .masks import class_edge_masks, class_edges

__all__ = [
    "boundary_kd",
    "channel_kd",
    "class_edge_masks",
    "class_edges",
    "pixel_kd",
    "upsampled_cross_entropy",
]

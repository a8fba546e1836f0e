"""Losses and edge maps as pure PyTorch functions."""

from .boundary_kd import boundary_kd
from .cross_image import anchor_kd, cross_image_kd, nearest_labels
from .divergence import channel_kd, gradient_norm, pixel_kd
from .edges import class_edge_mask, edge_band

__all__ = [
    "anchor_kd",
    "boundary_kd",
    "channel_kd",
    "class_edge_mask",
    "cross_image_kd",
    "edge_band",
    "gradient_norm",
    "nearest_labels",
    "pixel_kd",
]

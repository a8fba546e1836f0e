"""Losses and edge maps as pure PyTorch functions."""

from .boundary_kd import boundary_kd
from .divergence import channel_kd, gradient_norm, pixel_kd
from .edges import class_edge_mask, edge_band

__all__ = ["boundary_kd", "channel_kd", "class_edge_mask", "edge_band", "gradient_norm", "pixel_kd"]

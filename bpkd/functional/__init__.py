"""Losses and edge maps as pure PyTorch functions."""

from .adversarial import critic_loss, generator_loss, gradient_penalty
from .boundary_kd import boundary_kd
from .cross_image import anchor_kd, cross_image_kd
from .divergence import channel_kd, gradient_norm, pixel_kd
from .edges import class_edge_mask, edge_band
from .ensemble import mean_probabilities
from .relations import intra_class_variation, nearest_labels, pairwise_affinity

__all__ = [
    "anchor_kd",
    "boundary_kd",
    "channel_kd",
    "class_edge_mask",
    "critic_loss",
    "cross_image_kd",
    "edge_band",
    "generator_loss",
    "gradient_norm",
    "gradient_penalty",
    "intra_class_variation",
    "mean_probabilities",
    "nearest_labels",
    "pairwise_affinity",
    "pixel_kd",
]

"""Losses and edge maps as pure PyTorch functions."""

from .adversarial import critic_loss, generator_loss, gradient_penalty
from .boundary_kd import boundary_kd
from .cross_image import anchor_kd, cross_image_kd
from .divergence import channel_kd, gradient_norm, pixel_kd
from .edge_rows import EdgeRows
from .edges import class_edge_mask, class_edges, edge_band
from .ensemble import mean_probabilities
from .paths import PATHS, set_path, use_path
from .relations import intra_class_variation, nearest_labels, pairwise_affinity
from .segmentation import upsampled_cross_entropy

__all__ = [
    "PATHS",
    "EdgeRows",
    "anchor_kd",
    "boundary_kd",
    "channel_kd",
    "class_edge_mask",
    "class_edges",
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
    "set_path",
    "upsampled_cross_entropy",
    "use_path",
]

"""Losses and edge maps as pure PyTorch functions."""

from .adversarial import critic_loss, generator_loss, gradient_penalty
from .boundary_kd import boundary_kd
from .cross_image import anchor_kd, cross_image_kd
from .divergence import channel_kd, class_divergence, gradient_norm, pixel_kd
from .edge_maps import (
    binary_logits,
    content_share,
    grid_edges,
    instance_edges,
    merged_edges,
    outside_region,
)
from .edge_rows import EdgeMap, EdgeRows
from .edge_rule import EdgeRule
from .edges import class_edge_mask, class_edges, edge_band
from .ensemble import mean_probabilities
from .paths import PATHS, set_path, use_path
from .relations import intra_class_variation, nearest_labels, pairwise_affinity
from .segmentation import upsampled_cross_entropy

__all__ = [
    "PATHS",
    "EdgeMap",
    "EdgeRows",
    "EdgeRule",
    "anchor_kd",
    "binary_logits",
    "boundary_kd",
    "channel_kd",
    "class_divergence",
    "class_edge_mask",
    "class_edges",
    "content_share",
    "critic_loss",
    "cross_image_kd",
    "edge_band",
    "generator_loss",
    "gradient_norm",
    "gradient_penalty",
    "grid_edges",
    "instance_edges",
    "intra_class_variation",
    "mean_probabilities",
    "merged_edges",
    "nearest_labels",
    "outside_region",
    "pairwise_affinity",
    "pixel_kd",
    "set_path",
    "upsampled_cross_entropy",
    "use_path",
]

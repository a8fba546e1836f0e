"""Losses and edge masks as functions of tensors. Needs PyTorch alone.

The functions check their arguments, choose a backend and call it. ``reference`` holds the plain PyTorch that defines
what is correct, ``backends`` faster implementations and the choice between them.
"""

import importlib
import warnings

from .adversarial import critic_loss, generator_loss, gradient_penalty
from .backends.settings import BACKENDS, set_backend, use_backend
from .boundary_kd import boundary_kd
from .cross_image import anchor_kd, cross_image_kd
from .divergence import channel_kd, gradient_norm, pixel_kd
from .edges import EdgeRule, class_edge_mask, class_edges, edge_band
from .ensemble import mean_probabilities
from .instance_edges import (
    binary_logits,
    content_share,
    grid_edges,
    instance_edges,
    merged_edges,
    outside_region,
)
from .reference.divergence import class_divergence
from .relations import intra_class_variation, nearest_labels, pairwise_affinity
from .segmentation import upsampled_cross_entropy
from .structures import EdgeMap, SparseEdgeMask

__all__ = [
    "BACKENDS",
    "EdgeMap",
    "EdgeRule",
    "SparseEdgeMask",
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
    "set_backend",
    "upsampled_cross_entropy",
    "use_backend",
]

_DEPRECATED = {  # old name -> (module, name; empty: the module itself)
    "PATHS": ("bpkd.functional", "BACKENDS"),
    "set_path": ("bpkd.functional", "set_backend"),
    "use_path": ("bpkd.functional", "use_backend"),
    "EdgeRows": ("bpkd.functional", "SparseEdgeMask"),
    "native": ("bpkd.functional.backends.native", ""),
}


def __getattr__(name: str) -> object:
    """Returns the object that an old name refers to, with a warning."""
    if name not in _DEPRECATED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, new = _DEPRECATED[name]
    warnings.warn(f"bpkd.functional.{name} is now {f'{module}.{new}'.rstrip('.')}.", DeprecationWarning, stacklevel=2)
    found = importlib.import_module(module)
    return getattr(found, new) if new else found

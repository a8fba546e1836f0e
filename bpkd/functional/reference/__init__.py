"""The reference: every loss and mask that has a faster backend, in plain PyTorch. It defines what is correct.

The functions have the signatures of ``bpkd.functional.backends.dispatch.Backend``; the arguments are checked by the
callers.
"""

from .boundary import boundary_kd
from .cross_entropy import upsampled_cross_entropy
from .divergence import channel_kd, pixel_kd
from .edges import class_edge_masks, class_edges

__all__ = [
    "boundary_kd",
    "channel_kd",
    "class_edge_masks",
    "class_edges",
    "pixel_kd",
    "upsampled_cross_entropy",
]

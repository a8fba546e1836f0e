"""Data that networks hand to losses and distillers. Pure PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

DISTILLATION_PREFIX = "loss_kd_"
"""Beginning of the names of distillation terms among the losses of a step."""


@dataclass(frozen=True)
class SegOutput:
    """What a dense network returns, before any resize to the image.

    N images, K classes, h x w the decoder's own resolution.
    """

    logits: Tensor
    """[N, K, h, w] raw scores of the decode head."""

    aux: Tensor | None = None
    """[N, K, h', w'] raw scores of the auxiliary head; None where there is none or in evaluation."""

    features: Mapping[str, Tensor] = field(default_factory=dict)
    """Named maps for distillers: ``decode`` [N, C, h, w], the map that enters the last classifier, and the
    backbone's stages under their own names, e.g. ``layer1`` .. ``layer4``."""

    independent: bool = False
    """False: the logits are one softmax over the classes; True: every class has a sigmoid of its own."""


@dataclass(frozen=True)
class EdgeMaps:
    """Old name of ``bpkd.distillers.Target(edge_map=edge, valid=valid)``."""

    edge: Tensor | None = None
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        """Warns."""
        message = "EdgeMaps(edge, valid) is now bpkd.distillers.Target(edge_map=edge, valid=valid)."
        warnings.warn(message, DeprecationWarning, stacklevel=3)


@dataclass(frozen=True)
class SOLOv2Outputs:
    """What a SOLOv2 network returns for N images, before losses, NMS or any resize to the image.

    K classes; level l has a grid of S_l x S_l cells; E channels of kernels and mask features; the canvas is H x W.
    """

    category_logits: tuple[Tensor, ...]
    """[N, K, S_l, S_l] per level, raw: before the sigmoid and the point NMS."""

    kernels: tuple[Tensor, ...]
    """[N, E, S_l, S_l] per level: the 1x1 kernel of each cell's mask."""

    mask_features: Tensor
    """[N, E, H/4, W/4]; a cell's mask logits are the sum over E of its kernel times these."""

    mask_towers: tuple[Tensor, ...]
    """[N, C, H/4, W/4] per level of the mask branch: the summands of what becomes ``mask_features``."""

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) of the padded images."""
        return 4 * int(self.mask_features.shape[-2]), 4 * int(self.mask_features.shape[-1])

    def float(self) -> SOLOv2Outputs:
        """Returns the same in float32."""
        return SOLOv2Outputs(
            tuple(x.float() for x in self.category_logits),
            tuple(x.float() for x in self.kernels),
            self.mask_features.float(),
            tuple(x.float() for x in self.mask_towers),
        )


@dataclass(frozen=True)
class LevelTargets:
    """What one pyramid level has to predict for N images."""

    labels: Tensor
    """[N, S, S] int64: class of each cell, the number of classes for background."""

    image: Tensor
    """[P] int64: image of each pair (cell, instance), ascending."""

    cell: Tensor
    """[P] int64: cell i * S + j of each pair; a cell that two instances claim is in two pairs."""

    instance: Tensor
    """[P] int64: row of the pair's instance in `GridTargets`."""


@dataclass(frozen=True)
class GridTargets:
    """The M instances of a batch and the cells that have to predict them; see `bpkd.modeling.solov2.targets`."""

    levels: tuple[LevelTargets, ...]
    image: Tensor
    """[M] int64: image of each instance; instances of an image keep the order of its annotations."""

    classes: Tensor
    """[M] int64."""

    boxes: Tensor
    """[M, 4] float32, x1 y1 x2 y2 in pixels of the canvas."""

    centers: Tensor
    """[M, 2] float64: (y, x), mean of the pixel indices of the mask; 0 for an empty one."""

    quarter_masks: Tensor
    """[M, H/4, W/4] bool: the masks at stride 4 of the canvas."""

    full_masks: tuple[Tensor, ...]
    """Per image [n, h, w] bool at the image's own size, without the padding."""

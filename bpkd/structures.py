"""Data that networks hand to losses and distillers. Pure PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


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
    """Where edges lie, for distillers that compare maps without labels of their own (a pyramid of grids, masks)."""

    edge: Tensor | None = None
    """[N, 1, h, w] or [N, K, h, w] in [0, 1], the share of each cell that is edge; None: nobody asked for it."""

    valid: Tensor | None = None
    """[N, 1, h, w] in [0, 1], the share of each cell that is image and not padding; None: all of it."""


Target = Tensor | EdgeMaps
"""What a distiller is told about the truth: labels [N, H, W], or edge maps at the size of the logits."""

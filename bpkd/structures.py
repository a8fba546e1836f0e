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

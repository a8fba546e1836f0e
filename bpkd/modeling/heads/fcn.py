"""Auxiliary head of OpenMMLab's segmentation networks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from bpkd.modeling.heads.base import SegHead
from bpkd.modeling.layers import ConvBlock


class FCNHead(SegHead):
    """One 3x3 convolution block and the classifier. Source: mmsegmentation 0.26.0 `FCNHead`, one convolution."""

    def __init__(
        self,
        *,
        in_feature: str,
        in_channels: int,
        channels: int,
        num_classes: int,
        norm: str = "BN",
        dropout: float = 0.1,
    ) -> None:
        """Builds the head on the backbone's stage ``in_feature`` with ``in_channels`` channels."""
        super().__init__(channels=channels, num_classes=num_classes, dropout=dropout)
        self.in_feature = in_feature
        self.convs = nn.Sequential(ConvBlock(in_channels, channels, 3, norm=norm))

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Maps the stage [N, in_channels, h, w] to [N, channels, h, w]."""
        return self.convs(features[self.in_feature])

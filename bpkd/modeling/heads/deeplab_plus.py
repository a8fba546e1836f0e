"""DeepLabV3+ head: atrous pyramid of separable convolutions, joined with a low-level map of higher resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from bpkd.modeling.heads.base import SegHead, head_options, pick_stages
from bpkd.modeling.layers import ConvBlock, SeparableConvBlock, resize


@SEM_SEG_HEADS_REGISTRY.register()
class DeepLabV3PlusHead(SegHead):
    """Reads the last stage at several dilation rates, then refines at the low-level stage's resolution.

    Source: Chen et al., Encoder-Decoder with Atrous Separable Convolution, ECCV 2018, figure 2; details as
    mmsegmentation 0.26.0 `DepthwiseSeparableASPPHead`: the convolution that joins the rates is not separable.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: tuple[str, str],
        in_channels: tuple[int, int],
        channels: int,
        num_classes: int,
        low_level_channels: int = 48,
        rates: Sequence[int] = (1, 12, 24, 36),
        norm: str = "BN",
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        """Builds the head.

        Args:
            in_features: Names of the low-level stage and the last stage.
            in_channels: Number of channels of each of these stages.
            channels: Number of output channels of every convolution in the head.
            num_classes: Number of classes.
            low_level_channels: Number of channels that the low-level stage is reduced to.
            rates: Dilation rates of the pyramid; rate 1 is a 1x1 convolution.
            norm: Name of the norm, see `bpkd.modeling.layers.make_norm`.
            dropout: Probability of dropping a channel before the classifier, in training.
            align_corners: ``align_corners`` of every resize, in the head and after it.
        """
        super().__init__(channels=channels, num_classes=num_classes, dropout=dropout, align_corners=align_corners)
        self.in_features = tuple(in_features)
        low, last = in_channels
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBlock(last, channels, 1, norm=norm))
        self.aspp_modules = nn.ModuleList(
            ConvBlock(last, channels, 1, norm=norm)
            if rate == 1
            else SeparableConvBlock(last, channels, 3, norm=norm, dilation=rate)
            for rate in rates
        )
        self.bottleneck = ConvBlock((len(rates) + 1) * channels, channels, 3, norm=norm)
        self.c1_bottleneck = ConvBlock(low, low_level_channels, 1, norm=norm)
        self.sep_bottleneck = nn.Sequential(
            SeparableConvBlock(channels + low_level_channels, channels, 3, norm=norm),
            SeparableConvBlock(channels, channels, 3, norm=norm),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Reads MODEL.SEM_SEG_HEAD."""
        names = pick_stages(cfg, input_shape, "low level, last")
        return {
            "in_features": names,
            "in_channels": [input_shape[name].channels for name in names],
            "low_level_channels": cfg.MODEL.SEM_SEG_HEAD.LOW_LEVEL_CHANNELS,
            "rates": tuple(cfg.MODEL.SEM_SEG_HEAD.ASPP_RATES),
            **head_options(cfg),
        }

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Maps the stages [N, C_low, H, W] and [N, C_last, h, w] to [N, channels, H, W]."""
        low, last = (features[name] for name in self.in_features)
        align = self.align_corners
        pooled = resize(self.image_pool(last), last.shape[2:], align_corners=align)
        x = self.bottleneck(torch.cat([pooled, *(module(last) for module in self.aspp_modules)], dim=1))
        x = resize(x, low.shape[2:], align_corners=align)
        return self.sep_bottleneck(torch.cat([x, self.c1_bottleneck(low)], dim=1))

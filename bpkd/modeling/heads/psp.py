"""Pyramid pooling head (PSPNet)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from bpkd.modeling.heads.base import SegHead, head_options, single_stage
from bpkd.modeling.layers import ConvBlock, pyramid_pool, recording, resize


@SEM_SEG_HEADS_REGISTRY.register()
class PSPHead(SegHead):
    """Pools the last map into grids of several sizes and concatenates them with the map itself.

    Source: Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, figure 3; details as mmsegmentation 0.26.0.
    """

    # ONNX has no adaptive pooling: the windows are fixed for the size of the exported example.
    unsupported = frozenset({"onnx_any_size"})

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        in_channels: int,
        channels: int,
        num_classes: int,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: str = "BN",
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        """Builds the head.

        Args:
            in_feature: Name of the backbone's stage that the head reads.
            in_channels: Number of channels of that stage.
            channels: Number of output channels of every convolution in the head.
            num_classes: Number of classes.
            pool_scales: Sides of the pooled grids.
            norm: Name of the norm, see `bpkd.modeling.layers.make_norm`.
            dropout: Probability of dropping a channel before the classifier, in training.
            align_corners: ``align_corners`` of every resize, in the head and after it.
        """
        super().__init__(channels=channels, num_classes=num_classes, dropout=dropout, align_corners=align_corners)
        self.in_feature = in_feature
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvBlock(in_channels, channels, 1, norm=norm))
            for scale in pool_scales
        )
        joined = in_channels + len(pool_scales) * channels
        self.bottleneck = ConvBlock(joined, channels, 3, norm=norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Reads MODEL.SEM_SEG_HEAD."""
        return {
            "pool_scales": tuple(cfg.MODEL.SEM_SEG_HEAD.POOL_SCALES),
            **single_stage(cfg, input_shape),
            **head_options(cfg),
        }

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Maps the stage [N, in_channels, h, w] to [N, channels, h, w]."""
        x = features[self.in_feature]
        pooled = [resize(m, x.shape[2:], align_corners=self.align_corners) for m in self._grids(x)]
        return self.bottleneck(torch.cat([x, *pooled], dim=1))

    def _grids(self, x: Tensor) -> list[Tensor]:
        """Returns every branch's grid [N, channels, scale, scale]."""
        branches = [cast(tuple[nn.AdaptiveAvgPool2d, ConvBlock], tuple(m.children())) for m in self.psp_modules]
        if x.is_cuda and not recording() and not torch.compiler.is_compiling():
            pooled = pyramid_pool(x, [cast(int, pool.output_size) for pool, _ in branches])
        else:
            pooled = [pool(x) for pool, _ in branches]
        return [conv(grid) for grid, (_, conv) in zip(pooled, branches, strict=True)]

"""Fully convolutional head: HRNet's decode head, and the auxiliary head of the other networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from bpkd.modeling.heads.base import SegHead, head_options, pick_stages
from bpkd.modeling.layers import ConvBlock, resize


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(SegHead):
    """One convolution block and the classifier; several stages are resized to the first one's size and concatenated.

    Source: Long et al., Fully Convolutional Networks, CVPR 2015; details as mmsegmentation 0.26.0 `FCNHead` with one
    convolution (and "resize_concat" for HRNet).
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        kernel_size: int = 3,
        norm: str = "BN",
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        """Builds the head.

        Args:
            in_features: Names of the backbone's stages that the head reads.
            in_channels: Number of channels of each of these stages.
            channels: Number of output channels of the convolution.
            num_classes: Number of classes.
            kernel_size: Kernel size of the convolution.
            norm: Name of the norm, see `bpkd.modeling.layers.make_norm`.
            dropout: Probability of dropping a channel before the classifier, in training.
            align_corners: ``align_corners`` of every resize, in the head and after it.
        """
        super().__init__(channels=channels, num_classes=num_classes, dropout=dropout, align_corners=align_corners)
        self.in_features = tuple(in_features)
        self.convs = nn.Sequential(ConvBlock(sum(in_channels), channels, kernel_size, norm=norm))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Reads MODEL.SEM_SEG_HEAD."""
        names = pick_stages(cfg, input_shape, "")
        return {
            "in_features": names,
            "in_channels": [input_shape[name].channels for name in names],
            "kernel_size": cfg.MODEL.SEM_SEG_HEAD.KERNEL_SIZE,
            **head_options(cfg),
        }

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Maps the stages [N, C_i, h_i, w_i] to [N, channels, h_0, w_0]."""
        maps = [features[name] for name in self.in_features]
        if len(maps) == 1:
            return self.convs(maps[0])
        size = maps[0].shape[2:]
        return self.convs(torch.cat([resize(m, size, align_corners=self.align_corners) for m in maps], dim=1))

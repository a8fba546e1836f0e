"""Interlaced sparse self-attention head (ISANet)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from bpkd.modeling.heads.base import SegHead, head_options, single_stage
from bpkd.modeling.layers import ConvBlock, recording


class WindowAttention(nn.Module):
    """Self-attention within groups of positions of a map that is divided into windows."""

    def __init__(self, channels: int, attention_channels: int, *, across: bool, norm: str) -> None:
        """Builds the projections.

        Args:
            channels: Channels of the map.
            attention_channels: Number of channels of queries and keys.
            across: True: a group holds the position at the same offset of every window ("global"); False: a group is a
                window ("local").
            norm: Name of the norm, see `bpkd.modeling.layers.make_norm`.
        """
        super().__init__()
        self.across, self.scale = across, attention_channels**-0.5
        self.key_project = self._projection(channels, attention_channels, norm)
        self.query_project = self._projection(channels, attention_channels, norm)
        self.value_project = nn.Conv2d(channels, channels, 1)
        self.output_project = ConvBlock(channels, channels, 1, norm=norm)

    @staticmethod
    def _projection(channels: int, attention_channels: int, norm: str) -> nn.Sequential:
        return nn.Sequential(
            ConvBlock(channels, attention_channels, 1, norm=norm),
            ConvBlock(attention_channels, attention_channels, 1, norm=norm),
        )

    def forward(self, x: Tensor, window: tuple[int, int]) -> Tensor:
        """Maps [N, C, H, W], H and W multiples of the window, to the same shape."""
        query, key, value = (
            self._groups(project(x), window) for project in (self.query_project, self.key_project, self.value_project)
        )
        weights = (query @ key.transpose(1, 2) * self.scale).softmax(dim=-1)
        return self.output_project(self._ungroup(weights @ value, x.shape[2:], window))

    def _groups(self, x: Tensor, window: tuple[int, int]) -> Tensor:
        """Maps [N, C, H, W] to [groups, positions of a group, C]."""
        n, c, height, width = x.shape
        rows, columns = window
        x = x.view(n, c, height // rows, rows, width // columns, columns)
        # The order of axes: N, those that number the groups, those within a group, C.
        order = (0, 3, 5, 2, 4, 1) if self.across else (0, 2, 4, 3, 5, 1)
        inside = (height // rows) * (width // columns) if self.across else rows * columns
        return x.permute(order).reshape(-1, inside, c)

    def _ungroup(self, x: Tensor, size: torch.Size, window: tuple[int, int]) -> Tensor:
        (height, width), (rows, columns), c = size, window, x.shape[2]
        if self.across:
            x = x.view(-1, rows, columns, height // rows, width // columns, c).permute(0, 5, 3, 1, 4, 2)
        else:
            x = x.view(-1, height // rows, width // columns, rows, columns, c).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, c, height, width)


@SEM_SEG_HEADS_REGISTRY.register()
class ISAHead(SegHead):
    """Attends across windows at equal offsets, then within each window, so that every position depends on all others.

    Source: Huang et al., Interlaced Sparse Self-Attention for Semantic Segmentation, 2019, figure 2; details as
    mmsegmentation 0.26.0: padding is centred and takes part in the attention.
    """

    # torch.export does not terminate if the number of windows is symbolic.
    unsupported = frozenset({"export_any_size"})

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        in_channels: int,
        channels: int,
        num_classes: int,
        attention_channels: int = 256,
        window: tuple[int, int] = (8, 8),
        norm: str = "BN",
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        """Builds the head.

        Args:
            in_feature: Name of the backbone's stage that the head reads.
            in_channels: Number of channels of that stage.
            channels: Number of channels of the map that attention is applied to.
            num_classes: Number of classes.
            attention_channels: Number of channels of queries and keys.
            window: (height, width) of a window, in positions of the stage's map.
            norm: Name of the norm, see `bpkd.modeling.layers.make_norm`.
            dropout: Probability of dropping a channel before the classifier, in training.
            align_corners: ``align_corners`` of the resizes after the head.
        """
        super().__init__(channels=channels, num_classes=num_classes, dropout=dropout, align_corners=align_corners)
        self.in_feature, self.window = in_feature, window
        self.in_conv = ConvBlock(in_channels, channels, 3, norm=norm)
        self.global_relation = WindowAttention(channels, attention_channels, across=True, norm=norm)
        self.local_relation = WindowAttention(channels, attention_channels, across=False, norm=norm)
        self.out_conv = ConvBlock(2 * channels, channels, 1, norm=norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Reads MODEL.SEM_SEG_HEAD."""
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "attention_channels": node.ATTENTION_CHANNELS,
            "window": tuple(node.WINDOW),
            **single_stage(cfg, input_shape),
            **head_options(cfg),
        }

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Maps the stage [N, in_channels, h, w] to [N, channels, h, w]."""
        x = self.in_conv(features[self.in_feature])
        height, width = x.shape[2:]
        below, right = -height % self.window[0], -width % self.window[1]
        top, left = below // 2, right // 2
        padded = x
        if recording() or below or right:
            padded = F.pad(x, (left, right - left, top, below - top))
        attended = self.local_relation(self.global_relation(padded, self.window), self.window)
        attended = attended[:, :, top : top + height, left : left + width]
        return self.out_conv(torch.cat([attended, x], dim=1))

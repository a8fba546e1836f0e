"""Base class of heads, with classifier and dropout, and the options that all heads read from a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from bpkd.modeling.layers import norm_for_device


class SegHead(nn.Module):
    """Base class of heads: a subclass computes one map from the backbone's maps, and this class its class scores.

    The classifier is named `conv_seg` as in OpenMMLab's networks.

    Attributes:
        unsupported: Names of `bpkd.modeling.base.CAPABILITIES` that the head does not support.
    """

    unsupported: frozenset[str] = frozenset()

    def __init__(self, *, channels: int, num_classes: int, dropout: float = 0.1, align_corners: bool = False) -> None:
        """Builds the classifier.

        Args:
            channels: Number of channels of the classifier's input.
            num_classes: Number of classes.
            dropout: Probability of dropping a channel before the classifier, in training.
            align_corners: ``align_corners`` of every resize, in the head and after it.
        """
        super().__init__()
        self.channels, self.num_classes = channels, num_classes
        self.align_corners = align_corners
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.dropout = nn.Dropout2d(dropout) if dropout > 0 else nn.Identity()
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        if self.conv_seg.bias is not None:
            nn.init.zeros_(self.conv_seg.bias)

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Maps the backbone's stages to [N, channels, h, w]."""
        raise NotImplementedError

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns (logits [N, K, h, w], the classifier's input [N, channels, h, w] before dropout)."""
        decoded = self.decode(features)
        return self.conv_seg(self.dropout(decoded)), decoded


def head_options(cfg: CfgNode) -> dict[str, Any]:
    """Reads the arguments that all heads share from MODEL.SEM_SEG_HEAD, ``norm`` included."""
    node = cfg.MODEL.SEM_SEG_HEAD
    return {
        "channels": node.CHANNELS,
        "num_classes": node.NUM_CLASSES,
        "dropout": node.DROPOUT,
        "align_corners": node.ALIGN_CORNERS,
        "norm": norm_for_device(node.NORM, cfg.MODEL.DEVICE),
    }


def pick_stages(cfg: CfgNode, shapes: Mapping[str, ShapeSpec], roles: str) -> list[str]:
    """Checks that MODEL.SEM_SEG_HEAD.IN_FEATURES names one stage of the backbone per role, and returns it.

    Args:
        cfg: Config of the network.
        shapes: Shapes of the backbone's stages by name.
        roles: Descriptions of the stages that the head reads, separated by commas, e.g. "low level, last"; empty: any
            number of stages.

    Raises:
        ValueError: a stage is unknown, or their number is wrong.
    """
    key, names = "MODEL.SEM_SEG_HEAD.IN_FEATURES", list(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)
    count = len(roles.split(",")) if roles else max(len(names), 1)
    if len(names) != count:
        raise ValueError(f"{key}: {cfg.MODEL.SEM_SEG_HEAD.NAME} reads {count} stages ({roles or 'any'}), got {names}.")
    return [pick_stage(name, shapes, key) for name in names]


def single_stage(cfg: CfgNode, shapes: Mapping[str, ShapeSpec]) -> dict[str, Any]:
    """Returns ``in_feature`` and ``in_channels`` for a head that reads one stage."""
    (name,) = pick_stages(cfg, shapes, "last")
    return {"in_feature": name, "in_channels": shapes[name].channels}


def pick_stage(name: str, shapes: Mapping[str, object], key: str) -> str:
    """Checks that the backbone has a stage of this name, and returns the name.

    Raises:
        ValueError: there is no such stage; the message lists the stages.
    """
    if name not in shapes:
        raise ValueError(f"{key}: expected one of {', '.join(shapes)}, got {name!r}.")
    return name

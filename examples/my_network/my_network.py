"""A backbone of three convolutions that a config of another project names."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn


class MyBackbone(Backbone):
    """Stages ``stage1`` .. ``stage3`` at 1/2, 1/4 and 1/8 of the image."""

    def __init__(self, channels: Sequence[int] = (16, 32, 64)) -> None:
        """Builds the stages.

        Args:
            channels: channels of each stage.
        """
        super().__init__()
        self.channels = tuple(channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()
            )
            for before, after in zip((3, *channels[:-1]), channels, strict=True)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images [N, 3, H, W] to the stages [N, C, h, w]."""
        maps, x = {}, images
        for number, stage in enumerate(self.stages, start=1):
            x = maps[f"stage{number}"] = stage(x)
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Returns channels and stride of each stage, which heads and distillers need."""
        return {
            f"stage{i}": ShapeSpec(channels=c, stride=2**i)
            for i, c in enumerate(self.channels, start=1)
        }


@BACKBONE_REGISTRY.register()
def build_my_backbone(cfg, input_shape) -> MyBackbone:  # noqa: ANN001  (Detectron2's signature)
    """Builds the backbone for MODEL.BACKBONE.NAME: build_my_backbone."""
    return MyBackbone()

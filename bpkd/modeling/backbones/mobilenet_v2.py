"""MobileNetV2 whose last stages keep the resolution by dilation, with OpenMMLab's parameter names."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from bpkd.modeling.backbones.blocks import check_width
from bpkd.modeling.layers import ConvBlock, norm_for_device

# Expansion, channels and blocks of the seven stages.
LAYOUT = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
# Output stride -> stride and dilation of the first block of the seven stages.
STAGES = {
    8: ((1, 2, 2, 1, 1, 1, 1), (1, 1, 1, 2, 2, 4, 4)),
    16: ((1, 2, 2, 2, 1, 1, 1), (1, 1, 1, 1, 1, 2, 2)),
    32: ((1, 2, 2, 2, 1, 2, 1), (1, 1, 1, 1, 1, 1, 1)),
}
OUTPUTS = ("layer2", "layer3", "layer5", "layer7")


class InvertedResidual(nn.Module):
    """1x1 expansion (absent if the factor is 1), depthwise 3x3, 1x1 projection without activation."""

    def __init__(
        self, in_channels: int, channels: int, *, expansion: int, norm: str, stride: int = 1, dilation: int = 1
    ) -> None:
        """Builds the block; the input is added if the output has the same size and channels."""
        super().__init__()
        hidden = in_channels * expansion
        parts = []
        if expansion != 1:
            parts.append(ConvBlock(in_channels, hidden, 1, norm=norm, activation="relu6"))
        parts.append(
            ConvBlock(hidden, hidden, 3, norm=norm, stride=stride, dilation=dilation, groups=hidden, activation="relu6")
        )
        parts.append(ConvBlock(hidden, channels, 1, norm=norm, activation=""))
        self.conv = nn.Sequential(*parts)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, in_channels, H, W] to [N, channels, H/stride, W/stride]."""
        out = self.conv(x)
        return out.add_(x) if self.residual else out


class MobileNetV2(Backbone):
    """MobileNetV2 without its last 1x1 convolution.

    A stage's dilation is that of its first block only; its later blocks have none.

    Source: Sandler et al., MobileNetV2, CVPR 2018, table 2; strides, dilations and names as mmsegmentation 0.26.0.
    """

    def __init__(
        self, *, width_multiplier: float = 1.0, output_stride: int = 8, norm: str = "BN", in_channels: int = 3
    ) -> None:
        """Builds and initialises the network.

        Args:
            width_multiplier: Factor on every number of channels; the result is rounded to a multiple of 8.
            output_stride: Ratio of the image's size to the last map's: 8, 16 or 32.
            norm: Name of the norm, see `bpkd.modeling.layers.make_norm`.
            in_channels: Number of channels of the image.

        Raises:
            ValueError: width or output stride is not supported.
        """
        super().__init__()
        if output_stride not in STAGES:
            raise ValueError(f"MOBILENET_V2.OUTPUT_STRIDE: expected one of {list(STAGES)}, got {output_stride}.")
        check_width(width_multiplier, "MOBILENET_V2")
        channels = _divisible(32 * width_multiplier)
        self.conv1 = ConvBlock(in_channels, channels, 3, norm=norm, stride=2, activation="relu6")
        self._out_features = list(OUTPUTS)
        self._out_feature_channels: dict[str, int] = {}
        self._out_feature_strides: dict[str, int] = {}
        total_stride = 2
        for i, ((expansion, planes, count), stride, dilation) in enumerate(
            zip(LAYOUT, *STAGES[output_stride], strict=True), start=1
        ):
            wanted = _divisible(planes * width_multiplier)
            rows = [
                InvertedResidual(channels, wanted, expansion=expansion, norm=norm, stride=stride, dilation=dilation)
            ]
            rows += [InvertedResidual(wanted, wanted, expansion=expansion, norm=norm) for _ in range(count - 1)]
            channels = wanted
            self.add_module(f"layer{i}", nn.Sequential(*rows))
            total_stride *= stride
            if f"layer{i}" in OUTPUTS:
                self._out_feature_channels[f"layer{i}"] = wanted
                self._out_feature_strides[f"layer{i}"] = total_stride

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps [N, 3, H, W] to {"layer2": 1/4, "layer3": 1/8, "layer5": ..., "layer7": ...}."""
        x = self.conv1(x)
        features = {}
        for i in range(1, len(LAYOUT) + 1):
            x = getattr(self, f"layer{i}")(x)
            if f"layer{i}" in OUTPUTS:
                features[f"layer{i}"] = x
        return features


@BACKBONE_REGISTRY.register()
def build_mobilenet_v2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MobileNetV2:
    """Builds `MobileNetV2` from MODEL.MOBILENET_V2."""
    node = cfg.MODEL.MOBILENET_V2
    return MobileNetV2(
        width_multiplier=node.WIDTH_MULTIPLIER,
        output_stride=node.OUTPUT_STRIDE,
        norm=norm_for_device(node.NORM, cfg.MODEL.DEVICE),
        in_channels=input_shape.channels,
    )


def _divisible(channels: float, divisor: int = 8) -> int:
    """Returns the nearest multiple of ``divisor`` that is not more than 10 % below (the paper's rule)."""
    value = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return value if value >= 0.9 * channels else value + divisor

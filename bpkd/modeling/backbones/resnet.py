"""Dilated ResNet of OpenMMLab's segmentation networks ("V1c": deep stem), with the same parameter names."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from bpkd.modeling.backbones.blocks import BasicBlock, Block, Bottleneck, blocks, check_width, conv3x3, scaled
from bpkd.modeling.layers import init_convolutions, make_norm, norm_for_device

# Output stride -> stride and dilation of the four stages.
STAGES = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}


# Depth -> block and blocks per stage.
DEPTHS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNetV1c(Backbone):
    """ResNet whose last stages keep the resolution by dilation.

    Source: mmsegmentation 0.26.0 `ResNetV1c` with `contract_dilation`: the first block of a dilated stage uses
    half the stage's dilation. ``deep_stem=False`` is its plain `ResNet`.
    """

    def __init__(
        self,
        depth: int,
        *,
        width_multiplier: float = 1.0,
        deep_stem: bool = True,
        output_stride: int = 8,
        norm: str = "BN",
        zero_init_residual: bool = True,
        in_channels: int = 3,
    ) -> None:
        """Builds and initialises the network.

        Args:
            depth: Number of layers: 18, 34, 50, 101 or 152.
            width_multiplier: Factor on every number of channels; the result is rounded, at least 4.
            deep_stem: True: the stem has three 3x3 convolutions; False: one 7x7.
            output_stride: Ratio of the image's size to the last map's: 8, 16 or 32.
            norm: Name of the norm, see `bpkd.modeling.layers.make_norm`.
            zero_init_residual: Whether every block is initialised as the identity.
            in_channels: Number of channels of the image.

        Raises:
            ValueError: depth, width or output stride is not supported.
        """
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"RESNET_V1C.DEPTH: expected one of {list(DEPTHS)}, got {depth}.")
        if output_stride not in STAGES:
            raise ValueError(f"RESNET_V1C.OUTPUT_STRIDE: expected one of {list(STAGES)}, got {output_stride}.")
        check_width(width_multiplier, "RESNET_V1C")
        self.deep_stem = deep_stem
        inplanes = scaled(64, width_multiplier)
        self._build_stem(in_channels, inplanes, scaled(32, width_multiplier), norm)
        block, counts = DEPTHS[depth]
        self._out_features = ["layer1", "layer2", "layer3", "layer4"]
        self._out_feature_channels: dict[str, int] = {}
        self._out_feature_strides: dict[str, int] = {}
        total_stride = 4
        strides, dilations = STAGES[output_stride]
        for i, name in enumerate(self._out_features):
            planes = scaled(64 * 2**i, width_multiplier)
            stage = blocks(block, inplanes, planes, counts[i], norm=norm, stride=strides[i], dilation=dilations[i])
            self.add_module(name, stage)
            inplanes = planes * block.expansion
            total_stride *= strides[i]
            self._out_feature_channels[name] = inplanes
            self._out_feature_strides[name] = total_stride
        self._initialise(zero_init_residual)

    def _build_stem(self, in_channels: int, channels: int, inner: int, norm: str) -> None:
        if self.deep_stem:
            self.stem = nn.Sequential(
                *(conv3x3(in_channels, inner, stride=2), make_norm(norm, inner), nn.ReLU(True)),
                *(conv3x3(inner, inner), make_norm(norm, inner), nn.ReLU(True)),
                *(conv3x3(inner, channels), make_norm(norm, channels), nn.ReLU(True)),
            )
        else:
            self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
            self.bn1 = make_norm(norm, channels)
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def _initialise(self, zero_init_residual: bool) -> None:
        init_convolutions(self)
        for module in self.modules():
            if zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                nn.init.zeros_(module.last_scale)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps [N, 3, H, W] to {"layer1": [N, C1, ceil(H/4), ceil(W/4)], ..., "layer4": ...}."""
        x = self.stem(x) if self.deep_stem else self.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x)
        features = {}
        for name in self._out_features:
            x = getattr(self, name)(x)
            features[name] = x
        return features


@BACKBONE_REGISTRY.register()
def build_resnet_v1c_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNetV1c:
    """Builds `ResNetV1c` from MODEL.RESNET_V1C."""
    node = cfg.MODEL.RESNET_V1C
    return ResNetV1c(
        node.DEPTH,
        width_multiplier=node.WIDTH_MULTIPLIER,
        deep_stem=node.DEEP_STEM,
        output_stride=node.OUTPUT_STRIDE,
        norm=norm_for_device(node.NORM, cfg.MODEL.DEVICE),
        zero_init_residual=node.ZERO_INIT_RESIDUAL,
        in_channels=input_shape.channels,
    )

"""HRNet: parallel branches at 1/4, 1/8, 1/16 and 1/32 of the image that exchange their features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from bpkd.modeling.backbones.blocks import BasicBlock, Bottleneck, blocks, check_width, conv3x3, scaled
from bpkd.modeling.layers import init_convolutions, make_norm, norm_for_device, resize

# Variant -> channels of the branch at 1/4, blocks per branch, modules of stages 2, 3 and 4.
VARIANTS: dict[str, tuple[int, int, tuple[int, int, int]]] = {
    "w18s": (18, 2, (1, 3, 2)),
    "w18": (18, 4, (1, 4, 3)),
    "w32": (32, 4, (1, 4, 3)),
    "w40": (40, 4, (1, 4, 3)),
    "w48": (48, 4, (1, 4, 3)),
}


class FusionModule(nn.Module):
    """Residual blocks on every branch; the output of a branch is the sum of all branches at its size."""

    def __init__(self, channels: Sequence[int], count: int, *, norm: str) -> None:
        """Builds ``count`` blocks per branch of ``channels`` and the convolutions between branches."""
        super().__init__()
        self.branches = nn.ModuleList(blocks(BasicBlock, c, c, count, norm=norm) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchange(channels, target, source, norm) for source in range(len(channels)))
            for target in range(len(channels))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps one [N, C_b, H_b, W_b] per branch to the same shapes."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [self._fused(maps, target) for target in range(len(maps))]

    def _fused(self, maps: Sequence[Tensor], target: int) -> Tensor:
        total = maps[target]
        for source, layer in enumerate(cast(nn.ModuleList, self.fuse_layers[target])):
            if source == target:
                continue
            term = layer(maps[source])
            if source > target:
                # Two resizes, the first by an integer factor: one resize gives other values if the sizes do not divide.
                factor = 2 ** (source - target)
                term = resize(term, [n * factor for n in term.shape[2:]])
                term = resize(term, maps[target].shape[2:])
            # The first sum is a new tensor, to which the others are added in place.
            total = total + term if total is maps[target] else total.add_(term)
        return self.relu(total)


class HRNet(Backbone):
    """High-resolution network with four output maps.

    Source: Wang et al., Deep High-Resolution Representation Learning for Visual Recognition, TPAMI 2020; details and
    parameter names as mmsegmentation 0.26.0.
    """

    def __init__(self, variant: str, *, width_multiplier: float = 1.0, norm: str = "BN", in_channels: int = 3) -> None:
        """Builds and initialises the network.

        Args:
            variant: "w18s", "w18", "w32", "w40" or "w48".
            width_multiplier: Factor on every number of channels; the result is rounded, at least 4.
            norm: Name of the norm, see `bpkd.modeling.layers.make_norm`.
            in_channels: Number of channels of the image.

        Raises:
            ValueError: variant or width is not supported.
        """
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"HRNET.VARIANT: expected one of {', '.join(VARIANTS)}, got {variant!r}.")
        check_width(width_multiplier, "HRNET")
        base, count, modules = VARIANTS[variant]
        stem = scaled(64, width_multiplier)
        self.conv1, self.bn1 = conv3x3(in_channels, stem, stride=2), make_norm(norm, stem)
        self.conv2, self.bn2 = conv3x3(stem, stem, stride=2), make_norm(norm, stem)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = blocks(Bottleneck, stem, stem, count, norm=norm)
        channels = [stem * Bottleneck.expansion]
        for stage, repeats in enumerate(modules, start=2):
            wanted = [scaled(base * 2**b, width_multiplier) for b in range(stage)]
            self.add_module(f"transition{stage - 1}", _transition(channels, wanted, norm))
            rows = [FusionModule(wanted, count, norm=norm) for _ in range(repeats)]
            self.add_module(f"stage{stage}", nn.Sequential(*rows))
            channels = wanted
        self._out_features = [f"branch{b + 1}" for b in range(len(channels))]
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))
        self._out_feature_strides = {name: 4 * 2**b for b, name in enumerate(self._out_features)}
        init_convolutions(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps [N, 3, H, W] to {"branch1": [N, C, ceil(H/4), ceil(W/4)], ..., "branch4": 1/32}."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for stage in (2, 3, 4):
            transition = getattr(self, f"transition{stage - 1}")
            # A new branch starts from the map of the lowest resolution.
            sources = [*maps, *[maps[-1]] * (stage - len(maps))]
            maps = [layer(x) for layer, x in zip(transition, sources, strict=True)]
            maps = getattr(self, f"stage{stage}")(maps)
        return dict(zip(self._out_features, maps, strict=True))


@BACKBONE_REGISTRY.register()
def build_hrnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> HRNet:
    """Builds `HRNet` from MODEL.HRNET."""
    node = cfg.MODEL.HRNET
    return HRNet(
        node.VARIANT,
        width_multiplier=node.WIDTH_MULTIPLIER,
        norm=norm_for_device(node.NORM, cfg.MODEL.DEVICE),
        in_channels=input_shape.channels,
    )


def _exchange(channels: Sequence[int], target: int, source: int, norm: str) -> nn.Module:
    """Returns the layers from branch ``source`` to branch ``target``; a later upsampling has no parameters."""
    if source == target:
        return nn.Identity()
    if source > target:
        conv = nn.Conv2d(channels[source], channels[target], 1, bias=False)
        return nn.Sequential(conv, make_norm(norm, channels[target]))
    steps = [_strided(channels[source], channels[source], norm) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, _strided(channels[source], channels[target], norm, relu=False))


def _transition(channels: Sequence[int], wanted: Sequence[int], norm: str) -> nn.ModuleList:
    """Returns the layers from a stage's branches to those of the next stage, which has one more."""
    rows: list[nn.Module] = []
    for have, want in zip(channels, wanted, strict=False):
        conv = nn.Sequential(conv3x3(have, want), make_norm(norm, want), nn.ReLU(inplace=True))
        rows.append(nn.Identity() if have == want else conv)
    rows.append(nn.Sequential(_strided(channels[-1], wanted[-1], norm)))
    return nn.ModuleList(rows)


def _strided(inplanes: int, planes: int, norm: str, *, relu: bool = True) -> nn.Sequential:
    parts = [conv3x3(inplanes, planes, stride=2), make_norm(norm, planes)]
    return nn.Sequential(*parts, *[nn.ReLU(inplace=True)] * relu)

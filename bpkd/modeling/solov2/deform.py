"""Modulated deformable convolution (DCNv2) by torchvision's operator, without Detectron2's compiled layers."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class ModulatedDeformConv2d(nn.Module):
    """Convolution that predicts an offset and a modulation factor for each of its sampling points.

    Its state dict has mmcv's names: ``weight``, optional ``bias``, ``conv_offset.weight``, ``conv_offset.bias``, and
    ``norm.*`` where there is a norm. With `rename_old_offsets`, offsets of older files (``<prefix>_offset.*`` of mmcv
    before version 2 and of Detectron2) load too.

    Source: Zhu et al., "Deformable ConvNets v2", CVPR 2019, equation 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
    ) -> None:
        """Builds a layer that starts as half a plain convolution: offsets 0, modulation sigmoid(0) = 1/2.

        Args:
            in_channels: Number of input channels.
            out_channels: Number of output channels.
            kernel_size: Side of the square kernel.
            stride: Stride of the convolution.
            padding: Number of zeros added at each border of the input.
            dilation: Distance of two kernel elements.
            groups: Number of groups of the convolution.
            deform_groups: Number of groups of input channels with offsets of their own.
            bias: Whether the convolution has a bias; that of the offsets always has one.
            norm: Norm of the output; None: no norm.

        Raises:
            ValueError: channels cannot be divided into the groups.
        """
        super().__init__()
        for count, what in ((groups, "groups"), (deform_groups, "deform_groups")):
            if in_channels % count or (what == "groups" and out_channels % count):
                raise ValueError(
                    f"ModulatedDeformConv2d: expected channels that {count} {what} divide, got {in_channels} in, "
                    f"{out_channels} out."
                )
        self.stride, self.padding, self.dilation = stride, padding, dilation
        taps = kernel_size * kernel_size
        self.offset_channels = 2 * deform_groups * taps
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.conv_offset = nn.Conv2d(
            in_channels, 3 * deform_groups * taps, kernel_size, stride=stride, padding=padding, dilation=dilation
        )
        self.norm = norm
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, H, W] to [N, C', H', W'], the size of a plain convolution's output, in the input's type.

        Runs in float32 (or float64) under autocast: in half precision offsets lose their fraction of a pixel.
        """
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            predicted = self.conv_offset(wide)
            # The first two thirds are (dy, dx) per kernel element, row by row, as torchvision reads them.
            offsets, strength = predicted[:, : self.offset_channels], predicted[:, self.offset_channels :].sigmoid()
            out = deform_conv2d(
                wide,
                offsets,
                self.weight,
                self.bias,
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                mask=strength,
            ).to(x.dtype)
        return out if self.norm is None else self.norm(out)


def rename_old_offsets(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load hook of the whole network that renames the offsets of older files.

    A layer's own hook cannot do it: torch passes it only the keys that begin with the layer's name.
    """
    for name, layer in module.named_modules():
        for part in ("weight", "bias") if isinstance(layer, ModulatedDeformConv2d) else ():
            old, new = f"{prefix}{name}_offset.{part}", f"{prefix}{name}.conv_offset.{part}"
            if old in state and new not in state:
                state[new] = state.pop(old)


def deform_stages(resnet: ResNet, on_per_stage: list[bool], deform_groups: int = 1) -> None:
    """Replaces the 3x3 convolutions of some stages' bottlenecks by deformable ones with the same options.

    Args:
        resnet: Detectron2's ResNet, built with plain bottlenecks.
        on_per_stage: Whether res2, res3, res4 and res5 are deformable.
        deform_groups: Number of groups of offsets of the new layers.

    Raises:
        ValueError: a stage to change has no bottlenecks.
    """
    for stage, on in zip(resnet.stages, on_per_stage, strict=False):
        for block in stage if on else ():
            if not isinstance(block, BottleneckBlock):
                raise ValueError(
                    "MODEL.RESNETS.DEFORM_ON_PER_STAGE: expected a ResNet of bottlenecks (depth 50, 101, 152), got "
                    f"{type(block).__name__}. Set it to [False, False, False, False]."
                )
            plain: Conv2d = block.conv2
            block.conv2 = ModulatedDeformConv2d(
                plain.in_channels,
                plain.out_channels,
                plain.kernel_size[0],
                stride=plain.stride[0],
                padding=plain.padding[0],
                dilation=plain.dilation[0],
                groups=plain.groups,
                deform_groups=deform_groups,
                norm=plain.norm,
            )

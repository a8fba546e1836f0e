"""Modulated deformable convolution (DCNv2) over torchvision's operator: no compiled part of Detectron2 is needed."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class ModulatedDeformConv2d(nn.Module):
    """A convolution that predicts where it samples, and how strongly.

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
        """Builds a layer that starts as a plain convolution with weight 1/2: offsets 0, strength sigmoid(0).

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel_size: side of the square kernel.
            stride: Stride of the convolution.
            padding: zeros around the input.
            dilation: distance of two taps.
            groups: Groups of the convolution.
            deform_groups: groups of input channels with offsets of their own.
            bias: Add a bias to the convolution; the offsets always have one.
            norm: applied to the result.

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
        """Maps [N, C, H, W] to [N, C', H', W'] as a plain convolution of these settings would, in its input's type.

        Runs in float32 (or float64) under autocast: in half precision offsets lose their fraction of a pixel.
        """
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            predicted = self.conv_offset(wide)
            # The first two thirds are (dy, dx) per tap, row by row, as torchvision reads them.
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
    """Gives the offsets of older files their names of today; a load hook of the whole network.

    A layer cannot do it alone: torch hands it only the keys that begin with its own name.
    """
    for name, layer in module.named_modules():
        for part in ("weight", "bias") if isinstance(layer, ModulatedDeformConv2d) else ():
            old, new = f"{prefix}{name}_offset.{part}", f"{prefix}{name}.conv_offset.{part}"
            if old in state and new not in state:
                state[new] = state.pop(old)


def deform_stages(resnet: ResNet, on_per_stage: list[bool], deform_groups: int = 1) -> None:
    """Replaces the 3x3 convolution of every bottleneck of some stages; groups, stride and norm stay.

    Args:
        resnet: Detectron2's, built with plain bottlenecks.
        on_per_stage: Whether res2, res3, res4 and res5 are deformable.
        deform_groups: Groups of offsets of the new layers.

    Raises:
        ValueError: such a stage has no bottlenecks.
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

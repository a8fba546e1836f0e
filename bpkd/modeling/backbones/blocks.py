"""Residual blocks that ResNet and HRNet share, with OpenMMLab's parameter names."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from bpkd.modeling.layers import make_norm


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions, the first with stride and dilation."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, *, norm: str, stride: int = 1, dilation: int = 1) -> None:
        """Builds the block; it has ``planes`` output channels."""
        super().__init__()
        self.conv1 = conv3x3(inplanes, planes, stride=stride, dilation=dilation)
        self.bn1 = make_norm(norm, planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = make_norm(norm, planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inplanes, planes, stride, norm)

    @property
    def last_scale(self) -> Tensor:
        """Weight of the last norm, which scales the residual branch."""
        return cast(Tensor, self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, inplanes, H, W] to [N, planes, H/stride, W/stride]."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3 (with stride and dilation) and 1x1 convolutions to 4 x ``planes`` channels."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, *, norm: str, stride: int = 1, dilation: int = 1) -> None:
        """Builds the block; the 3x3 convolution has ``planes`` channels."""
        super().__init__()
        outplanes = planes * self.expansion
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = make_norm(norm, planes)
        self.conv2 = conv3x3(planes, planes, stride=stride, dilation=dilation)
        self.bn2 = make_norm(norm, planes)
        self.conv3 = nn.Conv2d(planes, outplanes, 1, bias=False)
        self.bn3 = make_norm(norm, outplanes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inplanes, outplanes, stride, norm)

    @property
    def last_scale(self) -> Tensor:
        """Weight of the last norm, which scales the residual branch."""
        return cast(Tensor, self.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, inplanes, H, W] to [N, 4 planes, H/stride, W/stride]."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)


Block = type[BasicBlock] | type[Bottleneck]


def blocks(
    block: Block, inplanes: int, planes: int, count: int, *, norm: str, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Stacks ``count`` blocks; the first has the stride and, in a dilated stage, half the dilation.

    Half the dilation in the first block avoids gaps in a position's receptive field.
    """
    rows = [block(inplanes, planes, norm=norm, stride=stride, dilation=max(dilation // 2, 1))]
    width = planes * block.expansion
    rows += [block(width, planes, norm=norm, dilation=dilation) for _ in range(count - 1)]
    return nn.Sequential(*rows)


def conv3x3(inplanes: int, planes: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Returns a 3x3 convolution without bias whose padding is its dilation."""
    return nn.Conv2d(inplanes, planes, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def scaled(channels: int, width_multiplier: float) -> int:
    """Returns a number of channels times the multiplier, rounded, at least 4."""
    return max(4, round(channels * width_multiplier))


def check_width(value: float, key: str) -> None:
    """Raises ValueError if a width multiplier is not positive."""
    if value <= 0:
        raise ValueError(f"{key}.WIDTH_MULTIPLIER: expected above 0, got {value}.")


class _NarrowShortcut(nn.Sequential):
    """A strided 1x1 convolution to at most 16 channels, and its norm.

    oneDNN (torch 2.14) writes past its buffers in the backward pass of this convolution, in channels-last on a CPU, for
    maps of 48 x 48 and more. In this case the input is subsampled first and the convolution has stride 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, H, W] to [N, planes, H/stride, W/stride]."""
        if not (self.training and x.device.type == "cpu" and max(x.shape[-2:]) > 40):
            return cast(Tensor, super().forward(x))
        conv, norm = self
        down, across = cast(nn.Conv2d, conv).stride
        return cast(Tensor, norm(F.conv2d(x[..., ::down, ::across], cast(nn.Conv2d, conv).weight)))


def _shortcut(inplanes: int, outplanes: int, stride: int, norm: str) -> nn.Sequential | None:
    if stride == 1 and inplanes == outplanes:
        return None
    conv = nn.Conv2d(inplanes, outplanes, 1, stride=stride, bias=False)
    shortcut = _NarrowShortcut if stride > 1 and outplanes <= 16 else nn.Sequential
    return shortcut(conv, make_norm(norm, outplanes))

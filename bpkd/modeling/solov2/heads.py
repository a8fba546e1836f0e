"""The heads of SOLOv2: category logits and kernels of the grid cells, and the mask features for the kernels.

Source: Wang et al., "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020; layout of mmdetection 3.3.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from .deform import ModulatedDeformConv2d

DCN_CHOICES = ("none", "last", "all")


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes [N, C, h, w] bilinearly to ``size`` (height, width), with align_corners False."""
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)


def with_coordinates(x: Tensor) -> Tensor:
    """Appends two channels to [N, C, h, w]: x, then y, each from -1 to 1 over the whole map."""
    n, _, height, width = x.shape
    xs = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype).view(1, 1, 1, width).expand(n, 1, height, width)
    ys = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype).view(1, 1, height, 1).expand(n, 1, height, width)
    return torch.cat([x, xs, ys], 1)


def conv(in_channels: int, out_channels: int, side: int, *, bias: bool, deform: bool = False) -> nn.Module:
    """Returns a convolution that keeps the size, with normal weights of standard deviation 0.01 and offsets 0."""
    layer: nn.Module
    if deform:
        layer = ModulatedDeformConv2d(in_channels, out_channels, side, padding=side // 2, bias=bias)
    else:
        layer = nn.Conv2d(in_channels, out_channels, side, padding=side // 2, bias=bias)
    nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def unit(in_channels: int, out_channels: int, side: int, *, norm: str, deform: bool = False) -> list[nn.Module]:
    """Returns convolution, norm and ReLU; with a norm of "" the convolution has a bias and there is no norm."""
    layer = conv(in_channels, out_channels, side, bias=not norm, deform=deform)
    return [layer, get_norm(norm, out_channels) or nn.Identity(), nn.ReLU(inplace=True)]


class InstanceHead(nn.Module):
    """Predicts the category logits and mask kernels of every grid cell of every level."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_grids: Sequence[int],
        kernel_channels: int,
        channels: int = 512,
        num_convs: int = 4,
        norm: str = "GN",
        dcn: str = "none",
    ) -> None:
        """Builds two stacks of convolutions that all levels share.

        Args:
            in_channels: Number of channels of the pyramid's maps.
            num_classes: Number of classes K without background.
            num_grids: Number S of the S x S grid cells per level, the level with the largest maps first.
            kernel_channels: Number E of channels of a mask kernel.
            channels: Number of channels of the convolutions in the stacks.
            num_convs: Number of convolutions of a stack.
            norm: Detectron2's name of the norm, "" for none.
            dcn: Which convolutions of a stack are deformable: "none", "last" or "all".

        Raises:
            ValueError: ``dcn`` is unknown, or there are fewer than three levels.
        """
        super().__init__()
        if dcn not in DCN_CHOICES:
            raise ValueError(f"MODEL.SOLOV2.DCN: expected one of {', '.join(DCN_CHOICES)}, got {dcn!r}.")
        if len(num_grids) < 3:
            raise ValueError(f"MODEL.SOLOV2.NUM_GRIDS: expected three levels or more, got {list(num_grids)}.")
        self.num_classes, self.num_grids, self.kernel_channels = num_classes, tuple(num_grids), kernel_channels

        def stack(width: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for n in range(num_convs):
                deform = dcn == "all" or (dcn == "last" and n == num_convs - 1)
                layers += unit(width if n == 0 else channels, channels, 3, norm=norm, deform=deform)
            return nn.Sequential(*layers)

        self.cate_tower, self.kernel_tower = stack(in_channels), stack(in_channels + 2)
        last = channels if num_convs else in_channels
        self.cate_pred = conv(last, num_classes, 3, bias=True)
        self.kernel_pred = conv(channels if num_convs else in_channels + 2, kernel_channels, 3, bias=True)
        nn.init.constant_(self.cate_pred.bias, -math.log(99.0))  # type: ignore[arg-type] # a prior of 1 %

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps P2..P6 to category logits [N, K, S, S] and kernels [N, E, S, S], one of each per level.

        The first map is resized to half its size and the last one to the size of the one before it.

        Raises:
            ValueError: the numbers of maps and grids differ.
        """
        if len(pyramid) != len(self.num_grids):
            raise ValueError(
                f"MODEL.SOLOV2: expected as many IN_FEATURES as NUM_GRIDS, got {len(pyramid)} maps for "
                f"{len(self.num_grids)} grids."
            )
        first, last = pyramid[0], pyramid[-2].shape[-2:]
        half = (max(first.shape[-2] // 2, 1), max(first.shape[-1] // 2, 1))
        maps = [resize(first, half), *pyramid[1:-1], resize(pyramid[-1], last)]
        logits, kernels = [], []
        for x, grid in zip(maps, self.num_grids, strict=True):
            cells = resize(with_coordinates(x), (grid, grid))
            kernels.append(self.kernel_pred(self.kernel_tower(cells)))
            logits.append(self.cate_pred(self.cate_tower(cells[:, :-2])))
        return logits, kernels


class MaskHead(nn.Module):
    """Computes mask features at stride 4 from several levels of the pyramid."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int,
        out_channels: int,
        channels: int = 128,
        norm: str = "GN",
        dcn: bool = False,
    ) -> None:
        """Builds a tower per level: max(1, i) convolutions at level i, each but level 0's followed by a x2 resize.

        Args:
            in_channels: Number of channels of the pyramid's maps.
            num_levels: Number of pyramid maps that are used, stride 4 first, each half the size of the one before.
            out_channels: Number E of channels of the mask features.
            channels: Number of channels of the convolutions in the towers.
            norm: Detectron2's name of the norm, "" for none.
            dcn: Whether every convolution is deformable.
        """
        super().__init__()
        self.convs_all_levels = nn.ModuleList()
        for i in range(num_levels):
            tower = nn.Module()
            for j in range(max(1, i)):
                # The last level has the coordinates as two more channels.
                width = channels if j else in_channels + 2 * (i == num_levels - 1)
                tower.add_module(f"conv{j}", nn.Sequential(*unit(width, channels, 3, norm=norm, deform=dcn)))
            self.convs_all_levels.append(tower)
        self.conv_pred = nn.Sequential(*unit(channels, out_channels, 1, norm=norm, deform=dcn))

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps P2..P5 to mask features [N, E, H/4, W/4], not negative, and the towers that they are made from."""
        towers = []
        for i, (x, tower) in enumerate(zip(pyramid, self.convs_all_levels, strict=True)):
            out = with_coordinates(x) if i == len(pyramid) - 1 else x
            for part in tower.children():
                out = part(out)
                if i:
                    out = F.interpolate(out, scale_factor=2, mode="bilinear", align_corners=False)
            towers.append(out)
        return self.conv_pred(sum(towers[1:], start=towers[0])), towers

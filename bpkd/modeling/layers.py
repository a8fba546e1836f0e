"""Normalisation layers, convolution blocks, resizing and pooling that heads and backbones use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.distributed as dist
from detectron2.layers import FrozenBatchNorm2d
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn
from torch.nn import functional as F


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes, for CPU tensors, which `torch.nn.SyncBatchNorm` refuses.

    Every value has the same weight in the statistics, whatever each process's batch size, so training with P processes
    equals training with one process on the joint batch. In evaluation and with one process it is plain batch norm.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises [N, C, H, W] by the joint batch's mean and variance per channel."""
        if not self.training or _world_size() == 1:
            return super().forward(input)
        x = input.float()
        count = differentiable_all_reduce(x.new_tensor([float(x.numel() // x.shape[1])]))
        mean = differentiable_all_reduce(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean[:, None, None]
        # Two passes: E[x^2] - E[x]^2 would lose digits where the mean is large.
        var = differentiable_all_reduce((centred * centred).sum(dim=(0, 2, 3))) / count
        scale = self.weight * torch.rsqrt(var + self.eps)
        self._track(mean.detach(), (var * count / (count - 1)).detach())
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        share = cast(float, self.momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)
        cast(Tensor, self.running_mean).lerp_(mean, share)
        cast(Tensor, self.running_var).lerp_(unbiased_var, share)


NORMS: dict[str, type[nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "CpuSyncBN": CpuSyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
}


def make_norm(name: str, channels: int) -> nn.Module:
    """Returns a batch norm with eps 1e-5 and momentum 0.1.

    Args:
        name: "BN", "SyncBN", "CpuSyncBN" or "FrozenBN".
        channels: Number of channels.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in NORMS:
        raise ValueError(f"NORM: expected one of {', '.join(NORMS)}, got {name!r}.")
    return NORMS[name](channels)


def norm_for_device(name: str, device: str) -> str:
    """Returns the equivalent norm for ``device``: "CpuSyncBN" in place of torch's SyncBN, which needs a GPU."""
    return "CpuSyncBN" if name == "SyncBN" and torch.device(device).type == "cpu" else name


ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"relu": F.relu, "relu6": F.relu6}


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, activation; the parameter names are `conv` and `bn`."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        *,
        norm: str,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: str = "relu",
    ) -> None:
        """Builds the block; at stride 1 the padding keeps the size.

        Args:
            in_channels: Number of input channels.
            channels: Number of output channels.
            kernel_size: Side of the kernel, odd.
            norm: name for `make_norm`.
            stride: Stride of the convolution.
            dilation: Dilation of the convolution.
            groups: Number of groups of the convolution; ``in_channels`` groups make it depthwise.
            activation: Activation after the norm: "relu", "relu6" or "" for none.
        """
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.bn = make_norm(norm, channels)
        self.activation = activation
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, in_channels, H, W] to [N, channels, H/stride, W/stride].

        Raises:
            RuntimeError: batch norm in training gets a single value per channel, which it cannot normalise.
        """
        x = self.conv(x)
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            self._refuse_single_value()
        x = self.bn(x)
        return ACTIVATIONS[self.activation](x, inplace=True) if self.activation else x

    def _refuse_single_value(self) -> None:
        alone = isinstance(self.bn, nn.BatchNorm2d) and not isinstance(self.bn, CpuSyncBatchNorm)
        synced = isinstance(self.bn, (nn.SyncBatchNorm, CpuSyncBatchNorm))
        if alone or (synced and _world_size() == 1):
            raise RuntimeError(
                "Batch norm in training expected at least 2 values per channel, got 1: this process holds one image "
                "and the layer pools it to 1x1 (bin 1 of the pyramid, the image pool). Give each process 2 images or "
                "more (SOLVER.IMS_PER_BATCH), or set NORM: SyncBN and train with several processes, or NORM: FrozenBN."
            )


class SeparableConvBlock(nn.Module):
    """Depthwise k x k convolution block, then a pointwise block, each with a ReLU.

    The parameter names are `depthwise_conv` and `pointwise_conv`.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int, *, norm: str, dilation: int = 1) -> None:
        """Builds both blocks; the arguments are those of `ConvBlock`."""
        super().__init__()
        self.depthwise_conv = ConvBlock(
            in_channels, in_channels, kernel_size, norm=norm, dilation=dilation, groups=in_channels
        )
        self.pointwise_conv = ConvBlock(in_channels, channels, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, in_channels, H, W] to [N, channels, H, W]."""
        return self.pointwise_conv(self.depthwise_conv(x))


def recording() -> bool:
    """Returns whether a trace or an export is recording a graph for images of other sizes.

    The graph must then contain operations that only some sizes need. The paper's FLOPs, which are counted on a trace,
    contain them too.
    """
    exporting = getattr(torch.compiler, "is_exporting", None)  # newer than the oldest torch that is allowed
    return torch.jit.is_tracing() or (exporting is not None and exporting())


def resize(x: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Resizes [N, C, H, W] bilinearly to ``size``.

    Outside of `recording`, a map that already has the size is returned unchanged, and a 1 x 1 map is expanded without a
    copy.
    """
    if not recording():
        if x.shape[2:] == tuple(size):
            return x
        if x.shape[2] == x.shape[3] == 1:
            return x.expand(-1, -1, *size)
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _bins(
    size: tuple[int, int], scales: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns the 0/1 matrix from positions to pooling bins, times powers of two, and the factors left to the means."""
    rows = []
    for scale in scales:
        sides = []
        for cells in size:
            i, at = torch.arange(scale)[:, None], torch.arange(cells)
            sides.append((at >= i * cells // scale) & (at < -(-(i + 1) * cells // scale)))
        rows.append((sides[0][:, None, :, None] & sides[1][None, :, None, :]).flatten(2).flatten(0, 1))
    inside = torch.cat(rows)
    share = 1 / inside.sum(1)
    power = torch.exp2(torch.floor(torch.log2(share)))  # no rounding, and no sum that overflows in half precision
    return (inside * power[:, None]).to(device, dtype), (share / power).to(device)


def pyramid_pool(x: Tensor, scales: Sequence[int]) -> list[Tensor]:
    """Applies adaptive average pooling of [N, C, h, w] to several grids at once, as one matrix product.

    It equals ``[F.adaptive_avg_pool2d(x, s) for s in scales]`` up to rounding. On a GPU, torch's kernels for it take
    milliseconds when the bins are few and large, and their backward pass is not deterministic.

    Args:
        x: Feature maps [N, C, h, w].
        scales: Sides s of the grids.

    Returns:
        A grid [N, C, s, s] per scale s, in the type of ``x``.
    """
    n, c, h, w = x.shape
    bins, missing = _bins((h, w), tuple(scales), x.dtype, x.device)
    if x.is_contiguous(memory_format=torch.channels_last):
        pooled = torch.matmul(bins, x.permute(0, 2, 3, 1).flatten(1, 2)).transpose(1, 2)
    else:
        pooled = torch.matmul(x.flatten(2), bins.T)
    pooled = (pooled * missing).to(x.dtype)
    parts = pooled.split([s * s for s in scales], 2)
    return [part.reshape(n, c, s, s) for part, s in zip(parts, scales, strict=True)]


def init_convolutions(module: nn.Module) -> None:
    """Initialises in place: Kaiming normal (fan_out, ReLU gain) for convolutions, weight 1 and bias 0 for batch norms.

    Source: OpenMMLab's initialisation of segmentation networks without pretrained weights.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.modules.batchnorm._BatchNorm):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

"""Projection of student features to the teacher's embedding; used in training only."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ranks import sum_over_ranks, world_size


class JointBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes' values, on any device. With one process, or in evaluation, plain batch norm.

    Not torch's own SyncBatchNorm: DDP refuses a CPU module that holds one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises float32 [N, C, h, w] by the joint batch's mean and variance per channel."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        sums = torch.cat([input.sum((0, 2, 3)), input.new_tensor([float(input.numel() // input.shape[1])])])
        sums = sum_over_ranks(sums)
        count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = input - mean[:, None, None]
        var = sum_over_ranks((centred * centred).sum((0, 2, 3))) / count
        cast(Tensor, self.num_batches_tracked).add_(1)
        for running, value in ((self.running_mean, mean), (self.running_var, var * count / (count - 1))):
            cast(Tensor, running).lerp_(value.detach(), cast(float, self.momentum))
        scale = self.weight * torch.rsqrt(var + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]


class ProjectionHead(nn.Module):
    """1x1 convolution, batch norm over all processes, ReLU, 1x1 convolution; no biases."""

    def __init__(self, in_channels: int, channels: int, hidden_channels: int = 0) -> None:
        """Builds the head; ``hidden_channels`` 0 means ``channels``."""
        super().__init__()
        hidden = hidden_channels or channels
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.norm = JointBatchNorm(hidden)
        self.conv2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Maps [N, in_channels, h, w] to [N, channels, h, w], in float32 whatever autocast says."""
        with torch.autocast(features.device.type, enabled=False):
            out: Tensor = self.conv2(F.relu(self.norm(self.conv1(features.float()))))
            return out

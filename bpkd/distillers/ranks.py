"""Communication of distillers between processes. With one process nothing is sent.

Training averages the gradients over the processes (DistributedDataParallel). A term that is a mean over the images of
its own process needs nothing of this. A term that is a function of sums over the joint batch computes the sums by
`sum_over_ranks`; every process then has the same value, and the averaged gradients are those of the joint batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns this process's number."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_ranks(x: Tensor) -> list[Tensor]:
    """Returns the processes' tensors in the order of their ranks, without gradient; their shapes must agree."""
    x = x.detach().contiguous()
    if world_size() == 1:
        return [x]
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return parts


def sum_over_ranks(x: Tensor) -> Tensor:
    """Returns the sum of the processes' tensors; its gradient is the sum of the processes' gradients.

    Every process has to call it equally often, with the same shape.

    Args:
        x: sums over the images of this process, any shape.

    >>> sum_over_ranks(torch.tensor([1.0, 2.0]))  # one process
    tensor([1., 2.])
    """
    if world_size() == 1:
        return x
    total: Tensor = _SumOverRanks.apply(x)
    return total


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

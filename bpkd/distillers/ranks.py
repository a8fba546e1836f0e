"""What a distiller needs of other processes. With one process nothing is sent."""

from __future__ import annotations

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

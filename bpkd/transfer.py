"""From the CPU to a GPU without waiting for it.

A copy from ordinary (pageable) memory first waits until the GPU has done all its work; one from page-locked (pinned)
memory is queued like a kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor


def send(x: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device; a copy from the CPU to a GPU goes through pinned memory and is not waited for."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)

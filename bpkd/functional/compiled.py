"""The losses through ``torch.compile``: the portable middle between eager PyTorch and kernels of our own.

It needs what torch's compiler needs (a C++ compiler for the CPU, Triton for a GPU) and takes seconds to minutes for the
first call of each shape, so it runs only where it was asked for.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .paths import first_line

logger = logging.getLogger(__name__)
_broken: list[str] = []  # why the compiler does not work here


def obstacle() -> str:
    """Returns why compiled functions cannot run; empty: as far as is known they can."""
    return _broken[0] if _broken else ""


def _literal_divergence(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    log_p = F.log_softmax(teacher, dim)
    return (log_p.exp() * (log_p - F.log_softmax(student, dim))).sum(dim)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_literal_divergence, dynamic=False)


def divergence(student: Tensor, teacher: Tensor, dim: int) -> Tensor | None:
    """KL(softmax(teacher) || softmax(student)) summed over ``dim``; None where the compiler fails (logged)."""
    try:
        return _compiled()(student, teacher, dim)
    except Exception as error:  # noqa: BLE001 - whatever a compiler's tool chain raises
        _broken.append(f"torch.compile failed here ({first_line(error)})")
        logger.warning("%s; the eager form runs.", _broken[0])
        return None

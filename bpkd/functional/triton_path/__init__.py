"""Kernels in Triton for CUDA tensors: losses and edge masks. Imported where the path is taken, not before."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from bpkd.functional import paths

TYPES = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def unavailable() -> str:
    """Returns why the kernels cannot be loaded; empty: they are."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    try:
        from . import entropy, losses, masks  # noqa: F401
    except Exception as error:  # noqa: BLE001 - another version of Triton may raise anything
        return f"Triton does not load the kernels ({paths.first_line(error)})"
    return ""


def interpreted() -> bool:
    """Whether Triton interprets the kernels (``TRITON_INTERPRET=1``), which runs them on the CPU, slowly."""
    from triton.runtime.interpreter import InterpretedFunction

    from . import row_kernels

    return isinstance(row_kernels.rows_kernel, InterpretedFunction)


def obstacle(*tensors: Tensor) -> str:
    """Returns why the kernels cannot take these tensors; empty: they can.

    On the CPU they run interpreted, where the path was asked for by name.
    """
    if torch.compiler.is_compiling():
        return "a compiler is tracing"
    cuda = all(x.is_cuda for x in tensors)
    if not cuda and paths.asked_path() != "triton":
        return "it runs on CUDA alone"
    reason = unavailable()
    if reason:
        return reason
    if not cuda and not interpreted():
        return "it runs on CUDA alone (and interpreted on the CPU: TRITON_INTERPRET=1)"
    return "" if all(x.numel() for x in tensors) else "a tensor is empty"


def map_obstacle(*maps: Tensor) -> str:
    """Returns why the losses cannot take these maps; empty: they can."""
    if any(x.dtype not in TYPES for x in maps):
        return "it takes float32, float16 and bfloat16"
    return obstacle(*maps)

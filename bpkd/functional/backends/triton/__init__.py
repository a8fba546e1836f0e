"""The backend "triton": losses and edge masks as Triton kernels for CUDA tensors.

Triton and the kernels are imported where the backend is used, not before.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from bpkd.functional.backends.errors import first_line
from bpkd.functional.backends.settings import requested_backend

TYPES = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def unavailable_reason() -> str | None:
    """Returns why the kernels cannot be loaded; None: they are."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    try:
        from . import functions  # noqa: F401
    except Exception as error:  # noqa: BLE001 - another version of Triton may raise anything
        return f"Triton does not load the kernels ({first_line(error)})"
    return None


def interpreted() -> bool:
    """Whether Triton interprets the kernels (``TRITON_INTERPRET=1``), which runs them on the CPU, slowly."""
    from triton.runtime.interpreter import InterpretedFunction

    from . import row_kernels

    return isinstance(row_kernels.rows_kernel, InterpretedFunction)


def unsupported_reason(*tensors: Tensor) -> str | None:
    """Returns why the kernels cannot take these tensors; None: they can.

    On the CPU they run interpreted, and only where the backend was requested by name.
    """
    if torch.compiler.is_compiling():
        return "a compiler is tracing"
    cuda = all(x.is_cuda for x in tensors)
    if not cuda and requested_backend() != "triton":
        return "it runs on CUDA alone"
    reason = unavailable_reason()
    if reason:
        return reason
    if not cuda and not interpreted():
        return "it runs on CUDA alone (and interpreted on the CPU: TRITON_INTERPRET=1)"
    return None if all(x.numel() for x in tensors) else "a tensor is empty"


def unsupported_dtype(*maps: Tensor) -> str | None:
    """Returns why the losses cannot take maps of these types; None: they can."""
    if any(x.dtype not in TYPES for x in maps):
        return "it takes float32, float16 and bfloat16"
    return None

"""Chooses the implementation of a function: reference, C++ or Triton.

Every function below has a reference in plain PyTorch, which defines what is correct, and faster implementations with
the same result. Which one runs depends on what was requested (``settings``), on the device and on what is installed:

    auto    the fastest one that is available and checked on this device (the default)
    eager   the reference
    cpp     the C++ library, on the CPU
    triton  Triton kernels, on CUDA; "auto" takes them for a function only after a check (``triton.self_check``)

Each choice is logged once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bpkd.functional import reference
from bpkd.functional.structures import BoundaryOptions, CrossEntropyOptions, EdgeMask, EdgeWindow

from . import native, triton
from .native import edges as native_edges
from .native import losses as native_losses
from .settings import requested_backend
from .triton import self_check

AUTO = ("cpp", "triton")  # the order in which "auto" tries them
logger = logging.getLogger(__name__)


class Backend(Protocol):
    """Functions of a backend. Their arguments are those of the public functions, after the checks."""

    def channel_kd(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """See ``bpkd.functional.channel_kd``."""

    def pixel_kd(self, student: Tensor, teacher: Tensor, temperature: float, *, valid: Tensor | None = None) -> Tensor:
        """See ``bpkd.functional.pixel_kd``."""

    def boundary_kd(
        self,
        student: Tensor,
        teacher: Tensor,
        edges: EdgeMask,
        options: BoundaryOptions,
        *,
        weights: tuple[float, float],
    ) -> tuple[Tensor, Tensor]:
        """See ``bpkd.functional.boundary_kd``."""

    def upsampled_cross_entropy(self, logits: Tensor, target: Tensor, options: CrossEntropyOptions) -> Tensor:
        """See ``bpkd.functional.upsampled_cross_entropy``."""

    def class_edge_masks(
        self, labels: Tensor, num_classes: int, sizes: Sequence[tuple[int, int]], window: EdgeWindow
    ) -> list[Tensor]:
        """See ``bpkd.functional.class_edge_mask``; one mask per size."""

    def class_edges(self, labels: Tensor, num_classes: int, size: tuple[int, int], window: EdgeWindow) -> EdgeMask:
        """See ``bpkd.functional.class_edges``."""


@dataclass(frozen=True)
class Choice:
    """A decision, as it is logged.

    Attributes:
        function: name of the function.
        device: type of the tensors' device.
        backend: "eager", "cpp" or "triton".
        reason: why this backend was chosen.
    """

    function: str
    device: str
    backend: str
    reason: str


_choices: dict[Choice, None] = {}  # in the order in which they were made


def choices() -> list[Choice]:
    """Returns the choices of this process so far, each once."""
    return list(_choices)


def loss_backend(function: str, *maps: Tensor) -> Backend:
    """Chooses the backend of one call of a loss.

    Args:
        function: name of the loss.
        maps: student's and teacher's logits, or logits and labels of ``upsampled_cross_entropy``.
    """
    floats = maps[:1] if function == "upsampled_cross_entropy" else maps
    reasons = {
        "cpp": native_losses.unsupported_reason(*maps),
        "triton": triton.unsupported_dtype(*floats) or triton.unsupported_reason(*maps),
    }
    return implementation(choose(function, maps[0].device, reasons, tuple(x.dtype for x in maps)))


def mask_backend(labels: Tensor, num_classes: int) -> Backend:
    """Chooses the backend that makes the edge masks of [N, H, W] labels."""
    reasons = {
        "cpp": native_edges.unsupported_reason(labels, num_classes),
        "triton": triton.unsupported_reason(labels),
    }
    return implementation(choose("class_edge_mask", labels.device, reasons, (labels.dtype,)))


def implementation(backend: str) -> Backend:
    """Returns the functions of "eager", "cpp" or "triton"."""
    if backend == "triton":
        from .triton import functions  # Triton is imported where it is used

        return functions
    return native if backend == "cpp" else reference


def choose(
    function: str, device: torch.device, reasons: Mapping[str, str | None], types: tuple[torch.dtype, ...]
) -> str:
    """Chooses the backend of one call, and logs the choice the first time it is made.

    Args:
        function: name of the function, for the log.
        device: device of the tensors.
        reasons: for each backend besides "eager": why it cannot run this call; None: it can.
        types: types of the tensors; what Triton compiles, and what its check proves, is for these.

    Returns:
        "eager" or a backend without a reason.
    """
    tracing = torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    if tracing or torch.compiler.is_compiling():
        return "eager"  # a tracer cannot record the others
    requested = requested_backend()
    if requested == "eager" or (requested != "auto" and reasons[requested] is None):
        return _logged(Choice(function, device.type, requested, f"{requested} was asked for"))
    found, passed, severity = _first_usable(function, device, reasons, types)
    if requested == "auto":
        reason = "; ".join(passed) or "the fastest here"
        return _logged(Choice(function, device.type, found, reason), severity)
    reason = f"{requested} was asked for, but {reasons[requested]}"
    return _logged(Choice(function, device.type, found, reason), logging.WARNING)


def _first_usable(
    function: str, device: torch.device, reasons: Mapping[str, str | None], types: tuple[torch.dtype, ...]
) -> tuple[str, list[str], int]:
    """Returns the first backend that can run, why each before it cannot, and the level of the log message."""
    passed: list[str] = []
    severity = logging.INFO
    for backend in AUTO:
        reason = reasons[backend]
        if backend == "triton" and reason is None:
            reason = self_check.failure(function, device, types)
            severity = logging.WARNING if reason else severity
        if reason is None:
            return backend, passed, severity
        passed.append(f"{backend}: {reason}")
    return "eager", passed, severity


def _logged(choice: Choice, severity: int = logging.INFO) -> str:
    if choice not in _choices:
        _choices[choice] = None
        text = "%s on %s runs the backend %s (%s)."
        logger.log(severity, text, choice.function, choice.device, choice.backend, choice.reason)
    return choice.backend

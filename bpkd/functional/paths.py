"""The one decision point: which implementation of a function runs.

A function of this room has an eager form in plain PyTorch, the truth that the others are tested against, and faster
ones with the same result. Which one runs depends on what was asked for, on the device and on what is installed:

    auto      the fastest one that is proven here (the default)
    eager     plain PyTorch
    compiled  without an extension of ours: torch.compile of the eager losses; OpenCV and NumPy for the masks
    cpp       the C++ extension, on the CPU
    triton    Triton kernels, on CUDA; "auto" takes them for a function only after a check (``triton_path.self_check``)

``set_path`` and ``use_path`` ask for one, else the environment variable ``BPKD_PATH``. Each choice is logged once.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping

import torch

PATHS = ("auto", "eager", "compiled", "cpp", "triton")
VARIABLE = "BPKD_PATH"
logger = logging.getLogger(__name__)
_asked: list[str] = []  # by set_path: one entry or none
_trial: list[str] = []  # a path that is being checked: one entry or none
_logged: set[tuple[str, ...]] = set()


def _check(path: str, origin: str) -> str:
    if path not in PATHS:
        raise ValueError(f"{origin}: expected one of {', '.join(PATHS)}, got {path!r}.")
    return path


def set_path(path: str | None) -> None:
    """Asks for a path in this process; None: the environment variable ``BPKD_PATH`` decides again.

    Raises:
        ValueError: there is no such path.
    """
    _asked[:] = [] if path is None else [_check(path, "path")]


def asked_path() -> str:
    """Returns the path that is asked for: by ``set_path``, else by ``BPKD_PATH``, else "auto".

    Raises:
        ValueError: ``BPKD_PATH`` names none.
    """
    return _asked[0] if _asked else _check(os.environ.get(VARIABLE) or "auto", VARIABLE)


@contextlib.contextmanager
def use_path(path: str) -> Iterator[None]:
    """Asks for a path within a ``with`` block.

    Raises:
        ValueError: there is no such path.
    """
    before = list(_asked)
    set_path(path)
    try:
        yield
    finally:
        _asked[:] = before


@contextlib.contextmanager
def trial(path: str) -> Iterator[None]:
    """Runs a path within a ``with`` block whatever is asked for, and logs nothing: for a path's own check."""
    before = list(_trial)
    _trial[:] = [path]
    try:
        yield
    finally:
        _trial[:] = before


def choose(
    function: str,
    device: torch.device,
    obstacles: Mapping[str, str],
    *,
    auto: tuple[str, ...],
    types: tuple[torch.dtype, ...],
) -> str:
    """Chooses the path of one call, and logs the choice the first time it is made.

    Args:
        function: its name, for the log.
        device: of the tensors.
        obstacles: for every path that the function has, besides "eager": why it cannot run now; empty: it can.
        auto: the paths that are proven faster than "eager", best first.
        types: of the tensors; what Triton compiles, and what its check proves, is for these.

    Returns:
        "eager" or a path of ``obstacles`` without an obstacle.
    """
    if _trial:
        return _trial[0]
    asked = asked_path()
    tracing = torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    if tracing or torch.compiler.is_compiling():
        return "eager"  # the others are opaque to a tracer
    if asked == "eager" or not obstacles.get(asked, "none"):
        return _told(function, device, asked, f"{asked} was asked for")
    found, passed, severity = _first_free(function, device, obstacles, candidates=auto, types=types)
    if asked == "auto":
        why = "; ".join(passed) or "the fastest here"
        return _told(function, device, found, why, severity)
    reason = obstacles.get(asked, "the function has no such path")
    return _told(function, device, found, f"{asked} was asked for, but {reason}", logging.WARNING)


def _first_free(
    function: str,
    device: torch.device,
    obstacles: Mapping[str, str],
    *,
    candidates: tuple[str, ...],
    types: tuple[torch.dtype, ...],
) -> tuple[str, list[str], int]:
    """Returns the first path that can run, why each before it cannot, and how loud that is to be said."""
    passed: list[str] = []
    severity = logging.INFO
    for path in candidates:
        reason = obstacles[path]
        if path == "triton" and not reason:
            from .triton_path.self_check import failure  # Triton is imported where it is used

            reason = failure(function, device, types)
            severity = logging.WARNING if reason else severity
        if not reason:
            return path, passed, severity
        passed.append(f"{path}: {reason}")
    return "eager", passed, severity


def refuse_second_derivative(path: str) -> None:
    """To be called in a backward that hands on a finished gradient.

    Raises:
        RuntimeError: create_graph is on: the finished gradient would count as a constant, silently.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"expected no create_graph, got it: the path {path} has no second derivative. use_path('eager')."
        )


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, else its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _told(function: str, device: torch.device, path: str, why: str, severity: int = logging.INFO) -> str:
    key = (function, device.type, path, why)
    if key not in _logged:
        _logged.add(key)
        logger.log(severity, "%s on %s runs the path %s (%s).", function, device.type, path, why)
    return path

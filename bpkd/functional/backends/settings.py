"""The backend that the user requests: by ``set_backend`` or ``use_backend``, else by BPKD_BACKEND."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator

BACKENDS = ("auto", "eager", "cpp", "triton")
VARIABLE = "BPKD_BACKEND"
OLD_VARIABLE = "BPKD_PATH"
_requested: list[str] = []  # by set_backend: one entry or none


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, FutureWarning, stacklevel=2)


def _checked(backend: str, origin: str) -> str:
    if backend == "compiled":
        _warn_once(f"{origin}: the backend 'compiled' was removed, 'eager' runs in its place. Use 'auto' or 'eager'.")
        return "eager"
    if backend not in BACKENDS:
        raise ValueError(f"{origin}: expected one of {', '.join(BACKENDS)}, got {backend!r}.")
    return backend


def set_backend(backend: str | None) -> None:
    """Requests a backend in this process.

    Args:
        backend: "auto" (the fastest one available and checked), "eager" (plain PyTorch, the reference), "cpp" or
            "triton"; None: the environment variable ``BPKD_BACKEND`` decides again.

    Raises:
        ValueError: there is no such backend.

    Example:
        >>> from bpkd.functional import set_backend
        >>> set_backend("eager")
        >>> set_backend(None)
    """
    _requested[:] = [] if backend is None else [_checked(backend, "backend")]


def requested_backend() -> str:
    """Returns the backend that is requested: by ``set_backend``, else by ``BPKD_BACKEND``, else "auto".

    Raises:
        ValueError: ``BPKD_BACKEND`` names none.
    """
    if _requested:
        return _requested[0]
    if os.environ.get(VARIABLE):
        return _checked(os.environ[VARIABLE], VARIABLE)
    if os.environ.get(OLD_VARIABLE):
        _warn_once(f"The environment variable {OLD_VARIABLE} is now called {VARIABLE}.")
        return _checked(os.environ[OLD_VARIABLE], OLD_VARIABLE)
    return "auto"


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Requests a backend within a ``with`` block.

    Args:
        backend: as in ``set_backend``.

    Raises:
        ValueError: there is no such backend.

    Example:
        >>> from bpkd.functional import channel_kd, use_backend
        >>> logits = torch.zeros(1, 2, 2, 2)
        >>> with use_backend("eager"):
        ...     channel_kd(logits, logits)
        tensor(0.)
    """
    before = list(_requested)
    set_backend(backend)
    try:
        yield
    finally:
        _requested[:] = before

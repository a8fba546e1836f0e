"""Deprecated: ``bpkd.functional.backends`` has these names now."""

from __future__ import annotations

import warnings

from .backends import settings

_RENAMED = {
    "PATHS": "BACKENDS",
    "asked_path": "requested_backend",
    "set_path": "set_backend",
    "use_path": "use_backend",
}


def __getattr__(name: str) -> object:
    """Finds a setting by its old name, with a warning."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = f"{settings.__name__}.{_RENAMED[name]}"
    warnings.warn(f"{__name__}.{name} is now {new}.", DeprecationWarning, stacklevel=2)
    return getattr(settings, _RENAMED[name])

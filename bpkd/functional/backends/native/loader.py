"""Loads the C++ library. Nothing is compiled here.

setup.py builds one plain shared library per instruction set, without headers of Python or PyTorch; the best one that
this processor runs is loaded on first use. Without a compiler at install there is none, and another backend runs.
The environment variable ``BPKD_NATIVE_LEVEL`` pins one (base, avx2, avx512), or none as if nothing were built.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch

from .openmp import share_runtime

# torch's name of the processor's instruction set -> libraries that run on it, best first.
LEVELS = {"AVX512": ("avx512", "avx2", "base"), "AVX2": ("avx2", "base")}
VARIABLE, PINS = "BPKD_NATIVE_LEVEL", ("none", "base", "avx2", "avx512")
INTERFACE = 2  # of the C functions: a library that was built from other sources is not called
_FOLDER = Path(__file__).parent
_SUFFIXES = (".so", ".pyd", ".dylib")
_POINTER, _INT, _I64, _F64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
_SIGNATURES = {
    "bpkd_edges": (_POINTER, [_POINTER, _INT, _POINTER, _I64, _INT, _POINTER, _INT]),
    "bpkd_edges_count": (_I64, [_POINTER]),
    "bpkd_edges_rows": (None, [_POINTER] * 4),
    "bpkd_edges_free": (None, [_POINTER]),
    "bpkd_rows_of": (None, [_POINTER] * 5 + [_INT]),
    "bpkd_channel_kd": (_F64, [_POINTER] * 3 + [_F64, _POINTER, _INT]),
    "bpkd_pixel_kd": (_F64, [_POINTER] * 3 + [_F64, _POINTER, _F64, _POINTER, _INT]),
    "bpkd_boundary_kd": (None, [_POINTER] * 3 + [_F64] + [_POINTER] * 8 + [_INT]),
    "bpkd_upsampled_cross_entropy": (_F64, [_POINTER] * 4 + [_I64, _INT, _F64, _POINTER, _INT]),
}


def requested_level() -> str:
    """Returns the instruction set that ``BPKD_NATIVE_LEVEL`` names; empty: the best one is used.

    Raises:
        ValueError: it names none.
    """
    requested = os.environ.get(VARIABLE, "")
    if requested and requested not in PINS:
        raise ValueError(f"{VARIABLE}: expected one of {', '.join(PINS)}, got {requested!r}.")
    return requested


def _runs() -> tuple[str, ...]:
    """Returns the instruction sets that torch finds in this processor, best first (ATEN_CPU_CAPABILITY limits both)."""
    return LEVELS.get(torch.backends.cpu.get_cpu_capability(), ("base",))


def _level_of(path: Path) -> str:
    return path.name.split(".")[0][1:]


def candidates() -> list[Path]:
    """Returns the built libraries that this processor runs, best first."""
    files = sorted(p for p in _FOLDER.iterdir() if p.suffix in _SUFFIXES)
    return [p for level in _runs() for p in files if _level_of(p) == level]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    """Returns the library and None, or None and the reason.

    Raises:
        ValueError: ``BPKD_NATIVE_LEVEL`` names no instruction set, or one that cannot be had here.
    """
    requested, reasons = requested_level(), list[str]()
    if requested == "none":
        return None, f"{VARIABLE} is none"
    for path in candidates():
        if requested and _level_of(path) != requested:
            continue
        try:
            share_runtime()
            library = ctypes.CDLL(str(path))
            if library.bpkd_interface() != INTERFACE:
                raise OSError("built from other sources; run `make env` or install bpkd again")
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            reasons.append(f"{path.name} does not load ({error})")
            continue
        return library, None
    reason = "; ".join(reasons) or "the C++ extension is not built (see docs/getting_started/install.md)"
    if not requested:
        return None, reason
    if requested not in _runs():
        limit = os.environ.get("ATEN_CPU_CAPABILITY")
        where = f"with ATEN_CPU_CAPABILITY={limit}" if limit else "in this processor"
        reason = f"torch finds {torch.backends.cpu.get_cpu_capability()} {where}"
    elif not reasons:
        reason = "it is not built (see docs/getting_started/install.md)"
    known = ", ".join(["none", *map(_level_of, reversed(candidates()))])
    raise ValueError(f"{VARIABLE}: expected one of {known}, got {requested!r}: {reason}. Unset it.")


def check_level() -> None:
    """Loads the library of the instruction set that ``BPKD_NATIVE_LEVEL`` names, if it is set.

    Raises:
        ValueError: it names no instruction set, or one that this processor does not run, or that is not built.
    """
    if requested_level():
        _load()


def unavailable_reason() -> str | None:
    """Returns why the library cannot be used; None: it can."""
    if torch.compiler.is_compiling():
        return "torch.compile is tracing"
    return _load()[1]


def level() -> str | None:
    """Returns the instruction set of the loaded library ("avx512", "avx2", "base"), None without one."""
    library = _load()[0]
    return None if library is None else _level_of(Path(library._name))


def library() -> ctypes.CDLL:
    """Returns the loaded library.

    Raises:
        RuntimeError: there is none; the message says why.
    """
    found, reason = _load()
    if found is None:
        raise RuntimeError(f"bpkd's C++ functions: {reason}.")
    return found


def int64s(*values: int) -> ctypes.Array[ctypes.c_int64]:
    """Returns a C array."""
    return (ctypes.c_int64 * len(values))(*values)


def int32s(*values: int) -> ctypes.Array[ctypes.c_int32]:
    """Returns a C array."""
    return (ctypes.c_int32 * len(values))(*values)


def doubles(*values: float) -> ctypes.Array[ctypes.c_double]:
    """Returns a C array."""
    return (ctypes.c_double * len(values))(*values)

"""numpy's arrays in pickles: plain numbers and texts are rebuilt, of Python objects none."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np

PLAIN = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,5})")
ORDERS = ("<", ">", "=", "|")


class DType:
    """A plain type; a pickle states its byte order after it has made it."""

    __slots__ = ("value",)

    def __init__(self, value: np.dtype[Any]) -> None:
        self.value = value

    def set_state(self, state: Any) -> int:
        """Takes the byte order from a pickled state, whose other entries are those of structures."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ORDERS:
            self.value = self.value.newbyteorder(state[1])
        return 0


class Rebuilt(np.ndarray):
    """An array from a pickle."""

    unread = ""
    """Type of the elements where they are of no plain one; the array is empty then."""

    def set_state(self, state: Any) -> int:
        """Fills the array from a pickled state and returns the bytes that this takes."""
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, DType) or not isinstance(data, str | bytes):
            self.unread = getattr(dtype, "name", "Python objects")
            return 0
        raw = data.encode("latin1") if isinstance(data, str) else data  # text in pickles of Python 2
        state = (1, shape, dtype.value, bool(fortran), raw)
        np.ndarray.__setstate__(self, cast("Any", state))
        return self.nbytes


def _dtype(code: Any, *_: Any) -> Any:
    plain = isinstance(code, str) and PLAIN.fullmatch(code)
    return DType(np.dtype(code)) if plain else NotImplemented


def _reconstruct(kind: Any, *_: Any) -> Any:
    return np.empty(0, np.uint8).view(Rebuilt) if getattr(kind, "name", "") == "numpy.ndarray" else NotImplemented


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    if not isinstance(dtype, DType) or not isinstance(data, bytes | bytearray) or order not in ("C", "F", "A", "K"):
        return NotImplemented
    return np.frombuffer(data, dtype.value).reshape(shape, order="F" if order == "F" else "C").view(Rebuilt)


def _scalar(dtype: Any, data: Any = None) -> Any:
    if not isinstance(dtype, DType) or not isinstance(data, str | bytes):
        return NotImplemented
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype.value, 1)[0].item()


# NotImplemented stands for "not of a plain type": the object becomes a placeholder.
REBUILD: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _dtype,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")  # numpy 1 and 2
        for name, function in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _frombuffer),
        )
    },
}

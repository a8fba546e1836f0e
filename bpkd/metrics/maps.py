"""Reads label maps from pictures and arrays: what holds class ids is read, all else is refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpkd.extras import need
from bpkd.images import open_image

from .folders import ARRAYS
from .ids import not_whole

Ids = NDArray[np.integer[Any]]
# EXIF's tag of the direction in which viewers turn a picture; 1: not at all.
ORIENTATION = 274


class MapReader:
    """Reads label maps, and counts what was unusual about them.

    Attributes:
        notes: files by what was unusual about them.
    """

    def __init__(self, *, argmax: int = 0, id_map: Mapping[int, int] | None = None) -> None:
        """Stores the rules.

        Args:
            argmax: number of classes K of arrays of scores [K, H, W], whose largest one is the id; 0: arrays hold ids.
            id_map: value in the file -> id; values that it does not name are ids themselves.
        """
        self.argmax, self.id_map = argmax, dict(id_map or {})
        self.notes: Counter[str] = Counter()
        self._mapped: set[int] = set()

    def read(self, path: Path, size: Sequence[int] = ()) -> Ids:
        """Returns the ids [H, W] of a file.

        Args:
            path: picture of one channel or palette, or .npy or .npz.
            size: (height, width) of the map it is compared with, which tells [K, H, W] from [H, W, K].

        Raises:
            ValueError: the file cannot be read or holds no ids; the message says what it holds.
        """
        if path.suffix.lower() in ARRAYS:
            values = self._flat(path, load_array(path), size)
        elif self.argmax:
            raise ValueError(f"{path}: --argmax: expected arrays [{self.argmax}, H, W] (.npy), got a picture.")
        else:
            values, note = load_picture(path)
            self.notes.update([note] if note else [])
        return self._translated(self._whole(path, values))

    def unused(self) -> list[int]:
        """Returns the values of the id map that no file held."""
        return sorted(set(self.id_map) - self._mapped)

    def _flat(self, path: Path, values: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
        shape, k = list(values.shape), self.argmax
        while values.ndim > 2 and values.shape[0] == 1:
            values = values[0]
        if values.ndim == 2 and not k:
            return values
        last = values.ndim == 3 and values.shape[2] == k and values.shape[0] != k
        if not k or values.ndim != 3 or values.shape[0] != k or (len(set(values.shape)) == 1 and k > 1):
            wanted = f"scores [{k}, H, W] for --argmax" if k else "ids [H, W]"
            hint = " Move the classes to the front: transpose(2, 0, 1)." if last else ""
            hint = hint or (" Of scores [K, H, W], --argmax takes the largest." if not k else "")
            raise ValueError(f"{path}: expected {wanted}, got an array {shape} of {values.dtype}.{hint}")
        if size and tuple(values.shape[1:]) != tuple(size):
            raise ValueError(
                f"{path}: expected scores [{k}, {size[0]}, {size[1]}] as the label's size is, got {shape}."
            )
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ValueError(f"{path}: expected scores, {not_whole(values)}")
        self.notes["scores, of which the largest is taken (--argmax)"] += 1
        ids: Ids = values.argmax(0)
        return ids

    def _whole(self, path: Path, values: NDArray[Any]) -> Ids:
        if values.dtype.kind not in "buif":
            raise ValueError(f"{path}: expected class ids, got {values.dtype}.")
        if values.dtype.kind == "f":
            if not np.array_equal(values, np.trunc(values)) or np.isinf(values).any():  # nan equals nothing
                raise ValueError(
                    f"{path}: expected class ids, {not_whole(values)} Save the argmax over the classes (or value > 0.5 "
                    "of a single object's probability), or arrays [K, H, W] as .npy for --argmax."
                )
            self.notes[f"whole numbers stored as {values.dtype}"] += 1
            return values.astype(np.int64)
        # 8 bits stay 8 bits: a map may have hundreds of megapixels. Pillow's true is a byte of 255.
        return np.not_equal(values, 0).view(np.uint8) if values.dtype == np.bool_ else values

    def _translated(self, values: Ids) -> Ids:
        if not self.id_map:
            return values
        out = values.astype(np.int64)
        for value, new in self.id_map.items():
            where = values == value
            if where.any():
                out[where] = new
                self._mapped.add(value)
        return out


def load_array(path: Path) -> NDArray[Any]:
    """Reads .npy, or .npz with one array.

    Raises:
        ValueError: the file is damaged, holds Python objects or several arrays.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            names = list(found.files)
            if len(names) == 1:
                only: NDArray[Any] = found[names[0]]
                return only
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as an array ({error}).") from error
    raise ValueError(f"{path}: expected one array, got {len(names)}: {', '.join(names[:5])}. Save each as .npy.")


def load_picture(path: Path) -> tuple[NDArray[Any], str]:
    """Reads a picture's values [H, W], palette indices as they are, and what was unusual about it.

    Raises:
        ValueError: the file cannot be read, or is a JPEG, turned by its EXIF tag, of several pages, or coloured.
    """
    need("Reading label maps", "PIL")
    try:
        with open_image(path) as picture:
            mode, kind, pages = picture.mode, picture.format, getattr(picture, "n_frames", 1)
            turned = picture.getexif().get(ORIENTATION, 1)
            fault = _fault(kind, pages, turned)
            values: NDArray[Any] = np.zeros((0, 0)) if fault else np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a label map ({error}).") from error
    if fault:
        raise ValueError(f"{path}: {fault}")
    if values.ndim == 2:
        return values, ""
    alpha = mode[-1:] in ("A", "a")
    colors = values[..., : values.shape[2] - alpha]
    if mode in ("LA", "PA", "RGB", "RGBA") and _is_grey(colors):
        if not alpha or (values[..., -1] == 255).all():
            return np.ascontiguousarray(colors[..., 0]), f"mode {mode} with equal channels, read as one"
        raise ValueError(f"{path}: expected one channel of class ids, got mode {mode} with transparent pixels.")
    raise ValueError(f"{path}: expected one channel of class ids, got mode {mode}. Colours are no ids.")


def _is_grey(colors: NDArray[Any]) -> bool:
    return all(np.array_equal(colors[..., 0], colors[..., i]) for i in range(1, colors.shape[2]))


def _fault(kind: str | None, pages: int, turned: Any) -> str:
    if kind in ("JPEG", "MPO", "JPEG2000"):
        return f"expected a format that keeps ids exactly, got {kind}, which smears them at edges. Save PNG."
    if pages > 1:
        return f"expected one map, got {pages} pages or frames. Save each as a file."
    if turned not in (0, 1, None):
        return (
            f"EXIF orientation {turned}: viewers turn this map, and whether its ids were drawn so is not known. "
            "Save it upright, without the tag."
        )
    return ""


def read_ids(path: Path) -> Ids:
    """Reads a label map [H, W]; palette images give their indices.

    Raises:
        ValueError: the file cannot be read or holds no ids.
    """
    return MapReader().read(path)

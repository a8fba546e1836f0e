"""Masks of objects by pycocotools, which is never handed a number that it cannot take."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as rle


def encode(outline: Any, height: int, width: int) -> dict[str, Any]:
    """Returns an object's mask as compressed run lengths.

    Args:
        outline: polygons, or run lengths of any kind, as `read_outline` returns them.
        height: height of the image.
        width: width of the image.
    """
    if isinstance(outline, list):
        merged: dict[str, Any] = rle.merge(rle.frPyObjects(outline, height, width))
        return merged
    if isinstance(outline["counts"], list):
        plain: dict[str, Any] = rle.frPyObjects(outline, height, width)
        return plain
    counts = outline["counts"]
    return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}


def area(outline: Any, height: int, width: int) -> int:
    """Returns the number of pixels of an object's mask.

    Args:
        outline: as of `encode`.
        height: height of the image.
        width: width of the image.
    """
    return int(rle.area(encode(outline, height, width)))


def box(outline: Any, height: int, width: int) -> list[float]:
    """Returns the box [x, y, width, height] around an object's mask.

    Args:
        outline: as of `encode`.
        height: height of the image.
        width: width of the image.
    """
    found: list[float] = rle.toBbox(encode(outline, height, width)).tolist()
    return found


def extent_by_rows(outline: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """Returns (left, top, right, bottom) of run lengths that are read row by row, where COCO reads columns.

    Args:
        outline: run lengths, as of `encode`.
        height: height of the image.
        width: width of the image.
    """
    mask = rle.decode(encode(outline, height, width)).ravel("F").reshape(height, width)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def run_total(counts: bytes) -> int | None:
    """Returns how many pixels compressed run lengths describe; None where they are damaged.

    pycocotools fills a mask with whatever memory holds where run lengths are too short.

    Args:
        counts: COCO's text: six bits a character, the fifth the sign, the sixth whether more follow; from the fourth
            number on the difference to the last but one.
    """
    raw = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not raw.size or raw.min() < 0 or raw.max() > 63 or raw[-1] & 32:
        return None
    ends = np.flatnonzero((raw & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 11:
        return None
    shifts = 5 * (np.arange(raw.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((raw & 31) << shifts, starts)
    values -= np.where(raw[ends] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return None if values.min() < 0 else int(values.sum())

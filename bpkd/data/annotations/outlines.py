"""Reads an object's outline, polygons or run lengths, and repairs what other tools write differently."""

from __future__ import annotations

import ast
import json
import math
from typing import Any, NamedTuple

from pycocotools import mask as rle

from .masks import encode, run_total
from .notes import UnusableError
from .polygons import Extent, plain_extent, repaired_polygons

MISSING = "no outline (segmentation is missing or empty)"


class Outline(NamedTuple):
    """An outline that pycocotools can take."""

    mask: Any
    """Polygons [[x, y, x, y, ...], ...], or run lengths {"size", "counts"}."""

    extent: Extent | None
    """(left, top, right, bottom) of polygons; None: run lengths."""

    repairs: tuple[str, ...] = ()


def read_outline(value: Any, height: int, width: int, *, lenient: bool = False) -> Outline:
    """Checks and repairs the value of ``segmentation``, without drawing the mask.

    Args:
        value: as it stands in the file.
        height: height of the image.
        width: width of the image.
        lenient: whether polygons that are none are left out of an object, as Detectron2 does.

    Raises:
        UnusableError: it cannot be repaired; the message says why.
    """
    if isinstance(value, list) and (extent := plain_extent(value, height, width)):
        return Outline(value, extent)
    repairs: list[str] = []
    if isinstance(value, str | bytes) and value:
        value = _from_text(value, height, width, repairs)
    if isinstance(value, list) and value and all(isinstance(v, dict) and "counts" in v for v in value):
        value = _joined(value, height, width, repairs)
    if _is_run_list(value, height, width):
        repairs.append("run-length masks without 'size': read as one of the image's size")
        value = {"counts": value, "size": [height, width]}
    if isinstance(value, dict) and value:
        return Outline(_run_lengths(value, height, width, repairs), None, tuple(repairs))
    if not isinstance(value, list) or not value or value == [[]]:
        if value in (None, [], [[]], "", {}):
            raise UnusableError(MISSING)
        raise UnusableError(f"segmentation: expected polygons or run lengths, got {shown(value)}")
    polygons = repaired_polygons(value, repairs, height=height, width=width, lenient=lenient)
    extent = plain_extent(polygons, height, width)
    if extent is None:
        raise UnusableError("segmentation cannot be read as polygons")
    return Outline(polygons, extent, tuple(repairs))


def shown(value: Any) -> str:
    """Returns a value's beginning for a message.

    Args:
        value: any value.
    """
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _from_text(value: str | bytes, height: int, width: int, repairs: list[str]) -> Any:
    """Returns what a text holds: JSON, or compressed run lengths without their size."""
    raw = value if isinstance(value, bytes) else value.encode()
    if run_total(raw) == height * width:
        repairs.append("run-length masks without 'size': read as one of the image's size")
        return {"counts": value, "size": [height, width]}
    try:
        found = json.loads(value)
    except ValueError:
        raise UnusableError(f"segmentation: expected polygons or run lengths, got the text {shown(value)}") from None
    repairs.append("outlines written as text: read as what the text holds")
    return found


def _is_run_list(value: Any, height: int, width: int) -> bool:
    """Whether a flat list of numbers are run lengths, not coordinates: they add up to the image's pixels."""
    if not isinstance(value, list) or not value or not all(type(v) is int and v >= 0 for v in value):
        return False
    return sum(value) == height * width and max(value) > max(height, width)


def _joined(value: list[dict[str, Any]], height: int, width: int, repairs: list[str]) -> dict[str, Any]:
    repairs.append("run-length masks in a list: joined")
    merged: dict[str, Any] = rle.merge([encode(_run_lengths(v, height, width, repairs), height, width) for v in value])
    return merged


def _run_lengths(value: dict[str, Any], height: int, width: int, repairs: list[str]) -> dict[str, Any]:
    size = _size(value.get("size"), height, width, repairs)
    if size != (height, width):
        hint = " (height and width exchanged)" if size == (width, height) else ""
        raise UnusableError(
            f"expected a run-length mask of the image's {height}x{width}, got one of {size[0]}x{size[1]}{hint}"
        )
    counts = value.get("counts")
    if isinstance(counts, list):
        return _plain_counts(counts, height, width, repairs)
    if not isinstance(counts, str | bytes):
        raise UnusableError(f"run lengths: expected counts as a list or a text, got {shown(counts)}")
    text = _unquoted(counts, repairs)
    total = run_total(text.encode() if isinstance(text, str) else text)
    if total != height * width:
        got = "damaged text" if total is None else f"{total}"
        raise UnusableError(f"run lengths: expected {height * width} pixels ({height}x{width}), got {got}")
    if text is counts and type(value.get("size")) is list and value["size"] == [height, width]:
        return value  # as it stands in the file
    return {"size": [height, width], "counts": text}


def _plain_counts(counts: list[Any], height: int, width: int, repairs: list[str]) -> dict[str, Any]:
    if not all(type(v) is int for v in counts):
        repairs.append("run lengths that are no whole numbers or text: read as whole numbers")
        try:
            plain = [int(float(v)) for v in counts]
        except (TypeError, ValueError, OverflowError):
            raise UnusableError("run lengths: expected whole numbers, got others among them") from None
        counts = plain
    if not counts or min(counts) < 0 or sum(counts) != height * width:
        raise UnusableError(
            f"run lengths: expected numbers that add up to {height * width} pixels ({height}x{width}), got "
            f"{sum(counts)}" + (" with negative ones" if counts and min(counts) < 0 else "")
        )
    encoded: dict[str, Any] = rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return encoded


def _size(value: Any, height: int, width: int, repairs: list[str]) -> tuple[int, int]:
    if value is None:
        repairs.append("run-length masks without 'size': read as one of the image's size")
        return height, width
    try:
        numbers = [float(v) for v in value]
        if len(numbers) != 2 or not all(math.isfinite(v) and v == int(v) for v in numbers):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UnusableError(f"run lengths: expected size [height, width], got {shown(value)}") from None
    if not all(type(v) is int for v in value):
        repairs.append("run-length masks whose 'size' is text or no whole number: read as numbers")
    return int(numbers[0]), int(numbers[1])


def _unquoted(counts: str | bytes, repairs: list[str]) -> str | bytes:
    """Returns run lengths without Python's b'...', which stays where bytes were written as text."""
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"') and counts[-1:] == counts[1]:
        try:
            found = ast.literal_eval(counts)
        except (SyntaxError, ValueError):
            return counts
        repairs.append("run lengths written as Python's b'...': unquoted")
        text: str = found.decode("latin-1")
        return text
    return counts

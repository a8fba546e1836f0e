"""Checks polygons' numbers before pycocotools sees them, and brings other shapes of lists into COCO's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .notes import UnusableError

Extent = tuple[float, float, float, float]
FAR = 10  # of an image's longer side: no outline lies farther outside, and pycocotools' memory grows with it


def plain_extent(polygons: list[Any], height: int, width: int) -> Extent | None:
    """Returns (left, top, right, bottom) of valid polygons that reach into the image; None for anything else.

    Args:
        polygons: lists of numbers.
        height: height of the image.
        width: width of the image.
    """
    far = FAR * max(height, width)
    left = top = math.inf
    right = bottom = -math.inf
    try:
        for one in polygons:
            if type(one) is not list or len(one) < 6 or len(one) % 2 or not math.isfinite(sum(one)):
                return None
            xs, ys = one[::2], one[1::2]
            x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
            if x1 < -far or y1 < -far or x2 > far or y2 > far:
                return None
            if x1 < width and y1 < height and x2 > 0 and y2 > 0:  # a part outside covers nothing
                left, top, right, bottom = min(left, x1), min(top, y1), max(right, x2), max(bottom, y2)
    except (TypeError, OverflowError):
        return None
    return (left, top, right, bottom) if left <= right else None


def repaired_polygons(
    value: list[Any], repairs: list[str], *, height: int, width: int, lenient: bool
) -> list[list[float]]:
    """Returns polygons as lists of numbers.

    Args:
        value: lists of numbers, texts or points, nested in any way.
        repairs: takes what was repaired.
        height: height of the image.
        width: width of the image.
        lenient: whether polygons with an odd count are left out, as Detectron2 does, instead of refused.

    Raises:
        UnusableError: it cannot be repaired; the message says why.
    """
    found = _rings(value, repairs)
    polygons = [ring for ring in found if len(ring) >= 6 and len(ring) % 2 == 0]
    odd = [ring for ring in found if len(ring) >= 6 and len(ring) % 2]
    if odd and not lenient:
        raise UnusableError(f"polygon of {len(odd[0])} numbers: expected pairs x, y, an even count")
    if not polygons:
        counts = ", ".join(str(len(ring)) for ring in found[:3])
        raise UnusableError(f"polygon of {counts} numbers: expected at least 6 (three points)")
    if len(polygons) < len(found):
        repairs.append("outlines have a part of fewer than three points, which covers nothing: left out")
    return _inside([_numbers(ring, repairs) for ring in polygons], height, width)


def _inside(polygons: list[list[float]], height: int, width: int) -> list[list[float]]:
    far = FAR * max(height, width)
    for ring in polygons:
        wild = next((v for v in ring if abs(v) > far), None)
        if wild is not None:
            raise UnusableError(f"coordinate {wild:g}: far outside the image of {height}x{width}")
    if plain_extent(polygons, height, width) is None:
        xs = [v for ring in polygons for v in ring[::2]]
        ys = [v for ring in polygons for v in ring[1::2]]
        raise UnusableError(
            f"the outline lies outside the image of {height}x{width}: x {min(xs):g}..{max(xs):g}, "
            f"y {min(ys):g}..{max(ys):g}"
        )
    return polygons


def _rings(value: list[Any], repairs: list[str], depth: int = 0) -> list[list[Any]]:
    """Returns the flat lists of coordinates that a nested list holds."""
    if depth > 3:
        raise UnusableError("segmentation: expected lists of numbers, got lists nested more than three deep")
    if all(_scalar(v) for v in value):
        if depth == 0:
            repairs.append("outlines as one flat list of numbers: read as one polygon")
        return [value]
    if all(_point(v) for v in value) and len(value) >= 3:
        repairs.append("outlines as points [x, y]: flattened")
        return [[c for v in value for c in _coordinates(v)]]
    if not all(isinstance(v, list) for v in value):
        raise UnusableError("segmentation: expected lists of numbers, got numbers, lists and others mixed")
    out: list[list[Any]] = []
    for one in value:
        out += [one] if all(_scalar(v) for v in one) else _rings(one, repairs, depth + 1)
    return out


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str)


def _point(value: Any) -> bool:
    if isinstance(value, Mapping):
        return {"x", "y"} <= value.keys()
    return isinstance(value, list) and len(value) == 2 and all(_scalar(v) for v in value)


def _coordinates(value: Any) -> list[Any]:
    return [value["x"], value["y"]] if isinstance(value, Mapping) else value


def _numbers(ring: list[Any], repairs: list[str]) -> list[float]:
    out: list[float] = []
    for value in ring:
        number = value
        if isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                raise UnusableError(f"coordinate {value!r}: expected a number") from None
            repairs.append("outlines whose coordinates are text: read as numbers")
        if number is None or isinstance(number, bool) or not -1e300 < number < 1e300:  # not of NaN either
            shown = "null" if number is None else str(number)[:20]
            raise UnusableError(f"coordinate {shown}: expected a finite number")
        out.append(number)
    return out

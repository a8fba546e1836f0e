"""Reads an object's box, area, crowd flag and ids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .notes import UnusableError
from .polygons import Extent

LARGEST = 10**300


def real(value: Any) -> bool:
    """Whether a value is a finite number, not text and not true or false; nor a whole number that no float holds."""
    if type(value) is int:
        return -LARGEST <= value <= LARGEST
    return type(value) is float and math.isfinite(value)


def read_box(value: Any, *, published: bool = False) -> list[float] | None:
    """Returns a valid box [x, y, width, height] as it stands in the file; None for anything else.

    Args:
        value: as it stands in the file.
        published: whether sides of 0 are accepted: published files have some.
    """
    if type(value) is not list or len(value) != 4 or not all(real(v) for v in value):
        return None
    least = min(value[2], value[3])
    return value if least > 0 or (published and least == 0) else None


def box_differs(box: list[float], extent: Extent, height: int, width: int) -> bool:
    """Whether a box is another one than that around the mask: written in another form, or with an IoU below 0.5.

    Args:
        box: [x, y, width, height].
        extent: (left, top, right, bottom) of the outline.
        height: height of the image.
        width: width of the image.
    """
    x, y, w, h = box
    corners = (x, y, x + w, y + h)
    if _near(corners, extent):
        return False
    mine, theirs, as_corners, around = (
        [min(max(v, 0), (width, height)[i % 2]) for i, v in enumerate(one)]
        for one in (corners, extent, (x, y, w, h), (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    )
    if _near(mine, theirs):
        return False
    return _near(as_corners, theirs) or _near(around, theirs) or _overlap(mine, theirs) < 0.5


def _overlap(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the IoU of two boxes given by their corners."""
    sides = [max(0.0, min(mine[i + 2], theirs[i + 2]) - max(mine[i], theirs[i])) for i in (0, 1)]
    both = sides[0] * sides[1]
    return both / max(_area(mine) + _area(theirs) - both, 1e-9)


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(-3 <= a - b <= 3 for a, b in zip(one, other, strict=True))


def _area(corners: Sequence[float]) -> float:
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


def read_area(value: Any, *, published: bool = False) -> float | None:
    """Returns a valid area as it stands in the file; None for anything else."""
    return value if real(value) and (value > 0 or (published and value == 0)) else None


def read_crowd(value: Any) -> tuple[int, bool]:
    """Returns the crowd flag and whether it stands so in the file.

    Args:
        value: as it stands in the file.

    Raises:
        UnusableError: it is neither.
    """
    if type(value) is int and value in (0, 1):
        return value, True
    if value is None or value == "":
        return 0, False
    if isinstance(value, bool | float) and value in (0, 1):
        return int(value), False
    if isinstance(value, str) and value.strip().lower() in ("0", "1", "true", "false", "0.0", "1.0"):
        return int(value.strip().lower() in ("1", "true", "1.0")), False
    raise UnusableError(f"iscrowd: expected 0 or 1, got {value!r}")


class Ids:
    """Finds an id of a table, written as a number or as text."""

    def __init__(self, known: Mapping[Any, Any]) -> None:
        """Takes the table, id -> entry."""
        self.known = known
        texts: dict[str, list[Any]] = {}
        for key in known:
            texts.setdefault(as_text(key), []).append(key)
        self.texts = {text: keys[0] for text, keys in texts.items() if len(keys) == 1}

    def find(self, value: Any) -> tuple[Any, bool]:
        """Returns the id as the table has it, None where it is in no way there, and whether it was written so."""
        try:
            if value in self.known and not isinstance(value, bool):
                return value, True
        except TypeError:  # a list
            return None, False
        return (None if value is None or isinstance(value, bool) else self.texts.get(as_text(value))), False


def as_text(value: Any) -> str:
    """Returns an id as text, a whole number without ".0"; a text with leading zeros stays."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if math.isfinite(number) and number == int(number) and text[:1] != "0" else text

"""Looks at one image with its mask: what a check of a data set learns of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpkd.listing import trouble

from .files import IGNORE, DatasetError, check_sizes, check_values, named, open_picture, read_image, read_raw_label
from .mask_values import region_of_255
from .masks import Mask, load_mask
from .notes import UNLABELLED, Depth, picture_notes
from .palettes import Colour
from .pictures import Span


@dataclass(frozen=True)
class Look:
    """What is seen of an image and its labels."""

    problem: str = ""
    """Why they are unusable."""

    size: tuple[int, int] | None = None
    values: NDArray[np.int64] | None = None
    """Pixels of each mask value, or instances of each class, of usable ones."""

    notes: tuple[tuple[str, str], ...] = ()
    """(kind of `bpkd.data.notes`, file)."""

    depth: Depth | None = None
    """Values of an image of 16 bits."""

    image: str = ""

    mask: str = ""
    raw: NDArray[np.int64] | None = None
    """[256] pixels of each value in the mask, known or not."""

    regions: bool = False
    """Whether 255 covers regions of the mask."""

    colours: Mapping[int, Colour] = field(default_factory=dict)
    """Colour of each palette index of the mask."""


def look_at_mask(item: dict[str, Any], table: list[int], mode: str, span: Span) -> Look:
    """Looks at an image with semantic segmentation labels.

    Args:
        item: dataset dict.
        table: mask value -> trained id.
        mode: "full" or "fast".
        span: INPUT.IMAGE_RANGE.
    """
    drawn = "procedural" in item
    files = [] if drawn else [item[k] for k in ("file_name", "sem_seg_file_name")]
    if unread := [f"{path}: {why}" for path in files if (why := trouble(path))]:
        return Look(unread[0])
    if mode == "fast":
        return Look()
    seen = Look()
    try:
        seen, label = _mask(item)
        check_values(item, np.asarray(seen.raw), table)
        if not np.asarray(seen.raw)[np.asarray(table) != IGNORE].any():
            seen = replace(seen, notes=(*seen.notes, (UNLABELLED, seen.mask)))
        image = look_at_image(item, span)
        check_sizes(item, image.size or (0, 0), label)
    except DatasetError as error:
        return replace(seen, problem=str(error), notes=())
    notes = image.notes + seen.notes
    return replace(seen, size=label, values=seen.raw, notes=notes, depth=image.depth, image=image.image)


def look_at_image(item: dict[str, Any], span: Span) -> Look:
    """Looks at an image.

    Args:
        item: dataset dict.
        span: INPUT.IMAGE_RANGE.

    Raises:
        DatasetError: it cannot be read, or is damaged.
    """
    name = item["file_name"]
    if "procedural" in item:
        height, width = read_image(item).shape[:2]
        return Look(size=(height, width))
    picture = open_picture(item)
    with named(name):
        if picture.pixels.dtype not in (np.uint8, np.uint16) or any(span):
            picture.as_bytes(span)  # says what is wrong
    try:
        notes, depth = picture_notes(picture, span)
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{name}: truncated or damaged ({error})") from error
    height, width = picture.pixels.shape[:2]
    return Look(size=(height, width), notes=tuple((kind, name) for kind in notes), depth=depth, image=name)


def _mask(item: dict[str, Any]) -> tuple[Look, tuple[int, int]]:
    """Returns what is seen of a mask, and its size."""
    name = item.get("sem_seg_file_name", item["file_name"])
    with named(name):
        mask = Mask(read_raw_label(item)) if "procedural" in item else load_mask(name)
    counts = np.bincount(mask.values.ravel(), minlength=256)
    height, width = mask.values.shape
    notes = tuple((kind, name) for kind in mask.notes)
    regions = region_of_255(mask.values, counts)
    return Look(mask=name, raw=counts, regions=regions, notes=notes, colours=mask.colours), (height, width)

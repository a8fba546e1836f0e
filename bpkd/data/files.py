"""Images and semantic segmentation labels from disk; every error names its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .augment import level_counts
from .masks import load_mask
from .pictures import WHOLE_TYPE, Picture, Span, damage, load_picture
from .procedural import make_scene

Array = NDArray[Any]  # uint8; OpenCV's stubs do not say so
IGNORE = 255
# EXIF orientation -> how a picture is turned by it.
TURNED_BY = {
    5: "mirrored at the diagonal from the upper left",
    6: "by 90 degrees clockwise",
    7: "mirrored at the diagonal from the upper right",
    8: "by 90 degrees counterclockwise",
}


class DatasetError(ValueError):
    """An error in a data set's files; the message names them."""


def label_table(pairs: Mapping[int, int], num_classes: int) -> list[int]:
    """Returns the 256-entry table mask value -> trained id; -1 marks a value that must not occur.

    Args:
        pairs: mask value -> trained id or 255; empty: mask values are trained ids. 255 is always ignored.
        num_classes: number of classes K.

    Raises:
        ValueError: a trained id is not 0..K-1 or 255.
    """
    table = [-1] * 256
    for value, trained in (pairs or {i: i for i in range(num_classes)}).items():
        if not (0 <= value <= 255 and (0 <= trained < num_classes or trained == IGNORE)):
            raise ValueError(
                f"id map: expected values 0..255 to ids 0..{num_classes - 1} or 255, got {value} -> {trained}."
            )
        table[value] = trained
    if table[IGNORE] == -1:
        table[IGNORE] = IGNORE
    return table


def read_image(item: dict[str, Any], span: Span = WHOLE_TYPE) -> Array:
    """Reads a dataset dict's image as BGR [H, W, 3], turned by its EXIF orientation, as viewers show it.

    Args:
        item: dataset dict.
        span: (low, high): values of images above 8 bits that become 0 and 255; (0, 0): the whole range of 16 bits.

    Raises:
        DatasetError: the file is missing, no image, or its values are no 8 or 16 bits and no span is given.
    """
    if "procedural" in item:
        return make_scene(*item["procedural"]).image[..., ::-1]
    with named(item["file_name"]):
        return open_picture(item).as_bytes(span)


def open_picture(item: dict[str, Any]) -> Picture:
    """Reads a dataset dict's image file with what is known about it.

    Raises:
        DatasetError: the file is missing or no image.
    """
    name = item["file_name"]
    with named(name):
        picture = load_picture(name)
    if picture is None:
        if why := damage(name):
            raise DatasetError(f"{name}: truncated or damaged ({why}).")
        raise DatasetError(f"{name}: cannot be read as an image (missing, damaged or another format).")
    return picture


@contextmanager
def named(name: str) -> Iterator[None]:
    """Puts the name of a file before a message.

    Raises:
        DatasetError: instead of a ValueError.
    """
    try:
        yield
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"{name}: {error}") from error


def read_raw_label(item: dict[str, Any]) -> Array:
    """Reads a dataset dict's mask values [H, W] as stored; palette images give their indices.

    Raises:
        DatasetError: the file is missing, damaged, or holds something else than one id a pixel.
    """
    if "procedural" in item:
        return make_scene(*item["procedural"]).labels
    with named(item["sem_seg_file_name"]):
        return load_mask(item["sem_seg_file_name"]).values


def check_sizes(item: dict[str, Any], image: tuple[int, ...], expected: tuple[int, ...], what: str = "mask") -> None:
    """Checks that image and labels have one size; where the image's EXIF orientation is the cause, the message says so.

    Args:
        item: dataset dict.
        image: (height, width) of the image as it is read.
        expected: (height, width) of its labels.
        what: word for the labels.

    Raises:
        DatasetError: they differ.
    """
    if tuple(image) == tuple(expected):
        return
    name, (height, width), (rows, columns) = item["file_name"], image, expected
    turn = 1 if "procedural" in item else open_picture(item).orientation
    if turn >= 5 and (rows, columns) == (width, height):
        raise DatasetError(
            f"{name}: its EXIF orientation {turn} turns it to {height}x{width}, as viewers show it; {what}: "
            f"{rows}x{columns}, the size of the stored pixels. Turn the labels as the image is turned "
            f"({TURNED_BY[turn]}), or take the tag out of the image: exiftool -Orientation= FILE."
        )
    raise DatasetError(f"{name}: image {height}x{width}, {what} {rows}x{columns}: sizes differ")


def read_label(item: dict[str, Any], table: list[int]) -> Array:
    """Reads a dataset dict's semantic segmentation labels: trained ids 0..K-1 and 255.

    Args:
        item: Dataset dict.
        table: Table of `label_table`.

    Raises:
        DatasetError: the file cannot be read, or holds a value that is not in the table.
    """
    raw = read_raw_label(item)
    check_values(item, level_counts(raw), table)
    return np.asarray(cv2.LUT(raw, np.asarray(table).astype(np.uint8)))


def check_values(item: dict[str, Any], counts: NDArray[np.int64], table: list[int]) -> None:
    """Checks that a mask holds only values that the table has.

    Args:
        item: Dataset dict.
        counts: [256] pixels of each value of its mask.
        table: Table of `label_table`.

    Raises:
        DatasetError: it holds another value; the message names it.
    """
    lut = np.asarray(table)
    wrong = np.flatnonzero((lut < 0) & (counts > 0))
    if len(wrong):
        known = np.flatnonzero(lut >= 0)
        raise DatasetError(
            f"{item.get('sem_seg_file_name', item['file_name'])}: mask value {wrong[:5].tolist()} is outside the known "
            f"{known[0]}..{known[known != IGNORE][-1] if (known != IGNORE).any() else IGNORE} and 255. Map it with "
            "DATASETS.FOLDER.ID_MAP, or set IGNORE_INDEX."
        )

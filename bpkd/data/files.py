"""Images and semantic segmentation labels from disk; every error names its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .augment import level_counts
from .procedural import make_scene

Array = NDArray[Any]  # uint8; OpenCV's stubs do not say so
IGNORE = 255


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


def read_image(item: dict[str, Any]) -> Array:
    """Reads a dataset dict's image as BGR [H, W, 3].

    Raises:
        DatasetError: the file is missing, no image, or truncated.
    """
    if "procedural" in item:
        return make_scene(*item["procedural"]).image[..., ::-1]
    name = item["file_name"]
    image = cv2.imread(name, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DatasetError(f"{name}: cannot be read as an image (missing, damaged or another format).")
    return image


def read_raw_label(item: dict[str, Any]) -> Array:
    """Reads a dataset dict's mask values [H, W] as stored; palette images give their indices.

    Raises:
        DatasetError: the file is missing, damaged, or has colour channels.
    """
    if "procedural" in item:
        return make_scene(*item["procedural"]).labels
    name = item["sem_seg_file_name"]
    try:
        with Image.open(name) as picture:
            mode = picture.mode
            values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{name}: cannot be read as a mask ({error}).") from error
    if values.ndim != 2 or mode not in ("L", "P", "1", "I", "I;16"):
        raise DatasetError(f"{name}: expected a single-channel mask of class ids, got mode {mode}.")
    if values.min(initial=0) < 0 or values.max(initial=0) > 255:
        raise DatasetError(f"{name}: expected ids 0..255, got {values.min()}..{values.max()}.")
    return values.astype(np.uint8, copy=False)


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

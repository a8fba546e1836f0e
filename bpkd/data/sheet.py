"""A picture of a data set: images beside their coloured labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_length

from .files import read_image, read_label

WIDTH, HEIGHT = 640, 240
SHARE = 0.6


def contact_sheet(items: Sequence[dict[str, Any]], metadata: Any, count: int) -> NDArray[np.uint8]:
    """Draws pairs from the whole list.

    Args:
        items: dataset dicts.
        metadata: of their data set.
        count: pairs, taken at even distances: neighbours are often of one scene.

    Returns:
        [rows x 240, 640, 3] BGR: per row an image and the same with its labels in the classes' colours.
    """
    chosen = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    rows = [_row(items[i], metadata) for i in chosen]
    return np.concatenate(rows)


def _row(item: dict[str, Any], metadata: Any) -> NDArray[Any]:
    image = read_image(item)
    labels = _labels(item, metadata) if metadata.get("label_table") else _objects(item, image, metadata)
    return cv2.resize(np.concatenate([image, labels], 1), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _labels(item: dict[str, Any], metadata: Any) -> NDArray[Any]:
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(metadata.stuff_colors)] = np.array(metadata.stuff_colors)[:, ::-1]
    return colors[read_label(item, metadata.label_table)]


def _objects(item: dict[str, Any], image: NDArray[Any], metadata: Any) -> NDArray[Any]:
    drawn = image.astype(np.float32)
    colors = metadata.get("thing_colors")
    for number, annotation in enumerate(item.get("annotations", ())):
        mask = annotation.get("segmentation")
        if mask is None:
            continue
        if isinstance(mask, list):
            mask = run_length.merge(run_length.frPyObjects(mask, item["height"], item["width"]))
        # Without the classes' colours: objects that lie beside each other differ.
        color = colors[annotation["category_id"]] if colors else np.random.default_rng(number).integers(60, 255, 3)
        region = run_length.decode(mask).astype(bool)
        drawn[region] = (1 - SHARE) * drawn[region] + SHARE * np.asarray(color[::-1], np.float32)
    return drawn.astype(np.uint8)

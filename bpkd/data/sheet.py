"""Contact sheet of a data set: images beside their coloured labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_length

from bpkd.text import one_line_text

from .annotations import encode
from .files import IGNORE, read_image, read_label
from .pictures import WHOLE_TYPE, Span

WIDTH, CAPTION, COLUMNS = 320, 18, 4
SHARE = 0.6


def contact_sheet(
    items: Sequence[dict[str, Any]], metadata: Any, count: int, *, span: Span = WHOLE_TYPE
) -> NDArray[np.uint8]:
    """Draws pairs of image and labels.

    Args:
        items: dataset dicts.
        metadata: Metadata of their data set.
        count: number of pairs, taken at even distances, since neighbours often show one scene.
        span: INPUT.IMAGE_RANGE.

    Returns:
        [H, 640, 3] BGR: per row an image's name, the image, and the same with its labels in the classes' colours; below
        them the names of the classes that occur.
    """
    chosen = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    seen: set[int] = set()
    rows = [_row(items[i], metadata, seen, span) for i in chosen]
    return np.concatenate([*rows, *_legend(sorted(seen), metadata)])


def _row(item: dict[str, Any], metadata: Any, seen: set[int], span: Span) -> NDArray[Any]:
    image = read_image(item, span)
    if metadata.get("label_table"):
        ids = read_label(item, metadata.label_table)
        seen |= set(np.unique(ids).tolist())
        labels = _palette(metadata)[ids]
    else:
        labels = _instances(item, image, metadata)
    both = np.concatenate([image, labels], 1)
    height = max(1, round(WIDTH * image.shape[0] / image.shape[1]))
    caption = np.full((CAPTION, 2 * WIDTH, 3), 255, np.uint8)
    _write(caption, Path(item["file_name"]).name, 4)
    return np.concatenate([caption, cv2.resize(both, (2 * WIDTH, height), interpolation=cv2.INTER_AREA)])


def _palette(metadata: Any) -> NDArray[np.uint8]:
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(metadata.stuff_colors)] = np.array(metadata.stuff_colors)[:, ::-1]
    return colors


def _legend(ids: Sequence[int], metadata: Any) -> list[NDArray[np.uint8]]:
    lines = []
    for first in range(0, len(ids), COLUMNS):
        line = np.full((CAPTION, 2 * WIDTH, 3), 255, np.uint8)
        for column, index in enumerate(ids[first : first + COLUMNS]):
            left = 2 * WIDTH // COLUMNS * column
            line[3:-3, left + 4 : left + 16] = _palette(metadata)[index]
            _write(
                line,
                "(ignored)" if index == IGNORE else f"{index} {metadata.stuff_classes[index]}"[:20],
                left + 20,
            )
        lines.append(line)
    return lines


def _write(line: NDArray[np.uint8], text: str, left: int) -> None:
    left_below = (left, CAPTION - 5)
    cv2.putText(line, one_line_text(text), left_below, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)


def _instances(item: dict[str, Any], image: NDArray[Any], metadata: Any) -> NDArray[Any]:
    drawn = image.astype(np.float32)
    colors = metadata.get("thing_colors")
    for number, annotation in enumerate(item.get("annotations", ())):
        if not annotation.get("segmentation"):
            continue
        mask = encode(annotation["segmentation"], item["height"], item["width"])
        # Without the classes' colours: objects that lie beside each other differ.
        color = colors[annotation["category_id"]] if colors else np.random.default_rng(number).integers(60, 255, 3)
        region = run_length.decode(mask).astype(bool)
        drawn[region] = (1 - SHARE) * drawn[region] + SHARE * np.asarray(color[::-1], np.float32)
    return drawn.astype(np.uint8)

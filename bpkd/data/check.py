"""Checks a data set's files before training, so that a bad one is not met at iteration 30,000."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image, UnidentifiedImageError

from .files import DatasetError, read_image, read_label

logger = logging.getLogger(__name__)
SHOWN = 20


def check_dataset(name: str, mode: str = "full") -> int:
    """Checks every pair of a registered data set.

    Args:
        name: in Detectron2's catalog.
        mode: "full" decodes every image and mask and compares sizes and ids; "fast" only looks for the files.

    Returns:
        Number of images.

    Raises:
        DatasetError: files are wrong; the message names the first 20 and says how many there are.
        ValueError: ``mode`` is unknown.
    """
    if mode not in ("full", "fast"):
        raise ValueError(f"DATASETS.CHECK: expected 'full', 'fast' or 'off', got {mode!r}.")
    items: list[dict[str, Any]] = DatasetCatalog.get(name)
    if not items:
        raise DatasetError(f"{name}: no image found. Check DATASETS.ROOT and the folder names.")
    table = MetadataCatalog.get(name).label_table
    files = [item for item in items if "procedural" not in item]

    def look(item: dict[str, Any]) -> str | None:
        return _problem(item, table, mode)

    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) * 2)) as pool:
        problems = [p for p in pool.map(look, files) if p]
    if problems:
        more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DatasetError(
            f"{name}: {len(problems)} of {len(items)} images are unusable:\n  "
            + "\n  ".join(problems[:SHOWN]) + more
            + "\nRepair or remove them; DATASETS.CHECK off skips this check."
        )  # fmt: skip
    logger.info("%s: %d images checked (%s).", name, len(items), mode)
    return len(items)


def _problem(item: dict[str, Any], table: list[int], mode: str) -> str | None:
    missing = [p for p in (item["file_name"], item["sem_seg_file_name"]) if not os.path.isfile(p)]
    if missing:
        return f"{missing[0]}: missing"
    if mode == "fast":
        return None
    try:
        image, label = read_image(item), read_label(item, table)
    except DatasetError as error:
        return str(error)
    damage = _damage(item["file_name"])
    if damage:
        return damage
    if image.shape[:2] != label.shape:
        return (
            f"{item['file_name']}: image {image.shape[0]}x{image.shape[1]}, mask {label.shape[0]}x{label.shape[1]}: "
            "sizes differ"
        )
    return None


def _damage(path: str) -> str | None:
    """OpenCV fills the lost rows of a truncated JPEG with grey; Pillow refuses them."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except UnidentifiedImageError:
        return None  # a format that OpenCV alone knows: it has just read it
    except (OSError, SyntaxError, ValueError) as error:
        return f"{path}: truncated or damaged ({error})"
    return None

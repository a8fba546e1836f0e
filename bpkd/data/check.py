"""Checks a data set's files before training."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from .check_objects import ObjectCheck, judge, notes_of
from .files import IGNORE, DatasetError, check_values, read_image, read_raw_label

logger = logging.getLogger(__name__)
SHOWN = 20


@dataclass
class Survey:
    """Counts of a split's files, classes and pixels that a check returns."""

    classes: tuple[str, ...]
    table: list[int] | None
    """Mask value -> trained id; None for a set of instances."""

    images: int = 0
    problems: list[str] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Images of each (height, width)."""

    notes: list[str] = field(default_factory=list)
    """What was repaired or left out, with counts."""

    def __post_init__(self) -> None:
        """Creates counters: pixels (or instances) and images of each id (255: ignored), pixels of each mask value."""
        length = max(256, len(self.classes))
        self.values, self.amounts, self.occurs = (np.zeros(length, np.int64) for _ in range(3))
        self.ids = np.asarray(self.table if self.table else range(length))

    @property
    def unit(self) -> str:
        """Unit of ``amounts``: pixels or instances."""
        return "pixels" if self.table else "instances"

    def add(self, seen: _Look) -> None:
        """Adds an image to the counts."""
        self.images += 1
        if seen.problem:
            self.problems.append(seen.problem)
        if seen.size:
            self.sizes[seen.size] += 1
        if seen.values is not None:
            present = np.flatnonzero(seen.values)
            self.values[present] += seen.values[present]
            np.add.at(self.amounts, self.ids[present], seen.values[present])
            self.occurs[np.unique(self.ids[present])] += 1


@dataclass(frozen=True)
class _Look:
    problem: str = ""
    size: tuple[int, int] | None = None
    values: NDArray[np.int64] | None = None


def check_dataset(name: str, mode: str = "full", *, subset: bool = False) -> int:
    """Checks every pair of a registered data set; see ``survey_dataset``.

    Returns:
        Number of images.

    Raises:
        DatasetError: files are wrong.
    """
    return survey_dataset(name, mode, subset=subset, draw=False).images


def survey_dataset(
    name: str, mode: str = "full", *, subset: bool = False, draw: bool = True, progress: bool = False
) -> Survey:
    """Checks every image of a registered data set and counts what its masks or instances hold.

    Args:
        name: Name in Detectron2's catalog.
        mode: "full" decodes every image and mask and compares sizes and ids; "fast" only checks that the files exist.
        subset: whether fewer images than published are accepted.
        draw: whether to draw procedural scenes and count their pixels too.
        progress: whether to show a progress bar.

    Returns:
        The counts.

    Raises:
        DatasetError: files are wrong; the message says what, names the first 20 and how many there are.
        ValueError: ``mode`` is unknown.
    """
    if mode not in ("full", "fast"):
        raise ValueError(f"DATASETS.CHECK: expected 'full', 'fast' or 'off', got {mode!r}.")
    items: list[dict[str, Any]] = DatasetCatalog.get(name)
    if not items:
        raise DatasetError(
            f"{name}: no image found. Check the folder names and DATASETS.ROOT, or DATASETS.FOLDER.ROOT of own data."
        )
    meta = MetadataCatalog.get(name)
    for key, what in (("file_name", "images"), ("sem_seg_file_name", "masks")):
        if key in items[0] and "procedural" not in items[0] and not any(os.path.isfile(i[key]) for i in items):
            if elsewhere := _in_another_folder(items):
                raise DatasetError(f"{name}: {elsewhere[0]}")
            raise DatasetError(
                f"{name}: none of the {len(items)} {what} is there, expected {items[0][key]} and so on. Their archive "
                "was not unpacked, or to another place."
            )
    table = meta.get("label_table")
    survey = Survey(tuple(meta.get("stuff_classes") or meta.get("thing_classes", ())), table)
    objects = None if table else ObjectCheck(name, mode)

    def look(item: dict[str, Any]) -> _Look:
        if "procedural" in item and not draw:
            return _Look()
        return _look_at_instances(item, mode, objects) if objects else _look_at_mask(item, table or [], mode)

    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) * 2)) as pool:
        for seen in tqdm(pool.map(look, items), name, len(items), disable=not progress, unit="image"):
            survey.add(seen)
    whole = _faults_of_the_whole(name, items, survey.values, subset) + judge(objects, items, survey.amounts)
    survey.notes += notes_of(objects)
    faults = [f"{name}: {fault}" for fault in whole]
    if faults := faults + _listed(name, survey.problems, len(items)):
        raise DatasetError("\n".join(faults))
    logger.info("%s: %d images checked (%s).", name, len(items), mode)
    return survey


def _listed(name: str, problems: Sequence[str], count: int) -> list[str]:
    if not problems:
        return []
    more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return [
        f"{name}: {len(problems)} of {count} images are unusable:\n  "
        + "\n  ".join(problems[:SHOWN]) + more
        + "\nRepair or remove them; DATASETS.CHECK off skips this check."
    ]  # fmt: skip


def _faults_of_the_whole(name: str, items: list[dict[str, Any]], values: NDArray[np.int64], subset: bool) -> list[str]:
    """Returns errors of the whole split: too few files, swapped folders, masks of another encoding."""
    meta, faults = MetadataCatalog.get(name), []
    published = meta.get("published")
    if published and not subset:
        names = ("file_name", "sem_seg_file_name") if meta.get("label_table") else ("file_name",)
        have = [sum(os.path.isfile(item[key]) for item in items) for key in names]
        if not all(published[0] <= n <= published[1] for n in have):
            got = " and ".join(f"{n} {what}" for n, what in zip(have, ("images", "masks"), strict=False))
            low = "" if published[0] == published[1] else f"{published[0]} to "
            faults.append(
                f"expected {low}{published[1]} images, as published, got {got}. A part of an archive is missing or not "
                "unpacked; where a part is meant, set DATASETS.SUBSET True (check_data.py: --subset)."
            )
    if meta.get("audit"):
        faults += meta.audit(items, values)
    faults += _unlabelled(meta, items, values)
    return faults + _in_another_folder(items)


def _unlabelled(meta: Any, items: list[dict[str, Any]], values: NDArray[np.int64]) -> list[str]:
    """Returns an error for a split without a labelled pixel or instance."""
    table = meta.get("label_table")
    if not table:
        return []
    if values.any() and not values[np.asarray(table) != IGNORE].any() and not meta.get("labels_withheld"):
        found = np.flatnonzero(values).tolist()
        return [f"every pixel of the {len(items)} masks is ignored: they hold the values {found} alone."]
    return []


def _in_another_folder(items: list[dict[str, Any]]) -> list[str]:
    """Returns an error for annotations of one split whose images are in the folder of another."""
    missing = [Path(item["file_name"]) for item in items if not os.path.isfile(item["file_name"])]
    if not missing or "sem_seg_file_name" in items[0] or not missing[0].parent.parent.is_dir():
        return []
    found = next((p for p in missing[0].parent.parent.glob(f"*/{missing[0].name}")), None)
    if found is None:
        return []
    return [
        f"{len(missing)} of the {len(items)} images are not in {missing[0].parent}; the first is {found}. Are two "
        "splits' folders or JSON files swapped?"
    ]


def _look_at_mask(item: dict[str, Any], table: list[int], mode: str) -> _Look:
    drawn = "procedural" in item
    missing = [] if drawn else [item[k] for k in ("file_name", "sem_seg_file_name") if not os.path.isfile(item[k])]
    if missing:
        return _Look(f"{missing[0]}: missing")
    if mode == "fast":
        return _Look()
    try:
        image, label = read_image(item), read_raw_label(item)
        values = np.bincount(label.ravel(), minlength=256)
        check_values(item, values, table)
    except DatasetError as error:
        return _Look(str(error))
    damage = None if drawn else _damage(item["file_name"])
    if damage is None and image.shape[:2] != label.shape:
        damage = (
            f"{item['file_name']}: image {image.shape[0]}x{image.shape[1]}, mask {label.shape[0]}x{label.shape[1]}: "
            "sizes differ"
        )
    return _Look(damage) if damage else _Look(size=(label.shape[0], label.shape[1]), values=values)


def _look_at_instances(item: dict[str, Any], mode: str, objects: ObjectCheck) -> _Look:
    name, drawn = item["file_name"], "procedural" in item
    if not drawn and not os.path.isfile(name):
        return _Look(f"{name}: missing")
    size: tuple[int, int] | None = None
    if mode == "full":
        try:
            height, width = read_image(item).shape[:2]
        except DatasetError as error:
            return _Look(str(error))
        if damage := None if drawn else _damage(name):
            return _Look(damage)
        size = (height, width)
        if size != (item["height"], item["width"]):
            stated = f"{item['height']}x{item['width']}"
            return _Look(f"{name}: image {height}x{width}, in the JSON {stated}: sizes differ")
    problem, counts = objects.look(item)
    return _Look(problem) if problem else _Look(size=size, values=counts)


def _damage(path: str) -> str | None:
    """Returns Pillow's error for a damaged image: OpenCV fills the missing rows of a truncated JPEG with grey."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except UnidentifiedImageError:
        return None  # a format that only OpenCV reads, which it did without error
    except (OSError, SyntaxError, ValueError) as error:
        return f"{path}: truncated or damaged ({error})"
    return None

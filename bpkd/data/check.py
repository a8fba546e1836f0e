"""Checks a data set's files before training."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from numpy.typing import NDArray
from tqdm import tqdm

from bpkd.listing import trouble

from .check_objects import ObjectCheck, judge, notes_of
from .files import IGNORE, DatasetError, check_sizes
from .look import Look, look_at_image, look_at_mask
from .mask_values import MaskValues
from .notes import Notes
from .pictures import WHOLE_TYPE, Span

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
    notes: list[str] = field(default_factory=list)
    """Sentences about files that are left out, have no partner, or are usable but worth a look, with counts."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Images of each (height, width)."""

    noted: Notes = field(default_factory=Notes)

    def __post_init__(self) -> None:
        """Creates counters: pixels (or instances) and images of each id (255: ignored), pixels of each mask value."""
        length = max(256, len(self.classes))
        self.values, self.amounts, self.occurs = (np.zeros(length, np.int64) for _ in range(3))
        self.ids = np.asarray(self.table if self.table else range(length))
        self.masks = MaskValues(self.classes, self.table) if self.table else None

    @property
    def unit(self) -> str:
        """Unit of ``amounts``: pixels or instances."""
        return "pixels" if self.table else "instances"

    def faults(self, name: str) -> list[str]:
        """Returns what is wrong with the encoding of the masks of this data set."""
        meta = MetadataCatalog.get(name)
        said = {"family": meta.get("family", ""), "palettes": meta.get("palettes", False)}
        return self.masks.faults(name, **said) if self.masks else []

    def add(self, seen: Look) -> None:
        """Adds an image to the counts."""
        self.images += 1
        if seen.problem:
            self.problems.append(seen.problem)
        if seen.size:
            self.sizes[seen.size] += 1
        self.noted.add(seen.notes, seen.depth, seen.image)
        if self.masks and seen.raw is not None:
            self.masks.add(seen.mask, seen.raw, seen.regions)
            self.masks.palettes.add(seen.mask, seen.colours)
        if seen.values is not None:
            present = np.flatnonzero(seen.values)
            self.values[present] += seen.values[present]
            np.add.at(self.amounts, self.ids[present], seen.values[present])
            self.occurs[np.unique(self.ids[present])] += 1


def check_dataset(name: str, mode: str = "full", *, subset: bool = False, span: Span = WHOLE_TYPE) -> int:
    """Checks every pair of a registered data set and logs what is noted; see ``survey_dataset``.

    Returns:
        Number of images.

    Raises:
        DatasetError: files are wrong.
    """
    survey = survey_dataset(name, mode, subset=subset, draw=False, span=span)
    logged = MetadataCatalog.get(name).get("logged", ())  # when its file of objects was read
    for note in survey.notes:
        if note not in logged:
            logger.warning("%s: %s", name, note)
    return survey.images


def survey_dataset(
    name: str,
    mode: str = "full",
    *,
    subset: bool = False,
    draw: bool = True,
    progress: bool = False,
    span: Span = WHOLE_TYPE,
) -> Survey:
    """Checks every image of a registered data set and counts what its masks or instances hold.

    Args:
        name: Name in Detectron2's catalog.
        mode: "full" decodes every image and mask and compares sizes and ids; "fast" only checks that the files exist.
        subset: whether fewer images than published are accepted.
        draw: whether to draw procedural scenes and count their pixels too.
        progress: whether to show a progress bar.
        span: (low, high): values of images above 8 bits that become 0 and 255 (INPUT.IMAGE_RANGE).

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
    notes = list(meta.get("remarks", list)())
    for key, what in (("file_name", "images"), ("sem_seg_file_name", "masks")):
        if key in items[0] and "procedural" not in items[0] and not any(os.path.isfile(i[key]) for i in items):
            if elsewhere := _in_another_folder(items):
                raise DatasetError(f"{name}: {elsewhere[0]}")
            raise DatasetError(
                f"{name}: none of the {len(items)} {what} is there, expected {items[0][key]} and so on. Their archive "
                + " ".join(["was not unpacked, or to another place.", *notes])
            )
    table = meta.get("label_table")
    survey = Survey(tuple(meta.get("stuff_classes") or meta.get("thing_classes", ())), table, notes=list(notes))
    objects = None if table else ObjectCheck(name, mode)

    def look(item: dict[str, Any]) -> Look:
        if "procedural" in item and not draw:
            return Look()
        return _look_at_instances(item, mode, span, objects) if objects else look_at_mask(item, table or [], mode, span)

    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) * 2)) as pool:
        for seen in tqdm(pool.map(look, items), name, len(items), disable=not progress, unit="image"):
            survey.add(seen)
    survey.notes += survey.noted.texts() + notes_of(objects)
    whole = _faults_of_the_whole(name, items, survey.values, subset) + survey.faults(name)
    whole += judge(objects, items, survey.amounts)
    faults = [f"{name}: {fault}" for fault in whole]
    if faults := faults + _listed(name, survey.problems, len(items)):
        raise DatasetError("\n".join([*faults, *notes]))
    logger.info("%s: %d images checked (%s).", name, len(items), mode)
    return survey


def _listed(name: str, problems: Sequence[str], count: int) -> list[str]:
    if not problems:
        return []
    more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return [
        f"{name}: {len(problems)} of {count} images are unusable:\n  "
        + "\n  ".join(problems[:SHOWN]) + more
        + ("" if more or problems[-1].endswith((".", ")")) else ".")
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


def _look_at_instances(item: dict[str, Any], mode: str, span: Span, objects: ObjectCheck) -> Look:
    name, drawn = item["file_name"], "procedural" in item
    if not drawn and (why := trouble(name)):
        return Look(f"{name}: {why}")
    seen = Look()
    if mode == "full":
        try:
            seen = look_at_image(item, span)
            check_sizes(item, seen.size or (0, 0), (item["height"], item["width"]), "in the JSON")
        except DatasetError as error:
            return Look(str(error))
    problem, counts = objects.look(item)
    return Look(problem) if problem else replace(seen, values=counts)

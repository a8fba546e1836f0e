"""Cityscapes, fine annotations, 19 classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from numpy.typing import NDArray

from bpkd.data.files import IGNORE
from bpkd.listing import visible

from .base import Items, Place, SemanticSet, folder_pairs, misplaced

CLASSES = tuple(c["name"] for c in CITYSCAPES_CATEGORIES)
COLORS = tuple(c["color"] for c in CITYSCAPES_CATEGORIES)
LABEL_IDS = {**dict.fromkeys(range(34), IGNORE), **{c["id"]: c["trainId"] for c in CITYSCAPES_CATEGORIES}}
IMAGE, LABEL, TRAIN_LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
# The first labelId of a class; no trainId is 19 or more, where cars, vegetation and sky are.
FIRST, ENOUGH = 7, 10
PUBLISHED = {"train": 2_975, "val": 500, "test": 1_525}
CITIES = {
    "train": (
        "aachen", "bochum", "bremen", "cologne", "darmstadt", "dusseldorf", "erfurt", "hamburg", "hanover", "jena",
        "krefeld", "monchengladbach", "strasbourg", "stuttgart", "tubingen", "ulm", "weimar", "zurich",
    ),
    "val": ("frankfurt", "lindau", "munster"),
    "test": ("berlin", "bielefeld", "bonn", "leverkusen", "mainz", "munich"),
}  # fmt: skip


def cityscapes_sets(root: Path) -> list[SemanticSet]:
    """Returns ``cityscapes_fine_sem_seg_{train,val,test}``.

    The download's ``labelIds`` are read through a table; only without them ``labelTrainIds``, which Cityscapes' scripts
    draw. The masks of test hold no class: its labels are withheld.
    """
    return [_split(place(root), split) for split in PUBLISHED]


def place(root: Path) -> Place:
    """Returns where the data set may lie."""
    layouts = {"Detectron2's": "cityscapes", "mmsegmentation's": "cityscapes"}
    return Place("Cityscapes", root, layouts, "leftImg8bit")


def _split(where: Place, split: str) -> SemanticSet:
    images, masks = (where.folder / kind / split for kind in ("leftImg8bit", "gtFine"))
    drawn = _holds(masks, TRAIN_LABEL) and not _holds(masks, LABEL)
    return SemanticSet(
        name=f"cityscapes_fine_sem_seg_{split}",
        load=partial(_items, where, split, TRAIN_LABEL if drawn else LABEL),
        classes=CLASSES,
        colors=COLORS,
        ids={} if drawn else LABEL_IDS,
        evaluator="cityscapes_sem_seg",
        published=(PUBLISHED[split], PUBLISHED[split]),
        audit=partial(_audit, split, not drawn),
        more={"labels_withheld": split == "test", "image_dir": str(images), "gt_dir": str(masks)},
    )


def _holds(masks: Path, end: str) -> bool:
    return any(visible(path, masks) for path in masks.glob(f"*/*{end}"))


def _items(where: Place, split: str, label: str) -> Items:
    where.check()
    images, masks = (where.folder / kind / split for kind in ("leftImg8bit", "gtFine"))
    return folder_pairs(images, masks, (IMAGE, label), depth="*/*")


def _audit(split: str, label_ids: bool, items: Items, values: NDArray[np.int64]) -> list[str]:
    """Finds swapped splits, and trainIds under the name of labelIds: many are ids of other classes."""
    faults = misplaced(items, {s: tuple(f"{city}_" for city in cities) for s, cities in CITIES.items()}, split)
    low = len(items) >= ENOUGH and values[FIRST : len(CLASSES)].any() and not values[len(CLASSES) :].any()
    if label_ids and (values[IGNORE] or low):
        got = f"the value {IGNORE}" if values[IGNORE] else f"nothing above {len(CLASSES) - 1} in {len(items)} images"
        faults.append(
            f"the files *{LABEL} hold {got}, which labelIds (0..33) do not: these are trainIds. Name them "
            f"*{TRAIN_LABEL}, and put the download's labelIds in their place."
        )
    return faults

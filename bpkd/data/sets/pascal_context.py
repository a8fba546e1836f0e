"""Pascal Context, 59 classes, as OpenMMLab and the paper use it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_length

from bpkd.data.files import IGNORE, DatasetError

from .ade20k import COLORS as ADE20K_COLORS
from .base import Items, Place, SemanticSet, pair, words

# Category ids of the annotation file: background, then the classes in alphabetical order. The official list
# (59_labels.txt) has another order, with the 20 classes of VOC first.
IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158,
    159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366,
    368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
CLASSES = words("""
    aeroplane; bag; bed; bedclothes; bench; bicycle; bird; boat; book; bottle; building; bus; cabinet; car; cat;
    ceiling; chair; cloth; computer; cow; cup; curtain; dog; door; fence; floor; flower; food; grass; ground;
    horse; keyboard; light; motorbike; mountain; mouse; person; plate; platform; pottedplant; road; rock; sheep;
    shelves; sidewalk; sign; sky; snow; sofa; table; track; train; tree; truck; tvmonitor; wall; water; window;
    wood
""")
COLORS = ADE20K_COLORS[1 : len(CLASSES) + 1]
ANNOTATIONS = "trainval_merged.json"
MASKS = "SegmentationClassContext"
LISTS = "ImageSets/SegmentationContext"
# A full conversion has two train images and one val image fewer than the annotations list.
PUBLISHED = {"train": (4_996, 4_998), "val": (5_104, 5_105)}


def pascal_context_sets(root: Path) -> list[SemanticSet]:
    """Returns ``pascal_context_59_sem_seg_{train,val}``: masks of 60 values, of which 0 (background) is ignored."""
    where = place(root)
    return [
        SemanticSet(
            name=f"pascal_context_59_sem_seg_{split}",
            load=partial(_items, where, split),
            classes=CLASSES,
            colors=COLORS,
            ids={0: IGNORE, **{k: k - 1 for k in range(1, len(IDS))}},
            evaluator="sem_seg",
            published=published,
            audit=partial(_audit, where, split),
        )
        for split, published in PUBLISHED.items()
    ]


def place(root: Path) -> Place:
    """Returns where the data set may lie."""
    layouts = {"Detectron2's": "VOCdevkit/VOC2010", "mmsegmentation's": "VOCdevkit/VOC2010", "flat": "VOC2010"}
    return Place("Pascal Context", root, layouts, "JPEGImages")


def _items(where: Place, split: str) -> Items:
    where.check()
    listing = where.folder / LISTS / f"{split}.txt"
    if not listing.is_file() or not (where.folder / MASKS).is_dir():
        raise DatasetError(f"Pascal Context: expected {where.folder / MASKS}/ and {listing}. {_way_out(where)}")
    images, masks = where.folder / "JPEGImages", where.folder / MASKS
    return [pair(images / f"{stem}.jpg", masks / f"{stem}.png", stem) for stem in stems(listing)]


def _way_out(where: Place) -> str:
    if (where.folder / ANNOTATIONS).is_file():
        return f"bpkd prepare-data pascal_context {where.root} makes them from {ANNOTATIONS}."
    if (where.folder / "annotations_detectron2").is_dir():
        return (
            "The masks in annotations_detectron2/ are another edition, in the order of 59_labels.txt, and are not "
            f"read: with them a class would silently be another. Get {ANNOTATIONS} and run bpkd prepare-data."
        )
    return f"Put {ANNOTATIONS} into {where.folder} and run bpkd prepare-data pascal_context {where.root}."


def stems(listing: Path) -> list[str]:
    """Returns the image names of a split's list."""
    return listing.read_text().split()


def _audit(where: Place, split: str, items: Items, values: NDArray[np.int64]) -> list[str]:
    """Finds lists that share images or are swapped."""
    other = "val" if split == "train" else "train"
    listing = where.folder / LISTS / f"{other}.txt"
    theirs = set(stems(listing)) if listing.is_file() else set()
    shared = sorted(theirs & {i["image_id"] for i in items})
    if shared:
        return [f"{len(shared)} images stand in train.txt and in val.txt (first {shared[0]})."]
    low, high = PUBLISHED[other]
    if low <= len(items) <= high:
        return [f"{len(items)} images are those of {other}: are train.txt and val.txt swapped?"]
    return []


def read_annotations(path: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yields the images of train and val with their annotations in the file's order.

    Raises:
        DatasetError: the file is missing or is something else.
    """
    if not path.is_file():
        raise DatasetError(
            f"{path}: expected Pascal Context's annotations in one JSON file, got none. Its edition as .mat files has "
            "other pixels and is not read."
        )
    try:
        data = json.loads(path.read_text())
        parts: dict[int, list[dict[str, Any]]] = {}
        for annotation in data["annos_segmentation"]:
            parts.setdefault(annotation["image_id"], []).append(annotation)
        images = [(image, parts.get(image["image_id"], [])) for image in data["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path}: expected images and annos_segmentation, got {type(error).__name__}: {error}. A file that was cut "
            "off while it was copied looks like this too."
        ) from error
    yield from (entry for entry in images if entry[0]["phase"] in PUBLISHED)


def paint(image: dict[str, Any], annotations: Sequence[dict[str, Any]]) -> NDArray[np.uint8]:
    """Returns the mask of an image: the place of each category in ``IDS``, the later annotation on top.

    Args:
        image: its ``height``, ``width`` and ``file_name``.
        annotations: ``category_id`` and ``segmentation``, a run-length mask.

    Returns:
        [H, W] 0..59, 0 is background.

    Raises:
        DatasetError: a category is none of the 60, or a mask has another size than the image.
    """
    mask = np.zeros((image["height"], image["width"]), np.uint8)
    for annotation in annotations:
        runs = annotation["segmentation"]
        if not isinstance(runs, dict):
            raise DatasetError(
                f"{image['file_name']}: annotation {annotation['id']}: expected a run-length mask (size, counts), got "
                f"a {type(runs).__name__}. trainval_merged.json holds run lengths."
            )
        if isinstance(runs["counts"], list):
            runs = run_length.frPyObjects(runs, *runs["size"])
        region = run_length.decode(runs).astype(bool)
        if annotation["category_id"] not in IDS or region.shape != mask.shape:
            raise DatasetError(
                f"{image['file_name']}: annotation {annotation['id']}: expected one of the 60 categories and "
                f"{mask.shape} pixels, got category {annotation['category_id']} and {region.shape}."
            )
        mask[region] = IDS.index(annotation["category_id"])
    return mask

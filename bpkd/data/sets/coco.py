"""COCO 2017 instances, 80 classes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from bpkd.data.annotations import Objects, category_names, dataset_dicts, read_objects
from bpkd.data.files import DatasetError

from .base import InstanceSet, Place

logger = logging.getLogger(__name__)

IDS = "thing_dataset_id_to_contiguous_id"
PUBLISHED = {"train": 118_287, "val": 5_000}


def coco_sets(root: Path) -> list[InstanceSet]:
    """Returns ``coco_2017_{train,val}``: Detectron2's names, below this root instead of its own."""
    folder = place(root).folder
    return [
        InstanceSet(
            name=f"coco_2017_{split}",
            json=folder / "annotations" / f"instances_{split}2017.json",
            images=folder / f"{split}2017",
            check=place(root).check,
            published=(count, count),
            more=_get_builtin_metadata("coco"),
        )
        for split, count in PUBLISHED.items()
    ]


def place(root: Path) -> Place:
    """Returns where the data set may lie."""
    layouts = {"Detectron2's": "coco", "mmdetection's": "coco"}
    return Place("COCO", root, layouts, "annotations")


def objects_of(spec: InstanceSet) -> Objects:
    """Reads the objects of a COCO file, repaired where that is certain.

    Raises:
        DatasetError: the file or the image folder is missing, the file is no COCO file, its categories are not those
            that are expected, or objects cannot be used.
    """
    spec.check()
    for path, what, key in ((spec.json, "COCO JSON", "JSON"), (spec.images, "folder of images", "IMAGES")):
        if not path.exists():
            advice = "See DATASETS.ROOT." if spec.published else _keys_of(spec, path, key)
            raise DatasetError(f"{spec.name}: expected a {what} at {os.path.abspath(path)}, got none. {advice}")
    try:
        found = read_objects(
            spec.json, spec.images, published=spec.published is not None, drop_unusable=spec.drop_unusable
        )
    except DatasetError as error:
        raise DatasetError(f"{spec.name}: {error}") from error
    _check_categories(spec, found.categories)
    return found


def _keys_of(spec: InstanceSet, path: Path, key: str) -> str:
    """Says which keys of one's own data give a missing path, and where a file of its name is, if it is near."""
    split = spec.name.rpartition("_")[2].upper()
    found = next((folder / path.name for folder in path.parents[1:3] if (folder / path.name).exists()), None)
    near = f" There is {os.path.abspath(found)}." if found else ""
    return f"It is DATASETS.COCO_FOLDER.ROOT and {split}_{key}, which a _BASE_ may have set.{near}"


def instance_items(spec: InstanceSet, told: list[str]) -> list[dict[str, Any]]:
    """Reads a COCO file into Detectron2's dataset dicts; polygons and run-length masks stay what they are.

    Args:
        spec: the split.
        told: notes that have been logged already; takes those that are logged now.

    Raises:
        DatasetError: see `objects_of`.
    """
    found = objects_of(spec)
    for note in found.notes:
        if note not in told:
            logger.warning("%s: %s", spec.name, note)
            told.append(note)
    names, meta = list(found.categories.values()), MetadataCatalog.get(spec.name)
    if meta.get("thing_classes", names) != names or meta.get(IDS, found.classes) != found.classes:
        raise DatasetError(
            f"{spec.name}: {spec.json} has the classes {names}, but had {meta.thing_classes} when it was first read. "
            "Start anew."
        )
    meta.set(thing_classes=names, **{IDS: found.classes})
    return dataset_dicts(found, str(spec.images))


def _check_categories(spec: InstanceSet, have: dict[int, str]) -> None:
    wanted = spec.more.get("thing_classes")
    if wanted and have != dict(zip(spec.more[IDS], wanted, strict=True)):
        raise DatasetError(
            f"{spec.name}: {spec.json}: expected COCO's {len(wanted)} categories, got {len(have)}, the first "
            f"{sorted(have.items())[:3]}. Your own instances belong into DATASETS.COCO_FOLDER."
        )
    for other in spec.others:
        theirs = category_names(other) if other.is_file() else None
        if theirs is not None and theirs != have:
            raise DatasetError(
                f"{spec.name}: {spec.json} has the categories {have}, {other} has {theirs}: expected the same, or each "
                "would call its classes by the other's names."
            )

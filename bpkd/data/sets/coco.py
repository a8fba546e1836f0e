"""COCO 2017 instances, 80 classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from bpkd.data.files import DatasetError

from .base import InstanceSet, Place

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


def instance_items(spec: InstanceSet) -> list[dict[str, Any]]:
    """Reads a COCO file into Detectron2's dataset dicts; polygons and run-length masks stay what they are.

    Raises:
        DatasetError: the file or the image folder is missing, or the file is no COCO file.
    """
    spec.check()
    for path, what in ((spec.json, "COCO JSON"), (spec.images, "folder of images")):
        if not path.exists():
            raise DatasetError(
                f"{spec.name}: expected a {what} at {path}, got none. See DATASETS.ROOT, or DATASETS.COCO_FOLDER for "
                "your own data."
            )
    try:
        items: list[dict[str, Any]] = load_coco_json(str(spec.json), str(spec.images), spec.name)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{spec.name}: {_fault(spec, error)}") from error
    meta = MetadataCatalog.get(spec.name)
    mine = dict(zip(meta.thing_dataset_id_to_contiguous_id, meta.thing_classes, strict=True))
    for other in spec.others:
        if other.is_file() and mine != (theirs := categories(other)):
            raise DatasetError(
                f"{spec.name}: {spec.json} has the categories {mine}, {other} has {theirs}: expected the same, or each "
                "would call its classes by the other's names."
            )
    return items


def categories(path: Path) -> dict[int, str] | None:
    """Returns a COCO file's category names by id; None where it has none."""
    try:
        return {c["id"]: c["name"] for c in json.loads(path.read_text())["categories"]}
    except (KeyError, TypeError, ValueError):
        return None


def _fault(spec: InstanceSet, error: Exception) -> str:
    wanted, have = spec.more.get("thing_classes"), categories(spec.json)
    if not have:
        return f"{spec.json} cannot be read as a COCO file ({error}): expected images, annotations, categories."
    if wanted and have != dict(zip(spec.more["thing_dataset_id_to_contiguous_id"], wanted, strict=True)):
        return (
            f"{spec.json}: expected COCO's {len(wanted)} categories, got {len(have)}, the first "
            f"{sorted(have.items())[:3]}. Your own instances belong into DATASETS.COCO_FOLDER."
        )
    return f"{spec.json} cannot be read as a COCO file ({error})."

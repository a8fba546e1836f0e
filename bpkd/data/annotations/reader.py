"""Reads the objects of a COCO file: the same ones for training, check, grids, pictures and evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from bpkd.data.files import DatasetError

from .json_file import parts, read_json
from .notes import Notes, listed
from .objects import ObjectReader
from .outlines import MISSING
from .tables import read_categories, read_images

KEPT = 100 * 2**20  # larger files are read anew each time: their objects would stay in memory beside the loader's


@dataclass(frozen=True)
class Objects:
    """The objects of a COCO file as they are used."""

    path: Path
    images: dict[Any, dict[str, Any]]
    """Image id -> {id, file_name, height, width}, sorted by id."""

    categories: dict[int, str]
    """Category id -> name, sorted by id."""

    annotations: dict[Any, list[dict[str, Any]]]
    """Image id -> its objects with ``id`` (the file's own, for messages), ``category_id``, ``iscrowd``, ``bbox`` [x, y,
    width, height], ``segmentation``, and ``area``, None where the file's is not valid."""

    notes: tuple[str, ...] = ()
    """What was repaired or left out, with counts."""

    problems: tuple[str, ...] = ()
    """Objects that cannot be used."""

    total: int = 0
    """Number of annotations in the file."""

    published: bool = False
    classes: dict[int, int] = field(default_factory=dict)
    """Category id -> class 0..K-1."""


def read_objects(
    path: Path, images: Path | None = None, *, published: bool = False, drop_unusable: bool = False
) -> Objects:
    """Reads a COCO file; without changes to the file, the next call returns the same objects.

    Args:
        path: COCO file.
        images: folder of its images; None: names and missing sizes cannot be compared with the files.
        published: whether objects without a valid outline are left out, as Detectron2 does, and boxes and areas of 0
            stay: what published figures were computed with.
        drop_unusable: whether objects that cannot be used are left out instead of refused.

    Raises:
        DatasetError: the file is no COCO file, or holds objects that cannot be used; the message names them.
    """
    stat = os.stat(path)
    read = _read if stat.st_size <= KEPT else _read.__wrapped__
    found: Objects = read(path, images, published, (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    if not found.problems:
        return found
    if not (published or drop_unusable):
        raise DatasetError(
            f"{path}: {len(found.problems)} of {found.total} objects cannot be used:\n  {listed(found.problems)}."
            f"{_boxes_only(found)}\nRepair them, or leave them out with DATASETS.DROP_UNUSABLE_OBJECTS True."
        )
    why = "as Detectron2 does" if published else "DATASETS.DROP_UNUSABLE_OBJECTS"
    more = f"{len(found.problems)} of {found.total} objects cannot be used and are left out ({why}); the first: "
    return Objects(**{**vars(found), "notes": (*found.notes, more + found.problems[0] + "."), "problems": ()})


def _boxes_only(found: Objects) -> str:
    """Returns a hint for a file of boxes without masks."""
    if len(found.problems) < found.total or not all(p.endswith(MISSING) for p in found.problems):
        return ""
    return " The file holds boxes alone: instance segmentation learns from masks."


@lru_cache(maxsize=4)
def _read(path: Path, folder: Path | None, published: bool, version: Any) -> Objects:
    notes = Notes()
    rows, annotations, categories = parts(path)
    images = read_images(rows, path, folder, notes)
    names = read_categories(categories, path, lambda what, who: notes.add(what, who, unit="category id"))
    reader = ObjectReader(images, names, notes, published=published)
    for number, row in enumerate(annotations):
        reader.add(row, number)
    reader.finish(path, len(annotations))
    return Objects(
        path=path,
        images={key: images[key] for key in _sorted(images)},
        categories=names,
        annotations=reader.found,
        notes=tuple(f"{path.name}: {line}" for line in notes.lines()),
        problems=tuple(reader.problems),
        total=len(annotations),
        published=published,
        classes={key: i for i, key in enumerate(names)},
    )


def _sorted(images: dict[Any, Any]) -> list[Any]:
    try:
        return sorted(images)
    except TypeError:  # numbers and texts
        return sorted(images, key=lambda key: (isinstance(key, str), key))


def dataset_dicts(objects: Objects, folder: Path | str) -> list[dict[str, Any]]:
    """Returns Detectron2's dataset dicts, sorted by image id.

    Args:
        objects: what `read_objects` returns.
        folder: folder of the images.
    """
    out = []
    for key, image in objects.images.items():
        found = [
            {
                "iscrowd": one["iscrowd"],
                "bbox": one["bbox"],
                "category_id": objects.classes[one["category_id"]],
                "segmentation": one["segmentation"],
                "bbox_mode": BoxMode.XYWH_ABS,
            }
            for one in objects.annotations.get(key, ())
        ]
        record = {**image, "file_name": os.path.join(folder, image["file_name"]), "image_id": key, "annotations": found}
        del record["id"]
        out.append(record)
    return out


def category_names(path: Path, note: Callable[[str, Any], None] = lambda what, who: None) -> dict[int, str] | None:
    """Returns a COCO file's category names by id; None where they cannot be read, which the file's reader reports.

    Args:
        path: COCO file.
        note: takes a repair and its category id.
    """
    try:
        return read_categories(read_json(path).get("categories") or [], path, note)
    except (OSError, DatasetError, TypeError):
        return None

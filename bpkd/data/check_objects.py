"""The part of a data set's check that looks at objects: each mask is drawn once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray

from .annotations import Objects
from .annotations.masks import area
from .annotations.notes import EXAMPLES, UnusableError, first
from .annotations.outlines import read_outline


class ObjectCheck:
    """Counts a split's objects by class, and those without a pixel."""

    def __init__(self, name: str, mode: str) -> None:
        """Takes the split.

        Args:
            name: name in Detectron2's catalog.
            mode: "full" draws every mask, "fast" none.
        """
        meta = MetadataCatalog.get(name)
        read = meta.get("objects")
        self.objects: Objects | None = read() if read else None
        self.full, self.json_file = mode == "full", meta.get("json_file")
        self.empty: list[Any] = []

    def look(self, item: dict[str, Any]) -> tuple[str, NDArray[np.int64]]:
        """Returns what is wrong with an image's objects ("" for nothing), and how many each class has.

        Args:
            item: dataset dict.
        """
        counts = np.zeros(256, np.int64)
        for place, one in enumerate(item.get("annotations", ())):
            if self.objects is None and (problem := _problem(one, item)):
                return f"{item['file_name']}, annotation [{place}]: {problem}", counts
            drawn = not self.full or area(one["segmentation"], item["height"], item["width"]) > 0
            if not drawn:
                self.empty.append(self._name(item, place))
            elif not one.get("iscrowd"):
                counts = _counted(counts, int(one["category_id"]))
        return "", counts

    @property
    def notes(self) -> list[str]:
        """What was repaired or left out."""
        out = list(self.objects.notes) if self.objects else []
        if self.empty:
            names = sorted(self.empty, key=str)[:EXAMPLES]
            out.append(f"{len(self.empty)} objects cover no pixel: left out "
                       f"({first(names, len(self.empty), 'annotation id')}).")  # fmt: skip
        return out

    def unlabelled(self, items: Sequence[dict[str, Any]], counts: NDArray[np.int64]) -> list[str]:
        """Returns an error for a split without an object that counts.

        Args:
            items: dataset dicts.
            counts: objects of each class, as ``look`` returned them for all images.
        """
        found = [one for item in items for one in item.get("annotations", ())]
        if any(not one.get("iscrowd") for one in found) and (counts.any() or not self.empty):
            return []
        kind = "crowds" if all(one.get("iscrowd") for one in found) else "objects without a pixel"
        only = f" It holds {len(found)} {kind} alone." if found else ""
        return [f"none of the {len(items)} images has an instance: expected annotations in {self.json_file}.{only}"]

    def _name(self, item: dict[str, Any], place: int) -> Any:
        if self.objects is None:
            return f"{item['file_name']} [{place}]"
        return self.objects.annotations[item["image_id"]][place]["id"]


def judge(objects: ObjectCheck | None, items: Sequence[dict[str, Any]], counts: NDArray[np.int64]) -> list[str]:
    """Returns the errors of a whole split of objects; none where a split has no objects but masks of ids.

    Args:
        objects: check that has looked at all images.
        items: dataset dicts.
        counts: objects of each class.
    """
    return objects.unlabelled(items, counts) if objects else []


def notes_of(objects: ObjectCheck | None) -> list[str]:
    """Returns what was repaired or left out among a split's objects.

    Args:
        objects: check that has looked at all images; None: the split has masks of ids.
    """
    return objects.notes if objects else []


def _counted(counts: NDArray[np.int64], index: int) -> NDArray[np.int64]:
    if index >= len(counts):
        counts = np.concatenate([counts, np.zeros(index + 1 - len(counts), np.int64)])
    counts[index] += 1
    return counts


def _problem(one: dict[str, Any], item: dict[str, Any]) -> str:
    """Returns what is wrong with an object of a data set that was registered as dicts."""
    outline = one.get("segmentation")
    if isinstance(outline, list):
        outline = [part.tolist() if isinstance(part, np.ndarray) else part for part in outline]
    try:
        found = read_outline(outline, item["height"], item["width"])
    except UnusableError as error:
        return str(error)
    return f"expected polygons or run lengths in COCO's form, got {found.repairs[0]}" if found.repairs else ""

"""COCO's label structure for the evaluators, made in memory, and what its figures leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

from bpkd.data.annotations import Objects, encode

SHOWN = 10


class Labels:
    """A file's objects as COCO's evaluation needs them: masks encoded, ids 1..N, areas filled in."""

    def __init__(self, objects: Objects) -> None:
        """Takes the objects of a COCO file."""
        self.path, self.classes = objects.path, objects.categories
        # Evaluations need whole numbers from 0 on; the results file has the file's own ids.
        plain = all(type(key) is int and 0 <= key < 2**62 for key in objects.images)
        self.number: dict[Any, int] = {key: key if plain else i for i, key in enumerate(objects.images, 1)}
        self.empty: list[Any] = []
        rows = [
            row
            for key, found in objects.annotations.items()
            for one in found
            if (row := self._row(one, objects.images[key], published=objects.published))
        ]
        # An id of 0 is COCOeval's word for "matches nothing": no file's own ids are taken.
        self.dataset: dict[str, Any] = {
            "info": {},
            "licenses": [],
            "images": [{**image, "id": self.number[key]} for key, image in objects.images.items()],
            "categories": [{"id": key, "name": name} for key, name in objects.categories.items()],
            "annotations": [{**row, "id": i} for i, row in enumerate(rows, start=1)],
        }

    def _row(self, one: Mapping[str, Any], image: Mapping[str, Any], *, published: bool) -> dict[str, Any] | None:
        encoded = encode(one["segmentation"], image["height"], image["width"])
        pixels = int(rle.area(encoded))
        if not pixels:
            self.empty.append(one["id"])
            if not published:  # COCO's own figures count them as missed
                return None
        keys = ("category_id", "iscrowd", "bbox")
        area = pixels if one["area"] is None else one["area"]
        return {
            **{k: one[k] for k in keys}, "area": area, "image_id": self.number[image["id"]], "segmentation": encoded
        }  # fmt: skip

    def load(self, kind: type[Any]) -> Any:
        """Returns the labels as the COCO class of an evaluation library.

        Args:
            kind: `pycocotools.coco.COCO`, or a class of its form.
        """
        out = kind()
        # Libraries write into it.
        out.dataset = {**self.dataset, "annotations": [dict(row) for row in self.dataset["annotations"]]}
        out.createIndex()
        return out

    def unlabelled(self, images: Sequence[int]) -> tuple[list[int], int, int]:
        """Returns the category ids without a label that counts, and the numbers of such labels and of crowds.

        Args:
            images: numbers of the images that are evaluated.
        """
        wanted = set(images)
        rows = [row for row in self.dataset["annotations"] if row["image_id"] in wanted]
        crowds = sum(row["iscrowd"] for row in rows)
        labelled = {row["category_id"] for row in rows if not row["iscrowd"]}
        return [key for key in self.classes if key not in labelled], len(rows) - crowds, crowds


def what_counts(
    labels: Labels,
    images: Sequence[int],
    classes: Mapping[int, str],
    results: Sequence[Mapping[str, Any]],
    score: float,
) -> list[str]:
    """Says which classes and images the figures leave out.

    Args:
        labels: labels.
        images: numbers of the evaluated images.
        classes: evaluated category ids and their names.
        results: detections with ``category_id``.
        score: mask AP in percent, over the classes that have a label.
    """
    absent, count, crowds = labels.unlabelled(images)
    absent = [key for key in absent if key in classes]
    if not count:
        what = f"only {crowds} crowds" if crowds else "no objects"
        return [f"{what} in the labels of the {len(images)} evaluated images: AP is undefined (nan)."]
    if not absent:
        return []
    names = ", ".join(classes[key] for key in absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
    lines = [f"{len(absent)} of {len(classes)} classes have no label in the evaluated images ({names}): AP leaves them "
             "out, as COCO's does."]  # fmt: skip
    found = {row["category_id"] for row in results} & set(absent)
    if found and np.isfinite(score):
        rest = len(classes) - len(absent)
        lines.append(
            f"{len(found)} of them are found all the same; counted as 0 they make an AP of "
            f"{score * rest / (rest + len(found)):.2f} instead of {score:.2f}."
        )
    return lines

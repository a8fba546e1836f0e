"""Reads annotations one after the other, with what a whole file tells about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bpkd.data.files import DatasetError

from . import masks
from .fields import Ids, box_differs, read_area, read_box, read_crowd
from .notes import Notes, UnusableError
from .outlines import read_outline, shown

BOXES = "objects have no valid bbox [x, y, width, height]: taken from the mask"
OTHER_BOXES = "objects have another bbox [x, y, width, height] than their mask's (as corners?): taken from the mask"
EXCHANGED = (
    "objects have a bbox that fits their outline only with x and y exchanged, or with run lengths read row by row: the "
    "outline is used as COCO reads it. Look at the contact sheet, and export anew if masks lie beside their objects"
)
AGAIN = (
    "objects are there twice, with the same image, class and outline: both are kept, so that one of them counts as "
    "missed in AP. Remove the copies"
)
AREAS = "objects have no valid area: counted from the mask"
CROWDS = "objects have no iscrowd, or not as 0 or 1: missing is 0, text and true or false are read"
IGNORED = "objects are marked 'ignore': treated as crowds, neither trained nor counted as missed"
STRANGERS = "objects belong to no image of the file: left out"


class ObjectReader:
    """Collects a file's objects by image; one that cannot be used becomes a problem."""

    def __init__(
        self, images: dict[Any, dict[str, Any]], categories: dict[int, str], notes: Notes, *, published: bool
    ) -> None:
        """Takes the file's tables.

        Args:
            images: image id -> {file_name, height, width, ...}.
            categories: category id -> name.
            notes: takes what was repaired.
            published: see `read_objects`.
        """
        self.images, self.notes, self.published = images, notes, published
        self.image_ids, self.category_ids = Ids(images), Ids(categories)
        self.found: dict[Any, list[dict[str, Any]]] = {}
        self.problems: list[str] = []
        self._seen: set[Any] = set()
        self._strangers: list[Any] = []
        self._largest, self._count = 0.0, 0
        self._places: dict[Any, Any] = {}

    def add(self, row: Any, number: int) -> None:
        """Reads one annotation.

        Args:
            row: as it stands in the file.
            number: its place there.
        """
        if not isinstance(row, dict):
            self.problems.append(f"annotations[{number}]: expected an object, got {shown(row)}")
            return
        name = self._id(row, number)
        image, same = self.image_ids.find(row.get("image_id"))
        if image is None:
            self._strangers.append(row.get("image_id"))
            self.notes.add(STRANGERS, name)
            return
        if not same:
            self.notes.add("objects have an image_id written otherwise than the image's id: matched", name)
        try:
            one = self._object(row, name, self.images[image])
        except UnusableError as error:
            self.problems.append(f"{self.images[image]['file_name']}, annotation {name!r}: {error}")
            return
        self.found.setdefault(image, []).append(one)
        if not self.published:
            place = (image, one["category_id"], one["iscrowd"], *one["bbox"])
            if self._places.setdefault(place, one["segmentation"]) is not one["segmentation"]:
                self._again(self._places[place], one)

    def _again(self, other: Any, one: dict[str, Any]) -> None:
        if other == one["segmentation"]:
            self.notes.add(AGAIN, one["id"])

    def finish(self, path: Path, total: int) -> None:
        """Checks what only the whole file tells.

        Args:
            path: COCO file, for messages.
            total: number of its annotations.

        Raises:
            DatasetError: no annotation belongs to an image, or coordinates are shares of the image's size.
        """
        if self._strangers and len(self._strangers) == total:
            known = ", ".join(repr(key) for key in list(self.images)[:3]) or "none"
            others = ", ".join(repr(v) for v in self._strangers[:3])
            raise DatasetError(
                f"{path}: expected annotations of its {len(self.images)} images (ids {known}, ...), got "
                f"{total} of others (image_id {others}, ...). Do the two parts belong together?"
            )
        if self._count and self._largest <= 1 and any(max(i["height"], i["width"]) > 8 for i in self.images.values()):
            raise DatasetError(
                f"{path}: expected coordinates in pixels, got none above {self._largest:g}: they are shares of the "
                "image's width and height. Multiply them."
            )

    def _id(self, row: dict[str, Any], number: int) -> Any:
        """Returns the annotation's id, for messages; its place in the file where it has none."""
        name = row.get("id")
        if not isinstance(name, int | float | str):
            self.notes.add("annotations have no id: numbered anew", number, unit="index")
            return f"[{number}]"
        if name in self._seen:
            self.notes.add("annotations have the id of another one: kept as objects of their own", name)
        self._seen.add(name)
        return name

    def _object(self, row: dict[str, Any], name: Any, image: dict[str, Any]) -> dict[str, Any]:
        height, width = image["height"], image["width"]
        outline = read_outline(row.get("segmentation"), height, width, lenient=self.published)
        for repair in dict.fromkeys(outline.repairs):
            self.notes.add(f"objects: {repair}", name)
        one = {
            "id": name,
            "category_id": self._category(row.get("category_id"), name),
            "iscrowd": self._crowd(row, name),
            "bbox": read_box(row.get("bbox"), published=self.published),
            "segmentation": outline.mask,
            "area": read_area(row.get("area"), published=self.published),
        }
        if one["area"] is None:
            self.notes.add(AREAS, name)
        if outline.extent and not self.published:
            self._largest, self._count = max(self._largest, *outline.extent[2:]), self._count + 1
        if one["bbox"] is None:
            self.notes.add(BOXES, name)
            one["bbox"] = masks.box(outline.mask, height, width)
        elif not self.published:
            self._compare(one, outline.extent, image)
        return one

    def _compare(self, one: dict[str, Any], extent: Any, image: dict[str, Any]) -> None:
        height, width = image["height"], image["width"]
        polygons = extent is not None
        if not polygons:
            left, top, wide, high = masks.box(one["segmentation"], height, width)
            extent = (left, top, left + wide, top + high)
        # Of crowds and of masks without a pixel nothing can be told.
        comparable = not one["iscrowd"] and extent[2] - extent[0] >= 1 and extent[3] - extent[1] >= 1
        if comparable and box_differs(one["bbox"], extent, height, width):
            other = (extent[1], extent[0], extent[3], extent[2])
            if not polygons:
                other = masks.extent_by_rows(one["segmentation"], height, width)
            told = OTHER_BOXES if box_differs(one["bbox"], other, height, width) else EXCHANGED
            self.notes.add(told, one["id"])
            one["bbox"] = masks.box(one["segmentation"], height, width)

    def _crowd(self, row: dict[str, Any], name: Any) -> int:
        crowd, same = read_crowd(row.get("iscrowd"))
        if not same:
            self.notes.add(CROWDS, name)
        if row.get("ignore") not in (None, 0, False, "0") and not crowd:
            self.notes.add(IGNORED, name)
            return 1
        return crowd

    def _category(self, value: Any, name: Any) -> int:
        found, same = self.category_ids.find(value)
        if found is None:
            known = ", ".join(str(key) for key in list(self.category_ids.known)[:5])
            raise UnusableError(f"category_id: expected one of the file's categories ({known}), got {shown(value)}")
        if not same:
            self.notes.add("objects have a category_id that is text: read as a number", name)
        number: int = found if type(found) is int else int(found)
        return number

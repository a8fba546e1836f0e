"""Data sets by name: files, class names, colours and the table from mask values to trained ids."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as rle

from bpkd.listing import identity
from bpkd.paths import expanded

from . import procedural
from .files import IGNORE, label_table
from .folder import FolderSplit
from .mask_values import forget
from .sets import InstanceSet, SemanticSet, published_sets
from .sets.coco import instance_items, objects_of

UNSAID = -1  # DATASETS.FOLDER.IGNORE_INDEX: 255 is ignored, if the check finds that it is no class


def register_datasets(cfg: CfgNode) -> None:
    """Registers the data sets of a config: published ones below DATASETS.ROOT, procedural scenes and own data.

    Names that are registered already are replaced, those of Detectron2 too.
    """
    variable = "DETECTRON2_DATASETS"
    root = Path(cfg.DATASETS.ROOT or expanded(os.environ.get(variable, ""), variable) or "datasets")
    for spec in (*published_sets(root), *_procedural(cfg.DATASETS.PROCEDURAL)):
        _register(spec)
    _register_procedural_instances(cfg.DATASETS.PROCEDURAL)
    own = cfg.DATASETS.FOLDER.NAME
    if own and own == cfg.DATASETS.COCO_FOLDER.NAME:
        raise ValueError(f"DATASETS.FOLDER.NAME and COCO_FOLDER.NAME: expected two names, got {own!r} for both.")
    if own:
        _register_folder(cfg.DATASETS.FOLDER, root)
    if cfg.DATASETS.COCO_FOLDER.NAME:
        _register_coco_folder(cfg.DATASETS, root)


def _fresh(name: str) -> Any:
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    return MetadataCatalog.get(name)


def _register(spec: SemanticSet | InstanceSet) -> None:
    metadata = _fresh(spec.name)
    metadata.set(published=spec.published, **spec.more)
    if isinstance(spec, InstanceSet):
        logged: list[str] = []
        DatasetCatalog.register(spec.name, partial(instance_items, spec, logged))
        metadata.set(json_file=str(spec.json), image_root=str(spec.images), evaluator_type="coco")
        metadata.set(objects=partial(objects_of, spec), logged=logged)
        return
    DatasetCatalog.register(spec.name, spec.load)
    metadata.set(
        stuff_classes=list(spec.classes),
        stuff_colors=[tuple(c) for c in spec.colors],
        ignore_label=IGNORE,
        evaluator_type=spec.evaluator,
        label_table=label_table(spec.ids, len(spec.classes)),
        audit=spec.audit,
    )


def _scene_splits(node: CfgNode) -> tuple[tuple[str, int, int], ...]:
    """Returns (split, number of its first scene, number of scenes)."""
    return (("train", 0, node.NUM_TRAIN), ("val", 1_000_000, node.NUM_VAL))


def _procedural(node: CfgNode) -> list[SemanticSet]:
    height, width = node.SIZE
    return [
        SemanticSet(
            name=f"procedural_{split}",
            load=partial(procedural_items, node.SEED, first, count, height, width),
            classes=procedural.CLASSES,
            colors=procedural.COLORS,
            ids={},
        )
        for split, first, count in _scene_splits(node)
    ]


def _register_procedural_instances(node: CfgNode) -> None:
    for split, first, count in _scene_splits(node):
        metadata = _fresh(name := f"procedural_objects_{split}")
        DatasetCatalog.register(name, partial(procedural_instances, node.SEED, first, count, *node.SIZE))
        metadata.set(
            thing_classes=list(procedural.CLASSES[procedural.POLE :]),
            thing_colors=[tuple(c) for c in procedural.COLORS[procedural.POLE :]],
            evaluator_type="coco",
            published=None,
        )


def _register_coco_folder(sets: CfgNode, root: Path) -> None:
    node = sets.COCO_FOLDER
    base = Path(node.ROOT) if node.ROOT else root
    for split in ("TRAIN", "VAL"):
        _register(
            InstanceSet(
                name=f"{node.NAME}_{split.lower()}",
                json=base / node[f"{split}_JSON"],
                images=base / node[f"{split}_IMAGES"],
                others=[base / node[f"{other}_JSON"] for other in ("TRAIN", "VAL") if other != split],
                drop_unusable=sets.DROP_UNUSABLE_OBJECTS,
            )
        )


def _register_folder(node: CfgNode, root: Path) -> None:
    if not node.CLASSES:
        raise ValueError("DATASETS.FOLDER.CLASSES: expected the class names in the order of the ids, got none.")
    ids = _folder_ids(node)
    forget(node.NAME)
    unsaid = int(node.IGNORE_INDEX) != IGNORE and IGNORE not in {int(value) for value, _ in node.ID_MAP}
    splits = _folder_splits(node, Path(node.ROOT) if node.ROOT else root)
    more = {"family": node.NAME if unsaid else "", "from_folder": True, "palettes": not node.ID_MAP}
    for name, split in splits.items():
        _register(
            SemanticSet(
                name=name,
                load=split.items,
                classes=node.CLASSES,
                colors=spread_colors(len(node.CLASSES)),
                ids=ids,
                more={"remarks": split.remarks, **more},
            )
        )


def _folder_splits(node: CfgNode, base: Path) -> dict[str, FolderSplit]:
    """Returns the splits of the folder data set by name."""
    for key, suffixes in (("IMAGE_SUFFIXES", node.IMAGE_SUFFIXES), ("MASK_SUFFIX", [node.MASK_SUFFIX])):
        wrong = [suffix for suffix in suffixes if not (isinstance(suffix, str) and "." in suffix)]
        if wrong:
            raise ValueError(f"DATASETS.FOLDER.{key}: expected ends of file names such as '.png', got {wrong[0]!r}.")
    folders = {s: (base / node[f"{s}_IMAGES"], base / node[f"{s}_MASKS"]) for s in ("TRAIN", "VAL")}
    return {
        f"{node.NAME}_{split.lower()}": FolderSplit(
            images,
            masks,
            tuple(node.IMAGE_SUFFIXES),
            node.MASK_SUFFIX,
            others=tuple(i for s, (i, m) in folders.items() if s != split and identity(m) == identity(masks)),
        )
        for split, (images, masks) in folders.items()
    }


def _folder_ids(node: CfgNode) -> dict[int, int]:
    """Returns mask value -> trained id of the folder data set."""
    ids = {int(v): int(i) for v, i in node.ID_MAP} or {i: i for i in range(len(node.CLASSES))}
    ignored = int(node.IGNORE_INDEX)
    if ignored == UNSAID:  # 255 is ignored unless the map says otherwise
        return ids
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


def procedural_instances(seed: int, first: int, count: int, height: int, width: int) -> list[dict[str, Any]]:
    """Lists the scenes of a split with their poles, fences and textured shapes as run-length masks."""
    return [
        {**item, "image_id": number, "height": height, "width": width, "annotations": _drawn(item["procedural"])}
        for number, item in enumerate(procedural_items(seed, first, count, height, width), start=first)
    ]


def _drawn(scene: tuple[int, int, int, int]) -> list[dict[str, Any]]:
    return [
        {
            "bbox": list(one.box),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": one.category - procedural.POLE,
            "iscrowd": 0,
            "segmentation": rle.encode(np.asfortranarray(one.mask.astype(np.uint8))),
        }
        for one in procedural.make_scene(*scene).instances
    ]

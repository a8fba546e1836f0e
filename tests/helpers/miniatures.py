"""Small copies of the published data sets, written in the layout that a user has after unpacking."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image
from pycocotools import mask as run_length

SIZE = (48, 64)
VOID = 255


def blocks(rng: np.random.Generator, values: Sequence[int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A label map [h, w] of 16-pixel blocks that holds every one of up to 12 values."""
    height, width = size
    cells = -(-height // 16), -(-width // 16)
    picks = np.resize(rng.permutation(np.resize(np.asarray(values), max(len(values), 1))), cells)
    return np.kron(picks, np.ones((16, 16), int))[:height, :width].astype(np.uint8)


def photo(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    """An RGB picture [h, w, 3] that shows the labels."""
    return ((label[..., None].astype(int) * (7, 31, 53) + rng.integers(0, 20, (*label.shape, 3))) % 256).astype(
        np.uint8
    )


def save_photo(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), rgb[..., ::-1])


def save_mask(path: Path, mask: np.ndarray, *, palette: bool = False) -> None:
    """Writes a mask as grey values, or with a palette (mode "P") as VOC and COCO-Stuff have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask, mode="L")
    if palette:
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette(np.random.default_rng(0).integers(0, 255, 768).astype(np.uint8).tobytes())
    picture.save(path)


def write_ade20k(root: Path, *, layout: str = "", count: int = 4, folder: str = "annotations") -> Path:
    """ADEChallengeData2016: 0 = other, 1..150; ``annotations_detectron2`` holds the same minus one in 8 bits."""
    base = root / layout / "ADEChallengeData2016"
    for split, start in (("training", "ADE_train_"), ("validation", "ADE_val_")):
        rng = np.random.default_rng(len(split))
        for i in range(1, count + 1):
            size = SIZE if i % 2 else SIZE[::-1]
            label = blocks(rng, [0, 1, 2, 7, 49, 150], size)
            save_photo(base / "images" / split / f"{start}{i:08d}.jpg", photo(rng, label))
            stored = label - np.uint8(1) if folder == "annotations_detectron2" else label
            save_mask(base / folder / split / f"{start}{i:08d}.png", stored)
    return base


CITY_OBJECTS = (
    ("road", (0, 32, 128, 32, 128, 64, 0, 64)),
    ("sky", (0, 0, 128, 0, 128, 16, 0, 16)),
    ("building", (0, 16, 90, 16, 90, 32, 0, 32)),
    ("vegetation", (90, 16, 128, 16, 128, 32, 90, 32)),
    ("cargroup", (10, 30, 50, 30, 50, 50, 10, 50)),
    ("license plate", (20, 40, 26, 40, 26, 44, 20, 44)),
    ("person", (60, 20, 70, 20, 70, 48, 60, 48)),
    ("pole", (100, 10, 104, 10, 104, 50, 100, 50)),
    ("rail track", (70, 55, 128, 55, 128, 60, 70, 60)),
    ("ego vehicle", (30, 60, 90, 60, 90, 64, 30, 64)),
)


def write_cityscapes(root: Path, *, count: int = 2, splits: Sequence[str] = ("train", "val")) -> Path:
    """Cityscapes as downloaded: images and labelIds of 2048x1024 made small, polygons, no labelTrainIds."""
    base = root / "cityscapes"
    cities = {"train": ("aachen", "zurich"), "val": ("frankfurt", "lindau"), "test": ("berlin", "munich")}
    for split in splits:
        rng = np.random.default_rng(len(split))
        for city in cities[split]:
            for i in range(count):
                objects = [{"label": n, "polygon": _moved(p, int(rng.integers(-4, 5)))} for n, p in CITY_OBJECTS]
                stem = f"{city}_{i:06d}_000019"
                gt = base / "gtFine" / split / city
                gt.mkdir(parents=True, exist_ok=True)
                polygons = gt / f"{stem}_gtFine_polygons.json"
                polygons.write_text(json.dumps({"imgHeight": 64, "imgWidth": 128, "objects": objects}))
                annotation = Annotation()
                annotation.fromJsonFile(str(polygons))
                label = np.asarray(createLabelImage(annotation, "ids"))
                save_mask(gt / f"{stem}_gtFine_labelIds.png", label)
                Image.fromarray(np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16)).save(
                    gt / f"{stem}_gtFine_instanceIds.png"
                )
                save_photo(base / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", photo(rng, label))
    return base


def _moved(corners: Sequence[int], shift: int) -> list[list[int]]:
    return [[x + shift, y] for x, y in zip(corners[::2], corners[1::2], strict=True)]


CONTEXT_IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip


def write_pascal_context(root: Path, *, count: int = 3, masks: bool = False, base: str = "VOCdevkit/VOC2010") -> Path:
    """VOC 2010's images with trainval_merged.json, or (``masks``) what mmsegmentation's converter writes from it."""
    folder, rng = root / base, np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(2 * count):
        phase, stem, size = ("train", "val")[number % 2], f"2008_{number:06d}", SIZE if number % 3 else (40, 56)
        label = blocks(rng, rng.choice(60, 8, replace=False), size)
        save_photo(folder / "JPEGImages" / f"{stem}.jpg", photo(rng, label))
        images.append(
            {"image_id": 10 + number, "file_name": f"{stem}.jpg", "height": size[0], "width": size[1], "phase": phase}
        )
        if masks:
            save_mask(folder / "SegmentationClassContext" / f"{stem}.png", label)
        annotations += _context_annotations(10 + number, label, len(annotations))
    if not masks:
        images.append({"image_id": 1, "file_name": "2008_t.jpg", "height": 4, "width": 4, "phase": "test"})
        content = {"images": images, "annos_segmentation": annotations, "categories": []}
        (folder / "trainval_merged.json").write_text(json.dumps(content))
        return folder
    lists = folder / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        stems = [Path(i["file_name"]).stem for i in images if i["phase"] == split]
        (lists / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return folder


def _context_annotations(image_id: int, label: np.ndarray, first: int) -> list[dict[str, Any]]:
    """A category's rectangle first and the others over it, so that the order matters."""
    parts = []
    present = [int(v) for v in np.unique(label) if v]
    for place, value in enumerate(present):
        region = label == value if place else label > 0
        runs = run_length.encode(np.asfortranarray(region.astype(np.uint8)))
        runs["counts"] = runs["counts"].decode()
        part = {"id": first + place, "image_id": image_id, "category_id": CONTEXT_IDS[value], "iscrowd": 0}
        parts.append({**part, "segmentation": runs})
    return parts


def write_coco(root: Path, *, count: int = 3) -> Path:
    """COCO 2017: polygons, a crowd as uncompressed run lengths, an image without objects, ids with gaps."""
    base = root / "coco"
    categories = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    for split, first in (("train", 9), ("val", 139)):
        images, annotations = [], []
        for i in range(count):
            name = f"{first + i:012d}.jpg"
            images.append({"id": first + i, "file_name": name, "height": 48, "width": 64})
            label = np.zeros((48, 64), np.uint8)
            label[8:24, 8:40] = 1
            rng = np.random.default_rng(i)
            save_photo(base / f"{split}2017" / name, photo(rng, label))
            if i == count - 1:
                continue  # no objects
            box = [8.0, 8.0, 32.0, 16.0]
            polygon = [8.0, 8.0, 40.0, 8.0, 40.0, 24.0, 8.0, 24.0]
            annotations.append(_object(len(annotations), first + i, 90 if i else 1, [polygon], box, 0))
            crowd = {"size": [48, 64], "counts": [48 * 50, 48 * 4, 48 * 10]}
            annotations.append(_object(len(annotations), first + i, 13, crowd, [50.0, 0.0, 4.0, 48.0], 1))
        path = base / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return base


def _object(number: int, image: int, category: int, mask: Any, box: list[float], crowd: int) -> dict[str, Any]:
    area = box[2] * box[3]
    ids = {"id": number + 1, "image_id": image, "category_id": category}
    return {**ids, "segmentation": mask, "bbox": box, "area": area, "iscrowd": crowd}

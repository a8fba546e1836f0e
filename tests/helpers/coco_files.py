"""A small data set in COCO's format, which a test spoils, and the doors through which it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as rle

from bpkd.cli.main import run
from bpkd.config import read_config
from bpkd.data import register_datasets
from bpkd.data.instances import label_masks
from bpkd.evaluation import build_evaluator
from tests.helpers.config_files import ROOT

Data = dict[str, Any]
Edit = Callable[[Data], Any]
SIDE = 64
# [x, y, width, height] and category of each image's objects.
OBJECTS = (((4, 6, 20, 16), 1), ((34, 30, 22, 26), 2)), (((8, 30, 40, 14), 2), ((20, 4, 12, 18), 1))
CONFIG = """_BASE_: {repo}/configs/nuclei/solov2_tiny.yaml
DATASETS:
  TRAIN: [cells_train]
  TEST: [cells_val]
  COCO_FOLDER: {{NAME: cells, ROOT: {root}, TRAIN_JSON: train.json, TRAIN_IMAGES: train, VAL_JSON: val.json, VAL_IMAGES: val}}
MODEL: {{DEVICE: cpu, SOLOV2: {{NUM_CLASSES: 2, NUM_GRIDS: [16, 12, 8, 6, 4]}}}}
INPUT: {{MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 64, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 64}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 2, CHECKPOINT_PERIOD: 2, WARMUP_ITERS: 0}}
OUTPUT_DIR: {root}/out
"""  # noqa: E501


def corners(box: tuple[int, int, int, int]) -> list[int]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def drawn(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
    return mask


def run_lengths(box: tuple[int, int, int, int]) -> dict[str, Any]:
    """Returns an object's compressed run lengths, as bytes."""
    found: dict[str, Any] = rle.encode(np.asfortranarray(drawn(box)))
    return found


def content() -> Data:
    images = [{"id": i + 1, "file_name": f"o{i}.png", "height": SIDE, "width": SIDE} for i in range(len(OBJECTS))]
    annotations = [
        {"id": 2 * i + k + 1, "image_id": i + 1, "category_id": category, "iscrowd": 0, "area": box[2] * box[3],
         "bbox": list(box), "segmentation": [corners(box)]}
        for i, objects in enumerate(OBJECTS) for k, (box, category) in enumerate(objects)
    ]  # fmt: skip
    names = [{"id": 1, "name": "square"}, {"id": 2, "name": "box"}]
    return {"images": images, "annotations": annotations, "categories": names}


def write_set(root: Path, edit: Edit = lambda data: None, *, raw: Callable[[str], bytes] = str.encode) -> Path:
    """Writes images, both splits' files, changed by ``edit`` (and ``raw``, text to bytes), and the config, returned."""
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for i, objects in enumerate(OBJECTS):
            picture = sum(drawn(box) for box, _ in objects)[..., None] * np.array([200, 180, 160])
            Image.fromarray(picture.astype(np.uint8)).save(root / split / f"o{i}.png")
        data = content()
        changed = edit(data)
        (root / f"{split}.json").write_bytes(raw(json.dumps(data if changed is None else changed)))
    config = root / "config.yaml"
    config.write_text(CONFIG.format(repo=ROOT, root=root))
    return config


def command(capsys: pytest.CaptureFixture[str], name: str, config: Path, *words: str) -> tuple[int, str]:
    """Runs a command in this process; returns its status and both its outputs."""
    capsys.readouterr()
    options = ["--draw", "0"] if name == "check-data" else []
    status = run(name, ["--config-file", str(config), *options, *words])
    out = capsys.readouterr()
    return status, out.out + out.err


def label_truth(config: Path, *words: str) -> list[list[np.ndarray]]:
    """Returns the masks that training gets, image by image."""
    register_datasets(read_config(str(config), list(words)))
    return [list(label_masks(item)) for item in DatasetCatalog.get("cells_train")]


def perfect_scores(config: Path, *words: str) -> dict[str, Any]:
    """Returns the figures of predictions that are the objects themselves."""
    cfg = read_config(str(config), list(words))
    register_datasets(cfg)
    evaluator = build_evaluator(cfg, "cells_val") if DatasetCatalog.get("cells_val") else None
    assert evaluator is not None
    for item in DatasetCatalog.get("cells_val"):
        objects = OBJECTS[int(Path(item["file_name"]).stem[-1])]
        found = Instances((SIDE, SIDE), scores=torch.linspace(0.9, 0.5, len(objects)))
        found.pred_masks = torch.from_numpy(np.stack([drawn(box) for box, _ in objects])).bool()
        found.pred_classes = torch.tensor([category - 1 for _, category in objects])
        evaluator.process([item], [{"instances": found}])
    figures: dict[str, Any] = evaluator.evaluate()
    return figures

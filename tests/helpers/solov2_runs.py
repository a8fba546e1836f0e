"""Config and data set of short SOLOv2 runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as run_length

from tests.helpers.miniatures import save_photo

SMALL = """
_BASE_: {repo}/configs/nuclei/solov2_tiny.yaml
DATASETS: {{ROOT: {root}, COCO_FOLDER: {{NAME: shapes, TRAIN_JSON: train.json, TRAIN_IMAGES: train, VAL_JSON: val.json,
  VAL_IMAGES: val}}, TRAIN: [shapes_train], TEST: [shapes_val]}}
MODEL:
  RESNETS: {{DEPTH: 18}}
  FPN: {{OUT_CHANNELS: 32}}
  SOLOV2: {{NUM_CLASSES: 2, CHANNELS: 32, NUM_CONVS: 1, MASK_CHANNELS: 32, KERNEL_CHANNELS: 32,
    NUM_GRIDS: [12, 10, 8, 6, 4], SCORE_THRESHOLD: 0.01}}
INPUT: {{MIN_SIZE_TRAIN: [56, 64], MAX_SIZE_TRAIN: 96, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96,
  CROP: {{ENABLED: True, TYPE: absolute, SIZE: [48, 64]}}}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 4, STEPS: [3], WARMUP_ITERS: 2, CHECKPOINT_PERIOD: 2, LOG_PERIOD: 1}}
OUTPUT_DIR: {out}
"""


def write_shapes(root: Path, *, count: int = 3, empty: bool = False) -> None:
    """Own data in COCO's format: a bright rectangle as polygon and one as run lengths, ids 3 and 8."""
    for split in ("train", "val"):
        rng, images, objects = np.random.default_rng(len(split)), [], []
        for i in range(count):
            label = np.zeros((64, 80), np.uint8)
            top, left = (int(v) for v in rng.integers(2, 20, 2))
            label[top : top + 30, left : left + 24] = 1
            label[40:60, 50:70] = 2
            images.append({"id": i + 1, "file_name": f"{i}.png", "height": 64, "width": 80})
            save_photo(root / split / f"{i}.png", np.repeat((label * 100)[..., None], 3, 2).astype(np.uint8))
            x1, y1, x2, y2 = left, top, left + 24, top + 30
            encoded = run_length.encode(np.asfortranarray((label == 2).astype(np.uint8)))
            masks: list[Any] = [
                [[x1, y1, x2, y1, x2, y2, x1, y2]],
                {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
            ]
            for category, mask, box in ((3, masks[0], [x1, y1, 24, 30]), (8, masks[1], [50, 40, 20, 20])):
                one = {"id": len(objects) + 1, "image_id": i + 1, "category_id": category, "segmentation": mask}
                objects.append({**one, "bbox": box, "area": box[2] * box[3], "iscrowd": int(empty)})
        names = [{"id": 3, "name": "tall"}, {"id": 8, "name": "square"}]
        text = json.dumps({"images": images, "annotations": objects, "categories": names})
        (root / f"{split}.json").write_text(text)

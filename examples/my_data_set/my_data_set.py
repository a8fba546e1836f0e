"""A data set that a config of another project names: ``my_data_train`` and ``my_data_val``."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from bpkd.data.files import label_table
from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(os.environ.get("MY_DATA", "data/my_data"))
CLASSES = ["background", "road", "car"]


def items(split: str) -> list[dict[str, Any]]:
    """Lists the images ``ROOT/<split>/*.jpg`` with their masks, ``*.png`` of the same names."""
    return [
        {
            "file_name": str(path),
            "sem_seg_file_name": str(path.with_suffix(".png")),
            "image_id": path.stem,
        }
        for path in sorted((ROOT / split).glob("*.jpg"))
    ]


for split in ("train", "val"):
    DatasetCatalog.register(f"my_data_{split}", partial(items, split))
    MetadataCatalog.get(f"my_data_{split}").set(
        stuff_classes=CLASSES,
        stuff_colors=[(0, 0, 0), (128, 64, 128), (0, 0, 142)],
        ignore_label=255,  # in the trained label maps
        label_table=label_table({1: 0, 2: 1, 3: 2, 0: 255}, 3),  # mask value -> trained id
        evaluator_type="bpkd_sem_seg",
    )

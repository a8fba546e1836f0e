"""Predictions of finished runs on a few test images, for the picture panels of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from bpkd.config import image_range
from bpkd.convert import load_strict
from bpkd.data import build_test_loader
from bpkd.data.files import read_image
from bpkd.data.instances import label_masks
from bpkd.engine.configure import load_config
from bpkd.modeling import build_student, build_teacher_model, task_of
from bpkd.paths import as_written
from bpkd.tasks import INSTANCE, SEMANTIC

from .jobs import Job

# Score from which an instance is drawn.
SHOWN_SCORE = 0.3


def predict(job: Job, indices: Iterable[int]) -> list[dict[str, Any]]:
    """Runs a complete job's network on images of its first test set.

    Args:
        job: complete run.
        indices: positions in the test set.

    Returns:
        One dict per image: its ``name``, ``image`` [3, H, W] uint8 and ``label``, ``prediction`` [H, W] integers; of
        instances ``truth`` and ``prediction`` bool [n, H, W], predictions by falling score down to ``SHOWN_SCORE``.
    """
    cfg = load_config(job.config_file, ["OUTPUT_DIR", as_written(job.output), *job.opts])
    if job.evaluates:
        model = build_teacher_model(cfg)
    else:
        model = build_student(cfg)
        load_strict(model, str(job.weights), statements=cfg.MODEL.FILE_STATEMENTS)
    model.eval()
    return PREDICTIONS[task_of(cfg)](cfg, model, set(indices))


def _semantic(cfg: CfgNode, model: Any, wanted: set[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0], rank=0, world_size=1)
    for i, batch in enumerate(loader):
        if len(rows) == len(wanted):
            break
        if i not in wanted:
            continue
        with torch.inference_mode():
            scores = model(batch)[0]["sem_seg"]
        rows.append(
            {
                "name": str(batch[0]["image_id"]),
                "image": batch[0]["image"].numpy(),
                "label": batch[0]["sem_seg"].numpy(),
                "prediction": scores.argmax(0).cpu().numpy().astype(np.int64),
            }
        )
    return rows


def _instances(cfg: CfgNode, model: Any, wanted: set[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    items = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0], rank=0, world_size=1)
    for i, (item, batch) in enumerate(zip(items, loader, strict=True)):
        if len(rows) == len(wanted):
            break
        if i not in wanted:
            continue
        with torch.inference_mode():
            found = model(batch)[0]["instances"].to("cpu")
        image = read_image(item, image_range(cfg))[..., ::-1].transpose(2, 0, 1)
        rows.append(
            {
                "name": str(item["image_id"]),
                "image": np.ascontiguousarray(image),
                "truth": label_masks(item),
                "prediction": found.pred_masks[found.scores >= SHOWN_SCORE].numpy(),
            }
        )
    return rows


PREDICTIONS = {SEMANTIC: _semantic, INSTANCE: _instances}


def collect_pictures(jobs: Mapping[str, Job], indices: Sequence[int]) -> list[dict[str, Any]]:
    """Runs one complete job per method on the same test images.

    Args:
        jobs: method -> complete run.
        indices: positions in the test set; those beyond its end are left out.

    Returns:
        One dict per image: ``name``, ``image`` [3, h, w] uint8, ``label`` [H, W] and ``predictions`` {method: [H, W]};
        of instances ``truth`` and the predictions are [n, H, W].

    Raises:
        ValueError: the test set has none of these positions.
    """
    pictures: list[dict[str, Any]] = []
    for method, job in jobs.items():
        for i, row in enumerate(predict(job, indices)):
            if i == len(pictures):
                pictures.append({**row, "predictions": {}})
            pictures[i]["predictions"][method] = row["prediction"]
    if not pictures:
        raise ValueError(f"--positions: expected positions in the test set, got {list(indices)}: it has fewer images.")
    return pictures

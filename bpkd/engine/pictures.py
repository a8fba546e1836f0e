"""Predictions of finished runs on a few test images, for the picture panels of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bpkd.convert import load_strict
from bpkd.data import build_test_loader
from bpkd.modeling import build_dense, build_teacher_model

from .launch import load_config
from .matrix import Job


def predict(job: Job, indices: Iterable[int]) -> list[dict[str, Any]]:
    """Runs a complete job's network on images of its first test set.

    Args:
        job: complete run.
        indices: positions in the test set.

    Returns:
        One dict per image: its ``name``, ``image`` [3, H, W] uint8 and ``label``, ``prediction`` [H, W] integers.
    """
    cfg = load_config(job.config_file, ["OUTPUT_DIR", str(job.output), *job.opts])
    model = build_teacher_model(cfg) if job.evaluates else build_dense(cfg)
    if not job.evaluates:
        load_strict(model, str(job.weights))
    model.eval()
    wanted, rows = set(indices), []
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0], rank=0, world_size=1)
    for i, batch in enumerate(loader):
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


def collect_pictures(jobs: Mapping[str, Job], indices: Sequence[int]) -> list[dict[str, Any]]:
    """Runs one complete job per method on the same test images.

    Args:
        jobs: method -> complete run.
        indices: positions in the test set; those beyond its end are left out.

    Returns:
        One dict per image: ``name``, ``image`` [3, h, w] uint8, ``label`` [H, W] and ``predictions`` {method: [H, W]}.

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
        raise ValueError(f"--images: expected positions in the test set, got {list(indices)}: it has fewer images.")
    return pictures

"""Recording a teacher's logits along the training stream, for TEACHER.CACHE."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from bpkd.data import build_train_loader
from bpkd.modeling.teachers.build import build_teachers
from bpkd.modeling.teachers.cached import (
    FORMATS,
    INDEX,
    LOGITS,
    CacheFolder,
    recorded_for,
    rows_of,
    samples_needed,
)
from bpkd.modeling.teachers.combined import TeacherPanel

logger = logging.getLogger(__name__)

# Batches after which the index is written, from which an interrupted recording continues.
FLUSH_EVERY = 50


def record_teacher(cfg: CfgNode, path: str | Path, *, kind: str = "uint8", samples: int = 0) -> CacheFolder:
    """Records samples 0, 1, ... of a config's training stream, or continues a recording of it.

    Args:
        cfg: Config of the training that will read it. SOLVER.IMS_PER_BATCH is the batch that the teacher sees.
        path: folder, made if it is not there.
        kind: "bf16" or "uint8", see `bpkd.modeling.teachers.cached.encode`.
        samples: Least number of samples; 0: as many as the training reads.

    Returns:
        The folder; its index says what it holds.

    Raises:
        ValueError: ``kind`` is unknown, the folder holds another recording, or the teachers are not combined.
    """
    if kind not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {kind!r}.")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEACHER.CACHE = ""
    folder, of, size = CacheFolder(path), recorded_for(cfg), cfg.SOLVER.IMS_PER_BATCH
    done = _recorded(folder, of, kind)
    wanted = samples or samples_needed(cfg)
    if done >= wanted:
        return folder
    teacher = build_teachers(cfg)
    if isinstance(teacher, TeacherPanel):
        raise ValueError("TEACHER.COMBINE: expected probabilities: a cache holds one output, not one of each teacher.")
    first, cfg.SOLVER.ACCUMULATE = done // size, 1
    loader = build_train_loader(cfg, start_iter=first)
    folder.path.mkdir(parents=True, exist_ok=True)
    with open(folder.path / LOGITS, "r+b" if done else "wb") as file:
        file.seek(first * size * folder.row_bytes if done else 0)
        for number, batch in enumerate(islice(loader, -(-wanted // size) - first), 1):
            crop, device = tuple(cfg.INPUT.CROP_SIZE), torch.device(cfg.MODEL.DEVICE)
            logits = teacher(batch, crop, device).logits
            file.write(rows_of(batch, logits, kind).tobytes())
            count = (first + number) * size
            if number % FLUSH_EVERY == 0 or count >= wanted:
                file.flush()
                folder.write({"of": of, "format": kind, "shape": list(logits.shape[1:]), "count": count})
                logger.info("%d of %d samples recorded", count, wanted)
    return folder


def _recorded(folder: CacheFolder, of: dict[str, Any], kind: str) -> int:
    """Returns how many samples the folder holds already."""
    if not (folder.path / INDEX).is_file():
        return 0
    there = folder.read(of).index
    if there["format"] != kind:
        raise ValueError(f"{folder.path}: it holds {there['format']}, got format {kind!r}. Choose another folder.")
    return there["count"]

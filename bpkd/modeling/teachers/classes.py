"""Matches a teacher's classes with the student's: the same list, or a class map."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from bpkd.data.annotations import category_names
from bpkd.distillers.adapters import map_classes
from bpkd.modeling.base import DenseModel
from bpkd.modeling.build import Network, task_of

logger = logging.getLogger(__name__)

Names = Sequence[str] | None


def match_classes(model: Network, cfg: CfgNode, names: Names, *, class_map: list[int], key: str) -> None:
    """Installs a teacher's class map, or checks that teacher and student have the same class list.

    Args:
        model: The teacher's network.
        cfg: The student's config.
        names: The teacher's class names; None: unknown.
        class_map: Entry t is the student's class for the teacher's class t, or -1; empty: the lists are the same.
        key: Key of the teacher's node in the config, for messages.

    Raises:
        ValueError: the classes differ, or the map is wrong.
    """
    task = task_of(cfg)
    count, advice = task.num_classes(cfg), "Train the teacher on the same classes."
    if isinstance(model, DenseModel):
        if class_map:
            model.output_map = partial(_mapped, class_map=class_map, num_classes=count)
            model.output_map(torch.zeros(1, model.num_classes, 1, 1))  # refuses a wrong map now
            return
        advice = (
            f"Give {key}.CLASS_MAP, a list of {model.num_classes} entries: entry t is the student's class for the "
            "teacher's class t, or -1. Or train the teacher on the same classes."
        )
    if model.num_classes != count:
        raise ValueError(
            f"Teacher and student: expected the same classes ({task.class_key}), got {model.num_classes} and {count}. "
            f"{advice}"
        )
    check_class_names(names, class_names(cfg), advice=advice)


def class_names(cfg: CfgNode, split: str = "TRAIN") -> tuple[str, ...] | None:
    """Returns the class names of a config's data set; None if it is not registered or has no class names.

    Args:
        cfg: config.
        split: "TRAIN" or "TEST".
    """
    if not cfg.DATASETS[split]:
        return None
    own = cfg.DATASETS.FOLDER
    if own.NAME and own.CLASSES and cfg.DATASETS[split][0] in (f"{own.NAME}_train", f"{own.NAME}_val"):
        return tuple(own.CLASSES)  # another config may have registered the name with other classes
    meta = MetadataCatalog.get(cfg.DATASETS[split][0])
    names = task_of(cfg).class_names(meta)
    if not names and (file := meta.get("json_file")):
        names = list((category_names(Path(file)) or {}).values())
    return tuple(names) or None


def check_class_names(teacher_names: Names, student_names: Names, *, advice: str) -> None:
    """Checks that teacher and student have the same class list, if both are known.

    Raises:
        ValueError: they differ; the message names the differences and the advice.
    """
    if not teacher_names or not student_names:
        logger.warning("Class names of teacher or student are unknown: only their number was compared.")
        return
    different = [
        f"{i}: {a!r} / {b!r}"
        for i, (a, b) in enumerate(zip(teacher_names, student_names, strict=False))
        if a.strip().lower() != b.strip().lower()  # OpenMMLab's ADE20K has 'bed '
    ]
    if different or len(teacher_names) != len(student_names):
        shown = ", ".join(different[:8]) or f"{len(teacher_names)} / {len(student_names)} names"
        raise ValueError(
            f"Teacher and student: expected the same class list, got differences (teacher / student): {shown}. {advice}"
        )


def _mapped(logits: Tensor, *, class_map: list[int], num_classes: int) -> Tensor:
    return map_classes(logits, class_map, num_classes)

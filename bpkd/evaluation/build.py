"""Builds the evaluator of a data set, by its task and its ``evaluator_type``."""

from __future__ import annotations

import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from bpkd.data import dataset_task
from bpkd.tasks import INSTANCE, SEMANTIC

from .cityscapes import CityscapesEvaluator
from .instances import InstanceEvaluator
from .semantic import SemanticEvaluator, find_metrics

SEMANTIC_TYPES = ("bpkd_sem_seg", "sem_seg", "cityscapes_sem_seg")


def build_evaluator(cfg: CfgNode, name: str, output_dir: str | None = None) -> DatasetEvaluator:
    """Builds the evaluator of a registered data set.

    Args:
        cfg: config; its node TEST holds the protocol and the names of further metrics.
        name: registered name of the data set.
        output_dir: folder of the full result; None writes nothing.

    Raises:
        ValueError: the data set's ``evaluator_type`` is unknown.
    """
    return {SEMANTIC: _semantic, INSTANCE: _instances}[dataset_task(name)](cfg, name, output_dir)


def _semantic(cfg: CfgNode, name: str, output_dir: str | None) -> DatasetEvaluator:
    meta = MetadataCatalog.get(name)
    kind = meta.get("evaluator_type")
    if kind not in SEMANTIC_TYPES:
        raise ValueError(f"{name}: expected evaluator_type 'coco' or one of {SEMANTIC_TYPES}, got {kind!r}.")
    semantic = SemanticEvaluator(
        class_names=meta.stuff_classes,
        ignore_index=meta.ignore_label,
        widths=tuple(cfg.TEST.TRIMAP_WIDTHS),
        absent=cfg.TEST.ABSENT_CLASS,
        boundary_ratio=cfg.TEST.BOUNDARY_RATIO,
        tolerances=tuple(cfg.TEST.BOUNDARY_TOLERANCES),
        metrics=tuple(cfg.TEST.METRICS),
        output_dir=output_dir,
        protocol=protocol(cfg, name),
    )
    if kind != "cityscapes_sem_seg" or not cfg.TEST.CITYSCAPES_OFFICIAL:
        return semantic
    folder = os.path.join(output_dir, "cityscapes") if output_dir else None
    return DatasetEvaluators([semantic, CityscapesEvaluator(folder)])


def check_metrics(cfg: CfgNode) -> None:
    """Checks TEST.METRICS before a run, which reads it at its end.

    Raises:
        ValueError: a metric is unknown or named twice, cannot be made as the evaluator makes it, or a test set holds
            objects, which these metrics do not compare, or one class, of which every pixel is right.
    """
    for metric in find_metrics(cfg.TEST.METRICS):
        try:
            metric(2, ignore_index=255).state_dict()
        except Exception as error:  # whatever a class outside of bpkd does
            call = f"{metric.__name__}(num_classes, ignore_index=255)"
            raise ValueError(f"TEST.METRICS: {call} failed: {type(error).__name__}: {error}") from error
    for name in cfg.DATASETS.TEST:
        classes = MetadataCatalog.get(name).get("stuff_classes", ())
        if dataset_task(name) is SEMANTIC and len(classes) == 1:
            raise ValueError(
                f"{name}: expected 2 classes or more, got one class ({classes[0]}): every labelled pixel would be "
                "right, every figure 100. Objects on a background are 2 classes: background, then the object."
            )
    objects = [name for name in cfg.DATASETS.TEST if dataset_task(name) is INSTANCE]
    if cfg.TEST.METRICS and objects:
        raise ValueError(
            f"TEST.METRICS: expected none for {objects[0]}, got {', '.join(cfg.TEST.METRICS)}: metrics compare label "
            "maps, and this data set holds objects."
        )


def _instances(cfg: CfgNode, name: str, output_dir: str | None) -> InstanceEvaluator:
    meta = MetadataCatalog.get(name)
    json_file = meta.get("json_file")
    if not json_file:  # a data set that was registered as dicts
        if not output_dir:
            raise ValueError(f"{name}: expected metadata 'json_file', or an output_dir to write one to.")
        json_file = os.path.join(output_dir, f"{name}_coco_format_{comm.get_rank()}.json")
        convert_to_coco_json(name, json_file, allow_cached=False)
    ids = meta.get("thing_dataset_id_to_contiguous_id")
    read = meta.get("objects")
    return InstanceEvaluator(
        json_file=json_file,
        objects=read() if read else None,
        class_names=meta.thing_classes,
        dataset_ids={i: category for category, i in ids.items()} if ids else None,
        boundary_ratio=cfg.TEST.BOUNDARY_RATIO,
        backend=cfg.TEST.COCO_BACKEND,
        max_detections=cfg.TEST.COCO_MAX_DETECTIONS,
        output_dir=output_dir,
    )


def protocol(cfg: CfgNode, name: str) -> dict[str, Any]:
    """Returns how images are tested, for the result file: what a figure depends on beside metric and weights."""
    rules = {
        "dataset": name,
        "mode": cfg.TEST.MODE,
        "scales": list(cfg.TEST.SCALES),
        "flip": cfg.TEST.FLIP,
        "test_box": list(cfg.INPUT.TEST_BOX),
    }
    if cfg.TEST.MODE == "slide":
        rules.update(crop=list(cfg.TEST.SLIDE_CROP), stride=list(cfg.TEST.SLIDE_STRIDE))
    return rules

"""From a data set's ``evaluator_type`` to its evaluator: the only place that decides."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from .semantic import SemanticEvaluator


def build_evaluator(cfg: CfgNode, name: str, output_dir: str | None = None) -> DatasetEvaluator:
    """Builds the evaluator of a registered data set.

    Args:
        cfg: cfg.TEST holds the protocol.
        name: of the data set.
        output_dir: where the full result is written; None writes nothing.

    Raises:
        ValueError: the data set's ``evaluator_type`` is unknown.
    """
    meta = MetadataCatalog.get(name)
    kind = meta.get("evaluator_type")
    if kind not in ("bpkd_sem_seg", "sem_seg"):
        raise ValueError(f"{name}: expected evaluator_type 'bpkd_sem_seg' or 'sem_seg', got {kind!r}.")
    return SemanticEvaluator(
        class_names=meta.stuff_classes,
        ignore_index=meta.ignore_label,
        widths=tuple(cfg.TEST.TRIMAP_WIDTHS),
        absent=cfg.TEST.ABSENT_CLASS,
        boundary_ratio=cfg.TEST.BOUNDARY_RATIO,
        output_dir=output_dir,
        protocol=protocol(cfg, name),
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

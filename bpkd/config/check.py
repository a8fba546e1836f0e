"""Checks of config values that would otherwise fail late, during training."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from bpkd.tasks import INSTANCE, SEMANTIC

from .distillation import WRAPPERS
from .teachers import teacher_nodes, teacher_shares

AMP_NAMES = ("off", "bf16", "fp16")
AMP_CHOICES = ("auto", *AMP_NAMES)
CHOICES = {
    "INPUT.FORMAT": ("RGB", "BGR"),
    "DATASETS.CHECK": ("full", "fast", "off"),
    "DATALOADER.EDGE_MASKS": ("step", "workers"),
    "TEST.MODE": ("whole", "slide"),
    "TEST.ABSENT_CLASS": ("zero", "skip"),
    "TEST.COCO_BACKEND": ("auto", "pycocotools", "faster-coco-eval"),
    "SOLVER.AMP.DTYPE": AMP_CHOICES,
    "SOLVER.OPTIMIZER": ("sgd", "adamw"),
    "SOLVER.LR_SCHEDULER_NAME": (
        "PolyLR",
        "WarmupMultiStepLR",
        "WarmupCosineLR",
        "WarmupStepWithFixedGammaLR",
    ),
    "TEACHER.AMP": AMP_CHOICES,
    "TEACHER.COMBINE": ("probabilities", "losses"),
    "DISTILL.INSTANCE.INPUT": ("same", "same_ranges", "own_size"),
    "DISTILL.INSTANCE.CATEGORY_EDGES": ("boundary", "grid"),
    "DISTILL.INSTANCE.DIVERGENCE": ("sigmoid", "softmax"),
    "DISTILL.INSTANCE.MATCH": ("cell", "score"),
    "DISTILL.INSTANCE.MASK_TERM": ("mask_logits", "mask_towers", "mask_features"),
    "MODEL.FILE_STATEMENTS": ("refuse", "warn"),
    "MODEL.SEM_SEG_HEAD.LOSS_DENOMINATOR": ("all", "valid"),
}
PAIRS = (
    "INPUT.CROP_SIZE", "INPUT.RESIZE_BOX", "INPUT.SCALE_RANGE", "INPUT.TEST_BOX", "TEST.SLIDE_CROP",
    "TEST.SLIDE_STRIDE", "DATASETS.PROCEDURAL.SIZE", "DISTILL.INSTANCE.TEACHER_SIZE",
)  # fmt: skip

SOLVER_LEAST = {"IMS_PER_BATCH": 1, "ACCUMULATE": 1, "BASE_LR": 0, "MAX_ITER": 1, "CHECKPOINT_PERIOD": 1}


def check_values(cfg: CfgNode) -> None:
    """Checks choices, pairs and widths of a config.

    Raises:
        ValueError: a value is wrong; the message names the key, what was expected and what was given.
    """
    for key, known in CHOICES.items():
        if _get(cfg, key) not in known:
            raise ValueError(f"{key}: expected one of {', '.join(known)}, got {_get(cfg, key)!r}.")
    for key in PAIRS:
        value = _get(cfg, key)
        if len(value) != 2 or any(v < 0 for v in value):
            raise ValueError(f"{key}: expected two numbers, got {list(value)}.")
    if any(s > c for s, c in zip(cfg.TEST.SLIDE_STRIDE, cfg.TEST.SLIDE_CROP, strict=True)):
        raise ValueError(
            f"TEST.SLIDE_STRIDE: expected at most SLIDE_CROP {list(cfg.TEST.SLIDE_CROP)}, got "
            f"{list(cfg.TEST.SLIDE_STRIDE)}: pixels between the windows would get no score."
        )
    _check_training(cfg)
    if cfg.DATALOADER.REPEAT < 0:
        raise ValueError(f"DATALOADER.REPEAT: expected a number of samples, or 0, got {cfg.DATALOADER.REPEAT}.")
    _check_test(cfg.TEST)
    _check_distillation(cfg)
    if cfg.DATALOADER.EDGE_MASKS == "workers":
        _check_edge_masks(cfg)


def image_range(cfg: CfgNode) -> tuple[float, float]:
    """Returns INPUT.IMAGE_RANGE.

    Raises:
        ValueError: it is no range.
    """
    span = list(cfg.INPUT.IMAGE_RANGE)
    if len(span) != 2 or not (span == [0, 0] or span[0] < span[1]):
        raise ValueError(f"INPUT.IMAGE_RANGE: expected [low, high] with low < high, or [0, 0], got {span}.")
    return span[0], span[1]


def _check_training(cfg: CfgNode) -> None:
    image_range(cfg)
    if min(cfg.INPUT.CROP_SIZE) < 1:
        raise ValueError(f"INPUT.CROP_SIZE: expected positive pixels, got {list(cfg.INPUT.CROP_SIZE)}.")
    for key, least in SOLVER_LEAST.items():
        if cfg.SOLVER[key] < least:
            raise ValueError(f"SOLVER.{key}: expected at least {least}, got {cfg.SOLVER[key]}.")


def _check_test(node: CfgNode) -> None:
    for key in ("TRIMAP_WIDTHS", "BOUNDARY_TOLERANCES"):
        if any(w < 1 for w in node[key]):
            raise ValueError(f"TEST.{key}: expected positive pixels, got {list(node[key])}.")
    if node.SLIDE_WINDOWS < 1:
        raise ValueError(f"TEST.SLIDE_WINDOWS: expected at least 1, got {node.SLIDE_WINDOWS}.")
    if node.COCO_MAX_DETECTIONS < 1:
        raise ValueError(f"TEST.COCO_MAX_DETECTIONS: expected at least 1, got {node.COCO_MAX_DETECTIONS}.")
    if not node.SCALES or any(scale <= 0 for scale in node.SCALES):
        raise ValueError(f"TEST.SCALES: expected positive factors of the test size, got {list(node.SCALES)}.")


def _check_distillation(cfg: CfgNode) -> None:
    if not 0 <= cfg.SOLVER.LOSS_SHARE_LIMIT <= 1:
        raise ValueError(f"SOLVER.LOSS_SHARE_LIMIT: expected a share from 0 to 1, got {cfg.SOLVER.LOSS_SHARE_LIMIT}.")
    teacher_nodes(cfg)
    teacher_shares(cfg)
    if cfg.DISTILL.METHOD != "none" and cfg.MODEL.META_ARCHITECTURE not in WRAPPERS:
        raise ValueError(
            f"DISTILL.METHOD is {cfg.DISTILL.METHOD!r}, but {cfg.MODEL.META_ARCHITECTURE!r} trains the student alone. "
            "Set MODEL.META_ARCHITECTURE SemanticDistiller (and TEACHER.*), or DISTILL.METHOD none."
        )
    if cfg.DISTILL.INSTANCE.PER_CLASS and cfg.DISTILL.INSTANCE.CATEGORY_EDGES != "boundary":
        raise ValueError("DISTILL.INSTANCE.PER_CLASS: expected CATEGORY_EDGES boundary, got grid, which has one map.")


def _check_edge_masks(cfg: CfgNode) -> None:
    key, architecture = "DATALOADER.EDGE_MASKS workers", cfg.MODEL.META_ARCHITECTURE
    if architecture == INSTANCE.wrapper:
        raise ValueError(
            f"{key}: expected {SEMANTIC.labels} (MODEL.META_ARCHITECTURE SemanticDistiller), got {architecture}: the "
            "edges of instances are made of their masks, in the step. Set DATALOADER.EDGE_MASKS step."
        )
    if architecture not in WRAPPERS or cfg.DISTILL.METHOD == "none":
        raise ValueError(
            f"{key}: expected a DISTILL.METHOD that reads edges (BPKD) in MODEL.META_ARCHITECTURE SemanticDistiller, "
            f"got {cfg.DISTILL.METHOD!r} in {architecture}. Set DATALOADER.EDGE_MASKS step, or name such a method."
        )


def _get(cfg: CfgNode, key: str) -> Any:
    node = cfg
    for part in key.split("."):
        node = node[part]
    return node

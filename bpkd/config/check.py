"""Checks of config values that would fail late, or train on nonsense: each key's range, then keys together."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from bpkd.tasks import INSTANCE, SEMANTIC

from .distillation import WRAPPERS
from .keys import KEYS
from .keys.solver import AMP_CHOICES, AMP_NAMES
from .teachers import teacher_nodes, teacher_shares

__all__ = ["AMP_CHOICES", "AMP_NAMES", "check_ranges", "check_values", "image_range", "value_of"]

# Label of ignored pixels of bpkd's data sets (bpkd.data.files.IGNORE).
IGNORED = 255


def check_values(cfg: CfgNode) -> None:
    """Checks all values of a config that a run is started with.

    Raises:
        ValueError: a value is wrong; the message names the key, what was expected and what was given.
    """
    check_ranges(cfg)
    _check_distillation(cfg)
    if cfg.DATALOADER.EDGE_MASKS == "workers":
        _check_edge_masks(cfg)


def image_range(cfg: CfgNode) -> tuple[float, float]:
    """Returns INPUT.IMAGE_RANGE.

    Raises:
        ValueError: it is no range.
    """
    low, high = cfg.INPUT.IMAGE_RANGE
    if low >= high and (low or high):
        raise ValueError(f"INPUT.IMAGE_RANGE: expected [low, high] with low < high, or [0, 0], got {[low, high]}.")
    return low, high


def check_ranges(cfg: CfgNode) -> None:
    """Checks the value of every declared key (`bpkd.config.keys`), and keys that depend on each other.

    Of a config that is only read, as for its network or its data sets: METHOD and META_ARCHITECTURE need not agree.

    Raises:
        ValueError: a value is wrong; the message names the key, what was expected and what was given.
    """
    for name, key in KEYS.items():
        problem = key.problem(value_of(cfg, name))
        if problem:
            raise ValueError(problem)
    image_range(cfg)
    _check_input(cfg)
    _check_folder(cfg.DATASETS.FOLDER)
    _check_ignored(cfg)
    _check_schedule(cfg.SOLVER)
    teacher_nodes(cfg)
    teacher_shares(cfg)


def value_of(cfg: CfgNode, key: str) -> Any:
    """Returns the value of a dotted key.

    Args:
        cfg: config.
        key: e.g. SOLVER.MAX_ITER.
    """
    node = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _check_input(cfg: CfgNode) -> None:
    node, test = cfg.INPUT, cfg.TEST
    if node.SCALE_RANGE[0] > node.SCALE_RANGE[1]:
        raise ValueError(f"INPUT.SCALE_RANGE: expected [least, greatest], got {list(node.SCALE_RANGE)}.")
    for key in ("RESIZE_BOX", "TEST_BOX"):
        if (node[key][0] == 0) != (node[key][1] == 0):
            raise ValueError(f"INPUT.{key}: expected two positive numbers, or [0, 0], got {list(node[key])}.")
    if any(s > c for s, c in zip(test.SLIDE_STRIDE, test.SLIDE_CROP, strict=True)):
        raise ValueError(
            f"TEST.SLIDE_STRIDE: expected at most SLIDE_CROP {list(test.SLIDE_CROP)}, got "
            f"{list(test.SLIDE_STRIDE)}: pixels between the windows would get no score."
        )
    crop = node.CROP
    if crop.ENABLED and crop.TYPE == "relative" and max(crop.SIZE) > 1:
        raise ValueError(f"INPUT.CROP.SIZE: expected shares of the image, at most 1, got {list(crop.SIZE)}.")
    if crop.ENABLED and crop.TYPE == "absolute" and any(side != int(side) or side < 1 for side in crop.SIZE):
        raise ValueError(f"INPUT.CROP.SIZE: expected whole pixels (CROP.TYPE absolute), got {list(crop.SIZE)}.")


def _check_folder(node: CfgNode) -> None:
    names = [name.strip() for name in node.CLASSES]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(
            f"DATASETS.FOLDER.CLASSES: expected different names, got {twice!r} twice, for the ids "
            f"{' and '.join(str(i) for i, name in enumerate(names) if name == twice)}."
        )
    ids: dict[int, int] = {}
    for value, index in node.ID_MAP:
        if node.CLASSES and index != IGNORED and index >= len(names):
            raise ValueError(
                f"DATASETS.FOLDER.ID_MAP: expected trained ids from 0 to {len(names) - 1} (CLASSES), or {IGNORED} to "
                f"ignore, got {[value, index]}."
            )
        if ids.setdefault(value, index) != index:
            raise ValueError(
                f"DATASETS.FOLDER.ID_MAP: expected one trained id per mask value, got {ids[value]} and {index} for "
                f"{value}."
            )


def _check_ignored(cfg: CfgNode) -> None:
    """Compares the loss's ignored label with that of the data sets: a network alone may have any."""
    node = cfg.MODEL.SEM_SEG_HEAD
    if not cfg.DATASETS.TRAIN or cfg.MODEL.META_ARCHITECTURE in (INSTANCE.wrapper, "SOLOv2"):
        return
    key, value = "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", node.IGNORE_VALUE
    advice = "The value in your masks is DATASETS.FOLDER.IGNORE_INDEX, or an ID_MAP entry [value, 255]."
    if value < node.NUM_CLASSES:
        raise ValueError(f"{key}: expected no class of 0..{node.NUM_CLASSES - 1} (NUM_CLASSES), got {value}. {advice}")
    if value != IGNORED:
        raise ValueError(f"{key}: expected {IGNORED}, which the data sets give ignored pixels, got {value}. {advice}")


def _check_schedule(node: CfgNode) -> None:
    steps, name = list(node.STEPS), node.LR_SCHEDULER_NAME
    if name == "WarmupMultiStepLR" and sorted(set(steps)) != steps:
        raise ValueError(f"SOLVER.STEPS: expected rising iterations, got {steps}.")
    end = {"PolyLR": "MIN_LR", "WarmupCosineLR": "BASE_LR_END"}.get(name)
    if end and node[end] > node.BASE_LR:
        raise ValueError(
            f"SOLVER.{end}: expected at most SOLVER.BASE_LR {node.BASE_LR:g}, got {node[end]:g}: the learning rate "
            f"would rise. Set SOLVER.{end} too."
        )


def _check_distillation(cfg: CfgNode) -> None:
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

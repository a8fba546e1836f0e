"""The runs of dev/golden_losses.py: two tiny pairs, and every distiller on them. Names that old trees know, too."""

from __future__ import annotations

from typing import Any

SEMANTIC = """
VERSION: 2
MODEL:
  DEVICE: cpu
  RESNET_V1C: {DEPTH: 18, WIDTH_MULTIPLIER: 0.125}
  SEM_SEG_HEAD: {CHANNELS: 16, NUM_CLASSES: 9}
  AUX_HEAD: {CHANNELS: 8}
DATASETS:
  TRAIN: [procedural_train]
  TEST: [procedural_val]
  PROCEDURAL: {SIZE: [48, 64], NUM_TRAIN: 12, NUM_VAL: 1}
DATALOADER: {NUM_WORKERS: 0}
INPUT: {CROP_SIZE: [48, 48], SCALE_RANGE: [0.75, 1.5], PHOTOMETRIC: False}
SOLVER:
  IMS_PER_BATCH: 2
  BASE_LR: 0.0002
  MIN_LR: 0.00002
  CLIP_GRADIENTS: {ENABLED: True, CLIP_VALUE: 1.0}
  CHECKPOINT_PERIOD: 1000
  LOG_PERIOD: 1
  GRADIENT_RATIO_LIMIT: 0.0
TEST: {TRIMAP_WIDTHS: [3]}
"""
INSTANCE = """
VERSION: 2
MODEL:
  DEVICE: cpu
  META_ARCHITECTURE: SOLOv2
  BACKBONE: {NAME: build_deform_resnet_fpn_backbone, FREEZE_AT: 0}
  RESNETS:
    DEPTH: 50
    RES2_OUT_CHANNELS: 32
    WIDTH_PER_GROUP: 8
    STEM_OUT_CHANNELS: 16
    OUT_FEATURES: [res2, res3, res4, res5]
    STRIDE_IN_1X1: False
    NORM: BN
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 32, NORM: BN}
  SOLOV2:
    NUM_CLASSES: 5
    NUM_GRIDS: [10, 9, 6, 4, 3]
    NUM_CONVS: 1
    CHANNELS: 32
    MASK_CHANNELS: 32
    KERNEL_CHANNELS: 32
    SCALE_RANGES: [[1, 14], [7, 28], [14, 56], [28, 112], [56, 224]]
DISTILL: {STUDENT: SOLOv2}
DATASETS:
  TRAIN: [procedural_objects_train]
  TEST: [procedural_objects_val]
  PROCEDURAL: {SIZE: [64, 96], NUM_TRAIN: 12, NUM_VAL: 1}
DATALOADER: {NUM_WORKERS: 0}
INPUT: {MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 96, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96}
SOLVER:
  IMS_PER_BATCH: 2
  BASE_LR: 0.0002
  MIN_LR: 0.00002
  CLIP_GRADIENTS: {ENABLED: True, CLIP_VALUE: 1.0}
  CHECKPOINT_PERIOD: 1000
  LOG_PERIOD: 1
  GRADIENT_RATIO_LIMIT: 0.0
"""
TASKS = {"semantic": (SEMANTIC, "SemanticDistiller"), "instance": (INSTANCE, "InstanceDistiller")}


def method(name: str, *opts: Any, task: str = "semantic") -> tuple[str, tuple[str, ...]]:
    """Returns the task and the options of a distiller's run."""
    return task, ("DISTILL.METHOD", name, *map(str, opts))


# Name of the file -> task and options. The teacher of a task is a run too: the student alone, from another seed.
# A critic takes ten times as long as all else: one case has one.
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "teacher": ("semantic", ("SEED", "7")),
    "none": method("none"),
    "kd": method("KD"),
    "kd_masked": method("KD", "DISTILL.KD.MASK_IGNORED", True, "DISTILL.KD.TEMPERATURE", 2.0),
    "cwd": method("CWD"),
    "cwd_decode": method("CWD", "DISTILL.CWD.TAP", "decode"),
    "bpkd_safe": method("BPKD"),
    "bpkd_literal": method("BPKD", "DISTILL.BPKD.PRESET", "literal"),
    "bpkd_paper": method("BPKD", "DISTILL.BPKD.PRESET", "paper"),
    "bpkd_transparent": method("BPKD", "DISTILL.BPKD.IGNORE_MODE", "transparent", "DISTILL.BPKD.ITERATIONS", 2),
    "bpkd_workers": method("BPKD", "DATALOADER.EDGE_MASKS", "workers"),
    "skds": method("SKDS"),
    "skds_author": method("SKDS", "DISTILL.SKDS.PRESET", "author", "DISTILL.SKDS.ADV_WEIGHT", 0.0),
    "ifvd": method("IFVD", "DISTILL.IFVD.ADV_WEIGHT", 0.0),
    "ifvd_author": method("IFVD", "DISTILL.IFVD.PRESET", "author", "DISTILL.IFVD.ADV_WEIGHT", 0.0),
    "cirkd": method("CIRKD", "DISTILL.CIRKD.PIXEL_QUEUE", 200, "DISTILL.CIRKD.REGION_QUEUE", 50),
    "cwd_ifvd": method("CWD+IFVD", "DISTILL.IFVD.ADV_WEIGHT", 0.0),
    "kd_bpkd_weighted": method("KD+BPKD", "DISTILL.WEIGHTS", [0.5, 2.0]),
    "two_teachers_probabilities": method("KD", "TEACHER.SHARES", [2, 1]),
    "two_teachers_losses": method("BPKD", "TEACHER.COMBINE", "losses"),
    "instance_teacher": ("instance", ("SEED", "7")),
    "instance_none": method("none", task="instance"),
    "instance_kd": method("KD", task="instance"),
    "instance_cwd": method("CWD", task="instance"),
    "instance_bpkd": method("BPKD", "DISTILL.BPKD.PRESET", "instances", task="instance"),
}
TEACHERS = {"semantic": "teacher", "instance": "instance_teacher"}
# The teachers have learned little. The weights of their last layers times this, and they say something worth learning.
SHARPER = {"decode_head.conv_seg.weight": 20.0, "cate_pred.weight": 20.0, "kernel_pred.weight": 20.0}

"""Runs of the engine on tiny procedural scenes, and readers of their files."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bpkd.data.procedural import CLASSES
from bpkd.engine import DistillationTrainer, load_config

TINY = """
VERSION: 2
MODEL:
  DEVICE: cpu
  RESNET_V1C: {DEPTH: 18, WIDTH_MULTIPLIER: 0.125, NORM: SyncBN}
  SEM_SEG_HEAD: {CHANNELS: 16, NUM_CLASSES: %d, NORM: SyncBN, DROPOUT: 0.1}
  AUX_HEAD: {CHANNELS: 8}
DATASETS:
  TRAIN: ["procedural_train"]
  TEST: ["procedural_val"]
  PROCEDURAL: {SIZE: [48, 64], NUM_TRAIN: 12, NUM_VAL: 3}
DATALOADER: {NUM_WORKERS: 0}
INPUT: {CROP_SIZE: [48, 48]}
SOLVER: {IMS_PER_BATCH: 4, MAX_ITER: 4, CHECKPOINT_PERIOD: 2, LOG_PERIOD: 1, BASE_LR: 0.02}
TEST: {TRIMAP_WIDTHS: [1, 3]}
"""


def write_tiny_pair(root: Path) -> None:
    """Writes teacher.yaml, student.yaml, pair.yaml and a trained teacher to a folder."""
    text = TINY % len(CLASSES)
    (root / "teacher.yaml").write_text(text)
    (root / "student.yaml").write_text(text)
    (root / "pair.yaml").write_text(
        "_BASE_: student.yaml\nMODEL: {META_ARCHITECTURE: SemanticDistiller}\nDISTILL: {METHOD: BPKD}\n"
        f"TEACHER: {{CONFIG_FILE: {root}/teacher.yaml, WEIGHTS: {root}/teacher/model_final.pth}}\n"
    )
    train(root / "teacher.yaml", root / "teacher", "SEED", "7")


def train(config: Path, out: Path, *opts: str, resume: bool = False) -> DistillationTrainer:
    cfg = load_config(str(config), ["OUTPUT_DIR", str(out), *opts])
    out.mkdir(parents=True, exist_ok=True)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path / "model_final.pth", weights_only=True)["model"]


def losses(path: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (path / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in r.items() if "loss" in k} for r in rows if "total_loss" in r]


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


def stop_after(trainer: DistillationTrainer, iterations: int):  # noqa: ANN201
    """Returns an ``after_step`` that interrupts a run after so many iterations, when its hooks have run."""
    original = trainer.after_step

    def after_step() -> None:
        original()
        if trainer.iter + 1 == iterations:
            raise KeyboardInterrupt

    return after_step

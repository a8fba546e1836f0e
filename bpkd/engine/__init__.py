"""Training runs: configuration, training loop, evaluation and records of one run."""

from typing import Any

from bpkd.extras import need_detectron2

need_detectron2(__name__)

from .configure import load_config
from .evaluate import evaluate
from .launch import main, run
from .trainer import DistillationTrainer

__all__ = ["DistillationTrainer", "evaluate", "load_config", "main", "run"]


def __getattr__(name: str) -> Any:
    """Returns other names of `bpkd.engine.launch`; those that moved to `bpkd.cli.train` warn."""
    from . import launch

    return getattr(launch, name)

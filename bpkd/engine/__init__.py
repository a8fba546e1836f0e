"""Training runs: configuration, training loop, evaluation and records of one run."""

from bpkd.extras import need_detectron2

need_detectron2(__name__)

from .evaluate import evaluate
from .launch import argument_parser, cli, load_config, main, run
from .trainer import DistillationTrainer

__all__ = ["DistillationTrainer", "argument_parser", "cli", "evaluate", "load_config", "main", "run"]

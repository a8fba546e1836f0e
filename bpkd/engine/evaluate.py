"""Evaluation of a network on the configured test sets."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from torch import nn

from bpkd.data import build_test_loader
from bpkd.evaluation import build_evaluator

logger = logging.getLogger(__name__)


def evaluate(cfg: CfgNode, model: nn.Module, folder: str = "inference") -> dict[str, Any]:
    """Evaluates ``model`` on every set of cfg.DATASETS.TEST, sharded over the processes.

    Args:
        cfg: config that names sets and protocol.
        model: network that returns ``sem_seg`` per image in evaluation mode.
        folder: where below OUTPUT_DIR the full results go.

    Returns:
        Results of the only set, or {set: results} of several; empty on all but the main process.
    """
    results: OrderedDict[str, Any] = OrderedDict()
    for name in cfg.DATASETS.TEST:
        loader = build_test_loader(cfg, name, rank=comm.get_rank(), world_size=comm.get_world_size())
        out = os.path.join(cfg.OUTPUT_DIR, folder, name)
        results[name] = inference_on_dataset(model, loader, build_evaluator(cfg, name, out)) or {}
        scores = results[name].get("sem_seg", {})
        shown = ", ".join(f"{k} {v:.2f}" for k, v in scores.items() if not k.startswith(("IoU-", "Acc-")))
        if shown:
            logger.info("%s: %s", name, shown)
    if not comm.is_main_process():
        return {}
    return next(iter(results.values())) if len(results) == 1 else dict(results)


def without_classes(results: dict[str, Any]) -> dict[str, Any]:
    """Returns results without a figure per class and band width: metrics.json and TensorBoard get a row each time."""
    return {k: without_classes(v) if isinstance(v, dict) else v for k, v in results.items() if k != "per_class"}

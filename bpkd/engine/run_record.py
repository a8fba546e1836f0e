"""``run.json``, the record of a run: figures, cost of the network, config and versions."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from bpkd.analysis.complexity import count
from bpkd.files import plain, sha256_of, write_json

INSTANCE_TASKS = ("segm", "boundary", "bbox")


def peak_memory(device: str) -> tuple[float, str]:
    """Returns the most memory that one process of the run has held, in MB of 1e6 bytes, and what was counted.

    Every process of the run has to call it.

    Args:
        device: MODEL.DEVICE.
    """
    if torch.device(device).type == "cuda":
        own, what = torch.cuda.max_memory_allocated() / 1e6, "CUDA tensors of the largest process"
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        what = "resident set of the largest process"
    return max(comm.all_gather(own)), what


def run_record(cfg: CfgNode, model: nn.Module, results: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Returns the record of a run (see ``bpkd.analysis.records.KEYS``).

    Args:
        cfg: config of the network and of its evaluation.
        model: The network that was evaluated.
        results: Results of ``evaluate``.
        facts: further entries (method, seed, iterations, seconds, ...), stored unchanged.
    """
    cost = count(model)
    name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else ""
    results = results.get(name, results)  # of several sets, the record is of the first
    return {
        "dataset": name,
        "metrics": plain(results.get("sem_seg") or _instance_metrics(results)),
        "per_class": plain(results.get("per_class", {})),
        **{task: plain(results[task]) for task in ("cityscapes", *INSTANCE_TASKS) if task in results},
        "params_m": cost.params / 1e6,
        "flops_g": cost.flops / 1e9,
        "flops_size": cost.size,
        **{part: plain(results[part]) for part in ("absent", "data") if part in results},
        **plain(results.get("speed", {})),
        "config": cfg.dump(),
        **facts,
    }


def _instance_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Returns mask AP under its own names, Boundary AP and box AP with a prefix."""
    prefixes = {"segm": "", "boundary": "boundary_", "bbox": "bbox_"}
    return {f"{prefixes[task]}{k}": v for task in INSTANCE_TASKS for k, v in results.get(task, {}).items()}


def origin(weights: str) -> dict[str, Any]:
    """Returns which weights were evaluated, and what is known about the run that made them.

    Args:
        weights: checkpoint file; its run's record lies beside it, or is unknown.
    """
    path = Path(weights)
    beside = path.with_name("run.json")
    made = json.loads(beside.read_text()) if beside.is_file() else {}
    known = {k: made.get(k) for k in ("seed", "iterations", "seconds", "seconds_per_iteration")}
    return {"weights": weights, "weights_sha256": sha256_of(path), "trained_commit": made.get("commit"), **known}


def write_record(folder: str, record: Mapping[str, Any]) -> None:
    """Writes ``run.json``, whole or not at all."""
    write_json(os.path.join(folder, "run.json"), record)

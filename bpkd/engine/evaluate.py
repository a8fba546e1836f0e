"""Evaluation of a network on the configured test sets."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bpkd.data import build_test_loader
from bpkd.evaluation import build_evaluator
from bpkd.evaluation.identity import data_identity

logger = logging.getLogger(__name__)


def evaluate(cfg: CfgNode, model: nn.Module, folder: str = "inference") -> dict[str, Any]:
    """Evaluates ``model`` on every set of cfg.DATASETS.TEST, sharded over the processes.

    Args:
        cfg: config that names sets and protocol.
        model: network that returns ``sem_seg`` per image in evaluation mode.
        folder: Folder below OUTPUT_DIR for the full results.

    Returns:
        Results of the only set, or {set: results} of several; empty on all but the main process. ``speed`` among them
        holds ``ms_per_image`` of the main process's share.
    """
    results: OrderedDict[str, Any] = OrderedDict()
    for name in cfg.DATASETS.TEST:
        loader = build_test_loader(cfg, name, rank=comm.get_rank(), world_size=comm.get_world_size())
        out = os.path.join(cfg.OUTPUT_DIR, folder, name)
        clock = InferenceClock()
        with progress(loader, name) as images:
            evaluator = build_evaluator(cfg, name, out)
            results[name] = inference_on_dataset(model, images, evaluator, callbacks=clock.callbacks) or {}
        if results[name] and clock.seconds:
            results[name]["speed"] = {"ms_per_image": clock.ms_per_image()}
        if results[name] and "data" not in results[name]:
            results[name]["data"] = data_identity(name)
        for task, scores in without_classes(results[name]).items():
            shown = ", ".join(f"{k} {'-' if v != v else f'{v:.2f}'}" for k, v in scores.items() if "-" not in k)
            logger.info("%s, %s: %s", name, task, shown)
    if not comm.is_main_process():
        return {}
    return next(iter(results.values())) if len(results) == 1 else dict(results)


class InferenceClock:
    """Wall-clock time of each call of a network in ``inference_on_dataset``."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    @property
    def callbacks(self) -> dict[str, Callable[[], None]]:
        """What ``inference_on_dataset`` calls before and after the network."""
        return {"before_inference": self._before, "after_inference": self._after}

    def _before(self) -> None:
        self._start = _now()

    def _after(self) -> None:
        self.seconds.append(_now() - self._start)

    def ms_per_image(self) -> float:
        """Returns the median over calls of one image each; which the slow first calls hardly affect."""
        return 1e3 * median(self.seconds)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # kernels run on after the call that starts them has returned
    return time.perf_counter()


@contextlib.contextmanager
def progress(loader: DataLoader[Any], name: str) -> Iterator[Any]:
    """Shows a progress bar of the main process's images where the output is a terminal; log lines stay above it.

    Elsewhere Detectron2's loop logs its progress every five seconds.

    Args:
        loader: loader of this process's images.
        name: Name of the data set.

    Yields:
        The loader, or the progress bar around it.
    """
    if not (comm.is_main_process() and sys.stderr.isatty()):
        yield loader
        return
    watched = [logging.getLogger(n) for n in ("detectron2", "bpkd")]
    with logging_redirect_tqdm(watched), tqdm(loader, desc=name, unit="image", dynamic_ncols=True) as bar:
        yield bar


def without_classes(results: dict[str, Any]) -> dict[str, Any]:
    """Returns results without figures per class and band width, times and words: a row of metrics.json."""
    left_out = ("per_class", "speed", "absent", "data")
    return {k: without_classes(v) if isinstance(v, dict) else v for k, v in results.items() if k not in left_out}

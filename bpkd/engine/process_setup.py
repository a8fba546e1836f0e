"""Threads, loader workers and numeric precision of each process of a run, and its warnings."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from bpkd.config import loader_workers, local_processes, rename_tree, usable_cores
from bpkd.distillers.base import DistillationModule
from bpkd.functional.backends import native
from bpkd.modeling import task_of
from bpkd.modeling.precision import AMP_DTYPES, choose_precision, describe
from bpkd.modeling.teachers.acceleration import AUTOMATIC
from bpkd.modeling.teachers.cached import recorded_precision
from bpkd.tasks import INSTANCE, SEMANTIC

logger = logging.getLogger(__name__)

THREADS, WAITING = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"


def share_cores(processes: int) -> None:
    """Sets OMP_NUM_THREADS and OMP_WAIT_POLICY so that the processes of a run divide this machine's cores.

    Otherwise each would use all cores, and its waiting threads would block the others': a step would take many times
    as long. Variables that are set already are kept.
    """
    os.environ.setdefault(THREADS, str(max(1, usable_cores() // processes)))
    os.environ.setdefault(WAITING, "PASSIVE")


def limit_threads() -> None:
    """Lets torch use no more threads than there are cores for this process: it does not know a container's quota."""
    if THREADS not in os.environ and torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def settle_precision(cfg: CfgNode, *, resume: bool = False) -> None:
    """Replaces the precision "auto" in a config by the one that this machine computes in, which the run then states.

    Args:
        cfg: not frozen; SOLVER.AMP.DTYPE, TEACHER.AMP and AMP of each of TEACHER.OTHERS.
        resume: whether the run in OUTPUT_DIR is continued, in the precision that it began with. A recorded teacher
            (TEACHER.CACHE) always keeps the one that it was recorded in.
    """
    open_places = [place for place in precision_places(cfg) if is_automatic(*place[1:])]
    if not open_places:
        return
    chosen = choose_precision("auto", torch.device(cfg.MODEL.DEVICE), key="auto")
    recorded = began_with(cfg.OUTPUT_DIR) if resume else {}
    if cfg.TEACHER.CACHE:
        recorded |= recorded_precision(cfg.TEACHER.CACHE)
    # What the first process has found holds for all; processes on unlike machines take what all of them have.
    gathered = comm.all_gather((recorded, chosen))
    common = chosen if len({one for _, one in gathered}) == 1 else "off"
    for key, node, name in open_places:
        node[name] = gathered[0][0].get(key, common)
        if node[name] != common:
            reason = "as the run began or its teacher was recorded"
            logger.warning("%s: %s, %s; automatic here is %s.", key, node[name], reason, common)
        if node.get("OPTIMIZE") == "auto":  # so that nothing is left to choose when the teacher is built
            node["OPTIMIZE"] = "off" if node.get("EXPORTED") else "+".join(AUTOMATIC)


def began_with(folder: str) -> dict[str, str]:
    """Returns the precisions that the run in a folder began with, by key; empty without a readable config.yaml."""
    path = os.path.join(folder, "config.yaml")
    if not os.path.isfile(path):
        return {}
    try:
        with open(path) as file:
            places = precision_places(CfgNode(rename_tree(yaml.safe_load(file), warn=False)))
        found = {key: node.get(name) for key, node, name in places if not is_automatic(node, name)}
        return {key: value for key, value in found.items() if value in AMP_DTYPES}
    except (yaml.YAMLError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        logger.warning("%s: it cannot be read (%s): the precision is chosen anew.", path, type(error).__name__)
        return {}


def is_automatic(node: Mapping[str, Any], name: str) -> bool:
    """Tells whether a key leaves the precision to this machine: by "auto", or by TEACHER.OPTIMIZE auto."""
    value = node.get(name, "off")
    return value == "auto" or (value == "off" and name == "AMP" and node.get("OPTIMIZE") == "auto")


def precision_places(cfg: CfgNode) -> list[tuple[str, Any, str]]:
    """Returns the keys of a config that hold a precision: (dotted key, node, key in the node)."""
    others = [(f"TEACHER.OTHERS[{i}].AMP", x) for i, x in enumerate(cfg.TEACHER.OTHERS) if isinstance(x, Mapping)]
    return [
        ("SOLVER.AMP.DTYPE", cfg.SOLVER.AMP, "DTYPE"),
        ("TEACHER.AMP", cfg.TEACHER, "AMP"),
        *((key, entry, "AMP") for key, entry in others),
    ]


def report_resources(cfg: CfgNode, precision: Mapping[str, str]) -> None:
    """Logs precision, threads, loader workers and C++ level of this process, with reasons.

    Args:
        cfg: config; DATALOADER.NUM_WORKERS, MODEL.CHANNELS_LAST, MODEL.DEVICE and SOLVER.AMP.ENABLED are read.
        precision: Precision of "student" and "teacher": "off", "bf16" or "fp16", several teachers' joined by "+", or
            another word that is logged as it is.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    for name, value in precision.items():
        key = {"student": "SOLVER.AMP.DTYPE", "teacher": "TEACHER.AMP"}[name]
        parts = [describe(x, device, key=key) if x in AMP_DTYPES else x for x in value.split("+")]
        if name == "student" and not cfg.SOLVER.AMP.ENABLED:
            parts = ["float32 (SOLVER.AMP.ENABLED is False)"]
        logger.info("Precision of the %s: %s", name, ", ".join(parts))
    reason = f"{THREADS} is {os.environ[THREADS]}" if THREADS in os.environ else "the cores of this process"
    logger.info(
        "Usable cores: %d; processes here: %d; threads of each: %d (%s); %s is %s; loader workers: %d; "
        "C++ functions: %s; %s",
        usable_cores(), local_processes(), torch.get_num_threads(), reason, WAITING, os.environ.get(WAITING, "not set"),
        loader_workers(cfg.DATALOADER.NUM_WORKERS, device=cfg.MODEL.DEVICE),
        native.level() or "none", "channels-last" if cfg.MODEL.CHANNELS_LAST else "channels first",
    )  # fmt: skip


def warn_of_joint_losses(cfg: CfgNode, distiller: nn.Module | None) -> None:
    """Warns in one line where SOLVER.ACCUMULATE averages losses that are no means over images.

    Args:
        cfg: MODEL.META_ARCHITECTURE, MODEL.SEM_SEG_HEAD, SOLVER.ACCUMULATE, SOLVER.IMS_PER_BATCH.
        distiller: the run's distiller; None: plain training.
    """
    count, size = cfg.SOLVER.ACCUMULATE, cfg.SOLVER.IMS_PER_BATCH
    found = ["SOLOv2 (divided by the batch's objects)"] if task_of(cfg) is INSTANCE else []
    if task_of(cfg) is SEMANTIC and cfg.MODEL.SEM_SEG_HEAD.LOSS_DENOMINATOR == "valid":
        found.append("MODEL.SEM_SEG_HEAD.LOSS_DENOMINATOR valid")
    parts = [] if distiller is None else [m for m in distiller.modules() if isinstance(m, DistillationModule)]
    found += [type(one).__name__ for one in parts if not (one.averages_over_images or one.distillers())]
    if count > 1 and found:
        logger.warning(
            "SOLVER.ACCUMULATE: the averaged gradients of %d batches of %d images are not those of one batch of %d for "
            "losses that are no means over images: %s.", count, size, count * size, ", ".join(dict.fromkeys(found)),
        )  # fmt: skip

"""Reads a config file, chooses device and precision, registers and checks the data sets, and freezes the config."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from bpkd.config import check_values, read_config
from bpkd.data import check_class_count, dataset_task, register_datasets
from bpkd.evaluation import check_metrics
from bpkd.functional.backends import native
from bpkd.functional.backends.settings import requested_backend
from bpkd.modeling import student_architecture, task_of

from .process_setup import settle_precision


def load_config(config_file: str, opts: Sequence[str] = (), *, resume: bool = False) -> CfgNode:
    """Reads a config (see ``read_config``), chooses device and precision, registers the data sets and freezes.

    Args:
        config_file: YAML file.
        opts: KEY VALUE pairs.
        resume: whether the run in OUTPUT_DIR is continued; a precision "auto" is then the one it began with.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a key is unknown, a value has the wrong type, a distiller is named where nothing is distilled, a
            metric is unknown, or BPKD_BACKEND or BPKD_NATIVE_LEVEL names what is not available on this machine.
    """
    cfg = read_config(config_file, opts)
    check_values(cfg)
    requested_backend()
    native.check_level()
    try:
        kind = torch.device(cfg.MODEL.DEVICE).type
    except RuntimeError:
        message = f"MODEL.DEVICE: expected cpu, cuda or cuda:N, got {cfg.MODEL.DEVICE!r}."
        raise ValueError(message) from None
    if kind == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    architectures = sorted(name for name, _ in META_ARCH_REGISTRY)
    if cfg.MODEL.META_ARCHITECTURE not in architectures:
        got = f"got {cfg.MODEL.META_ARCHITECTURE!r}"
        raise ValueError(f"MODEL.META_ARCHITECTURE: expected one of {', '.join(architectures)}, {got}.")
    settle_precision(cfg, resume=resume)
    register_datasets(cfg)
    check_data_sets(cfg)
    check_classes(cfg)
    check_metrics(cfg)
    cfg.freeze()
    return cfg


def check_data_sets(cfg: CfgNode) -> None:
    """Checks that DATASETS.TRAIN and DATASETS.TEST name registered data sets.

    Raises:
        ValueError: both are empty, or a data set is unknown.
    """
    if not cfg.DATASETS.TRAIN and not cfg.DATASETS.TEST:
        raise ValueError(
            "DATASETS.TRAIN, DATASETS.TEST: expected a data set, got none. The files of configs/networks describe "
            "networks alone: use the one of a data set (configs/camvid, ...), or name both."
        )
    known = [n for n in DatasetCatalog.list() if {"label_table", "published"} & MetadataCatalog.get(n).as_dict().keys()]
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name in known:
            continue
        raise ValueError(
            f"DATASETS: expected one of {', '.join(known)}, got {name!r}. Your own data needs DATASETS.FOLDER.NAME "
            "or, with instances, DATASETS.COCO_FOLDER.NAME."
        )


def check_classes(cfg: CfgNode) -> None:
    """Compares the configured data sets with the network.

    Classes that only a COCO file names are compared when it is read.

    Raises:
        ValueError: a data set has another number of classes than the network, or belongs to the other task.
    """
    task = task_of(cfg)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if (found := dataset_task(name)) is not task:
            network = student_architecture(cfg)
            key = "MODEL.META_ARCHITECTURE" if network == cfg.MODEL.META_ARCHITECTURE else "DISTILL.STUDENT"
            raise ValueError(f"DATASETS: {name} holds {found.labels}; {key} {network} needs {task.labels}.")
        check_class_count(cfg, name, read=False)

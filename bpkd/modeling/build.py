"""Builds the plain network that a config describes, with or without a distillation wrapper."""

from __future__ import annotations

from typing import TypeVar

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from bpkd.config import WRAPPERS
from bpkd.modeling.base import DenseModel
from bpkd.modeling.external import as_dense
from bpkd.modeling.solov2 import SOLOv2
from bpkd.tasks import SEMANTIC, Task

Network = DenseModel | SOLOv2
Kind = TypeVar("Kind", DenseModel, SOLOv2)


def student_architecture(cfg: CfgNode) -> str:
    """Returns the registered name of the network that is trained, without the distillation wrapper."""
    name = cfg.MODEL.META_ARCHITECTURE
    return cfg.DISTILL.STUDENT if name in WRAPPERS else name


def task_of(cfg: CfgNode) -> Task:
    """Returns the task of the network that is trained; semantic segmentation for a class without ``task``."""
    name = student_architecture(cfg)
    return getattr(META_ARCH_REGISTRY.get(name), "task", SEMANTIC) if name in META_ARCH_REGISTRY else SEMANTIC


def build_student(cfg: CfgNode) -> Network:
    """Builds the plain student of a config, with random weights, on MODEL.DEVICE.

    Raises:
        ValueError: the architecture is not registered; the message lists those that are.
        TypeError: the network is neither a dense one nor a `SOLOv2`.
    """
    name = student_architecture(cfg)
    if name not in META_ARCH_REGISTRY:
        known = ", ".join(sorted(key for key, _ in META_ARCH_REGISTRY))
        raise ValueError(f"MODEL.META_ARCHITECTURE / DISTILL.STUDENT: expected one of {known}, got {name!r}.")
    model = META_ARCH_REGISTRY.get(name)(cfg)
    network: Network = model if isinstance(model, Network) else as_dense(model, cfg)
    return network.to(torch.device(cfg.MODEL.DEVICE))


def build_solov2(cfg: CfgNode) -> SOLOv2:
    """Builds the plain student of a config for instance segmentation, as `build_student` does.

    Raises:
        ValueError: the architecture is not registered.
        TypeError: the network is no `SOLOv2`.
    """
    return _of_kind(build_student(cfg), SOLOv2, "SOLOv2, a network for instances")


def build_dense(cfg: CfgNode) -> DenseModel:
    """Builds the plain student of a config for semantic segmentation, as `build_student` does.

    Raises:
        ValueError: the architecture is not registered.
        TypeError: the network does not return dense logits.
    """
    return _of_kind(build_student(cfg), DenseModel, "a network for semantic segmentation")


def _of_kind(model: Network, kind: type[Kind], wanted: str) -> Kind:
    if not isinstance(model, kind):
        raise TypeError(f"MODEL.META_ARCHITECTURE / DISTILL.STUDENT: expected {wanted}, got {type(model).__name__}.")
    return model

"""Builds the plain network that a config describes, wrapped or not."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from bpkd.config import WRAPPERS
from bpkd.modeling.base import DenseModel
from bpkd.modeling.external import as_dense
from bpkd.modeling.solov2 import SOLOv2


def student_architecture(cfg: CfgNode) -> str:
    """Returns the registered name of the network that is trained, without the distillation wrapper."""
    name = cfg.MODEL.META_ARCHITECTURE
    return cfg.DISTILL.STUDENT if name in WRAPPERS else name


def predicts_instances(cfg: CfgNode) -> bool:
    """Whether the network that is trained yields instances and not label maps."""
    name = student_architecture(cfg)
    return name in META_ARCH_REGISTRY and _makes_instances(META_ARCH_REGISTRY.get(name))


def build_student(cfg: CfgNode) -> DenseModel | SOLOv2:
    """Builds the plain student of a config, with random weights, on MODEL.DEVICE.

    Raises:
        ValueError: the architecture is not registered; the message lists those that are.
        TypeError: it yields neither dense logits nor, as `SOLOv2` does, instances.
    """
    name = student_architecture(cfg)
    if name not in META_ARCH_REGISTRY:
        known = ", ".join(sorted(key for key, _ in META_ARCH_REGISTRY))
        raise ValueError(f"MODEL.META_ARCHITECTURE / DISTILL.STUDENT: expected one of {known}, got {name!r}.")
    model = META_ARCH_REGISTRY.get(name)(cfg)
    if not isinstance(model, SOLOv2):
        model = as_dense(model, cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))


def build_dense(cfg: CfgNode) -> DenseModel:
    """Builds the plain student of a config for label maps, as `build_student` does.

    Raises:
        ValueError: the architecture is not registered.
        TypeError: it does not yield dense logits.
    """
    model = build_student(cfg)
    if not isinstance(model, DenseModel):
        raise TypeError(
            f"MODEL.META_ARCHITECTURE / DISTILL.STUDENT: expected a network for label maps, got {type(model).__name__}."
        )
    return model


def _makes_instances(architecture: Any) -> bool:
    return isinstance(architecture, type) and issubclass(architecture, SOLOv2)  # some are functions

"""Detectron2's ResNet with FPN, with deformable layers and, on request, frozen norms with trained affine weights."""

from __future__ import annotations

import copy
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, build_resnet_fpn_backbone
from torch import nn

from .deform import deform_stages


class EvalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always uses its running statistics, while its weight and bias are trained."""

    def train(self, mode: bool = True) -> EvalBatchNorm2d:
        """Stays in evaluation mode."""
        super().train(False)
        return self


@BACKBONE_REGISTRY.register()
def build_deform_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds Detectron2's ResNet with FPN from Detectron2's own config keys.

    For MODEL.RESNETS.DEFORM_ON_PER_STAGE, `ModulatedDeformConv2d` takes the place of Detectron2's compiled layer.

    Raises:
        ValueError: a deformable layer has no modulation, or is in a basic block, or BN_EVAL_AFFINE is set without
            FrozenBN.
    """
    node = cfg.MODEL.RESNETS
    deform = list(node.DEFORM_ON_PER_STAGE)
    if any(deform) and not node.DEFORM_MODULATED:
        raise ValueError(
            "MODEL.RESNETS.DEFORM_MODULATED: expected True (DCNv2) where a stage is deformable, got False."
        )
    fpn: FPN = build_resnet_fpn_backbone(_undeformed(cfg), input_shape)
    deform_stages(fpn.bottom_up, deform, node.DEFORM_NUM_GROUPS)
    fpn.bottom_up.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    if cfg.MODEL.SOLOV2.BN_EVAL_AFFINE:
        if node.NORM != "FrozenBN":
            raise ValueError(f"MODEL.SOLOV2.BN_EVAL_AFFINE: expected MODEL.RESNETS.NORM FrozenBN, got {node.NORM!r}.")
        for stage in fpn.bottom_up.stages[max(cfg.MODEL.BACKBONE.FREEZE_AT - 1, 0) :]:
            train_affine(stage)
    return fpn


def _undeformed(cfg: CfgNode) -> CfgNode:
    """Returns the config without deformable convolutions; only the three changed nodes are copied."""
    plain, model, resnets = copy.copy(cfg), copy.copy(cfg.MODEL), copy.copy(cfg.MODEL.RESNETS)
    resnets["DEFORM_ON_PER_STAGE"] = [False] * 4
    model["RESNETS"], plain["MODEL"] = resnets, model
    return plain


def train_affine(module: nn.Module) -> None:
    """Replaces every `FrozenBatchNorm2d` of a module by an `EvalBatchNorm2d` with the same values."""
    for name, child in list(module.named_children()):
        if not isinstance(child, FrozenBatchNorm2d):
            train_affine(child)
            continue
        norm: Any = EvalBatchNorm2d(child.num_features, eps=child.eps)
        norm.load_state_dict(child.state_dict(), strict=False)  # only num_batches_tracked is missing
        setattr(module, name, norm.eval())


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Counts parameters as mmdetection does, weights and biases of frozen norms included, in total and by part.

    Returns:
        ``params``, ``params_frozen_norms`` (how many of these are buffers), ``trainable``, and parts by their names.
    """
    counts: dict[str, int] = {"params": 0, "params_frozen_norms": 0, "trainable": 0}
    parts = {"backbone.bottom_up.": "backbone", "backbone.": "fpn", "": "heads"}
    own = {f"{name}.{key}": p for name, m in model.named_modules() for key, p in m.named_parameters(recurse=False)}
    frozen = {
        f"{name}.{key}": getattr(m, key)
        for name, m in model.named_modules()
        if isinstance(m, FrozenBatchNorm2d)
        for key in ("weight", "bias")
    }
    for key, value in {**own, **frozen}.items():
        part = next(title for start, title in parts.items() if key.startswith(start))
        counts[part] = counts.get(part, 0) + value.numel()
        counts["params"] += value.numel()
        counts["params_frozen_norms"] += value.numel() if key in frozen else 0
        counts["trainable"] += value.numel() if value.requires_grad else 0
    return counts

"""SemanticSegmentor: backbone, decode head, auxiliary head."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_backbone,
    build_sem_seg_head,
)
from torch import Tensor

from bpkd.modeling.base import DenseModel, dense_options
from bpkd.modeling.heads.base import SegHead, pick_stage
from bpkd.modeling.heads.fcn import FCNHead
from bpkd.modeling.layers import norm_for_device
from bpkd.structures import SegOutput


class SemanticSegmentor(DenseModel):
    """A backbone with a decode head, and in training an auxiliary head.

    Its state dict has the keys `backbone.*`, `decode_head.*` and `auxiliary_head.*` of OpenMMLab's networks.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        decode_head: SegHead,
        auxiliary_head: SegHead | None = None,
        auxiliary_weight: float = 0.4,
        **options: Any,
    ) -> None:
        """Joins the parts.

        Args:
            backbone: Network from images to a dict of feature maps (stages), with Detectron2's `output_shape`.
            decode_head: Head from the stages to logits.
            auxiliary_head: Head from a stage to logits, in training only; None: no auxiliary loss.
            auxiliary_weight: Factor on the auxiliary head's loss.
            **options: Arguments of `DenseModel`.
        """
        super().__init__(**options)
        self.backbone = backbone
        self.decode_head = decode_head
        self.auxiliary_head = auxiliary_head
        self.auxiliary_weight = auxiliary_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds the parts of MODEL.BACKBONE, MODEL.SEM_SEG_HEAD and MODEL.AUX_HEAD.

        Raises:
            ValueError: a name is unknown.
            TypeError: the head is no `SegHead`.
        """
        _known(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
        _known(SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.NAME, "MODEL.SEM_SEG_HEAD.NAME")
        backbone = build_backbone(cfg)
        head = build_sem_seg_head(cfg, backbone.output_shape())
        if not isinstance(head, SegHead):
            raise TypeError(
                f"MODEL.SEM_SEG_HEAD.NAME: expected a bpkd.modeling.heads.SegHead, got {type(head).__name__}. "
                "For Detectron2's own heads use META_ARCHITECTURE (or DISTILL.STUDENT) SemanticSegmentor."
            )
        return {
            "backbone": backbone,
            "decode_head": head,
            "auxiliary_head": _auxiliary_from_config(cfg, backbone.output_shape()),
            "auxiliary_weight": cfg.MODEL.AUX_HEAD.LOSS_WEIGHT,
            **dense_options(cfg),
        }

    def feature_channels(self) -> dict[str, int]:
        """Returns the channels of the backbone's stages and of the decoder's map."""
        stages = {name: shape.channels for name, shape in self.backbone.output_shape().items()}
        return {**stages, "decode": self.decode_head.channels}

    def unsupported(self) -> frozenset[str]:
        """Returns "script" (TorchScript has no `SegOutput` or dicts of maps) and the head's unsupported names."""
        return frozenset({"script"}) | self.decode_head.unsupported

    def drop_auxiliary(self) -> None:
        """Removes the auxiliary head."""
        self.auxiliary_head = None

    def predict(self, images: Tensor) -> SegOutput:
        """Maps normalised images [N, 3, H, W] to scores at the decoder's resolution."""
        stages = self.backbone(images)
        logits, decoded = self.decode_head(stages)
        aux = None
        if self.training and self.auxiliary_head is not None:
            aux, _ = self.auxiliary_head(stages)
        return SegOutput(logits, aux, {**stages, "decode": decoded})

    def losses(self, output: SegOutput, target: Tensor) -> dict[str, Tensor]:
        """Returns ``loss_ce`` and, with an auxiliary head, ``loss_aux`` times its weight."""
        terms = super().losses(output, target)
        if output.aux is not None:
            terms["loss_aux"] = self.auxiliary_weight * self.pixel_loss(output.aux, target)
        return terms


@META_ARCH_REGISTRY.register()
def BPKDSemanticSegmentor(cfg: CfgNode) -> SemanticSegmentor:
    """Builds `SemanticSegmentor`, whose own name is Detectron2's in the registry."""
    return SemanticSegmentor(cfg)


def _auxiliary_from_config(cfg: CfgNode, shapes: dict[str, Any]) -> FCNHead | None:
    node, head = cfg.MODEL.AUX_HEAD, cfg.MODEL.SEM_SEG_HEAD
    if node.LOSS_WEIGHT == 0:
        return None
    stage = pick_stage(node.IN_FEATURE, shapes, "MODEL.AUX_HEAD.IN_FEATURE")
    return FCNHead(
        in_features=[stage],
        in_channels=[shapes[stage].channels],
        channels=node.CHANNELS,
        num_classes=head.NUM_CLASSES,
        norm=norm_for_device(head.NORM, cfg.MODEL.DEVICE),
        dropout=head.DROPOUT,
        align_corners=head.ALIGN_CORNERS,
    )


def _known(registry: Any, name: str, key: str) -> None:
    if name not in registry:
        names = ", ".join(sorted(known for known, _ in registry))
        raise ValueError(
            f"{key}: expected one of {names}, got {name!r}. Name the module that registers a "
            "class of your own in IMPORTS."
        )

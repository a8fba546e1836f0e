"""InstanceDistiller: a SOLOv2 student that learns from a SOLOv2 teacher, level by level."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from bpkd.modeling.build import build_student
from bpkd.modeling.build_distiller import distiller_of_config, method_names
from bpkd.modeling.distillation import current_iteration
from bpkd.structures import SOLOv2Outputs

from .meta import SOLOv2
from .teacher import FrozenSOLOv2, build_instance_teacher
from .terms import InstanceOptions, InstanceTerms

logger = logging.getLogger(__name__)

NO_FEATURES = "SOLOv2 is compared level by level, by KD, CWD (TAP logits) and BPKD"


@META_ARCH_REGISTRY.register()
class InstanceDistiller(nn.Module):
    """In training the student's losses plus the distillation terms; in evaluation the student.

    Attributes:
        student: the network that is trained, tested and saved.
        distiller: the distillation terms, None when the student trains alone.
        task_terms: the student's own losses that distillation terms are measured against.
        gradient_probe: called with (losses, the student's raw maps) in every training forward if set.
    """

    task_terms = ("loss_category", "loss_mask")

    @configurable
    def __init__(
        self, *, student: SOLOv2, teacher: FrozenSOLOv2 | None = None, distiller: InstanceTerms | None = None
    ) -> None:
        """Joins the parts.

        Raises:
            ValueError: only one of teacher and distiller is given.
        """
        super().__init__()
        if (teacher is None) != (distiller is None):
            raise ValueError("InstanceDistiller: expected a teacher and a distiller, or neither, got one.")
        self.student, self.distiller = student, distiller
        self._teacher = teacher  # a plain object: neither parameters() nor state_dict() sees it
        self.gradient_probe: Callable[[dict[str, Tensor], Sequence[Tensor]], None] | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds student, teacher and distiller; DISTILL.METHOD "none" leaves the last two out.

        Raises:
            TypeError: DISTILL.STUDENT is no SOLOv2.
        """
        names = method_names(cfg)
        student = build_student(cfg)
        if not isinstance(student, SOLOv2):
            raise TypeError(f"DISTILL.STUDENT: expected SOLOv2 for InstanceDistiller, got {cfg.DISTILL.STUDENT!r}.")
        if not names:
            return {"student": student}
        teacher = build_instance_teacher(cfg, student)
        return {"student": student, "teacher": teacher, "distiller": build_instance_terms(cfg, student, teacher)}

    @property
    def teacher_precision(self) -> str:
        """What the teacher computes in: "off" (float32), "bf16" or "fp16"; empty without a teacher."""
        return "" if self._teacher is None else self._teacher.amp

    def forward(self, batch: Sequence[dict[str, Any]]) -> Any:
        """Returns the dict of losses in training, else what the student returns."""
        if not self.training:
            return self.student(batch)
        images = self.student.preprocess(batch)
        targets = self.student.targets(batch, images)
        outputs = self.student.raw_outputs(images.tensor)
        losses = self.student.losses(outputs, targets)
        if self.distiller is not None and self._teacher is not None:
            answer, assigned = self._teacher(batch, images, targets)
            terms, levels = self.distiller(
                outputs, answer, targets=targets, teacher_targets=assigned, iteration=current_iteration()
            )
            losses.update(terms)
            log_levels(levels)
        if self.gradient_probe is not None:
            self.gradient_probe(losses, raw_maps(outputs))
        return losses


def raw_maps(outputs: SOLOv2Outputs) -> list[Tensor]:
    """Returns the maps at which the gradients of the terms are measured."""
    return [*outputs.category_logits, *outputs.kernels, outputs.mask_features, *outputs.mask_towers]


def log_levels(values: dict[str, Tensor]) -> None:
    """Writes each term's value at every level, ``kd_<term>_level<i>``, where a training loop is running.

    The main process's own values: the losses themselves are means over the processes.
    """
    if not has_event_storage() or not values:
        return
    names = [f"kd_{term}_level{i}" for term, levels in values.items() for i in range(len(levels))]
    numbers = torch.cat(list(values.values())).tolist()  # one wait for the device
    get_event_storage().put_scalars(**dict(zip(names, numbers, strict=True)))


def build_instance_terms(cfg: CfgNode, student: SOLOv2, teacher: FrozenSOLOv2) -> InstanceTerms:
    """Builds what DISTILL.METHOD names, once for the category logits and once for the masks.

    Raises:
        ValueError: a method compares features, or the networks do not fit (see `InstanceTerms`).
    """
    node = cfg.DISTILL.INSTANCE
    options = InstanceOptions(
        category_weight=node.CATEGORY_WEIGHT,
        mask_weight=node.MASK_WEIGHT,
        category_edges=node.CATEGORY_EDGES,
        per_class=node.PER_CLASS,
        divergence=node.DIVERGENCE,
        mask_term=node.MASK_TERM,
        match=node.MATCH,
        max_pairs=node.MAX_PAIRS,
        box_region=node.BOX_REGION,
    )
    both = (student, teacher.model)
    channels = [one.ins_head.kernel_channels for one in both]
    if options.mask_term == "mask_towers":
        channels = [cast(Tensor, one.mask_head.conv_pred[0].weight).shape[1] for one in both]
    reason = {"features_unavailable_reason": NO_FEATURES}
    terms = InstanceTerms(
        category=distiller_of_config(cfg, num_classes=student.num_classes, **reason),
        mask=distiller_of_config(cfg, num_classes=2, **reason),
        options=options,
        channels=(channels[0], channels[1]),
    )
    return terms.to(student.device)

"""InstanceDistiller: meta-architecture that trains a SOLOv2 with a frozen SOLOv2 as its teacher."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from bpkd.modeling.build import build_solov2
from bpkd.modeling.build_distiller import distiller_of_config
from bpkd.modeling.teachers.base import Pending
from bpkd.modeling.wrapper import DistillationWrapper, current_iteration
from bpkd.structures import GridTargets, SOLOv2Outputs

from .distillation_terms import InstanceOptions, InstanceTerms
from .meta import SOLOv2
from .teacher import FrozenSOLOv2, build_instance_teacher

logger = logging.getLogger(__name__)

NO_FEATURES = "SOLOv2 is compared level by level, by KD, CWD (TAP logits) and BPKD"


@META_ARCH_REGISTRY.register()
class InstanceDistiller(DistillationWrapper):
    """Meta-architecture that trains a SOLOv2 with a frozen SOLOv2 as its teacher, level by level."""

    student: SOLOv2
    task_terms = ("loss_category", "loss_mask")

    @classmethod
    def build_student(cls, cfg: CfgNode) -> SOLOv2:
        """Builds the SOLOv2 that a config trains."""
        return build_solov2(cfg)

    @classmethod
    def build_teacher(cls, cfg: CfgNode, student: SOLOv2) -> FrozenSOLOv2:
        """Builds the teacher of TEACHER."""
        return build_instance_teacher(cfg, student)

    @classmethod
    def build_distiller(cls, cfg: CfgNode, student: SOLOv2, teacher: FrozenSOLOv2) -> InstanceTerms:
        """Builds the distillers of DISTILL.METHOD, see `build_instance_terms`."""
        return build_instance_terms(cfg, student, teacher)

    def preprocess(self, batch: Sequence[dict[str, Any]]) -> tuple[ImageList, GridTargets]:
        """Returns the padded images and the assignment of their instances to cells."""
        images = self.student.preprocess(batch)
        return images, self.student.targets(batch, images)

    def submit(
        self, batch: Sequence[dict[str, Any]], images: ImageList, target: GridTargets
    ) -> Pending[tuple[SOLOv2Outputs, GridTargets]]:
        """Runs the teacher."""
        return self._teacher.submit(batch, images, target)

    def predict(self, images: ImageList) -> SOLOv2Outputs:
        """Returns the raw outputs of the student's heads."""
        return self.student.raw_outputs(images.tensor)

    def distillation_losses(
        self,
        output: SOLOv2Outputs,
        teacher_output: tuple[SOLOv2Outputs, GridTargets],
        batch: Sequence[dict[str, Any]],
        target: GridTargets,
    ) -> dict[str, Tensor]:
        """Returns the distillation loss terms, means over the levels, and logs their values per level."""
        assert self.distiller is not None
        outputs, assigned = teacher_output
        terms, levels = self.distiller(
            output, outputs, targets=target, teacher_targets=assigned, iteration=current_iteration()
        )
        log_levels(levels)
        return terms

    def probed_maps(self, output: SOLOv2Outputs) -> list[Tensor]:
        """Returns all raw maps, at which the gradients of the loss terms are measured."""
        return raw_maps(output)


def raw_maps(outputs: SOLOv2Outputs) -> list[Tensor]:
    """Returns the maps at which the gradients of the loss terms are measured."""
    return [*outputs.category_logits, *outputs.kernels, outputs.mask_features, *outputs.mask_towers]


def log_levels(values: dict[str, Tensor]) -> None:
    """Logs each term's value at every level as ``kd_<term>_level<i>``, if a training loop is running.

    The values are those of the main process only; the logged losses are means over the processes.
    """
    if not has_event_storage() or not values:
        return
    names = [f"kd_{term}_level{i}" for term, levels in values.items() for i in range(len(levels))]
    numbers = torch.cat(list(values.values())).tolist()  # one wait for the device
    get_event_storage().put_scalars(**dict(zip(names, numbers, strict=True)))


def build_instance_terms(cfg: CfgNode, student: SOLOv2, teacher: FrozenSOLOv2) -> InstanceTerms:
    """Builds the distillers of DISTILL.METHOD, one for the category logits and one for the masks.

    Raises:
        ValueError: a method compares features, or student and teacher do not fit (see `InstanceTerms`).
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

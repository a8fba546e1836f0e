"""SemanticDistiller: meta-architecture that trains a network for semantic segmentation with a frozen teacher."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from bpkd.distillers import DistillationModule
from bpkd.modeling.base import DenseModel
from bpkd.modeling.build import build_dense
from bpkd.modeling.build_distiller import build_distiller, with_edges
from bpkd.modeling.teachers.base import Pending
from bpkd.modeling.teachers.build import build_teachers
from bpkd.modeling.teachers.combined import Teachers
from bpkd.modeling.wrapper import DistillationWrapper, current_iteration
from bpkd.structures import SegOutput


@META_ARCH_REGISTRY.register()
class SemanticDistiller(DistillationWrapper):
    """Meta-architecture that trains a network for semantic segmentation with one or several frozen teachers."""

    student: DenseModel
    task_terms = ("loss_ce",)

    @classmethod
    def build_student(cls, cfg: CfgNode) -> DenseModel:
        """Builds the dense network that a config trains."""
        return build_dense(cfg)

    @classmethod
    def build_teacher(cls, cfg: CfgNode, student: DenseModel) -> Teachers:
        """Builds the teachers of TEACHER."""
        return build_teachers(cfg)

    @classmethod
    def build_distiller(cls, cfg: CfgNode, student: DenseModel, teacher: Teachers) -> DistillationModule:
        """Builds the distillers of DISTILL.METHOD, see `build_distiller`."""
        return build_distiller(cfg, student, teacher)

    def preprocess(self, batch: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """Returns the images [N, 3, H, W] and the labels [N, H, W]."""
        images, target = self.student.preprocess(batch)
        assert target is not None  # in training preprocess returns it or raises
        return images, target

    def submit(self, batch: Sequence[dict[str, Any]], images: Tensor, target: Tensor) -> Pending[Any]:
        """Starts the teachers' forward pass."""
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return self._teacher.submit(batch, size, images.device, taps=self._taps)

    def predict(self, images: Tensor) -> SegOutput:
        """Returns the student's scores and features."""
        return self.student.scores(images)

    def distillation_losses(
        self, output: SegOutput, teacher_output: Any, batch: Sequence[dict[str, Any]], target: Tensor
    ) -> dict[str, Tensor]:
        """Returns the distillation loss terms."""
        assert self.distiller is not None
        terms: dict[str, Tensor] = self.distiller(
            output, teacher_output, with_edges(batch, target), current_iteration()
        )
        return terms

    def probed_maps(self, output: SegOutput) -> Tensor:
        """Returns the logits, at which the gradients of the loss terms are measured."""
        return output.logits

    @functools.cached_property
    def _taps(self) -> frozenset[str] | None:
        return self.distiller.compared_features() if self.distiller is not None else frozenset()

    def compared_sizes(self, crop: tuple[int, int], *, count: int) -> set[tuple[int, int]]:
        """Returns the sizes (h, w) at which logits are compared, which are those of the teachers' logits.

        Args:
            crop: (height, width) that training images are padded to.
            count: Batch size.
        """
        return set() if self._teacher is None else self._teacher.logits_sizes(crop, self.student.device, count=count)

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
    """Meta-architecture that trains a network for semantic segmentation with a frozen teacher, or with several."""

    student: DenseModel
    task_terms = ("loss_ce",)

    @classmethod
    def build_student(cls, cfg: CfgNode) -> DenseModel:
        """Builds the dense network that a config trains."""
        return build_dense(cfg)

    @classmethod
    def build_teacher(cls, cfg: CfgNode, student: DenseModel) -> Teachers:
        """Builds the teachers that TEACHER names."""
        return build_teachers(cfg)

    @classmethod
    def build_distiller(cls, cfg: CfgNode, student: DenseModel, teacher: Teachers) -> DistillationModule:
        """Builds what DISTILL.METHOD names, see `build_distiller`."""
        return build_distiller(cfg, student, teacher)

    def preprocess(self, batch: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """Returns the images [N, 3, H, W] and the labels [N, H, W]."""
        images, target = self.student.preprocess(batch)
        assert target is not None  # in training it is there or preprocess has raised
        return images, target

    def submit(self, batch: Sequence[dict[str, Any]], images: Tensor, target: Tensor) -> Pending[Any]:
        """Starts the teachers."""
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return self._teacher.submit(batch, size, images.device, taps=self._taps)

    def predict(self, images: Tensor) -> SegOutput:
        """Returns the student's scores and features."""
        return self.student.scores(images)

    def distillation_losses(
        self, output: SegOutput, teacher_output: Any, batch: Sequence[dict[str, Any]], target: Tensor
    ) -> dict[str, Tensor]:
        """Returns the distiller's terms."""
        assert self.distiller is not None
        terms: dict[str, Tensor] = self.distiller(
            output, teacher_output, with_edges(batch, target), current_iteration()
        )
        return terms

    def probed_maps(self, output: SegOutput) -> Tensor:
        """Returns the logits."""
        return output.logits

    @functools.cached_property
    def _taps(self) -> frozenset[str] | None:
        return self.distiller.compared_features() if self.distiller is not None else frozenset()

    def compared_sizes(self, crop: tuple[int, int], *, count: int) -> set[tuple[int, int]]:
        """Returns the (h, w) at which logits are compared, one for all teachers or several: those of the teachers.

        Args:
            crop: (height, width) that training images are padded to.
            count: Images of a batch.
        """
        return set() if self._teacher is None else self._teacher.logits_sizes(crop, self.student.device, count=count)

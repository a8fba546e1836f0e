"""SemanticDistiller: the coat that a student wears while it learns from a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from bpkd.modeling.base import DenseModel
from bpkd.modeling.build import build_dense
from bpkd.modeling.build_distiller import build_distiller, compared_features, method_names, with_edges
from bpkd.modeling.teachers.combined import Teachers, build_teachers, logits_sizes


@META_ARCH_REGISTRY.register()
class SemanticDistiller(nn.Module):
    """In training the student's losses plus the distiller's; in evaluation the student.

    Attributes:
        student: the network that is trained, tested and saved.
        distiller: module with the distillation terms, None when the student trains alone.
        task_terms: the student's own losses that distillation terms are measured against.
        gradient_probe: called with (losses, student logits) in every training forward if set.
    """

    task_terms = ("loss_ce",)

    @configurable
    def __init__(
        self,
        *,
        student: DenseModel,
        teacher: Teachers | None = None,
        distiller: nn.Module | None = None,
    ) -> None:
        """Joins the parts.

        Raises:
            ValueError: only one of teacher and distiller is given.
        """
        super().__init__()
        if (teacher is None) != (distiller is None):
            raise ValueError("SemanticDistiller: expected a teacher and a distiller, or neither, got one.")
        self.student = student
        self.distiller = distiller
        self._taps = compared_features(distiller)
        self._teacher = teacher  # a plain object: neither parameters() nor state_dict() sees it
        self.gradient_probe: Callable[[dict[str, Tensor], Tensor], None] | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds student, teacher and distiller; DISTILL.METHOD "none" leaves the last two out."""
        names = method_names(cfg)
        student = build_dense(cfg)
        if not names:
            return {"student": student}
        teacher = build_teachers(cfg)
        distiller = build_distiller(cfg, student, teacher)
        return {"student": student, "teacher": teacher, "distiller": distiller}

    @property
    def teacher_precision(self) -> str:
        """What the teacher computes in: "off" (float32), "bf16" or "fp16"; "recorded"; empty without a teacher.

        Those of several teachers are joined by "+".
        """
        return "" if self._teacher is None else self._teacher.amp

    def forward(self, batch: Sequence[dict[str, Any]]) -> Any:
        """Returns the dict of losses in training, else what the student returns."""
        if not self.training:
            return self.student(batch)
        images, target = self.student.preprocess(batch)
        assert target is not None  # in training it is there or preprocess has raised
        answer = None
        if self._teacher is not None:
            # First, while the student holds nothing: its activations are not yet in memory, or it runs beside them.
            size = (int(images.shape[-2]), int(images.shape[-1]))
            answer = self._teacher.ask(batch, size, images.device, taps=self._taps)
        output = self.student.scores(images)
        losses = self.student.losses(output, target)
        if self.distiller is not None and answer is not None:
            losses.update(self.distiller(output, answer(), with_edges(batch, target), current_iteration()))
        if self.gradient_probe is not None:
            self.gradient_probe(losses, output.logits)
        return losses

    def compared_sizes(self, crop: tuple[int, int], *, count: int) -> set[tuple[int, int]]:
        """Returns the (h, w) at which logits are compared, one for all teachers or several: those of the teachers.

        Args:
            crop: (height, width) that training images are padded to.
            count: images of a batch.
        """
        return set() if self._teacher is None else logits_sizes(self._teacher, crop, self.student.device, count=count)


def current_iteration() -> int:
    """Returns the training loop's iteration, 0 outside of one."""
    return get_event_storage().iter if has_event_storage() else 0

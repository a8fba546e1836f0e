"""DistillationWrapper: base class of both tasks' meta-architectures of a student with a frozen teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from bpkd.distillers import DistillationModule
from bpkd.modeling.build_distiller import method_names


class DistillationWrapper(nn.Module):
    """Returns the losses of student and distiller in training, and the student's predictions in evaluation.

    A subclass names the task's losses and implements how the parts are built and run.

    Attributes:
        student: The network that is trained, tested and saved.
        distiller: Module of the distillation loss terms; None: the student is trained without a teacher.
        task_terms: Names of the task losses that the gradients of distillation terms are compared with.
        gradient_probe: Function called with (losses, maps of `probed_maps`) in every training forward pass, or None.
    """

    task_terms: tuple[str, ...] = ()

    @configurable
    def __init__(self, *, student: nn.Module, teacher: Any = None, distiller: DistillationModule | None = None) -> None:
        """Joins the parts.

        Args:
            student: The network to train.
            teacher: Plain object with ``submit`` and ``amp``; None: the student is trained without a teacher.
            distiller: Module of the distillation loss terms; None if ``teacher`` is None.

        Raises:
            ValueError: only one of teacher and distiller is given.
            TypeError: the distiller is not a `DistillationModule`.
        """
        super().__init__()
        if (teacher is None) != (distiller is None):
            raise ValueError(f"{type(self).__name__}: expected a teacher and a distiller, or neither, got one.")
        if distiller is not None and not isinstance(distiller, DistillationModule):
            raise TypeError(
                f"distiller: expected a subclass of bpkd.distillers.Distiller, got {type(distiller).__name__}."
            )
        self.student: Any = student
        self.distiller = distiller
        self._teacher = teacher  # a plain object: neither parameters() nor state_dict() sees it
        self.gradient_probe: Callable[[dict[str, Tensor], Any], None] | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds student, teacher and distiller; DISTILL.METHOD "none": the student only."""
        names = method_names(cfg)
        student = cls.build_student(cfg)
        if not names:
            return {"student": student}
        teacher = cls.build_teacher(cfg, student)
        return {"student": student, "teacher": teacher, "distiller": cls.build_distiller(cfg, student, teacher)}

    @classmethod
    def build_student(cls, cfg: CfgNode) -> Any:
        """Builds the network that a config trains."""
        raise NotImplementedError

    @classmethod
    def build_teacher(cls, cfg: CfgNode, student: Any) -> Any:
        """Builds the teacher of a student."""
        raise NotImplementedError

    @classmethod
    def build_distiller(cls, cfg: CfgNode, student: Any, teacher: Any) -> DistillationModule:
        """Builds the distillers of DISTILL.METHOD."""
        raise NotImplementedError

    @property
    def teacher_precision(self) -> str:
        """The teacher's autocast type: "off" (float32), "bf16" or "fp16"; "recorded" for a cache; "" without a teacher.

        The types of several teachers are joined by "+".
        """
        return "" if self._teacher is None else str(self._teacher.amp)

    def forward(self, batch: Sequence[dict[str, Any]]) -> Any:
        """Returns the dict of losses in training, else the student's predictions."""
        if not self.training:
            return self.student(batch)
        images, target = self.preprocess(batch)
        # First, while the student holds no activations; with its own CUDA stream it runs in parallel to the student.
        pending = None if self._teacher is None else self.submit(batch, images, target)
        output = self.predict(images)
        losses = self.student.losses(output, target)
        if pending is not None:
            losses.update(self.distillation_losses(output, pending.result(), batch, target))
        if self.gradient_probe is not None:
            self.gradient_probe(losses, self.probed_maps(output))
        return losses

    def preprocess(self, batch: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
        """Returns the student's images and its targets."""
        raise NotImplementedError

    def submit(self, batch: Sequence[dict[str, Any]], images: Any, target: Any) -> Any:
        """Starts the teacher's forward pass; ``result()`` of the returned object is the output."""
        raise NotImplementedError

    def predict(self, images: Any) -> Any:
        """Returns the student's raw output."""
        raise NotImplementedError

    def distillation_losses(
        self, output: Any, teacher_output: Any, batch: Sequence[dict[str, Any]], target: Any
    ) -> dict[str, Tensor]:
        """Returns the distillation loss terms.

        Args:
            output: Raw output of the student.
            teacher_output: Output of the teacher.
            batch: Items of the data loader.
            target: The student's targets.
        """
        raise NotImplementedError

    def compared_sizes(self, crop: tuple[int, int], *, count: int) -> set[tuple[int, int]]:
        """Returns the sizes (h, w) at which logits are compared, if they are known before the first batch.

        Args:
            crop: (height, width) that training images are padded to.
            count: Batch size.
        """
        return set()

    def probed_maps(self, output: Any) -> Tensor | Sequence[Tensor]:
        """Returns the student's maps at which the gradients of the loss terms are measured."""
        raise NotImplementedError


def current_iteration() -> int:
    """Returns the training loop's iteration, 0 outside of one."""
    return get_event_storage().iter if has_event_storage() else 0

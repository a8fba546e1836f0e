"""SemanticDistiller: the coat that a student wears while it learns from a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from bpkd.distillers import DISTILLERS, CombinedDistiller, Distiller, LabelledEdges, PerTeacher, Target
from bpkd.functional import SparseEdgeMask
from bpkd.modeling.base import DenseModel
from bpkd.modeling.build import build_dense
from bpkd.modeling.preprocessing import file_names
from bpkd.modeling.teachers.combined import OneTeacher, TeacherPanel, Teachers, build_teachers, logits_sizes


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


def with_edges(batch: Sequence[dict[str, Any]], labels: Tensor) -> Target:
    """Returns the batch's labels with the edges that its loader has found, or alone where it has looked for none.

    Raises:
        ValueError: only some of the samples have edges.
    """
    rows = [item["edge_rows"] for item in batch if "edge_rows" in item]
    if not rows:
        return labels
    if len(rows) < len(batch):
        names = [n for item, n in zip(batch, file_names(batch), strict=True) if "edge_rows" not in item]
        raise ValueError(f"edge_rows: expected of every sample or of none, got none of {', '.join(names)}.")
    return LabelledEdges(labels, SparseEdgeMask.cat(rows))


def compared_features(distiller: nn.Module | None) -> frozenset[str] | None:
    """Returns the names that a distiller and those inside it compare; None where one of them does not declare them."""
    joins = (CombinedDistiller, PerTeacher)
    parts = [] if distiller is None else [m for m in distiller.modules() if isinstance(m, Distiller)]
    taps = [part.taps for part in parts if not isinstance(part, joins)]
    return frozenset(tap for names in taps for tap in names.values()) if all(taps) else None


def check_method(method: str) -> list[str]:
    """Returns the distillers that a method is made of, "CWD+IFVD" or a single name; none for "none".

    Raises:
        ValueError: a name is unknown or stands there twice.
    """
    names = [] if method == "none" else method.split("+")
    unknown = [name for name in names if name not in DISTILLERS]
    if unknown:
        known = ", ".join(["none", *DISTILLERS])
        raise ValueError(f"DISTILL.METHOD: expected one of {known}, or several joined by +, got {unknown[0]!r}.")
    if len(set(names)) != len(names):
        raise ValueError(f"DISTILL.METHOD: expected each distiller once, got {method!r}.")
    return names


def method_names(cfg: CfgNode) -> list[str]:
    """Returns the distillers of DISTILL.METHOD in their order.

    Raises:
        ValueError: see `check_method`, or DISTILL.WEIGHTS is not one positive number per name.
    """
    names, weights = check_method(cfg.DISTILL.METHOD), list(cfg.DISTILL.WEIGHTS)
    wrong = [w for w in weights if isinstance(w, bool) or not isinstance(w, int | float) or not 0 < w < float("inf")]
    if wrong or len(weights) not in (0, len(names)):
        raise ValueError(
            f"DISTILL.WEIGHTS: expected nothing, or one number above 0 per name of DISTILL.METHOD "
            f"({cfg.DISTILL.METHOD!r}: {len(names)}), got {weights}. A method that you do not want is not named."
        )
    return names


def build_distiller(cfg: CfgNode, student: DenseModel, teacher: Teachers) -> nn.Module:
    """Builds what DISTILL.METHOD names from its nodes and from what the networks say about themselves.

    Raises:
        ValueError: it compares a feature that a network lacks (as far as that is known before the first image).
    """
    if isinstance(teacher, TeacherPanel):
        return PerTeacher([_distiller(cfg, student, one) for one in teacher.teachers], teacher.shares)
    return _distiller(cfg, student, teacher)


def _distiller(cfg: CfgNode, student: DenseModel, teacher: OneTeacher) -> Distiller:
    missing = [name for name in method_names(cfg) if name not in cfg.DISTILL]
    if missing:
        raise ValueError(
            f"DISTILL.METHOD: expected a node DISTILL.{missing[0]} with the distiller's keyword arguments, got none. "
            "Add it in bpkd/config/distillation.py."
        )
    parts = {n: _one_distiller(cfg.DISTILL[n], n, student=student, teacher=teacher) for n in method_names(cfg)}
    if len(parts) == 1 and not cfg.DISTILL.WEIGHTS:
        return next(iter(parts.values()))
    return CombinedDistiller(parts, cfg.DISTILL.WEIGHTS)


def _one_distiller(node: CfgNode, name: str, *, student: DenseModel, teacher: OneTeacher) -> Distiller:
    distiller = DISTILLERS[name](
        **{key.lower(): value for key, value in node.items()},
        num_classes=student.num_classes,
        ignore_index=student.ignore_index,
        student_channels=student.feature_channels(),
        teacher_channels=teacher.feature_channels(),
        no_features=teacher.no_features,
    )
    for term, tap in distiller.taps.items():
        if tap == "logits":
            continue
        if teacher.no_features:
            raise ValueError(f"DISTILL.{name}, term {term!r} compares the feature {tap!r}, but {teacher.no_features}.")
        for role, known in (("student", student.feature_channels()), ("teacher", teacher.feature_channels())):
            if known and tap not in known:
                raise ValueError(
                    f"DISTILL.{name}, term {term!r}: expected a tap that the {role} has, logits or one of "
                    f"{', '.join(known)}, got {tap!r}."
                )
    return distiller


def current_iteration() -> int:
    """Returns the training loop's iteration, 0 outside of one."""
    return get_event_storage().iter if has_event_storage() else 0

"""What every distiller is: a module that turns two outputs into named, weighted loss terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bpkd.functional import EdgeRule, SparseEdgeMask
from bpkd.structures import EdgeMaps, SegOutput

from .adapters import match_size


@dataclass(frozen=True)
class LabelledEdges:
    """Labels whose edges have been found already, in the data loader."""

    labels: Tensor
    """[N, H, W]."""

    rows: SparseEdgeMask
    """Of their masks [N, K, h, w] at the size of the logits, by the distiller's ``edge_rule``."""


Target = Tensor | LabelledEdges | EdgeMaps
"""What a distiller is told about the truth: labels [N, H, W], with or without their edges, or edge maps alone."""


class Distiller(nn.Module):
    """Base of all distillers.

    A subclass takes its own keyword arguments (the keys of its config node, in lower case) plus ``**common`` for this
    class, sets ``taps`` and implements ``terms``. A term whose weight is 0 is in neither.

    Attributes:
        taps: the map that each term compares ("logits" or a feature name) by the term's name, so that a missing map
            or term is an error and not a silent nothing. Empty: not declared, not checked.
        edge_window: (kernel size, passes) of the edge maps that the distiller reads; None: it reads none.
        edge_rule: how it finds the edges of label maps; None: it looks for none.
        own_terms: names of terms that train the distiller's own parts alone and give the student no gradient (a
            critic's side of the game).
    """

    own_terms: frozenset[str] = frozenset()
    edge_window: tuple[int, int] | None = None
    edge_rule: EdgeRule | None = None

    def __init__(
        self,
        *,
        num_classes: int = 0,
        ignore_index: int = 255,
        student_channels: Mapping[str, int] | None = None,
        teacher_channels: Mapping[str, int] | None = None,
        no_features: str = "",
    ) -> None:
        """Takes what the networks tell about themselves.

        Args:
            num_classes: K.
            ignore_index: label that means "ignore".
            student_channels: channels per feature name, for aligners.
            teacher_channels: the same for the teacher.
            no_features: why the teacher gives no features, for messages; empty: it gives some.
        """
        super().__init__()
        self.taps: dict[str, str] = {}
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.student_channels = dict(student_channels or {})
        self.teacher_channels = dict(teacher_channels or {})
        self._no_features = no_features

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int = 0) -> dict[str, Tensor]:
        """Computes the loss terms.

        Args:
            student: the student's output.
            teacher: the teacher's, over the same classes; it gets no gradient.
            target: [N, H, W] labels, the same with their edges, or edge maps; edges at the size of the logits.
            iteration: of the training run, for ramps.

        Returns:
            ``{"loss_kd_<term>": scalar}``, weights applied.

        Raises:
            ValueError: class counts differ, or no term is switched on.
            KeyError: a network lacks a map that is compared.
            RuntimeError: a declared term was not delivered.
        """
        if student.logits.shape[1] != teacher.logits.shape[1]:
            raise ValueError(
                f"expected one class list, got {student.logits.shape[1]} student and {teacher.logits.shape[1]} "
                "teacher classes. Say how they correspond with TEACHER.CLASS_MAP."
            )
        terms = self.terms(student, teacher, target, iteration)
        if not terms:
            raise ValueError(f"{type(self).__name__}: all weights are 0. Give one, or set DISTILL.METHOD none.")
        absent = sorted(self.taps.keys() - terms.keys())
        if absent:
            raise RuntimeError(f"{type(self).__name__}: terms() did not return {', '.join(absent)}, which taps names.")
        return {f"loss_kd_{name}": term for name, term in terms.items()}

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns the method's own terms, weights applied; names without prefix."""
        raise NotImplementedError(f"{type(self).__name__} must implement terms().")

    def labels(self, target: Target) -> Tensor:
        """Returns the target's labels [N, H, W].

        Raises:
            ValueError: there are edge maps instead.
        """
        if isinstance(target, EdgeMaps):
            raise ValueError(
                f"{type(self).__name__}: expected labels of every pixel, got edge maps. It compares pixels by their "
                "class; for instances take KD, CWD or BPKD."
            )
        return target.labels if isinstance(target, LabelledEdges) else target

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns an optimizer of their own for parts that do not share the student's.

        Returns:
            ``{prefix of parameter names: {"optimizer": "adam" or "sgd", "lr": ..., "min_lr": ..., keywords of the
            optimizer}}``; parameters under no prefix are trained as the student is.
        """
        return {}

    def channels(self, tap: str, advice: str = "Name another TAP.") -> tuple[int, int]:
        """Returns the student's and the teacher's channels of a feature.

        Args:
            tap: the feature.
            advice: end of the message.

        Raises:
            ValueError: one of them is unknown; the message names those that are known.
        """
        if tap not in self.student_channels or tap not in self.teacher_channels:
            teacher = self._no_features or f"teacher has {sorted(self.teacher_channels)}"
            raise ValueError(
                f"{type(self).__name__}, tap {tap!r}: expected a feature of both networks, got: student has "
                f"{sorted(self.student_channels)}, {teacher}. {advice}"
            )
        return self.student_channels[tap], self.teacher_channels[tap]

    @staticmethod
    def pair(student: SegOutput, teacher: SegOutput, tap: str) -> tuple[Tensor, Tensor]:
        """Returns student and teacher map of one tap ("logits" or a feature name), at the teacher's size.

        Raises:
            KeyError: a network has no such map; the message names those it has.
        """
        maps = []
        for role, output in (("student", student), ("teacher", teacher)):
            found = output.logits if tap == "logits" else output.features.get(tap)
            if found is None:
                names = ", ".join(["logits", *output.features])
                raise KeyError(f"tap {tap!r}: the {role} gives only {names}.")
            maps.append(found)
        return match_size(maps[0], maps[1]), maps[1].detach()


def with_preset(presets: Mapping[str, Mapping[str, Any]], preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``given`` with the values that were left open (-1 or "") taken from a preset.

    Raises:
        ValueError: the preset is unknown.
    """
    if preset not in presets:
        raise ValueError(f"preset (DISTILL.<METHOD>.PRESET): expected one of {sorted(presets)}, got {preset!r}.")
    return {k: presets[preset][k] if v in (-1, "") else v for k, v in given.items()}

"""Several teachers: as one by the mean of their probabilities, or side by side for one distiller each."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bpkd.functional import mean_probabilities
from bpkd.structures import SegOutput

from .base import Batch, Pending, Size, Taps, Teacher
from .cached import CachedTeacher
from .frozen import FrozenTeacher


class MeanTeacher(Teacher[SegOutput]):
    """Teachers as one: the weighted mean of their class probabilities, at the first one's logits size.

    It gives logits alone: features of different networks have no common axes.
    """

    features_unavailable_reason = (
        "the mean of several teachers' probabilities has none (TEACHER.COMBINE losses keeps each teacher's own)"
    )

    def __init__(self, teachers: Sequence[FrozenTeacher], shares: Sequence[float]) -> None:
        """Joins teachers over the same classes; ``shares`` are positive and of sum 1."""
        self.teachers, self.shares = list(teachers), list(shares)
        self.amp = "+".join(teacher.amp for teacher in teachers)

    def submit(self, batch: Batch, size: Size, device: torch.device, *, taps: Taps = None) -> Pending[SegOutput]:
        """Starts all teachers, see `Teacher.submit`; ``taps`` can name nothing."""
        pending = [teacher.submit(batch, size, device, taps=frozenset()) for teacher in self.teachers]
        return Pending(lambda: SegOutput(mean_probabilities([one.result().logits for one in pending], self.shares)))


class TeacherPanel(Teacher[list[SegOutput]]):
    """Teachers with an output each, for `bpkd.distillers.PerTeacher`."""

    def __init__(self, teachers: Sequence[FrozenTeacher], shares: Sequence[float]) -> None:
        """Joins teachers over the same classes; ``shares`` are positive and of sum 1."""
        self.teachers, self.shares = list(teachers), list(shares)
        self.amp = "+".join(teacher.amp for teacher in teachers)

    def submit(self, batch: Batch, size: Size, device: torch.device, *, taps: Taps = None) -> Pending[list[SegOutput]]:
        """Starts all teachers, see `Teacher.submit`."""
        pending = [teacher.submit(batch, size, device, taps=taps) for teacher in self.teachers]
        return Pending(lambda: [one.result() for one in pending])


OneTeacher = FrozenTeacher | MeanTeacher | CachedTeacher
Teachers = OneTeacher | TeacherPanel


def combine(teachers: Sequence[FrozenTeacher], shares: Sequence[float], how: str) -> Teachers:
    """Joins several teachers; a single one stays as it is.

    Args:
        teachers: Teachers over the same classes.
        shares: Weight of each, positive and of sum 1.
        how: TEACHER.COMBINE, "probabilities" or "losses".

    Raises:
        ValueError: ``how`` is unknown.
    """
    if len(teachers) == 1:
        return teachers[0]
    joins: dict[str, type[MeanTeacher] | type[TeacherPanel]] = {"probabilities": MeanTeacher, "losses": TeacherPanel}
    if how not in joins:
        raise ValueError(f"TEACHER.COMBINE: expected one of {', '.join(joins)}, got {how!r}.")
    return joins[how](teachers, shares)

"""Several teachers: combined by the mean of their probabilities, or separate with one distiller each."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bpkd.functional import mean_probabilities
from bpkd.structures import SegOutput

from .base import Batch, Pending, Size, Taps, Teacher
from .cached import CachedTeacher
from .frozen import FrozenTeacher


class MeanTeacher(Teacher[SegOutput]):
    """Teacher whose output is the weighted mean of several teachers' class probabilities, at the first one's size.

    It returns logits only: the features of different networks cannot be averaged.
    """

    features_unavailable_reason = (
        "the mean of several teachers' probabilities has none (TEACHER.COMBINE losses keeps each teacher's own)"
    )

    def __init__(self, teachers: Sequence[FrozenTeacher], shares: Sequence[float]) -> None:
        """Combines teachers with the same classes; ``shares`` are their weights, positive with sum 1."""
        self.teachers, self.shares = list(teachers), list(shares)
        self.amp = "+".join(teacher.amp for teacher in teachers)

    def submit(self, batch: Batch, size: Size, device: torch.device, *, taps: Taps = None) -> Pending[SegOutput]:
        """Starts all teachers, see `Teacher.submit`; ``taps`` has no effect."""
        pending = [teacher.submit(batch, size, device, taps=frozenset()) for teacher in self.teachers]
        return Pending(lambda: SegOutput(mean_probabilities([one.result().logits for one in pending], self.shares)))


class TeacherPanel(Teacher[list[SegOutput]]):
    """Several teachers that return one output each, for `bpkd.distillers.PerTeacher`."""

    def __init__(self, teachers: Sequence[FrozenTeacher], shares: Sequence[float]) -> None:
        """Combines teachers with the same classes; ``shares`` are their weights, positive with sum 1."""
        self.teachers, self.shares = list(teachers), list(shares)
        self.amp = "+".join(teacher.amp for teacher in teachers)

    def submit(self, batch: Batch, size: Size, device: torch.device, *, taps: Taps = None) -> Pending[list[SegOutput]]:
        """Starts all teachers, see `Teacher.submit`."""
        pending = [teacher.submit(batch, size, device, taps=taps) for teacher in self.teachers]
        return Pending(lambda: [one.result() for one in pending])


OneTeacher = FrozenTeacher | MeanTeacher | CachedTeacher
Teachers = OneTeacher | TeacherPanel


def combine(teachers: Sequence[FrozenTeacher], shares: Sequence[float], how: str) -> Teachers:
    """Combines several teachers; a single one is returned unchanged.

    Args:
        teachers: Teachers with the same classes.
        shares: Weight of each teacher, positive with sum 1.
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

"""Several teachers: as one by the mean of their probabilities, or side by side for one distiller each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode

from bpkd.config import teacher_nodes, teacher_shares
from bpkd.functional import mean_probabilities
from bpkd.modeling.teachers.cached import CachedTeacher, recorded_for, samples_needed
from bpkd.modeling.teachers.frozen import Answer, FrozenTeacher, Taps, build_teacher
from bpkd.structures import SegOutput


class MeanTeacher:
    """Teachers that answer as one: the weighted mean of their class probabilities, at the first one's logits size.

    Like `FrozenTeacher` a plain object. It gives logits alone: features of different networks have no common axes.
    """

    no_features = (
        "the mean of several teachers' probabilities has none (TEACHER.COMBINE losses keeps each teacher's own)"
    )

    def __init__(self, teachers: Sequence[FrozenTeacher], shares: Sequence[float]) -> None:
        """Joins teachers over the same classes; ``shares`` are positive and of sum 1."""
        self.teachers, self.shares = list(teachers), list(shares)
        self.amp = "+".join(teacher.amp for teacher in teachers)

    def feature_channels(self) -> dict[str, int]:
        """Returns nothing: there are no features."""
        return {}

    def __call__(self, batch: Sequence[dict[str, Any]], size: tuple[int, int], device: torch.device) -> SegOutput:
        """Runs all teachers; the arguments are those of `FrozenTeacher`."""
        return self.ask(batch, size, device)()

    def ask(
        self, batch: Sequence[dict[str, Any]], size: tuple[int, int], device: torch.device, *, taps: Taps = None
    ) -> Answer:
        """Starts all teachers and returns what waits for their answer; ``taps`` can name nothing."""
        waiting = [teacher.ask(batch, size, device, taps=frozenset()) for teacher in self.teachers]
        return lambda: SegOutput(mean_probabilities([answer().logits for answer in waiting], self.shares))


class TeacherPanel:
    """Teachers that answer one by one, for `bpkd.distillers.PerTeacher`."""

    def __init__(self, teachers: Sequence[FrozenTeacher], shares: Sequence[float]) -> None:
        """Joins teachers over the same classes; ``shares`` are positive and of sum 1."""
        self.teachers, self.shares = list(teachers), list(shares)
        self.amp = "+".join(teacher.amp for teacher in teachers)

    def __call__(self, batch: Sequence[dict[str, Any]], size: tuple[int, int], device: torch.device) -> list[SegOutput]:
        """Runs all teachers; the arguments are those of `FrozenTeacher`."""
        return self.ask(batch, size, device)()

    def ask(
        self, batch: Sequence[dict[str, Any]], size: tuple[int, int], device: torch.device, *, taps: Taps = None
    ) -> Callable[[], list[SegOutput]]:
        """Starts all teachers and returns what waits for their answers."""
        waiting = [teacher.ask(batch, size, device, taps=taps) for teacher in self.teachers]
        return lambda: [answer() for answer in waiting]


OneTeacher = FrozenTeacher | MeanTeacher | CachedTeacher
Teachers = OneTeacher | TeacherPanel


def build_teachers(cfg: CfgNode) -> Teachers:
    """Builds every teacher that has a share, joined as TEACHER.COMBINE says; a single one as it is; or TEACHER.CACHE.

    Raises:
        FileNotFoundError: config file or weights of a teacher, or the cache, do not exist.
        ValueError: TEACHER.OTHERS or SHARES is wrong, or a teacher or the cache is not what it should be.
    """
    if cfg.TEACHER.CACHE:
        return CachedTeacher(cfg.TEACHER.CACHE, of=recorded_for(cfg), samples=samples_needed(cfg))
    named = zip(teacher_nodes(cfg).items(), teacher_shares(cfg), strict=True)
    chosen = [(build_teacher(cfg, node, key), share) for (key, node), share in named if share]
    teachers, shares = [teacher for teacher, _ in chosen], [share for _, share in chosen]
    if len(teachers) == 1:
        return teachers[0]
    join: dict[str, type[MeanTeacher] | type[TeacherPanel]] = {"probabilities": MeanTeacher, "losses": TeacherPanel}
    if cfg.TEACHER.COMBINE not in join:
        raise ValueError(f"TEACHER.COMBINE: expected one of {', '.join(join)}, got {cfg.TEACHER.COMBINE!r}.")
    return join[cfg.TEACHER.COMBINE](teachers, shares)


def logits_sizes(teacher: Teachers, crop: tuple[int, int], device: torch.device, *, count: int) -> set[tuple[int, int]]:
    """Returns the (h, w) of every teacher's logits, by asking for a black batch; a recording knows its own.

    Args:
        teacher: one or several.
        crop: (height, width) that training images are padded to.
        device: where the student is.
        count: images of a batch; what is compiled for the first batch should fit the others.
    """
    if isinstance(teacher, CachedTeacher):
        _, height, width = teacher.folder.index["shape"]
        return {(height, width)}
    answers = teacher([{"image": torch.zeros(3, *crop, dtype=torch.uint8)}] * count, crop, device)
    outputs = answers if isinstance(answers, list) else [answers]
    return {(output.logits.shape[2], output.logits.shape[3]) for output in outputs}

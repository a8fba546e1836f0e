"""A distiller at every level of a pyramid: each term is the mean over the levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bpkd.structures import DISTILLATION_PREFIX, EdgeMaps, SegOutput

from .base import DistillationModule, Distiller
from .target import Target


class LevelDistiller(DistillationModule):
    """Applies one distiller to every level and averages its terms.

    >>> import torch
    >>> from bpkd.distillers import KD
    >>> student, same, other = (SegOutput(torch.tensor([[[[a]], [[1.0]]]])) for a in (0.0, 0.0, 2.0))
    >>> distiller = LevelDistiller(KD(), name="category", compares="category logits")
    >>> terms, per_level = distiller([student, student], [same, other], [Target(), Target()], 0)
    >>> {name: round(float(term), 4) for name, term in terms.items()}
    {'loss_kd_category_pixel': 0.2311}
    """

    def __init__(self, distiller: Distiller, *, name: str, compares: str, weight: float = 1.0) -> None:
        """Wraps a distiller.

        Args:
            distiller: distiller that compares logits.
            name: what is compared; its terms are called ``<name>_<term>``.
            compares: the map that is compared, for messages.
            weight: factor on all terms.

        Raises:
            ValueError: the distiller compares features, or has a critic.
        """
        super().__init__()
        features = sorted({tap for tap in distiller.taps.values() if tap != "logits"})
        if features or distiller.critic_terms:
            what = f"the feature {features[0]!r}" if features else "a critic"
            raise ValueError(
                "DISTILL.METHOD: expected distillers of logits alone for the levels of a pyramid, got "
                f"{type(distiller).__name__}, which needs {what}. Use KD, CWD (with TAP logits) or BPKD."
            )
        self.distiller, self.name, self.weight = distiller, name, weight
        self.taps = {f"{name}_{term}": compares for term in distiller.taps}
        self.edge_window = distiller.edge_window

    def distillers(self) -> Sequence[DistillationModule]:
        """Returns the wrapped distiller."""
        return [self.distiller]

    def forward(
        self,
        students: Sequence[SegOutput],
        teachers: Sequence[SegOutput],
        targets: Sequence[Target | EdgeMaps],
        iteration: int,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Computes the terms.

        Args:
            students: the student's output at each level; a level without any map (N = 0) adds an exact zero.
            teachers: the teacher's output at each level.
            targets: what is known at each level.
            iteration: number of the training iteration.

        Returns:
            Terms, means over the levels that have a map (``{"loss_kd_<name>_<term>": scalar}``, an exact zero that
            keeps the graph where no level has one), and ``{"<name>_<term>": [levels]}``, the detached values per
            level, 0 where there is no map.
        """
        found: dict[str, list[Tensor]] = {}
        for student, teacher, target in zip(students, teachers, targets, strict=True):
            for term, value in self.distiller.named_terms(student, teacher, Target.of(target), iteration).items():
                found.setdefault(f"{self.name}_{term}", []).append(self.weight * value)
        count = max(1, sum(len(student.logits) > 0 for student in students))
        values = {term: torch.stack(levels) for term, levels in found.items()}
        means = {f"{DISTILLATION_PREFIX}{term}": value.sum() / count for term, value in values.items()}
        return means, {term: value.detach() for term, value in values.items()}

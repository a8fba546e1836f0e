"""A distiller at every level of a pyramid: each term is the mean over the levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bpkd.structures import EdgeMaps, SegOutput

from .base import Distiller

PREFIX = "loss_kd_"


class LevelDistiller(nn.Module):
    """Asks one distiller once per level and averages its terms.

    Attributes:
        taps: what each term compares, by the term's name, for messages.
        edge_window: the distiller's.
    """

    def __init__(self, distiller: Distiller, *, name: str, compares: str, weight: float = 1.0) -> None:
        """Wraps a distiller.

        Args:
            distiller: of logits.
            name: of what is compared; its terms are called ``<name>_<term>``.
            compares: the map, for messages.
            weight: factor of all terms.

        Raises:
            ValueError: the distiller compares features, or trains parts of its own.
        """
        super().__init__()
        features = sorted({tap for tap in distiller.taps.values() if tap != "logits"})
        if features or distiller.own_terms:
            what = f"the feature {features[0]!r}" if features else "a critic"
            raise ValueError(
                "DISTILL.METHOD: expected distillers of logits alone for the levels of a pyramid, got "
                f"{type(distiller).__name__}, which needs {what}. Use KD, CWD (with TAP logits) or BPKD."
            )
        self.distiller, self.name, self.weight = distiller, name, weight
        self.taps = {f"{name}_{term}": compares for term in distiller.taps}
        self.edge_window = distiller.edge_window

    def forward(
        self, students: Sequence[SegOutput], teachers: Sequence[SegOutput], targets: Sequence[EdgeMaps], iteration: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Computes the terms.

        Args:
            students: one output per level; a level without any map (N = 0) adds an exact zero.
            teachers: the same levels.
            targets: the same levels.
            iteration: of the training run.

        Returns:
            Terms, means over the levels that have a map (``{"loss_kd_<name>_<term>": scalar}``, an exact zero that
            keeps the graph where no level has one), and ``{"<name>_<term>": [levels]}``, the detached values per
            level, 0 where there is no map.
        """
        found: dict[str, list[Tensor]] = {}
        for student, teacher, target in zip(students, teachers, targets, strict=True):
            for key, value in self.distiller(student, teacher, target, iteration).items():
                found.setdefault(f"{self.name}_{key.removeprefix(PREFIX)}", []).append(self.weight * value)
        count = max(1, sum(len(student.logits) > 0 for student in students))
        values = {term: torch.stack(levels) for term, levels in found.items()}
        means = {f"{PREFIX}{term}": value.sum() / count for term, value in values.items()}
        return means, {term: value.detach() for term, value in values.items()}

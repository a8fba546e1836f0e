"""Several distillers as one, and one distiller per teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from bpkd.structures import SegOutput

from .base import Distiller, Target

PREFIX = "loss_kd_"


class CombinedDistiller(Distiller):
    """The terms of several distillers side by side, each distiller's times a factor.

    A term is named after its method, ``cwd`` where the method has one term, ``ifvd_pixel`` where it has several. A
    single distiller keeps its own names. Terms of ``own_terms`` are not multiplied: that would change how fast a
    critic learns, not how much it teaches.
    """

    def __init__(self, parts: Mapping[str, Distiller], weights: Sequence[float] = ()) -> None:
        """Joins the parts.

        Args:
            parts: by name.
            weights: one factor per part in that order; none: 1 each.

        Raises:
            ValueError: there is no part, the number of weights is another one, or a weight is not above 0.
        """
        super().__init__()
        self.weights = [float(w) for w in weights] or [1.0] * len(parts)
        if not parts or len(self.weights) != len(parts):
            raise ValueError(f"weights: expected one per distiller ({', '.join(parts)}), got {list(weights)}.")
        if any(not 0 < w < float("inf") for w in self.weights):
            raise ValueError(f"weights: expected numbers above 0, got {list(weights)}. Leave out what you do not want.")
        self.parts = nn.ModuleDict({name.lower(): part for name, part in parts.items()})
        members = [(name, part) for name, part, _ in self._members()]
        self.taps = {self._name(n, part, term): tap for n, part in members for term, tap in part.taps.items()}
        self.own_terms = frozenset(self._name(n, part, term) for n, part in members for term in part.own_terms)
        self.edge_window = next((part.edge_window for _, part in members if part.edge_window), None)

    def _members(self) -> list[tuple[str, Distiller, float]]:
        parts = self.parts.items()
        return [(name, cast(Distiller, part), w) for (name, part), w in zip(parts, self.weights, strict=True)]

    def _name(self, part_name: str, part: Distiller, term: str) -> str:
        if len(self.parts) == 1:
            return term
        return part_name if len(part.taps) == 1 else f"{part_name}_{term}"

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns the terms of all parts."""
        out = {}
        for name, part, weight in self._members():
            for key, value in part(student, teacher, target, iteration).items():
                term = key.removeprefix(PREFIX)
                out[self._name(name, part, term)] = value if term in part.own_terms else weight * value
        return out

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns the parts' own optimizers."""
        options = {name: part.parameter_options() for name, part, _ in self._members()}
        return {f"parts.{name}.{prefix}": o for name, own in options.items() for prefix, o in own.items()}


class PerTeacher(nn.Module):
    """One distiller per teacher; each term is the mean over the teachers, weighted by their shares.

    The distillers share nothing: adapters, critics and queues belong to one teacher. Terms of ``own_terms`` are summed
    and not weighted, so that each critic learns as it would with its teacher alone.

    Attributes:
        taps: of every distiller.
        own_terms: of every distiller.
    """

    def __init__(self, members: Sequence[Distiller], shares: Sequence[float]) -> None:
        """Joins distillers of one kind.

        Args:
            members: one per teacher.
            shares: positive, of sum 1.

        Raises:
            ValueError: the numbers differ, or the distillers do not deliver the same terms.
        """
        super().__init__()
        if not members or len(members) != len(shares):
            raise ValueError(f"shares: expected one per distiller ({len(members)}), got {list(shares)}.")
        self.taps, self.own_terms = members[0].taps, members[0].own_terms
        if any(member.taps != self.taps for member in members):
            raise ValueError(f"members: expected the same terms, got {[sorted(m.taps) for m in members]}.")
        self.members, self.shares = nn.ModuleList(members), [float(s) for s in shares]

    def forward(
        self, student: SegOutput, teachers: Sequence[SegOutput], target: Target, iteration: int = 0
    ) -> dict[str, Tensor]:
        """Computes the terms; the arguments are those of `Distiller.forward`, with one output per teacher."""
        out: dict[str, Tensor] = {}
        for member, share, teacher in zip(self.members, self.shares, teachers, strict=True):
            for name, term in member(student, teacher, target, iteration).items():
                own = name.removeprefix(PREFIX) in self.own_terms
                part = term if own else share * term
                out[name] = out[name] + part if name in out else part
        return out

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns the distillers' own optimizers."""
        options = [cast(Distiller, member).parameter_options() for member in self.members]
        return {f"members.{i}.{prefix}": o for i, own in enumerate(options) for prefix, o in own.items()}

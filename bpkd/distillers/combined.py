"""Several distillers as one, and one distiller per teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from bpkd.structures import DISTILLATION_PREFIX, EdgeMaps, SegOutput

from .base import DistillationModule, Distiller
from .target import Target


class CombinedDistiller(Distiller):
    """Combines the terms of several distillers, each distiller's times a factor.

    A term is named after its method, ``cwd`` where the method has one term, ``ifvd_pixel`` where it has several. A
    single distiller keeps its own names. Critic terms are not multiplied: that would change how fast a critic learns,
    not its weight in the student's loss.

    >>> import torch
    >>> from bpkd.distillers import CWD, KD
    >>> student, teacher = (SegOutput(torch.tensor([[[[a, 0.0]], [[0.0, 1.0]]]])) for a in (0.0, 2.0))
    >>> terms = CombinedDistiller({"KD": KD(), "CWD": CWD()}, [1.0, 0.5])(student, teacher, torch.zeros(1, 1, 2).long())
    >>> {name: round(float(term), 4) for name, term in terms.items()}
    {'loss_kd_kd': 0.1639, 'loss_kd_cwd': 0.4098}
    """

    def __init__(self, parts: Mapping[str, Distiller], weights: Sequence[float] = ()) -> None:
        """Joins the parts.

        Args:
            parts: distillers by name.
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
        named = list(zip(self.parts, self.distillers(), strict=True))
        self.taps = {self._name(n, part, term): tap for n, part in named for term, tap in part.taps.items()}
        self.critic_terms = frozenset(self._name(n, part, term) for n, part in named for term in part.critic_terms)
        self.averages_over_images = all(part.averages_over_images for _, part in named)
        self.edge_window = next((part.edge_window for _, part in named if part.edge_window), None)

    def distillers(self) -> Sequence[Distiller]:
        """Returns the parts in their order."""
        return [cast(Distiller, part) for part in self.parts.values()]

    def _name(self, part_name: str, part: Distiller, term: str) -> str:
        if len(self.parts) == 1:
            return term
        return part_name if len(part.taps) == 1 else f"{part_name}_{term}"

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns the terms of all parts."""
        out = {}
        for name, part, weight in zip(self.parts, self.distillers(), self.weights, strict=True):
            for term, value in part.named_terms(student, teacher, target, iteration).items():
                out[self._name(name, part, term)] = value if term in part.critic_terms else weight * value
        return out

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns the parts' own optimizers."""
        options = dict(zip(self.parts, (part.parameter_options() for part in self.distillers()), strict=True))
        return {f"parts.{name}.{prefix}": o for name, own in options.items() for prefix, o in own.items()}


class PerTeacher(DistillationModule):
    """One distiller per teacher; each term is the mean over the teachers, weighted by their shares.

    The distillers share nothing: adapters, critics and queues belong to one teacher. Critic terms are summed and not
    weighted, so that each critic learns as it would with its teacher alone.

    >>> import torch
    >>> from bpkd.distillers import KD
    >>> student, same, other = (SegOutput(torch.tensor([[[[a]], [[1.0]]]])) for a in (0.0, 0.0, 2.0))
    >>> labels = torch.zeros(1, 1, 1).long()
    >>> round(float(PerTeacher([KD(), KD()], [0.75, 0.25])(student, [same, other], labels)["loss_kd_pixel"]), 4)
    0.1155
    """

    def __init__(self, members: Sequence[Distiller], shares: Sequence[float]) -> None:
        """Joins distillers of one kind.

        Args:
            members: one distiller per teacher.
            shares: what each teacher counts: positive numbers of sum 1.

        Raises:
            ValueError: the numbers differ, or the distillers do not deliver the same terms.
        """
        super().__init__()
        if not members or len(members) != len(shares):
            raise ValueError(f"shares: expected one per distiller ({len(members)}), got {list(shares)}.")
        self.taps, self.critic_terms = members[0].taps, members[0].critic_terms
        if any(one.taps != self.taps for one in members):
            raise ValueError(f"members: expected the same terms, got {[sorted(m.taps) for m in members]}.")
        self.averages_over_images = all(one.averages_over_images for one in members)
        self.members, self.shares = nn.ModuleList(members), [float(s) for s in shares]

    def distillers(self) -> Sequence[Distiller]:
        """Returns the distillers in the teachers' order."""
        return [cast(Distiller, member) for member in self.members]

    def forward(
        self,
        student: SegOutput,
        teachers: Sequence[SegOutput],
        target: Target | Tensor | EdgeMaps,
        iteration: int = 0,
    ) -> dict[str, Tensor]:
        """Computes the terms; the arguments are those of `Distiller.forward`, with one output per teacher."""
        out: dict[str, Tensor] = {}
        for member, share, teacher in zip(self.distillers(), self.shares, teachers, strict=True):
            for name, term in member.named_terms(student, teacher, Target.of(target), iteration).items():
                part = term if name in self.critic_terms else share * term
                out[name] = out[name] + part if name in out else part
        return {f"{DISTILLATION_PREFIX}{name}": term for name, term in out.items()}

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns the distillers' own optimizers."""
        options = [member.parameter_options() for member in self.distillers()]
        return {f"members.{i}.{prefix}": o for i, own in enumerate(options) for prefix, o in own.items()}

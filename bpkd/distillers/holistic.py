"""Base class of SKDS and IFVD: a pixel term, a term on a feature map, and the adversarial terms."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bpkd.functional import pixel_kd
from bpkd.structures import SegOutput

from .base import Distiller
from .discriminator import Adversary
from .target import Target


class HolisticDistiller(Distiller):
    """pixel KD + ``feature_term`` on a feature map + an ``Adversary`` on the logits, its critic included.

    A subclass names its feature term in ``feature``, calls ``set_terms`` in its constructor and implements
    ``feature_term``.
    """

    feature = ""
    critic_terms = frozenset({"critic"})

    def set_terms(self, tap: str, *, pixel_weight: float, feature_weight: float, **adversary: Any) -> None:
        """Sets the terms and builds the critic; terms of weight 0 are left out.

        Args:
            tap: name of the feature that ``feature_term`` compares.
            pixel_weight: factor on the pixel term.
            feature_weight: factor on ``feature_term``.
            **adversary: arguments of `Adversary`.

        Raises:
            ValueError: an option of the adversary is unknown.
        """
        self.tap, self.pixel_weight, self.feature_weight = tap, pixel_weight, feature_weight
        self.adversary_options, adv_weight = adversary, adversary["adv_weight"]
        self.adversary = Adversary(self.num_classes, **adversary) if adv_weight else None
        self.averages_over_images = self.adversary is None  # the critic's batch norm and power iteration
        weights = {"pixel": pixel_weight, self.feature: feature_weight, "adv": adv_weight, "critic": adv_weight}
        self.taps = {name: tap if name == self.feature else "logits" for name, weight in weights.items() if weight}

    def feature_term(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Compares the tapped maps [N, Cs, h, w] and [N, Ct, h, w]; without weight."""
        raise NotImplementedError(f"{type(self).__name__} must implement feature_term().")

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns {"pixel", the feature term, "adv", "critic"}, without those that are switched off."""
        out = {}
        logits = self.pair(student, teacher, "logits")
        if self.pixel_weight:
            out["pixel"] = self.pixel_weight * pixel_kd(*logits)
        if self.feature_weight:
            maps = self.pair(student, teacher, self.tap)
            out[self.feature] = self.feature_weight * self.feature_term(*maps, self.labels(target))
        if self.adversary is not None:
            out.update(self.adversary(*logits))
        return out

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns the critic's optimizer."""
        return {} if self.adversary is None else {"adversary.": self.adversary.optimizer_options()}

"""Hints (FitNets, Romero et al., ICLR 2015): a 1x1 convolution maps the student's feature."""

from typing import Any

from bpkd.distillers import DISTILLERS, Distiller, Target
from bpkd.distillers.adapters import ChannelAdapter
from bpkd.structures import SegOutput
from torch import Tensor


@DISTILLERS.register()
class Hints(Distiller):
    """weight * mean of (A student - teacher)^2 over all values, A a 1x1 convolution."""

    def __init__(self, *, weight: float = 1.0, tap: str = "decode", **common: Any) -> None:
        """Builds the convolution, which is trained with the student and is no part of it.

        Args:
            weight: factor on the loss.
            tap: name of the feature that is compared, e.g. "decode" or "layer4".
            **common: see `bpkd.distillers.Distiller`.
        """
        super().__init__(**common)
        self.weight, self.tap, self.taps = weight, tap, {"hint": tap}
        self.adapter = ChannelAdapter(*self.channels(tap))

    def terms(
        self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int
    ) -> dict[str, Tensor]:
        """Returns {"hint"}."""
        s, t = self.pair(student, teacher, self.tap)  # at one size, the teacher's detached
        error = self.adapter(s).float() - t.float()
        return {"hint": self.weight * error.square().mean()}

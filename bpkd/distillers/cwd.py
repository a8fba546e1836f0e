"""Channel-wise distillation (Shu et al., ICCV 2021)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bpkd.functional import channel_kd
from bpkd.structures import SegOutput

from .adapters import ChannelAdapter
from .arguments import Positive, Weight
from .base import Distiller
from .target import Target


class CWD(Distiller):
    """weight * T^2 / (N C) * sum of the channels' spatial KL, on logits or on a feature map.

    >>> import torch
    >>> student, teacher = (SegOutput(torch.tensor([[[[a, 0.0]], [[0.0, 1.0]]]])) for a in (0.0, 2.0))  # [1, 2, 1, 2]
    >>> labels = torch.zeros(1, 1, 2).long()
    >>> {name: round(float(term), 4) for name, term in CWD()(student, teacher, labels).items()}
    {'loss_kd_channel': 0.8195}
    """

    def __init__(
        self, *, weight: Weight = 5.0, temperature: Positive = 1.0, tap: str = "logits", **common: Any
    ) -> None:
        """Sets the term.

        Args:
            weight: factor on the loss; 5 is the published weight at temperature 1 on logits.
            temperature: divisor T of both networks' maps before the softmax over the positions.
            tap: map that is compared, "logits" or a feature name; features whose channels differ are aligned by a
                trained 1x1 convolution.
            **common: see `Distiller`.

        Raises:
            ValueError: the channels of the tapped feature are unknown.
        """
        super().__init__(**common)
        self.weight, self.temperature, self.tap = weight, temperature, tap
        self.taps = {"channel": tap} if weight else {}
        self.adapter: ChannelAdapter | None = None
        if tap != "logits":
            self.adapter = ChannelAdapter(*self.channels(tap))

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns {"channel"}."""
        if not self.weight:
            return {}
        s, t = self.pair(student, teacher, self.tap)
        if self.adapter is not None:
            s = self.adapter(s)
        return {"channel": self.weight * channel_kd(s, t, self.temperature)}

"""Plain pixel-wise knowledge distillation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bpkd.functional import pixel_kd
from bpkd.structures import SegOutput

from .arguments import Positive, Weight
from .base import Distiller
from .target import Target


class KD(Distiller):
    """weight * T^2 * mean over pixels of KL(teacher || student) on the logits (Hinton et al. 2015).

    >>> import torch
    >>> student, teacher = (SegOutput(torch.tensor([[[[a]], [[1.0]]]])) for a in (0.0, 2.0))  # [1, 2, 1, 1]
    >>> labels = torch.zeros(1, 1, 1).long()
    >>> {name: round(float(term), 4) for name, term in KD(weight=2.0)(student, teacher, labels).items()}
    {'loss_kd_pixel': 0.9242}
    """

    def __init__(
        self,
        *,
        weight: Weight = 1.0,
        temperature: Positive = 1.0,
        mask_ignored: bool = False,
        **common: Any,
    ) -> None:
        """Sets the term.

        Args:
            weight: factor on the loss.
            temperature: divisor T of both networks' logits before the softmax.
            mask_ignored: leave out pixels with an ignored label, or of the padding; the published methods
                distil them too.
            **common: see `Distiller`.
        """
        super().__init__(**common)
        self.weight, self.temperature, self.mask_ignored = weight, temperature, mask_ignored
        self.averages_over_images = not mask_ignored  # else the mean over the valid pixels of the batch
        self.taps = {"pixel": "logits"} if weight else {}

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns {"pixel"}."""
        if not self.weight:
            return {}
        s, t = self.pair(student, teacher, "logits")
        valid = target.valid_positions((s.shape[2], s.shape[3]), self.ignore_index) if self.mask_ignored else None
        kd = pixel_kd(s, t, self.temperature, valid=valid, independent=student.independent)
        return {"pixel": self.weight * kd}

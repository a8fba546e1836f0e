"""Plain pixel-wise knowledge distillation."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from bpkd.functional import pixel_kd
from bpkd.structures import SegOutput

from .base import Distiller


class KD(Distiller):
    """weight * T^2 * mean over pixels of KL(teacher || student) on the logits (Hinton et al. 2015)."""

    def __init__(
        self,
        *,
        weight: float = 1.0,
        temperature: float = 1.0,
        mask_ignored: bool = False,
        **common: Any,
    ) -> None:
        """Sets the term.

        Args:
            weight: of the loss.
            temperature: T.
            mask_ignored: leave out pixels with an ignored label; the published methods distil them too.
            **common: see Distiller.
        """
        super().__init__(**common)
        self.weight, self.temperature, self.mask_ignored = weight, temperature, mask_ignored
        self.taps = {"pixel": "logits"} if weight else {}

    def terms(self, student: SegOutput, teacher: SegOutput, target: Tensor, iteration: int) -> dict[str, Tensor]:
        """Returns {"pixel"}."""
        if not self.weight:
            return {}
        s, t = self.pair(student, teacher, "logits")
        valid = None
        if self.mask_ignored:
            small = F.interpolate(target[:, None].float(), size=s.shape[-2:], mode="nearest")[:, 0]
            valid = small != self.ignore_index
        return {"pixel": self.weight * pixel_kd(s, t, self.temperature, valid=valid)}

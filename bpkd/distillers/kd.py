"""Plain pixel-wise knowledge distillation."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from bpkd.functional import pixel_kd
from bpkd.structures import EdgeMaps, SegOutput

from .base import Distiller, Target


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
            mask_ignored: leave out pixels with an ignored label, or of the padding; the published methods
                distil them too.
            **common: see Distiller.
        """
        super().__init__(**common)
        self.weight, self.temperature, self.mask_ignored = weight, temperature, mask_ignored
        self.taps = {"pixel": "logits"} if weight else {}

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns {"pixel"}."""
        if not self.weight:
            return {}
        s, t = self.pair(student, teacher, "logits")
        valid = self._valid(target, (s.shape[2], s.shape[3])) if self.mask_ignored else None
        kd = pixel_kd(s, t, self.temperature, valid=valid, independent=student.independent)
        return {"pixel": self.weight * kd}

    def _valid(self, target: Target, size: tuple[int, int]) -> Tensor | None:
        if isinstance(target, EdgeMaps):
            return None if target.valid is None else target.valid[:, 0] > 0
        small = F.interpolate(self.labels(target)[:, None].float(), size=size, mode="nearest")[:, 0]
        return small != self.ignore_index
